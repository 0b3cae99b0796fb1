//! The volume: where the FAT, the root directory and the clusters are.

use crate::bytes::{has, u8_at, u16_at, u32_at};
use crate::mbr::{Partition, find_partition, other_file_system};
use crate::{
    BlockDevice, BpbField, DirCursor, Error, ExtentCursor, File, OtherFileSystem, SECTOR_BYTES, SectorCache,
};

/// The number of the first cluster; the FAT's first two entries stand for none.
pub(crate) const FIRST_CLUSTER: u32 = 2;

/// Width of a FAT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatKind {
    /// 16 bits; the root directory has a place and size of its own.
    Fat16,
    /// 28 bits in 32; the root directory is a cluster chain like any other.
    Fat32,
}

/// Where the root directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// FAT16: a fixed number of entries.
    Fixed { first_sector: u32, entries: u32 },
    /// FAT32: a chain.
    Chain { first_cluster: u32 },
}

/// A FAT16 or FAT32 volume whose every number has been checked. Plain data: it holds neither device nor buffer.
///
/// All sectors are counted from the start of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    kind: FatKind,
    first_sector: u32,
    end: u32,
    cluster_sectors: u32,
    fat_first_sector: u32,
    fat_sectors: u32,
    fats: u32,
    data_first_sector: u32,
    clusters: u32,
    root: Root,
}

impl Volume {
    /// Finds the first FAT partition of an MBR partition table, or a volume without one that starts in sector 0, and
    /// checks its BIOS parameter block. Two reads.
    ///
    /// # Errors
    /// Any but those about chains and files.
    pub fn open<D: BlockDevice + ?Sized>(device: &mut D, cache: &mut SectorCache<'_>) -> Result<Self, Error> {
        let partition = find_partition(device, cache)?;
        let sector = cache.sector(device, partition.first_sector, partition.end)?;
        Self::parse(sector, partition)
    }

    /// A volume from its first sector.
    fn parse(bpb: &[u8], partition: Partition) -> Result<Self, Error> {
        let first_sector = partition.first_sector;
        let fail = |field| Err(Error::Bpb { sector: first_sector, field });
        let other = |found| Err(Error::OtherFileSystem { sector: first_sector, found });

        if let Some(found) = other_file_system(bpb) {
            return other(found);
        }
        if !has(bpb, 510, &[0x55, 0xAA]) {
            return fail(BpbField::Signature);
        }
        match u16_at(bpb, 11) {
            512 => {}
            bytes @ (1024 | 2048 | 4096) => return Err(Error::SectorSize { sector: first_sector, bytes }),
            _ => return fail(BpbField::BytesPerSector),
        }
        let cluster_sectors = u32::from(u8_at(bpb, 13));
        if !cluster_sectors.is_power_of_two() {
            return fail(BpbField::SectorsPerCluster);
        }
        let reserved = u32::from(u16_at(bpb, 14));
        if reserved == 0 {
            return fail(BpbField::ReservedSectors);
        }
        let fats = u32::from(u8_at(bpb, 16));
        if fats == 0 {
            return fail(BpbField::Fats);
        }
        let sectors = match u16_at(bpb, 19) {
            0 => u32_at(bpb, 32),
            short => u32::from(short),
        };
        let end = first_sector.checked_add(sectors).filter(|end| *end <= partition.end);
        let Some(end) = end else {
            return Err(Error::BeyondEnd { first_sector, sectors, end: partition.end });
        };

        // Only FAT32 leaves the 16-bit size of the FAT empty. (By the number of clusters alone, as the specification
        // would have it, small FAT32 volumes would be taken for FAT16: mkfs.fat makes such, and Linux reads them.)
        let (is_fat32, fat_sectors) = match u16_at(bpb, 22) {
            0 => (true, u32_at(bpb, 36)),
            short => (false, u32::from(short)),
        };
        let root_entries = u32::from(u16_at(bpb, 17));
        if is_fat32 != (root_entries == 0) {
            return fail(BpbField::RootEntries);
        }
        let root_sectors = root_entries.div_ceil(16);

        // Sectors before the clusters, from the volume's start: at most 65,535 + 255 · (2^32 − 1) + 4,096.
        let before_data = u64::from(reserved)
            .saturating_add(u64::from(fats).saturating_mul(u64::from(fat_sectors)))
            .saturating_add(u64::from(root_sectors));
        let Some(before_data) = u32::try_from(before_data).ok().filter(|before| *before < sectors) else {
            return fail(BpbField::TotalSectors);
        };
        let clusters = sectors.saturating_sub(before_data) / cluster_sectors;
        let (kind, entry_bytes, most_clusters) =
            if is_fat32 { (FatKind::Fat32, 4, 0x0FFF_FFF5) } else { (FatKind::Fat16, 2, 65_524) };
        if kind == FatKind::Fat16 && clusters < 4085 {
            return other(OtherFileSystem::Fat12);
        }
        if clusters == 0 || clusters > most_clusters {
            return fail(BpbField::TotalSectors);
        }
        let entries = u64::from(clusters).saturating_add(u64::from(FIRST_CLUSTER));
        let fat_bytes = u64::from(fat_sectors).saturating_mul(SECTOR_BYTES as u64);
        if entries.saturating_mul(entry_bytes) > fat_bytes {
            return fail(BpbField::FatSize);
        }

        // Nothing from here on overflows: all of it lies before `end`.
        let data_first_sector = first_sector.saturating_add(before_data);
        let root = match kind {
            FatKind::Fat16 => Root::Fixed {
                first_sector: data_first_sector.saturating_sub(root_sectors),
                entries: root_entries,
            },
            FatKind::Fat32 => {
                // Bit 7: the FATs are no mirrors of each other, and bits 0 to 3 name the one that is in use.
                let flags = u16_at(bpb, 40);
                if flags & 0x80 != 0 && flags & 0x0F != 0 {
                    return fail(BpbField::ExtendedFlags);
                }
                if u16_at(bpb, 42) != 0 {
                    return fail(BpbField::Version);
                }
                Root::Chain { first_cluster: u32_at(bpb, 44) }
            }
        };
        let volume = Self {
            kind,
            first_sector,
            end,
            cluster_sectors,
            fat_first_sector: first_sector.saturating_add(reserved),
            fat_sectors,
            fats,
            data_first_sector,
            clusters,
            root,
        };
        match root {
            Root::Chain { first_cluster } if !volume.has_cluster(first_cluster) => {
                fail(BpbField::RootCluster)
            }
            _ => Ok(volume),
        }
    }

    /// FAT16 or FAT32.
    pub fn kind(&self) -> FatKind {
        self.kind
    }

    /// The volume's first sector.
    pub fn first_sector(&self) -> u32 {
        self.first_sector
    }

    /// The first sector behind the volume.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Sectors of a cluster: a power of two, up to 128.
    pub fn cluster_sectors(&self) -> u32 {
        self.cluster_sectors
    }

    /// Number of clusters; they are numbered from 2.
    pub fn clusters(&self) -> u32 {
        self.clusters
    }

    /// First sector of the first FAT, the only one that is read.
    pub fn fat_first_sector(&self) -> u32 {
        self.fat_first_sector
    }

    /// Sectors of one FAT.
    pub fn fat_sectors(&self) -> u32 {
        self.fat_sectors
    }

    /// Number of FATs, one behind the other.
    pub fn fats(&self) -> u32 {
        self.fats
    }

    /// First sector of the root directory.
    pub fn root_first_sector(&self) -> u32 {
        match self.root {
            Root::Fixed { first_sector, .. } => first_sector,
            Root::Chain { first_cluster } => self.cluster_first_sector(first_cluster),
        }
    }

    /// First sector of cluster 2.
    pub fn data_first_sector(&self) -> u32 {
        self.data_first_sector
    }

    /// First sector of a cluster. A number below 2 is taken for 2, one above the last for the last.
    pub fn cluster_first_sector(&self, cluster: u32) -> u32 {
        let index = cluster.saturating_sub(FIRST_CLUSTER).min(self.clusters.saturating_sub(1));
        self.data_first_sector.saturating_add(index.saturating_mul(self.cluster_sectors))
    }

    /// Whether there is a cluster of this number.
    pub(crate) fn has_cluster(&self, cluster: u32) -> bool {
        cluster.checked_sub(FIRST_CLUSTER).is_some_and(|index| index < self.clusters)
    }

    /// The root directory's files, from the first.
    pub fn root(&self) -> DirCursor {
        DirCursor::new(*self, self.root)
    }

    /// The sectors of a file of this volume.
    pub fn extents(&self, file: File) -> ExtentCursor {
        ExtentCursor::new(*self, file)
    }

    /// The root directory's file of this name, whatever the case of its letters; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Device`], and [`Error::Chain`] if the directory's own chain is broken.
    pub fn find<D: BlockDevice + ?Sized>(
        &self,
        device: &mut D,
        cache: &mut SectorCache<'_>,
        name: &str,
    ) -> Result<Option<File>, Error> {
        let mut files = self.root();
        while let Some(entry) = files.next(device, cache)? {
            if entry.is(name) {
                return Ok(Some(entry.file));
            }
        }
        Ok(None)
    }
}
