//! Serving pages in tape order.

use core::ops::Range;

use pageformer_card::page::Checksum;
use pageformer_card::sums::SumLayout;
use pageformer_card::{PAGE_BYTES, Page};

use crate::card::{Card, CardFile, ReadError};
use crate::loader::{Fault, Loader, RETRIES, Stats};
use crate::meta::PageMeta;
use crate::meta_file::{MetaError, MetaFile};
use crate::pinning::{Pinning, RUNS_AHEAD};

/// The memory that [`Vram`] works in.
pub struct Frames<'m> {
    /// Frames of pinned pages: as many as [`Pinning::pinned`].
    pub pinned: &'m mut [Page],
    /// Frames of the ring: as many as [`Pinning::ring`].
    pub ring: &'m mut [Page],
    /// Frames for pages that are read out of order (rows of the embedding, tokenizer): at least 1.
    pub side: &'m mut [Page],
    /// A tag for each of `side`.
    pub side_tags: &'m mut [u32],
    /// Frames of checksums: either 1, or all pages of `pages.crc`, which then are read once.
    pub sums: &'m mut [Page],
    /// Metadata of each page of the weights, or empty if none is wanted.
    pub meta: &'m mut [u32],
}

/// The part of the tape around the page that was asked for last.
#[derive(Clone)]
struct Period {
    number: u32,
    streamed: Range<u32>,
    pinned: Range<u32>,
    /// Frame of the first page of `pinned`.
    frame: u32,
}

/// Runs that the card was told to read before they are asked for: of periods that follow each other, but for where something else follows.
#[derive(Default)]
struct Ahead {
    first: u32,
    last: u32,
    /// Periods among these and what follows them, where that is not the next one: the tape's start, or what is behind pages that nobody asks for.
    jumps: [Option<(u32, u32)>; 2],
    runs: u32,
    /// Pages of all of them.
    pages: u32,
}

/// Serves the pages of a card from memory that holds only some of them.
pub struct Vram<'m, C> {
    loader: Loader<'m, C>,
    pinning: Pinning,
    period: Period,
    /// The period whose streamed pages are in the ring.
    ring_holds: Option<u32>,
    ahead: Ahead,
    /// Periods that the pass goes through, and those among them that it leaves out.
    periods: u32,
    left_out: Range<u32>,
    pinned: &'m mut [Page],
    ring: &'m mut [Page],
    side: &'m mut [Page],
    side_tags: &'m mut [u32],
}

const NOTHING: u32 = u32::MAX;

impl<'m, C: Card> Vram<'m, C> {
    /// Takes over a card and the memory for it, checks `index.json` against its checksum, and loads the metadata of the
    /// pages, where the card has it, and the pinned pages.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub fn start(
        mut card: C,
        layout: SumLayout,
        pinning: Pinning,
        frames: Frames<'m>,
    ) -> Result<Self, Fault> {
        frames.side_tags.fill(NOTHING);
        frames.meta.fill(0);
        let meta_file = match frames.side.first_mut() {
            Some(frame) => MetaFile::load(&mut card, frames.meta, frame),
            None => MetaFile::default(),
        };
        let loader = Loader {
            card,
            layout,
            sums: frames.sums,
            sums_tag: None,
            meta: frames.meta,
            meta_file,
            stats: Stats::default(),
        };
        let mut vram = Self {
            loader,
            pinning,
            period: period(&pinning, 0),
            ring_holds: None,
            ahead: Ahead::default(),
            periods: pinning.periods(),
            left_out: 0..0,
            pinned: frames.pinned,
            ring: frames.ring,
            side: frames.side,
            side_tags: frames.side_tags,
        };
        vram.check_index()?;
        for number in 0..pinning.periods().max(1) {
            let at = period(&pinning, number);
            let frames = at.frame as usize..at.frame as usize + at.pinned.len();
            if let Some(into) = vram.pinned.get_mut(frames)
                && !into.is_empty()
            {
                vram.loader.load(CardFile::Weights, at.pinned.start, into, false)?;
                vram.loader.stats.loaded += at.pinned.len() as u64;
            }
        }
        Ok(vram)
    }

    fn check_index(&mut self) -> Result<(), Fault> {
        let number = self.loader.layout.of_index();
        let mut good = self.index_sum()? == self.loader.sum(number)?;
        let mut attempt = 0;
        while !good && attempt < RETRIES {
            attempt += 1;
            self.loader.stats.retries += 1;
            self.loader.read_sums(SumLayout::place(number).0)?;
            good = self.index_sum()? == self.loader.sum(number)?;
        }
        if good { Ok(()) } else { Err(Fault { file: CardFile::Index, page: 0, error: None }) }
    }

    /// The checksum that `index.json` has.
    fn index_sum(&mut self) -> Result<u32, Fault> {
        let mut left = self.loader.card.bytes(CardFile::Index);
        let mut sum = Checksum::new();
        let mut page = 0;
        while left > 0 {
            let Some(frame) = self.side.get_mut(..1) else { break };
            self.loader.read(CardFile::Index, page, frame, false)?;
            let bytes = left.min(PAGE_BYTES as u64);
            sum.update(frame.as_flattened().get(..bytes as usize).unwrap_or(&[]));
            left -= bytes;
            page += 1;
        }
        Ok(sum.finalize())
    }

    /// A pass begins that asks for pages before `end` only, without some behind the first, and others are behind it from the start of the tape on: what is read
    /// ahead goes on there.
    pub fn begin_pass(&mut self, end: u32, without: Range<u32>) {
        (self.periods, self.left_out) = self.pinning.runs_of(end, &without);
    }

    /// The period behind another, in a pass and the next.
    fn behind(&self, period: u32) -> u32 {
        let next = if self.left_out.contains(&(period + 1)) { self.left_out.end } else { period + 1 };
        if next < self.periods { next } else { 0 }
    }

    /// Pages of the tape from `first` on: at least 1, at most `most`, as many as lie side by side in memory.
    /// Streamed pages are read when the first of their run is asked for, and stay until the next run is.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub fn pages(&mut self, first: u32, most: u32) -> Result<&[Page], Fault> {
        if !self.period.streamed.contains(&first) && !self.period.pinned.contains(&first) {
            self.period = self.period_of(first);
        }
        let (frames, run, at) = if self.period.streamed.contains(&first) {
            if self.ring_holds != Some(self.period.number) {
                self.stream()?;
            }
            (&self.ring[..], &self.period.streamed, 0)
        } else {
            let run = &self.period.pinned;
            self.loader.stats.hits += u64::from(run.end.saturating_sub(first).min(most));
            (&self.pinned[..], run, self.period.frame)
        };
        let n = run.end.saturating_sub(first).min(most) as usize;
        let start = (at + first.saturating_sub(run.start)) as usize;
        match frames.get(start..).and_then(|frames| frames.get(..n)) {
            Some(pages) if !pages.is_empty() => Ok(pages),
            _ => Err(Fault { file: CardFile::Weights, page: first, error: Some(ReadError::Truncated) }),
        }
    }

    /// The part of the tape around `page`: mostly, it is behind the one that was asked for last.
    fn period_of(&self, page: u32) -> Period {
        let next = self.period.number + 1;
        let at = period(&self.pinning, next);
        match next < self.pinning.periods() && (at.streamed.contains(&page) || at.pinned.contains(&page)) {
            true => at,
            false => period(&self.pinning, self.pinning.period_of(page, self.period.number)),
        }
    }

    /// Reads the streamed run of the current period into the ring, and lets the card read on.
    fn stream(&mut self) -> Result<(), Fault> {
        self.ring_holds = None;
        let (number, run) = (self.period.number, self.period.streamed.clone());
        if number >= self.periods {
            // Somebody goes on behind the end of a short pass, after all.
            (self.periods, self.left_out) = (self.pinning.periods(), 0..0);
        }
        let begun = self.take_begun(number);
        if let Some(into) = self.ring.get_mut(..run.len()) {
            self.loader.load(CardFile::Weights, run.start, into, begun)?;
        }
        self.loader.stats.streamed += run.len() as u64;
        self.ring_holds = Some(number);
        // Behind a pass over the whole tape, the next token's row is looked up, and should not have to wait for a run that was begun just before: the card has
        // enough to do until then. Of a shorter one, the next rows are known already.
        let is_short = self.periods < self.pinning.periods() || !self.left_out.is_empty();
        if number + 1 < self.periods || self.ahead.runs < 2 || is_short {
            self.read_on();
        }
        Ok(())
    }

    /// The run of period `number` is needed now. Whether the card was told to read it, or others, which it drops then: those that were begun before it.
    fn take_begun(&mut self, number: u32) -> bool {
        // Known when compiling: a card that does not read ahead costs no code.
        if self.loader.card.read_ahead() == 0 {
            return false;
        }
        let ahead = &mut self.ahead;
        let begun = ahead.runs > 0;
        let mut found = false;
        while ahead.runs > 0 && !found {
            let first = ahead.first;
            found = first == number;
            ahead.runs -= 1;
            ahead.pages -= self.pinning.streamed_run(first).len() as u32;
            let jump = ahead.jumps.iter_mut().find_map(|jump| jump.take_if(|(from, _)| *from == first));
            ahead.first = jump.map_or(first + 1, |(_, to)| to);
        }
        begun
    }

    /// Tells the card which runs come next, as many as it can read ahead: behind the pass's end its start follows. The last begins within the first half of
    /// what it can hold: it reads a run of up to a half by one command, and may want that much room at once.
    fn read_on(&mut self) {
        let most = self.loader.card.read_ahead();
        if most == 0 {
            return;
        }
        while self.ahead.runs + 1 < self.periods - self.left_out.len() as u32 {
            let last = if self.ahead.runs > 0 { self.ahead.last } else { self.period.number };
            let next = self.behind(last);
            let run = self.pinning.streamed_run(next);
            let pages = run.len() as u32;
            let ahead = &mut self.ahead;
            let is_full = ahead.pages + pages > most || ahead.pages > most - most / RUNS_AHEAD;
            if is_full {
                return;
            }
            match ahead.runs {
                0 => (ahead.first, ahead.jumps) = (next, [None; 2]),
                _ if next == last + 1 => {}
                _ => match ahead.jumps.iter_mut().find(|jump| jump.is_none()) {
                    Some(jump) => *jump = Some((last, next)),
                    None => return,
                },
            }
            self.loader.card.begin_read(CardFile::Weights, run.start, pages);
            ahead.last = next;
            ahead.runs += 1;
            ahead.pages += pages;
        }
    }

    /// Lets the card begin with a page that [`Self::page`] will be asked for, if it is not in memory.
    pub fn begin_page(&mut self, file: CardFile, page: u32) {
        let resident = file == CardFile::Weights && self.resident(page);
        if !resident && self.side_tags.get(self.side_slot(page)) != Some(&tag(file, page)) {
            self.loader.card.begin_page(file, page);
        }
    }

    /// Whether [`Self::page`] would not wait for the card, for a page that it was told of.
    pub fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        let in_memory = file == CardFile::Weights && self.resident(page)
            || self.side_tags.get(self.side_slot(page)) == Some(&tag(file, page));
        in_memory || self.loader.card.has_arrived(file, page)
    }

    /// The side frame that a page has.
    fn side_slot(&self, page: u32) -> usize {
        page as usize % self.side.len().max(1)
    }

    /// One page out of order: of the embedding, the tokenizer or the drafts.
    ///
    /// # Errors
    /// If the page cannot be read or is damaged.
    pub fn page(&mut self, file: CardFile, page: u32) -> Result<&Page, Fault> {
        if file == CardFile::Weights && page < self.pinning.tape {
            let at = self.period_of(page);
            if at.pinned.contains(&page)
                && let Some(frame) = self.pinned.get((at.frame + page - at.pinned.start) as usize)
            {
                return Ok(frame);
            }
        }
        let (tag, slot) = (tag(file, page), self.side_slot(page));
        let missing = Fault { file, page, error: Some(ReadError::Truncated) };
        let (Some(frame), Some(known)) = (self.side.get_mut(slot..slot + 1), self.side_tags.get_mut(slot))
        else {
            return Err(missing);
        };
        if *known != tag {
            *known = NOTHING;
            self.loader.load(file, page, frame, false)?;
            *known = tag;
            match file {
                CardFile::Tokenizer => self.loader.stats.tokenizer += 1,
                CardFile::Drafts => self.loader.stats.drafts += 1,
                _ => self.loader.stats.embedding += 1,
            }
        }
        frame.first().ok_or(missing)
    }

    /// What was read so far.
    pub fn stats(&self) -> &Stats {
        &self.loader.stats
    }

    /// Starts counting anew.
    pub fn reset_stats(&mut self) {
        self.loader.stats = Stats::default();
    }

    /// How the tape is divided.
    pub fn pinning(&self) -> &Pinning {
        &self.pinning
    }

    /// What is known of a page of the weights; `None` if no metadata is kept.
    pub fn meta(&self, page: u32) -> Option<PageMeta> {
        self.loader.meta.get(page as usize).map(|bits| PageMeta::from_bits(*bits))
    }

    /// Forgets the metadata of all pages, tags included; what the card has of it stays until [`Self::save_meta`].
    pub fn reset_meta(&mut self) {
        self.loader.meta.fill(0);
    }

    /// Gives a page of the weights a tag, 0 to 15. `false` if no metadata of it is kept.
    pub fn tag(&mut self, page: u32, tag: u8) -> bool {
        let there = (page as usize) < self.loader.meta.len();
        self.loader.note(CardFile::Weights, page, |meta| meta.set_tag(tag));
        there
    }

    /// Writes the metadata to the card, so that it is there after the next start; returns how often that was done since the
    /// card was exported. When power fails meanwhile, the metadata is what it was at the write before.
    ///
    /// # Errors
    /// If there is none, or it cannot be written. The metadata in RAM stays as it is.
    pub fn save_meta(&mut self) -> Result<u32, MetaError> {
        let (Some(frame), Some(tag)) = (self.side.first_mut(), self.side_tags.first_mut()) else {
            return Err(MetaError::NotKept);
        };
        *tag = NOTHING;
        let Loader { card, meta, meta_file, .. } = &mut self.loader;
        meta_file.save(card, meta, frame)
    }

    /// How often the metadata was written to the card since it was exported; `None` if it lives in RAM only.
    pub fn meta_writes(&self) -> Option<u32> {
        self.loader.meta_file.newest
    }

    /// Reads pages of a file from `first` on, at most `most` (1 or more), and checks them: for whoever wants to know
    /// whether a card is sound. Returns how many they were. Pages that stay in memory are not read again.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub fn check(&mut self, file: CardFile, first: u32, most: u32) -> Result<u32, Fault> {
        if file == CardFile::Weights && first < self.pinning.tape {
            return Ok(self.pages(first, most)?.len() as u32);
        }
        let frames = match self.ring.is_empty() {
            false => {
                self.ring_holds = None;
                &mut *self.ring
            }
            true => {
                self.side_tags.iter_mut().take(1).for_each(|tag| *tag = NOTHING);
                self.side.get_mut(..1).unwrap_or(&mut [])
            }
        };
        let n = frames.len().min(most as usize);
        self.loader.load(file, first, frames.get_mut(..n).unwrap_or(&mut []), false)?;
        Ok(n as u32)
    }

    /// Whether a page of the tape is in memory for good.
    pub fn resident(&self, page: u32) -> bool {
        page < self.pinning.tape
            && self.pinning.pinned_run(self.pinning.period_of(page, self.period.number)).contains(&page)
    }

    /// The card.
    pub fn card(&self) -> &C {
        &self.loader.card
    }

    /// The card, to be changed: by wrappers that trace or spoil it.
    pub fn card_mut(&mut self) -> &mut C {
        &mut self.loader.card
    }
}

/// What a side frame is tagged with.
fn tag(file: CardFile, page: u32) -> u32 {
    let file = match file {
        CardFile::Tokenizer => 1 << 31,
        CardFile::Drafts => 1 << 30,
        _ => 0,
    };
    page | file
}

fn period(pinning: &Pinning, number: u32) -> Period {
    let (streamed, pinned, frame) = pinning.runs(number);
    Period { number, streamed, pinned, frame }
}
