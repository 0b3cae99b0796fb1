//! Cards around cards: one that notes what is read, and one that spoils it.

use pageformer_card::Page;
use pageformer_vram::{Card, CardFile, ReadError, WriteError};

/// A read that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The file.
    pub file: CardFile,
    /// The first page.
    pub first: u32,
    /// Number of pages.
    pub pages: u32,
}

/// Records every read. One that was begun early is recorded when it is finished.
#[derive(Debug)]
pub struct Traced<C> {
    card: C,
    /// The reads so far.
    pub reads: Vec<Read>,
}

impl<C> Traced<C> {
    /// Wraps a card.
    pub fn new(card: C) -> Self {
        Self { card, reads: Vec::new() }
    }

    /// Pages of `file` that were read.
    pub fn pages(&self, file: CardFile) -> u64 {
        self.reads.iter().filter(|read| read.file == file).map(|read| u64::from(read.pages)).sum()
    }
}

impl<C: Card> Card for Traced<C> {
    fn bytes(&self, file: CardFile) -> u64 {
        self.card.bytes(file)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.reads.push(Read { file, first, pages: pages.len() as u32 });
        self.card.read(file, first, pages)
    }

    fn read_ahead(&self) -> u32 {
        self.card.read_ahead()
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        self.card.begin_page(file, page);
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        self.card.has_arrived(file, page)
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        self.card.begin_read(file, first, pages);
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.reads.push(Read { file, first, pages: pages.len() as u32 });
        self.card.finish_read(file, first, pages)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        self.card.write_meta(first, pages)
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The next reads of a page of a file fail, this many times.
    Fails {
        /// The file.
        file: CardFile,
        /// The page.
        page: u32,
        /// How often.
        times: u32,
    },
    /// A bit of a page is read wrong, this many times.
    Flips {
        /// The file.
        file: CardFile,
        /// The page.
        page: u32,
        /// The bit, 0 to 4095.
        bit: u32,
        /// How often.
        times: u32,
    },
    /// The card is pulled out after this many more reads.
    Pulled {
        /// Reads until then.
        after: u32,
    },
}

/// Spoils what a card reads.
#[derive(Debug)]
pub struct Faulty<C> {
    card: C,
    /// What is still to go wrong.
    pub faults: Vec<Fault>,
}

impl<C> Faulty<C> {
    /// Wraps a card with nothing wrong.
    pub fn new(card: C) -> Self {
        Self { card, faults: Vec::new() }
    }

    /// The card within.
    pub fn inner(&self) -> &C {
        &self.card
    }

    /// What becomes of pages that were read well.
    fn spoil(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let mut result = Ok(());
        for fault in &mut self.faults {
            match fault {
                Fault::Pulled { after: 0 } => result = Err(ReadError::NoCard),
                Fault::Pulled { after } => *after -= 1,
                Fault::Fails { file: bad, page, times } if *bad == file && *times > 0 => {
                    if (first..first + pages.len() as u32).contains(page) {
                        *times -= 1;
                        result = Err(ReadError::Device);
                    }
                }
                Fault::Flips { file: bad, page, bit, times } if *bad == file && *times > 0 => {
                    if let Some(bytes) = page.checked_sub(first).and_then(|at| pages.get_mut(at as usize)) {
                        *times -= 1;
                        bytes[*bit as usize / 8 % bytes.len()] ^= 1 << (*bit % 8);
                    }
                }
                Fault::Fails { .. } | Fault::Flips { .. } => {}
            }
        }
        result
    }
}

impl<C: Card> Card for Faulty<C> {
    fn bytes(&self, file: CardFile) -> u64 {
        self.card.bytes(file)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.card.read(file, first, pages)?;
        self.spoil(file, first, pages)
    }

    fn read_ahead(&self) -> u32 {
        self.card.read_ahead()
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        self.card.begin_page(file, page);
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        self.card.has_arrived(file, page)
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        self.card.begin_read(file, first, pages);
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.card.finish_read(file, first, pages)?;
        self.spoil(file, first, pages)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        self.card.write_meta(first, pages)
    }
}
