//! The kernel for matrices on the processor itself: its results, and what pruning a matrix saves.

use xtask::firmware::{self, Processor, Program};
use xtask::kernels::{Tiles, run};
use xtask::matrices::{count, random_card, shape};

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
    sparse_tiles_gain(Processor::M3, &[(256, 180), (128, 170), (64, 157), (512, 163)]);
}

#[test]
fn sparse_tiles_gain_on_a_cortex_m4() {
    sparse_tiles_gain(Processor::M4, &[(256, 179), (128, 172), (64, 159), (512, 164)]);
}

/// What a whole matrix of the firmware gains, with its pages: of the default model's width, of which nothing fits in RAM.
#[test]
fn pruned_matrices_gain_on_a_cortex_m3() {
    let Some(firmware) = built() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [whole, half] = [1.0, 0.5].map(|share| {
        let card = random_card(shape(128, 640, 2, 1, 512), share, dir.path()).unwrap();
        let token = count(firmware, Processor::M3, &card).unwrap();
        println!("{share} of the cells: {token:?}, {} for matrices", token.matrices());
        assert_eq!(token.pinned, 0);
        token
    });
    assert!(whole.matrices() * 100 >= half.matrices() * 180);
}
