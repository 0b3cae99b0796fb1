//! Small FAT volumes, and block devices that differ from them in places.

use std::io::{Cursor, Write};
use std::sync::LazyLock;

use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

use crate::Patch;

/// A volume: its bytes without the zeros at the end, and the number of its sectors.
type Bytes = (Vec<u8>, u32);

/// A FAT16 and a FAT32 volume, made by another implementation, and the same behind a partition table.
pub fn volumes() -> &'static [Bytes; 4] {
    static VOLUMES: LazyLock<[Bytes; 4]> = LazyLock::new(|| {
        let fat16 = volume(fatfs::FatType::Fat16, 5_000);
        let fat32 = volume(fatfs::FatType::Fat32, 68_000);
        [partitioned(&fat16, 0x06), partitioned(&fat32, 0x0C), fat16, fat32]
    });
    &VOLUMES
}

/// A volume of clusters of one sector, with files of several lengths; one is in pieces, most have long names.
fn volume(kind: fatfs::FatType, sectors: u32) -> Bytes {
    let mut disk = Cursor::new(vec![0; sectors as usize * SECTOR_BYTES]);
    let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(512).fat_type(kind).fats(1);
    fatfs::format_volume(&mut disk, options).expect("formats");
    {
        let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).expect("is a volume");
        let root = volume.root_dir();
        let mut torn = root.create_file("weights.pages").expect("there is room");
        for n in 0..12 {
            let mut page = root.create_file(&format!("dec0_Wk_shared_{n:04}.bin")).expect("there is room");
            page.write_all(&[n; 512]).expect("there is room");
            torn.write_all(&[0xEE; 700]).expect("there is room");
        }
        root.create_file("EMPTY").expect("there is room");
        root.create_file("l\u{f6}wen \u{65e5}\u{672c}\u{8a9e}.txt").expect("there is room");
        root.create_dir("a folder").expect("there is room");
        root.create_file("index.json").and_then(|mut file| file.write_all(b"{}")).expect("there is room");
    }
    let mut bytes = disk.into_inner();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    (bytes, sectors)
}

/// The volume as the first partition, at sector 8.
fn partitioned((bytes, sectors): &Bytes, kind: u8) -> Bytes {
    const START: u32 = 8;
    let mut disk = vec![0; START as usize * SECTOR_BYTES];
    let entry = &mut disk[446..462];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&START.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk.extend(bytes);
    (disk, START + sectors)
}

/// A device with a volume that was changed in places.
pub struct Patched<'a> {
    /// What was there, without the zeros at the end.
    pub bytes: &'a [u8],
    /// Sectors of the device.
    pub sectors: u32,
    /// What is there instead.
    pub patches: &'a [Patch],
}

impl BlockDevice for Patched<'_> {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        assert!(!buf.is_empty() && buf.len().is_multiple_of(SECTOR_BYTES), "a read of {} bytes", buf.len());
        let start = u64::from(first_sector) * SECTOR_BYTES as u64;
        let end = start + buf.len() as u64;
        assert!(end <= u64::from(self.sectors) * SECTOR_BYTES as u64, "a read behind the end of the device");
        let there = self.bytes.get(start as usize..).unwrap_or(&[]);
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        buf[n..].fill(0);
        for patch in self.patches {
            for (at, byte) in (u64::from(patch.at)..).zip(&patch.bytes) {
                if let Some(place) = at.checked_sub(start).and_then(|at| buf.get_mut(at as usize)) {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }
}
