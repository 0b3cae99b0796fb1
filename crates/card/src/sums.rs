//! `pages.crc`: a CRC-32 for everything that a device reads, 128 to a page, in this order: the pages of the
//! weights (the tape, then an embedding that is not tied), the pages of `tokenizer.bin`, and `index.json` as
//! one sum over its bytes. The rest of the last page is zero.

use crate::page::{SUMS_PER_PAGE, pages_for};

/// Which sum belongs to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumLayout {
    /// Pages of the weights.
    pub weights_pages: u32,
    /// Pages of `tokenizer.bin`.
    pub tokenizer_pages: u32,
}

impl SumLayout {
    /// Number of the sum of weights page `page`.
    pub fn of_weights(&self, page: u32) -> u32 {
        page
    }

    /// Number of the sum of tokenizer page `page`.
    pub fn of_tokenizer(&self, page: u32) -> u32 {
        self.weights_pages + page
    }

    /// Number of the sum of `index.json`.
    pub fn of_index(&self) -> u32 {
        self.weights_pages + self.tokenizer_pages
    }

    /// Pages of `pages.crc`.
    pub fn pages(&self) -> u32 {
        pages_for((self.of_index() as u64 + 1) * 4) as u32
    }

    /// Page of `pages.crc` that holds sum `sum`, and the sum's place in it.
    pub fn place(sum: u32) -> (u32, usize) {
        (sum / SUMS_PER_PAGE as u32, sum as usize % SUMS_PER_PAGE)
    }
}
