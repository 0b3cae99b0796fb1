//! The root directory: names, and entries without their places.
//!
//! Layout from Microsoft's FAT specification (1.03, "FAT long directory entries").

use crate::Error;
use std::collections::HashSet;

/// Bytes of a directory entry.
pub(crate) const ENTRY_BYTES: usize = 32;
/// UTF-16 units in a piece of a long name.
const PIECE_UNITS: usize = 13;
/// Where a piece has its units.
const UNIT_AT: [usize; PIECE_UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// 1 January 1980, the first day that FAT knows: images do not tell when they were made.
const DATE: u16 = 1 << 5 | 1;

/// The directory of an image.
pub(crate) struct Directory {
    label: [u8; 11],
    names: Vec<Name>,
}

/// A file's long name, if it needs one, and the short one that every file has.
struct Name {
    long: Option<Vec<u16>>,
    short: [u8; 11],
}

impl Directory {
    /// The directory of files with these names.
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str> + Clone, label: &str) -> Result<Self, Error> {
        let mut seen = HashSet::new();
        for name in names.clone() {
            check_name(name)?;
            if !seen.insert(name.to_lowercase()) {
                return Err(Error::Duplicate { name: name.into() });
            }
        }
        // Names that fit keep theirs; the others are numbered, around those that are taken.
        let taken: HashSet<[u8; 11]> =
            names.clone().filter_map(|name| short_form(&name.to_ascii_uppercase())).collect();
        let mut number = 0;
        let names = names.map(|name| match short_form(&name.to_ascii_uppercase()) {
            Some(short) if short_form(name).is_some() => Name { long: None, short },
            Some(short) => Name { long: Some(name.encode_utf16().collect()), short },
            None => loop {
                number += 1;
                let short = numbered(name, number);
                if !taken.contains(&short) {
                    break Name { long: Some(name.encode_utf16().collect()), short };
                }
            },
        });
        Ok(Self { names: names.collect(), label: label_bytes(label)? })
    }

    /// Number of entries, the volume label's included.
    pub(crate) fn entries(&self) -> usize {
        let pieces = |name: &Name| name.long.as_ref().map_or(0, |long| long.len().div_ceil(PIECE_UNITS));
        1 + self.names.iter().map(|name| pieces(name) + 1).sum::<usize>()
    }

    /// Number of files.
    pub(crate) fn files(&self) -> usize {
        self.names.len()
    }

    /// The volume label as it stands on the disk.
    pub(crate) fn label(&self) -> [u8; 11] {
        self.label
    }

    /// The directory's bytes, with first cluster and size of each file.
    pub(crate) fn encode(&self, places: impl Iterator<Item = (u32, u32)>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries() * ENTRY_BYTES);
        bytes.extend_from_slice(&short_entry(&self.label, 0x08, 0, 0));
        for (name, (first_cluster, size)) in self.names.iter().zip(places) {
            if let Some(long) = &name.long {
                push_pieces(&mut bytes, long, checksum(&name.short));
            }
            bytes.extend_from_slice(&short_entry(&name.short, 0x20, first_cluster, size));
        }
        bytes
    }
}

/// Whether Windows, Linux and macOS would all take the name.
fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.encode_utf16().count() > 255 || name.len() > pageformer_fat32::MAX_NAME_BYTES {
        "it has more than 255 characters"
    } else if name.contains(|c: char| c < ' ' || c == '\x7F' || "\"*/:<>?\\|".contains(c)) {
        "it has one of \" * / : < > ? \\ | or a control character in it"
    } else if name.starts_with(' ') || name.ends_with([' ', '.']) {
        "it begins with a space, or ends with a space or a dot"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.into(), reason })
}

/// Whether a short name may have the character.
fn is_short(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || "!#$%&'()-@^_`{}~".contains(c)
}

/// The name as eight and three characters, padded with spaces, if it is one of those.
fn short_form(name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = (1..=8).contains(&stem.len())
        && extension.len() <= 3
        && (!name.contains('.') || !extension.is_empty())
        && stem.chars().chain(extension.chars()).all(is_short);
    fits.then(|| padded(stem, extension))
}

/// `DEC0_W~1.BIN`: the short name of a file that has none. The number is different for each file of the directory.
fn numbered(name: &str, number: u32) -> [u8; 11] {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let clean = |part: &str, most: usize| -> String {
        let kept = part.chars().filter(|c| *c != ' ' && *c != '.').map(|c| c.to_ascii_uppercase());
        kept.map(|c| if is_short(c) { c } else { '_' }).take(most).collect()
    };
    let tail = format!("~{number}");
    padded(&(clean(stem, 8 - tail.len()) + &tail), &clean(extension, 3))
}

fn padded(stem: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..stem.len()].copy_from_slice(stem.as_bytes());
    short[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    short
}

fn label_bytes(label: &str) -> Result<[u8; 11], Error> {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_- ".contains(c);
    if label.trim().is_empty() || label.len() > 11 || label.starts_with(' ') || !label.chars().all(allowed) {
        return Err(Error::Label { label: label.into() });
    }
    let mut bytes = [b' '; 11];
    bytes[..label.len()].copy_from_slice(label.as_bytes());
    Ok(bytes)
}

fn short_entry(short: &[u8; 11], attributes: u8, first_cluster: u32, size: u32) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..11].copy_from_slice(short);
    entry[11] = attributes;
    // Created, last read, last changed.
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    let [low, high] = [first_cluster as u16, (first_cluster >> 16) as u16];
    entry[20..22].copy_from_slice(&high.to_le_bytes());
    entry[26..28].copy_from_slice(&low.to_le_bytes());
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    entry
}

/// The pieces of a long name, the last first, as they stand before the file's entry.
fn push_pieces(bytes: &mut Vec<u8>, long: &[u16], checksum: u8) {
    let pieces = long.len().div_ceil(PIECE_UNITS);
    for (index, chunk) in long.chunks(PIECE_UNITS).enumerate().rev() {
        let mut entry = [0; ENTRY_BYTES];
        let is_last = index + 1 == pieces;
        entry[0] = (index + 1) as u8 | if is_last { 0x40 } else { 0 };
        entry[11] = 0x0F;
        entry[13] = checksum;
        // A name that does not fill its last piece ends in 0, with FFFF behind.
        let units = chunk.iter().copied().chain([0]).chain(std::iter::repeat(0xFFFF));
        for (at, unit) in UNIT_AT.into_iter().zip(units) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend_from_slice(&entry);
    }
}

/// Ties the pieces of a long name to their short name.
fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}
