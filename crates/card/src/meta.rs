//! `pages.meta`: what is known of each page of the weights, 4 bytes a page, kept on the card by the device.
//!
//! The file is allocated by whoever writes the card, and a device only rewrites it in place. It has two slots of equal size. Each
//! is a header page and behind it the records, 128 to a page. A write goes to the slot that does not hold the newest records, its
//! header last: when it is cut off anywhere, the other slot is whole.

use crate::page::{Checksum, PAGE_BYTES, Page, u32_at};

/// First word of a header: the bytes `PFMT`.
const MAGIC: u32 = u32::from_le_bytes(*b"PFMT");
/// Records that fill a page.
pub const RECORDS_PER_PAGE: u32 = PAGE_BYTES as u32 / 4;

/// Where the parts of `pages.meta` lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaLayout {
    /// Pages of the weights: records of a slot.
    pub records: u32,
}

impl MetaLayout {
    /// Pages of the records of a slot.
    pub fn record_pages(&self) -> u32 {
        self.records.div_ceil(RECORDS_PER_PAGE)
    }

    /// Pages of the file.
    pub fn pages(&self) -> u32 {
        2 * (1 + self.record_pages())
    }

    /// Whether a file of `bytes` bytes is one of this layout.
    pub fn is_size(&self, bytes: u64) -> bool {
        bytes == u64::from(self.pages()) * PAGE_BYTES as u64
    }

    /// The page of a slot's header; its records are behind it. Write number `sequence` goes to slot `sequence % 2`.
    pub fn header_page(&self, sequence: u32) -> u32 {
        sequence % 2 * (1 + self.record_pages())
    }
}

/// The header of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaHeader {
    /// Number of the write that this is, from 0 at export. The slot with the greater one is the newer.
    pub sequence: u32,
    /// Number of records.
    pub records: u32,
    /// The [`MetaSum`] of the slot.
    pub sum: u32,
}

impl MetaHeader {
    /// Reads a header; `None` if the page is none.
    pub fn read(page: &Page) -> Option<Self> {
        let header = Self { sequence: u32_at(page, 1), records: u32_at(page, 2), sum: u32_at(page, 3) };
        (u32_at(page, 0) == MAGIC).then_some(header)
    }

    /// The header as a page.
    pub fn write(&self, page: &mut Page) {
        page.fill(0);
        let words = [MAGIC, self.sequence, self.records, self.sum];
        for (bytes, word) in page.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// The checksum of a slot: over its number, the number of records and the pages of records.
pub struct MetaSum(Checksum);

impl MetaSum {
    /// Begins.
    pub fn new(sequence: u32, records: u32) -> Self {
        let mut sum = Checksum::new();
        sum.update(&sequence.to_le_bytes());
        sum.update(&records.to_le_bytes());
        Self(sum)
    }

    /// Takes in the next page of records.
    pub fn page(&mut self, page: &Page) {
        self.0.update(page);
    }

    /// The sum.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}
