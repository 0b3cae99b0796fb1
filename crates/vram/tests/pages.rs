//! Whatever is asked for, in whatever order and memory: the right bytes, read as seldom as can be.
#![allow(missing_docs)]

use std::collections::VecDeque;

use pageformer_card::page::checksum;
use pageformer_card::sums::SumLayout;
use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{Card, CardFile, FAVOURS, Fault, Frames, Pinning, ReadError, Reads, Vram};
use proptest::prelude::*;

/// A card whose every page says which it is. Notes the pages that are read, and reads ahead by the book.
struct Numbered {
    layout: SumLayout,
    read: Vec<(CardFile, u32)>,
    read_ahead: u32,
    /// Runs that were begun: first page and number.
    begun: VecDeque<(u32, u32)>,
    /// Pages that were announced and not read since.
    announced: Vec<(CardFile, u32)>,
    /// Runs that were finished, and whether each had been begun.
    finished: (u32, u32),
}

fn page_of(file: CardFile, number: u32) -> Page {
    let mut page = [file as u8; PAGE_BYTES];
    page[..4].copy_from_slice(&number.to_le_bytes());
    page
}

impl Numbered {
    fn new(layout: SumLayout, read_ahead: u32) -> Self {
        let (read, announced) = (Vec::new(), Vec::new());
        Self { layout, read, read_ahead, begun: VecDeque::new(), announced, finished: (0, 0) }
    }

    fn content(&self, file: CardFile, number: u32) -> Option<Page> {
        let layout = self.layout;
        let pages = match file {
            CardFile::Index => 1,
            CardFile::Weights => self.layout.weights_pages,
            CardFile::Tokenizer => self.layout.tokenizer_pages,
            CardFile::Sums => layout.pages(),
            CardFile::Meta => 0,
            CardFile::Drafts => 0,
        };
        if number >= pages {
            return None;
        }
        if file != CardFile::Sums {
            return Some(page_of(file, number));
        }
        let sum = |sum: u32| match sum.checked_sub(layout.weights_pages) {
            None => checksum(&page_of(CardFile::Weights, sum)),
            Some(page) if page < layout.tokenizer_pages => checksum(&page_of(CardFile::Tokenizer, page)),
            Some(page) if page == layout.tokenizer_pages => checksum(&page_of(CardFile::Index, 0)[..100]),
            Some(_) => 0,
        };
        let mut page = [0; PAGE_BYTES];
        for (at, bytes) in (number * 128..).zip(page.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&sum(at).to_le_bytes());
        }
        Some(page)
    }
}

impl Card for Numbered {
    fn bytes(&self, file: CardFile) -> u64 {
        match file {
            CardFile::Index => 100,
            CardFile::Weights => u64::from(self.layout.weights_pages) * 512,
            CardFile::Tokenizer => u64::from(self.layout.tokenizer_pages) * 512,
            CardFile::Sums => u64::from(self.layout.pages()) * 512,
            CardFile::Meta => 0,
            CardFile::Drafts => 0,
        }
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        if pages.len() == 1 {
            self.announced.retain(|page| *page != (file, first));
        }
        for (number, page) in (first..).zip(pages) {
            *page = self.content(file, number).ok_or(ReadError::Truncated)?;
            self.read.push((file, number));
        }
        Ok(())
    }

    fn read_ahead(&self) -> u32 {
        self.read_ahead
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        self.announced.push((file, page));
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        assert_eq!(file, CardFile::Weights);
        let waiting: u32 = self.begun.iter().map(|run| run.1).sum();
        assert!(waiting + pages <= self.read_ahead, "{waiting} and {pages} pages are begun");
        self.begun.push_back((first, pages));
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let mut early = false;
        while !early && let Some(run) = self.begun.pop_front() {
            early = run == (first, pages.len() as u32);
        }
        self.finished.0 += 1;
        self.finished.1 += u32::from(early);
        self.read(file, first, pages)
    }
}

/// Something that is asked for.
#[derive(Clone, Debug)]
enum Ask {
    Tape { first: u32, most: u32 },
    Weights(u32),
    Tokenizer(u32),
    Pass(u32, u32, u32),
}

/// How pinned pages are spread: a front, and how much of it is favoured.
fn front() -> impl Strategy<Value = (u32, u32)> {
    (0u32..420, 0..=FAVOURS)
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = prop_oneof![
        4 => (any::<u32>(), 1u32..80).prop_map(|(first, most)| Ask::Tape { first, most }),
        1 => any::<u32>().prop_map(Ask::Weights),
        1 => any::<u32>().prop_map(Ask::Tokenizer),
        1 => (any::<u32>(), any::<u32>(), 0u32..99).prop_map(|(end, from, pages)| Ask::Pass(end, from, pages)),
    ];
    proptest::collection::vec(ask, 0..60)
}

/// The memory of a [`Vram`].
struct Memory {
    pinned: Vec<Page>,
    ring: Vec<Page>,
    side: Vec<Page>,
    side_tags: Vec<u32>,
    sums: Vec<Page>,
    meta: Vec<u32>,
}

impl Memory {
    fn new(pinning: &Pinning, side: usize, sums: usize) -> Self {
        let pages = |n: usize| vec![[0xAA; PAGE_BYTES]; n];
        Self {
            pinned: pages(pinning.pinned as usize),
            ring: pages(pinning.ring as usize),
            side: pages(side),
            side_tags: vec![7; side],
            sums: pages(sums),
            meta: Vec::new(),
        }
    }

    fn frames(&mut self) -> Frames<'_> {
        Frames {
            pinned: &mut self.pinned,
            ring: &mut self.ring,
            side: &mut self.side,
            side_tags: &mut self.side_tags,
            sums: &mut self.sums,
            meta: &mut self.meta,
        }
    }
}

proptest! {
    #[test]
    fn any_asking_gets_the_right_bytes(
        tape in 1u32..300,
        beyond in 0u32..40,
        tokenizer in 1u32..40,
        frames in 1u32..320,
        side in 1usize..5,
        sums_stay in any::<bool>(),
        read_ahead in 0u32..90,
        front in front(),
        asks in asks(),
    ) {
        let layout = SumLayout { weights_pages: tape + beyond, tokenizer_pages: tokenizer };
        let pinning = Pinning::new(tape, frames, &Reads::default().ahead(read_ahead)).unwrap().favour(front.0, front.1);
        let sums = if sums_stay { layout.pages() as usize } else { 1 };
        let mut memory = Memory::new(&pinning, side, sums);
        let card = Numbered::new(layout, read_ahead);
        let mut vram = Vram::start(card, layout, pinning, memory.frames()).unwrap();
        for ask in asks {
            match ask {
                Ask::Tape { first, most } => {
                    let first = first % tape;
                    let pages = vram.pages(first, most).unwrap();
                    prop_assert!(!pages.is_empty() && pages.len() as u32 <= most);
                    for (number, page) in (first..).zip(pages) {
                        prop_assert_eq!(page, &page_of(CardFile::Weights, number));
                    }
                }
                Ask::Pass(end, from, pages) => {
                    let from = from % (tape + 2);
                    vram.begin_pass(end % (tape + 2), from..from + pages);
                }
                Ask::Weights(number) => {
                    let number = number % layout.weights_pages;
                    vram.begin_page(CardFile::Weights, number);
                    prop_assert_eq!(vram.page(CardFile::Weights, number).unwrap(), &page_of(CardFile::Weights, number));
                }
                Ask::Tokenizer(number) => {
                    let number = number % tokenizer;
                    vram.begin_page(CardFile::Tokenizer, number);
                    let page = vram.page(CardFile::Tokenizer, number).unwrap();
                    prop_assert_eq!(page, &page_of(CardFile::Tokenizer, number));
                }
            }
            // Only a page that is not in memory is announced.
            prop_assert!(vram.card().announced.is_empty());
        }
    }

    /// Passes over the tape: the first reads what is pinned and what is not, each further one only what is not.
    #[test]
    fn a_pass_reads_each_page_that_is_not_pinned_once(tape in 1u32..400, frames in 1u32..420, most in 1u32..50, read_ahead in 0u32..90, front in front()) {
        let layout = SumLayout { weights_pages: tape, tokenizer_pages: 1 };
        let pinning = Pinning::new(tape, frames, &Reads::default().ahead(read_ahead)).unwrap().favour(front.0, front.1);
        prop_assert!(pinning.pinned + pinning.ring <= frames);
        let mut memory = Memory::new(&pinning, 1, layout.pages() as usize);
        let mut vram = Vram::start(Numbered::new(layout, read_ahead), layout, pinning, memory.frames()).unwrap();
        let weights = |vram: &Vram<'_, Numbered>| {
            vram.card().read.iter().filter(|(file, _)| *file == CardFile::Weights).map(|(_, page)| *page).collect::<Vec<_>>()
        };
        let pinned = weights(&vram);
        prop_assert_eq!(pinned.len() as u32, pinning.pinned);
        let others: Vec<u32> = (0..tape).filter(|page| !pinned.contains(page)).collect();
        for _ in 0..3 {
            vram.card_mut().read.clear();
            let mut next = 0;
            while next < tape {
                next += vram.pages(next, most).unwrap().len() as u32;
            }
            prop_assert_eq!(next, tape);
            prop_assert_eq!(&weights(&vram), &others);
        }
        prop_assert_eq!(vram.stats().hits, 3 * u64::from(pinning.pinned));
        prop_assert_eq!(vram.stats().streamed, 3 * others.len() as u64);
        // Every run but the first was begun before it was asked for.
        let (finished, early) = vram.card().finished;
        let expected = match read_ahead > 0 && pinning.periods() > 1 {
            true => 3 * pinning.periods() - 1,
            false => 0,
        };
        prop_assert_eq!((finished, early), (expected, expected));
    }

    /// Passes that end early, and leave out some pages, read the runs up to there but for those, and what is read ahead is what comes next, also where passes
    /// of different kinds follow each other.
    #[test]
    fn short_passes_read_what_they_need(
        tape in 1u32..400,
        frames in 1u32..420,
        end in 1u32..400,
        without in (0u32..400, 0u32..200),
        most in 1u32..50,
        read_ahead in 0u32..90,
        front in front(),
        order in proptest::collection::vec(any::<bool>(), 1..9),
    ) {
        let (layout, end) = (SumLayout { weights_pages: tape, tokenizer_pages: 1 }, end.min(tape));
        let pinning = Pinning::new(tape, frames, &Reads::default().ahead(read_ahead)).unwrap().favour(front.0, front.1);
        let mut memory = Memory::new(&pinning, 1, layout.pages() as usize);
        let mut vram = Vram::start(Numbered::new(layout, read_ahead), layout, pinning, memory.frames()).unwrap();
        let runs: Vec<_> = (0..pinning.periods()).map(|period| pinning.streamed_run(period)).collect();
        // The first page of a pass and the last are asked for.
        let without = without.0.clamp(1, end.max(2) - 1)..(without.0 + without.1).clamp(1, end.max(2) - 1);
        let is_needed = |run: &std::ops::Range<u32>| run.start < end && !(without.start <= run.start && run.end <= without.end);
        let of_end = runs.iter().filter(|run| is_needed(run)).count();
        for is_short in &order {
            let (end, without) = if *is_short { (end, without.clone()) } else { (tape, 0..0) };
            vram.card_mut().read.clear();
            vram.begin_pass(end, without.clone());
            let mut next = 0;
            while next < end {
                if without.contains(&next) {
                    next = without.end;
                    continue;
                }
                let to = if next < without.start { without.start } else { end };
                next += vram.pages(next, most.min(to - next)).unwrap().len() as u32;
            }
            let read = vram.card().read.iter().filter(|(file, _)| *file == CardFile::Weights).map(|(_, page)| *page);
            let needed = runs.iter().filter(|run| !*is_short || is_needed(run)).flat_map(Clone::clone);
            prop_assert!(of_end < 2 || read.eq(needed));
        }
        // All but the first run were begun before they were asked for, unless a short pass may have fewer than are read ahead, or fewer in front of what it
        // leaves out, which a pass before it cannot know.
        let in_front: usize = runs.iter().filter(|run| run.start < without.start).map(|run| run.len()).sum();
        let (finished, early) = vram.card().finished;
        let all: usize = order.iter().map(|is_short| if *is_short { of_end } else { runs.len() }).sum();
        if read_ahead > 0 && of_end > read_ahead as usize && (without.is_empty() || in_front > read_ahead as usize) {
            prop_assert_eq!((finished as usize, early as usize), (all - 1, all - 1));
        }
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let layout = SumLayout { weights_pages: 12, tokenizer_pages: 2 };
    for frames in [1, 3, 10] {
        let pinning = Pinning::new(10, frames, &Reads::default()).unwrap();
        let mut memory = Memory::new(&pinning, 1, 1);
        let mut vram = Vram::start(Numbered::new(layout, 0), layout, pinning, memory.frames()).unwrap();
        let truncated = |file, page| Err(Fault { file, page, error: Some(ReadError::Truncated) });
        for page in [10, 11, 1000, u32::MAX] {
            assert_eq!(
                vram.pages(page, 1).map(<[Page]>::len),
                truncated(CardFile::Weights, page).map(|()| 0)
            );
        }
        for (file, page) in
            [(CardFile::Weights, 12), (CardFile::Tokenizer, 2), (CardFile::Tokenizer, 1 << 20)]
        {
            assert_eq!(vram.page(file, page).copied(), truncated(file, page).map(|()| [0; PAGE_BYTES]));
        }
        // And goes on.
        assert_eq!(vram.pages(3, 1).unwrap()[0], page_of(CardFile::Weights, 3));
    }
}
