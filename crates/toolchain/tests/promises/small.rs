//! Small: one buffer is all the memory that a card needs, and the plan says exactly how much, or what is missing.

use pageformer_card::{Layout, Shape};
use pageformer_engine::{Error, Needs, Part, Plan, PlanError, Request, Speculation};
use pageformer_sim::MemoryCard;

use crate::support::*;

fn positions(context: u32) -> Request {
    Request { context: Some(context), ..Request::default() }
}

#[test]
fn stories_with_128_positions_fits_64_000_bytes() {
    let Some((model, tokenizer)) = stories() else { return };
    let card = memory_card(&model, &tokenizer);
    let said = run(card.clone(), 64_000, &positions(128), "", 127).unwrap();
    assert_eq!(said, run(card, 1 << 20, &positions(128), "", 127).unwrap());
}

#[test]
fn the_sketch_fits_24_000_bytes() {
    let (model, tokenizer) = random(sketch(), 0);
    let card = memory_card(&model, &tokenizer);
    let said = run(card.clone(), 24_000, &positions(64), "Hello", 59).unwrap();
    assert_eq!(said, run(card, 1 << 20, &positions(64), "Hello", 59).unwrap());
}

/// Cards of several kinds, and requests for them.
fn cards_and_requests() -> Vec<(MemoryCard, Request)> {
    let mut all = Vec::new();
    for (seed, shape) in (0..).zip(two_kinds().into_iter().chain(wide()).chain([sketch()])) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        for context in [None, Some(1), Some(33)] {
            for batch in [None, Some(1), Some(4), Some(32)] {
                let plain = Request { context, batch, ..Request::default() };
                for request in [
                    plain,
                    Request { all_logits: true, ..plain },
                    Request { page_metadata: true, ..plain },
                    Request { speculation: Speculation::Auto, ..plain },
                ] {
                    all.push((card.clone(), request));
                }
            }
        }
    }
    all
}

/// `session`, which these go through, checks that what is taken from the buffer is what the plan says.
#[test]
fn the_least_memory_is_enough() {
    for (card, request) in cards_and_requests() {
        let needs = needs(card.clone());
        let least = least_ram(&needs, &request);
        // ASCII has no token to begin with.
        let prompt = if needs.shape.vocab == 128 { "a" } else { "" };
        let said = run(card, least, &request, prompt, 2).unwrap();
        assert!(said.reply.tokens > 0);
    }
}

#[test]
fn eight_bytes_less_are_too_few_and_the_error_says_of_what() {
    for (card, request) in cards_and_requests() {
        let needs = needs(card.clone());
        let least = least_ram(&needs, &request);
        let Err(Error::Plan(error)) = run(card, least - 8, &request, "", 0) else { panic!("it ran") };
        let PlanError::TooSmall { given, needed, largest: (part, bytes), context, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((given, needed), (least - 8, least));
        assert_eq!(context, request.context.unwrap_or(needs.shape.max_seq));
        let plan = Plan::new(&needs, least, &request).unwrap();
        assert!(plan.parts().all(|(other, more)| more <= bytes || other == part), "{error:?}, {plan:?}");
        assert!(plan.parts().any(|found| found == (part, bytes)), "{error:?}, {plan:?}");
        let text = error.to_string();
        for must_say in [" 8 too few".to_string(), format!("{needed} are needed"), part.to_string()] {
            assert!(text.contains(&must_say), "{text:?} does not say {must_say:?}");
        }
    }
}

#[test]
fn the_largest_context_that_fits_does_and_one_more_does_not() {
    let (mut none, mut some) = (0, 0);
    for (card, request) in cards_and_requests() {
        let needs = needs(card);
        let least = least_ram(&needs, &request);
        let asked = request.context.unwrap_or(needs.shape.max_seq);
        for given in (0..least).step_by(least / 40) {
            let Err(PlanError::TooSmall { fitting_context, .. }) = Plan::new(&needs, given, &request) else {
                panic!("{given} of {least} bytes are enough")
            };
            let with = |context| Plan::new(&needs, given, &Request { context: Some(context), ..request });
            assert!(fitting_context < asked);
            assert!(with(fitting_context + 1).is_err(), "{fitting_context} could be more");
            match fitting_context {
                0 => none += 1,
                fitting => {
                    assert!(with(fitting).is_ok(), "{fitting} does not fit");
                    some += 1;
                }
            }
        }
    }
    assert!(none > 100 && some > 100, "both happen");
}

/// The parts add up to the total, the total keeps to the budget, and no page frame is left unused.
#[test]
fn the_budget_is_used_and_never_exceeded() {
    for (card, request) in cards_and_requests() {
        for layout in [Layout::Packed, Layout::Files] {
            let needs = Needs { layout, ..needs(card.clone()) };
            let least = least_ram(&needs, &request);
            for budget in (least..ample_ram(&needs, &request)).step_by(1496) {
                let plan = Plan::new(&needs, budget, &request).unwrap();
                assert_eq!(plan.parts().map(|(_, bytes)| bytes).sum::<usize>(), plan.total());
                let bytes_of = |part| plan.parts().find(|(p, _)| *p == part).unwrap().1;
                assert_eq!(bytes_of(Part::PinnedPages), plan.pinning.pinned as usize * 512);
                assert_eq!(bytes_of(Part::Ring), plan.pinning.ring as usize * 512);
                assert_eq!(bytes_of(Part::PageLocations) > 0, layout == Layout::Files);
                assert_eq!(bytes_of(Part::PageMetadata) > 0, request.page_metadata);
                assert!(plan.total() <= budget);
                assert!(plan.pinning.ring == 0 || budget - plan.total() < 512, "{budget}: {plan:?}");
            }
        }
    }
}

/// The bytes of the smallest plan of a dense model of this shape, without its KV cache and its table of tensors.
fn least_without_kv(shape: Shape) -> (usize, usize) {
    let (model, tokenizer) = random(shape, 0);
    let needs = needs(memory_card(&model, &tokenizer));
    let request = positions(64);
    let plan = Plan::new(&needs, least_ram(&needs, &request), &request).unwrap();
    let of = |wanted| plan.parts().find(|(part, _)| *part == wanted).unwrap().1;
    (plan.total() - of(Part::KvCache) - of(Part::TensorTable), of(Part::KvCache))
}

#[test]
fn depth_costs_only_the_kv_cache_and_tables() {
    for shape in two_kinds().into_iter().chain(wide()).chain([sketch()]) {
        let deeper = Shape { n_layers: 4 * shape.n_layers, ..shape };
        let ((rest, kv), (deep_rest, deep_kv)) = (least_without_kv(shape), least_without_kv(deeper));
        assert_eq!(rest, deep_rest, "{shape:?}");
        assert_eq!(kv * 4, deep_kv, "{shape:?}");
        // 4 bytes a tensor.
        let tables = pageformer_card::TensorTable::entries(&deeper) * 4;
        assert!(tables < 512, "{tables}");
    }
}

#[test]
fn width_costs_vectors_not_matrices() {
    let narrow = Shape { d_model: 64, d_ff: 256, head_dim: 8, ..two_kinds()[0] };
    let wide = Shape { d_model: 4 * 64, d_ff: 4 * 256, head_dim: 4 * 8, ..narrow };
    assert!(wide.parameters() > 11 * narrow.parameters());
    let ((narrow, narrow_kv), (wide, wide_kv)) = (least_without_kv(narrow), least_without_kv(wide));
    assert!(
        wide + wide_kv <= 4 * (narrow + narrow_kv),
        "{wide} + {wide_kv} after {narrow} + {narrow_kv} bytes"
    );
}

#[test]
fn impossible_requests_say_what_is_possible() {
    let (model, tokenizer) = random(two_kinds()[0], 0);
    let needs = needs(memory_card(&model, &tokenizer));
    let ask = |request: Request| Plan::new(&needs, 1 << 20, &request).map(|_| ());
    assert_eq!(ask(positions(0)), Err(PlanError::Context { asked: 0, most: 64 }));
    assert_eq!(ask(positions(65)), Err(PlanError::Context { asked: 65, most: 64 }));
    assert_eq!(ask(positions(64)), Ok(()));
    for batch in [0, 33, u32::MAX] {
        assert_eq!(ask(Request { batch: Some(batch), ..Request::default() }), Err(PlanError::Batch(batch)));
    }
}
