//! Cards that are wrong, damaged or pulled out: the right message, and a console that lives.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use pageformer_card::{Layout, PAGE_BYTES};
use pageformer_fat32::FatKind;
use pageformer_image::FileSource;
use pageformer_vram::{Arena, PageMeta, read_meta};
use xtask::emulator::{Emulator, Options};

use crate::cards::{self, image};
use crate::{built, start};

/// Starts with a card and looks for what must be said about it, and that the console lives all the same.
fn check(elf: &Path, image: Option<&Path>, says: &[&str]) -> Emulator {
    let (mut emulator, banner) = start(elf, image);
    for text in says {
        assert!(banner.contains(text), "{text:?} in: {banner}");
    }
    assert!(!banner.contains("panic"), "{banner}");
    let said = emulator.line("/memory").unwrap();
    assert!(said.contains("stack: at most"), "{said}");
    emulator
}

/// The files of a card, one of them changed.
fn with(
    files: &[(String, FileSource)],
    name: &str,
    change: &dyn Fn(&mut Vec<u8>),
) -> Vec<(String, FileSource)> {
    let mut files = files.to_vec();
    for (found, source) in &mut files {
        if let FileSource::Bytes(bytes) = source
            && found == name
        {
            change(bytes);
        }
    }
    files
}

/// What is wrong with a card, and what is said about it.
#[test]
fn a_bad_card_is_explained() {
    let Some(elf) = built() else { return };
    let card = cards::sketch(Layout::Packed);
    let (dir, good) = (&card.dir, card.files());
    let check = |image: Option<&Path>, says: &[&str]| check(elf, image, says);
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| with(&good, name, change);

    let mut emulator = check(None, &["no card"]);
    assert!(emulator.line("hello").unwrap().contains("no model"));
    assert!(emulator.line("/card").unwrap().contains("no card"));

    // FAT16 is read as well.
    check(Some(&image(dir.path(), &good, FatKind::Fat16)), &["sketch", "positions"]);

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

    // One bit of a page: nothing is said from it, and it is named at boot, whether it stays in RAM, streams by, or is one of the
    // tokenizer.
    for (file, page, named) in [
        ("weights.pages", 0, "error: page 0 of dec0_ln1 (page 0 of weights: the checksum is wrong"),
        ("weights.pages", 100, "error: page 6 of dec1_Wq (page 100 of weights: the checksum is wrong"),
        ("weights.pages", 202, "error: page 16 of emb_weight (page 202 of weights: the checksum is wrong"),
        ("tokenizer.bin", 0, "error: page 0 of tokenizer.bin: the checksum is wrong"),
    ] {
        let flipped = with(file, &|bytes| bytes[page * 512 + 17] ^= 4);
        let image = image(dir.path(), &flipped, FatKind::Fat32);
        let mut emulator = check(Some(&image), &[named, "export it again"]);
        assert!(emulator.line("Once upon a time").unwrap().contains("no model"));
        assert!(emulator.line("/card").unwrap().contains(named));
    }

    // The FAT itself: entries of all files that say they are free.
    let broken = image(dir.path(), &good, FatKind::Fat32);
    spoil_fats(&broken);
    check(Some(&broken), &["error: the cluster chain", "fsck"]);

    let blank = dir.path().join("blank.img");
    fs::File::create(&blank).unwrap().set_len(64 << 20).unwrap();
    check(Some(&blank), &["no partition table", "FAT32"]);
}

/// A model that the RAM is too small for: how much is missing, for what, and what would help.
#[test]
fn a_model_that_does_not_fit_is_explained() {
    let Some(elf) = built() else { return };
    let says = ["error: ", " bytes of RAM are ", " too few", "not even a context of 1 fits", "smaller model"];
    let mut emulator = check(elf, Some(&cards::too_wide().image()), &says);
    assert!(emulator.line("hello").unwrap().contains("no model"));
    assert!(emulator.line("/card").unwrap().contains(" too few"));
}

/// The same of a card in the layout `files`, as far as it is another.
#[test]
fn a_bad_card_in_files_is_explained() {
    let Some(elf) = built() else { return };
    let card = cards::sketch(Layout::Files);
    let (dir, good) = (&card.dir, card.files());
    let check = |files: &[(String, FileSource)], says: &[&str]| {
        check(elf, Some(&image(dir.path(), files, FatKind::Fat32)), says);
    };
    let page = "dec1_Wq_0002.bin";
    check(
        &with(&good, page, &|bytes| bytes[500] ^= 0x80),
        &["error: page 3 of dec1_Wq (page ", "checksum is wrong"],
    );
    check(&with(&good, "dec0_W2.mask", &|bytes| bytes[20] ^= 1), &["error: ", "dec0_W2"]);
    check(&with(&good, page, &|bytes| bytes.truncate(100)), &["error: ", page, "100 bytes instead of 512"]);
    let missing: Vec<_> = good.iter().filter(|(name, _)| name != page).cloned().collect();
    check(&missing, &["error: ", page]);
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
fn a_card_is_pulled_out_and_put_back(layout: Layout) {
    let Some(elf) = built() else { return };
    let card = cards::chat(layout);
    let (image, socket) = (card.image(), card.dir.path().join("monitor"));
    let options = Options { image: Some(&image), monitor: Some(&socket), ..Options::default() };
    let mut emulator = Emulator::start(elf, &options).unwrap();
    emulator.until_prompt().unwrap();
    let mut monitor = UnixStream::connect(&socket).unwrap();
    let whole = emulator.line("tell me a joke").unwrap();
    emulator.line("/reset").unwrap();
    begin_answer(&mut emulator, "tell me a joke");
    monitor.write_all(b"eject -f sd0\n").unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains("error: ") && said.contains("the card is gone"), "{said}");
    assert!(emulator.line("hello").unwrap().contains("no model"));
    monitor.write_all(format!("change sd0 {} raw\n", image.display()).as_bytes()).unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains("a card was put in") && said.contains(" parameters, "), "{said}");
    assert_eq!(text(&emulator.line("tell me a joke").unwrap()), text(&whole));
}

#[test]
fn a_card_is_pulled_out_and_put_back_packed() {
    a_card_is_pulled_out_and_put_back(Layout::Packed);
}

#[test]
fn a_card_is_pulled_out_and_put_back_in_files() {
    a_card_is_pulled_out_and_put_back(Layout::Files);
}

/// Ctrl-C ends an answer, and the next one is whole.
#[test]
fn an_answer_is_stopped() {
    let Some(elf) = built() else { return };
    let card = cards::chat(Layout::Packed);
    let (mut emulator, _) = start(elf, Some(&card.image()));
    let whole = emulator.line("tell me a joke").unwrap();
    emulator.line("/reset").unwrap();
    begin_answer(&mut emulator, "tell me a joke");
    emulator.send(b"\x03").unwrap();
    let said = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    assert!(said.contains(", stopped)"), "{said}");
    emulator.line("/reset").unwrap();
    assert_eq!(text(&emulator.line("tell me a joke").unwrap()), text(&whole));
}

/// The page debugger; what it writes is on the card after a reboot, where the PC finds it, too.
fn pages_are_looked_at(layout: Layout) {
    let Some(elf) = built() else { return };
    let card = cards::sketch(layout);
    let image = card.image();
    let exported = fs::read(&image).unwrap();
    let options = Options { image: Some(&image), keep_writes: true, ..Options::default() };
    let boot = || {
        let mut emulator = Emulator::start(elf, &options).unwrap();
        let banner = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
        assert!(banner.contains("checking 204 pages ................ good"), "{banner}");
        assert!(emulator.line("/pages").unwrap().contains("page debugger"));
        emulator
    };
    let on_the_pc = || {
        let mut memory = vec![0u64; 1 << 14];
        let mut opened = pageformer_sim::open(&image, &mut Arena::new(&mut memory)).unwrap();
        let mut records = vec![0; opened.table.pages() as usize];
        let writes = read_meta(&mut opened.card, &mut records, &mut [0; PAGE_BYTES]);
        (writes.unwrap(), records.into_iter().map(PageMeta::from_bits).collect::<Vec<_>>())
    };
    let unchanged = || {
        let (before, after) = (exported.chunks(512), fs::read(&image).unwrap());
        before.zip(after.chunks(512)).filter(|(before, after)| before != after).count()
    };

    let mut emulator = boot();
    let page = emulator.line("P 3").unwrap();
    assert!(page.contains("page 3: dec0_Wq") && page.contains("checksum: right"), "{page}");
    assert!(page.contains("writes:   0; of its record 0"), "{page}");
    assert!(emulator.line("T 3 9").unwrap().contains("page 3 has tag 9"));
    assert_eq!(unchanged(), 0, "nothing is written that was not asked for");
    assert_eq!(emulator.line("W").unwrap(), "written to pages.meta (write 1 since the export)\n");
    drop(emulator);
    let (writes, pages) = on_the_pc();
    assert_eq!((writes, pages[3].tag(), pages[4].tag()), (1, 9, 0));
    assert!(pages.iter().all(|page| page.loads > 0), "all were checked at boot");
    assert_eq!(unchanged(), 3, "a header and two pages of records, and nothing else");

    let mut emulator = boot();
    assert!(emulator.line("P 3").unwrap().contains("tag:      9"));
    let status = emulator.line("S").unwrap();
    assert!(status.contains("1 tagged") && status.contains("pages.meta: written 1 times"), "{status}");
    let said = emulator.line("R").unwrap();
    assert!(said.contains("forgotten") && said.contains("(write 2 since"), "{said}");
    assert!(emulator.line("p 3").unwrap().contains("loads:    0"));
    drop(emulator);
    let (writes, pages) = on_the_pc();
    assert_eq!(writes, 2);
    assert!(pages.iter().all(|page| *page == PageMeta::default()));

    let mut emulator = boot();
    let page = emulator.line("P 3").unwrap();
    assert!(page.contains("tag:      0") && page.contains("of its record 2"), "{page}");
    emulator.line("Q").unwrap();
}

#[test]
fn pages_are_looked_at_packed() {
    pages_are_looked_at(Layout::Packed);
}

#[test]
fn pages_are_looked_at_in_files() {
    pages_are_looked_at(Layout::Files);
}

/// Types a message and waits for the first of the answer.
fn begin_answer(emulator: &mut Emulator, message: &str) {
    emulator.send(format!("{message}\r").as_bytes()).unwrap();
    emulator.until(&[format!("{message}\r\n").as_bytes()]).unwrap();
    emulator.more().unwrap();
}

/// An answer without its statistics.
fn text(said: &str) -> &str {
    said.rsplit_once("\n(").unwrap().0
}
