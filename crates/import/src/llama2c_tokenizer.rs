//! The tokenizer files of llama2.c: an `i32`, the length of the longest token, then for each token an f32
//! score, an `i32` length and that many bytes.
//!
//! There is no list of merges. llama2.c merges any two neighbours whose joined text is a token, the token of
//! the best score first, the leftmost of equals. So there is a merge for every way to split a token into two
//! others, ranked by the token's score.

use std::collections::HashMap;
use std::path::Path;

use pageformer_model::{Merge, Token, Tokenizer};

use crate::{Error, llama2c::read as read_file};

/// Begins a document.
pub(crate) const BOS: u32 = 1;
/// Ends one.
pub(crate) const EOS: u32 = 2;
/// The first of 256 byte tokens: llama2.c takes byte `b` of an unknown character to be token `b + 3`.
const FIRST_BYTE: usize = 3;
/// Where llama2.c's search for the best score begins: a token that scores no better is never formed.
const WORST_SCORE: f32 = -1e10;

/// Reads a tokenizer of `vocab` tokens.
pub(crate) fn read(path: &Path, vocab: u32) -> Result<Tokenizer, Error> {
    let bytes = read_file(path)?;
    let wrong = |problem: String| Error::Format { path: path.into(), problem };
    let entries = entries(&bytes).map_err(wrong)?;
    if entries.len() != vocab as usize {
        return Err(wrong(format!(
            "{} tokens, but the checkpoint has {vocab}; give the tokenizer that belongs to it",
            entries.len()
        )));
    }
    let tokens = entries
        .iter()
        .enumerate()
        .map(|(id, &(text, _))| token(id, text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    let merges = merges(&tokens, &entries);
    Tokenizer::sentencepiece(tokens, merges, true)
        .map_err(|source| Error::Model { path: path.into(), source })
}

/// Text and score of every token.
fn entries(bytes: &[u8]) -> Result<Vec<(&[u8], f32)>, String> {
    let (_longest, mut rest) = bytes.split_first_chunk::<4>().ok_or("too short for a llama2.c tokenizer")?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let id = entries.len();
        let truncated = || format!("ends within token {id}; the file is truncated or something else");
        let (score, after) = rest.split_first_chunk().ok_or_else(truncated)?;
        let (length, after) = after.split_first_chunk().ok_or_else(truncated)?;
        let length = i32::from_le_bytes(*length);
        let length = usize::try_from(length).map_err(|_| format!("token {id} has {length} bytes"))?;
        let (text, after) = after.split_at_checked(length).ok_or_else(truncated)?;
        let score = f32::from_le_bytes(*score);
        if !score.is_finite() {
            return Err(format!("the score of token {id} is {score}, not a finite number"));
        }
        entries.push((text, score));
        rest = after;
    }
    Ok(entries)
}

fn token(id: usize, text: &[u8]) -> Result<Token, String> {
    // llama2.c's exporter writes "\n<s>\n" for 1 and "\n</s>\n" for 2, though they stand for no text.
    if let Some(name) = ["<unk>", "<s>", "</s>"].get(id) {
        return Ok(Token::Control((*name).into()));
    }
    match id.checked_sub(FIRST_BYTE).map(u8::try_from) {
        Some(Ok(b)) if text == format!("<0x{b:02X}>").as_bytes() => Ok(Token::Byte(b)),
        Some(Ok(b)) => Err(format!(
            "token {id} is not <0x{b:02X}>; only tokenizers with bytes as tokens 3 to 258 can be read"
        )),
        _ => Ok(Token::Text(text.to_vec())),
    }
}

/// A merge for every split of a text token into two others; tokens of the same score share a rank.
fn merges(tokens: &[Token], entries: &[(&[u8], f32)]) -> Vec<Merge> {
    let texts = || {
        tokens.iter().enumerate().filter_map(|(id, token)| match token {
            Token::Text(text) => Some((id as u32, &text[..])),
            _ => None,
        })
    };
    let ids: HashMap<&[u8], u32> = texts().map(|(id, text)| (text, id)).collect();
    let score = |id: u32| entries[id as usize].1;
    let mut merges: Vec<Merge> = texts()
        .filter(|&(id, _)| score(id) > WORST_SCORE)
        .flat_map(|(merged, text)| {
            let ids = &ids;
            (1..text.len()).filter_map(move |at| {
                let (left, right) = (*ids.get(&text[..at])?, *ids.get(&text[at..])?);
                Some(Merge { left, right, merged, rank: 0 })
            })
        })
        .collect();
    merges.sort_by(|a, b| score(b.merged).total_cmp(&score(a.merged)));
    let mut rank = 0;
    for i in 1..merges.len() {
        // Not by total order: 0 and -0 are the same score.
        if score(merges[i].merged) != score(merges[i - 1].merged) {
            rank += 1;
        }
        merges[i].rank = rank;
    }
    merges
}
