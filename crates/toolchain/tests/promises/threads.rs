//! Threads that help with large matrices: the same to the bit, with the same errors, whoever computes what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use pageformer_card::matrix::TileRecord;
use pageformer_card::{Mlp, Norm, PAGE_BYTES, Page, Shape};
use pageformer_engine::kernels::{self, Kernel, PORTABLE, Team, Work};
use pageformer_engine::{Error, Request};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::{Fault, Faulty, MemoryCard, Threads};
use pageformer_toolchain::prune_by_magnitude;
use pageformer_vram::{Card, CardFile};

use crate::support::*;

const PROMPT: &str = "the bird saw the dog, and the dog saw the girl";
const TOKENS: u32 = 3;

/// Nothing is computed by the thread that asks: all parts go to two others, which begin at once.
#[derive(Default)]
struct Others {
    /// How often something was shared out.
    runs: AtomicUsize,
}

impl Team for Others {
    fn threads(&self) -> usize {
        2
    }

    fn run(&self, work: &Work<'_>) -> bool {
        self.runs.fetch_add(1, Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
        true
    }

    fn pause(&self, _: u32) {
        thread::yield_now();
    }
}

/// Whoever takes a part gets lost with it.
#[derive(Default)]
struct Lost {
    runs: AtomicUsize,
}

impl Team for Lost {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, _: &Work<'_>) -> bool {
        self.runs.fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// Large enough to be shared out: rows of two, three and four tiles, of which groups begin some.
fn large() -> Vec<(Model, Tokenizer)> {
    let rms = Shape {
        n_layers: 1,
        d_model: 520,
        d_ff: 900,
        head_dim: 130,
        ..shape(Norm::Rms, Mlp::SwiGlu, [4, 2])
    };
    let others = Shape { d_model: 388, d_ff: 1022, head_dim: 98, tied_embeddings: false, ..rms };
    let layer = Shape { norm: Norm::Layer, mlp: Mlp::Gelu, ..others };
    [rms, layer].into_iter().zip(1..).map(|(shape, seed)| random(shape, seed)).collect()
}

/// What a card says with a team, or alone.
fn said<C: Card>(
    card: C,
    ram: usize,
    request: &Request,
    kernel: Kernel,
    team: Option<&dyn Team>,
) -> Result<Said, Error> {
    let mut memory = memory(ram);
    let mut session = session(card, &mut memory, request, kernel)?;
    session.engine_mut().share_with(team);
    let from_pages = say(&mut session, PROMPT, TOKENS)?;
    if session.engine_mut().prepack() > 0 {
        session.reset();
        let packed = say(&mut session, PROMPT, TOKENS)?;
        assert_eq!((&packed.text, packed.reply), (&from_pages.text, from_pages.reply));
    }
    Ok(from_pages)
}

#[test]
fn the_same_to_the_bit_with_any_team() {
    let (two, three, others) = (Threads::new(2).unwrap(), Threads::new(3).unwrap(), Others::default());
    let teams: [&dyn Team; 3] = [&two, &three, &others];
    for (mut model, tokenizer) in large() {
        for density in [1.0, 0.5] {
            prune_by_magnitude(&mut model, density, (4, 4)).unwrap();
            let card = memory_card(&model, &tokenizer);
            let mut right = None;
            for batch in [1, 2, 5, 16, 32] {
                let request = Request { batch: Some(batch), ..Request::default() };
                let (least, most) =
                    (least_ram(&needs(card.clone()), &request), ample_ram(&needs(card.clone()), &request));
                // In the middle, there are runs of streamed pages and of pinned ones, and groups that begin in one and end in another.
                for ram in [least, least + (most - least) / 5, least + (most - least) / 2, most] {
                    let alone = said(card.clone(), ram, &request, kernels::best(), None).unwrap();
                    let right = right.get_or_insert(alone.clone());
                    assert_eq!(&alone, right);
                    let before = others.runs.load(Ordering::Relaxed);
                    for team in teams {
                        let now = said(card.clone(), ram, &request, kernels::best(), Some(team)).unwrap();
                        assert_eq!(&now, right, "{ram} bytes, {} threads", team.threads());
                    }
                    let shared = others.runs.load(Ordering::Relaxed) > before;
                    assert!(shared || ram < most, "nothing was shared out, batch {batch}, density {density}");
                }
            }
        }
    }
}

#[test]
fn the_same_to_the_bit_with_any_kernel() {
    let (model, tokenizer) = large().remove(0);
    let card = memory_card(&model, &tokenizer);
    let request = Request { batch: Some(8), ..Request::default() };
    let ram = ample_ram(&needs(card.clone()), &request);
    let right = said(card.clone(), ram, &request, PORTABLE, None).unwrap();
    for kernel in kernels::available() {
        let now = said(card.clone(), ram, &request, kernel, Some(&Others::default())).unwrap();
        assert_eq!(now, right, "{kernel:?}");
    }
}

/// Small models are not worth it, but nothing goes wrong with any of them.
#[test]
fn small_models_are_computed_alone() {
    let threads = Threads::new(3).unwrap();
    for (seed, shape) in (0..).zip(every_kind()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let request = Request { batch: Some(4), ..Request::default() };
        let ram = ample_ram(&needs(card.clone()), &request);
        let (best, others) = (kernels::best(), Others::default());
        let alone = said(card.clone(), ram, &request, best, None).unwrap();
        assert_eq!(said(card.clone(), ram, &request, best, Some(&threads)).unwrap(), alone);
        assert_eq!(said(card, ram, &request, best, Some(&others)).unwrap(), alone);
        assert_eq!(others.runs.into_inner(), 0);
    }
}

#[test]
fn a_helper_that_gets_lost_costs_time_only() {
    for (model, tokenizer) in large() {
        let card = memory_card(&model, &tokenizer);
        for batch in [1, 16] {
            let request = Request { batch: Some(batch), ..Request::default() };
            let ram = ample_ram(&needs(card.clone()), &request);
            let lost = Lost::default();
            let alone = said(card.clone(), ram, &request, kernels::best(), None).unwrap();
            assert_eq!(said(card.clone(), ram, &request, kernels::best(), Some(&lost)).unwrap(), alone);
            assert!(lost.runs.into_inner() > 0);
        }
    }
}

/// Pages that stay bad, and masks that are impossible although the checksums are right: the error is that of one thread, and the
/// same team goes on with the next card.
#[test]
fn errors_are_those_of_one_thread() {
    let threads = Threads::new(2).unwrap();
    let (model, tokenizer) = large().remove(0);
    let card = memory_card(&model, &tokenizer);
    let best = kernels::best();
    let mut random = Random(7);
    let (mut failed, mut torn) = (0, 0);
    for batch in [1, 16] {
        let request = Request { batch: Some(batch), ..Request::default() };
        let needs = needs(card.clone());
        let (least, most) = (least_ram(&needs, &request), ample_ram(&needs, &request));
        let right = said(card.clone(), most, &request, best, None).unwrap();
        let middle = least + (most - least) / 2;
        for _ in 0..20 {
            let page = random.below(needs.tape_pages as usize) as u32;
            let spoilt = |team| {
                let mut card = Faulty::new(card.clone());
                card.faults.push(Fault::Flips { file: CardFile::Weights, page, bit: 5, times: 99 });
                said(card, middle, &request, best, team)
            };
            let alone = spoilt(None);
            assert_eq!(spoilt(Some(&threads)), alone, "page {page}");
            failed += usize::from(matches!(alone, Err(Error::Page(found, _)) if found.page == page));
        }
        for ram in [middle, most] {
            for page in mask_pages(&card) {
                let mut damaged = card.clone();
                let record = TileRecord { scales: [0x3F80; 4], mask: u64::MAX };
                let place = [0, 17, 31][random.below(3)];
                record.write(&mut damaged.weights.as_chunks_mut::<PAGE_BYTES>().0[page], place);
                reseal(&mut damaged);
                let alone = said(damaged.clone(), ram, &request, best, None);
                assert_eq!(said(damaged, ram, &request, best, Some(&threads)), alone, "page {page}");
                torn += usize::from(matches!(alone, Err(Error::Tape { .. })));
            }
        }
        assert_eq!(said(card.clone(), most, &request, best, Some(&threads)).unwrap(), right);
    }
    assert!(failed > 20 && torn > 20, "{failed} bad pages, {torn} bad masks");
}

/// Every third page that holds masks: half of its bytes are scales, bf16 from 2⁻¹⁷ to 1, which cells seldom look like.
fn mask_pages(card: &MemoryCard) -> Vec<usize> {
    let scales = |page: &Page| {
        let scales = page.chunks_exact(16).flat_map(|record| &record.as_chunks().0[..4]);
        scales.filter(|[_, high]| (0x37..0x40).contains(high)).count()
    };
    let pages: &[Page] = card.weights.as_chunks().0;
    (0..pages.len()).filter(|page| scales(&pages[*page]) > 100).step_by(3).collect()
}
