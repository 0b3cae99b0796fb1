//! A card that was changed anywhere. With the checksums that it had, there is an error, or the text is what it was. With
//! checksums made right again there may be any text, but nothing breaks.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pageformer_fuzz::{apply, card, read, reseal, run};

fuzz_target!(|input: &[u8]| {
    static RIGHT: LazyLock<(Vec<u8>, u64)> = LazyLock::new(|| run(card().clone(), 64 << 10).expect("the card is sound"));
    let Some(([flags, ram], changes)) = input.split_first_chunk::<2>() else { return };
    let mut changed = card().clone();
    for patch in read(changes) {
        let file = match patch.file % 4 {
            0 => &mut changed.index,
            1 => &mut changed.weights,
            2 => &mut changed.tokenizer,
            _ => &mut changed.sums,
        };
        apply(&patch, file);
    }
    let lying = flags & 1 == 1;
    if lying {
        reseal(&mut changed);
    }
    match run(changed, *ram as usize * 256) {
        Ok(said) => assert!(lying || said == *RIGHT, "another text"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
