//! The firmware in QEMU says what the PC says, in 64 KiB of RAM, whatever the card.
//!
//! Takes minutes, and needs `qemu-system-arm` and a toolchain for the board. So it runs only with
//! `PAGEFORMER_REQUIRE_EMULATOR` set, as `firmware/ci.sh` does; then it is a failure if one of them is missing.

mod cards;
mod costs;
mod faults;
mod kernels;
mod same;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use xtask::emulator::{Emulator, Options, installed};
use xtask::firmware::{self, Processor, Program};

/// The firmware, built once; `None` where it is not asked for.
fn built() -> Option<&'static Path> {
    built_for(Processor::M3)
}

/// The same for another processor in the board.
fn built_for(processor: Processor) -> Option<&'static Path> {
    static ELF: [OnceLock<Option<PathBuf>>; 2] = [const { OnceLock::new() }; 2];
    ELF[processor as usize]
        .get_or_init(|| asked_for().then(|| firmware::build(Program::Firmware, processor).unwrap()))
        .as_deref()
}

/// Whether the emulator is to be used.
fn asked_for() -> bool {
    if std::env::var_os("PAGEFORMER_REQUIRE_EMULATOR").is_none() {
        eprintln!("skipped: takes minutes; `bash firmware/ci.sh` runs it");
        return false;
    }
    assert!(installed(), "qemu-system-arm is not installed");
    true
}

fn start(elf: &Path, image: Option<&Path>) -> (Emulator, String) {
    start_on(Processor::M3, elf, image)
}

fn start_on(processor: Processor, elf: &Path, image: Option<&Path>) -> (Emulator, String) {
    let mut emulator = Emulator::start(elf, &Options { image, processor, ..Options::default() }).unwrap();
    let banner = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    (emulator, banner)
}

/// The number before a word.
fn number(text: &str, word: &str) -> u32 {
    let before = text.split(word).next().unwrap();
    let digits = before.trim().rsplit(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number before {word:?} in {text}"))
}

/// The number behind some words.
fn number_after(text: &str, words: &str) -> u32 {
    let (_, behind) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits = behind.split(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number behind {words:?} in {text}"))
}
