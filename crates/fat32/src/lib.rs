//! Read-only FAT16 and FAT32 for a device that wants to know *where* a file is, not to read it through a file
//! system.
//!
//! A card is fast only when it reads many sectors in a row, so whoever reads weights from it must talk to the card
//! directly. This crate answers the one question that has to be asked before: which sectors hold this file? It
//! finds the FAT partition ([`Volume::open`]), lists the files of the root directory ([`DirCursor`]), and turns
//! each file's cluster chain into a short list of sector runs ([`ExtentCursor`]). After that no file system
//! is needed.
//!
//! ```
//! use pageformer_fat32::{BlockDevice, Error, SectorCache, Volume};
//!
//! /// Prints where every file is.
//! fn list<D: BlockDevice>(card: &mut D) -> Result<(), Error> {
//!     let mut buf = [0; 1024];
//!     let mut cache = SectorCache::new(&mut buf)?;
//!     let volume = Volume::open(card, &mut cache)?;
//!     let mut files = volume.root();
//!     while let Some(entry) = files.next(card, &mut cache)? {
//!         println!("{} ({} bytes)", entry.name, entry.file.size);
//!         let mut extents = volume.extents(entry.file);
//!         while let Some(extent) = extents.next(card, &mut cache)? {
//!             println!("  {} sectors from {}", extent.sectors, extent.first_sector);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # RAM and reads
//!
//! Nothing is allocated, and nothing borrows the device between two calls: cursors are plain data, and every call takes
//! the device and a [`SectorCache`], the only buffer there is. 512 bytes are enough; what more of them saves in
//! one pass over a directory of 1,000 files of one sector with names of 23 characters (3,000 directory
//! entries, 512-byte clusters), extents of every file included:
//!
//! | cache | reads | sectors read |
//! |---|---|---|
//! | 512 B | 2,130 | 2,130 |
//! | 1 KiB | 204 | 204 |
//! | 4 KiB | 58 | 232 |
//! | 16 KiB | 16 | 256 |
//!
//! (A test counts them.) So lend it the memory that will be page frames later: directories are read once, before
//! anything else runs.
//!
//! A file's chain costs one read per FAT sector that it passes: a contiguous file takes one per 128 clusters on
//! FAT32 and one per 256 on FAT16 (64 KiB to 16 MiB of file, by cluster size), fewer with a longer cache, half of
//! which reads ahead in the FAT.
//!
//! # What is trusted
//!
//! Nothing on the card. Every number is checked before it is used, a chain that runs in circles ends
//! in an error, reads never leave the volume, and no content makes this crate panic. Errors say
//! what is wrong, where, and what to do about it. What cannot be seen without a bitmap of all
//! clusters is two files that share clusters while both have the right length: checksums of the contents
//! must catch that.
//!
//! # What is left out
//!
//! Writing, subdirectories, FAT12, exFAT, GPT, sectors other than 512 bytes, and the second FAT.
//! Names of more than 255 bytes of UTF-8 are shown by their short name.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod bytes;
mod chain;
mod device;
mod dir;
mod error;
mod mbr;
mod name;
mod volume;

pub use chain::{Extent, ExtentCursor};
pub use device::{BlockDevice, DeviceError, SectorCache, SliceDevice};
pub use dir::{DirCursor, File, FileEntry};
pub use error::{BpbField, ChainFault, Error, OtherFileSystem};
pub use name::MAX_NAME_BYTES;
pub use volume::{FatKind, Volume};

/// Bytes of a sector, the unit of everything on a card.
pub const SECTOR_BYTES: usize = 512;
