//! What a plan is made from, the parts it has, and why there may be none.

use core::fmt;

use pageformer_card::sums::SumLayout;
use pageformer_card::{Layout, Manifest, Shape, TensorTable};

use super::MAX_BATCH;
use crate::forward::prompts_end;
use crate::pace::Pace;
use crate::speculation::Speculation;

/// Metadata of pages is kept when it takes at most this part of the memory.
const METADATA_SHARE: usize = 10;

/// What a card needs memory for.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The model's shape.
    pub shape: Shape,
    /// How the pages lie on the card.
    pub layout: Layout,
    /// Pages of the tape.
    pub tape_pages: u32,
    /// Where a pass without logits ends: behind the pages of the last layer's values.
    pub prompts_end: u32,
    /// Pages of the tape and of an embedding that is not tied.
    pub weights_pages: u32,
    /// Pages of the tokenizer.
    pub tokenizer_pages: u32,
}

impl Needs {
    /// The needs of a card.
    pub fn new(manifest: &Manifest, table: &TensorTable<'_>) -> Self {
        Self {
            shape: manifest.shape,
            layout: manifest.layout,
            tape_pages: manifest.tape_pages,
            prompts_end: prompts_end(&manifest.shape, table),
            weights_pages: table.pages(),
            tokenizer_pages: manifest.tokenizer_pages,
        }
    }

    /// Whether metadata of every page takes so small a part of `budget` bytes that it is worth them.
    pub fn affords_metadata(&self, budget: usize) -> bool {
        (self.weights_pages as usize).saturating_mul(size_of::<u32>()) <= budget / METADATA_SHARE
    }

    /// Where the checksums of this card lie.
    pub fn sums(&self) -> SumLayout {
        SumLayout { weights_pages: self.weights_pages, tokenizer_pages: self.tokenizer_pages }
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// Positions; the model's own number if not given.
    pub context: Option<u32>,
    /// Positions of one step (prefill); the plan's choice if not given.
    pub batch: Option<u32>,
    /// Keep the logits of every position of a step, not of the last alone.
    pub all_logits: bool,
    /// Memory for tokens that are guessed ahead: the batch, and how many of its positions keep their logits.
    pub speculation: Speculation,
    /// What reading and computing take on this board: how many guesses pay follows from it.
    pub pace: Pace,
    /// Keep metadata of every page, for the page debugger.
    pub page_metadata: bool,
    /// Pages that the card reads ahead, into memory of its own: [`Card::read_ahead`](pageformer_vram::Card::read_ahead).
    pub read_ahead: u32,
    /// Bytes of more, slower memory that is apart from the budget ([`Arena::with_memory_apart`](pageformer_vram::Arena::with_memory_apart)): pinned pages go there if that
    /// pins more of them.
    pub memory_apart: usize,
}

/// A part of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Where each tensor starts: 4 bytes a tensor.
    TensorTable,
    /// Where each page lies on the card (layout `files`): 4 bytes a page.
    PageLocations,
    /// What is known of each page: 4 bytes a page.
    PageMetadata,
    /// Keys and values of every layer and position.
    KvCache,
    /// Everything a step computes on its way.
    Activations,
    /// Logits, as far as they do not fit into memory of the activations that is free by then.
    Logits,
    /// The tokens of the conversation: 2 bytes a position.
    Tokens,
    /// Pages of checksums.
    Checksums,
    /// Frames for pages that are read out of order.
    SidePages,
    /// Frames that pages are streamed through.
    Ring,
    /// Frames of pinned pages.
    PinnedPages,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Part::TensorTable => "tensor table",
            Part::PageLocations => "page locations",
            Part::PageMetadata => "page metadata",
            Part::KvCache => "KV cache",
            Part::Activations => "activations",
            Part::Logits => "logits",
            Part::Tokens => "tokens",
            Part::Checksums => "checksums",
            Part::SidePages => "side pages",
            Part::Ring => "ring",
            Part::PinnedPages => "pinned pages",
        })
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// Too little memory.
    TooSmall {
        /// Bytes that were given.
        given: usize,
        /// Bytes of the smallest plan for this request.
        needed: usize,
        /// The largest part of that plan that could shrink, and its bytes.
        largest: (Part, usize),
        /// The positions that were asked for.
        context: u32,
        /// The largest number of positions that fits; 0 if none does.
        fitting_context: u32,
    },
    /// The context is 0 or more than the model has positions.
    Context {
        /// What was asked for.
        asked: u32,
        /// The most there can be.
        most: u32,
    },
    /// The batch is 0 or more than [`MAX_BATCH`].
    Batch(u32),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { given, needed, largest: (part, bytes), context, fitting_context } => {
                write!(
                    f,
                    "{given} bytes of RAM are {} too few: {needed} are needed with a context of {context} positions, most of \
                     them ({bytes}) for {part}; ",
                    needed - given
                )?;
                match fitting_context {
                    0 => f.write_str("not even a context of 1 fits"),
                    n => write!(f, "the largest context that fits is {n}"),
                }
            }
            Self::Context { asked, most } => {
                write!(f, "a context of {asked} positions is not possible: this model has 1 to {most}")
            }
            Self::Batch(asked) => {
                write!(f, "a batch of {asked} positions is not possible: 1 to {MAX_BATCH}")
            }
        }
    }
}

impl core::error::Error for PlanError {}
