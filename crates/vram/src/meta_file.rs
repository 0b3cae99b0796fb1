//! `pages.meta`: the metadata of the pages, from the card and back.

use core::fmt;

use pageformer_card::Page;
use pageformer_card::meta::{MetaHeader, MetaLayout, MetaSum, RECORDS_PER_PAGE};
use pageformer_card::page::u32_at;

use crate::card::{Card, CardFile, ReadError, WriteError};
use crate::meta::PageMeta;

/// Why the metadata is not on the card. It is in RAM all the same, if there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetaError {
    /// The memory plan has none.
    NotKept,
    /// The card has no `pages.meta`, or one of another card, or one that is damaged.
    NoFile,
    /// It could not be written.
    Write(WriteError),
    /// What was written reads back as something else.
    Lost,
}

impl fmt::Display for MetaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKept => f.write_str("too little RAM for metadata of the pages"),
            Self::NoFile => f.write_str("the card has no sound pages.meta; export it again to get one"),
            Self::Write(e) => write!(f, "{e}"),
            Self::Lost => f.write_str("the card did not keep what was written"),
        }
    }
}

impl core::error::Error for MetaError {}

/// What the card has of the pages' metadata: fills `records`, one for each page of the weights, and returns how often the
/// device wrote it since the card was exported. `None` if there is no `pages.meta`, or no slot of it is whole; `records` are zero then.
/// `frame` is memory for a page.
pub fn read_meta<C: Card>(card: &mut C, records: &mut [u32], frame: &mut Page) -> Option<u32> {
    records.fill(0);
    MetaFile::load(card, records, frame).newest
}

/// The file on the card, if it is one that may be written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MetaFile {
    layout: MetaLayout,
    /// Number of the write that the newest records come from; `None` if there is no file.
    pub newest: Option<u32>,
}

impl MetaFile {
    /// Looks for the file and fills `records`, one for each page, from its newer slot that is whole. `frame` is memory for a page.
    pub fn load<C: Card>(card: &mut C, records: &mut [u32], frame: &mut Page) -> Self {
        let layout = MetaLayout { records: records.len() as u32 };
        let mut file = Self { layout, newest: None };
        if records.is_empty() || !layout.is_size(card.bytes(CardFile::Meta)) {
            return file;
        }
        let mut slots = [0, 1].map(|slot| file.header(card, slot, frame));
        if slots.map(|slot| slot.map(|header| header.sequence)).is_sorted() {
            slots.reverse();
        }
        for header in slots.into_iter().flatten() {
            let mut rest = &mut *records;
            let whole = file.is_whole(card, header, frame, &mut |page| {
                let n = rest.len().min(RECORDS_PER_PAGE as usize);
                let (now, later) = core::mem::take(&mut rest).split_at_mut(n);
                for (at, record) in now.iter_mut().enumerate() {
                    *record = PageMeta::from_bits(u32_at(page, at)).kept().to_bits();
                }
                rest = later;
            });
            if whole {
                file.newest = Some(header.sequence);
                return file;
            }
            records.fill(0);
        }
        file
    }

    /// Writes `records` to the older slot and reads them back; returns the number of the write.
    pub fn save<C: Card>(
        &mut self,
        card: &mut C,
        records: &[u32],
        frame: &mut Page,
    ) -> Result<u32, MetaError> {
        let newest = self.newest.ok_or(match records {
            [] => MetaError::NotKept,
            _ => MetaError::NoFile,
        })?;
        let sequence = newest.wrapping_add(1);
        let header_page = self.layout.header_page(sequence);
        let mut sum = MetaSum::new(sequence, self.layout.records);
        for (number, records) in (1..).zip(records.chunks(RECORDS_PER_PAGE as usize)) {
            frame.fill(0);
            for (bytes, record) in frame.chunks_exact_mut(4).zip(records) {
                bytes.copy_from_slice(&record.to_le_bytes());
            }
            sum.page(frame);
            write(card, header_page + number, frame)?;
        }
        let header = MetaHeader { sequence, records: self.layout.records, sum: sum.finish() };
        header.write(frame);
        write(card, header_page, frame)?;
        let there = self.header(card, sequence % 2, frame) == Some(header);
        if !there || !self.is_whole(card, header, frame, &mut |_| {}) {
            return Err(MetaError::Lost);
        }
        self.newest = Some(sequence);
        Ok(sequence)
    }

    /// The header of a slot, if there is one of this card.
    fn header<C: Card>(&self, card: &mut C, slot: u32, frame: &mut Page) -> Option<MetaHeader> {
        read(card, self.layout.header_page(slot), frame)?;
        let ours = |header: &MetaHeader| header.records == self.layout.records && header.sequence % 2 == slot;
        MetaHeader::read(frame).filter(ours)
    }

    /// Whether the records of a slot have their checksum; `seen` gets each page of them.
    fn is_whole<C: Card>(
        &self,
        card: &mut C,
        header: MetaHeader,
        frame: &mut Page,
        seen: &mut dyn FnMut(&Page),
    ) -> bool {
        let mut sum = MetaSum::new(header.sequence, header.records);
        let first = self.layout.header_page(header.sequence) + 1;
        for page in first..first + self.layout.record_pages() {
            if read(card, page, frame).is_none() {
                return false;
            }
            sum.page(frame);
            seen(frame);
        }
        sum.finish() == header.sum
    }
}

/// Reads a page; once more if the device fails.
fn read<C: Card>(card: &mut C, page: u32, frame: &mut Page) -> Option<()> {
    let frame = core::slice::from_mut(frame);
    match card.read(CardFile::Meta, page, frame) {
        Err(ReadError::Device) => card.read(CardFile::Meta, page, frame).ok(),
        result => result.ok(),
    }
}

fn write<C: Card>(card: &mut C, page: u32, frame: &Page) -> Result<(), MetaError> {
    card.write_meta(page, core::slice::from_ref(frame)).map_err(MetaError::Write)
}
