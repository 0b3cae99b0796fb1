//! Says whether the target has Arm's DSP extension, which rustc's `target_feature` tells on nightly only.

use std::env;

/// Processors that have it, as `-C target-cpu` names them.
const PROCESSORS: [&str; 6] =
    ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(arm_dsp)");
    let variable = |name| env::var(name).unwrap_or_default();
    let (target, features) = (variable("TARGET"), variable("CARGO_CFG_TARGET_FEATURE"));
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let asked_for =
        flags.split(['\u{1f}', ',', '=', ' ']).any(|word| word == "+dsp" || PROCESSORS.contains(&word));
    let dsp =
        target.starts_with("thumbv7em") || features.split(',').any(|feature| feature == "dsp") || asked_for;
    if dsp && target.starts_with("thumb") {
        println!("cargo::rustc-cfg=arm_dsp");
    }
}
