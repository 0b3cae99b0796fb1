//! The kernel for matrices on the processor itself: its results, and what pruning a matrix saves.

use xtask::firmware::{self, Processor, Program};
use xtask::kernels::{Tiles, run};

use crate::asked_for;

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
    sparse_tiles_gain(Processor::M3, &[(256, 180), (128, 165), (64, 150), (512, 160)]);
}

#[test]
fn sparse_tiles_gain_on_a_cortex_m4() {
    sparse_tiles_gain(Processor::M4, &[(256, 175), (128, 165), (64, 150), (512, 160)]);
}
