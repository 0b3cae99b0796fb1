//! Pinned pages in memory of their own, such as PSRAM: the same text, and no page is read that has a frame.

use pageformer_engine::{Needs, Plan, Request, kernels};
use pageformer_vram::Arena;

use crate::support::*;

const PROMPT: &str = "the bird";
const TOKENS: u32 = 5;

#[test]
fn the_same_text_with_pinned_pages_apart() {
    for (seed, shape) in (0..).zip(two_kinds()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let request = Request { batch: Some(2), ..Request::default() };
        let needs = needs(card.clone());
        let ahead = Request { read_ahead: 24, ..request };
        let (least, most) = (least_ram(&needs, &ahead), ample_ram(&needs, &request));
        let right = run(card.clone(), most, &request, PROMPT, TOKENS).unwrap();
        let tape = needs.tape_pages as usize;
        for ram in [least, least + 10 * 512, (least + most) / 16 * 8, most] {
            for frames in [0, 1, tape / 3, tape - 1, tape, tape + 50] {
                for read_ahead in [0, 24] {
                    let request = Request { memory_apart: frames * 512 + 24, read_ahead, ..request };
                    let (mut main, mut apart) = (memory(ram), memory(frames * 512 + 24));
                    let mut arena = Arena::with_memory_apart(&mut main, &mut apart);
                    let mut card = card.clone();
                    let (manifest, table) = describe(&mut card, &mut arena).unwrap();
                    let mut session =
                        begin(card, &manifest, table, ram, arena, &request, kernels::best()).unwrap();
                    assert_eq!(
                        say(&mut session, PROMPT, TOKENS).unwrap(),
                        right,
                        "{ram} bytes, {frames} apart"
                    );
                    let pinned = session.engine().plan().pinning.pinned as usize;
                    assert!(pinned >= frames.min(tape), "{pinned} pinned with {frames} frames apart");
                }
            }
        }
    }
}

#[test]
fn memory_apart_is_used_only_if_it_holds_more() {
    let (model, tokenizer) = random(two_kinds()[0], 1);
    let needs: Needs = needs(memory_card(&model, &tokenizer));
    // A batch that is given: room that pinned pages leave would go to a wider one.
    let request = Request { batch: Some(2), ..Request::default() };
    let ram = least_ram(&needs, &request) + 60 * 512;
    let plan = |memory_apart| Plan::new(&needs, ram, &Request { memory_apart, ..request }).unwrap();
    let without = plan(0);
    assert!(!without.pinned_apart && without.pinning.pinned > 0);
    assert_eq!(plan(without.pinning.pinned as usize * 512), without);
    let more = plan((without.pinning.pinned as usize + 1) * 512);
    assert!(more.pinned_apart && more.total() <= ram);
    assert_eq!(more.total_apart(), (without.pinning.pinned as usize + 1) * 512);
}
