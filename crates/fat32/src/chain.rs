//! Cluster chains, and the runs of sectors that they are.

use crate::bytes::{u16_at, u32_at};
use crate::volume::FIRST_CLUSTER;
use crate::{BlockDevice, ChainFault, Error, FatKind, File, SECTOR_BYTES, SectorCache, Volume};

/// A run of neighbouring sectors that belong to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first of them, counted from the start of the device.
    pub first_sector: u32,
    /// How many; never 0.
    pub sectors: u32,
}

/// A walk along a cluster chain that notices when it runs in a circle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    first: u32,
    at: u32,
    // Brent's cycle detection (1980): the walk is compared with a cluster that it passed, and that mark moves up each
    // time that the walk is twice as long.
    mark: u32,
    steps: u32,
    limit: u32,
    /// Up to here each cluster is followed by its neighbour, as the FAT sector that was read last says.
    run_end: u32,
}

impl Chain {
    /// Stands at `first`.
    pub(crate) fn start(volume: &Volume, first: u32) -> Result<Self, Error> {
        let chain = Self { first, at: first, mark: first, steps: 0, limit: 1, run_end: first };
        if first < FIRST_CLUSTER {
            return Err(chain.broken(first, ChainFault::Reserved));
        }
        if !volume.has_cluster(first) {
            return Err(chain.broken(first, ChainFault::OutOfRange));
        }
        Ok(chain)
    }

    /// The cluster it stands at.
    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// The error that names this chain.
    pub(crate) fn broken(&self, cluster: u32, fault: ChainFault) -> Error {
        Error::Chain { first_cluster: self.first, cluster, fault }
    }

    /// Moves to the next cluster and returns it; `None` at the end of the chain.
    pub(crate) fn advance<D: BlockDevice + ?Sized>(
        &mut self,
        volume: &Volume,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Option<u32>, Error> {
        let next = if self.at < self.run_end {
            self.at.saturating_add(1)
        } else {
            let (value, run_end) = fat_entry(volume, device, cache, self.at)?;
            match classify(volume, value) {
                Ok(Some(next)) => {
                    // Whatever was known about the run does not hold where the chain jumps to, possibly backwards.
                    self.run_end = if run_end > self.at { run_end } else { next };
                    next
                }
                Ok(None) => return Ok(None),
                // A number that does not exist is itself the place; the others are marks on the cluster that we are at.
                Err(ChainFault::OutOfRange) => return Err(self.broken(value, ChainFault::OutOfRange)),
                Err(fault) => return Err(self.broken(self.at, fault)),
            }
        };
        if next == self.mark {
            return Err(self.broken(next, ChainFault::Cyclic));
        }
        self.steps = self.steps.saturating_add(1);
        if self.steps == self.limit {
            (self.mark, self.steps, self.limit) = (next, 0, self.limit.saturating_mul(2));
        }
        self.at = next;
        Ok(Some(next))
    }
}

/// The FAT's entry of a cluster that exists, and how far from there on each entry is the number of the next cluster,
/// as far as this sector of the FAT tells. (Directory and FAT take turns in a small cache: who walks along a run needs
/// to come here only once.)
fn fat_entry<D: BlockDevice + ?Sized>(
    volume: &Volume,
    device: &mut D,
    cache: &mut SectorCache<'_>,
    cluster: u32,
) -> Result<(u32, u32), Error> {
    let entry_bytes = match volume.kind() {
        FatKind::Fat16 => 2,
        FatKind::Fat32 => 4,
    };
    let per_sector = SECTOR_BYTES as u32 / entry_bytes;
    // Volume::open has made sure that the FAT has an entry for every cluster.
    let sector = volume.fat_first_sector().saturating_add(cluster / per_sector);
    let fat_end = volume.fat_first_sector().saturating_add(volume.fat_sectors());
    let bytes = cache.fat_sector(device, sector, fat_end)?;
    let entry = |cluster: u32| {
        let at = (cluster % per_sector).saturating_mul(entry_bytes) as usize;
        match volume.kind() {
            FatKind::Fat16 => u32::from(u16_at(bytes, at)),
            // The upper four bits are reserved and may hold anything.
            FatKind::Fat32 => u32_at(bytes, at) & 0x0FFF_FFFF,
        }
    };
    let sector_end = cluster.saturating_sub(cluster % per_sector).saturating_add(per_sector);
    let mut run_end = cluster;
    while run_end < sector_end
        && entry(run_end) == run_end.saturating_add(1)
        && volume.has_cluster(entry(run_end))
    {
        run_end = run_end.saturating_add(1);
    }
    Ok((entry(cluster), run_end))
}

/// What a FAT entry means: the next cluster, the end of the chain, or a fault.
fn classify(volume: &Volume, value: u32) -> Result<Option<u32>, ChainFault> {
    // FAT16's special values are the lowest 16 bits of FAT32's.
    let special = match volume.kind() {
        FatKind::Fat16 => value | 0x0FFF_0000,
        FatKind::Fat32 => value,
    };
    match (value, special) {
        (0, _) => Err(ChainFault::Free),
        (1, _) | (_, 0x0FFF_FFF0..=0x0FFF_FFF6) => Err(ChainFault::Reserved),
        (_, 0x0FFF_FFF7) => Err(ChainFault::Bad),
        (_, 0x0FFF_FFF8..) => Ok(None),
        _ if volume.has_cluster(value) => Ok(Some(value)),
        _ => Err(ChainFault::OutOfRange),
    }
}

/// A file's extents, one after the other, from [`Volume::extents`].
///
/// Together they have exactly as many sectors as the file's size needs. The cluster chain must have exactly as many
/// clusters: one that is too short or goes on is an error, which comes with the extent that is affected, after
/// all good ones.
#[derive(Clone, Debug)]
pub struct ExtentCursor {
    volume: Volume,
    file: File,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    /// At the first cluster of the next extent, with so many clusters and sectors of the file to come.
    Walking {
        chain: Chain,
        clusters: u32,
        sectors: u32,
    },
    Done,
}

impl ExtentCursor {
    pub(crate) fn new(volume: Volume, file: File) -> Self {
        Self { volume, file, state: State::Start }
    }

    /// The next extent: as many neighbouring clusters as there are. `None` behind the last and after an error.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Chain`] and [`Error::FileTooLarge`].
    pub fn next<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Option<Extent>, Error> {
        let (mut chain, mut clusters, mut sectors) = match core::mem::replace(&mut self.state, State::Done) {
            State::Done => return Ok(None),
            State::Start if self.file.size == 0 => return Ok(None),
            State::Start => {
                let File { first_cluster, size } = self.file;
                let sectors = size.div_ceil(SECTOR_BYTES as u32);
                let clusters = sectors.div_ceil(self.volume.cluster_sectors());
                let chain = Chain::start(&self.volume, first_cluster)?;
                if clusters > self.volume.clusters() {
                    return Err(Error::FileTooLarge { first_cluster, size });
                }
                (chain, clusters, sectors)
            }
            State::Walking { chain, clusters, sectors } => (chain, clusters, sectors),
        };

        let mut extent = Extent { first_sector: self.volume.cluster_first_sector(chain.at()), sectors: 0 };
        loop {
            let here = sectors.min(self.volume.cluster_sectors());
            extent.sectors = extent.sectors.saturating_add(here);
            sectors = sectors.saturating_sub(here);
            clusters = clusters.saturating_sub(1);

            let before = chain.at();
            match chain.advance(&self.volume, device, cache)? {
                None if clusters == 0 => return Ok(Some(extent)),
                None => return Err(chain.broken(before, ChainFault::TooShort)),
                Some(_) if clusters == 0 => return Err(chain.broken(before, ChainFault::TooLong)),
                Some(next) if next == before.saturating_add(1) => {}
                Some(_) => {
                    self.state = State::Walking { chain, clusters, sectors };
                    return Ok(Some(extent));
                }
            }
        }
    }
}
