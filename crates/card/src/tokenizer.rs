//! `tokenizer.bin`: a vocabulary that is looked up on the card, so that its size costs no RAM.
//!
//! Page 0 is the header. A plain vocabulary (ASCII, bytes) is nothing else: a token is its byte. A BPE
//! vocabulary has five more sections, each in whole pages:
//!
//! | section | entry | looked up by |
//! |---|---|---|
//! | pieces | u32 offset into *text*, u32 length in bytes | token |
//! | text | the bytes of all pieces | offset |
//! | bytes | 256 × u16 token (0xFFFF: none) | byte |
//! | characters | u32 code point, u16 token, u16 zero | hash of the code point |
//! | merges | u32 `left << 16 \| right`, u16 merged token, u16 rank | hash of the pair |
//!
//! The two hashed sections hold 64 entries a page; an entry lies in the page of its hash, or, when that is
//! full, in the next one with room (cyclically). A free entry has the key `0xFFFF_FFFF`. So a lookup reads
//! one page, rarely two, whatever the size of the vocabulary.

use core::fmt;

use crate::page::{Page, u32_at};

/// First bytes of `tokenizer.bin`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PFTK");
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Entries of 8 bytes in a page.
pub const ENTRIES_PER_PAGE: u32 = 64;
/// Key of a free entry.
pub const FREE: u32 = u32::MAX;
/// Token that stands for none.
pub const NO_TOKEN: u16 = u16::MAX;

/// How text becomes first tokens, before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// A token is its byte. Characters beyond a vocabulary of 128 become `?`.
    Plain,
    /// SentencePiece's way: a token for each character, for its bytes where it has none.
    Characters,
    /// GPT-2's way: a token for each byte.
    Bytes,
}

/// A section of whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// First page in `tokenizer.bin`.
    pub first: u32,
    /// Number of pages.
    pub pages: u32,
}

/// The header of `tokenizer.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenizerHeader {
    /// How text becomes first tokens.
    pub kind: TokenizerKind,
    /// Number of tokens.
    pub vocab: u32,
    /// A space is put before a text that is not empty (SentencePiece's dummy prefix).
    pub space_prefix: bool,
    /// No token has a space but at its start, so that text may be encoded word by word.
    pub words: bool,
    /// Place of each token's text.
    pub pieces: Section,
    /// The texts.
    pub text: Section,
    /// Token of each byte.
    pub bytes: Section,
    /// Token of each character.
    pub characters: Section,
    /// Merges.
    pub merges: Section,
}

/// Why `tokenizer.bin` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The first bytes are another file's.
    Magic,
    /// The file is newer than this program.
    Version(u32),
    /// A field of the header cannot be.
    Header(&'static str),
    /// The vocabulary has another size than the model's.
    Vocab {
        /// Tokens here.
        tokenizer: u32,
        /// Tokens of the model.
        model: u32,
    },
    /// A table names a place or a token that does not exist.
    Table(&'static str),
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tokenizer.bin: ")?;
        match self {
            Self::Magic => f.write_str("not a tokenizer of this format; export the card again"),
            Self::Version(v) => write!(f, "version {v} is newer than {VERSION}; update the program"),
            Self::Header(field) => write!(f, "`{field}` in the header cannot be; export the card again"),
            Self::Vocab { tokenizer, model } => {
                write!(f, "has {tokenizer} tokens, the model {model}; the files are of different cards")
            }
            Self::Table(table) => write!(f, "the table of {table} is damaged; export the card again"),
        }
    }
}

impl core::error::Error for TokenizerError {}

impl TokenizerHeader {
    /// Reads the header of a `tokenizer.bin` of `pages` pages for a model with `vocab` tokens.
    ///
    /// # Errors
    /// For every field that does not fit the others.
    pub fn read(page: &Page, pages: u32, vocab: u32) -> Result<Self, TokenizerError> {
        if u32_at(page, 0) != MAGIC {
            return Err(TokenizerError::Magic);
        }
        match u32_at(page, 1) {
            VERSION => {}
            newer @ 2.. => return Err(TokenizerError::Version(newer)),
            _ => return Err(TokenizerError::Header("version")),
        }
        let kind = match u32_at(page, 2) {
            0 => TokenizerKind::Plain,
            1 => TokenizerKind::Characters,
            2 => TokenizerKind::Bytes,
            _ => return Err(TokenizerError::Header("kind")),
        };
        let flags = u32_at(page, 4);
        let section = |at: usize| Section { first: u32_at(page, at), pages: u32_at(page, at + 1) };
        let header = Self {
            kind,
            vocab: u32_at(page, 3),
            space_prefix: flags & 1 != 0,
            words: flags & 2 != 0,
            pieces: section(5),
            text: section(7),
            bytes: section(9),
            characters: section(11),
            merges: section(13),
        };
        if header.vocab != vocab {
            return Err(TokenizerError::Vocab { tokenizer: header.vocab, model: vocab });
        }
        if kind == TokenizerKind::Plain {
            return if vocab <= 256 { Ok(header) } else { Err(TokenizerError::Header("vocab")) };
        }
        if vocab >= NO_TOKEN as u32 {
            return Err(TokenizerError::Header("vocab"));
        }
        for (section, name) in [
            (header.pieces, "pieces"),
            (header.text, "text"),
            (header.bytes, "bytes"),
            (header.characters, "characters"),
            (header.merges, "merges"),
        ] {
            let end = section.first.checked_add(section.pages);
            if section.first == 0 || end.is_none_or(|end| end > pages) {
                return Err(TokenizerError::Header(name));
            }
        }
        if header.pieces.pages != vocab.div_ceil(ENTRIES_PER_PAGE) {
            return Err(TokenizerError::Header("pieces"));
        }
        if header.bytes.pages != 1 {
            return Err(TokenizerError::Header("bytes"));
        }
        Ok(header)
    }

    /// Writes the header.
    pub fn write(&self, page: &mut Page) {
        let kind = match self.kind {
            TokenizerKind::Plain => 0,
            TokenizerKind::Characters => 1,
            TokenizerKind::Bytes => 2,
        };
        let flags = u32::from(self.space_prefix) | u32::from(self.words) << 1;
        let mut fields = [MAGIC, VERSION, kind, self.vocab, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let sections = [self.pieces, self.text, self.bytes, self.characters, self.merges];
        for (pair, section) in fields[5..].chunks_exact_mut(2).zip(sections) {
            pair.copy_from_slice(&[section.first, section.pages]);
        }
        for (bytes, field) in page.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
    }
}

/// Page within a hashed section of `pages` pages in which `key` lies, if that page has room.
pub fn hash_page(key: u32, pages: u32) -> u32 {
    ((key.wrapping_mul(0x9E37_79B1) as u64 * pages as u64) >> 32) as u32
}

/// Key of a merge.
pub fn pair_key(left: u16, right: u16) -> u32 {
    (left as u32) << 16 | right as u32
}

/// What a page of a hashed section says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The token, and the rank of a merge.
    Found(u16, u16),
    /// There is no such key.
    Absent,
    /// Not here, but the page is full: look in the next.
    Next,
}

/// Looks `key` up in a page of a hashed section.
pub fn find(page: &Page, key: u32) -> Entry {
    for entry in page.chunks_exact(8) {
        match u32_at(entry, 0) {
            found if found == key => {
                let value = u32_at(entry, 1);
                return Entry::Found(value as u16, (value >> 16) as u16);
            }
            FREE => return Entry::Absent,
            _ => {}
        }
    }
    Entry::Next
}

/// The token of `byte` in the page of bytes.
pub fn byte_token(page: &Page, byte: u8) -> u16 {
    let at = byte as usize * 2;
    match page.get(at..at + 2) {
        Some(b) => u16::from_le_bytes([b[0], b[1]]),
        None => NO_TOKEN,
    }
}
