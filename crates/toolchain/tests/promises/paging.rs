//! Paging is optimal: a pass reads each page that is not pinned once, in as few runs as the ring allows, and hardly
//! anything else. What is read is what [`Traced`] saw; what the engine says of it must agree.

use pageformer_card::{Shape, Tensor};
use pageformer_engine::{Request, Session, kernels};
use pageformer_sim::{MemoryCard, Read, Traced};
use pageformer_vram::{CardFile, Stats};

use crate::support::*;

/// What a pass read.
#[derive(Debug)]
struct Pass {
    /// Single pages of rows of the embedding.
    lookups: Vec<u32>,
    /// Runs of the tape, in order: first page and number.
    runs: Vec<(u32, u32)>,
    /// Pages of checksums.
    sums: u64,
    /// Commands of any kind.
    commands: u64,
    /// What the engine says.
    stats: Stats,
}

/// Runs one step of these tokens.
fn pass(session: &mut Session<'_, Traced<MemoryCard>>, tokens: &[u16]) -> Pass {
    let vram = session.engine_mut().vram_mut();
    vram.reset_stats();
    vram.card_mut().reads.clear();
    session.engine_mut().step(tokens).unwrap();
    let engine = session.engine();
    let reads = &engine.vram().card().reads;
    let weights: Vec<&Read> = reads.iter().filter(|read| read.file == CardFile::Weights).collect();
    // Rows of the embedding are looked up before the first page of the tape is needed.
    let periods = engine.plan().pinning.periods() as usize;
    let (lookups, runs) = weights.split_at(weights.len() - periods);
    let embedding = engine.table().pages_of(Tensor::Embedding);
    assert!(lookups.iter().all(|read| read.pages == 1 && embedding.contains(&read.first)), "{lookups:?}");
    Pass {
        lookups: lookups.iter().map(|read| read.first).collect(),
        runs: runs.iter().map(|read| (read.first, read.pages)).collect(),
        sums: engine.vram().card().pages(CardFile::Sums),
        commands: reads.len() as u64,
        stats: *engine.vram().stats(),
    }
}

/// Pages that a row of the embedding touches: its cells and the record of each of its tiles.
fn most_pages_of_a_row(shape: &Shape) -> usize {
    let tiles = shape.d_model.div_ceil(256) as usize;
    // The cells of 256 inputs are two pages, three when they begin within one.
    tiles * (1 + 3)
}

fn check(card: &MemoryCard, budgets: usize) {
    let request = Request { batch: Some(4), ..Request::default() };
    let needs = needs(card.clone());
    let (least, most) = (least_ram(&needs, &request), ample_ram(&needs, &request));
    let tape = needs.tape_pages;
    for i in 0..=budgets {
        let ram = least + (most - least) * i / budgets;
        let mut memory = memory(ram);
        let mut session = session(Traced::new(card.clone()), &mut memory, &request, kernels::best()).unwrap();
        let (plan, pinning) = (*session.engine().plan(), session.engine().plan().pinning);
        let pinned: Vec<u32> = (0..tape).filter(|page| session.engine().vram().resident(*page)).collect();
        assert_eq!(pinned.len(), pinning.pinned as usize);

        for tokens in [&[5u16, 9, 5, 130][..], &[7], &[7]] {
            let pass = pass(&mut session, tokens);
            let what = format!("{ram} bytes: {pinning:?} {pass:?}");

            // The tape: every page that is not pinned, once, in order, in ⌈(P − F) ÷ ring⌉ runs.
            let streamed: Vec<u32> = pass.runs.iter().flat_map(|(first, n)| *first..first + n).collect();
            let expected: Vec<u32> = (0..tape).filter(|page| !pinned.contains(page)).collect();
            assert_eq!(streamed, expected, "{what}");
            assert_eq!(streamed.len(), (tape - pinning.pinned) as usize, "{what}");
            let fewest = streamed
                .len()
                .checked_div(pinning.ring as usize)
                .map_or(0, |_| streamed.len().div_ceil(pinning.ring as usize));
            assert_eq!(pass.runs.len(), fewest, "{what}");
            assert!(pass.runs.iter().all(|(_, n)| *n <= pinning.ring), "{what}");

            // Besides: the rows of the embedding, unless pinned, and checksums, unless they stay.
            assert!(pass.lookups.len() <= tokens.len() * most_pages_of_a_row(&needs.shape), "{what}");
            assert!(pass.lookups.iter().all(|page| !pinned.contains(page)), "{what}");
            let sums_stay = plan.sum_pages == needs.sums().pages();
            let most_sums = match sums_stay {
                true => 0,
                // One for each lookup that changes to another page of sums and back, and each once in order.
                false => 2 * pass.lookups.len() as u64 + u64::from(needs.sums().pages()),
            };
            assert!(pass.sums <= most_sums, "{what}");

            // What the engine says is what happened.
            assert_eq!(pass.stats.streamed, streamed.len() as u64, "{what}");
            assert_eq!(pass.stats.hits, u64::from(pinning.pinned), "{what}");
            assert_eq!(pass.stats.embedding, pass.lookups.len() as u64, "{what}");
            assert_eq!((pass.stats.sums, pass.stats.commands), (pass.sums, pass.commands), "{what}");
            assert_eq!((pass.stats.retries, pass.stats.loaded, pass.stats.tokenizer), (0, 0, 0), "{what}");
        }
        if i == budgets {
            assert_eq!(pinning.pinned, tape, "the largest budget holds everything");
        }
    }
}

#[test]
fn a_pass_reads_what_is_not_pinned_once() {
    for (seed, shape) in (0..).zip(two_kinds().into_iter().chain(wide())) {
        let (model, tokenizer) = random(shape, seed);
        check(&memory_card(&model, &tokenizer), 24);
    }
}

#[test]
fn stories_passes_read_what_is_not_pinned_once() {
    let Some((model, tokenizer)) = stories() else { return };
    check(&memory_card(&model, &tokenizer), 10);
}

/// A tied model that is all in memory reads nothing of the weights at all; an embedding that is not on the tape is looked up.
#[test]
fn what_is_resident_is_not_read() {
    for tied_embeddings in [true, false] {
        let (model, tokenizer) = random(Shape { tied_embeddings, ..two_kinds()[0] }, 1);
        let card = memory_card(&model, &tokenizer);
        let ram = ample_ram(&needs(card.clone()), &Request::default());
        let mut memory = memory(ram);
        let mut session =
            session(Traced::new(card), &mut memory, &Request::default(), kernels::best()).unwrap();
        for tokens in [&[1u16, 2, 3][..], &[200]] {
            let pass = pass(&mut session, tokens);
            assert_eq!(pass.runs, []);
            assert_eq!(pass.lookups.is_empty(), tied_embeddings, "{pass:?}");
            assert_eq!(pass.commands == 0, tied_embeddings, "{pass:?}");
        }
    }
}

#[test]
fn a_prompt_takes_a_pass_for_each_batch() {
    let (model, tokenizer) = random(Shape { vocab: 128, ..two_kinds()[1] }, 1);
    let card = memory_card(&model, &tokenizer);
    for batch in [1, 2, 5, 16, 32] {
        let request = Request { batch: Some(batch), ..Request::default() };
        for length in [1, 2, 4, 5, 6, 31, 32, 33, 50] {
            let mut memory = memory(least_ram(&needs(card.clone()), &request));
            let mut session =
                session(Traced::new(card.clone()), &mut memory, &request, kernels::best()).unwrap();
            // A token for each character.
            let reply = say(&mut session, &"x".repeat(length), 3).unwrap().reply;
            assert_eq!((reply.prompt_tokens, reply.tokens), (length as u32, 3));
            let passes = length.div_ceil(batch as usize) as u64 + 2;
            assert_eq!(session.engine().passes(), passes, "batch {batch}, {length} tokens");
            // The card says the same: the start of the tape was read as often.
            let read = |read: &&Read| read.file == CardFile::Weights && read.first == 0;
            assert_eq!(session.engine().vram().card().reads.iter().filter(read).count() as u64, passes);
        }
    }
}
