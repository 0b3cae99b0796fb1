//! What can go wrong, and where.

use std::path::PathBuf;

/// Everything that can be wrong with the sources of a corpus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no `*.toml` file where the sources should be.
    #[error("{}: no *.toml files here; give the folder that holds the intents", path.display())]
    NoSources {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not TOML, or has a key that is unknown here.
    #[error("{file}:{line}: {message}")]
    Toml {
        /// Name of the file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the TOML parser said.
        message: String,
    },
    /// Something in an intent or family cannot be used.
    #[error("{file}:{line}: {intent}: {message}")]
    Source {
        /// Name of the file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Id of the intent or family.
        intent: String,
        /// What is wrong and what to do about it.
        message: String,
    },
    /// Questions that belong to two intents. The corpus must give each question one answer.
    #[error("{} question(s) belong to two intents; take each out of one of them:\n{}", .0.len(), .0.join("\n"))]
    Conflicts(Vec<String>),
    /// Held-out questions, or words of them, that break the promises of the held-out set.
    #[error("{} problem(s) with held-out questions:\n{}", .0.len(), .0.join("\n"))]
    HeldOut(Vec<String>),
    /// The committed files are not what the sources give.
    #[error("{}: differs from what the sources give; run the generator again and commit the result", path.display())]
    Stale {
        /// The file that differs.
        path: PathBuf,
    },
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
