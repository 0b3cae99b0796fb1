//! The card format: what is on the SD card, byte by byte. No I/O, no allocation.
//!
//! A card holds a **tape**: 512-byte pages in the order in which a decoder consumes its weights, so that one
//! decoding step is one pass over it. This crate knows how
//!
//! - bytes make [pages and cells](page), cells make [tiles and groups](matrix), and those make a weight matrix;
//! - [tensors](tensor) are named and ordered;
//! - [`index.json`](manifest) describes all of it and the [shape of the model](shape);
//! - [`tokenizer.bin`](tokenizer) keeps a vocabulary that is looked up page by page;
//! - [`drafts.bin`](drafts) guesses what comes next;
//! - the [checksums](sums) are laid out;
//! - a device keeps what it [knows of the pages](meta).
//!
//! With the feature `std` it also [writes](writer) all of them.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(feature = "std")]
extern crate std;

pub mod bf16;
#[cfg(any(test, target_os = "none"))]
mod crc32;
pub mod decimal;
pub mod drafts;
pub mod manifest;
pub mod matrix;
pub mod meta;
pub mod page;
pub mod shape;
pub mod sums;
pub mod tensor;
pub mod tokenizer;
#[cfg(feature = "std")]
pub mod writer;

pub use manifest::{Chat, Layout, Manifest, ManifestError, TensorTable, Text};
pub use matrix::{MatrixDims, TileRecord};
pub use page::{CELL_BYTES, CELLS_PER_PAGE, PAGE_BYTES, Page};
pub use shape::{Mlp, Norm, Shape, ShapeError};
pub use tensor::{PageFile, Role, Tensor, TensorKind};

/// Re-exported so that users of [`Manifest::parse`] can implement it.
pub use picojson::Reader;
