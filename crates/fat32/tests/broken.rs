//! Volumes that are wrong in one place each: the error must name it.

mod common;

use common::*;
use pageformer_fat32::{
    BlockDevice, BpbField, ChainFault, DeviceError, Error, Extent, File, OtherFileSystem, SectorCache,
    SliceDevice, Volume,
};

#[test]
fn a_sound_tiny_volume_reads() {
    let mut volume = TinyVolume::new();
    let file = volume.file(b"A       BIN", 10, 9 * 512 - 1);
    volume.chain(&[10, 11, 12, 150, 151, 30, 20, 21, 152]);
    let found = extents(&volume.bytes, file).unwrap();
    let at = |cluster: u32, sectors| Extent { first_sector: 4 + cluster - 2, sectors };
    assert_eq!(found, [at(10, 3), at(150, 2), at(30, 1), at(20, 2), at(152, 1)]);
    assert_eq!(list(&volume.bytes).unwrap(), [("A.BIN".to_string(), file)]);
}

#[test]
fn an_empty_file_has_no_extents() {
    let mut volume = TinyVolume::new();
    let file = volume.file(b"EMPTY      ", 0, 0);
    assert_eq!(extents(&volume.bytes, file), Ok(vec![]));
}

/// What is wrong with the chain of a file of `clusters` clusters that starts at cluster 10.
fn fault(clusters: u32, chain: impl FnOnce(&mut TinyVolume)) -> (u32, ChainFault) {
    let mut volume = TinyVolume::new();
    let file = volume.file(b"A       BIN", 10, clusters * 512);
    chain(&mut volume);
    match extents(&volume.bytes, file) {
        Err(Error::Chain { first_cluster: 10, cluster, fault }) => (cluster, fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_chains_name_the_cluster() {
    let chain = |clusters: &'static [u32]| move |volume: &mut TinyVolume| volume.chain(clusters);
    let ending = |value| {
        move |volume: &mut TinyVolume| {
            volume.link(10, 11);
            volume.link(11, value);
        }
    };
    assert_eq!(fault(4, chain(&[10, 11, 12])), (12, ChainFault::TooShort));
    assert_eq!(fault(2, chain(&[10, 11, 12])), (11, ChainFault::TooLong));
    assert_eq!(fault(4, ending(0)), (11, ChainFault::Free));
    assert_eq!(fault(4, ending(1)), (11, ChainFault::Reserved));
    assert_eq!(fault(4, ending(0x0FFF_FFF3)), (11, ChainFault::Reserved));
    assert_eq!(fault(4, ending(0x0FFF_FFF7)), (11, ChainFault::Bad));
    assert_eq!(fault(4, ending(TINY_CLUSTERS + 2)), (TINY_CLUSTERS + 2, ChainFault::OutOfRange));
    // The upper four bits mean nothing.
    assert_eq!(fault(4, ending(0xF000_0000)), (11, ChainFault::Free));
}

#[test]
fn circles_are_found_wherever_they_close() {
    assert_eq!(fault(100, |volume| volume.link(10, 10)), (10, ChainFault::Cyclic));
    for length in 2..40 {
        for back_to in 10..10 + length {
            let (_, fault) = fault(190, |volume| {
                (10..10 + length).for_each(|cluster| volume.link(cluster, cluster + 1));
                volume.link(10 + length - 1, back_to);
            });
            assert_eq!(fault, ChainFault::Cyclic, "{length} clusters, back to {back_to}");
        }
    }
}

#[test]
fn a_chain_that_runs_into_another_has_the_wrong_length() {
    let mut volume = TinyVolume::new();
    let first = volume.file(b"A       BIN", 10, 4 * 512);
    let second = volume.file(b"B       BIN", 20, 4 * 512);
    volume.chain(&[20, 21, 22, 23]);
    volume.link(10, 11);
    volume.link(11, 21);
    assert_eq!(
        extents(&volume.bytes, first),
        Err(Error::Chain { first_cluster: 10, cluster: 22, fault: ChainFault::TooLong })
    );
    assert_eq!(extents(&volume.bytes, second).unwrap().len(), 1);
}

#[test]
fn the_extents_before_the_fault_are_handed_out() {
    let mut volume = TinyVolume::new();
    let file = volume.file(b"A       BIN", 10, 6 * 512);
    volume.chain(&[10, 11, 30, 31]);
    let (mut device, mut buf) = (SliceDevice(&volume.bytes), [0; 512]);
    let mut cache = SectorCache::new(&mut buf).unwrap();
    let mut cursor = Volume::open(&mut device, &mut cache).unwrap().extents(file);
    assert_eq!(cursor.next(&mut device, &mut cache), Ok(Some(Extent { first_sector: 12, sectors: 2 })));
    assert!(matches!(cursor.next(&mut device, &mut cache), Err(Error::Chain { cluster: 31, .. })));
    assert_eq!(cursor.next(&mut device, &mut cache), Ok(None));
}

#[test]
fn impossible_starts_and_sizes() {
    let volume = TinyVolume::new();
    let chain = |first_cluster, fault| Err(Error::Chain { first_cluster, cluster: first_cluster, fault });
    for first_cluster in [0, 1] {
        let file = File { first_cluster, size: 1 };
        assert_eq!(extents(&volume.bytes, file), chain(first_cluster, ChainFault::Reserved));
    }
    for first_cluster in [TINY_CLUSTERS + 2, u32::MAX] {
        let file = File { first_cluster, size: 1 };
        assert_eq!(extents(&volume.bytes, file), chain(first_cluster, ChainFault::OutOfRange));
    }
    let size = TINY_CLUSTERS * 512 + 1;
    let file = File { first_cluster: 10, size };
    assert_eq!(extents(&volume.bytes, file), Err(Error::FileTooLarge { first_cluster: 10, size }));
}

#[test]
fn a_directory_that_runs_in_a_circle_ends_in_an_error() {
    let mut volume = TinyVolume::new();
    for _ in 0..16 {
        volume.file(b"A       BIN", 10, 512);
    }
    volume.bytes.copy_within(4 * 512..5 * 512, 5 * 512); // cluster 3 is full of files, too
    volume.link(2, 3);
    volume.link(3, 2);
    let circle = |cluster| Err(Error::Chain { first_cluster: 2, cluster, fault: ChainFault::Cyclic });
    assert!([circle(2), circle(3)].contains(&list(&volume.bytes)));
}

#[test]
fn the_largest_directory_is_read_and_no_larger_one() {
    // FAT32 with clusters of 64 KiB: the root directory's 32 clusters are 2 MiB.
    let mut small = TinyVolume::new();
    small.bytes[13] = 128;
    let sectors = 4 + 64 * 128u32;
    small.bytes[32..36].copy_from_slice(&sectors.to_le_bytes());
    small.bytes.resize(sectors as usize * 512, 0);
    let entry = short_entry(b"A       BIN", 0x20, 40, 1);
    small.bytes[4 * 512..].as_chunks_mut().0.iter_mut().for_each(|slot| *slot = entry);

    small.chain(&(2..34).collect::<Vec<_>>());
    assert_eq!(list(&small.bytes).unwrap().len(), 65_536);
    small.chain(&(2..35).collect::<Vec<_>>());
    assert_eq!(
        list(&small.bytes),
        Err(Error::Chain { first_cluster: 2, cluster: 33, fault: ChainFault::TooLong })
    );
}

#[test]
fn each_field_of_the_bpb_is_checked() {
    let spoil = |at: usize, bytes: &[u8]| {
        let mut volume = TinyVolume::new();
        // Behind a partition table, so that it cannot be taken for something else.
        let image = partitioned(0x0C, 8, &mut volume, |volume| {
            volume[at..at + bytes.len()].copy_from_slice(bytes);
        });
        open(&image).expect_err("a spoiled volume")
    };
    let bpb = |field| Error::Bpb { sector: 8, field };
    assert_eq!(spoil(510, &[0, 0]), bpb(BpbField::Signature));
    assert_eq!(spoil(11, &[1, 2]), bpb(BpbField::BytesPerSector));
    assert_eq!(spoil(11, &[0, 8]), Error::SectorSize { sector: 8, bytes: 2048 });
    assert_eq!(spoil(13, &[0]), bpb(BpbField::SectorsPerCluster));
    assert_eq!(spoil(13, &[3]), bpb(BpbField::SectorsPerCluster));
    assert_eq!(spoil(14, &[0, 0]), bpb(BpbField::ReservedSectors));
    assert_eq!(spoil(16, &[0]), bpb(BpbField::Fats));
    assert_eq!(spoil(17, &[16, 0]), bpb(BpbField::RootEntries));
    assert_eq!(spoil(32, &[0, 0, 0, 0]), bpb(BpbField::TotalSectors));
    assert_eq!(spoil(32, &[4, 0, 0, 0]), bpb(BpbField::TotalSectors));
    assert_eq!(spoil(36, &[0xFF; 4]), bpb(BpbField::TotalSectors));
    assert_eq!(spoil(36, &[1, 0, 0, 0]), bpb(BpbField::FatSize));
    assert_eq!(spoil(40, &[0x81, 0]), bpb(BpbField::ExtendedFlags));
    assert_eq!(spoil(42, &[1, 0]), bpb(BpbField::Version));
    assert_eq!(spoil(44, &[0, 0, 0, 0]), bpb(BpbField::RootCluster));
    assert_eq!(spoil(44, &[202, 0, 0, 0]), bpb(BpbField::RootCluster));
    assert_eq!(spoil(32, &[205, 0, 0, 0]), Error::BeyondEnd { first_sector: 8, sectors: 205, end: 212 });
    assert_eq!(spoil(32, &[0xFF; 4]), Error::BeyondEnd { first_sector: 8, sectors: u32::MAX, end: 212 });
    assert_eq!(spoil(3, b"EXFAT   "), other(8, OtherFileSystem::ExFat));
    assert_eq!(spoil(3, b"NTFS    "), other(8, OtherFileSystem::Ntfs));
    // A size of the FAT in the 16-bit field makes it FAT12, and then there is a root directory of its own.
    assert_eq!(spoil(17, &[16, 0, 0, 0, 0xF8, 2, 0]), other(8, OtherFileSystem::Fat12));
}

fn other(sector: u32, found: OtherFileSystem) -> Error {
    Error::OtherFileSystem { sector, found }
}

/// A volume behind a partition table whose first entry has this type.
fn partitioned(
    kind: u8,
    first_sector: u32,
    volume: &mut TinyVolume,
    spoil: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    spoil(&mut volume.bytes);
    let mut image = vec![0; first_sector as usize * 512];
    image.extend_from_slice(&volume.bytes);
    let sectors = (volume.bytes.len() / 512) as u32;
    image[450] = kind;
    image[454..458].copy_from_slice(&first_sector.to_le_bytes());
    image[458..462].copy_from_slice(&sectors.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xAA]);
    image
}

#[test]
fn partition_tables() {
    let with = |kind, spoil: &dyn Fn(&mut [u8])| {
        let mut image = partitioned(kind, 8, &mut TinyVolume::new(), |_| {});
        spoil(&mut image);
        open(&image).map(|volume| volume.first_sector())
    };
    let nothing: &dyn Fn(&mut [u8]) = &|_| {};
    for kind in [0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E] {
        assert_eq!(with(kind, nothing), Ok(8));
    }
    assert_eq!(with(0x83, nothing), Err(Error::NoFatPartition { first_type: 0x83 }));
    assert_eq!(with(0, nothing), Err(Error::NoFatPartition { first_type: 0 }));
    assert_eq!(with(0xEE, nothing), Err(Error::Gpt));
    assert_eq!(with(0x07, nothing), Err(Error::NoFatPartition { first_type: 0x07 }));
    let exfat: &dyn Fn(&mut [u8]) = &|image| image[8 * 512 + 3..][..8].copy_from_slice(b"EXFAT   ");
    assert_eq!(with(0x07, exfat), Err(other(8, OtherFileSystem::ExFat)));
    // A partition that reaches behind the card, or around the number range.
    assert_eq!(
        with(0x0C, &|i| i[458] += 1),
        Err(Error::BeyondEnd { first_sector: 8, sectors: 205, end: 212 })
    );
    assert!(matches!(with(0x0C, &|i| i[458..462].fill(0xFF)), Err(Error::BeyondEnd { .. })));
    // Neither a table nor a volume.
    assert_eq!(with(0x0C, &|i| i[510] = 0), Err(Error::NoPartitionTable));
    assert_eq!(with(0x0C, &|i| i[446] = 0x12), Err(Error::NoPartitionTable));
    // The first FAT partition counts, wherever it stands in the table.
    let last: &dyn Fn(&mut [u8]) = &|image| {
        image.copy_within(446..462, 494);
        image[450] = 0x83;
    };
    assert_eq!(with(0x0C, last), Ok(8));
}

#[test]
fn a_boot_loader_is_not_a_volume() {
    // GRUB's sector 0 begins with a jump, too, but leaves the fields behind it empty.
    let mut image = partitioned(0x0C, 8, &mut TinyVolume::new(), |_| {});
    image[..3].copy_from_slice(&[0xEB, 0x63, 0x90]);
    assert_eq!(open(&image).unwrap().first_sector(), 8);
}

#[test]
fn a_cut_off_image_is_an_error() {
    let volume = TinyVolume::new();
    let cut = volume.bytes.len() - 1;
    assert_eq!(open(&volume.bytes[..cut]), Err(Error::BeyondEnd { first_sector: 0, sectors: 204, end: 203 }));
    assert!(open(&[]).is_err());
    assert_eq!(open(&[0; 512]), Err(Error::NoPartitionTable));
}

#[test]
fn a_buffer_must_hold_a_sector() {
    assert_eq!(SectorCache::new(&mut [0; 511]).map(drop), Err(Error::BufferTooSmall { bytes: 511 }));
}

/// Cannot read one sector, and does not know its size.
struct Scratched<'a> {
    image: &'a [u8],
    bad: u32,
}

impl BlockDevice for Scratched<'_> {
    fn sectors(&self) -> u32 {
        u32::MAX
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        if (first_sector..first_sector + (buf.len() / 512) as u32).contains(&self.bad) {
            return Err(DeviceError::Io);
        }
        SliceDevice(self.image).read(first_sector, buf)
    }
}

#[test]
fn a_bad_sector_is_named_and_does_not_spoil_its_neighbours() {
    let mut volume = TinyVolume::new();
    let file = volume.file(b"A       BIN", 10, 512);
    volume.chain(&[10]);
    for bytes in [512, 4096] {
        let read = |bad| {
            let (mut device, mut buf) = (Scratched { image: &volume.bytes, bad }, vec![0; bytes]);
            let mut cache = SectorCache::new(&mut buf)?;
            let opened = Volume::open(&mut device, &mut cache)?;
            cache.clear();
            opened.find(&mut device, &mut cache, "a.bin")
        };
        assert_eq!(read(5), Ok(Some(file)), "the sector behind the directory");
        assert_eq!(read(4), Err(Error::Device { sector: 4, error: DeviceError::Io }));
        assert_eq!(read(0), Err(Error::Device { sector: 0, error: DeviceError::Io }));
    }
}

#[test]
fn errors_say_what_to_do() {
    let exfat = other(8, OtherFileSystem::ExFat).to_string();
    assert!(exfat.contains("sector 8") && exfat.contains("exFAT") && exfat.contains("format"), "{exfat}");
    let chain = Error::Chain { first_cluster: 10, cluster: 12, fault: ChainFault::Free }.to_string();
    assert!(
        chain.contains("cluster 10") && chain.contains("cluster 12") && chain.contains("free"),
        "{chain}"
    );
}
