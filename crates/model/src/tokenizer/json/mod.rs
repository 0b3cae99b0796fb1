//! `tokenizer.json` in Hugging Face's form.
//!
//! How each [`Kind`] is written, and so what can be read:
//!
//! | kind | normalizer | pre-tokenizer | model (all `BPE`) | decoder |
//! |---|---|---|---|---|
//! | ASCII | – | – | 128 characters, `?` for others | `Fuse` |
//! | bytes | – | – | vocabulary `<0x00>` … `<0xFF>`, no merges, byte fallback | `ByteFallback`, `Fuse` |
//! | SentencePiece | (`Prepend ▁`,) `Replace " " → ▁` | – | byte fallback; `▁` for space in the vocabulary | `Replace ▁ → " "`, `ByteFallback`, `Fuse` (, `Strip`) |
//! | byte-level | – | `ByteLevel` without prefix space and regex | GPT-2's stand-in characters for bytes | `ByteLevel` |
//!
//! Three things differ from what Hugging Face's library does with the same file: control tokens are never
//! recognized in text; a `▁` in the text stays one (it becomes byte tokens) and is not taken for a space; and
//! merges may share a rank (llama2.c's do where one token can be split in several ways). A list of merges has
//! no place for that, so the ranks are then written under `pageformer_ranks` in `model`, which the library
//! ignores.
//!
//! The post-processor only says which control tokens stand around a text. The reader ignores it: the token
//! that begins a document is in `config.json`.

mod read;
mod write;

use std::path::Path;

use serde_json::{Value, json};

use super::{Kind, Token, Tokenizer, broken};
use crate::Error;

/// SentencePiece's stand-in for a space.
pub(in crate::tokenizer) const SPACE: &str = "\u{2581}";

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or for the reasons of [`Tokenizer::from_json`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let file: read::File = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
        read::tokenizer(file).map_err(|e| match e {
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
        read::tokenizer(file)
    }

    /// The contents of a `tokenizer.json`. Where `bos` is a control token, the file tells other readers to
    /// put it before a text.
    pub fn to_json(&self, bos: Option<u32>) -> String {
        let file = write::file(self, bos);
        // A `Value` has string keys and finite numbers only, so there is nothing that could not be written.
        format!("{file:#}\n")
    }
}

/// What a token is called in the vocabulary.
pub(in crate::tokenizer) fn name(kind: Kind, token: &Token) -> String {
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

/// GPT-2's stand-in for a byte: itself if it is printable Latin-1, else the next unused character from U+0100
/// on.
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
