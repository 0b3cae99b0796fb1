//! Models, vocabularies and ways to run them.

mod damage;
mod models;
mod runs;
mod vocabularies;

pub use damage::*;
pub use models::*;
pub use runs::*;
pub use vocabularies::*;
