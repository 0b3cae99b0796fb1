//! Generates the chat corpus of the default model.
//!
//! # Overview
//!
//! People write *intents*: what may be asked, in templates that stand for many wordings, and the one or two right
//! answers ([`source`], [`template`]). From them the generator makes, the same bytes for the same seed,
//!
//! - `train.jsonl`: conversations to train on ([`talk`]), dressed the way people type ([`surface`]);
//! - `heldout.jsonl`: questions that were never trained on ([`split`]);
//! - `intents.json`: the right answers of every intent, to judge a model by.
//!
//! # Invariants
//!
//! - **No leak:** no held-out wording, in whatever dress, is in the training file. The generator checks and fails.
//! - **One intent per question:** no question has two right intents. The generator checks and fails.
//! - Everything is printable ASCII; questions and answers have at most 100 characters.

pub mod error;
pub mod generate;
pub mod output;
pub mod rng;
pub mod source;
pub mod split;
pub mod surface;
pub mod tables;
pub mod talk;
pub mod template;
pub mod text;

pub use error::{Error, Result};
pub use generate::{Corpus, Kind, Options, generate};
pub use source::{Leaf, load};
pub use talk::{Item, Turn};
