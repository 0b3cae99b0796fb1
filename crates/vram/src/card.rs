//! What a card must do.

use core::fmt;

use pageformer_card::{Manifest, ManifestError, PAGE_BYTES, Page, TensorTable};

/// A file of the card, whatever the layout or file system that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardFile {
    /// `index.json`.
    Index,
    /// The weights: the pages of the tape, then those of an embedding that is not tied.
    Weights,
    /// `pages.crc`.
    Sums,
    /// `tokenizer.bin`.
    Tokenizer,
    /// `pages.meta`, the only one that is written.
    Meta,
    /// `drafts.bin`, which a card need not have.
    Drafts,
}

impl fmt::Display for CardFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CardFile::Index => "index.json",
            CardFile::Weights => "weights",
            CardFile::Sums => "pages.crc",
            CardFile::Tokenizer => "tokenizer.bin",
            CardFile::Meta => "pages.meta",
            CardFile::Drafts => "drafts.bin",
        })
    }
}

/// Why pages could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The device failed; reading again may help.
    Device,
    /// There is no card (any more).
    NoCard,
    /// The file ends before these pages, or is not there.
    Truncated,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadError::Device => "the device reports a read error; check the card and its contacts",
            ReadError::NoCard => "the card is gone; put it back",
            ReadError::Truncated => "the file is missing or too short; export the card again",
        })
    }
}

impl core::error::Error for ReadError {}

/// Why pages could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The card cannot be written, here or at all.
    ReadOnly,
    /// The device failed.
    Device,
    /// There is no card (any more).
    NoCard,
    /// The file ends before these pages, or is not there.
    Truncated,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteError::ReadOnly => "the card can only be read",
            WriteError::Device => "the device reports a write error; check the card and its contacts",
            WriteError::NoCard => "the card is gone; put it back",
            WriteError::Truncated => "the file is missing or too short; export the card again",
        })
    }
}

impl core::error::Error for WriteError {}

/// Reads runs of pages. Implemented by cards on a block device, in a folder, in memory, and by wrappers
/// that trace, time or spoil what they wrap.
///
/// A card that can read while the engine computes (a thread, a second core, DMA) has memory of its own for some pages and implements
/// the methods from [`Self::read_ahead`] to [`Self::finish_read`]; every other one leaves them as they are, and is read while it is waited for.
pub trait Card {
    /// Bytes of `file`; 0 if it is not there. The weights count whole pages.
    fn bytes(&self, file: CardFile) -> u64;

    /// Fills `pages` from page `first` of `file` on. What lies behind the end of the file in its last page
    /// is undefined.
    ///
    /// # Errors
    /// If not all of the pages could be read. `pages` is undefined then.
    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError>;

    /// Pages that the card can have read before they are asked for, into memory of its own. 0: none, it reads only while it is
    /// waited for.
    fn read_ahead(&self) -> u32 {
        0
    }

    /// Announces a [`Self::read`] of one page, to be waited for later: a card that reads on its own reads it before runs that have not begun
    /// to be read. Two of them are remembered at least; other reads leave them alone. A hint, as [`Self::begin_read`] is.
    fn begin_page(&mut self, file: CardFile, page: u32) {
        let _ = (file, page);
    }

    /// Whether a page that was announced by [`Self::begin_page`] has been read. Whoever does not need it now can wait with asking for it until then.
    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        let _ = (file, page);
        true
    }

    /// Announces a [`Self::finish_read`] of `pages` pages from `first` on: a card that reads on its own begins now, behind what was
    /// announced before. What is announced and not finished is never more than [`Self::read_ahead`] pages. A hint: a card may ignore
    /// it, and errors are for `finish_read` to report.
    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        let _ = (file, first, pages);
    }

    /// As [`Self::read`], of what was announced. Runs are finished in the order in which they were begun; what was begun before this
    /// one and never finished is dropped. What was not begun, or not noticed, is read now. [`Self::read`] may come in between: it
    /// leaves alone what was begun, and had better come before what has not begun to be read, since it is waited for.
    ///
    /// # Errors
    /// As [`Self::read`], also for what went wrong earlier.
    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.read(file, first, pages)
    }

    /// Overwrites pages of [`CardFile::Meta`] from `first` on, in place: no other file is ever written, and none grows. What was
    /// written is on the card when this returns.
    ///
    /// # Errors
    /// If not all of the pages could be written; the page that was being written may hold anything then. The default says
    /// that the card can only be read.
    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        let _ = (first, pages);
        Err(WriteError::ReadOnly)
    }
}

impl<C: Card + ?Sized> Card for &mut C {
    fn bytes(&self, file: CardFile) -> u64 {
        (**self).bytes(file)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        (**self).read(file, first, pages)
    }

    fn read_ahead(&self) -> u32 {
        (**self).read_ahead()
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        (**self).begin_page(file, page);
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        (**self).has_arrived(file, page)
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        (**self).begin_read(file, first, pages);
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        (**self).finish_read(file, first, pages)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        (**self).write_meta(first, pages)
    }
}

/// Reads `index.json` as a stream, through one page of memory.
pub struct IndexReader<'a, C> {
    card: &'a mut C,
    page: &'a mut Page,
    at: u64,
}

impl<'a, C: Card> IndexReader<'a, C> {
    /// A reader at the start of the file; `page` is its memory.
    pub fn new(card: &'a mut C, page: &'a mut Page) -> Self {
        Self { card, page, at: 0 }
    }
}

impl<C: Card> pageformer_card::Reader for IndexReader<'_, C> {
    type Error = ReadError;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        let left = self.card.bytes(CardFile::Index).saturating_sub(self.at);
        if left == 0 {
            return Ok(0);
        }
        let within = (self.at % PAGE_BYTES as u64) as usize;
        if within == 0 {
            let page = core::slice::from_mut(&mut *self.page);
            let number = (self.at / PAGE_BYTES as u64) as u32;
            // One try more: there are no checksums yet that could tell a bad read.
            if self.card.read(CardFile::Index, number, page).is_err() {
                self.card.read(CardFile::Index, number, page)?;
            }
        }
        let n = (left.min((PAGE_BYTES - within) as u64) as usize).min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), self.page.get(within..within + n)) {
            to.copy_from_slice(from);
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// Reads the manifest of a card through one page of memory.
///
/// # Errors
/// As [`Manifest::parse`].
pub fn read_manifest<C: Card>(card: &mut C, page: &mut Page) -> Result<Manifest, ManifestError> {
    Manifest::parse(IndexReader::new(card, page), &mut |_, _| Ok(()))
}

/// Reads the table of tensors of a card into `memory`, [`TensorTable::entries`] long.
///
/// # Errors
/// As [`TensorTable::parse`].
pub fn read_tensors<'m, C: Card>(
    card: &mut C,
    page: &mut Page,
    manifest: &Manifest,
    memory: &'m mut [u32],
) -> Result<TensorTable<'m>, ManifestError> {
    TensorTable::parse(IndexReader::new(card, page), manifest, memory)
}
