//! Chores of the project.
//!
//! `cargo xtask emulate` builds a card image and the firmware for QEMU's `lm3s6965evb`, and drops the user into the chat.
//! What it is made of is here, because the tests use it, too.
#![forbid(unsafe_code)]

pub mod card;
pub mod emulator;
pub mod esp32;
pub mod firmware;
pub mod kernels;
pub mod matrices;
pub mod profile;

use std::path::PathBuf;

/// The root of the repository.
pub fn root() -> PathBuf {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crates.ancestors().nth(2).map(PathBuf::from).unwrap_or(crates)
}
