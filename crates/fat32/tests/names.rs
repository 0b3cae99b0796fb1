//! Long and short names, and what is left of them.

mod common;

use common::*;

const SHORT: &[u8; 11] = b"LONGNA~1BIN";

/// The names of the files whose entries `fill` writes.
fn names(fill: impl FnOnce(&mut TinyVolume)) -> Vec<String> {
    let mut volume = TinyVolume::new();
    fill(&mut volume);
    list(&volume.bytes).unwrap().into_iter().map(|(name, _)| name).collect()
}

/// The name of a file with this long name, whose pieces `spoil` may change.
fn long(name: &str, spoil: impl FnOnce(&mut Vec<[u8; 32]>)) -> String {
    let mut pieces = long_name_pieces(name, checksum(SHORT));
    spoil(&mut pieces);
    let mut found = names(|volume| {
        pieces.into_iter().for_each(|piece| volume.raw_entry(piece));
        volume.file(SHORT, 0, 0);
    });
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn long_names_of_every_length() {
    for length in 1..=160 {
        let name: String = ('a'..='z').cycle().take(length).collect();
        assert_eq!(long(&name, |_| {}), name);
    }
}

#[test]
fn long_names_beyond_ascii() {
    // Surrogate pairs at every place, also across two pieces.
    for ascii in 0..14 {
        let name = format!("{}𝔗αβ🦀ü.bin", "x".repeat(ascii));
        assert_eq!(long(&name, |_| {}), name);
    }
}

#[test]
fn spoiled_long_names_fall_back_to_the_short_one() {
    let name = "a name of three pieces or more.bin";
    assert_eq!(long(name, |_| {}), name);
    let short = "LONGNA~1.BIN";
    assert_eq!(long(name, |pieces| pieces.truncate(2)), short, "without the first piece");
    assert_eq!(long(name, |pieces| *pieces = pieces[1..].to_vec()), short, "without the last");
    assert_eq!(long(name, |pieces| *pieces = vec![pieces[0], pieces[2]]), short, "without one between");
    assert_eq!(long(name, |pieces| pieces.swap(1, 2)), short, "out of order");
    assert_eq!(long(name, |pieces| pieces[1][13] ^= 1), short, "one of another file");
    assert_eq!(long(name, |pieces| pieces.iter_mut().for_each(|p| p[13] ^= 1)), short, "of another file");
    assert_eq!(long(name, |pieces| pieces[0][0] = 0x40), short, "piece 0");
    assert_eq!(long(name, |pieces| pieces[1][1..3].fill(0)), short, "ends in the middle");
    assert_eq!(long(name, |pieces| pieces[1][2] = 0xD8), short, "half a surrogate pair");
    assert_eq!(long(name, |pieces| pieces[1][2] = 0xDC), short, "the other half");
    assert_eq!(long(name, |pieces| pieces[2][2] = 0xDC), short, "the other half as the first character");
    assert_eq!(long(&"ü".repeat(128), |_| {}), short, "256 bytes of UTF-8");
    assert_eq!(long(&"ü".repeat(127), |_| {}), "ü".repeat(127));
}

#[test]
fn short_names() {
    let name = |short: &[u8; 11], flags: u8| {
        let mut entry = short_entry(short, 0x20, 0, 0);
        entry[12] = flags;
        names(|volume| volume.raw_entry(entry)).remove(0)
    };
    assert_eq!(name(b"README  TXT", 0), "README.TXT");
    assert_eq!(name(b"README  TXT", 0x18), "readme.txt");
    assert_eq!(name(b"README  TXT", 0x08), "readme.TXT");
    assert_eq!(name(b"README  TXT", 0x10), "README.txt");
    assert_eq!(name(b"A B C   T X", 0), "A B C.T X");
    assert_eq!(name(b"NOEXT      ", 0), "NOEXT");
    assert_eq!(name(b"FULLNAMEEXT", 0), "FULLNAME.EXT");
    assert_eq!(name(b"\x05BC     TXT", 0), "\u{FFFD}BC.TXT");
    assert_eq!(name(b"\x80BC     TXT", 0), "\u{FFFD}BC.TXT");
}

#[test]
fn only_regular_files_are_listed() {
    let found = names(|volume| {
        volume.raw_entry(short_entry(b"PAGEFORMER ", 0x08, 0, 0));
        volume.raw_entry(short_entry(b"FOLDER     ", 0x10, 9, 0));
        volume.raw_entry(short_entry(b"\xE5ELETED TXT", 0x20, 9, 9));
        // A long name whose file was deleted belongs to nobody, nor do pieces before a label.
        volume.long_name("deleted.txt", checksum(b"GONE    TXT"));
        volume.raw_entry(short_entry(b"\xE5ONE    TXT", 0x20, 9, 9));
        volume.file(b"HIDDEN  BIN", 0, 0);
        volume.long_name("label", checksum(b"LABEL      "));
        volume.raw_entry(short_entry(b"LABEL      ", 0x08, 0, 0));
        volume.raw_entry(short_entry(b"SYSTEM  SYS", 0x07, 0, 0));
        volume.raw_entry([0; 32]);
        volume.file(b"BEHIND  END", 0, 0);
    });
    assert_eq!(found, ["HIDDEN.BIN", "SYSTEM.SYS"]);
}

#[test]
fn names_are_found_in_any_case() {
    use pageformer_fat32::{File, SectorCache, SliceDevice, Volume};
    let mut volume = TinyVolume::new();
    volume.long_name("Index.json", checksum(b"INDEX~1 JSO"));
    let file = volume.file(b"INDEX~1 JSO", 77, 1234);
    let (mut device, mut buf) = (SliceDevice(&volume.bytes), [0; 512]);
    let mut cache = SectorCache::new(&mut buf).unwrap();
    let opened = Volume::open(&mut device, &mut cache).unwrap();
    for name in ["Index.json", "index.json", "INDEX.JSON"] {
        assert_eq!(opened.find(&mut device, &mut cache, name), Ok(Some(file)));
    }
    assert_eq!(opened.find(&mut device, &mut cache, "index.jso"), Ok(None::<File>));
}

#[test]
fn cursors_fit_a_small_stack() {
    use pageformer_fat32::{DirCursor, ExtentCursor, Volume};
    assert!(size_of::<Volume>() <= 48, "{}", size_of::<Volume>());
    assert!(size_of::<DirCursor>() <= 384, "{}", size_of::<DirCursor>());
    assert!(size_of::<ExtentCursor>() <= 112, "{}", size_of::<ExtentCursor>());
}
