//! Why an image could not be written.

use std::io;
use std::path::PathBuf;

/// What went wrong, with which file, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that should go into the image cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image's name is taken by a folder or a device.
    #[error("{path} is a folder or a device; write the image to a file, then copy the file to the card")]
    NotAFile {
        /// The name.
        path: PathBuf,
    },
    /// A file's name cannot be on a FAT volume.
    #[error("`{name}` cannot be the name of a file on a card: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Two names are the same but for upper and lower case, which FAT does not tell apart.
    #[error(
        "two files would be called `{name}` on the card, where upper and lower case are the same; rename one"
    )]
    Duplicate {
        /// The second one.
        name: String,
    },
    /// The directory cannot have that many entries.
    #[error(
        "{files} files need {entries} directory entries (3 each with names of 14 to 26 characters), a FAT directory holds {most}; use the packed \
         layout"
    )]
    TooManyFiles {
        /// Number of files.
        files: usize,
        /// Directory entries that they need.
        entries: usize,
        /// How many there can be.
        most: usize,
    },
    /// A file does not fit into FAT's 32-bit sizes.
    #[error("`{name}` has {bytes} bytes; a file on a FAT volume has less than 4 GiB")]
    FileTooLarge {
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// A file is not as long as it was when the image was begun.
    #[error("{path} changed while it was read: it had {expected} bytes; try again")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its size at first.
        expected: u32,
    },
    /// No volume of this kind with clusters of this size can hold the files.
    #[error(
        "no {kind:?} volume with {clusters} can hold {bytes} bytes of files; leave the cluster size and the kind of FAT to their defaults"
    )]
    NoFit {
        /// The kind asked for.
        kind: crate::FatKind,
        /// The cluster size asked for, in words.
        clusters: String,
        /// What should fit.
        bytes: u64,
    },
    /// The cluster size is none.
    #[error("a cluster cannot have {bytes} bytes; choose a power of two from 512 to 32768")]
    ClusterSize {
        /// The size asked for.
        bytes: u32,
    },
    /// The volume label is none.
    #[error("`{label}` cannot be a volume label; use up to 11 of A-Z, 0-9, _, - and space")]
    Label {
        /// The label asked for.
        label: String,
    },
    /// The partition table could not be made.
    #[error("cannot make the partition table: {0}")]
    PartitionTable(#[from] mbrman::Error),
    /// The empty volume could not be made.
    #[error("cannot format the volume: {0}")]
    Format(#[source] io::Error),
    /// The empty volume is not the one that was planned: the formatting crate reckons differently.
    #[error("the formatted volume has {found} clusters instead of {planned}; please report this as a bug")]
    Geometry {
        /// Clusters that should be there.
        planned: u32,
        /// Clusters that are there.
        found: u32,
    },
    /// What was written does not read back.
    #[error("the image does not read back: {0}; is the disk all right?")]
    Verify(#[from] pageformer_fat32::Error),
    /// A file reads back with another name, size or place.
    #[error("the image does not read back: `{name}` is not where it was written; is the disk all right?")]
    Misplaced {
        /// The file.
        name: String,
    },
}
