//! A card in memory.

use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{Card, CardFile, ReadError, WriteError};

/// The files of a card in layout `packed`, in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryCard {
    /// `index.json`.
    pub index: Vec<u8>,
    /// `weights.pages`.
    pub weights: Vec<u8>,
    /// `pages.crc`.
    pub sums: Vec<u8>,
    /// `tokenizer.bin`.
    pub tokenizer: Vec<u8>,
    /// `pages.meta`.
    pub meta: Vec<u8>,
    /// `drafts.bin`; empty if there is none.
    pub drafts: Vec<u8>,
}

impl MemoryCard {
    /// A card from its files; those of other names are ignored.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut card = Self::default();
        for (name, bytes) in files {
            match name {
                "index.json" => card.index = bytes.to_vec(),
                "weights.pages" => card.weights = bytes.to_vec(),
                "pages.crc" => card.sums = bytes.to_vec(),
                "tokenizer.bin" => card.tokenizer = bytes.to_vec(),
                "pages.meta" => card.meta = bytes.to_vec(),
                "drafts.bin" => card.drafts = bytes.to_vec(),
                _ => {}
            }
        }
        card
    }

    fn file(&self, file: CardFile) -> &[u8] {
        match file {
            CardFile::Index => &self.index,
            CardFile::Weights => &self.weights,
            CardFile::Sums => &self.sums,
            CardFile::Tokenizer => &self.tokenizer,
            CardFile::Meta => &self.meta,
            CardFile::Drafts => &self.drafts,
        }
    }
}

impl Card for MemoryCard {
    fn bytes(&self, file: CardFile) -> u64 {
        self.file(file).len() as u64
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        read_slice(self.file(file), first, pages)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        let (from, bytes) = (first as usize * PAGE_BYTES, pages.as_flattened());
        let place = self.meta.get_mut(from..from + bytes.len()).ok_or(WriteError::Truncated)?;
        place.copy_from_slice(bytes);
        Ok(())
    }
}

/// Reads pages from bytes; the last page may be partial.
pub(crate) fn read_slice(bytes: &[u8], first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
    let from = first as usize * PAGE_BYTES;
    let into = pages.as_flattened_mut();
    let there = bytes.get(from..).ok_or(ReadError::Truncated)?;
    if there.len().next_multiple_of(PAGE_BYTES) < into.len() {
        return Err(ReadError::Truncated);
    }
    let n = there.len().min(into.len());
    into[..n].copy_from_slice(&there[..n]);
    into[n..].fill(0);
    Ok(())
}
