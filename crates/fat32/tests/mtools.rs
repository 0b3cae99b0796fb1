//! Volumes made by dosfstools and filled by mtools: what goes in must come out.

mod common;

use common::*;
use mbrman::{CHS, MBR, MBRPartitionEntry};
use pageformer_fat32::{FatKind, SectorCache, Volume};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tool of dosfstools or mtools, which distributions put in different places.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn run(command: &mut Command) {
    let output =
        command.env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").output().expect("the tool starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A card made by tools that know FAT better than this crate.
struct Card {
    dir: tempfile::TempDir,
    image: PathBuf,
    /// First sector of the volume.
    offset: u32,
}

impl Card {
    /// A card of `mib` MiB; `None`, with a message, where the tools are not installed.
    fn make(mib: u32, bits: u8, cluster_sectors: u32, has_mbr: bool) -> Option<Self> {
        let Some(mkfs) = tool("mkfs.fat").filter(|_| tool("mcopy").is_some() && tool("mdel").is_some())
        else {
            eprintln!("skipped: mkfs.fat (dosfstools), mcopy and mdel (mtools) are not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("card.img");
        let offset = if has_mbr { 2048 } else { 0 };
        let sectors = mib * 2048 - offset;
        let mut file = fs::File::create_new(&image).unwrap();
        file.set_len(u64::from(mib) << 20).unwrap();
        if has_mbr {
            let mut mbr = MBR::new_from(&mut file, 512, [1, 2, 3, 4]).unwrap();
            // Not the first entry, and something else before it.
            let entry = |sys, starting_lba, sectors| MBRPartitionEntry {
                boot: 0,
                first_chs: CHS::empty(),
                sys,
                last_chs: CHS::empty(),
                starting_lba,
                sectors,
            };
            mbr[1] = entry(0x83, 64, 100);
            mbr[3] = entry(if bits == 16 { 0x0E } else { 0x0C }, offset, sectors);
            mbr.write_into(&mut file).unwrap();
        }
        let mut command = Command::new(mkfs);
        command.args(["-F", &bits.to_string(), "-s", &cluster_sectors.to_string(), "-n", "TESTCARD"]);
        if bits == 16 {
            command.args(["-r", "4096"]);
        }
        if has_mbr {
            command.args(["--offset", &offset.to_string()]);
        }
        run(command.arg(&image).arg((sectors / 2).to_string()));
        Some(Self { dir, image, offset })
    }

    /// How mtools calls the volume.
    fn drive(&self) -> String {
        format!("{}@@{}", self.image.display(), u64::from(self.offset) * 512)
    }

    /// Copies files into the root directory.
    fn copy_in(&self, files: &[(String, Vec<u8>)]) {
        let source = self.dir.path().join("source");
        fs::create_dir_all(&source).unwrap();
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| source.join(name)).collect();
        for (path, (_, bytes)) in paths.iter().zip(files) {
            fs::write(path, bytes).unwrap();
        }
        run(Command::new(tool("mcopy").unwrap()).args(["-i", &self.drive()]).args(paths).arg("::"));
        fs::remove_dir_all(source).unwrap();
    }

    fn delete(&self, names: &[&str]) {
        let paths = names.iter().map(|name| format!("::{name}"));
        run(Command::new(tool("mdel").unwrap()).args(["-i", &self.drive()]).args(paths));
    }

    /// A file as mtools reads it.
    fn copy_out(&self, name: &str) -> Vec<u8> {
        let target: &Path = &self.dir.path().join("copied out");
        run(Command::new(tool("mcopy").unwrap())
            .args(["-n", "-i", &self.drive(), &format!("::{name}")])
            .arg(target));
        fs::read(target).unwrap()
    }

    fn device(&self) -> FileDevice {
        FileDevice(fs::File::open(&self.image).unwrap())
    }

    /// Compares everything in the card with what was put in.
    fn check(&self, expected: &[(String, Vec<u8>)]) {
        let mut found = list_of(self.device()).unwrap();
        assert_eq!(found.len(), expected.len());
        for (name, bytes) in expected {
            let at = found
                .iter()
                .position(|(found, _)| found == name)
                .unwrap_or_else(|| panic!("no file {name} among {found:?}"));
            let (_, file) = found.swap_remove(at);
            assert_eq!(file.size as usize, bytes.len(), "{name}");
            assert!(contents_of(self.device(), file) == *bytes, "{name} has other contents");
        }
    }
}

/// Bytes that are different in every sector of every file.
fn noise(seed: usize, bytes: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..bytes)
        .map(|_| {
            // Knuth's MMIX generator.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// Files of every size around the limits of sectors and clusters, with names of every kind.
fn assortment(cluster_bytes: usize) -> Vec<(String, Vec<u8>)> {
    let sizes = [0, 1, 511, 512, 513, cluster_bytes, cluster_bytes + 1, 3 * cluster_bytes - 1, 100_000];
    let mut files: Vec<_> =
        sizes.iter().map(|size| (format!("a file of {size} bytes.bin"), noise(*size, *size))).collect();
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);
    for name in [
        "index.json",
        "pages.crc",
        "UPPER.TXT",
        "lower.txt",
        "Mixed.Txt",
        "noext",
        "two.dots.x",
        "größe 鳥.bin",
    ] {
        files.push((name.to_string(), noise(name.len(), 700)));
    }
    files
}

#[test]
fn what_mcopy_wrote_is_read() {
    for (mib, bits, cluster_sectors, has_mbr) in [
        (4, 16, 1, false),
        (8, 16, 1, true),
        (32, 16, 4, true),
        (512, 16, 32, false),
        (40, 32, 1, false),
        (40, 32, 1, true),
        // Sparse files: what they take is the FATs and the contents.
        (300, 32, 8, true),
        (4400, 32, 128, true),
    ] {
        let Some(card) = Card::make(mib, bits, cluster_sectors, has_mbr) else { return };
        let files = assortment(cluster_sectors as usize * 512);
        card.copy_in(&files);
        let volume = Volume::open(&mut card.device(), &mut SectorCache::new(&mut [0; 512]).unwrap()).unwrap();
        assert_eq!(volume.kind(), if bits == 16 { FatKind::Fat16 } else { FatKind::Fat32 });
        assert_eq!(volume.cluster_sectors(), cluster_sectors);
        assert_eq!(volume.first_sector(), card.offset);
        card.check(&files);
    }
}

/// A thousand files of one sector, with names as long as `dec0_Wk_shared_0000.bin`, but so that mcopy does not spend
/// half a minute on looking for short names that are free.
fn thousand() -> Vec<(String, Vec<u8>)> {
    (0..1000).map(|page| (format!("{page:04}_dec0_Wk_shared.bin"), noise(page, 512))).collect()
}

#[test]
fn a_thousand_files() {
    for (mib, bits) in [(8, 16), (40, 32)] {
        let Some(card) = Card::make(mib, bits, 1, true) else { return };
        let files = thousand();
        card.copy_in(&files);
        card.check(&files);
    }
}

/// Reads, and sectors read, of one pass over the directory that resolves every file.
fn one_pass(card: &Card, buf_bytes: usize) -> (u32, u32) {
    let (mut device, mut buf) = (Watched::new(card.device()), vec![0; buf_bytes]);
    let mut cache = SectorCache::new(&mut buf).unwrap();
    let volume = Volume::open(&mut device, &mut cache).unwrap();
    let mut files = volume.root();
    let mut count = 0;
    while let Some(entry) = files.next(&mut device, &mut cache).unwrap() {
        let mut extents = volume.extents(entry.file);
        while extents.next(&mut device, &mut cache).unwrap().is_some() {
            count += 1;
        }
    }
    assert_eq!(count, 1000);
    (device.reads, device.sectors_read)
}

#[test]
fn reads_of_one_pass_over_a_thousand_files() {
    let Some(card) = Card::make(40, 32, 1, true) else { return };
    card.copy_in(&thousand());
    // The table in the crate's documentation; other versions of mtools may place the directory differently.
    for (bytes, most) in [(512, 2200), (1024, 220), (4096, 70), (16384, 25)] {
        let (reads, sectors) = one_pass(&card, bytes);
        println!("cache of {bytes} bytes: {reads} reads, {sectors} sectors");
        assert!(reads <= most, "cache of {bytes} bytes: {reads} reads");
    }
}

#[test]
fn a_contiguous_file_is_one_extent_and_few_reads() {
    for (mib, bits, entries_per_fat_sector) in [(8, 16, 256), (40, 32, 128)] {
        let Some(card) = Card::make(mib, bits, 1, true) else { return };
        let bytes = noise(1, 3 << 20);
        card.copy_in(&[("weights.pages".to_string(), bytes.clone())]);
        card.check(&[("weights.pages".to_string(), bytes)]);

        let (mut device, mut buf) = (Watched::new(card.device()), [0; 512]);
        let mut cache = SectorCache::new(&mut buf).unwrap();
        let volume = Volume::open(&mut device, &mut cache).unwrap();
        let file = volume.find(&mut device, &mut cache, "WEIGHTS.PAGES").unwrap().unwrap();
        device.reads = 0;
        let mut extents = volume.extents(file);
        let extent = extents.next(&mut device, &mut cache).unwrap().unwrap();
        assert_eq!(extent.sectors, 3 << 11);
        assert_eq!(extents.next(&mut device, &mut cache), Ok(None));
        assert!(device.reads <= (3 << 11) / entries_per_fat_sector + 1, "{} reads", device.reads);
    }
}

#[test]
fn a_fragmented_file() {
    for (mib, bits, cluster_sectors) in [(5, 16, 1), (16, 16, 4), (40, 32, 1)] {
        let Some(card) = Card::make(mib, bits, cluster_sectors, true) else { return };
        // 80 % full, then every other file goes, then a file comes that is larger than any gap and the rest.
        let size = (mib as usize - 1) * (1 << 20) / 250;
        let mut files: Vec<_> =
            (0..200).map(|n| (format!("filler number {n}.bin"), noise(n, size))).collect();
        card.copy_in(&files);
        let gone: Vec<String> = files.iter().step_by(2).map(|(name, _)| name.clone()).collect();
        card.delete(&gone.iter().map(String::as_str).collect::<Vec<_>>());
        files.retain(|(name, _)| !gone.contains(name));
        let large = ("weights.pages".to_string(), noise(7, size * 120));
        card.copy_in(std::slice::from_ref(&large));
        files.push(large.clone());

        card.check(&files);
        assert!(card.copy_out("weights.pages") == large.1);
        let file = list_of(card.device()).unwrap().into_iter().find(|(name, _)| *name == large.0).unwrap().1;
        let extents = extents_of(card.device(), file).unwrap();
        assert!(extents.len() > 50, "{} extents: the test did not fragment the file", extents.len());
        assert_eq!(extents.iter().map(|extent| extent.sectors).sum::<u32>(), file.size.div_ceil(512));
        let touching = |pair: &[_; 2]| {
            let [a, b]: &[pageformer_fat32::Extent; 2] = pair;
            a.first_sector + a.sectors == b.first_sector
        };
        assert!(!extents.array_windows().any(touching), "neighbours are one extent");
    }
}
