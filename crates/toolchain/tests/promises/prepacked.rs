//! Matrices that are packed anew: the same to the bit, where all of a tape is in memory, and not otherwise.

use pageformer_engine::Request;
use pageformer_engine::kernels::{self, PORTABLE};
use pageformer_toolchain::prune_by_magnitude;

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
