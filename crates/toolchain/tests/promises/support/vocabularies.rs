//! Vocabularies, learned from a few lines of text.

use std::collections::BTreeMap;

use pageformer_model::{Merge, Token, Tokenizer};

/// The text that they are learned from. Some of it is not ASCII, and there are runs of spaces.
pub const TEXT: &str = "Once upon a time there was a little girl who lived in a little house near the forest. \
    One day the girl went to the forest with her little dog. The dog saw a bird, and the bird saw the dog. \
    \"Where are you going?\" asked the bird. \"I am going to the other side of the forest,\" said the girl.\n    \
    Löwen hören größere Bäume, größere Bären hören Löwen.  Ça va?  Ça va!  日本語 日本語 日本 語。\n    \
    the the the there then them they this that   there   then   them\n";

/// A byte-level BPE of `vocab` tokens, the last two of them control tokens. Merges may run over the start of a word
/// if `across_words`.
pub fn byte_level(vocab: u32, across_words: bool) -> Tokenizer {
    let start: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    let alphabet = (0..=255u8).map(|byte| vec![byte]).collect();
    let (texts, merges) = learn(start, alphabet, vocab as usize - 2, across_words);
    let controls = ["<s>", "</s>"].map(|name| Token::Control(name.into()));
    Tokenizer::byte_level(texts.into_iter().map(Token::Text).chain(controls).collect(), merges).unwrap()
}

/// A SentencePiece-like BPE with byte fallback: 3 control tokens, 256 bytes, then characters and merges.
pub fn sentencepiece(vocab: u32, across_words: bool, dummy_prefix: bool) -> Tokenizer {
    const FIRST: u32 = 259;
    // Some characters of the text are left out, so that they fall back to bytes.
    let characters: Vec<char> = TEXT
        .chars()
        .filter(|c| !"本x?g".contains(*c))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let id = |c: char| characters.iter().position(|known| *known == c).map(|at| FIRST + at as u32);
    // A character that is not known ends the chain of merges, as a control token would.
    let start: Vec<u32> = TEXT.chars().map(|c| id(c).unwrap_or(0)).collect();
    let mut alphabet: Vec<Vec<u8>> = vec![Vec::new(); FIRST as usize];
    alphabet.extend(characters.iter().map(|c| c.to_string().into_bytes()));
    let (texts, merges) = learn(start, alphabet, vocab as usize, across_words);
    let controls = ["<unk>", "<s>", "</s>"].map(|name| Token::Control(name.into()));
    let bytes = (0..=255).map(Token::Byte);
    let texts = texts.into_iter().skip(FIRST as usize).map(Token::Text);
    Tokenizer::sentencepiece(controls.into_iter().chain(bytes).chain(texts).collect(), merges, dummy_prefix)
        .unwrap()
}

/// Byte pair encoding (Sennrich et al. 2016): joins the most frequent pair until there are `vocab` tokens. A token
/// without a text is never joined.
fn learn(
    mut ids: Vec<u32>,
    mut texts: Vec<Vec<u8>>,
    vocab: usize,
    across_words: bool,
) -> (Vec<Vec<u8>>, Vec<Merge>) {
    let mut merges: Vec<Merge> = Vec::new();
    while texts.len() < vocab {
        let mut counts = BTreeMap::new();
        for pair in ids.windows(2) {
            let (left, right) = (&texts[pair[0] as usize], &texts[pair[1] as usize]);
            let space_inside = left.iter().skip(1).chain(right).any(|byte| *byte == b' ');
            if !left.is_empty() && !right.is_empty() && (across_words || !space_inside) {
                *counts.entry((pair[0], pair[1])).or_insert(0) += 1;
            }
        }
        let best = counts.iter().max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)));
        let ((left, right), _) = best.expect("the text has enough pairs");
        let (left, right) = (*left, *right);
        let text = [&texts[left as usize][..], &texts[right as usize]].concat();
        let merged = texts.iter().position(|known| *known == text).unwrap_or(texts.len());
        if merged == texts.len() {
            texts.push(text);
        }
        merges.push(Merge { left, right, merged: merged as u32, rank: merges.len() as u32 });
        let mut joined = Vec::with_capacity(ids.len());
        for id in ids {
            match joined.last_mut() {
                Some(last) if (*last, id) == (left, right) => *last = merged as u32,
                _ => joined.push(id),
            }
        }
        ids = joined;
    }
    (texts, merges)
}
