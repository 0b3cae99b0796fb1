//! `pages.meta`: what is written is there after the next start, and a power cut in the middle of writing leaves the older slot or
//! the newer one, whole.
#![allow(missing_docs)]

use pageformer_card::page::checksum;
use pageformer_card::sums::SumLayout;
use pageformer_card::writer::meta_pages;
use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{
    Card, CardFile, Frames, MetaError, PageMeta, Pinning, ReadError, Vram, WriteError, read_meta,
};
use proptest::prelude::*;

/// What is left of a sector that was being written when power failed.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Old,
    New,
    Half,
    Noise,
}

/// A card whose pages are zero, with a `pages.meta` that can be written until power fails.
#[derive(Clone)]
struct Writable {
    layout: SumLayout,
    meta: Vec<Page>,
    /// Sectors that can still be written, and what becomes of the next.
    power: Option<(u32, Torn)>,
}

impl Writable {
    fn new(pages: u32) -> Self {
        let layout = SumLayout { weights_pages: pages, tokenizer_pages: 0 };
        Self { layout, meta: meta_pages(pages), power: None }
    }
}

impl Card for Writable {
    fn bytes(&self, file: CardFile) -> u64 {
        let pages = match file {
            CardFile::Index => return 4,
            CardFile::Weights => self.layout.weights_pages,
            CardFile::Sums => self.layout.pages(),
            CardFile::Meta => self.meta.len() as u32,
            _ => 0,
        };
        u64::from(pages) * PAGE_BYTES as u64
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        for (number, page) in (first..).zip(pages) {
            page.fill(0);
            match file {
                CardFile::Sums => {
                    for (sum, bytes) in (number * 128..).zip(page.chunks_exact_mut(4)) {
                        let length = if sum < self.layout.weights_pages { PAGE_BYTES } else { 4 };
                        bytes.copy_from_slice(&checksum(&[0; PAGE_BYTES][..length]).to_le_bytes());
                    }
                }
                CardFile::Meta => *page = *self.meta.get(number as usize).ok_or(ReadError::Truncated)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        for (number, page) in (first as usize..).zip(pages) {
            let place = self.meta.get_mut(number).ok_or(WriteError::Truncated)?;
            match &mut self.power {
                Some((0, torn)) => {
                    match torn {
                        Torn::Old => {}
                        Torn::New => *place = *page,
                        Torn::Half => place[..256].copy_from_slice(&page[..256]),
                        Torn::Noise => place.iter_mut().for_each(|byte| *byte ^= 0x5A),
                    }
                    return Err(WriteError::NoCard);
                }
                Some((left, _)) => *left -= 1,
                None => {}
            }
            *place = *page;
        }
        Ok(())
    }
}

/// Starts a `Vram` over `card`, does something with it, and gives the card back.
fn with<T>(card: &mut Writable, kept: bool, act: impl FnOnce(&mut Vram<'_, &mut Writable>, u32) -> T) -> T {
    let pages = card.layout.weights_pages;
    let mut meta = vec![0; if kept { pages as usize } else { 0 }];
    let frame = || vec![[0; PAGE_BYTES]; 1];
    let (mut ring, mut side, mut sums) = (frame(), frame(), frame());
    let frames = Frames {
        pinned: &mut [],
        ring: &mut ring,
        side: &mut side,
        side_tags: &mut [0],
        sums: &mut sums,
        meta: &mut meta,
    };
    let layout = card.layout;
    let mut vram =
        Vram::start(card, layout, Pinning { tape: pages, ring: 1, ..Pinning::default() }, frames).unwrap();
    act(&mut vram, pages)
}

/// Tags every page with a number that depends on `write`, and saves that.
fn save(card: &mut Writable, write: u32) -> Result<u32, MetaError> {
    with(card, true, |vram, pages| {
        (0..pages).for_each(|page| assert!(vram.tag(page, tag(page, write))));
        vram.save_meta()
    })
}

fn tag(page: u32, write: u32) -> u8 {
    ((page * 7 + write) % 16) as u8
}

/// The write that the metadata comes from, and whether all records are of that one.
fn found(card: &mut Writable) -> Option<(u32, bool)> {
    with(card, true, |vram, pages| {
        let write = vram.meta_writes()?;
        let whole = (0..pages).all(|page| {
            let meta = vram.meta(page).unwrap();
            meta.tag() == if write == 0 { 0 } else { tag(page, write) } && meta.loads == 0
        });
        Some((write, whole))
    })
}

#[test]
fn power_fails_after_any_sector() {
    for pages in [1, 127, 128, 129, 300, 914] {
        let mut card = Writable::new(pages);
        let sectors = 1 + pages.div_ceil(128);
        assert_eq!(found(&mut card), Some((0, true)));
        for write in 1..5 {
            for after in 0..=sectors {
                for torn in [Torn::Old, Torn::New, Torn::Half, Torn::Noise] {
                    let mut cut = card.clone();
                    cut.power = Some((after, torn));
                    let saved = save(&mut cut, write);
                    cut.power = None;
                    let newest = match after == sectors {
                        // All was written before power failed.
                        true => {
                            assert_eq!(saved, Ok(write));
                            write
                        }
                        false => {
                            assert_eq!(saved, Err(MetaError::Write(WriteError::NoCard)));
                            let (newest, whole) = found(&mut cut).expect("one slot is whole");
                            assert!(whole && (newest == write || newest == write - 1), "{newest} of {write}");
                            // The new header is written last: before it there is nothing new to be found.
                            let header_came = after + 1 == sectors && matches!(torn, Torn::New | Torn::Half);
                            assert_eq!(newest == write, header_came, "{after} of {sectors}, {torn:?}");
                            newest
                        }
                    };
                    // Life goes on.
                    assert_eq!(save(&mut cut, newest + 1), Ok(newest + 1));
                    assert_eq!(found(&mut cut), Some((newest + 1, true)));
                }
            }
            assert_eq!(save(&mut card, write), Ok(write));
        }
    }
}

#[test]
fn what_was_counted_goes_on_after_the_next_start() {
    let mut card = Writable::new(200);
    for round in 1..4 {
        with(&mut card, true, |vram, _| {
            vram.pages(150, 1).unwrap();
            vram.pages(20, 1).unwrap();
            vram.pages(150, 1).unwrap();
            let meta = vram.meta(150).unwrap();
            assert_eq!((meta.loads, meta.checked()), (2 * round as u16, true));
            assert_eq!(vram.save_meta(), Ok(round));
        });
        // The state of a checksum is that of the last read: after a start there was none.
        with(&mut card, true, |vram, _| assert!(!vram.meta(150).unwrap().checked()));
    }
    let mut records = vec![0; 200];
    assert_eq!(read_meta(&mut card, &mut records, &mut [0; PAGE_BYTES]), Some(3));
    assert_eq!(records.iter().map(|bits| PageMeta::from_bits(*bits).loads).sum::<u16>(), 9);
    with(&mut card, true, |vram, _| {
        vram.reset_meta();
        assert_eq!(vram.save_meta(), Ok(4));
    });
    with(&mut card, true, |vram, pages| {
        assert!((0..pages).all(|page| vram.meta(page) == Some(PageMeta::default())));
    });
}

#[test]
fn cards_without_it_work_and_nothing_is_written_there() {
    let good = Writable::new(200);
    let changed = |change: &dyn Fn(&mut Vec<Page>)| {
        let mut card = good.clone();
        change(&mut card.meta);
        card
    };
    for mut card in [
        changed(&|meta| meta.clear()),
        changed(&|meta| meta.truncate(4)),
        changed(&|meta| meta.push([0; PAGE_BYTES])),
        // A file of that name and size which is something else.
        changed(&|meta| meta.fill([7; PAGE_BYTES])),
        // That of a card with another number of pages.
        changed(&|meta| *meta = meta_pages(199)),
        // Both slots damaged.
        changed(&|meta| meta[2][100] ^= 1),
    ] {
        let before = card.meta.clone();
        with(&mut card, true, |vram, _| {
            assert_eq!((vram.meta_writes(), vram.save_meta()), (None, Err(MetaError::NoFile)));
            assert!(vram.tag(3, 5) && vram.meta(3).unwrap().tag() == 5, "in RAM");
        });
        assert!(card.meta == before);
    }
    // No RAM for it.
    let mut card = good.clone();
    with(&mut card, false, |vram, _| {
        assert_eq!((vram.save_meta(), vram.tag(3, 5)), (Err(MetaError::NotKept), false));
    });
    assert!(card.meta == good.meta);
}

proptest! {
    #[test]
    fn any_content_is_taken(pages in 1u32..300, noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8)) {
        let mut card = Writable::new(pages);
        save(&mut card, 1).unwrap();
        for (at, xor) in noise {
            let meta = card.meta.as_flattened_mut();
            meta[usize::from(at) % meta.len()] ^= xor;
        }
        if let Some((write, whole)) = found(&mut card) {
            prop_assert!(whole && write < 2);
            prop_assert_eq!(save(&mut card, write + 1), Ok(write + 1));
        }
    }
}
