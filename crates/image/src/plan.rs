//! How large the image and its clusters are, and which clusters each file gets.

use crate::directory::{Directory, ENTRY_BYTES};
use crate::{Error, FatKind, Options, PARTITION_SECTOR};
use pageformer_fat32::{SECTOR_BYTES, Volume};

/// Largest cluster that every system reads.
const MAX_CLUSTER_BYTES: u32 = 32 * 1024;
/// From so many files of one sector on, they are taken for pages that are read in runs.
const MANY_PAGES: usize = 64;
/// Entries of the largest FAT32 directory.
const MAX_ENTRIES: usize = 65_536;
/// Entries of the largest FAT16 root directory in whole sectors.
const MAX_FIXED_ENTRIES: usize = 65_520;

/// The layout of an image.
pub(crate) struct Plan {
    pub(crate) kind: FatKind,
    /// Sectors of the image, a power of two.
    pub(crate) sectors: u32,
    pub(crate) cluster_sectors: u32,
    /// Entries of FAT16's root directory.
    pub(crate) fixed_entries: u16,
    /// Clusters of the volume.
    pub(crate) clusters: u32,
    /// Clusters of FAT32's root directory, which has the first.
    pub(crate) directory_clusters: u32,
    /// First cluster of each file, 0 in empty ones.
    pub(crate) first_clusters: Vec<u32>,
    /// The cluster behind the last one that is used.
    pub(crate) next_free: u32,
}

impl Plan {
    pub(crate) fn new(sizes: &[u32], directory: &Directory, options: &Options) -> Result<Self, Error> {
        let (entries, files) = (directory.entries(), directory.files());
        let most = if options.kind == FatKind::Fat32 { MAX_ENTRIES } else { MAX_FIXED_ENTRIES };
        if entries > most {
            return Err(Error::TooManyFiles { files, entries, most });
        }
        let fixed_entries = match options.kind {
            FatKind::Fat32 => 0,
            FatKind::Fat16 => entries.next_multiple_of(16).max(512) as u16,
        };
        let choices: Vec<u32> = match options.cluster_bytes {
            Some(bytes) if bytes.is_power_of_two() && (512..=MAX_CLUSTER_BYTES).contains(&bytes) => {
                vec![bytes]
            }
            Some(bytes) => return Err(Error::ClusterSize { bytes }),
            None if sizes.iter().filter(|size| **size <= SECTOR_BYTES as u32).count() >= MANY_PAGES => {
                vec![512]
            }
            None => (9..=15).map(|shift| 1 << shift).collect(),
        };

        let fits = choices.iter().filter_map(|cluster_bytes| {
            let cluster_sectors = cluster_bytes / SECTOR_BYTES as u32;
            let needed = |size: u64| size.div_ceil(u64::from(*cluster_bytes));
            let directory_clusters = match options.kind {
                FatKind::Fat32 => needed((entries * ENTRY_BYTES) as u64) as u32,
                FatKind::Fat16 => 0,
            };
            let used = u64::from(directory_clusters)
                + sizes.iter().map(|size| needed(u64::from(*size))).sum::<u64>();
            let (sectors, clusters) = smallest(options.kind, cluster_sectors, fixed_entries, used)?;
            Some((sectors, cluster_sectors, clusters, directory_clusters))
        });
        // The smallest image, and the largest clusters in it.
        let best =
            fits.min_by_key(|(sectors, cluster_sectors, ..)| (*sectors, std::cmp::Reverse(*cluster_sectors)));
        let Some((sectors, cluster_sectors, clusters, directory_clusters)) = best else {
            return Err(Error::NoFit {
                kind: options.kind,
                clusters: match choices.as_slice() {
                    [bytes] => format!("clusters of {bytes} bytes"),
                    _ => "clusters of 512 to 32768 bytes".into(),
                },
                bytes: sizes.iter().map(|size| u64::from(*size)).sum(),
            });
        };

        let cluster_bytes = cluster_sectors * SECTOR_BYTES as u32;
        let mut next_free = 2 + directory_clusters;
        let first_clusters = sizes
            .iter()
            .map(|size| {
                let first = if *size == 0 { 0 } else { next_free };
                next_free += size.div_ceil(cluster_bytes);
                first
            })
            .collect();
        let kind = options.kind;
        Ok(Self {
            kind,
            sectors,
            cluster_sectors,
            fixed_entries,
            clusters,
            directory_clusters,
            first_clusters,
            next_free,
        })
    }

    pub(crate) fn image_bytes(&self) -> u64 {
        u64::from(self.sectors) * SECTOR_BYTES as u64
    }

    pub(crate) fn cluster_bytes(&self) -> u32 {
        self.cluster_sectors * SECTOR_BYTES as u32
    }

    /// Sectors of the volume.
    pub(crate) fn volume_sectors(&self) -> u32 {
        self.sectors - PARTITION_SECTOR
    }

    /// Makes sure that the volume is the one planned, and returns the number of clusters in use.
    pub(crate) fn check(&self, volume: &Volume) -> Result<u32, Error> {
        let is_as_planned = volume.clusters() == self.clusters
            && volume.kind() == self.kind
            && volume.cluster_sectors() == self.cluster_sectors
            && volume.first_sector() == PARTITION_SECTOR
            && volume.root_first_sector()
                == match self.kind {
                    FatKind::Fat32 => volume.data_first_sector(),
                    FatKind::Fat16 => volume.data_first_sector() - u32::from(self.fixed_entries) / 16,
                };
        if is_as_planned {
            Ok(self.next_free - 2)
        } else {
            Err(Error::Geometry { planned: self.clusters, found: volume.clusters() })
        }
    }
}

/// The smallest image of this kind with room for `used` clusters: its sectors, and the clusters it has.
fn smallest(kind: FatKind, cluster_sectors: u32, fixed_entries: u16, used: u64) -> Option<(u32, u32)> {
    // From 2 MiB to 1 TiB, the largest power of two that a partition table can count.
    (12..=31).map(|shift| 1 << shift).find_map(|sectors| {
        let clusters = clusters(kind, sectors - PARTITION_SECTOR, cluster_sectors, fixed_entries)?;
        (u64::from(clusters) >= used).then_some((sectors, clusters))
    })
}

/// Clusters of a volume as `fatfs` formats it, with 8 (FAT16: 1) reserved sectors and two FATs, each large enough for all
/// sectors that are not reserved; `None` if that number of clusters makes another kind of FAT.
fn clusters(kind: FatKind, sectors: u32, cluster_sectors: u32, fixed_entries: u16) -> Option<u32> {
    let (reserved, entry_bytes, range) = match kind {
        FatKind::Fat32 => (8, 4, 65_525..0x0FFF_FFF5),
        FatKind::Fat16 => (1, 2, 4_085..65_525),
    };
    let rest = u64::from(sectors.checked_sub(reserved + u32::from(fixed_entries).div_ceil(16))?);
    let cluster_sectors = u64::from(cluster_sectors);
    let entries_per_fat_sector = SECTOR_BYTES as u64 / entry_bytes;
    let fat_sectors = (rest + 2 * cluster_sectors).div_ceil(cluster_sectors * entries_per_fat_sector + 2);
    let clusters = rest.checked_sub(2 * fat_sectors)? / cluster_sectors;
    u32::try_from(clusters).ok().filter(|clusters| range.contains(clusters))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size of the image in MiB and of its clusters in bytes.
    fn plan(kind: FatKind, cluster_bytes: Option<u32>, sizes: &[u32]) -> Result<(u64, u32), Error> {
        let names: Vec<String> = (0..sizes.len()).map(|n| format!("dec0_Wk_shared_{n}.bin")).collect();
        let directory = Directory::new(names.iter().map(String::as_str), "LABEL")?;
        let plan = Plan::new(sizes, &directory, &Options { kind, cluster_bytes, ..Options::default() })?;
        assert!(plan.next_free - 2 <= plan.clusters);
        Ok((plan.image_bytes() >> 20, plan.cluster_bytes()))
    }

    #[test]
    fn the_smallest_image_and_then_the_largest_clusters() {
        const MIB: u32 = 1 << 20;
        let fat32 = |sizes: &[u32]| plan(FatKind::Fat32, None, sizes).unwrap();
        // 65,525 clusters of 1 KiB do not fit into 63 MiB.
        assert_eq!(fat32(&[]), (64, 512));
        assert_eq!(fat32(&[1, 1000, 61 * MIB]), (64, 512));
        assert_eq!(fat32(&[1, 1000, 63 * MIB]), (128, 1024));
        assert_eq!(fat32(&[1, 1000, 300 * MIB]), (512, 4096));
        assert_eq!(fat32(&[1, 1000, 1500 * MIB]), (2048, 16384));
        assert_eq!(fat32(&[u32::MAX; 5]), (32768, 32768));
        let fat16 = |sizes: &[u32]| plan(FatKind::Fat16, None, sizes).unwrap();
        assert_eq!(fat16(&[1000]), (4, 512));
        assert_eq!(fat16(&[1000, 20 * MIB]), (32, 4096));
        assert_eq!(fat16(&[1000, 1800 * MIB]), (2048, 32768));
    }

    #[test]
    fn pages_get_clusters_of_a_sector() {
        assert_eq!(plan(FatKind::Fat32, None, &[512; 20_000]).unwrap(), (64, 512));
        let large_and_pages: Vec<u32> = [400 << 20].into_iter().chain([512; 64]).collect();
        assert_eq!(plan(FatKind::Fat32, None, &large_and_pages).unwrap(), (512, 512));
        assert_eq!(plan(FatKind::Fat32, None, &large_and_pages[..64]).unwrap(), (512, 4096));
    }

    #[test]
    fn what_does_not_fit() {
        let fat16 = plan(FatKind::Fat16, Some(512), &[40 << 20]);
        assert!(matches!(fat16, Err(Error::NoFit { bytes: 41_943_040, .. })));
        assert!(matches!(plan(FatKind::Fat16, None, &[u32::MAX; 2]), Err(Error::NoFit { .. })));
        assert!(matches!(plan(FatKind::Fat32, None, &[u32::MAX; 300]), Err(Error::NoFit { .. })));
    }
}
