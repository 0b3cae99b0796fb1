//! Everything that can be wrong with a card's file system.

use crate::{DeviceError, SECTOR_BYTES};
use core::fmt;

/// What is wrong, and where. Sectors are counted from the start of the device, clusters as the FAT counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device could not read a sector.
    Device {
        /// The sector.
        sector: u32,
        /// Why.
        error: DeviceError,
    },
    /// The buffer handed over does not hold a sector.
    BufferTooSmall {
        /// Its length.
        bytes: usize,
    },
    /// Sector 0 holds neither a partition table nor a FAT volume: a blank card, or one of another kind.
    NoPartitionTable,
    /// The partition table has no FAT partition.
    NoFatPartition {
        /// The type byte of the first partition that there is, 0 if there is none.
        first_type: u8,
    },
    /// The card has a GUID partition table.
    Gpt,
    /// The volume is of a kind that cannot be read.
    OtherFileSystem {
        /// Its first sector.
        sector: u32,
        /// What it is.
        found: OtherFileSystem,
    },
    /// The volume counts in sectors of another size than 512 bytes.
    SectorSize {
        /// The volume's first sector.
        sector: u32,
        /// Bytes of its sectors.
        bytes: u16,
    },
    /// A field of the volume's first sector (its BIOS parameter block) cannot be.
    Bpb {
        /// That sector.
        sector: u32,
        /// The field.
        field: BpbField,
    },
    /// The partition or its volume ends behind the end of what holds it: the image was cut off, or the card is a smaller
    /// one than it says.
    BeyondEnd {
        /// First sector of the partition or volume.
        first_sector: u32,
        /// Number of sectors that it claims.
        sectors: u32,
        /// First sector that it must not reach: the end of the device, or of the partition.
        end: u32,
    },
    /// A cluster chain is broken.
    Chain {
        /// The chain's first cluster: the file's as in its directory entry, or the root directory's.
        first_cluster: u32,
        /// The cluster at which it breaks.
        cluster: u32,
        /// How.
        fault: ChainFault,
    },
    /// A file claims more clusters than the volume has.
    FileTooLarge {
        /// The file's first cluster.
        first_cluster: u32,
        /// The size in its directory entry, in bytes.
        size: u32,
    },
}

/// A file system that is not FAT16 or FAT32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherFileSystem {
    /// FAT12: fewer than 4,085 clusters.
    Fat12,
    /// exFAT, the factory format of cards above 32 GB.
    ExFat,
    /// NTFS.
    Ntfs,
}

/// A field of the BIOS parameter block, by the name that Microsoft's FAT specification gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BpbField {
    /// `Signature_word`: 55 AA at byte 510.
    Signature,
    /// `BPB_BytsPerSec`: 512 (or 1,024, 2,048, 4,096, which are not supported).
    BytesPerSector,
    /// `BPB_SecPerClus`: a power of two.
    SectorsPerCluster,
    /// `BPB_RsvdSecCnt`: at least 1.
    ReservedSectors,
    /// `BPB_NumFATs`: at least 1.
    Fats,
    /// `BPB_RootEntCnt`: 0 on FAT32, not 0 on FAT16.
    RootEntries,
    /// `BPB_TotSec16` or `BPB_TotSec32`: room for the FATs, and for no more clusters than the kind of FAT can count.
    TotalSectors,
    /// `BPB_FATSz16` or `BPB_FATSz32`: an entry for each cluster.
    FatSize,
    /// `BPB_ExtFlags`: the first FAT must be an active one.
    ExtendedFlags,
    /// `BPB_FSVer`: 0.
    Version,
    /// `BPB_RootClus`: a cluster of the volume.
    RootCluster,
}

/// How a cluster chain can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainFault {
    /// This cluster is part of a circle.
    Cyclic,
    /// It goes on where the file's size, or the largest directory, ends.
    TooLong,
    /// It ends here, before the file's size is reached.
    TooShort,
    /// This cluster is marked as free.
    Free,
    /// This cluster's entry, or the number itself, is one that is reserved.
    Reserved,
    /// This cluster is marked as bad.
    Bad,
    /// There is no cluster of this number.
    OutOfRange,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cyclic => "it runs in a circle",
            Self::TooLong => "it should have ended before",
            Self::TooShort => "it ends too early",
            Self::Free => "that cluster is marked as free",
            Self::Reserved => "that cluster is reserved",
            Self::Bad => "that cluster is marked as bad",
            Self::OutOfRange => "there is no such cluster",
        })
    }
}

impl BpbField {
    /// The name in the specification, and what the field must be.
    fn rule(self) -> (&'static str, &'static str) {
        match self {
            Self::Signature => ("Signature_word", "55 AA"),
            Self::BytesPerSector => ("BPB_BytsPerSec", "512"),
            Self::SectorsPerCluster => ("BPB_SecPerClus", "a power of two"),
            Self::ReservedSectors => ("BPB_RsvdSecCnt", "at least 1"),
            Self::Fats => ("BPB_NumFATs", "at least 1"),
            Self::RootEntries => ("BPB_RootEntCnt", "0 on FAT32 and more than 0 on FAT16"),
            Self::TotalSectors => {
                ("BPB_TotSec", "more than the FATs need, and not more than their entries can count")
            }
            Self::FatSize => ("BPB_FATSz", "large enough for an entry per cluster"),
            Self::ExtendedFlags => ("BPB_ExtFlags", "such that the first FAT is in use"),
            Self::Version => ("BPB_FSVer", "0"),
            Self::RootCluster => ("BPB_RootClus", "a cluster of the volume"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &str = "format the card as FAT32 (MBR partition table), then copy the files again";
        const REPAIR: &str = "check the card with fsck or chkdsk, or copy the files again";
        match *self {
            Self::Device { sector, error } => write!(f, "cannot read sector {sector}: {error}"),
            Self::BufferTooSmall { bytes } => {
                write!(f, "a buffer of {bytes} bytes holds no sector; hand over {SECTOR_BYTES} bytes or more")
            }
            Self::NoPartitionTable => write!(f, "no partition table and no FAT volume in sector 0; {FORMAT}"),
            Self::NoFatPartition { first_type: 0 } => write!(f, "the partition table is empty; {FORMAT}"),
            Self::NoFatPartition { first_type } => {
                write!(
                    f,
                    "no FAT partition in the partition table (the first one is of type {first_type:#04x}); {FORMAT}"
                )
            }
            Self::Gpt => {
                write!(f, "the card has a GUID partition table (GPT), which is not supported; {FORMAT}")
            }
            Self::OtherFileSystem { sector, found } => {
                let name = match found {
                    OtherFileSystem::Fat12 => "FAT12",
                    OtherFileSystem::ExFat => "exFAT",
                    OtherFileSystem::Ntfs => "NTFS",
                };
                write!(f, "the volume at sector {sector} is {name}, not FAT16 or FAT32; {FORMAT}")
            }
            Self::SectorSize { sector, bytes } => {
                write!(
                    f,
                    "the volume at sector {sector} has sectors of {bytes} bytes, not {SECTOR_BYTES}; {FORMAT}"
                )
            }
            Self::Bpb { sector, field } => {
                let (name, rule) = field.rule();
                write!(f, "the volume at sector {sector} is damaged: {name} must be {rule}; {FORMAT}")
            }
            Self::BeyondEnd { first_sector, sectors, end } => write!(
                f,
                "the partition or volume at sector {first_sector} has {sectors} sectors, but there is room only up to \
                 sector {end}: the image was cut off or the card is smaller than it says; write the image again, or {FORMAT}"
            ),
            Self::Chain { first_cluster, cluster, fault } => write!(
                f,
                "the cluster chain that starts at cluster {first_cluster} is broken at cluster {cluster}: {fault}; {REPAIR}"
            ),
            Self::FileTooLarge { first_cluster, size } => write!(
                f,
                "the file that starts at cluster {first_cluster} claims {size} bytes, more than the volume has; {REPAIR}"
            ),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Device { error, .. } => Some(error),
            _ => None,
        }
    }
}
