//! What the fuzz targets share: something sound, and changes to it.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | `manifest` | an `index.json` | it is refused, or written and read again it is the same |
//! | `fat` | changes to one of four volumes | extents lie in the volume and are as long as the file |
//! | `tokenizer` | a `tokenizer.bin`, or changes to a sound one, and a text | tokens are in the vocabulary |
//! | `card` | changes to any file of a card | with old checksums an error or the same text; with new ones no panic |
//!
//! Inputs are not whole cards or volumes but *changes* to sound ones that are made when a target starts. So seeds are a
//! few bytes each, and most inputs get past the first check.

mod card;
mod patch;
mod volume;

pub use card::{card, reseal, run};
pub use patch::{Patch, apply, read, write};
pub use volume::{Patched, volumes};
