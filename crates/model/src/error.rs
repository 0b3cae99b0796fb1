//! What can be wrong with a model on the PC.

use std::path::PathBuf;

use pageformer_card::ShapeError;

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
    /// A folder is not a model's.
    #[error(
        "{}: no {missing} there; a model is a folder with model.safetensors, config.json and tokenizer.json, \
         each in one piece",
        dir.display()
    )]
    NotAModel {
        /// The folder.
        dir: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A file is not JSON.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A file is not in the safetensors format.
    #[error("{}: not a whole safetensors file ({source}); copy or convert the model again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What its header says.
        source: safetensors::SafeTensorError,
    },
    /// `config.json` asks for something that cannot be run, or lacks something.
    #[error("{}: `{key}`: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value and what to do.
        problem: String,
    },
    /// `tokenizer.json` describes a tokenizer that cannot be run, or is broken.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The file, or where else the tokenizer came from.
        file: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A tensor is missing, too much, or not what the shape demands.
    #[error("{file}: tensor `{tensor}`: {problem}")]
    Tensor {
        /// The file, or where else the model came from.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The numbers of a shape do not fit each other.
    #[error("the model's shape cannot be: {0}")]
    Shape(#[from] ShapeError),
    /// A token id that the vocabulary does not have.
    #[error("{what}: token {id} is outside the vocabulary of {vocab}")]
    TokenOutOfRange {
        /// Where the id came from.
        what: String,
        /// The id.
        id: u32,
        /// Number of tokens in the vocabulary.
        vocab: u32,
    },
    /// More tokens than the model has positions.
    #[error("the model has {max_seq} positions and all are taken; begin again or use a shorter text")]
    ContextFull {
        /// Number of positions.
        max_seq: u32,
    },
}
