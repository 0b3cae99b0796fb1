//! Says what the target has that rustc's `target_feature` tells on nightly only.
//!
//! - `thumb2`: all of Thumb-2, which every Cortex-M has but M0, M0+, M1 and M23;
//! - `arm_dsp`: Arm's DSP extension;
//! - `soft_f32`: no floating-point unit.

use std::env;

/// Processors with the DSP extension, as `-C target-cpu` names them.
const PROCESSORS: [&str; 6] =
    ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let (target, features) = (variable("TARGET"), variable("CARGO_CFG_TARGET_FEATURE"));
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let asked_for =
        flags.split(['\u{1f}', ',', '=', ' ']).any(|word| word == "+dsp" || PROCESSORS.contains(&word));
    let thumb2 = ["thumbv7m", "thumbv7em", "thumbv8m.main"].iter().any(|begin| target.starts_with(begin));
    let dsp =
        target.starts_with("thumbv7em") || features.split(',').any(|feature| feature == "dsp") || asked_for;
    let soft_f32 = match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "arm" => variable("CARGO_CFG_TARGET_ABI") == "eabi",
        // As in riscv32imc-unknown-none-elf; with a unit it would be riscv32imafc.
        "riscv32" => !target.trim_start_matches("riscv32").split('-').next().unwrap_or("").contains('f'),
        _ => false,
    };
    for (name, holds) in [("thumb2", thumb2), ("arm_dsp", thumb2 && dsp), ("soft_f32", soft_f32)] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if holds {
            println!("cargo::rustc-cfg={name}");
        }
    }
    // The same for the assembler, which is not told what `-C target-feature` adds.
    let processor = if dsp && target.starts_with("thumbv8m") { "; .cpu cortex-m33" } else { "" };
    let [dsp, soft_f32] = [dsp, soft_f32].map(u8::from);
    println!("cargo::rustc-env=THUMB_TARGET=.equ ARM_DSP, {dsp}; .equ SOFT_F32, {soft_f32}{processor}");
}
