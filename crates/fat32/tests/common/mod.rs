//! Devices that watch how they are read, and volumes small enough to be broken by hand.
#![allow(dead_code)] // Each test file uses a part of it.

use pageformer_fat32::{BlockDevice, DeviceError, Error, Extent, File, SectorCache, SliceDevice, Volume};
use std::io::{Read, Seek, SeekFrom};

/// Counts reads, and fails the test when one is not within the device.
pub struct Watched<D> {
    pub device: D,
    pub reads: u32,
    pub sectors_read: u32,
}

impl<D: BlockDevice> Watched<D> {
    pub fn new(device: D) -> Self {
        Self { device, reads: 0, sectors_read: 0 }
    }
}

impl<D: BlockDevice> BlockDevice for Watched<D> {
    fn sectors(&self) -> u32 {
        self.device.sectors()
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        assert!(!buf.is_empty() && buf.len().is_multiple_of(512), "a read of {} bytes", buf.len());
        let end = first_sector as u64 + buf.len() as u64 / 512;
        assert!(end <= self.sectors() as u64, "read up to sector {end} of {}", self.sectors());
        self.reads += 1;
        self.sectors_read += (buf.len() / 512) as u32;
        self.device.read(first_sector, buf)
    }
}

/// An image in a file, which may be a large one with holes.
pub struct FileDevice(pub std::fs::File);

impl BlockDevice for FileDevice {
    fn sectors(&self) -> u32 {
        (self.0.metadata().unwrap().len() / 512).try_into().unwrap()
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.0.seek(SeekFrom::Start(u64::from(first_sector) * 512)).map_err(|_| DeviceError::OutOfRange)?;
        self.0.read_exact(buf).map_err(|_| DeviceError::Io)
    }
}

/// Opens the volume of an image.
pub fn open(image: &[u8]) -> Result<Volume, Error> {
    Volume::open(&mut Watched::new(SliceDevice(image)), &mut SectorCache::new(&mut [0; 512])?)
}

/// Name and contents of each file of the root directory, in order.
pub fn list(image: &[u8]) -> Result<Vec<(String, File)>, Error> {
    list_of(SliceDevice(image))
}

/// Name and contents of each file of the root directory, in order.
pub fn list_of(device: impl BlockDevice) -> Result<Vec<(String, File)>, Error> {
    let (mut device, mut buf) = (Watched::new(device), [0; 512]);
    let mut cache = SectorCache::new(&mut buf)?;
    let mut files = Volume::open(&mut device, &mut cache)?.root();
    let mut list = Vec::new();
    while let Some(entry) = files.next(&mut device, &mut cache)? {
        list.push((entry.name.to_string(), entry.file));
    }
    Ok(list)
}

/// The extents of a file.
pub fn extents(image: &[u8], file: File) -> Result<Vec<Extent>, Error> {
    extents_of(SliceDevice(image), file)
}

/// The extents of a file.
pub fn extents_of(device: impl BlockDevice, file: File) -> Result<Vec<Extent>, Error> {
    let (mut device, mut buf) = (Watched::new(device), [0; 512]);
    let mut cache = SectorCache::new(&mut buf)?;
    let mut cursor = Volume::open(&mut device, &mut cache)?.extents(file);
    let mut extents = Vec::new();
    while let Some(extent) = cursor.next(&mut device, &mut cache)? {
        extents.push(extent);
    }
    Ok(extents)
}

/// The bytes of a file, through its extents.
pub fn contents_of(mut device: impl BlockDevice, file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Extent { first_sector, sectors } in extents_of(&mut device, file).expect("a sound chain") {
        let start = bytes.len();
        bytes.resize(start + sectors as usize * 512, 0);
        device.read(first_sector, &mut bytes[start..]).unwrap();
    }
    assert_eq!(bytes.len(), (file.size as usize).next_multiple_of(512), "as many sectors as the size needs");
    bytes.truncate(file.size as usize);
    bytes
}

/// A FAT32 volume without a partition table, 200 clusters of one sector, made from the specification: reserved
/// sectors 0 and 1, the FAT in 2 and 3, the root directory in cluster 2, which is sector 4.
pub struct TinyVolume {
    pub bytes: Vec<u8>,
    entries: usize,
}

pub const TINY_CLUSTERS: u32 = 200;
pub const END_OF_CHAIN: u32 = 0x0FFF_FFFF;

impl TinyVolume {
    pub fn new() -> Self {
        let sectors = 4 + TINY_CLUSTERS;
        let mut bytes = vec![0; sectors as usize * 512];
        bytes[0..3].copy_from_slice(&[0xEB, 0x58, 0x90]);
        bytes[11..13].copy_from_slice(&512u16.to_le_bytes());
        bytes[13] = 1; // sectors per cluster
        bytes[14] = 2; // reserved sectors
        bytes[16] = 1; // FATs
        bytes[21] = 0xF8; // media
        bytes[32..36].copy_from_slice(&sectors.to_le_bytes());
        bytes[36..40].copy_from_slice(&2u32.to_le_bytes()); // sectors per FAT
        bytes[44..48].copy_from_slice(&2u32.to_le_bytes()); // root cluster
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        let mut volume = Self { bytes, entries: 0 };
        volume.link(0, 0x0FFF_FFF8);
        volume.link(1, END_OF_CHAIN);
        volume.link(2, END_OF_CHAIN);
        volume
    }

    /// Sets the FAT's entry of `cluster`.
    pub fn link(&mut self, cluster: u32, value: u32) {
        self.bytes[2 * 512 + cluster as usize * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }

    /// Links the clusters to a chain.
    pub fn chain(&mut self, clusters: &[u32]) {
        for pair in clusters.windows(2) {
            self.link(pair[0], pair[1]);
        }
        self.link(*clusters.last().unwrap(), END_OF_CHAIN);
    }

    /// Appends a raw directory entry to the root directory's first cluster.
    pub fn raw_entry(&mut self, entry: [u8; 32]) {
        self.bytes[4 * 512 + self.entries * 32..][..32].copy_from_slice(&entry);
        self.entries += 1;
    }

    /// Appends a file without a long name.
    pub fn file(&mut self, short: &[u8; 11], first_cluster: u32, size: u32) -> File {
        self.raw_entry(short_entry(short, 0x20, first_cluster, size));
        File { first_cluster, size }
    }

    /// Appends the pieces of a long name with this checksum.
    pub fn long_name(&mut self, name: &str, checksum: u8) {
        let pieces = long_name_pieces(name, checksum);
        pieces.into_iter().for_each(|piece| self.raw_entry(piece));
    }
}

/// A directory entry.
pub fn short_entry(short: &[u8; 11], attributes: u8, first_cluster: u32, size: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(short);
    entry[11] = attributes;
    entry[20..22].copy_from_slice(&((first_cluster >> 16) as u16).to_le_bytes());
    entry[26..28].copy_from_slice(&(first_cluster as u16).to_le_bytes());
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    entry
}

/// The checksum of a short name, as in the specification.
pub fn checksum(short: &[u8; 11]) -> u8 {
    let mut sum = 0u8;
    for byte in short {
        sum = ((sum & 1) << 7).wrapping_add(sum >> 1).wrapping_add(*byte);
    }
    sum
}

/// The directory entries of a long name, in the order of the disk: the last piece first.
pub fn long_name_pieces(name: &str, checksum: u8) -> Vec<[u8; 32]> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut pieces = Vec::new();
    for (index, chunk) in units.chunks(13).enumerate() {
        let mut padded = [0xFFFF; 13];
        padded[..chunk.len()].copy_from_slice(chunk);
        if chunk.len() < 13 {
            padded[chunk.len()] = 0;
        }
        let mut piece = [0; 32];
        piece[0] = index as u8 + 1;
        piece[11] = 0x0F;
        piece[13] = checksum;
        for (unit, at) in padded.iter().zip([1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]) {
            piece[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        pieces.push(piece);
    }
    pieces.last_mut().unwrap()[0] |= 0x40;
    pieces.reverse();
    pieces
}
