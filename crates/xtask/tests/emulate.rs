//! The firmware in QEMU says what the PC says, in 64 KiB of RAM, whatever the card.
//!
//! Takes minutes, and needs `qemu-system-arm`, a toolchain for the board and the test data. So it runs only with
//! `PAGEFORMER_REQUIRE_EMULATOR` set, as `firmware/ci.sh` does; then it is a failure if one of them is missing.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pageformer_card::Layout;
use pageformer_engine::{Engine, Needs, Plan, Request, Session, kernels};
use pageformer_fat32::FatKind;
use pageformer_image::{FileSource, write_image};
use pageformer_vram::Arena;
use tempfile::TempDir;
use xtask::emulator::{Emulator, Options, installed, instructions};
use xtask::{card, firmware};

/// What the stack may take at most, in bytes.
const STACK_LIMIT: u32 = 10 * 1024;
/// Prompts that continue, break off, repeat, and have characters that the vocabulary has no token for.
const PROMPTS: [&str; 12] = [
    "Once upon a time",
    "Lily and Tom went to the park",
    "The big dog",
    "\"Hello,\" said the",
    "One day, a little bird",
    "It was a dark night and",
    "a",
    "They lived happily ever after.",
    "Größe 日本 ...",
    "Tim  had   a red    ball.",
    "The cat sat on the mat. The cat sat on the mat. The cat sat on the",
    "123 + 456 =",
];

/// The firmware, built once; `None` where it cannot be.
fn built() -> Option<&'static Path> {
    static ELF: OnceLock<Option<PathBuf>> = OnceLock::new();
    ELF.get_or_init(|| {
        if std::env::var_os("PAGEFORMER_REQUIRE_EMULATOR").is_none() {
            eprintln!("skipped: takes minutes; `bash firmware/ci.sh` runs it");
            return None;
        }
        assert!(installed(), "qemu-system-arm is not installed");
        if let Err(error) = firmware::Toolchain::find(firmware::TARGET) {
            panic!("{error}");
        }
        Some(firmware::build().unwrap())
    })
    .as_deref()
}

/// A folder with `stories260K` as a card.
fn stories(layout: Layout) -> Option<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let card = card::stories(dir.path(), layout).unwrap();
    if card.is_none() {
        eprintln!("skipped: the test data is not here");
    }
    Some((dir, card?))
}

/// Its files, to be spoiled.
fn files(card: &Path) -> Vec<(String, FileSource)> {
    let read = |name: String| {
        let bytes = fs::read(card.join(&name)).unwrap();
        (name, FileSource::Bytes(bytes))
    };
    card::files(card).unwrap().into_iter().map(read).collect()
}

fn image(dir: &Path, files: &[(String, FileSource)], kind: FatKind) -> PathBuf {
    let image = dir.join("card.img");
    let options = pageformer_image::Options { kind, ..Default::default() };
    write_image(files, &image, &options, &mut |_, _| {}).unwrap();
    image
}

fn start(elf: &Path, image: Option<&Path>) -> (Emulator, String) {
    let mut emulator = Emulator::start(elf, &Options { image, ..Options::default() }).unwrap();
    let banner = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    (emulator, banner)
}

/// The number before a word.
fn number(text: &str, word: &str) -> u32 {
    let before = text.split(word).next().unwrap();
    let digits = before.trim().rsplit(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number before {word:?} in {text}"))
}

/// What the PC answers: the engine over the same card, with the same number of positions but as much memory as it likes,
/// and no console.
fn on_the_pc(card: &Path, context: u32, max_tokens: u32) -> Vec<String> {
    let mut memory = vec![0u64; 1 << 17];
    let bytes = memory.len() * 8;
    let mut arena = Arena::new(&mut memory);
    let opened = pageformer_sim::open(card, &mut arena).unwrap();
    let request = Request { context: Some(context), ..Request::default() };
    let needs = Needs::new(&opened.manifest, &opened.table);
    let plan = Plan::new(&needs, bytes, &request).unwrap();
    let manifest = opened.manifest;
    let engine =
        Engine::start(opened.card, &manifest, opened.table, &plan, &mut arena, kernels::best()).unwrap();
    let mut session = Session::start(engine, &manifest, &mut arena).unwrap();
    let mut answer = |prompt: &&str| {
        let mut text = Vec::new();
        session.reset();
        session
            .reply(prompt, "", max_tokens, &mut |bytes| {
                text.extend_from_slice(bytes);
                true
            })
            .unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    PROMPTS.iter().map(&mut answer).collect()
}

/// Both layouts: the same bytes as the PC, the least number of pages, several of them with one command, and a stack that
/// stays below its limit.
fn says_what_the_pc_says(layout: Layout) {
    const TOKENS: u32 = 12;
    let (Some(elf), Some((dir, card))) = (built(), stories(layout)) else { return };
    let image = image(dir.path(), &files(&card), FatKind::Fat32);
    let (mut emulator, banner) = start(elf, Some(&image));
    let context = number(&banner, " positions");
    assert!((64..512).contains(&context), "{banner}");
    emulator.line(&format!("/max {TOKENS}")).unwrap();
    for (prompt, want) in PROMPTS.iter().zip(on_the_pc(&card, context, TOKENS)) {
        let said = emulator.line(prompt).unwrap();
        let (text, statistics) = said.rsplit_once("\n(").unwrap();
        assert_eq!(text, want, "{prompt}");
        let tokens = number(statistics, " tokens");
        assert!(tokens == TOKENS || want.len() < 40, "{said}");

        let stats = emulator.line("/stats").unwrap();
        let passes = stats.split("tape: ").nth(1).unwrap().lines().next().unwrap().parse::<u32>().unwrap();
        let per_pass = stats.split("per pass: ").nth(1).unwrap();
        let least = per_pass.split("possible is ").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(per_pass.split(".0 of").next().unwrap(), least, "{stats}");
        let reads = stats.split("reads: ").nth(1).unwrap().split(',').next().unwrap().parse::<u32>().unwrap();
        assert!(reads * 4 < passes * least.parse::<u32>().unwrap(), "reads are of several pages: {stats}");
        assert!(stats.contains("of them again: 0"), "{stats}");
    }
    let memory = emulator.line("/memory").unwrap();
    println!("{memory}");
    let [flash, statics] =
        ["flash: ", "RAM: "].map(|s| number(&memory.split(s).nth(1).unwrap().replace(" B", " #"), " #"));
    let used = number(memory.split("at most ").nth(1).unwrap(), " B of");
    assert!(flash <= 128 << 10, "{memory}");
    assert!(used > 2048 && used <= STACK_LIMIT && statics + used <= 64 << 10, "{memory}");
}

#[test]
fn packed_card_says_what_the_pc_says() {
    says_what_the_pc_says(Layout::Packed);
}

#[test]
fn card_of_single_pages_says_what_the_pc_says() {
    says_what_the_pc_says(Layout::Files);
}

/// Instructions, not time: the same in every run.
#[test]
fn counts_instructions() {
    let (Some(elf), Some((dir, card))) = (built(), stories(Layout::Packed)) else { return };
    let image = image(dir.path(), &files(&card), FatKind::Fat32);
    let ticks = [(); 2].map(|()| {
        let options = Options { image: Some(&image), counted: true, ..Options::default() };
        let mut emulator = Emulator::start(elf, &options).unwrap();
        emulator.until_prompt().unwrap();
        number(&emulator.line("/bench").unwrap(), " ticks")
    });
    let [first, second] = ticks.map(|ticks| instructions(ticks.into(), 50_000_000));
    println!("{first} instructions per token");
    // The moment at which the line is typed shifts where the timer interrupts.
    assert!(first.abs_diff(second) <= first / 1000, "{first} and {second}");
}

/// What is wrong with a card, what is said about it, and that the prompt comes all the same.
#[test]
fn a_bad_card_is_explained() {
    let (Some(elf), Some((dir, card))) = (built(), stories(Layout::Packed)) else { return };
    let good = files(&card);
    let check = |image: Option<&Path>, says: &[&str]| {
        let (mut emulator, banner) = start(elf, image);
        for text in says {
            assert!(banner.contains(text), "{text:?} in: {banner}");
        }
        assert!(!banner.contains("panic"), "{banner}");
        // The console lives, with a session or without.
        let said = emulator.line("/memory").unwrap();
        assert!(said.contains("stack: at most"), "{said}");
        emulator
    };
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = good.clone();
        for (found, source) in &mut files {
            if let FileSource::Bytes(bytes) = source
                && found == name
            {
                change(bytes);
            }
        }
        files
    };

    let mut emulator = check(None, &["no card"]);
    assert!(emulator.line("hello").unwrap().contains("no model"));
    assert!(emulator.line("/card").unwrap().contains("no card"));

    // FAT16 is read as well.
    check(Some(&image(dir.path(), &good, FatKind::Fat16)), &["stories260K", "positions"]);

    let foreign = [("README.TXT".to_owned(), FileSource::Bytes(b"holiday pictures".to_vec()))];
    check(Some(&image(dir.path(), &foreign, FatKind::Fat32)), &["index.json", "root directory"]);

    let other = with("index.json", &|json| *json = br#"{"format": "another program's"}"#.to_vec());
    check(Some(&image(dir.path(), &other, FatKind::Fat32)), &["index.json", "`format`", "another program"]);

    let newer = with("index.json", &|json| {
        let text = String::from_utf8(json.clone()).unwrap();
        *json = text.replacen("\"version\": 1", "\"version\": 9", 1).into_bytes();
    });
    check(Some(&image(dir.path(), &newer, FatKind::Fat32)), &["`version` 9", "update"]);

    let short = with("weights.pages", &|bytes| bytes.truncate(100 * 512));
    check(Some(&image(dir.path(), &short, FatKind::Fat32)), &["weights", "51200 bytes"]);

    // One bit of a page in the middle: nothing is said from it.
    let flipped = with("weights.pages", &|bytes| bytes[300 * 512 + 17] ^= 4);
    let mut emulator = check(Some(&image(dir.path(), &flipped, FatKind::Fat32)), &[]);
    let said = emulator.line("Once upon a time").unwrap();
    assert!(said.contains("error: page") && said.contains("checksum"), "{said}");

    // The FAT itself: entries of all files that say they are free.
    let broken = image(dir.path(), &good, FatKind::Fat32);
    spoil_fats(&broken);
    check(Some(&broken), &["error: the cluster chain", "fsck"]);

    let blank = dir.path().join("blank.img");
    fs::File::create(&blank).unwrap().set_len(64 << 20).unwrap();
    check(Some(&blank), &["no partition table", "FAT32"]);
}

/// Zeroes everything but the first entries of both FATs.
fn spoil_fats(image: &Path) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
    let start = 2048 * 512;
    let mut boot = [0; 512];
    file.seek(SeekFrom::Start(start)).unwrap();
    file.read_exact(&mut boot).unwrap();
    let reserved = u64::from(u16::from_le_bytes([boot[14], boot[15]]));
    let fat_sectors = u64::from(u32::from_le_bytes([boot[36], boot[37], boot[38], boot[39]]));
    for fat in 0..u64::from(boot[16]) {
        // Entries 0 and 1 are reserved; the root directory, cluster 2, stays.
        file.seek(SeekFrom::Start(start + (reserved + fat * fat_sectors) * 512 + 12)).unwrap();
        file.write_all(&[0; 500]).unwrap();
    }
}

/// Pulled out while it answers: the answer ends with an error; put back: the model is there again.
#[test]
fn a_card_is_pulled_out_and_put_back() {
    let (Some(elf), Some((dir, card))) = (built(), stories(Layout::Packed)) else { return };
    let image = image(dir.path(), &files(&card), FatKind::Fat32);
    let socket = dir.path().join("monitor");
    let options = Options { image: Some(&image), monitor: Some(&socket), ..Options::default() };
    let mut emulator = Emulator::start(elf, &options).unwrap();
    emulator.until_prompt().unwrap();
    let mut monitor = UnixStream::connect(&socket).unwrap();
    emulator.send(b"Once upon a time\r").unwrap();
    emulator.until(&[b", there"]).unwrap();
    monitor.write_all(b"eject -f sd0\n").unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains("error: ") && said.contains("the card is gone"), "{said}");
    assert!(emulator.line("hello").unwrap().contains("no model"));
    monitor.write_all(format!("change sd0 {} raw\n", image.display()).as_bytes()).unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains("a card was put in") && said.contains("stories260K"), "{said}");
    emulator.line("/max 4").unwrap();
    assert!(emulator.line("Once upon a time").unwrap().starts_with(", there was"));
}

/// Ctrl-C ends an answer, and the next one is whole.
#[test]
fn an_answer_is_stopped() {
    let (Some(elf), Some((dir, card))) = (built(), stories(Layout::Packed)) else { return };
    let image = image(dir.path(), &files(&card), FatKind::Fat32);
    let (mut emulator, _) = start(elf, Some(&image));
    emulator.send(b"Once upon a time\r").unwrap();
    emulator.until(&[b", there"]).unwrap();
    emulator.send(b"\x03").unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains(", stopped)"), "{said}");
    let pages = emulator.line("/pages").unwrap();
    assert!(pages.contains("page debugger"), "{pages}");
    let page = emulator.line("P 3").unwrap();
    assert!(page.contains("page 3: dec0_") && page.contains("checksum: right"), "{page}");
    emulator.line("R").unwrap();
    assert!(emulator.line("p 3").unwrap().contains("loads:    0"));
    emulator.line("Q").unwrap();
    emulator.line("/max 4").unwrap();
    assert!(emulator.line("Once upon a time").unwrap().starts_with(", there was"));
}
