//! What can go wrong.

use core::fmt;

use pageformer_card::drafts::DraftsError;
use pageformer_card::tokenizer::TokenizerError;
use pageformer_card::{ManifestError, Tensor};
use pageformer_vram::{CardFile, Fault, OutOfMemory};

use crate::plan::PlanError;

/// Why the engine stopped. Nothing that was computed from bad data has been given out.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// `index.json` is not a manifest.
    Manifest(ManifestError),
    /// The memory does not hold the plan.
    Plan(PlanError),
    /// The buffer is smaller than the plan that was made for it.
    Memory(OutOfMemory),
    /// A page cannot be read or is damaged; with the tensor it belongs to and its number in it.
    Page(Fault, Option<(Tensor, u32)>),
    /// A file has another size than `index.json` says.
    FileSize {
        /// The file.
        file: CardFile,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The pages of a tensor contradict its shape or `index.json`.
    Tape {
        /// The tensor.
        tensor: Tensor,
        /// Page within the tensor.
        page: u32,
    },
    /// A tensor's result is not a finite number.
    NotFinite(Tensor),
    /// `tokenizer.bin` is damaged or another model's.
    Tokenizer(TokenizerError),
    /// `drafts.bin` is damaged or another model's. A reply does without it.
    Drafts(DraftsError),
    /// The text has a character that the vocabulary cannot express.
    Character(char),
    /// A word is too long for the memory that the tokenizer has.
    Word {
        /// Characters that fit.
        most: usize,
    },
    /// The text needs more positions than are left.
    ContextFull {
        /// Positions in all.
        context: u32,
        /// Positions in use.
        used: u32,
    },
    /// A token is not in the vocabulary.
    Token(u16),
    /// The prompt has no token at all, and the model has none to begin with.
    EmptyPrompt,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(e) => write!(f, "{e}"),
            Self::Plan(e) => write!(f, "{e}"),
            Self::Memory(e) => {
                write!(f, "the buffer is too small: {} bytes wanted, {} left", e.needed, e.left)
            }
            Self::Page(fault, Some((tensor, page))) => write!(f, "page {page} of {tensor} ({fault})"),
            Self::Page(fault, None) => write!(f, "{fault}"),
            Self::FileSize { file, expected, found } => write!(
                f,
                "{file}: {found} bytes where index.json asks for {expected}; the file is torn or another export's: export \
                 the card again"
            ),
            Self::Tape { tensor, page } => write!(
                f,
                "page {page} of {tensor}: its masks do not fit the tensor's shape or its pages in index.json; export the \
                 card again"
            ),
            Self::NotFinite(tensor) => {
                write!(f, "{tensor}: the result is not a finite number; the model on the card is damaged")
            }
            Self::Tokenizer(e) => write!(f, "{e}"),
            Self::Drafts(e) => write!(f, "{e}"),
            Self::Character(c) => write!(f, "the vocabulary cannot express `{c}`; leave it out"),
            Self::Word { most } => {
                write!(f, "the text has a stretch without a break of more than {most} characters; shorten it")
            }
            Self::ContextFull { context, used } => write!(
                f,
                "the text does not fit: {used} of {context} positions are in use; reset the conversation, shorten the text, or \
                 give a larger context"
            ),
            Self::Token(token) => write!(f, "token {token} is not in the vocabulary"),
            Self::EmptyPrompt => f.write_str("this model has no token to begin with; give a prompt"),
        }
    }
}

impl core::error::Error for Error {}

impl From<ManifestError> for Error {
    fn from(e: ManifestError) -> Self {
        Self::Manifest(e)
    }
}

impl From<PlanError> for Error {
    fn from(e: PlanError) -> Self {
        Self::Plan(e)
    }
}

impl From<OutOfMemory> for Error {
    fn from(e: OutOfMemory) -> Self {
        Self::Memory(e)
    }
}

impl From<TokenizerError> for Error {
    fn from(e: TokenizerError) -> Self {
        Self::Tokenizer(e)
    }
}
