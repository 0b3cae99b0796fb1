//! `tokenizer.json` in Hugging Face's form.
//!
//! How each [`Kind`] is written, and so what can be read:
//!
//! | kind | normalizer | pre-tokenizer | model (all `BPE`) | decoder |
//! |---|---|---|---|---|
//! | ASCII | – | – | vocabulary of 128 characters, no merges, unknown = `?` | `Fuse` |
//! | bytes | – | – | vocabulary `<0x00>` … `<0xFF>`, no merges, byte fallback | `ByteFallback`, `Fuse` |
//! | SentencePiece | (`Prepend ▁`,) `Replace " " → ▁` | – | byte fallback; `▁` for space in the vocabulary | `Replace ▁ → " "`, `ByteFallback`, `Fuse` (, `Strip`) |
//! | byte-level | – | `ByteLevel` without prefix space and regex | GPT-2's stand-in characters for bytes | `ByteLevel` |
//!
//! Three things differ from what Hugging Face's library does with the same file: control tokens are never recognized in text; a
//! `▁` in the text stays one (it becomes byte tokens) and is not taken for a space; and merges may share a rank (llama2.c's do
//! where one token can be split in several ways). A list of merges has no place for that, so the ranks are then written under
//! `pageformer_ranks` in `model`, which the library ignores.
//!
//! The post-processor only says which control tokens stand around a text. The reader ignores it: the token that begins a
//! document is in `config.json`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Kind, Merge, Token, Tokenizer, broken};
use crate::Error;

/// SentencePiece's stand-in for a space.
pub(super) const SPACE: &str = "\u{2581}";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: Bpe,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Pair>,
    #[serde(default)]
    pageformer_ranks: Option<Vec<u32>>,
}

/// A merge: `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Joined(String),
    Split(String, String),
}

impl Pair {
    fn halves(&self) -> Option<(&str, &str)> {
        match self {
            Pair::Joined(both) => both.split_once(' '),
            Pair::Split(left, right) => Some((left, right)),
        }
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or for the reasons of [`Tokenizer::from_json`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
        read(file).map_err(|e| match e {
            Error::Tokenizer { problem, .. } => {
                Error::Tokenizer { file: path.display().to_string(), problem }
            }
            other => other,
        })
    }

    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not one, or describes a tokenizer that is not one of the four [`Kind`]s.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        let file = serde_json::from_slice(text)
            .map_err(|source| Error::Json { path: "tokenizer.json".into(), source })?;
        read(file)
    }

    /// The contents of a `tokenizer.json`. Where `bos` is a control token, the file tells other readers to put it before a text.
    pub fn to_json(&self, bos: Option<u32>) -> String {
        let file = write(self, bos);
        // A `Value` has string keys and finite numbers only, so there is nothing that could not be written.
        format!("{file:#}\n")
    }
}

fn read(file: File) -> Result<Tokenizer, Error> {
    let model = &file.model;
    let no = |what: &str| Err(broken(format!("{what} is not supported; {SUPPORTED}")));
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return no(&format!("model type {:?}", model.kind.as_deref().unwrap_or_default()));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return no("`dropout`");
    }
    if model.ignore_merges {
        return no("`ignore_merges`");
    }
    for (key, text) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if text.as_ref().is_some_and(|t| !t.is_empty()) {
            return no(&format!("`{key}`"));
        }
    }
    let shell = Shell::of(&file)?;
    let names = names_by_id(&file)?;
    let tokens = names
        .into_iter()
        .map(|(name, control)| if control { Ok(Token::Control(name)) } else { shell.token(name) })
        .collect::<Result<Vec<_>, _>>()?;
    match shell {
        Shell::Plain => {
            let whole = |t: &Tokenizer| t.tokens == tokens && model.merges.is_empty();
            let plain = match (model.byte_fallback, model.unk_token.as_deref()) {
                (true, _) => Some(Tokenizer::bytes()).filter(whole),
                (false, Some("?")) if !model.fuse_unk => Some(Tokenizer::ascii()).filter(whole),
                _ => None,
            };
            plain.ok_or_else(|| {
                broken(format!("a BPE with neither normalizer nor pre-tokenizer that is neither the 128 ASCII characters (with `?` as `unk_token`) nor the 256 bytes is not supported; {SUPPORTED}"))
            })
        }
        Shell::SentencePiece { dummy_prefix } => {
            if !model.byte_fallback {
                return no("a SentencePiece BPE without `byte_fallback`");
            }
            Tokenizer::sentencepiece(tokens, merges(model)?, dummy_prefix)
        }
        Shell::ByteLevel => Tokenizer::byte_level(tokens, merges(model)?),
    }
}

/// What to do about a tokenizer that cannot be read.
const SUPPORTED: &str = "use a BPE as Llama has it (normalizer Prepend and Replace, byte fallback), a ByteLevel BPE with `use_regex: false`, bytes or ASCII";

/// What stands around the BPE in the file, and with it how text is spelled in the vocabulary.
enum Shell {
    Plain,
    SentencePiece { dummy_prefix: bool },
    ByteLevel,
}

impl Shell {
    fn of(file: &File) -> Result<Self, Error> {
        let no = |what: &str, value: &Value| {
            Err(broken(format!("{what} {value} is not supported here; {SUPPORTED}")))
        };
        let shell = match file.pre_tokenizer["type"].as_str() {
            None if !file.pre_tokenizer.is_null() => return no("pre-tokenizer", &file.pre_tokenizer),
            None if file.normalizer.is_null() => Shell::Plain,
            None if file.normalizer == normalizer(false) => Shell::SentencePiece { dummy_prefix: false },
            None if file.normalizer == normalizer(true) => Shell::SentencePiece { dummy_prefix: true },
            None => return no("normalizer", &file.normalizer),
            Some("ByteLevel")
                if file.pre_tokenizer["use_regex"] == json!(false)
                    && file.pre_tokenizer["add_prefix_space"] == json!(false) =>
            {
                if !file.normalizer.is_null() {
                    return no("normalizer", &file.normalizer);
                }
                Shell::ByteLevel
            }
            Some(_) => return no("pre-tokenizer", &file.pre_tokenizer),
        };
        let decoder_fits = match shell {
            Shell::Plain => true, // A plain one is accepted only whole, see `read`.
            Shell::SentencePiece { dummy_prefix } => file.decoder == sentencepiece_decoder(dummy_prefix),
            Shell::ByteLevel => file.decoder["type"] == json!("ByteLevel"),
        };
        if decoder_fits { Ok(shell) } else { no("decoder", &file.decoder) }
    }

    /// The token that is called `name` in the vocabulary.
    fn token(&self, name: String) -> Result<Token, Error> {
        match self {
            Shell::ByteLevel => {
                let byte = |c| {
                    byte_of_stand_in(c).ok_or_else(|| {
                        broken(format!(
                            "`{c}` in token `{name}` stands for no byte; this is not a ByteLevel vocabulary"
                        ))
                    })
                };
                Ok(Token::Text(name.chars().map(byte).collect::<Result<_, _>>()?))
            }
            Shell::Plain | Shell::SentencePiece { .. } => {
                if let Some(b) = byte_of_name(&name) {
                    return Ok(Token::Byte(b));
                }
                let text = match self {
                    Shell::SentencePiece { .. } if name.contains(' ') => {
                        return Err(broken(format!(
                            "token `{name}` contains a space, which should be `{SPACE}`"
                        )));
                    }
                    Shell::SentencePiece { .. } => name.replace(SPACE, " "),
                    _ => name,
                };
                Ok(Token::Text(text.into_bytes()))
            }
        }
    }
}

/// Every token's name in the order of ids, and whether it is a control token.
fn names_by_id(file: &File) -> Result<Vec<(String, bool)>, Error> {
    let mut names: HashMap<u32, (&str, bool)> = HashMap::new();
    for (name, &id) in &file.model.vocab {
        if let Some((other, _)) = names.insert(id, (name, false)) {
            return Err(broken(format!("tokens `{other}` and `{name}` have the same id {id}")));
        }
    }
    for added in &file.added_tokens {
        if !added.special {
            return Err(broken(format!(
                "added token `{}` is not `special`; put it into the vocabulary instead",
                added.content
            )));
        }
        match names.insert(added.id, (&added.content, true)) {
            Some((name, _)) if name != added.content => {
                return Err(broken(format!(
                    "tokens `{name}` and `{}` have the same id {}",
                    added.content, added.id
                )));
            }
            _ => {}
        }
    }
    (0..names.len() as u32)
        .map(|id| match names.get(&id) {
            Some(&(name, control)) => Ok((name.to_owned(), control)),
            None => Err(broken(format!(
                "{} tokens, but none has the id {id}; ids must be 0 to the number of tokens - 1",
                names.len()
            ))),
        })
        .collect()
}

fn merges(model: &Bpe) -> Result<Vec<Merge>, Error> {
    let ranks = model.pageformer_ranks.as_deref();
    if ranks.is_some_and(|r| r.len() != model.merges.len()) {
        return Err(broken("`pageformer_ranks` must have one number for each of `merges`".into()));
    }
    let merge = |(i, pair): (usize, &Pair)| {
        let (left, right) = pair.halves().ok_or_else(|| broken(format!("merge {i} is not two tokens")))?;
        let id = |name: &str| {
            model.vocab.get(name).copied().ok_or_else(|| {
                broken(format!("merge {i} (`{left}` and `{right}`): `{name}` is not in the vocabulary"))
            })
        };
        let rank = ranks.map_or(i as u32, |r| r[i]);
        Ok(Merge { left: id(left)?, right: id(right)?, merged: id(&format!("{left}{right}"))?, rank })
    };
    model.merges.iter().enumerate().map(merge).collect()
}

fn write(tokenizer: &Tokenizer, bos: Option<u32>) -> Value {
    let names: Vec<String> = tokenizer.tokens.iter().map(|t| name(tokenizer.kind, t)).collect();
    let vocab: Map<String, Value> = names.iter().cloned().zip((0..).map(|id: u32| json!(id))).collect();
    let merges: Vec<String> = tokenizer
        .merges
        .iter()
        .map(|m| format!("{} {}", names[m.left as usize], names[m.right as usize]))
        .collect();
    let controls = || {
        tokenizer.tokens.iter().enumerate().filter_map(|(id, token)| match token {
            Token::Control(name) => Some((id, name.as_str())),
            _ => None,
        })
    };
    let added: Vec<Value> = controls()
        .map(|(id, name)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let (normalizer, pre_tokenizer, decoder) = match tokenizer.kind {
        Kind::Ascii => (Value::Null, Value::Null, json!({"type": "Fuse"})),
        Kind::Bytes => (
            Value::Null,
            Value::Null,
            json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
        ),
        Kind::SentencePiece => {
            (normalizer(tokenizer.dummy_prefix), Value::Null, sentencepiece_decoder(tokenizer.dummy_prefix))
        }
        Kind::ByteLevel => {
            let byte_level = |regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
            (Value::Null, byte_level(false), byte_level(false))
        }
    };
    let unknown = match tokenizer.kind {
        Kind::Ascii => Some("?"),
        Kind::SentencePiece => controls().map(|(_, name)| name).find(|&name| name == "<unk>"),
        Kind::Bytes | Kind::ByteLevel => None,
    };
    let mut model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": matches!(tokenizer.kind, Kind::Bytes | Kind::SentencePiece),
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    let ranks = tokenizer.merges.iter().map(|m| m.rank);
    if !ranks.clone().eq(0..merges.len() as u32) {
        model["pageformer_ranks"] = ranks.collect();
    }
    let post_processor = controls()
        .find(|&(id, _)| bos.is_some_and(|bos| bos as usize == id))
        .map(|(id, name)| begin_with(id, name));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    })
}

/// What a token is called in the vocabulary.
pub(super) fn name(kind: Kind, token: &Token) -> String {
    match token {
        Token::Control(name) => name.clone(),
        Token::Byte(b) => format!("<0x{b:02X}>"),
        Token::Text(text) if kind == Kind::ByteLevel => text.iter().map(|&b| stand_in(b)).collect(),
        Token::Text(text) => {
            // UTF-8 was checked when the tokenizer was made.
            let text = String::from_utf8_lossy(text);
            if kind == Kind::SentencePiece { text.replace(' ', SPACE) } else { text.into_owned() }
        }
    }
}

/// The byte of a name like `<0x0A>`.
fn byte_of_name(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (format!("{byte:02X}") == digits).then_some(byte)
}

/// GPT-2's stand-in for a byte: itself if it is printable Latin-1, else the next unused character from U+0100 on.
fn stand_in(byte: u8) -> char {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(byte) {
        return char::from(byte);
    }
    let earlier = (0..byte).filter(|&b| !plain(b)).count() as u32;
    char::from_u32(0x100 + earlier).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse of [`stand_in`].
fn byte_of_stand_in(c: char) -> Option<u8> {
    (0..=255).find(|&b| stand_in(b) == c)
}

fn normalizer(dummy_prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if dummy_prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
    } else {
        replace
    }
}

fn sentencepiece_decoder(dummy_prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let mut decoders = vec![replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

/// The post-processor that puts a control token before a text.
fn begin_with(id: usize, name: &str) -> Value {
    let token = json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    let mut special = Map::new();
    special.insert(name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}));
    json!({
        "type": "TemplateProcessing",
        "single": [token, text("A", 0)],
        "pair": [token, text("A", 0), text("B", 1)],
        "special_tokens": special,
    })
}
