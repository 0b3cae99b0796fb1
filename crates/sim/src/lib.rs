//! The PC's side of the card.
//!
//! - [`open`] opens a card wherever it lies: a folder, or an image, in both layouts.
//! - [`MemoryCard`] holds one in memory.
//! - [`Traced`], [`Timed`] and [`Faulty`] wrap a card and are one: they record what is read, tell what it would
//!   take on a given board, and spoil it.
#![forbid(unsafe_code)]

mod folder;
mod host;
mod image;
mod memory;
mod wrappers;

pub use folder::FolderCard;
pub use host::{HostCard, OpenError, Opened, open, open_memory};
pub use image::FileDevice;
pub use memory::MemoryCard;
pub use wrappers::{Fault, Faulty, Read, Timed, Timing, Traced};
