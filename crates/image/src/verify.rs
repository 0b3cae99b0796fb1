//! Reads the finished image as a device would.

use crate::plan::Plan;
use crate::{Error, FileSource};
use pageformer_fat32::{BlockDevice, DeviceError, Extent, SECTOR_BYTES, SectorCache, Volume};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// An image as a card.
pub(crate) struct ImageDevice<'a>(pub(crate) &'a mut File);

impl BlockDevice for ImageDevice<'_> {
    fn sectors(&self) -> u32 {
        let bytes = self.0.metadata().map_or(0, |found| found.len());
        u32::try_from(bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX)
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let start = u64::from(first_sector) * SECTOR_BYTES as u64;
        self.0.seek(SeekFrom::Start(start)).map_err(|_| DeviceError::Io)?;
        self.0.read_exact(buf).map_err(|_| DeviceError::Io)
    }
}

/// Checks that every file is in the directory, in order, with its name and size, and is one run of sectors at its place.
pub(crate) fn contiguous(
    image: &mut File,
    volume: &Volume,
    plan: &Plan,
    files: &[(String, FileSource)],
    sizes: &[u32],
) -> Result<(), Error> {
    let mut device = ImageDevice(image);
    let mut buf = vec![0; 256 * SECTOR_BYTES];
    let mut cache = SectorCache::new(&mut buf)?;
    let mut found = volume.root();
    for (((name, _), size), first_cluster) in files.iter().zip(sizes).zip(&plan.first_clusters) {
        let misplaced = || Error::Misplaced { name: name.clone() };
        let entry = found.next(&mut device, &mut cache)?.ok_or_else(misplaced)?;
        if entry.name != name || entry.file.size != *size {
            return Err(misplaced());
        }
        let mut extents = volume.extents(entry.file);
        let expected = (*size > 0).then(|| Extent {
            first_sector: volume.cluster_first_sector(*first_cluster),
            sectors: size.div_ceil(SECTOR_BYTES as u32),
        });
        if extents.next(&mut device, &mut cache)? != expected
            || extents.next(&mut device, &mut cache)?.is_some()
        {
            return Err(misplaced());
        }
    }
    match found.next(&mut device, &mut cache)? {
        None => Ok(()),
        Some(entry) => Err(Error::Misplaced { name: entry.name.into() }),
    }
}
