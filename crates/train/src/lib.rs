//! Training and compression on the CPU.

mod batches;
mod checkpoint;
mod compute;
pub mod curve;
pub mod data;
mod effective;
mod error;
mod example;
mod linalg;
mod network;
mod ops;
mod optimizer;
pub mod params;
pub mod prune;
pub mod recipe;
pub mod rng;
pub mod tokenizer;
mod trainer;
mod vector;

pub use compute::{BatchLoss, Compute, SHARDS};
pub use effective::effective_weights;
pub use error::Error;
pub use example::Example;
pub use network::{Arithmetic, Network};
pub use ops::loss::{Distillation, LossSums};
pub use optimizer::{AdamW, Moments};
pub use params::{Layout, Role, View};
pub use recipe::Recipe;
pub use trainer::{Outcome, Progress, Trainer};

#[cfg(test)]
mod tests;
