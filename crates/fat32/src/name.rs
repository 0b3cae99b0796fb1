//! File names: long ones (VFAT), which lie in pieces before the file's entry, last piece first, and short ones (8.3).

use crate::bytes::{u8_at, u16_at};

/// Longest name that is kept, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// UTF-16 units of one piece.
const PIECE_UNITS: usize = 13;

/// Where a piece has its units.
const UNIT_AT: [usize; PIECE_UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A name in the making. Because the last piece of a long name comes first, it grows from the end of the
/// buffer towards its start, and is UTF-8 from the beginning.
#[derive(Clone, Debug)]
pub(crate) struct NameBuilder {
    utf8: [u8; MAX_NAME_BYTES],
    /// Where the name begins.
    start: usize,
    /// The number of the piece that must come next; `None` while there is no long name.
    expects: Option<u8>,
    /// Checksum of the short name that the pieces belong to.
    checksum: u8,
    /// The second half of a surrogate pair whose first half is still to come.
    low_surrogate: Option<u16>,
}

impl NameBuilder {
    pub(crate) fn new() -> Self {
        Self {
            utf8: [0; MAX_NAME_BYTES],
            start: MAX_NAME_BYTES,
            expects: None,
            checksum: 0,
            low_surrogate: None,
        }
    }

    /// Forgets the pieces so far: they belong to no file.
    pub(crate) fn clear(&mut self) {
        self.start = MAX_NAME_BYTES;
        self.expects = None;
        self.low_surrogate = None;
    }

    /// Takes a piece of a long name (a directory entry of 32 bytes). One that does not continue the others ends the name.
    pub(crate) fn piece(&mut self, entry: &[u8]) {
        let (order, checksum) = (u8_at(entry, 0), u8_at(entry, 13));
        let number = order & 0x1F;
        let is_last = order & 0x40 != 0;
        if is_last {
            self.clear();
            self.checksum = checksum;
        } else if self.expects != Some(number) || self.checksum != checksum {
            return self.clear();
        }
        if number == 0 || number > 20 || self.prepend_units(entry, is_last).is_none() {
            return self.clear();
        }
        self.expects = number.checked_sub(1);
    }

    fn prepend_units(&mut self, entry: &[u8], is_last: bool) -> Option<()> {
        let units = UNIT_AT.map(|at| u16_at(entry, at));
        // Only the last piece may have a terminator, with padding behind it.
        let length = match units.iter().position(|unit| *unit == 0) {
            Some(zero) if is_last => zero,
            Some(_) => return None,
            None => PIECE_UNITS,
        };
        units.iter().take(length).rev().try_for_each(|unit| self.prepend_unit(*unit))
    }

    fn prepend_unit(&mut self, unit: u16) -> Option<()> {
        let mut pair = [unit, 0];
        let units = match (unit, self.low_surrogate.take()) {
            (0xDC00..=0xDFFF, None) => {
                self.low_surrogate = Some(unit);
                return Some(());
            }
            (_, None) => pair.get(..1)?,
            (_, Some(low)) => {
                pair = [unit, low];
                pair.as_slice()
            }
        };
        // Fails on a half of a pair without the other; a second character cannot come out of what is left.
        let mut decoded = char::decode_utf16(units.iter().copied());
        let character = decoded.next()?.ok()?;
        if decoded.next().is_some() {
            return None;
        }
        self.prepend(character)
    }

    fn prepend(&mut self, character: char) -> Option<()> {
        let mut utf8 = [0; 4];
        let encoded = character.encode_utf8(&mut utf8).as_bytes();
        let start = self.start.checked_sub(encoded.len())?;
        self.utf8.get_mut(start..self.start)?.copy_from_slice(encoded);
        self.start = start;
        Some(())
    }

    /// The name of the file whose directory entry is `entry`: the long name if all pieces of it came and belong to
    /// this file, else the short one.
    pub(crate) fn finish(&mut self, entry: &[u8]) -> &str {
        let is_long = self.expects == Some(0)
            && self.low_surrogate.is_none()
            && self.start < MAX_NAME_BYTES
            && self.checksum == short_name_checksum(entry);
        if !is_long {
            self.clear();
            self.short(entry);
        }
        // Invalid never happens: only whole characters were put in.
        self.utf8.get(self.start..).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or("")
    }

    /// Puts the short name in, back to front. Twelve characters always fit.
    fn short(&mut self, entry: &[u8]) {
        // Windows NT's flags for names that are all lower case in base or extension.
        let (lower_base, lower_extension) = (u8_at(entry, 12) & 0x08 != 0, u8_at(entry, 12) & 0x10 != 0);
        let extension = trim(entry.get(8..11).unwrap_or(&[]));
        for byte in extension.iter().rev() {
            let _fits = self.prepend(short_character(*byte, lower_extension));
        }
        if !extension.is_empty() {
            let _fits = self.prepend('.');
        }
        for (at, byte) in trim(entry.get(..8).unwrap_or(&[])).iter().enumerate().rev() {
            // A first byte of E5 would mark a deleted entry; 05 stands for it.
            let byte = if at == 0 && *byte == 0x05 { 0xE5 } else { *byte };
            let _fits = self.prepend(short_character(byte, lower_base));
        }
    }
}

/// Without the spaces at the end.
fn trim(field: &[u8]) -> &[u8] {
    let length = field.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last.saturating_add(1));
    field.get(..length).unwrap_or(&[])
}

/// Characters outside of ASCII depend on the code page of whoever wrote them, which is not recorded.
fn short_character(byte: u8, lower: bool) -> char {
    match byte {
        0x80.. => char::REPLACEMENT_CHARACTER,
        _ if lower => char::from(byte.to_ascii_lowercase()),
        _ => char::from(byte),
    }
}

/// The checksum over the 11 bytes of the short name that each piece of a long name carries.
fn short_name_checksum(entry: &[u8]) -> u8 {
    entry.iter().take(11).fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}
