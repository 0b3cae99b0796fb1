//! Any damage whatsoever ends in files or in an error: no panic, no read outside of the card, and a bounded number of reads.

mod common;

use common::*;
use pageformer_fat32::{Error, SectorCache, SliceDevice, Volume};
use proptest::prelude::*;

/// Reads that a card of this size may cost: opening it, its largest directory with a FAT sector for each cluster, and
/// for each of so many files a FAT sector for each cluster of the volume.
fn bound(sectors: usize, files: u32) -> u32 {
    8 + 2 * 4096 + (files + 1) * (2 * sectors as u32 + 2)
}

/// Does everything that can be done with an image.
fn exercise(image: &[u8], buf_bytes: usize) -> Result<(), Error> {
    let mut device = Watched::new(SliceDevice(image));
    let mut files = 0;
    let result = walk(&mut device, buf_bytes, &mut files);
    let most = bound(image.len() / 512, files);
    assert!(device.reads <= most, "{} reads for {files} files, expected {most} at most", device.reads);
    result
}

fn walk(device: &mut Watched<SliceDevice<'_>>, buf_bytes: usize, files: &mut u32) -> Result<(), Error> {
    let mut buf = vec![0; buf_bytes];
    let mut cache = SectorCache::new(&mut buf)?;
    let volume = Volume::open(device, &mut cache)?;
    let mut cursor = volume.root();
    while let Some(entry) = cursor.next(device, &mut cache)? {
        *files += 1;
        assert!(entry.name.len() <= pageformer_fat32::MAX_NAME_BYTES);
        let size = entry.file.size;
        let mut extents = volume.extents(entry.file);
        let mut sectors = 0;
        // A broken file does not stop the others from being read.
        while let Ok(Some(extent)) = extents.next(device, &mut cache) {
            assert!(extent.sectors > 0);
            assert!(extent.first_sector >= volume.data_first_sector());
            assert!(extent.first_sector as u64 + extent.sectors as u64 <= volume.end() as u64);
            sectors += extent.sectors;
        }
        assert!(sectors <= size.div_ceil(512));
    }
    Ok(())
}

/// A small volume with fragmented files, long names and a directory of several clusters.
fn sound() -> Vec<u8> {
    let mut volume = TinyVolume::new();
    volume.chain(&[10, 11, 12, 40, 41, 13]);
    volume.long_name("dec0_Wk_shared_0000.bin", checksum(b"DEC0_W~1BIN"));
    volume.file(b"DEC0_W~1BIN", 10, 6 * 512);
    volume.chain(&(50..150).collect::<Vec<_>>());
    volume.long_name("weights.pages", checksum(b"WEIGHT~1PAG"));
    volume.file(b"WEIGHT~1PAG", 50, 100 * 512 - 7);
    volume.chain(&[2, 30, 31]);
    // The FAT's second cluster of the directory.
    let mut entries = vec![0; 512];
    for (slot, entry) in entries.as_chunks_mut().0.iter_mut().enumerate() {
        *entry = short_entry(b"FILE    BIN", 0x20, 160 + slot as u32, 512);
        volume.chain(&[160 + slot as u32]);
    }
    volume.bytes[32 * 512..][..512].copy_from_slice(&entries);
    volume.bytes[33 * 512..][..512].copy_from_slice(&entries);
    // No end mark in the first cluster.
    for _ in 0..11 {
        volume.raw_entry(short_entry(b"\xE5ELETED BIN", 0x20, 0, 0));
    }
    volume.bytes
}

#[test]
fn the_sound_volume_is_sound() {
    let image = sound();
    assert_eq!(list(&image).unwrap().len(), 2 + 32);
    for (name, file) in list(&image).unwrap() {
        assert!(extents(&image, file).is_ok(), "{name}");
    }
    exercise(&image, 512).unwrap();
    exercise(&image, 4096).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// Reserved sectors, FAT and directory: any bytes flipped.
    #[test]
    fn flipped_bytes(
        flips in proptest::collection::vec((0usize..5 * 512, any::<u8>()), 1..20),
        dir_flips in proptest::collection::vec((32usize * 512..34 * 512, any::<u8>()), 0..5),
        long_buf in any::<bool>(),
    ) {
        let mut image = sound();
        for (at, byte) in flips.into_iter().chain(dir_flips) {
            image[at] = byte;
        }
        exercise(&image, if long_buf { 2048 } else { 512 }).ok();
    }

    /// The fields that decide about the layout get more than their share.
    #[test]
    fn flipped_fields(
        flips in proptest::collection::vec((11usize..48, any::<u8>()), 1..6),
        links in proptest::collection::vec((0u32..256, any::<u32>()), 0..10),
    ) {
        let mut image = sound();
        for (at, byte) in flips {
            image[at] = byte;
        }
        for (cluster, value) in links {
            image[2 * 512 + cluster as usize % 256 * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        exercise(&image, 512).ok();
    }

    /// Chains that lead anywhere within the volume.
    #[test]
    fn scrambled_fat(links in proptest::collection::vec(0u32..210, TINY_CLUSTERS as usize)) {
        let mut image = sound();
        for (cluster, value) in links.into_iter().enumerate() {
            image[2 * 512 + (cluster + 2) * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        exercise(&image, 512).ok();
    }

    /// Random directories, behind a sound boot sector.
    #[test]
    fn random_directory(bytes in proptest::collection::vec(any::<u8>(), 512)) {
        let mut image = sound();
        image[4 * 512..5 * 512].copy_from_slice(&bytes);
        exercise(&image, 512).ok();
    }

    /// Random sectors with the signature in place, so that the partition table is looked at.
    #[test]
    fn random_sectors(mut bytes in proptest::collection::vec(any::<u8>(), 8 * 512), statuses in any::<bool>()) {
        if statuses {
            for at in [446, 462, 478, 494] {
                bytes[at] = 0;
                bytes[at + 10..at + 12].fill(0);
                bytes[at + 14..at + 16].fill(0);
            }
        }
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        exercise(&bytes, 512).ok();
    }

    /// Cut off anywhere.
    #[test]
    fn truncated(bytes in 0usize..204 * 512) {
        prop_assert!(exercise(&sound()[..bytes], 512).is_err());
    }
}
