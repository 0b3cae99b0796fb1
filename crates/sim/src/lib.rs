//! The PC's side of the card.
//!
//! - [`open`] opens a card wherever it lies: a folder, or an image, in both layouts.
//! - [`MemoryCard`] holds one in memory.
//! - [`Traced`] and [`Faulty`] wrap a card and are one: they record what is read, and spoil it.
//! - [`read_ahead`] lets a card be read by a thread while something else is computed.
//! - [`Threads`] help the engine with large matrices.
//! - [`Timed`] says what reading would take on a board, and [`Virtual`] what computing would, by a virtual [`Clock`]. [`predict`] puts
//!   them together for one of the [`boards`].
#![forbid(unsafe_code)]

mod ahead;
pub mod boards;
mod clock;
mod folder;
mod host;
mod image;
mod memory;
mod predict;
mod processor;
mod threads;
mod wrappers;

pub use ahead::{Ahead, Reader, read_ahead};
pub use clock::{Clock, Timed, Timing};
pub use folder::FolderCard;
pub use host::{HostCard, OpenError, Opened, open, open_memory};
pub use image::FileDevice;
pub use memory::MemoryCard;
pub use predict::{PassWork, Phase, Prediction, REPLY, Setup, TYPICAL, predict, work_of_pass};
pub use processor::{Processor, Virtual, Work};
pub use threads::Threads;
pub use wrappers::{Fault, Faulty, Read, Traced};
