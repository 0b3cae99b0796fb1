//! Damaged cards: whatever happened to whichever byte, an error names the place, or what is said is what the sound card
//! says. Never another text.

use pageformer_card::matrix::{TILE_OUTPUTS, TileRecord};
use pageformer_card::{ManifestError, PAGE_BYTES, Page, Role, Shape, Tensor, TensorKind, TensorTable};
use pageformer_engine::{Error, Request};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::prune_by_magnitude;
use pageformer_vram::{Arena, CardFile, Fault};
use proptest::prelude::*;

use crate::support::*;

const PROMPT: &str = "the dog";

/// A card with every part that a card can have: pruned, an embedding off the tape, checksums of several pages.
fn card() -> MemoryCard {
    let (mut model, tokenizer) = random(Shape { d_ff: 500, ..two_kinds()[0] }, 4);
    prune_by_magnitude(&mut model, 0.8, (4, 4)).unwrap();
    memory_card(&model, &tokenizer)
}

/// Enough memory to pin about half.
fn ram(card: &MemoryCard) -> usize {
    let needs = needs(card.clone());
    least_ram(&needs, &Request::default()) + needs.tape_pages as usize * 256
}

/// The card and what it says.
struct Sound {
    card: MemoryCard,
    ram: usize,
    said: Said,
}

impl Sound {
    fn new() -> Self {
        let card = card();
        let ram = ram(&card);
        let said = run(card.clone(), ram, &Request::default(), PROMPT, 4).unwrap();
        Self { card, ram, said }
    }

    /// The error of a card that was damaged, if it has an effect; it must not say anything else.
    fn error_of(&self, damaged: MemoryCard, what: &str) -> Option<Error> {
        match run(damaged, self.ram, &Request::default(), PROMPT, 4) {
            Ok(said) => {
                assert_eq!(said, self.said, "{what}");
                None
            }
            Err(error) => Some(error),
        }
    }

    fn table<T>(&self, look: impl FnOnce(&TensorTable<'_>) -> T) -> T {
        let mut tables = memory(16 << 10);
        let (_, table) = describe(&mut self.card.clone(), &mut Arena::new(&mut tables)).unwrap();
        look(&table)
    }
}

/// One bit anywhere: the error names the page, and the tensor if it is one of the weights.
#[test]
fn a_flipped_bit_is_found_and_named() {
    let sound = Sound::new();
    let mut random = Random(1);
    for of in FILES {
        let bytes = file(&mut sound.card.clone(), of).len();
        let mut noticed = 0;
        for byte in (0..bytes).step_by(40) {
            let bit = (byte + random.below(40)).min(bytes - 1) * 8 + random.below(8);
            let page = (bit / 8 / PAGE_BYTES) as u32;
            let mut damaged = sound.card.clone();
            flip(&mut damaged, of, bit);
            let what = format!("bit {bit} of {of}");
            let Some(error) = sound.error_of(damaged, &what) else { continue };
            noticed += 1;
            match of {
                CardFile::Weights => {
                    let within = sound.table(|table| table.locate(page));
                    assert_eq!(error, Error::Page(Fault { file: of, page, error: None }, within), "{what}");
                }
                CardFile::Tokenizer | CardFile::Drafts => {
                    assert_eq!(error, Error::Page(Fault { file: of, page, error: None }, None), "{what}");
                }
                // What does not fit its checksum any more; which of the two is wrong cannot be known.
                CardFile::Sums => {
                    assert!(matches!(error, Error::Page(Fault { error: None, .. }, _)), "{what}: {error}")
                }
                CardFile::Index => {
                    let in_index = matches!(error, Error::Manifest(_) | Error::Plan(_) | Error::Memory(_))
                        || matches!(error, Error::Page(Fault { file: CardFile::Index, error: None, .. }, _))
                        // A number of pages that is not that of the file.
                        || matches!(error, Error::FileSize { .. });
                    assert!(in_index, "{what}: {error:?}");
                }
                CardFile::Meta => panic!("{what}: {error}"),
            }
        }
        // Only pages of the embedding and the tokenizer that nobody looks at, and what fills up pages.crc, have no effect.
        let tried = bytes.div_ceil(40);
        let least = match of {
            CardFile::Index => tried,
            CardFile::Weights => tried * 3 / 4,
            CardFile::Sums => tried / 3,
            CardFile::Tokenizer => tried / 8,
            CardFile::Meta => 0,
            // Nothing is believed that drafts say: see drafts.rs.
            CardFile::Drafts => 0,
        };
        assert!(noticed >= least, "{of}: {noticed} of {tried} flipped bits were noticed");
    }
}

/// Files that are cut, empty, gone, too long, or those of another card.
#[test]
fn files_of_the_wrong_size_are_named() {
    let sound = Sound::new();
    for of in FILES {
        let bytes = file(&mut sound.card.clone(), of).len();
        let mut lengths: Vec<usize> =
            vec![0, 1, PAGE_BYTES - 1, bytes / 2, bytes - 1, bytes + 1, bytes + PAGE_BYTES];
        lengths.extend((0..bytes).step_by(PAGE_BYTES).skip(1).step_by(5));
        for length in lengths.into_iter().filter(|length| *length != bytes) {
            let mut damaged = sound.card.clone();
            file(&mut damaged, of).resize(length, 0);
            let what = format!("{of} of {length} instead of {bytes} bytes");
            let error = sound.error_of(damaged, &what).expect(&what);
            match of {
                CardFile::Index => assert!(
                    matches!(error, Error::Manifest(_) | Error::Page(Fault { file: CardFile::Index, .. }, _)),
                    "{what}: {error:?}"
                ),
                file => {
                    let expected = Error::FileSize { file, expected: bytes as u64, found: length as u64 };
                    assert_eq!(error, expected, "{what}");
                }
            }
            assert!(error.to_string().contains(&of.to_string()), "{what}: {error}");
        }
    }
}

#[test]
fn files_of_another_card_are_noticed() {
    let sound = Sound::new();
    let (model, tokenizer) = random(Shape { d_ff: 500, ..two_kinds()[0] }, 5);
    let mut other = memory_card(&model, &tokenizer);
    for of in FILES {
        let mut damaged = sound.card.clone();
        *file(&mut damaged, of) = file(&mut other, of).clone();
        let error = sound.error_of(damaged, "a file of another card");
        // The two cards have the same vocabulary, and so the same tokenizer.bin.
        assert_eq!(error.is_none(), of == CardFile::Tokenizer, "{of}: {error:?}");
    }
}

/// Two pages that changed places, with and without their checksums: an error, or nobody looked at them.
#[test]
fn swapped_pages_are_noticed() {
    let sound = Sound::new();
    let mut random = Random(2);
    for of in [CardFile::Weights, CardFile::Sums, CardFile::Tokenizer] {
        let pages = file(&mut sound.card.clone(), of).len() / PAGE_BYTES;
        let mut noticed = 0;
        for _ in 0..100 {
            let (a, b) = (random.below(pages), random.below(pages));
            let mut damaged = sound.card.clone();
            let bytes = file(&mut damaged, of).as_chunks_mut::<PAGE_BYTES>().0;
            let same = bytes[a] == bytes[b];
            bytes.swap(a, b);
            let error = sound.error_of(damaged, &format!("pages {a} and {b} of {of}"));
            assert!(!same || error.is_none());
            noticed += usize::from(error.is_some());
        }
        assert!(noticed > 30, "{of}: {noticed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Any bytes over any place of any file.
    #[test]
    fn any_damage_is_found(
        damages in proptest::collection::vec((0usize..4, any::<u32>(), proptest::collection::vec(any::<u8>(), 1..600)), 1..4)
    ) {
        thread_local!(static SOUND: Sound = Sound::new());
        SOUND.with(|sound| {
            let mut damaged = sound.card.clone();
            for (of, at, bytes) in &damages {
                let file = file(&mut damaged, FILES[*of]);
                let at = *at as usize % file.len();
                let n = bytes.len().min(file.len() - at);
                file[at..at + n].copy_from_slice(&bytes[..n]);
            }
            sound.error_of(damaged, "damage");
        });
    }

    /// The same from an exporter that does not know what it does: the checksums are right. Anything may be said or
    /// refused then, but nothing may break.
    #[test]
    fn any_content_with_right_checksums_does_no_harm(
        damages in proptest::collection::vec((0usize..4, any::<u32>(), proptest::collection::vec(any::<u8>(), 1..600)), 1..6)
    ) {
        thread_local!(static SOUND: Sound = Sound::new());
        SOUND.with(|sound| {
            let mut damaged = sound.card.clone();
            for (of, at, bytes) in &damages {
                let file = file(&mut damaged, [CardFile::Weights, CardFile::Tokenizer][*of % 2]);
                let at = *at as usize % file.len();
                let n = bytes.len().min(file.len() - at);
                file[at..at + n].copy_from_slice(&bytes[..n]);
            }
            reseal(&mut damaged);
            let _ = run(damaged, sound.ram, &Request::default(), PROMPT, 4);
        });
    }
}

/// Changes records of a tensor, with right checksums: those of the first mask page; of the embedding, whose rows are looked
/// up, of all that are one.
fn with_records(sound: &Sound, tensor: Tensor, change: impl Fn(&mut TileRecord)) -> MemoryCard {
    let mut card = sound.card.clone();
    let (mut at, dims) = sound.table(|table| match table.shape().kind(tensor) {
        TensorKind::Matrix { dims, .. } => (table.pages_of(tensor).start, dims),
        TensorKind::Vector { .. } => panic!("{tensor} has no records"),
    });
    let groups = if tensor == Tensor::Embedding { dims.groups() } else { 1 };
    for group in 0..groups {
        let page: &mut Page = &mut card.weights.as_chunks_mut().0[at as usize];
        for place in 0..dims.tiles_in_group(group) as usize {
            let mut record = TileRecord::read(page, place);
            change(&mut record);
            record.write(page, place);
        }
        at += 1 + dims.dense_cell_pages(group);
    }
    reseal(&mut card);
    card
}

fn matrices(sound: &Sound) -> Vec<(Tensor, u64)> {
    sound.table(|table| {
        let mask = |tensor| match table.shape().kind(tensor) {
            TensorKind::Matrix { dims, .. } => Some((tensor, dims.full_mask(0))),
            TensorKind::Vector { .. } => None,
        };
        table.shape().iter_tensors().filter_map(mask).collect()
    })
}

/// A mask with a bit beyond the tile's width, or for more or fewer cells than there are pages.
#[test]
fn impossible_masks_are_named() {
    let sound = Sound::new();
    for (tensor, full) in matrices(&sound) {
        let error =
            |mask| sound.error_of(with_records(&sound, tensor, |record| record.mask = mask), "a wrong mask");
        let is_named = |error: &Option<Error>| matches!(error, Some(Error::Tape { tensor: named, .. }) if *named == tensor);
        if full != u64::MAX {
            for (bit, what) in [(full + 1, "a bit too far"), (1 << 63, "a bit much too far")] {
                let found = error(full | bit);
                assert!(is_named(&found), "{what} in {tensor}: {found:?}");
            }
        }
        // Fewer cells than the pages have; in the embedding none may be missing at all. Of a small matrix nothing may be left.
        if sound.table(|table| table.pages_of(tensor).len() == 1) {
            continue;
        }
        let fewer = error(0);
        assert!(is_named(&fewer), "{tensor}: {fewer:?}");
        if tensor == Tensor::Embedding {
            assert!(is_named(&error(full & !1)));
        }
    }
}

/// Scales and norms that are not finite: the error names the tensor, or a neighbour that notices.
#[test]
fn numbers_that_are_not_finite_are_named() {
    let sound = Sound::new();
    const NAN: u16 = 0x7FC0;
    const INFINITE: u16 = 0x7F80;
    let order: Vec<Tensor> = sound.table(|table| table.shape().iter_tensors().collect());
    let place = |tensor: Tensor| order.iter().position(|t| *t == tensor).unwrap();
    for (tensor, _) in matrices(&sound) {
        for scale in [NAN, INFINITE, INFINITE | 0x8000] {
            let spoil = |record: &mut TileRecord| record.scales = [scale; TILE_OUTPUTS];
            match sound.error_of(with_records(&sound, tensor, spoil), "a scale that is not finite") {
                Some(Error::NotFinite(Tensor::Layer(0, Role::Ln1))) if tensor == Tensor::Embedding => {}
                Some(Error::NotFinite(named)) => {
                    let behind = place(named) as i64 - place(tensor) as i64;
                    assert!((-1..=2).contains(&behind), "{tensor} is damaged, {named} is named");
                }
                other => panic!("{tensor}, {scale:04X}: {other:?}"),
            }
        }
    }
    let norms = [Tensor::Layer(0, Role::Ln1), Tensor::Layer(1, Role::Ln2), Tensor::FinalLn];
    for tensor in norms {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut card = sound.card.clone();
            let first = sound.table(|table| table.pages_of(tensor)).start as usize;
            card.weights[first * PAGE_BYTES + 12..][..4].copy_from_slice(&value.to_le_bytes());
            reseal(&mut card);
            assert_eq!(sound.error_of(card, "a gain that is not finite"), Some(Error::NotFinite(tensor)));
        }
    }
}

/// The weight −128, which no exporter writes: all kernels agree on it, too.
#[test]
fn the_weight_that_is_never_written_is_the_same_in_every_kernel() {
    let sound = Sound::new();
    let mut card = sound.card.clone();
    let mut random = Random(3);
    for (tensor, _) in matrices(&sound) {
        let pages = sound.table(|table| table.pages_of(tensor));
        let bytes =
            &mut card.weights[(pages.start as usize + 1) * PAGE_BYTES..pages.end as usize * PAGE_BYTES];
        // The last page may be one of masks; only the first of the cells is touched.
        bytes.iter_mut().take(PAGE_BYTES).filter(|_| random.below(3) == 0).for_each(|byte| *byte = 0x80);
    }
    reseal(&mut card);
    let said: Vec<Said> = pageformer_engine::kernels::available()
        .map(|kernel| {
            let mut memory = memory(sound.ram);
            say(&mut session(card.clone(), &mut memory, &Request::default(), kernel).unwrap(), PROMPT, 4)
                .unwrap()
        })
        .collect();
    assert!(said.iter().all(|other| *other == said[0]));
    assert_ne!(said[0], sound.said);
}

/// The error of a card whose index.json is not there at all.
#[test]
fn a_card_without_an_index_says_so() {
    let sound = Sound::new();
    let error = sound.error_of(MemoryCard { index: Vec::new(), ..sound.card.clone() }, "no index").unwrap();
    assert!(matches!(error, Error::Manifest(ManifestError::Syntax { .. })), "{error:?}");
}
