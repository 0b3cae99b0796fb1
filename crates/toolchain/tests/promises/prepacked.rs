//! Matrices that are packed anew: the same to the bit, where all of a tape is in memory, and not otherwise.

use std::collections::HashSet;

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_engine::kernels::{self, PORTABLE, Team};
use pageformer_engine::{Request, Speculation};
use pageformer_sim::Threads;
use pageformer_toolchain::{numbered, prune_by_magnitude};

use crate::support::*;

const PROMPT: &str = "the bird saw the dog, and the dog saw the girl";

#[test]
fn the_same_to_the_bit_for_every_kind_of_model() {
    for (seed, shape) in (0..).zip(every_kind().into_iter().chain(wide())) {
        let (mut model, tokenizer) = random(shape, seed);
        for density in [1.0, 0.5] {
            prune_by_magnitude(&mut model, density, (4, 4)).unwrap();
            let card = memory_card(&model, &tokenizer);
            for batch in [1, 7] {
                let request = Request { batch: Some(batch), ..Request::default() };
                let ram = ample_ram(&needs(card.clone()), &request);
                let said = |kernel, packed: bool| {
                    let mut memory = memory(ram);
                    let mut session = session(card.clone(), &mut memory, &request, kernel).unwrap();
                    let bytes = if packed { session.engine_mut().prepack() } else { 0 };
                    assert_eq!(bytes > 0, packed && kernel.compute().packing().is_some(), "{kernel:?}");
                    say(&mut session, PROMPT, 4).unwrap()
                };
                let right = said(PORTABLE, false);
                for kernel in kernels::available() {
                    assert_eq!(said(kernel, true), right, "{kernel:?}, {shape:?}");
                }
            }
        }
    }
}

/// A head so large that greedy decoding looks at half of it first.
#[test]
fn the_most_likely_token_is_that_of_the_largest_logit() {
    let two = Threads::new(2).unwrap();
    // Rows of one, two, three and more segments; some of them in parts of groups.
    let shapes = [
        (136, 31_003, Rows::Repeated(2)),
        (288, 16_001, Rows::Repeated(2)),
        (520, 8_200, Rows::Repeated(2)),
        (288, 16_001, Rows::Repeated(16_001)),
        (136, 31_003, Rows::Close),
        (288, 16_001, Rows::Close),
        // Of such rows, fewer than 16 fit the memory in which they are computed together.
        (776, 5_447, Rows::Close),
        (1288, 4_099, Rows::Close),
        (2040, 2_062, Rows::Close),
    ];
    for (seed, (width, vocab, rows)) in (0..).zip(shapes) {
        let shape = Shape {
            n_layers: 1,
            d_model: width,
            vocab,
            tied_embeddings: [136, 520].contains(&width),
            ..shape(Norm::Rms, Mlp::SwiGlu, [2, 1])
        };
        let mut model = random_model(shape, seed);
        (model.bos, model.eos) = (None, Vec::new());
        let row = width as usize;
        for tensor in model.tensors_mut().filter(|tensor| tensor.dims[0] == vocab as usize) {
            match rows {
                Rows::Repeated(times) => {
                    for rows in tensor.data.chunks_mut(times * row) {
                        (row..rows.len()).step_by(row).for_each(|to| rows.copy_within(..row, to));
                    }
                }
                Rows::Close => {
                    let mut sign = 1.0;
                    for at in 1..=60 {
                        let row = &mut tensor.data[at * (vocab as usize / 61) * row..][..row];
                        for (i, w) in (0..).zip(row) {
                            *w = 0.05 * *w + 2.0 * sign * f32::from((i * 37 % 64) as i8 - 32) / 32.0;
                        }
                        sign = -sign;
                    }
                }
            }
        }
        let card = memory_card(&model, &numbered(vocab).unwrap());
        let request = Request { batch: Some(2), speculation: Speculation::Off, ..Request::default() };
        let ram = ample_ram(&needs(card.clone()), &request);
        for kernel in kernels::available() {
            let mut memory = memory(ram);
            let mut session = session(card.clone(), &mut memory, &request, kernel).unwrap();
            session.engine_mut().prepack();
            let with_digest = say(&mut session, PROMPT, 20).unwrap();
            for team in [None, Some(&two as &dyn Team)] {
                session.engine_mut().share_with(team);
                session.reset();
                session.keep_digest(false);
                let mut text = Vec::new();
                let mut said = |bytes: &[u8]| {
                    text.extend_from_slice(bytes);
                    true
                };
                let reply = session.reply(PROMPT, "", 20, &mut said).unwrap();
                assert_eq!((&text, reply), (&with_digest.text, with_digest.reply), "{kernel:?}");

                let engine = session.engine_mut();
                engine.truncate(0);
                let mut token = 1;
                let mut tokens = HashSet::new();
                for position in 0..30 {
                    engine.truncate(position);
                    let logits = engine.step(&[token]).unwrap();
                    let (at, _) =
                        (0..).zip(logits.iter()).fold((0, f32::NEG_INFINITY), |best, (at, logit)| {
                            if *logit > best.1 { (at, *logit) } else { best }
                        });
                    engine.truncate(position);
                    let likely = engine.most_likely(&[token]).unwrap();
                    assert_eq!(likely, at, "{kernel:?}, {shape:?}");
                    assert_eq!(engine.position(), position + 1);
                    tokens.insert(likely);
                    token = ((u32::from(likely) + 1) * 7919 % vocab) as u16;
                }
                // Wide rows hardly depend on what was said before.
                let few = if width > 520 { 1 } else { 5 };
                assert!(tokens.len() > few || matches!(rows, Rows::Repeated(3..)), "{tokens:?} tell little");
            }
        }
    }
}

/// What a head's rows are.
#[derive(Clone, Copy)]
enum Rows {
    /// So many in a row are the same, which bounds do not tell apart: the first counts.
    Repeated(usize),
    /// Sixty point one way or the other, farther than all others, and nearly as far as each other: bounds of half of them reach the largest.
    Close,
}

/// Memory is what a plan says it is.
#[test]
fn nothing_is_packed_that_is_not_in_memory() {
    let (model, tokenizer) = random(every_kind().remove(0), 1);
    let card = memory_card(&model, &tokenizer);
    let request = Request::default();
    let needs = needs(card.clone());
    for ram in [least_ram(&needs, &request), ample_ram(&needs, &request) / 2] {
        let mut memory = memory(ram);
        let mut session = session(card.clone(), &mut memory, &request, kernels::best()).unwrap();
        let pinning = session.engine().plan().pinning;
        assert!(pinning.pinned < pinning.tape, "{pinning:?}");
        assert_eq!(session.engine_mut().prepack(), 0);
    }
}
