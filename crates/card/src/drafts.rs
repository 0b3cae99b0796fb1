//! `drafts.bin`: which token often follows which. An optional file of guesses that speed a reply up: what is guessed is
//! checked by the model before it is said, so a wrong guess, or a wrong file, costs time and nothing else.
//!
//! A table of *contexts* of [`DraftTable::context`] tokens, each with the token that follows it most often. It is
//! hashed into buckets of 8 entries; there is no probing, so a lookup reads one page. A bucket keeps the 8 contexts that are worth
//! most, and of a context only a few bits: now and then a table answers for a context that it does not have.
//!
//! Each page is whole in itself: its last 16 bytes say what it is and end with its checksum. So `pages.crc` does not
//! name it, and the file can be added to any card or taken away.

use core::fmt;

use crate::page::{PAGE_BYTES, Page, checksum, u32_at};

/// First bytes of a page's trailer.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PFDR");
/// Version of this layout.
pub const VERSION: u8 = 1;
/// Entries of a bucket.
pub const ENTRIES: usize = 8;
/// Most tokens of a context.
pub const MAX_CONTEXT: usize = 4;
/// Most pages of a table.
pub const MAX_PAGES: u32 = 1 << 24;
/// Where the trailer starts.
const TRAILER: usize = PAGE_BYTES - 16;
/// Where the checksum lies, which covers everything before it.
const SUM: usize = PAGE_BYTES - 4;
/// Bits of a token up to which an entry is 16 bits wide, so that at least 4 are left for the context.
const NARROW: u32 = 12;

/// Why `drafts.bin` is no table for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DraftsError {
    /// The bytes are another file's, or the file is empty or torn.
    Magic,
    /// The file is newer than this program.
    Version(u8),
    /// The length of the contexts cannot be.
    Context(u8),
    /// The table is of another vocabulary.
    Vocab {
        /// Tokens here.
        drafts: u32,
        /// Tokens of the model.
        model: u32,
    },
}

impl fmt::Display for DraftsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("drafts.bin: ")?;
        match self {
            Self::Magic => f.write_str("not a table of drafts; make it again with `pageformer drafts`"),
            Self::Version(v) => write!(f, "version {v} is newer than {VERSION}; update the program"),
            Self::Context(n) => {
                write!(f, "contexts of {n} tokens cannot be; make it again with `pageformer drafts`")
            }
            Self::Vocab { drafts, model } => {
                write!(f, "made for {drafts} tokens, the model has {model}; the files are of different cards")
            }
        }
    }
}

impl core::error::Error for DraftsError {}

/// What a table of drafts looks like: all that has to be known to look something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftTable {
    /// Pages, 1 to [`MAX_PAGES`].
    pub pages: u32,
    /// Tokens of a context, 1 to [`MAX_CONTEXT`].
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: u32,
}

/// Where a context belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Page.
    pub page: u32,
    /// Bucket within the page.
    pub bucket: usize,
    /// What stands for the context there.
    pub tag: u32,
}

impl DraftTable {
    /// Reads the trailer of the first of `pages` pages, for a model of `vocab` tokens.
    ///
    /// # Errors
    /// If it is no table for this model.
    pub fn read(page: &Page, pages: u32, vocab: u32) -> Result<Self, DraftsError> {
        let word = |at: usize| u32_at(page, TRAILER / 4 + at);
        if word(0) != MAGIC || pages == 0 || pages > MAX_PAGES {
            return Err(DraftsError::Magic);
        }
        let [version, context, ..] = word(1).to_le_bytes();
        if version != VERSION {
            return Err(DraftsError::Version(version));
        }
        if !(1..=MAX_CONTEXT).contains(&(context as usize)) {
            return Err(DraftsError::Context(context));
        }
        if word(2) != vocab {
            return Err(DraftsError::Vocab { drafts: word(2), model: vocab });
        }
        Ok(Self { pages, context: context as usize, vocab })
    }

    /// Bits that hold a token, or the number of the vocabulary's tokens, which stands for none.
    fn token_bits(&self) -> u32 {
        u32::BITS - self.vocab.leading_zeros()
    }

    /// Bytes of an entry.
    fn width(&self) -> usize {
        if self.token_bits() <= NARROW { 2 } else { 4 }
    }

    /// Bits of an entry that stand for the context.
    fn tag_bits(&self) -> u32 {
        (self.width() as u32 * 8).saturating_sub(self.token_bits()).min(16)
    }

    /// Buckets of a page.
    pub fn buckets(&self) -> usize {
        TRAILER / (ENTRIES * self.width())
    }

    /// Where `context` belongs: [`Self::context`] tokens, the oldest first.
    pub fn place(&self, context: &[u16]) -> Place {
        let mut hash = 0u32;
        for token in context {
            hash = (hash ^ (u32::from(*token) + 1)).wrapping_mul(0x9E37_79B1);
            hash ^= hash >> 15;
        }
        hash = hash.wrapping_mul(0x85EB_CA6B);
        hash ^= hash >> 13;
        let buckets = self.buckets() as u64;
        let bucket = (u64::from(hash) * (u64::from(self.pages) * buckets)) >> 32;
        Place {
            page: (bucket / buckets) as u32,
            bucket: (bucket % buckets) as usize,
            tag: hash & ((1 << self.tag_bits()) - 1),
        }
    }

    /// The token that follows the context of `place`, looked up in its page; `None` if the table has none.
    pub fn find(&self, page: &Page, place: Place) -> Option<u16> {
        let (width, bits) = (self.width(), self.token_bits());
        let bucket = page.get(..TRAILER)?.chunks_exact(ENTRIES * width).nth(place.bucket)?;
        bucket
            .chunks_exact(width)
            .map(|entry| entry.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
            .find(|entry| entry >> bits == place.tag && entry & ((1 << bits) - 1) < self.vocab)
            .map(|entry| (entry & ((1 << bits) - 1)) as u16)
    }
}

/// Whether the page's own checksum is right.
pub fn is_whole(page: &Page) -> bool {
    page.get(..SUM).is_some_and(|bytes| checksum(bytes) == u32_at(page, SUM / 4))
}

/// A table with these entries: contexts, oldest token first, and what follows; those that are worth most come first, and are the
/// ones kept where there is not enough room. Also says how many were kept.
#[cfg(feature = "std")]
pub fn draft_pages<'a>(
    table: &DraftTable,
    entries: impl IntoIterator<Item = (&'a [u16], u16)>,
) -> (std::vec::Vec<Page>, usize) {
    let (width, bits) = (table.width(), table.token_bits());
    // All ones is no token: see `token_bits`.
    let mut pages = std::vec![[0xFF; PAGE_BYTES]; table.pages as usize];
    let mut kept = 0;
    for (context, token) in entries {
        let place = table.place(context);
        let page = &mut pages[place.page as usize];
        if table.find(page, place).is_some() {
            continue;
        }
        let mut bucket = page[..TRAILER].chunks_exact_mut(ENTRIES * width).skip(place.bucket);
        let free = bucket
            .next()
            .and_then(|bucket| bucket.chunks_exact_mut(width).find(|e| e.iter().all(|b| *b == 0xFF)));
        if let Some(entry) = free {
            let value = place.tag << bits | u32::from(token);
            entry.copy_from_slice(&value.to_le_bytes()[..width]);
            kept += 1;
        }
    }
    for page in &mut pages {
        let words = [MAGIC, u32::from_le_bytes([VERSION, table.context as u8, 0, 0]), table.vocab];
        for (bytes, word) in page[TRAILER..SUM].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&page[..SUM]);
        page[SUM..].copy_from_slice(&sum.to_le_bytes());
    }
    (pages, kept)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    proptest! {
        /// What is kept is found, whatever the vocabulary; nothing outside of it ever is.
        #[test]
        fn kept_entries_are_found(
            vocab in prop_oneof![1u32..70, 500..520u32, 4090..4100u32, 30_000..65_537u32],
            pages in 1u32..5,
            context in 1usize..=MAX_CONTEXT,
            seeds in prop::collection::vec((any::<[u16; MAX_CONTEXT]>(), any::<u16>()), 1..300),
        ) {
            let table = DraftTable { pages, context, vocab };
            let token = |t: u16| (u32::from(t) % vocab) as u16;
            let entries: Vec<(Vec<u16>, u16)> =
                seeds.iter().map(|(c, t)| (c[..context].iter().map(|t| token(*t)).collect(), token(*t))).collect();
            let (written, kept) = draft_pages(&table, entries.iter().map(|(c, t)| (c.as_slice(), *t)));
            prop_assert_eq!(DraftTable::read(&written[0], pages, vocab), Ok(table));
            let mut first = HashMap::new();
            for (context, token) in &entries {
                first.entry(table.place(context)).or_insert(*token);
            }
            let mut found = 0;
            for (place, token) in &first {
                let answer = table.find(&written[place.page as usize], *place);
                prop_assert!(answer.is_none() || answer == Some(*token));
                found += usize::from(answer.is_some());
            }
            prop_assert_eq!(found, kept);
            prop_assert!(kept >= first.len().min(ENTRIES));
            prop_assert!(written.iter().all(is_whole));
        }

        #[test]
        fn any_page_answers_with_a_token_or_not_at_all(
            bytes in prop::collection::vec(any::<u8>(), PAGE_BYTES),
            vocab in 1u32..=65_536,
            pages in any::<u32>(),
            context in any::<[u16; 2]>(),
        ) {
            let page: Page = bytes.try_into().unwrap();
            let _ = DraftTable::read(&page, pages, vocab);
            let table = DraftTable { pages: pages.clamp(1, MAX_PAGES), context: 2, vocab };
            let place = table.place(&context);
            prop_assert!(place.page < table.pages && place.bucket < table.buckets());
            prop_assert!(table.find(&page, place).is_none_or(|token| u32::from(token) < vocab));
        }
    }

    #[test]
    fn what_is_no_table_says_why() {
        let table = DraftTable { pages: 1, context: 2, vocab: 512 };
        let (pages, _) = draft_pages(&table, []);
        let read = |change: &dyn Fn(&mut Page)| {
            let mut page = pages[0];
            change(&mut page);
            DraftTable::read(&page, 1, 512)
        };
        assert_eq!(read(&|_| ()), Ok(table));
        assert_eq!(read(&|page| page[TRAILER] = 0), Err(DraftsError::Magic));
        assert_eq!(read(&|page| page[TRAILER + 4] = 2), Err(DraftsError::Version(2)));
        assert_eq!(read(&|page| page[TRAILER + 5] = 0), Err(DraftsError::Context(0)));
        assert_eq!(DraftTable::read(&pages[0], 1, 511), Err(DraftsError::Vocab { drafts: 512, model: 511 }));
        let mut page = pages[0];
        assert!(is_whole(&page));
        page[77] ^= 4;
        assert!(!is_whole(&page));
    }
}
