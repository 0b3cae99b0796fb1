//! Models, vocabularies and ways to run them.

mod models;
mod runs;
mod vocabularies;

pub use models::*;
pub use runs::*;
pub use vocabularies::*;
