//! Virtual RAM: a tape that is longer than memory.
//!
//! A decoder reads its weights in the same order for every token: a cyclic scan. For that, LRU is the worst
//! policy (it evicts each page just before it is needed again), and the best one, Bélády's, is known in
//! advance: **pin** as many pages as fit, for good, and **stream** the others through a small ring. The hit
//! rate is pinned ÷ total, the optimum.
//!
//! - [`Card`] is what a card must do: read runs of pages of a few named files.
//! - [`Arena`] cuts the one buffer that all memory comes from.
//! - [`Pinning`] says which pages are pinned and in which runs the others are streamed, by arithmetic alone.
//! - [`Vram`] serves pages in tape order, checks each against its checksum when it is loaded, reads again
//!   what is bad, and counts everything.
//!
//! No I/O, no allocation, no table of pages: memory is lent by the caller in [`Frames`].
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arena;
mod card;
mod loader;
mod meta;
mod meta_file;
mod pinning;
mod vram;

pub use arena::{Arena, OutOfMemory};
pub use card::{Card, CardFile, IndexReader, ReadError, WriteError, read_manifest, read_tensors};
pub use loader::{Fault, Stats};
pub use meta::PageMeta;
pub use meta_file::{MetaError, read_meta};
pub use pinning::{FAVOURS, Front, Pinning, Reads};
pub use vram::{Frames, Vram};
