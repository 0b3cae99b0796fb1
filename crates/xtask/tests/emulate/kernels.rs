//! The kernel for matrices on the processor itself: its results, and what pruning a matrix saves.

use pageformer_card::Shape;
use xtask::firmware::{self, Processor, Program};
use xtask::kernels::{Tiles, run};
use xtask::matrices::{SHAPES, count, random_card, shape};

use crate::{asked_for, built};

/// The kernel in assembly agrees with the one in plain Rust, which is tested on the PC; and half of the cells take so much less
/// than all of them: `(inputs, percent)`.
fn sparse_tiles_gain(processor: Processor, wanted: &[(u32, u64)]) {
    if !asked_for() {
        return;
    }
    let program = firmware::build(Program::Kernels, processor).unwrap();
    let report = run(&program, processor).unwrap();
    println!("{}", report.agreement);
    for (inputs, percent) in wanted {
        let Tiles { all, half, .. } = *report.tiles.iter().find(|tiles| tiles.inputs == *inputs).unwrap();
        println!("{inputs} inputs: {all} instructions, half of the cells {half}");
        assert!(all * 100 >= half * percent, "{inputs} inputs: {all} instructions, half of the cells {half}");
    }
}

#[test]
fn sparse_tiles_gain_on_a_cortex_m3() {
    sparse_tiles_gain(Processor::M3, &[(256, 183), (128, 177), (64, 166), (512, 164)]);
}

#[test]
fn sparse_tiles_gain_on_a_cortex_m4() {
    sparse_tiles_gain(Processor::M4, &[(256, 183), (128, 179), (64, 171), (512, 164)]);
}

/// What whole matrices of the firmware gain, with their pages: of a model of which nothing fits in RAM.
fn pruned_matrices_gain(shape: Shape, percent: u64) {
    let Some(firmware) = built() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [whole, half] = [1.0, 0.5].map(|share| {
        let card = random_card(shape, share, dir.path()).unwrap();
        let token = count(firmware, Processor::M3, &card).unwrap();
        println!("{share} of the cells: {token:?}, {} for matrices", token.matrices());
        assert_eq!(token.pinned, 0);
        token
    });
    let (whole, half) = (whole.matrices(), half.matrices());
    assert!(whole * 100 >= half * percent, "{whole} and {half}: {:.4}", whole as f64 / half as f64);
}

#[test]
fn pruned_matrices_of_the_default_models_width_gain_on_a_cortex_m3() {
    pruned_matrices_gain(shape(128, 640, 2, 1, 512), 185);
}

/// A sixth of the pruned tape are masks. It is 1.80 by some seven hundred instructions.
#[test]
fn pruned_matrices_of_64_inputs_gain_on_a_cortex_m3() {
    pruned_matrices_gain(SHAPES[0], 180);
}
