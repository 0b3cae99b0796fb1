//! Cards on a FAT volume whose structures are damaged, or written by somebody else: a typed error, or the same text.

use std::cell::Cell;
use std::io::{Cursor, Write};
use std::sync::LazyLock;

use pageformer_card::{Layout, Shape};
use pageformer_engine::{Request, kernels};
use pageformer_fat32::{BlockDevice, ChainFault, DeviceError, Error as FatError, File, SectorCache, Volume};
use pageformer_image::{FileSource, Options, write_image};
use pageformer_mount::{MountError, Mounted, mount};
use pageformer_toolchain::CardFiles;
use pageformer_vram::Arena;

use crate::support::*;

const SECTOR: usize = 512;

/// An image in memory: what lies behind `used` is zero. Reads see the patches: offsets and the bytes there.
#[derive(Clone)]
struct Image<'a> {
    used: &'a [u8],
    sectors: u32,
    patches: Vec<(usize, Vec<u8>)>,
}

impl BlockDevice for Image<'_> {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        if first_sector as usize + buf.len() / SECTOR > self.sectors as usize {
            return Err(DeviceError::OutOfRange);
        }
        let start = first_sector as usize * SECTOR;
        let there = self.used.get(start..).unwrap_or(&[]);
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        buf[n..].fill(0);
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                if let Some(there) = at.checked_sub(start).and_then(|at| buf.get_mut(at)) {
                    *there = *byte;
                }
            }
        }
        Ok(())
    }
}

/// The bytes of an image of a card, up to the last that is not zero, and the number of its sectors.
fn image_bytes(card: &CardFiles) -> (Vec<u8>, u32) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.img");
    let files: Vec<_> =
        card.files.iter().map(|f| (f.name.clone(), FileSource::Bytes(f.bytes.clone()))).collect();
    write_image(&files, &path, &Options::default(), &mut |_, _| {}).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let sectors = (bytes.len() / SECTOR) as u32;
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (bytes, sectors)
}

#[derive(Debug)]
enum Failure {
    Mount(MountError),
    Engine(pageformer_engine::Error),
}

/// Mounts the card as a board does and lets it speak.
fn run_image(device: impl BlockDevice) -> Result<Said, Failure> {
    let ram = 96 << 10;
    let mut memory = memory(ram);
    let mut arena = Arena::new(&mut memory);
    let Mounted { card, manifest, table } = mount(device, &mut arena).map_err(Failure::Mount)?;
    let session = begin(card, &manifest, table, ram, arena, &Request::default(), kernels::best());
    say(&mut session.map_err(Failure::Engine)?, "the dog", 3).map_err(Failure::Engine)
}

/// A volume, its files by name, and where its structures lie.
struct Structures {
    volume: Volume,
    files: Vec<(String, File)>,
}

fn structures(image: &Image<'_>) -> Structures {
    let (mut device, mut buffer) = (image.clone(), [0; 1024]);
    let mut cache = SectorCache::new(&mut buffer).unwrap();
    let volume = Volume::open(&mut device, &mut cache).unwrap();
    let mut files = Vec::new();
    let mut root = volume.root();
    while let Some(entry) = root.next(&mut device, &mut cache).unwrap() {
        files.push((entry.name.to_string(), entry.file));
    }
    Structures { volume, files }
}

impl Structures {
    fn file(&self, name: &str) -> File {
        self.files.iter().find(|(found, _)| found == name).unwrap().1
    }

    /// The offset of a cluster's entry in the first FAT, which is FAT32's.
    fn entry(&self, cluster: u32) -> usize {
        self.volume.fat_first_sector() as usize * SECTOR + cluster as usize * 4
    }

    /// The offset of a file's 32 bytes in the root directory.
    fn directory_entry(&self, image: &Image<'_>, name: &str) -> usize {
        let file = self.file(name);
        let root = self.volume.root_first_sector() as usize * SECTOR;
        let is_it = |entry: &[u8]| {
            let field = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            // Not a part of a long name.
            entry[11] != 0x0F && u32::from(field(20)) << 16 | u32::from(field(26)) == file.first_cluster
        };
        root + image.used[root..].chunks(32).position(is_it).unwrap() * 32
    }
}

/// A card as an image, in both layouts.
fn cards() -> [(Layout, Image<'static>); 2] {
    static BYTES: LazyLock<[(Layout, Vec<u8>, u32); 2]> = LazyLock::new(|| {
        let (model, tokenizer) = random(two_kinds()[0], 8);
        [Layout::Packed, Layout::Files].map(|layout| {
            let (bytes, sectors) = image_bytes(&card_files(&model, &tokenizer, layout));
            (layout, bytes, sectors)
        })
    });
    BYTES
        .each_ref()
        .map(|(layout, used, sectors)| (*layout, Image { used, sectors: *sectors, patches: Vec::new() }))
}

/// Any bit of the partition table, the boot sector, the FAT and the directory: an error, or the same text.
#[test]
fn flipped_bits_of_the_file_system_never_change_the_text() {
    for (layout, sound) in cards() {
        let said = run_image(sound.clone()).unwrap();
        let s = structures(&sound);
        let sector = |n: u32| n as usize * SECTOR..(n as usize + 1) * SECTOR;
        let clusters = sound.used.len() / SECTOR - s.volume.data_first_sector() as usize;
        let fat = s.entry(0)..s.entry(clusters as u32 + 2);
        let directory = s.volume.root_first_sector() as usize * SECTOR;
        let regions = [
            (sector(0).start + 440..sector(0).end, 300),
            (sector(s.volume.first_sector()).start..sector(s.volume.first_sector()).start + 96, 300),
            (fat, 300),
            (directory..directory + s.files.len() * 3 * 32, 600),
        ];
        let mut random = Random(9);
        let (mut same, mut errors) = (0, 0);
        for (region, flips) in regions {
            for _ in 0..flips {
                let at = region.start + random.below(region.len());
                let byte = sound.used[at] ^ 1 << random.below(8);
                let damaged = Image { patches: vec![(at, vec![byte])], ..sound.clone() };
                match run_image(damaged) {
                    Ok(now) => {
                        same += 1;
                        assert_eq!(now, said, "byte {at} is {byte:02X}, {layout:?}");
                    }
                    Err(_) => errors += 1,
                }
            }
        }
        assert!(same > 100 && errors > 100);
    }
}

#[test]
fn a_chain_that_runs_in_circles_is_named() {
    let [(_, sound), _] = cards();
    let s = structures(&sound);
    for name in ["weights.pages", "tokenizer.bin"] {
        let first = s.file(name).first_cluster;
        let patch = |cluster: u32, next: u32| (s.entry(cluster), next.to_le_bytes().to_vec());
        for (patches, expected) in [
            (vec![patch(first, first)], ChainFault::Cyclic),
            (vec![patch(first, first + 1), patch(first + 1, first)], ChainFault::Cyclic),
            (vec![patch(first, 0)], ChainFault::Free),
            (vec![patch(first, 0x0FFF_FFF7)], ChainFault::Bad),
            (vec![patch(first, 0x0ABC_DEF0)], ChainFault::OutOfRange),
        ] {
            match run_image(Image { patches, ..sound.clone() }) {
                Err(Failure::Mount(MountError::Fat(FatError::Chain { first_cluster, fault, .. }))) => {
                    assert_eq!((first_cluster, fault), (first, expected), "{name}");
                }
                other => panic!("{name}, {expected:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn missing_files_are_named() {
    for (layout, sound) in cards() {
        let s = structures(&sound);
        let page_files = ["dec0_ln1.bin", "dec0_Wq.mask", "dec1_W2_0003.bin", "emb_weight_0000.bin"];
        let own: &[&str] = if layout == Layout::Packed { &["weights.pages"] } else { &page_files };
        for name in ["index.json", "pages.crc", "tokenizer.bin"].iter().chain(own) {
            let entry = s.directory_entry(&sound, name);
            let deleted = Image { patches: vec![(entry, vec![0xE5])], ..sound.clone() };
            match run_image(deleted) {
                Err(Failure::Mount(error @ (MountError::Missing(_) | MountError::MissingPage(_)))) => {
                    assert!(error.to_string().contains(name), "{name} is missing: {error}");
                }
                other => panic!("{name} is missing: {other:?}"),
            }
            // One byte shorter, and so another size than it must have.
            let size = s.file(name).size - 1;
            let shorter = Image { patches: vec![(entry + 28, size.to_le_bytes().to_vec())], ..sound.clone() };
            let error = run_image(shorter).expect_err(name);
            let text = match &error {
                Failure::Mount(error) => error.to_string(),
                Failure::Engine(error) => error.to_string(),
            };
            let file = if *name == "weights.pages" { "weights" } else { name };
            assert!(text.contains(file), "{name} is a byte too short: {text}");
        }
    }
}

/// What is no card at all: the error says what it is.
#[test]
fn other_devices_are_refused() {
    let [(_, sound), _] = cards();
    let blank = Image { used: &[], sectors: 4096, patches: Vec::new() };
    assert!(matches!(run_image(blank), Err(Failure::Mount(MountError::Fat(FatError::NoPartitionTable)))));
    let none = Image { used: &[], sectors: 0, patches: Vec::new() };
    assert!(matches!(run_image(none), Err(Failure::Mount(MountError::Fat(_)))));
    let cut = Image { sectors: sound.sectors / 2, ..sound };
    assert!(matches!(run_image(cut), Err(Failure::Mount(MountError::Fat(FatError::BeyondEnd { .. })))));
}

/// A device that fails at its n-th read, once or from then on.
struct Failing<'a> {
    image: Image<'a>,
    reads: &'a Cell<u32>,
    fails: fn(u32, u32) -> bool,
    at: u32,
    error: DeviceError,
}

impl BlockDevice for Failing<'_> {
    fn sectors(&self) -> u32 {
        self.image.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let now = self.reads.replace(self.reads.get() + 1);
        if (self.fails)(now, self.at) { Err(self.error) } else { self.image.read(first_sector, buf) }
    }
}

#[test]
fn a_device_that_fails_once_is_read_again_and_one_that_stays_bad_is_an_error() {
    for (layout, image) in cards() {
        let said = run_image(image.clone()).unwrap();
        for (fails, error, harmless) in [
            ((|now, at| now == at) as fn(u32, u32) -> bool, DeviceError::Io, true),
            (|now, at| now >= at, DeviceError::Io, false),
            (|now, at| now >= at, DeviceError::Removed, false),
        ] {
            let (mut at, mut stopped) = (0, 0);
            loop {
                let reads = Cell::new(0);
                let result = run_image(Failing { image: image.clone(), reads: &reads, fails, at, error });
                if reads.get() <= at {
                    assert_eq!(result.unwrap(), said);
                    break;
                }
                match result {
                    Ok(now) => assert_eq!(now, said, "it was read again"),
                    Err(_) => stopped += 1,
                }
                at += 1;
            }
            assert!(at > 10);
            assert_eq!(stopped, if harmless { 0 } else { at }, "of {at}, {layout:?}, {error:?}");
            // The card is not the worse for it.
            assert_eq!(run_image(image.clone()).unwrap(), said);
        }
    }
}

/// Formats a volume as any computer would and copies the files of a card to it, `interleave` bytes of `weights.pages` at a
/// time, each followed by some of another file.
fn copied_by_somebody_else(card: &CardFiles, interleave: Option<usize>) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 24 << 20]);
    let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(1024).fat_type(fatfs::FatType::Fat16);
    let options = options.max_root_dir_entries(2048);
    fatfs::format_volume(&mut disk, options).unwrap();
    {
        let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
        let root = volume.root_dir();
        let mut other = root.create_file("another file.txt").unwrap();
        for file in &card.files {
            let mut copy = root.create_file(&file.name).unwrap();
            for part in file.bytes.chunks(interleave.unwrap_or(usize::MAX)) {
                copy.write_all(part).unwrap();
                if file.name == "weights.pages" && interleave.is_some() {
                    other.write_all(&[0x55; 1024]).unwrap();
                }
            }
        }
    }
    disk.into_inner()
}

#[test]
fn a_card_that_somebody_else_copied_works_in_pieces_but_not_in_too_many() {
    let (model, tokenizer) = random(Shape { d_ff: 500, ..two_kinds()[0] }, 8);
    for layout in [Layout::Packed, Layout::Files] {
        let card = card_files(&model, &tokenizer, layout);
        let (bytes, sectors) = image_bytes(&card);
        let said = run_image(Image { used: &bytes, sectors, patches: Vec::new() }).unwrap();
        let run = |interleave| {
            let bytes = copied_by_somebody_else(&card, interleave);
            run_image(Image { used: &bytes, sectors: (bytes.len() / SECTOR) as u32, patches: Vec::new() })
        };
        assert_eq!(run(None).unwrap(), said, "{layout:?}");
        if layout == Layout::Packed {
            let weights = card.files.iter().find(|file| file.name == "weights.pages").unwrap().bytes.len();
            assert_eq!(run(Some((weights / 30).next_multiple_of(1024))).unwrap(), said, "30 pieces");
            let error = run(Some(1024));
            assert!(
                matches!(error, Err(Failure::Mount(MountError::Fragmented("weights.pages")))),
                "{} pieces: {error:?}",
                weights / 1024
            );
        }
    }
}
