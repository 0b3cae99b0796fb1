//! A FAT volume that was changed anywhere: every extent of every file lies within the volume and all of them are as long as
//! the file, or there is an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageformer_fat32::{BlockDevice, Error, SECTOR_BYTES, SectorCache, Volume};
use pageformer_fuzz::{Patched, read, volumes};

/// More files than a directory of the largest volume has.
const MANY: usize = 10_000;

fn list(device: &mut impl BlockDevice, cache: &mut [u8]) -> Result<(), Error> {
    let mut cache = SectorCache::new(cache)?;
    let volume = Volume::open(device, &mut cache)?;
    let mut root = volume.root();
    let mut files = Vec::new();
    while let Some(entry) = root.next(device, &mut cache)? {
        // A damaged entry may have no name at all.
        assert!(entry.is(entry.name));
        files.push(entry.file);
        assert!(files.len() < MANY, "the directory does not end");
    }
    // The chain of one file may be broken, others need not be.
    let mut result = Ok(());
    for file in files {
        let mut extents = volume.extents(file);
        let mut sectors = 0u64;
        loop {
            match extents.next(device, &mut cache) {
                Ok(Some(extent)) => {
                    assert!(extent.sectors > 0 && extent.first_sector >= volume.data_first_sector());
                    assert!(extent.first_sector.checked_add(extent.sectors).is_some_and(|end| end <= volume.end()));
                    sectors += u64::from(extent.sectors);
                }
                Ok(None) => {
                    let bytes = sectors * SECTOR_BYTES as u64;
                    let size = u64::from(file.size);
                    assert!(bytes >= size && bytes < size + SECTOR_BYTES as u64, "{size} bytes in {sectors} sectors");
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
    }
    result
}

fuzz_target!(|input: &[u8]| {
    let Some(([which, cache], changes)) = input.split_first_chunk::<2>() else { return };
    let volumes = volumes();
    let (bytes, sectors) = &volumes[*which as usize % volumes.len()];
    let patches = read(changes);
    // A patch without bytes cuts the device.
    let cut = patches.iter().find(|patch| patch.bytes.is_empty()).map(|patch| patch.at);
    let sectors = cut.map_or(*sectors, |at| at.min(*sectors));
    let mut device = Patched { bytes, sectors, patches: &patches };
    let mut cache = vec![0; SECTOR_BYTES * (1 + *cache as usize % 4)];
    if let Err(error) = list(&mut device, &mut cache) {
        assert!(!error.to_string().is_empty());
    }
});
