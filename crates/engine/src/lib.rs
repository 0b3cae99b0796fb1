//! The engine: a decoder's forward pass over a tape of pages.
//!
//! `no_std`, no allocator, no panics on any card content. All memory is one buffer that the caller lends;
//! a [`Plan`] cuts it into parts and says what goes where, or how many bytes are missing and of what.
//!
//! ```text
//!            Card (run of pages)                    tokens
//!                  │                                  │
//!   pinned ── Vram ┴ ring          Tokenizer ─────────┤
//!                  │ pages in tape order              ▼
//!                  └──────────────► Engine::step ── logits ── Sampler
//! ```
//!
//! The same card and prompt give bit-identical logits on every target and for every amount of memory,
//! layout, batch and kernel: see [`numerics`] and [`kernels`].
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(feature = "prepack")]
extern crate alloc;

mod activations;
mod attention;
mod error;
mod forward;
pub mod kernels;
mod matrix;
pub mod numerics;
mod outgoing;
mod pace;
mod plan;
mod sampler;
mod scaled;
mod session;
mod speculation;
mod tokenizer;
mod verify;

pub use error::Error;
pub use forward::Engine;
pub use pace::Pace;
pub use plan::{MAX_BATCH, Needs, Part, Plan, PlanError, Request};
pub use sampler::Sampler;
pub use session::{Digest, Reply, Session, Stop};
pub use speculation::{Speculated, Speculation};
pub use tokenizer::Tokenizer;
