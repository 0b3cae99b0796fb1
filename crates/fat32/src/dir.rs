//! The root directory, entry by entry.

use crate::bytes::{u8_at, u16_at, u32_at};
use crate::chain::Chain;
use crate::name::NameBuilder;
use crate::volume::Root;
use crate::{BlockDevice, ChainFault, Error, FatKind, SECTOR_BYTES, SectorCache, Volume};

/// Bytes of a directory entry.
const ENTRY_BYTES: usize = 32;
/// Directory entries of a sector.
const SECTOR_ENTRIES: u32 = (SECTOR_BYTES / ENTRY_BYTES) as u32;
/// Entries of the largest directory that the specification allows (2 MiB).
const MAX_ENTRIES: u32 = 65_536;

/// A file's contents: where they begin and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Number of the first cluster; 0 in empty files.
    pub first_cluster: u32,
    /// Bytes.
    pub size: u32,
}

/// A regular file of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry<'n> {
    /// The long name; the short one (`README.TXT`) if there is no long one, or none that is whole and belongs to this
    /// file. A short name is in lower case where the entry says so.
    pub name: &'n str,
    /// Its contents.
    pub file: File,
}

impl FileEntry<'_> {
    /// Whether this is the file `name`. FAT does not tell upper from lower case; only ASCII letters are folded.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A place in the root directory, from [`Volume::root`]. It holds about 350 bytes, most of it the name.
///
/// Between two calls the device and the cache may be used for anything else: the cursor reads its sector again
/// when it is gone from the cache.
#[derive(Clone, Debug)]
pub struct DirCursor {
    volume: Volume,
    place: Place,
    /// Entries passed so far.
    passed: u32,
    name: NameBuilder,
}

/// Where the next entry is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// FAT16: in one run of sectors.
    Fixed { first_sector: u32, entries: u32 },
    /// FAT32, nothing read so far.
    ChainStart { first_cluster: u32 },
    /// FAT32: in the cluster that the chain stands at.
    Chain(Chain),
    /// Behind the last entry, or after an error.
    End,
}

impl DirCursor {
    pub(crate) fn new(volume: Volume, root: Root) -> Self {
        let place = match root {
            Root::Fixed { first_sector, entries } => Place::Fixed { first_sector, entries },
            Root::Chain { first_cluster } => Place::ChainStart { first_cluster },
        };
        Self { volume, place, passed: 0, name: NameBuilder::new() }
    }

    /// The next regular file; `None` behind the last and after an error. Directories, the volume label, deleted
    /// entries and what they left behind are passed over.
    ///
    /// # Errors
    /// [`Error::Device`], and [`Error::Chain`] if the directory's own chain is broken.
    pub fn next<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Option<FileEntry<'_>>, Error> {
        match self.advance(device, cache) {
            Ok(Some(entry)) => {
                let cluster_high = match self.volume.kind() {
                    FatKind::Fat16 => 0,
                    FatKind::Fat32 => u32::from(u16_at(&entry, 20)) << 16,
                };
                let first_cluster = cluster_high | u32::from(u16_at(&entry, 26));
                let file = File { first_cluster, size: u32_at(&entry, 28) };
                Ok(Some(FileEntry { name: self.name.finish(&entry), file }))
            }
            Ok(None) => {
                self.place = Place::End;
                Ok(None)
            }
            Err(error) => {
                self.place = Place::End;
                Err(error)
            }
        }
    }

    /// The next regular file's entry, with the pieces of its name in `self.name`.
    fn advance<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Option<[u8; ENTRY_BYTES]>, Error> {
        self.name.clear();
        while let Some(sector) = self.sector(device, cache)? {
            let bytes = cache.sector(device, sector, self.volume.end())?;
            let slot = (self.passed % SECTOR_ENTRIES) as usize;
            let Some(entry) = bytes.as_chunks::<ENTRY_BYTES>().0.get(slot) else { return Ok(None) };
            self.passed = self.passed.saturating_add(1);
            let attributes = u8_at(entry, 11);
            match u8_at(entry, 0) {
                // Nothing behind it was ever used.
                0x00 => return Ok(None),
                0xE5 => self.name.clear(),
                _ if attributes & 0x3F == 0x0F => self.name.piece(entry),
                // Volume label, directory.
                _ if attributes & 0x18 != 0 => self.name.clear(),
                _ => return Ok(Some(*entry)),
            }
        }
        Ok(None)
    }

    /// The sector of the next entry; `None` where the directory ends without a mark.
    fn sector<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Option<u32>, Error> {
        let sectors_passed = self.passed / SECTOR_ENTRIES;
        match &mut self.place {
            Place::End => Ok(None),
            Place::Fixed { entries, .. } if self.passed >= *entries => Ok(None),
            Place::Fixed { first_sector, .. } => Ok(Some(first_sector.saturating_add(sectors_passed))),
            Place::ChainStart { first_cluster } => {
                let chain = Chain::start(&self.volume, *first_cluster)?;
                self.place = Place::Chain(chain);
                Ok(Some(self.volume.cluster_first_sector(chain.at())))
            }
            Place::Chain(chain) => {
                // The cluster's size is a power of two.
                let in_cluster = sectors_passed & self.volume.cluster_sectors().saturating_sub(1);
                if in_cluster == 0 && self.passed != 0 && self.passed.is_multiple_of(SECTOR_ENTRIES) {
                    let before = chain.at();
                    if chain.advance(&self.volume, device, cache)?.is_none() {
                        return Ok(None);
                    }
                    if self.passed >= MAX_ENTRIES {
                        return Err(chain.broken(before, ChainFault::TooLong));
                    }
                }
                Ok(Some(self.volume.cluster_first_sector(chain.at()).saturating_add(in_cluster)))
            }
        }
    }
}
