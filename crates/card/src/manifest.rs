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

use picojson::{Event, PullParser, Reader, StreamParser};

use crate::decimal::parse_f32;
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

/// Counts the bytes that the parser took, to say where it failed.
struct Counted<'a, R> {
    inner: R,
    count: &'a core::cell::Cell<u32>,
}

impl<R: Reader> Reader for Counted<'_, R> {
    type Error = R::Error;
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, R::Error> {
        let n = self.inner.read(buf)?;
        self.count.set(self.count.get().saturating_add(n as u32));
        Ok(n)
    }
}

/// Values as they are found; `None` until then.
#[derive(Default)]
struct Found {
    format: bool,
    version: Option<u32>,
    page_size: Option<u32>,
    layout: Option<Layout>,
    name: Text<64>,
    source: Text<96>,
    n_layers: Option<u32>,
    d_model: Option<u32>,
    d_ff: Option<u32>,
    vocab: Option<u32>,
    max_seq: Option<u32>,
    n_heads: Option<u32>,
    n_kv_heads: Option<u32>,
    head_dim: Option<u32>,
    norm: Option<Norm>,
    eps: Option<f32>,
    mlp: Option<Mlp>,
    rope: bool,
    theta: Option<f32>,
    tied: Option<bool>,
    final_norm: Option<bool>,
    block: Option<(u32, u32)>,
    density: Option<f32>,
    tape_pages: Option<u32>,
    tensors: bool,
    tokenizer_pages: Option<u32>,
    bos: Option<u16>,
    eos: [Option<u16>; MAX_EOS],
    n_eos: usize,
    user: Option<Text<96>>,
    stop: Option<Text<32>>,
}

/// Where in the document the parser is. Only what this format knows is told apart.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Tensors,
    Tokenizer,
    Eos,
    Chat,
    /// Inside something unknown, this deep.
    Unknown(u32),
}

enum Value<'a> {
    Text(&'a str),
    Number(&'a str),
    Bool(bool),
    Null,
}

impl Value<'_> {
    fn u32(&self, key: &'static str) -> Result<Option<u32>, ManifestError> {
        self.parse(key).map(Some)
    }

    fn u16(&self, key: &'static str) -> Result<u16, ManifestError> {
        self.parse(key)
    }

    fn f32(&self, key: &'static str) -> Result<Option<f32>, ManifestError> {
        match self {
            Value::Number(n) => parse_f32(n).map(Some).ok_or(ManifestError::Value(key)),
            _ => Err(ManifestError::Value(key)),
        }
    }

    fn parse<T: core::str::FromStr>(&self, key: &'static str) -> Result<T, ManifestError> {
        match self {
            Value::Number(n) => n.parse().map_err(|_| ManifestError::Value(key)),
            _ => Err(ManifestError::Value(key)),
        }
    }

    fn bool(&self, key: &'static str) -> Result<Option<bool>, ManifestError> {
        match self {
            Value::Bool(b) => Ok(Some(*b)),
            _ => Err(ManifestError::Value(key)),
        }
    }

    fn str(&self, key: &'static str) -> Result<&str, ManifestError> {
        match self {
            Value::Text(t) => Ok(t),
            _ => Err(ManifestError::Value(key)),
        }
    }

    fn text<const N: usize>(&self, key: &'static str) -> Result<Text<N>, ManifestError> {
        Text::new(self.str(key)?).ok_or(ManifestError::Value(key))
    }
}

impl Manifest {
    /// Reads `index.json`. `on_tensor` is called for every entry of `tensors` with its name and pages.
    ///
    /// # Errors
    /// Names the key that is missing or wrong.
    pub fn parse<R: Reader>(
        reader: R,
        on_tensor: &mut dyn FnMut(&str, u32) -> Result<(), ManifestError>,
    ) -> Result<Manifest, ManifestError> {
        let count = core::cell::Cell::new(0);
        let mut buffer = [0; MAX_STRING + 32];
        let mut parser = StreamParser::new(Counted { inner: reader, count: &count }, &mut buffer);
        let mut found = Found::default();
        let mut place = None; // before the top-level object
        let mut key: Text<32> = Text::default();
        loop {
            let event = parser.next_event().map_err(|e| match e {
                picojson::ParseError::ReaderError => ManifestError::Read,
                _ => ManifestError::Syntax { byte: count.get() },
            })?;
            let Some(at) = place else {
                match event {
                    Event::StartObject => place = Some(Place::Top),
                    _ => return Err(ManifestError::Syntax { byte: count.get() }),
                }
                continue;
            };
            let value = match event {
                // A key too long for us is unknown to us.
                Event::Key(k) => {
                    key = Text::new(k.as_str()).unwrap_or_default();
                    continue;
                }
                Event::StartObject | Event::StartArray => {
                    let object = matches!(event, Event::StartObject);
                    place = Some(match (at, key.as_str(), object) {
                        (Place::Top, "tensors", true) => {
                            found.tensors = true;
                            Place::Tensors
                        }
                        (Place::Top, "tokenizer", true) => Place::Tokenizer,
                        (Place::Tokenizer, "eos", false) => Place::Eos,
                        (Place::Top, "chat", true) => Place::Chat,
                        // picojson remembers 32 levels.
                        (Place::Unknown(deep), ..) if deep >= 24 => {
                            return Err(ManifestError::Syntax { byte: count.get() });
                        }
                        (Place::Unknown(deep), ..) => Place::Unknown(deep + 1),
                        (Place::Top, ..) => Place::Unknown(1),
                        // What is unknown inside a known object is not looked into.
                        (Place::Tensors, ..) => return Err(ManifestError::Value("tensors")),
                        (Place::Chat, ..) => return Err(ManifestError::Value("chat")),
                        (Place::Tokenizer | Place::Eos, ..) => return Err(ManifestError::Value("tokenizer")),
                    });
                    continue;
                }
                Event::EndObject | Event::EndArray => {
                    place = match at {
                        Place::Top => break,
                        Place::Eos => Some(Place::Tokenizer),
                        Place::Unknown(deep) if deep > 1 => Some(Place::Unknown(deep - 1)),
                        _ => Some(Place::Top),
                    };
                    continue;
                }
                Event::EndDocument => return Err(ManifestError::Syntax { byte: count.get() }),
                Event::String(ref s) => Value::Text(s.as_str()),
                Event::Number(ref n) => Value::Number(n.as_str()),
                Event::Bool(b) => Value::Bool(b),
                Event::Null => Value::Null,
            };
            match at {
                Place::Top => found.top(key.as_str(), &value)?,
                Place::Tensors => on_tensor(key.as_str(), value.parse("tensors")?)?,
                Place::Tokenizer => match key.as_str() {
                    "pages" => found.tokenizer_pages = value.u32("tokenizer.pages")?,
                    "bos" if matches!(value, Value::Null) => {}
                    "bos" => found.bos = Some(value.u16("tokenizer.bos")?),
                    "eos" => return Err(ManifestError::Value("tokenizer.eos")),
                    _ => {}
                },
                Place::Eos => {
                    let slot = found.eos.get_mut(found.n_eos).ok_or(ManifestError::Value("tokenizer.eos"))?;
                    *slot = Some(value.u16("tokenizer.eos")?);
                    found.n_eos += 1;
                }
                Place::Chat => match key.as_str() {
                    "user" => found.user = Some(value.text("chat.user")?),
                    "stop" => found.stop = Some(value.text("chat.stop")?),
                    _ => {}
                },
                Place::Unknown(_) => {}
            }
        }
        found.finish()
    }

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

impl Found {
    fn top(&mut self, key: &str, value: &Value<'_>) -> Result<(), ManifestError> {
        match key {
            "format" => {
                if value.str("format") != Ok("pageformer") {
                    return Err(ManifestError::Format);
                }
                self.format = true;
            }
            "version" => {
                self.version = value.u32("version")?;
                if let Some(newer @ VERSION..) = self.version
                    && newer > VERSION
                {
                    return Err(ManifestError::Version(newer));
                }
            }
            "page_size" => self.page_size = value.u32("page_size")?,
            "layout" => {
                self.layout = match value.str("layout")? {
                    "packed" => Some(Layout::Packed),
                    "files" => Some(Layout::Files),
                    _ => return Err(ManifestError::Value("layout")),
                }
            }
            "name" => self.name = value.text("name")?,
            "source" => self.source = value.text("source")?,
            "n_layers" => self.n_layers = value.u32("n_layers")?,
            "d_model" => self.d_model = value.u32("d_model")?,
            "d_ff" => self.d_ff = value.u32("d_ff")?,
            "vocab" => self.vocab = value.u32("vocab")?,
            "max_seq" => self.max_seq = value.u32("max_seq")?,
            "n_heads" => self.n_heads = value.u32("n_heads")?,
            "n_kv_heads" => self.n_kv_heads = value.u32("n_kv_heads")?,
            "head_dim" => self.head_dim = value.u32("head_dim")?,
            "norm" => {
                self.norm = match value.str("norm")? {
                    "rmsnorm" => Some(Norm::Rms),
                    "layernorm" => Some(Norm::Layer),
                    _ => return Err(ManifestError::Value("norm")),
                }
            }
            "eps" => self.eps = value.f32("eps")?,
            "mlp" => {
                self.mlp = match value.str("mlp")? {
                    "gelu" => Some(Mlp::Gelu),
                    "swiglu" => Some(Mlp::SwiGlu),
                    _ => return Err(ManifestError::Value("mlp")),
                }
            }
            "position" => {
                self.rope = value.str("position")? == "rope";
                if !self.rope {
                    return Err(ManifestError::Value("position"));
                }
            }
            "theta" => self.theta = value.f32("theta")?,
            "tied_embeddings" => self.tied = value.bool("tied_embeddings")?,
            "final_norm" => self.final_norm = value.bool("final_norm")?,
            "block" => {
                self.block = Some(parse_block(value.str("block")?).ok_or(ManifestError::Value("block"))?)
            }
            "density" => self.density = value.f32("density")?,
            "tape_pages" => self.tape_pages = value.u32("tape_pages")?,
            "tensors" => return Err(ManifestError::Value("tensors")),
            "tokenizer" => return Err(ManifestError::Value("tokenizer")),
            "chat" => return Err(ManifestError::Value("chat")),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Manifest, ManifestError> {
        fn need<T>(value: Option<T>, key: &'static str) -> Result<T, ManifestError> {
            value.ok_or(ManifestError::Missing(key))
        }
        need(self.format.then_some(()), "format")?;
        let version = need(self.version, "version")?;
        if version == 0 {
            return Err(ManifestError::Value("version"));
        }
        if need(self.page_size, "page_size")? != crate::page::PAGE_BYTES as u32 {
            return Err(ManifestError::Value("page_size"));
        }
        need(self.rope.then_some(()), "position")?;
        need(self.tensors.then_some(()), "tensors")?;
        let shape = Shape {
            n_layers: need(self.n_layers, "n_layers")?,
            d_model: need(self.d_model, "d_model")?,
            d_ff: need(self.d_ff, "d_ff")?,
            vocab: need(self.vocab, "vocab")?,
            max_seq: need(self.max_seq, "max_seq")?,
            n_heads: need(self.n_heads, "n_heads")?,
            n_kv_heads: need(self.n_kv_heads, "n_kv_heads")?,
            head_dim: need(self.head_dim, "head_dim")?,
            norm: need(self.norm, "norm")?,
            norm_eps: need(self.eps, "eps")?,
            mlp: need(self.mlp, "mlp")?,
            rope_theta: need(self.theta, "theta")?,
            tied_embeddings: need(self.tied, "tied_embeddings")?,
            final_norm: need(self.final_norm, "final_norm")?,
        };
        shape.check()?;
        let in_vocab = |id: Option<u16>| id.is_none_or(|id| (id as u32) < shape.vocab);
        if !in_vocab(self.bos) {
            return Err(ManifestError::Value("tokenizer.bos"));
        }
        if !self.eos.into_iter().all(in_vocab) {
            return Err(ManifestError::Value("tokenizer.eos"));
        }
        let tokenizer_pages = need(self.tokenizer_pages, "tokenizer.pages")?;
        if tokenizer_pages > MAX_PAGES {
            return Err(ManifestError::Value("tokenizer.pages"));
        }
        let density = need(self.density, "density")?;
        if !(0.0..=1.0).contains(&density) {
            return Err(ManifestError::Value("density"));
        }
        let chat = match (self.user, self.stop) {
            (Some(user), stop) if user.as_str().contains("{}") => {
                Some(Chat { user, stop: stop.unwrap_or_default() })
            }
            (Some(_), _) => return Err(ManifestError::Value("chat.user")),
            (None, _) => None,
        };
        Ok(Manifest {
            layout: need(self.layout, "layout")?,
            name: self.name,
            source: self.source,
            shape,
            block: need(self.block, "block")?,
            density,
            tape_pages: need(self.tape_pages, "tape_pages")?,
            tokenizer_pages,
            bos: self.bos,
            eos: self.eos,
            chat,
        })
    }
}

/// A pruning block, `RxC`: both multiples of 4, at most 256.
pub fn parse_block(text: &str) -> Option<(u32, u32)> {
    let (rows, cols) = text.split_once('x')?;
    let (rows, cols) = (rows.parse::<u32>().ok()?, cols.parse::<u32>().ok()?);
    let fits = |n: u32| (4..=256).contains(&n) && n.is_multiple_of(4);
    (fits(rows) && fits(cols)).then_some((rows, cols))
}

/// Where each tensor starts on the tape: `shape.tensors() + 1` page numbers in the memory that the caller
/// lends, 4 bytes each.
pub struct TensorTable<'m> {
    shape: Shape,
    starts: &'m mut [u32],
}

/// What an entry of the table holds until its tensor is found.
const UNSET: u32 = u32::MAX;

impl<'m> TensorTable<'m> {
    /// Entries that the table of `shape` needs.
    pub fn entries(shape: &Shape) -> usize {
        shape.tensors() as usize + 1
    }

    /// Reads the `tensors` of `index.json` into `memory` (at least [`Self::entries`] long) and checks them
    /// against `manifest`.
    ///
    /// # Errors
    /// As [`Manifest::parse`], and for tensors that are missing, unknown or impossible.
    pub fn parse<R: Reader>(
        reader: R,
        manifest: &Manifest,
        memory: &'m mut [u32],
    ) -> Result<Self, ManifestError> {
        let shape = manifest.shape;
        let starts = memory.get_mut(..Self::entries(&shape)).ok_or(ManifestError::Missing("tensors"))?;
        starts.fill(UNSET);
        let again = Manifest::parse(reader, &mut |name, pages| {
            let unknown = || ManifestError::Tensor(Text::new(name).unwrap_or_default());
            let tensor = Tensor::parse(name).ok_or_else(unknown)?;
            let index = shape.tensor_index(tensor).ok_or_else(unknown)?;
            let kind = shape.kind(tensor);
            if pages < kind.least_pages() || pages > kind.dense_pages() {
                return Err(ManifestError::TensorPages(tensor));
            }
            match starts.get_mut(index as usize + 1) {
                Some(slot) if *slot == UNSET => *slot = pages,
                _ => return Err(unknown()),
            }
            Ok(())
        })?;
        if again != *manifest {
            return Err(ManifestError::Read);
        }
        let mut sum = 0u32;
        for (i, slot) in starts.iter_mut().enumerate() {
            if i == 0 {
                *slot = 0;
                continue;
            }
            if *slot == UNSET {
                return Err(match shape.tensor(i as u32 - 1) {
                    Some(tensor) => ManifestError::MissingTensor(tensor),
                    None => ManifestError::Missing("tensors"),
                });
            }
            sum = sum.saturating_add(*slot);
            if sum > MAX_PAGES {
                return Err(ManifestError::Value("tensors"));
            }
            *slot = sum;
        }
        let table = Self { shape, starts };
        let on_tape = if shape.tied_embeddings { sum } else { table.pages_of(Tensor::Embedding).start };
        if on_tape != manifest.tape_pages {
            return Err(ManifestError::TapePages { said: manifest.tape_pages, sum: on_tape });
        }
        Ok(table)
    }

    /// The pages of `tensor`; empty if the shape has none such.
    pub fn pages_of(&self, tensor: Tensor) -> core::ops::Range<u32> {
        let index = self.shape.tensor_index(tensor).unwrap_or(u32::MAX - 1) as usize;
        match (self.starts.get(index), self.starts.get(index + 1)) {
            (Some(start), Some(end)) => *start..*end,
            _ => 0..0,
        }
    }

    /// All pages: the tape, and an embedding that is not tied.
    pub fn pages(&self) -> u32 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The tensor that `page` belongs to, and the page's number within it.
    pub fn locate(&self, page: u32) -> Option<(Tensor, u32)> {
        let index = self.starts.partition_point(|start| *start <= page).checked_sub(1)?;
        let tensor = self.shape.tensor(index as u32)?;
        Some((tensor, page - self.starts.get(index)?))
    }

    /// The shape whose tensors these are.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}
