//! Why a card cannot be mounted.

use core::fmt;

use pageformer_card::{ManifestError, PageFile};
use pageformer_vram::{OutOfMemory, ReadError};

/// Why a card cannot be mounted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MountError {
    /// The volume is none that can be read, or its structures are damaged.
    Fat(pageformer_fat32::Error),
    /// A file that every card has is not there.
    Missing(&'static str),
    /// `index.json` is not a manifest.
    Manifest(ManifestError),
    /// A file lies in too many pieces.
    Fragmented(&'static str),
    /// A page file of the layout `files` is not there.
    MissingPage(PageFile),
    /// A page file has another size than its tensor asks for.
    PageSize {
        /// The file.
        file: PageFile,
        /// Bytes that it must have.
        expected: u32,
        /// Bytes that it has.
        found: u32,
    },
    /// The masks of a matrix do not fit its pages.
    Masks(PageFile),
    /// A sector could not be read.
    Read(ReadError),
    /// The tables do not fit the memory.
    Memory(OutOfMemory),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fat(e) => write!(f, "{e}"),
            Self::Missing(file) => write!(
                f,
                "no `{file}` in the card's root directory; copy the files of an exported card there, not the folder they \
                 are in"
            ),
            Self::Manifest(e) => write!(f, "{e}"),
            Self::Fragmented(file) => write!(
                f,
                "`{file}` lies in too many pieces on the card; format the card and copy the files once more, or write an \
                 image"
            ),
            Self::MissingPage(file) => write!(f, "no `{file}` on the card; copy all files of the card again"),
            Self::PageSize { file, expected, found } => {
                write!(
                    f,
                    "`{file}` has {found} bytes instead of {expected}; copy all files of the card again"
                )
            }
            Self::Masks(file) => write!(
                f,
                "`{file}` asks for other pages than index.json says; the files are of different exports: export the card again"
            ),
            Self::Read(e) => write!(f, "{e}"),
            Self::Memory(e) => {
                write!(f, "the table of pages needs {} bytes of memory, {} are left", e.needed, e.left)
            }
        }
    }
}

impl core::error::Error for MountError {}

impl From<pageformer_fat32::Error> for MountError {
    fn from(e: pageformer_fat32::Error) -> Self {
        Self::Fat(e)
    }
}

impl From<ManifestError> for MountError {
    fn from(e: ManifestError) -> Self {
        Self::Manifest(e)
    }
}

impl From<OutOfMemory> for MountError {
    fn from(e: OutOfMemory) -> Self {
        Self::Memory(e)
    }
}

impl From<ReadError> for MountError {
    fn from(e: ReadError) -> Self {
        Self::Read(e)
    }
}
