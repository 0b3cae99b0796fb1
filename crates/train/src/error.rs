//! What can go wrong in training.

use std::path::PathBuf;

use pageformer_card::Shape;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Training data is not what its form demands.
    #[error("{}:{line}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The data as a whole cannot be trained on.
    #[error("{0}")]
    TooLittleData(String),
    /// A recipe has an unknown key, or a value that cannot be.
    #[error("{file}: `{key}`: {problem}")]
    Recipe {
        /// The file, or "recipe" when it did not come from one.
        file: String,
        /// The key, with its table: `train.lr`.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A recipe is not TOML, or a value has the wrong type.
    #[error("{file}: {problem}")]
    Toml {
        /// The file, or "recipe" when it did not come from one.
        file: String,
        /// Where and what.
        problem: String,
    },
    /// A checkpoint cannot be continued.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss is {loss} at step {step}: the weights are lost; start again with a smaller `train.lr` or a longer `train.warmup`"
    )]
    Diverged {
        /// The step.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A model has another shape than the one that is being trained.
    #[error("the model's shape is {found:?}; expected {expected:?}")]
    ShapeDiffers {
        /// The model's.
        found: Box<Shape>,
        /// The expected one.
        expected: Box<Shape>,
    },
    /// The numbers of a shape do not fit each other.
    #[error("the model's shape cannot be: {0}")]
    Shape(#[from] pageformer_card::ShapeError),
    /// A model or tokenizer is wrong.
    #[error(transparent)]
    Model(#[from] pageformer_model::Error),
}
