//! A card on a block device.
//!
//! [`mount`] finds the card's files on a FAT volume, in both layouts, and gives a [`FatCard`], which reads
//! runs of their pages straight from the device's sectors. The file system is walked once, at mount:
//!
//! - `packed`: each file's cluster chain becomes a short list of extents, kept in the card itself;
//! - `files`: one pass over the directory puts the sector of every page into a table, 4 bytes a page, in memory
//!   from the caller's arena; neighbouring sectors are read as one run.
//!
//! `no_std`, no allocation. The PC mounts images with the same code as a board its card.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
mod fat_card;
mod files;

pub use error::MountError;
pub use fat_card::{FatCard, Mounted, mount};
