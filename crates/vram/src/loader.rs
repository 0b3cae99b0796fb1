//! Reading pages and checking them.

use core::fmt;

use pageformer_card::Page;
use pageformer_card::drafts::is_whole;
use pageformer_card::page::{checksum, u32_at};
use pageformer_card::sums::SumLayout;

use crate::card::{Card, CardFile, ReadError};
use crate::meta::PageMeta;
use crate::meta_file::MetaFile;

/// How often a failing read is tried again.
pub(crate) const RETRIES: u32 = 3;

/// A page that could not be had. Nothing was computed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: CardFile,
    /// The page within it; for a run of pages that the card does not have its first.
    pub page: u32,
    /// Why; `None` if the page was read but its checksum is wrong, again and again.
    pub error: Option<ReadError>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of {}: ", self.page, self.file)?;
        match self.error {
            Some(error) => write!(f, "{error}"),
            None => write!(
                f,
                "the checksum is wrong, also after {RETRIES} more reads; the card is damaged or its files are of different \
                 exports: export it again"
            ),
        }
    }
}

impl core::error::Error for Fault {}

/// What was read and why. Counts since [`Vram::start`](crate::Vram::start), which itself counts as `loaded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tape pages that were streamed through the ring.
    pub streamed: u64,
    /// Tape pages that were served from the pinned set.
    pub hits: u64,
    /// Pages that were loaded into the pinned set.
    pub loaded: u64,
    /// Pages of rows of the embedding that were not in memory.
    pub embedding: u64,
    /// Pages of the tokenizer that were not in memory.
    pub tokenizer: u64,
    /// Pages of the table of drafts that were not in memory.
    pub drafts: u64,
    /// Pages of checksums.
    pub sums: u64,
    /// Reads of any kind: commands to the card.
    pub commands: u64,
    /// Reads that were done again.
    pub retries: u64,
}

impl Stats {
    /// What was read since `before`; pages that were loaded for good count in full.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            streamed: self.streamed.saturating_sub(before.streamed),
            hits: self.hits.saturating_sub(before.hits),
            loaded: self.loaded,
            embedding: self.embedding.saturating_sub(before.embedding),
            tokenizer: self.tokenizer.saturating_sub(before.tokenizer),
            drafts: self.drafts.saturating_sub(before.drafts),
            sums: self.sums.saturating_sub(before.sums),
            commands: self.commands.saturating_sub(before.commands),
            retries: self.retries.saturating_sub(before.retries),
        }
    }
}

/// Reads pages and checks them; everything of [`Vram`](crate::Vram) but the frames that pages are read into.
pub(crate) struct Loader<'m, C> {
    pub(crate) card: C,
    pub(crate) layout: SumLayout,
    pub(crate) sums: &'m mut [Page],
    /// The page of `pages.crc` in `sums[0]`, unless `sums` holds all of them.
    pub(crate) sums_tag: Option<u32>,
    pub(crate) meta: &'m mut [u32],
    pub(crate) meta_file: MetaFile,
    pub(crate) stats: Stats,
}

impl<C: Card> Loader<'_, C> {
    /// Reads without checking; tries again when the device fails. `begun`: the card has been told before.
    pub(crate) fn read(
        &mut self,
        file: CardFile,
        page: u32,
        into: &mut [Page],
        begun: bool,
    ) -> Result<(), Fault> {
        let mut result = Ok(());
        for attempt in 0..=RETRIES {
            self.stats.retries += u64::from(attempt > 0);
            self.stats.commands += 1;
            result = match begun && attempt == 0 && self.card.read_ahead() > 0 {
                true => self.card.finish_read(file, page, into),
                false => self.card.read(file, page, into),
            };
            if !matches!(result, Err(ReadError::Device)) {
                break;
            }
        }
        result.map_err(|error| Fault { file, page, error: Some(error) })
    }

    /// The checksum number `sum`.
    pub(crate) fn sum(&mut self, sum: u32) -> Result<u32, Fault> {
        let (page, at) = SumLayout::place(sum);
        let resident = self.sums.len() as u32 == self.layout.pages();
        let slot = if resident { page } else { 0 };
        if self.sums_tag != Some(page) && (!resident || self.sums_tag.is_none()) {
            self.read_sums(page)?;
        }
        Ok(self.sums.get(slot as usize).map_or(0, |sums| u32_at(sums, at)))
    }

    /// Reads the page `page` of checksums, or all of them if they stay.
    pub(crate) fn read_sums(&mut self, page: u32) -> Result<(), Fault> {
        let resident = self.sums.len() as u32 == self.layout.pages();
        self.sums_tag = None;
        let sums = core::mem::take(&mut self.sums);
        let result = self.read(CardFile::Sums, if resident { 0 } else { page }, sums, false);
        self.stats.sums += sums.len() as u64;
        self.sums = sums;
        result?;
        self.sums_tag = Some(page);
        Ok(())
    }

    /// Reads a run of pages and checks each. A page that is bad is read again alone, and the checksums too,
    /// since either may have suffered on its way.
    pub(crate) fn load(
        &mut self,
        file: CardFile,
        first: u32,
        into: &mut [Page],
        begun: bool,
    ) -> Result<(), Fault> {
        if let Err(fault) = self.read(file, first, into, begun) {
            // Which of the pages it is that the device cannot read, only reading them one by one can tell.
            if fault.error != Some(ReadError::Device) || into.len() == 1 {
                return Err(fault);
            }
            for (page, bytes) in (first..).zip(into.iter_mut()) {
                self.read(file, page, core::slice::from_mut(bytes), false)?;
            }
        }
        for (page, bytes) in (first..).zip(into.iter_mut()) {
            let number = match file {
                CardFile::Tokenizer => Some(self.layout.of_tokenizer(page)),
                // Its pages have their own.
                CardFile::Drafts => None,
                _ => Some(self.layout.of_weights(page)),
            };
            let mut good = self.is_good(number, bytes)?;
            let mut attempt = 0;
            while !good && attempt < RETRIES {
                attempt += 1;
                self.stats.retries += 1;
                self.note(file, page, |meta| meta.retried());
                self.read(file, page, core::slice::from_mut(bytes), false)?;
                if let Some(number) = number {
                    self.read_sums(SumLayout::place(number).0)?;
                }
                good = self.is_good(number, bytes)?;
            }
            self.note(file, page, |meta| meta.loaded(good));
            if !good {
                return Err(Fault { file, page, error: None });
            }
        }
        Ok(())
    }

    /// Whether the page has the checksum `number`, or its own.
    pub(crate) fn is_good(&mut self, number: Option<u32>, page: &Page) -> Result<bool, Fault> {
        match number {
            Some(number) => Ok(self.sum(number)? == checksum(page)),
            None => Ok(is_whole(page)),
        }
    }

    pub(crate) fn note(&mut self, file: CardFile, page: u32, change: impl FnOnce(&mut PageMeta)) {
        if file == CardFile::Weights
            && let Some(bits) = self.meta.get_mut(page as usize)
        {
            let mut meta = PageMeta::from_bits(*bits);
            change(&mut meta);
            *bits = meta.to_bits();
        }
    }
}
