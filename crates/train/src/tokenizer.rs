//! Training a tokenizer: byte pair encoding (Sennrich et al. 2016) over bytes.
//!
//! Pairs are counted inside *words* only. A word is a run of letters or a run of anything else, with the space before it: so no token has a
//! space inside, and a text can be encoded word by word.

use std::collections::HashMap;

use pageformer_model::{Merge, Token, Tokenizer};

use crate::Error;

/// Name of the token that begins and ends documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Fewest tokens of a trained vocabulary: the bytes and [`END_OF_TEXT`].
pub const SMALLEST_VOCAB: usize = 257;

/// A vocabulary of up to `vocab` tokens for these texts: [`END_OF_TEXT`] is token 0, then come the 256 bytes, then what was most often a
/// pair. It is smaller when no pair is left that occurs twice. The same texts always give the same tokenizer.
///
/// # Errors
/// If `vocab` is below [`SMALLEST_VOCAB`] or above 65,536.
pub fn train_bpe(texts: &[impl AsRef<str>], vocab: usize) -> Result<Tokenizer, Error> {
    if !(SMALLEST_VOCAB..=1 << 16).contains(&vocab) {
        let problem = format!(
            "{vocab}: a trained vocabulary has 257 to 65536 tokens; for fewer use the kind `ascii` or `bytes`"
        );
        return Err(Error::Recipe { file: "recipe".into(), key: "tokenizer.vocab".into(), problem });
    }
    let mut tokens = vec![Token::Control(END_OF_TEXT.into())];
    tokens.extend((0..=255).map(|b| Token::Text(vec![b])));
    let mut merges: Vec<Merge> = vec![];
    let mut pairs = Pairs::count(texts);
    while tokens.len() < vocab {
        let Some((left, right)) = pairs.most_frequent() else { break };
        let merged = tokens.len() as u32;
        let text = |id: u32| match &tokens[id as usize] {
            Token::Text(text) => &text[..],
            Token::Byte(_) | Token::Control(_) => &[],
        };
        tokens.push(Token::Text([text(left), text(right)].concat()));
        merges.push(Merge { left, right, merged, rank: merges.len() as u32 });
        pairs.merge((left, right), merged);
    }
    Ok(Tokenizer::byte_level(tokens, merges)?)
}

type Pair = (u32, u32);

/// The words of the texts as tokens, and how often each pair of neighbours occurs in them.
struct Pairs {
    words: Vec<(Vec<u32>, i64)>, // tokens and number of occurrences
    counts: HashMap<Pair, i64>,
    /// Words in which a pair occurs, or did.
    places: HashMap<Pair, Vec<u32>>,
}

impl Pairs {
    fn count(texts: &[impl AsRef<str>]) -> Self {
        let mut occurrences: HashMap<&[u8], i64> = HashMap::new();
        for text in texts {
            words(text.as_ref().as_bytes(), |word| *occurrences.entry(word).or_default() += 1);
        }
        let words = occurrences.into_iter().map(|(w, n)| (w.iter().map(|b| *b as u32 + 1).collect(), n));
        let mut pairs = Pairs { words: words.collect(), counts: HashMap::new(), places: HashMap::new() };
        for word in 0..pairs.words.len() {
            pairs.add(word, 1);
        }
        pairs
    }

    /// Adds the pairs of a word, or takes them away.
    fn add(&mut self, word: usize, sign: i64) {
        let (tokens, occurrences) = &self.words[word];
        for pair in tokens.windows(2) {
            let pair = (pair[0], pair[1]);
            *self.counts.entry(pair).or_default() += sign * occurrences;
            if sign > 0 {
                let places = self.places.entry(pair).or_default();
                if places.last() != Some(&(word as u32)) {
                    places.push(word as u32);
                }
            }
        }
    }

    /// The pair that occurs most often, at least twice; of equals, the one of the oldest tokens.
    fn most_frequent(&self) -> Option<Pair> {
        let best = self.counts.iter().max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)))?;
        (*best.1 >= 2).then_some(*best.0)
    }

    /// Makes one token of every occurrence of a pair.
    fn merge(&mut self, pair: Pair, merged: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        for word in places {
            let word = word as usize;
            self.add(word, -1);
            let old = std::mem::take(&mut self.words[word].0);
            let mut new = Vec::with_capacity(old.len());
            for token in old {
                // Leftmost first: a token that was just merged is not `pair.0` any more.
                if token == pair.1 && new.last() == Some(&pair.0) {
                    new.pop();
                    new.push(merged);
                } else {
                    new.push(token);
                }
            }
            self.words[word].0 = new;
            self.add(word, 1);
        }
        self.counts.remove(&pair);
    }
}

/// Cuts a text into words.
fn words<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8])) {
    let letter = |i: usize| text.get(i).is_some_and(|b| b.is_ascii_alphabetic() || *b >= 0x80);
    // The apostrophe of `don't` belongs to the word.
    let inside = |i: usize| letter(i) || (text[i] == b'\'' && i > 0 && letter(i - 1) && letter(i + 1));
    let mut start = 0;
    for i in 1..text.len() {
        let after_space = text[i - 1] == b' ' && i - 1 == start;
        if text[i] == b' ' || (inside(i) != inside(i - 1) && !after_space) {
            each(&text[start..i]);
            start = i;
        }
    }
    if !text.is_empty() {
        each(&text[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let mut out = vec![];
        words(text.as_bytes(), |w| out.push(String::from_utf8(w.to_vec()).unwrap()));
        out
    }

    #[test]
    fn words_begin_at_spaces_and_where_letters_end() {
        assert_eq!(
            cut("Don't go, \"Tim\"!\nHé said  42."),
            ["Don't", " go", ",", " \"", "Tim", "\"!\n", "Hé", " said", " ", " 42."]
        );
        assert_eq!(cut("'a' b"), ["'", "a", "'", " b"]);
        assert_eq!(cut(""), [""; 0]);
        assert_eq!(cut(" "), [" "]);
    }

    #[test]
    fn the_papers_example() {
        // low ×5, lower ×2, newest ×6, widest ×3: e+s, es+t, l+o, lo+w, …
        let text = ["low ".repeat(5), "lower ".repeat(2), "newest ".repeat(6), "widest ".repeat(3)].concat();
        let words: Vec<&str> = text.split_whitespace().collect();
        let tokenizer = train_bpe(&words, 257 + 4).unwrap();
        let learnt: Vec<_> =
            (257..261).map(|i| String::from_utf8_lossy(tokenizer.piece(i)).into_owned()).collect();
        assert_eq!(learnt, ["es", "est", "lo", "low"]);
        assert_eq!(tokenizer.encode("lowest").len(), 2);
    }

    #[test]
    fn deterministic_reversible_and_better_than_bytes() {
        let text = include_str!("tokenizer.rs");
        let tokenizer = train_bpe(&[text], 600).unwrap();
        assert_eq!(tokenizer, train_bpe(&[text], 600).unwrap());
        assert_eq!(tokenizer.vocab_size(), 600);
        assert!(!tokenizer.space_inside());
        for text in [text, "Ünïcödé \u{1F600} \0\x7F  x"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text.as_bytes());
        }
        assert!(tokenizer.encode(text).len() * 2 < text.len());
        // A text with little in it gives a smaller vocabulary, and wrong sizes are errors.
        assert_eq!(train_bpe(&["abab"], 600).unwrap().vocab_size(), 258);
        assert!(train_bpe(&["a"], 256).is_err());
    }
}
