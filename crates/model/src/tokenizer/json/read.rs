//! From `tokenizer.json` to a tokenizer.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{SPACE, broken, byte_of_name, byte_of_stand_in, normalizer, sentencepiece_decoder};
use super::{Token, Tokenizer};
use crate::Error;
use crate::Merge;

/// What is read of the file; the rest says nothing about how text becomes tokens.
#[derive(Deserialize)]
pub(super) struct File {
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

/// Reads the tokenizer that a file describes.
pub(super) fn tokenizer(file: File) -> Result<Tokenizer, Error> {
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
                broken(format!(
                    "a BPE with neither normalizer nor pre-tokenizer, and neither of the 128 ASCII characters \
                     (`unk_token` `?`) nor of the 256 bytes, is not supported; {SUPPORTED}"
                ))
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
const SUPPORTED: &str = "use a BPE as Llama has it (normalizer Prepend and Replace, byte fallback), \
    a ByteLevel BPE with `use_regex: false`, bytes or ASCII";

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
            Shell::Plain => true, // A plain one is accepted only whole, see `tokenizer`.
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
