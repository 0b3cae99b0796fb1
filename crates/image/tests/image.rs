//! Images, looked at with tools and libraries that know nothing of how they were written.

use pageformer_fat32::{BlockDevice, DeviceError, SectorCache, SliceDevice, Volume};
use pageformer_image::{Error, FatKind, FileSource, Options, PARTITION_SECTOR, Report, write_image};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

type Files = Vec<(String, FileSource)>;

/// A few files, one of them large, as in the packed layout.
fn packed(large: usize) -> Files {
    let file = |name: &str, bytes: usize| (name.to_string(), FileSource::Bytes(noise(name, bytes)));
    vec![
        file("index.json", 1234),
        file("weights.pages", large),
        file("pages.crc", large / 128),
        file("tokenizer.bin", 5000),
        file("pages.meta", 1024),
        file("README.TXT", 1),
        file("EMPTY", 0),
    ]
}

/// `count` pages and a few other files, as in the layout of one file per page.
fn pages(count: usize) -> Files {
    let name = |n: usize| format!("dec{}_Wk_shared_{:04}.bin", n / 1000, n % 1000);
    let mut files = vec![("index.json".to_string(), FileSource::Bytes(noise("index", 3000)))];
    files.extend((0..count).map(|n| (name(n), FileSource::Bytes(noise(&name(n), 512)))));
    files.push(("dec0_Wk_shared.mask".to_string(), FileSource::Bytes(noise("mask", 777))));
    files
}

/// Bytes that are different for each name.
fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let mut state =
        name.bytes().fold(1u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        noise.extend_from_slice(&(state ^ state >> 32).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

fn bytes_of(source: &FileSource) -> &[u8] {
    match source {
        FileSource::Bytes(bytes) => bytes,
        FileSource::Path(_) => panic!("the tests' files are in memory"),
    }
}

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
    report: Report,
}

fn image(files: &Files, options: &Options) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.img");
    let report = write_image(files, &path, options, &mut |_, _| {}).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), report.image_bytes);
    Image { _dir: dir, path, report }
}

fn fat16() -> Options {
    Options { kind: FatKind::Fat16, ..Options::default() }
}

/// Both layouts, both kinds of FAT, and cluster sizes that nobody would choose.
fn variety() -> Vec<(Files, Options)> {
    let clusters = |bytes| Options { cluster_bytes: Some(bytes), ..Options::default() };
    vec![
        (packed(1_000_000), Options::default()),
        (packed(1_000_000), fat16()),
        (packed(300_000), clusters(1024)),
        (pages(500), Options::default()),
        (pages(500), fat16()),
        (pages(100), Options { cluster_bytes: Some(32 * 1024), ..fat16() }),
        (vec![], Options::default()),
    ]
}

#[test]
fn our_reader_finds_every_file_in_one_run() {
    for (files, options) in variety() {
        let image = image(&files, &options);
        let bytes = fs::read(&image.path).unwrap();
        let (mut device, mut buf) = (SliceDevice(&bytes), [0; 1024]);
        let mut cache = SectorCache::new(&mut buf).unwrap();
        let volume = Volume::open(&mut device, &mut cache).unwrap();
        assert_eq!(volume.kind(), options.kind);
        assert_eq!(volume.first_sector(), PARTITION_SECTOR);
        let mut found = volume.root();
        let mut behind = volume.data_first_sector();
        for (name, source) in &files {
            let expected = bytes_of(source);
            let entry = found.next(&mut device, &mut cache).unwrap().unwrap();
            assert_eq!((entry.name, entry.file.size as usize), (name.as_str(), expected.len()));
            let mut extents = volume.extents(entry.file);
            let extent = extents.next(&mut device, &mut cache).unwrap();
            assert_eq!(extents.next(&mut device, &mut cache), Ok(None), "{name} is fragmented");
            let Some(extent) = extent else {
                assert!(expected.is_empty());
                continue;
            };
            let start = extent.first_sector as usize * 512;
            assert!(bytes[start..start + expected.len()] == *expected, "{name}");
            assert!(extent.first_sector >= behind, "{name} is not behind the file before");
            behind = extent.first_sector + extent.sectors;
        }
        assert_eq!(found.next(&mut device, &mut cache), Ok(None));
    }
}

#[test]
fn pages_are_one_run_of_sectors() {
    let files = pages(500);
    let image = image(&files, &Options::default());
    let bytes = fs::read(&image.path).unwrap();
    let pages: Vec<u8> = files[1..501].iter().flat_map(|(_, source)| bytes_of(source).to_vec()).collect();
    let start = bytes.windows(512).step_by(512).position(|sector| *sector == pages[..512]).unwrap() * 512;
    assert!(bytes[start..start + pages.len()] == pages);
}

/// `fatfs` wrote the empty volume only: it reads the rest as a stranger.
#[test]
fn fatfs_reads_the_same_bytes() {
    for (files, options) in variety() {
        let image = image(&files, &options);
        let volume = fs::read(&image.path).unwrap().split_off(PARTITION_SECTOR as usize * 512);
        let volume = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("PAGEFORMER"));
        let stats = volume.stats().unwrap();
        assert_eq!(stats.total_clusters(), image.report.clusters);
        assert_eq!(stats.free_clusters(), image.report.clusters - image.report.used_clusters);
        let mut found = BTreeMap::new();
        for entry in volume.root_dir().iter() {
            let entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes).unwrap();
            found.insert(entry.file_name(), bytes);
        }
        let expected: BTreeMap<_, _> =
            files.iter().map(|(name, source)| (name.clone(), bytes_of(source).to_vec())).collect();
        assert!(found == expected, "names or contents differ");
    }
}

#[test]
fn mbrman_reads_the_partition_table() {
    for (options, kind) in [(Options::default(), 0x0C), (fat16(), 0x0E)] {
        let image = image(&packed(10_000), &options);
        let table = mbrman::MBR::read_from(&mut fs::File::open(&image.path).unwrap(), 512).unwrap();
        let used: Vec<_> = table.iter().filter(|(_, entry)| entry.is_used()).collect();
        let [(1, entry)] = used.as_slice() else { panic!("{} partitions", used.len()) };
        assert_eq!((entry.sys, entry.starting_lba), (kind, PARTITION_SECTOR));
        assert_eq!(u64::from(entry.starting_lba + entry.sectors) * 512, image.report.image_bytes);
    }
}

/// A tool of dosfstools or mtools, which distributions put in different places.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} (of dosfstools or mtools) is not installed");
    }
    found
}

fn output(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C.UTF-8").output().expect("the tool starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The partition as a file of its own.
fn extract_partition(image: &Path) -> PathBuf {
    let mut volume = fs::File::open(image).unwrap();
    let partition = image.with_extension("partition");
    let mut out = fs::File::create(&partition).unwrap();
    volume.seek(SeekFrom::Start(u64::from(PARTITION_SECTOR) * 512)).unwrap();
    std::io::copy(&mut volume, &mut out).unwrap();
    partition
}

#[test]
fn fsck_finds_nothing() {
    let Some(fsck) = tool("fsck.fat") else { return };
    for (files, options) in variety() {
        let image = image(&files, &options);
        let said = output(Command::new(&fsck).arg("-n").arg(extract_partition(&image.path)));
        let (used, all) = (image.report.used_clusters, image.report.clusters);
        // The volume label counts as a file. Anything that is not in order, even a hint, has lines of its own.
        let summary = format!("{} files, {used}/{all} clusters", files.len() + 1);
        let lines: Vec<&str> = said.lines().collect();
        assert!(matches!(lines.as_slice(), [_version, last] if last.ends_with(&summary)), "{said}");
    }
}

#[test]
fn mdir_lists_every_name_and_size() {
    let Some(mdir) = tool("mdir") else { return };
    for (files, options) in variety() {
        let image = image(&files, &options);
        let drive = format!("{}@@1M", image.path.display());
        let listing = output(Command::new(&mdir).args(["-i", &drive, "::"]));
        assert!(listing.contains("Volume in drive : is PAGEFORMER"), "{listing}");
        for (name, source) in &files {
            let size = bytes_of(source).len();
            // SHORT EXT size date time  long name, with spaces between thousands.
            let is_listed = |line: &str| {
                let names_it = match name.as_str() {
                    "README.TXT" => line.starts_with("README   TXT "),
                    "EMPTY" => line.starts_with("EMPTY "),
                    _ => line.ends_with(&format!(" {name}")),
                };
                let fields = line.split_once("1980-01-01").map(|(fields, _)| fields);
                let digits = fields.map(|fields| fields.get(13..).unwrap_or("").replace(' ', ""));
                names_it && digits == Some(size.to_string())
            };
            assert!(listing.lines().any(is_listed), "{name} of {size} bytes is not in:\n{listing}");
        }
    }
}

#[test]
fn mcopy_reads_the_same_bytes() {
    let Some(mcopy) = tool("mcopy") else { return };
    for (files, options) in [(packed(1_000_000), Options::default()), (pages(300), fat16())] {
        let image = image(&files, &options);
        let target = image.path.with_file_name("copied");
        fs::create_dir(&target).unwrap();
        let drive = format!("{}@@1M", image.path.display());
        output(Command::new(&mcopy).args(["-i", &drive, "::*"]).arg(&target));
        for (name, source) in &files {
            assert!(fs::read(target.join(name)).unwrap() == bytes_of(source), "{name}");
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let files = pages(200);
    let (first, second) = (image(&files, &Options::default()), image(&files, &Options::default()));
    assert!(fs::read(&first.path).unwrap() == fs::read(&second.path).unwrap());

    // Also from files on disk, whatever their times are.
    let dir = tempfile::tempdir().unwrap();
    let mut from_disk = Vec::new();
    for (name, source) in &files {
        let path = dir.path().join(name);
        fs::write(&path, bytes_of(source)).unwrap();
        from_disk.push((name.clone(), FileSource::Path(path)));
    }
    assert!(fs::read(&first.path).unwrap() == fs::read(image(&from_disk, &Options::default()).path).unwrap());
}

#[test]
fn sizes_and_clusters() {
    let mib = |files: &Files, options: &Options| {
        let Report { image_bytes, cluster_bytes, .. } = image(files, options).report;
        (image_bytes >> 20, cluster_bytes)
    };
    assert_eq!(mib(&packed(1000), &Options::default()), (64, 512));
    assert_eq!(mib(&packed(67_000_000), &Options::default()), (128, 1024));
    assert_eq!(mib(&pages(5000), &Options::default()), (64, 512));
    assert_eq!(mib(&pages(1000), &fat16()), (4, 512));
    assert_eq!(mib(&packed(20_000_000), &fat16()), (32, 4096));
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_not_used_takes_no_space() {
    use std::os::unix::fs::MetadataExt;
    let image = image(&packed(10_000), &Options { cluster_bytes: Some(32 * 1024), ..Options::default() });
    assert_eq!(image.report.image_bytes, 4 << 30);
    let on_disk = fs::metadata(&image.path).unwrap().blocks() * 512;
    assert!(on_disk < 8 << 20, "{on_disk} bytes on disk");
}

/// Linear takes a fraction of a second; a search of the directory for each file would take the better part of an hour.
#[test]
fn thousands_of_files_are_no_trouble() {
    let image = image(&pages(20_000), &Options::default());
    assert_eq!(image.report.files, 20_002);
}

#[test]
fn mounting_twenty_thousand_files_takes_few_reads() {
    struct Counting(fs::File, u32);
    impl BlockDevice for Counting {
        fn sectors(&self) -> u32 {
            u32::MAX
        }
        fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
            self.1 += 1;
            let at = SeekFrom::Start(u64::from(first_sector) * 512);
            self.0.seek(at).and_then(|_| self.0.read_exact(buf)).map_err(|_| DeviceError::Io)
        }
    }
    let image = image(&pages(20_000), &Options::default());
    for (bytes, most) in [(1024, 4200), (16 * 1024, 320)] {
        let (mut device, mut buf) = (Counting(fs::File::open(&image.path).unwrap(), 0), vec![0; bytes]);
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
        assert_eq!(count, 20_002);
        println!("cache of {bytes} bytes: {} reads", device.1);
        assert!(device.1 <= most, "cache of {bytes} bytes: {} reads", device.1);
    }
}

#[test]
fn progress_ends_at_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let files = packed(5_000_000);
    write_image(&files, &dir.path().join("card.img"), &Options::default(), &mut |done, total| {
        seen.push((done, total));
    })
    .unwrap();
    let total = files.iter().map(|(_, source)| bytes_of(source).len() as u64).sum();
    assert_eq!(seen.first(), Some(&(0, total)));
    assert_eq!(seen.last(), Some(&(total, total)));
    assert!(seen.is_sorted() && seen.len() > 5);
}

/// Writing fails, and leaves the folder as it was.
fn refused(files: &Files, options: &Options) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.img");
    fs::write(&path, b"what was here before").unwrap();
    let error = write_image(files, &path, options, &mut |_, _| {}).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"what was here before");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
    error
}

fn named(names: &[&str]) -> Files {
    names.iter().map(|name| (name.to_string(), FileSource::Bytes(vec![1]))).collect()
}

#[test]
fn impossible_files_are_refused() {
    let default = Options::default();
    for name in ["", "a/b", "a\\b", "a:b", "what?", "dot.", "space ", " space", "tab\t", &"x".repeat(256)] {
        let error = refused(&named(&[name]), &default);
        assert!(matches!(&error, Error::Name { name: found, .. } if found == name), "{name:?}: {error}");
    }
    assert!(matches!(refused(&named(&["Index.json", "index.JSON"]), &default), Error::Duplicate { .. }));
    let many: Vec<String> = (0..22_000).map(|n| format!("dec0_Wk_shared_{n:05}.bin")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(refused(&named(&many), &default), Error::TooManyFiles { entries: 66_001, .. }));
    let missing = vec![("a".to_string(), FileSource::Path("/there is/no such file".into()))];
    assert!(matches!(refused(&missing, &default), Error::Read { .. }));
    let folder = vec![("a".to_string(), FileSource::Path(std::env::temp_dir()))];
    assert!(matches!(refused(&folder, &default), Error::Read { .. }));
}

#[test]
fn impossible_options_are_refused() {
    let files = packed(1000);
    for bytes in [0, 256, 1000, 64 * 1024] {
        let options = Options { cluster_bytes: Some(bytes), ..Options::default() };
        assert!(matches!(refused(&files, &options), Error::ClusterSize { .. }));
    }
    for label in ["", "lower case", "TWELVE_CHARS", "ÄÖÜ", "A/B"] {
        let options = Options { label: label.into(), ..Options::default() };
        assert!(matches!(refused(&files, &options), Error::Label { .. }), "{label}");
    }
    // 65,524 clusters of 512 bytes are 32 MiB.
    let options = Options { cluster_bytes: Some(512), ..fat16() };
    assert!(matches!(refused(&packed(40_000_000), &options), Error::NoFit { .. }));
}

#[test]
fn a_file_that_changes_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("card.img"));
    let files = vec![
        ("first".to_string(), FileSource::Bytes(vec![1; 10])),
        ("second".to_string(), FileSource::Path(source.clone())),
    ];
    for (before, after) in [(1000, 999), (1000, 1001)] {
        fs::write(&source, vec![7; before]).unwrap();
        // The first call comes when all sizes are known and nothing is read.
        let mut change = |_, _| fs::write(&source, vec![7; after]).unwrap();
        let error = write_image(&files, &out, &Options::default(), &mut change).unwrap_err();
        assert!(matches!(error, Error::Changed { expected: 1000, .. }), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn a_folder_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_image(&packed(10), dir.path(), &Options::default(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::NotAFile { .. }));
}

#[test]
fn names_that_need_a_short_one_get_different_ones() {
    // Some are like the short names that would be given first.
    let names = [
        "INDEX~1.JSO",
        "index.json",
        "index.jsonl",
        "Index.Json5",
        "A~2.B",
        "a.b.c",
        "a b.c",
        ".hidden",
        "no_ext_at_all",
        "größe.bin",
        "鳥.bin",
        "plus+plus",
        "UPPER.BIN",
        "lower.bin",
        "Mixed.Bin",
        "TOOLONGNAME",
        "SHORT.LONG",
        "x.y.z",
    ];
    for options in [Options::default(), fat16()] {
        let image = image(&named(&names), &options);
        let volume = fs::read(&image.path).unwrap().split_off(PARTITION_SECTOR as usize * 512);
        let volume = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        let entries: Vec<_> = volume.root_dir().iter().map(|entry| entry.unwrap()).collect();
        assert_eq!(entries.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), names);
        let mut short: Vec<_> =
            entries.iter().map(|entry| entry.short_file_name_as_bytes().to_vec()).collect();
        short.sort();
        short.dedup();
        assert_eq!(short.len(), names.len(), "two files have the same short name");
        if let Some(fsck) = tool("fsck.fat") {
            output(Command::new(fsck).arg("-n").arg(extract_partition(&image.path)));
        }
    }
}
