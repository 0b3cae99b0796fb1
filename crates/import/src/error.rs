//! Why a model could not be imported.

use std::path::PathBuf;

use pageformer_card::ShapeError;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A file is not in the format that it should be in.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The numbers in a header do not make a model.
    #[error("{}: the header makes no model: {source}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The number that cannot be.
        source: ShapeError,
    },
    /// A tensor of a card is missing or not what it should be.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in `index.json`.
        tensor: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The files could be read, but what is in them is no model.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with the model.
        source: pageformer_model::Error,
    },
}
