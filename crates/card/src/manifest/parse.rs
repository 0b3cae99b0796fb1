//! Reading `index.json` as a stream.

use core::cell::Cell;

use picojson::{Event, PullParser, Reader, StreamParser};

use super::{
    Chat, Layout, MAX_EOS, MAX_PAGES, MAX_STRING, Manifest, ManifestError, Text, VERSION, parse_block,
};
use crate::decimal::parse_f32;
use crate::shape::{Mlp, Norm, Shape};

/// Bytes that the parser keeps: the longest string as it is written, and its quotes.
const BUFFER: usize = MAX_STRING + 32;

/// Feeds the parser so that every string begins where its buffer does, and counts the bytes, to say where it failed.
///
/// `picojson` 0.2 makes room in a full buffer by moving the string that it is reading to the front, over what it has put
/// there of a string with escapes: such a string came out garbled if the buffer happened to end within it. So what
/// follows a string's first quote is only given to an empty buffer. Until it is empty, it is filled up with spaces,
/// which mean nothing between strings; a string that is longer than the buffer is an error.
struct Aligned<'a, R> {
    inner: R,
    count: &'a Cell<u32>,
    /// The first quote of a string was read and is still to be given.
    held: bool,
    in_string: bool,
    escaped: bool,
    too_long: &'a Cell<bool>,
}

impl<R: Reader> Reader for Aligned<'_, R> {
    type Error = Option<R::Error>;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let empty = buf.len() == BUFFER;
        let mut given = 0;
        while given < buf.len() {
            let mut byte = [b'"'];
            if !core::mem::take(&mut self.held) {
                if self.inner.read(&mut byte).map_err(Some)? == 0 {
                    break;
                }
                self.count.set(self.count.get().saturating_add(1));
            }
            if byte == *b"\"" && !self.in_string && !(empty && given == 0) {
                self.held = true;
                if given == 0 {
                    buf.fill(b' ');
                    given = buf.len();
                }
                break;
            }
            match (self.in_string, self.escaped, byte[0]) {
                (true, false, b'\\') => self.escaped = true,
                (true, true, _) => self.escaped = false,
                (inside, _, b'"') => self.in_string = !inside,
                _ => {}
            }
            if let Some(to) = buf.get_mut(given) {
                *to = byte[0];
            }
            given += 1;
        }
        if self.in_string && given == buf.len() {
            self.too_long.set(true);
            return Err(None);
        }
        Ok(given)
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
        let (count, too_long) = (Cell::new(0), Cell::new(false));
        let mut buffer = [0; BUFFER];
        let reader = Aligned {
            inner: reader,
            count: &count,
            held: false,
            in_string: false,
            escaped: false,
            too_long: &too_long,
        };
        let mut parser = StreamParser::new(reader, &mut buffer);
        let mut found = Found::default();
        let mut place = None; // before the top-level object
        let mut key: Text<32> = Text::default();
        loop {
            let event = parser.next_event().map_err(|e| match e {
                picojson::ParseError::ReaderError if !too_long.get() => ManifestError::Read,
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
            (Some(user), stop) if super::split_template(user.as_str()).is_some() => {
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
