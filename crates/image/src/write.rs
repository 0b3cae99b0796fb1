//! The image, front to back: partition table, empty volume, FATs and directory, files.

use crate::directory::Directory;
use crate::plan::Plan;
use crate::verify::ImageDevice;
use crate::{Error, FatKind, FileSource, PARTITION_SECTOR};
use fatfs::{FatType, FormatVolumeOptions};
use mbrman::{BOOT_INACTIVE, CHS, MBR, MBRPartitionEntry};
use pageformer_fat32::{SECTOR_BYTES, SectorCache, Volume};
use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Fixed, so that images are reproducible.
const DISK_SIGNATURE: [u8; 4] = *b"PGFM";
/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Slack up to here is written as zeros instead of left as a hole, which would cost a system call for each file.
const SMALL_SLACK: u32 = 4096;

/// FAT16's is the lower half.
const END_OF_CHAIN: u32 = 0x0FFF_FFFF;

/// Byte at which a sector begins.
fn byte_of(sector: u32) -> u64 {
    u64::from(sector) * SECTOR_BYTES as u64
}

/// Writes partition table and empty volume into an empty file and opens the volume.
pub(crate) fn empty_volume(
    image: &mut File,
    out: &Path,
    plan: &Plan,
    label: [u8; 11],
    volume_id: u32,
) -> Result<Volume, Error> {
    let in_out = |source| Error::Write { path: out.into(), source };
    // A hole that everything else is written into.
    image.set_len(plan.image_bytes()).map_err(in_out)?;

    let mut table = MBR::new_from(image, SECTOR_BYTES as u32, DISK_SIGNATURE)?;
    // Cylinders, heads and sectors for "see the sector numbers", as every card above 8 GB has them.
    let chs = CHS::new(1023, 254, 63);
    table[1] = MBRPartitionEntry {
        boot: BOOT_INACTIVE,
        first_chs: chs,
        // The types whose partitions are found by sector number.
        sys: match plan.kind {
            FatKind::Fat32 => 0x0C,
            FatKind::Fat16 => 0x0E,
        },
        last_chs: chs,
        starting_lba: PARTITION_SECTOR,
        sectors: plan.volume_sectors(),
    };
    // In memory first: what goes wrong with the file is then said by the system, not by the table's writer.
    let mut sector = Cursor::new(vec![0; SECTOR_BYTES]);
    table.write_into(&mut sector)?;
    image.rewind().and_then(|()| image.write_all(&sector.into_inner())).map_err(in_out)?;

    let mut format = FormatVolumeOptions::new()
        .total_sectors(plan.volume_sectors())
        .bytes_per_cluster(plan.cluster_bytes())
        .fat_type(match plan.kind {
            FatKind::Fat32 => FatType::Fat32,
            FatKind::Fat16 => FatType::Fat16,
        })
        .volume_id(volume_id)
        .volume_label(label);
    if plan.kind == FatKind::Fat16 {
        format = format.max_root_dir_entries(plan.fixed_entries);
    }
    // Everything that formatting writes is at the front of the volume: reserved sectors, FATs, an empty root directory.
    let mut front = Cursor::new(Vec::new());
    fatfs::format_volume(&mut front, format).map_err(Error::Format)?;
    let mut front = front.into_inner();

    // Sectors before the volume, in the boot sector and FAT32's copy of it: fatfs does not know of partitions, but
    // Windows reads this field.
    let boot_sectors: &[usize] = if plan.kind == FatKind::Fat32 { &[0, 6] } else { &[0] };
    for sector in boot_sectors {
        front[sector * SECTOR_BYTES + 28..][..4].copy_from_slice(&PARTITION_SECTOR.to_le_bytes());
    }
    if plan.kind == FatKind::Fat32 {
        // FSInfo: how many clusters will be free, and the first of them.
        let free = (plan.clusters + 2) - plan.next_free;
        front[SECTOR_BYTES + 488..][..4].copy_from_slice(&free.to_le_bytes());
        front[SECTOR_BYTES + 492..][..4].copy_from_slice(&plan.next_free.to_le_bytes());
    }
    write_at(image, PARTITION_SECTOR, &front).map_err(in_out)?;
    Ok(Volume::open(&mut ImageDevice(image), &mut SectorCache::new(&mut [0; SECTOR_BYTES])?)?)
}

/// Writes the FATs and the root directory.
pub(crate) fn metadata(
    image: &mut File,
    volume: &Volume,
    plan: &Plan,
    directory: &Directory,
    sizes: &[u32],
) -> io::Result<()> {
    let chains = std::iter::once(plan.directory_clusters)
        .chain(sizes.iter().map(|size| size.div_ceil(plan.cluster_bytes())));
    // Entries 0 and 1 stand for no cluster and are as the formatter left them.
    let mut fat = Vec::with_capacity(plan.next_free as usize * 4);
    let mut cluster = 2;
    for clusters in chains {
        for left in (0..clusters).rev() {
            cluster += 1;
            let next = if left == 0 { END_OF_CHAIN } else { cluster };
            match plan.kind {
                FatKind::Fat32 => fat.extend_from_slice(&next.to_le_bytes()),
                FatKind::Fat16 => fat.extend_from_slice(&(next as u16).to_le_bytes()),
            }
        }
    }
    let reserved_bytes = match plan.kind {
        FatKind::Fat32 => 8,
        FatKind::Fat16 => 4,
    };
    for copy in 0..volume.fats() {
        let sector = volume.fat_first_sector() + copy * volume.fat_sectors();
        image.seek(SeekFrom::Start(byte_of(sector) + reserved_bytes))?;
        image.write_all(&fat)?;
    }
    let places = plan.first_clusters.iter().copied().zip(sizes.iter().copied());
    write_at(image, volume.root_first_sector(), &directory.encode(places))
}

/// Writes the files, which lie one behind the other.
pub(crate) fn contents(
    image: &mut File,
    out: &Path,
    volume: &Volume,
    plan: &Plan,
    files: &[(String, FileSource)],
    sizes: &[u32],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let in_out = |source| Error::Write { path: out.into(), source };
    let total = sizes.iter().map(|size| u64::from(*size)).sum();
    let mut done = 0;
    progress(done, total);
    let first = volume.cluster_first_sector(2 + plan.directory_clusters);
    image.seek(SeekFrom::Start(byte_of(first))).map_err(in_out)?;
    let mut image = BufWriter::with_capacity(CHUNK_BYTES, image);
    let mut chunk = Vec::new();
    for ((name, source), size) in files.iter().zip(sizes) {
        let read = |error| Error::Read { path: source_path(name, source), source: error };
        let mut reader: Box<dyn Read> = match source {
            FileSource::Bytes(bytes) => Box::new(bytes.as_slice()),
            FileSource::Path(path) => Box::new(File::open(path).map_err(read)?),
        };
        let mut left = *size;
        while left > 0 {
            chunk.clear();
            let most = u64::from(left).min(CHUNK_BYTES as u64);
            let got = reader.as_mut().take(most).read_to_end(&mut chunk).map_err(read)?;
            if got == 0 {
                break;
            }
            image.write_all(&chunk).map_err(in_out)?;
            left -= got as u32;
            done += got as u64;
            progress(done, total);
        }
        // Shorter or longer than it was.
        if left > 0 || reader.read(&mut [0]).map_err(read)? > 0 {
            return Err(Error::Changed { path: source_path(name, source), expected: *size });
        }
        let slack = (plan.cluster_bytes() - size % plan.cluster_bytes()) % plan.cluster_bytes();
        if slack > SMALL_SLACK {
            image.seek(SeekFrom::Current(i64::from(slack))).map_err(in_out)?;
        } else {
            image.write_all(&[0; SMALL_SLACK as usize][..slack as usize]).map_err(in_out)?;
        }
    }
    image.flush().map_err(in_out)
}

fn source_path(name: &str, source: &FileSource) -> PathBuf {
    match source {
        FileSource::Bytes(_) => name.into(),
        FileSource::Path(path) => path.clone(),
    }
}

fn write_at(image: &mut File, sector: u32, bytes: &[u8]) -> io::Result<()> {
    image.seek(SeekFrom::Start(byte_of(sector)))?;
    image.write_all(bytes)
}
