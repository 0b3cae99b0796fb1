//! `index.json`: what is on the card. Read in constant memory, one page at a time; the same text is
//! written by the toolchain.
//!
//! ```json
//! {
//!   "format": "pageformer", "version": 1, "layout": "packed", "page_size": 512,
//!   "name": "stories260K", "source": "stories260K.bin",
//!   "n_layers": 5, "d_model": 64, "d_ff": 172, "vocab": 512, "max_seq": 512,
//!   "n_heads": 8, "n_kv_heads": 4, "head_dim": 8,
//!   "norm": "rmsnorm", "eps": 0.00001, "mlp": "swiglu", "position": "rope", "theta": 10000,
//!   "tied_embeddings": true, "final_norm": true,
//!   "block": "4x4", "density": 1,
//!   "tape_pages": 600,
//!   "tensors": { "dec0_ln1": 1, "dec0_Wq": 9 },
//!   "tokenizer": { "pages": 12, "bos": 1, "eos": [1, 2] },
//!   "chat": { "user": "Q: {}\nA:", "stop": "\n" }
//! }
//! ```
//!
//! `tensors` gives the pages of every tensor in tape order. Unknown keys are ignored.

use core::fmt;

mod parse;
mod table;

pub use table::TensorTable;

use crate::shape::{Mlp, Norm, Shape, ShapeError};
use crate::tensor::Tensor;

/// The version of the format that this code writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Most tokens that may end a reply.
pub const MAX_EOS: usize = 4;
/// Most pages of the weights, and of `tokenizer.bin`: so many that all that is counted in pages fits a u32.
pub const MAX_PAGES: u32 = 1 << 30;
/// Longest string in `index.json`, in bytes; also the deepest constant that its reader needs.
pub const MAX_STRING: usize = 256;

/// A short text without allocation: at most `N` bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// The text, if it fits.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { bytes, len: text.len() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|b| core::str::from_utf8(b).ok()).unwrap_or("")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// How the pages lie on the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One file, `weights.pages`.
    Packed,
    /// One file a page.
    Files,
}

/// How a chat is turned into text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chat {
    /// What stands around the user's message; `{}` is the message.
    pub user: Text<96>,
    /// A reply ends where this text begins.
    pub stop: Text<32>,
}

impl Chat {
    /// The text before and behind the user's message.
    pub fn around(&self) -> (&str, &str) {
        split_template(self.user.as_str()).unwrap_or(("", ""))
    }
}

/// What stands before and behind the first `{}`. (A search for any text would take 3 KB of a board's flash.)
pub(crate) fn split_template(template: &str) -> Option<(&str, &str)> {
    let at = template.as_bytes().windows(2).position(|two| two == b"{}")?;
    Some((template.get(..at)?, template.get(at + 2..)?))
}

/// Everything `index.json` says but the pages of each tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manifest {
    /// How the pages lie on the card.
    pub layout: Layout,
    /// The model's name, for people.
    pub name: Text<64>,
    /// Where the weights came from, for people.
    pub source: Text<96>,
    /// The model's shape.
    pub shape: Shape,
    /// Pruning block: outputs, inputs.
    pub block: (u32, u32),
    /// Kept cells ÷ all cells of the prunable matrices.
    pub density: f32,
    /// Pages of the tape (without an embedding that is not tied).
    pub tape_pages: u32,
    /// Pages of `tokenizer.bin`.
    pub tokenizer_pages: u32,
    /// Token that begins a text.
    pub bos: Option<u16>,
    /// Tokens that end a reply.
    pub eos: [Option<u16>; MAX_EOS],
    /// How a chat is turned into text.
    pub chat: Option<Chat>,
}

/// Why `index.json` is not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is not JSON, ends early, or has a string that is too long; `byte` is about where.
    Syntax {
        /// Bytes read so far.
        byte: u32,
    },
    /// The reader failed.
    Read,
    /// A key is missing.
    Missing(&'static str),
    /// A key has a value that it cannot have.
    Value(&'static str),
    /// The file is another program's: `format` is not `pageformer`.
    Format,
    /// The card is newer than this program.
    Version(u32),
    /// Numbers that do not fit each other.
    Shape(ShapeError),
    /// An entry of `tensors` is no tensor of this shape, or comes twice.
    Tensor(Text<32>),
    /// A tensor of this shape is not among `tensors`.
    MissingTensor(Tensor),
    /// A tensor's pages are fewer or more than its shape allows.
    TensorPages(Tensor),
    /// The tensors' pages do not add up to `tape_pages`.
    TapePages {
        /// What `tape_pages` says.
        said: u32,
        /// What the tensors add up to.
        sum: u32,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("index.json: ")?;
        match self {
            Self::Syntax { byte } => {
                write!(f, "not valid JSON (or a text over {MAX_STRING} bytes) near byte {byte}; export the card again")
            }
            Self::Read => f.write_str("could not be read; check the card and its contacts"),
            Self::Missing(key) => write!(f, "`{key}` is missing; export the card again"),
            Self::Value(key) => write!(f, "`{key}` has a value it cannot have; export the card again"),
            Self::Format => f.write_str(
                "`format` is not \"pageformer\": another program's file; use a card written by `pageformer export`",
            ),
            Self::Version(v) => {
                write!(f, "`version` {v} is newer than {VERSION}, the newest this program reads; update the program")
            }
            Self::Shape(e) => write!(f, "{e}; export the card again"),
            Self::Tensor(name) => {
                write!(f, "`tensors`: `{}` is not a tensor of this model, or comes twice", name.as_str())
            }
            Self::MissingTensor(t) => {
                write!(f, "`tensors`: {t}, which this model has, is missing; export the card again")
            }
            Self::TensorPages(t) => write!(f, "`tensors`: {t} cannot have that many pages with this model's shape"),
            Self::TapePages { said, sum } => {
                write!(f, "`tape_pages` is {said}, but the tensors add up to {sum}; export the card again")
            }
        }
    }
}

impl core::error::Error for ManifestError {}

impl From<ShapeError> for ManifestError {
    fn from(e: ShapeError) -> Self {
        Self::Shape(e)
    }
}

impl Manifest {
    /// Writes `index.json`; `tensors` are names and pages in tape order.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(
        &self,
        out: &mut dyn fmt::Write,
        tensors: &mut dyn Iterator<Item = (Tensor, u32)>,
    ) -> fmt::Result {
        let s = &self.shape;
        writeln!(out, "{{\n  \"format\": \"pageformer\",\n  \"version\": {VERSION},")?;
        writeln!(
            out,
            "  \"layout\": \"{}\",",
            if self.layout == Layout::Packed { "packed" } else { "files" }
        )?;
        writeln!(out, "  \"page_size\": {},", crate::page::PAGE_BYTES)?;
        writeln!(out, "  \"name\": {},", Json(self.name.as_str()))?;
        writeln!(out, "  \"source\": {},", Json(self.source.as_str()))?;
        for (key, value) in [
            ("n_layers", s.n_layers),
            ("d_model", s.d_model),
            ("d_ff", s.d_ff),
            ("vocab", s.vocab),
            ("max_seq", s.max_seq),
            ("n_heads", s.n_heads),
            ("n_kv_heads", s.n_kv_heads),
            ("head_dim", s.head_dim),
        ] {
            writeln!(out, "  \"{key}\": {value},")?;
        }
        let norm = if s.norm == Norm::Rms { "rmsnorm" } else { "layernorm" };
        let mlp = if s.mlp == Mlp::Gelu { "gelu" } else { "swiglu" };
        writeln!(out, "  \"norm\": \"{norm}\",\n  \"eps\": {},", s.norm_eps)?;
        writeln!(out, "  \"mlp\": \"{mlp}\",\n  \"position\": \"rope\",\n  \"theta\": {},", s.rope_theta)?;
        writeln!(out, "  \"tied_embeddings\": {},\n  \"final_norm\": {},", s.tied_embeddings, s.final_norm)?;
        writeln!(
            out,
            "  \"block\": \"{}x{}\",\n  \"density\": {},",
            self.block.0, self.block.1, self.density
        )?;
        writeln!(out, "  \"tape_pages\": {},\n  \"tensors\": {{", self.tape_pages)?;
        let mut comma = "";
        for (tensor, pages) in tensors {
            write!(out, "{comma}    \"{tensor}\": {pages}")?;
            comma = ",\n";
        }
        write!(out, "\n  }},\n  \"tokenizer\": {{ \"pages\": {}", self.tokenizer_pages)?;
        if let Some(bos) = self.bos {
            write!(out, ", \"bos\": {bos}")?;
        }
        out.write_str(", \"eos\": [")?;
        let mut comma = "";
        for eos in self.eos.into_iter().flatten() {
            write!(out, "{comma}{eos}")?;
            comma = ", ";
        }
        out.write_str("] }")?;
        if let Some(chat) = &self.chat {
            let (user, stop) = (Json(chat.user.as_str()), Json(chat.stop.as_str()));
            write!(out, ",\n  \"chat\": {{ \"user\": {user}, \"stop\": {stop} }}")?;
        }
        out.write_str("\n}\n")
    }
}

/// A text as a JSON string.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A pruning block, `RxC`: both multiples of 4, at most 256.
pub fn parse_block(text: &str) -> Option<(u32, u32)> {
    let (rows, cols) = text.split_once('x')?;
    let block = (rows.parse().ok()?, cols.parse().ok()?);
    is_block(block).then_some(block)
}

/// Whether this is a pruning block: outputs and inputs are multiples of 4, at most 256.
pub fn is_block((rows, cols): (u32, u32)) -> bool {
    let fits = |n: u32| (4..=256).contains(&n) && n.is_multiple_of(4);
    fits(rows) && fits(cols)
}
