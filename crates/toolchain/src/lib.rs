//! From a model folder to a card.
//!
//! ```text
//! Model (f32) ── prune ──► zeros in 4×4 blocks ── quantize ──► int8 tiles ── export ──► pages, files
//! ```
#![forbid(unsafe_code)]

mod drafts;
mod export;
mod prune;
mod quantize;
mod random;

pub use drafts::{Document, Drafts, drafts};
pub use export::{CardFiles, ExportError, NamedFile, export, write_card};
pub use prune::{Density, PruneError, prune_by_magnitude, prune_matrices_by_magnitude};
pub use quantize::quantize;
pub use random::{fill_randomly, numbered};
