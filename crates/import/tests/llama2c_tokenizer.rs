//! The tokenizer of a llama2.c model against llama2.c's own algorithm, done literally: look for the best pair
//! in the whole text, merge it, begin again.

use std::path::{Path, PathBuf};

use pageformer_model::Tokenizer;
use proptest::prelude::*;

fn tok512() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tok512.bin");
    if !path.is_file() {
        println!("skipped: no test data in ../shared/data");
        return None;
    }
    Some(path)
}

fn stories_tokenizer(tok512: &Path) -> Tokenizer {
    pageformer_import::llama2c(&tok512.with_file_name("stories260K.bin"), tok512).unwrap().1
}

/// What llama2.c keeps of a tokenizer.
struct Llama2c {
    vocab: Vec<(Vec<u8>, f32)>,
}

impl Llama2c {
    fn parse(bytes: &[u8]) -> Self {
        let mut vocab = Vec::new();
        let mut at = 4;
        while at < bytes.len() {
            let word = |at: usize| bytes[at..at + 4].try_into().unwrap();
            let length = i32::from_le_bytes(word(at + 4)) as usize;
            vocab.push((bytes[at + 8..at + 8 + length].to_vec(), f32::from_le_bytes(word(at))));
            at += 8 + length;
        }
        Llama2c { vocab }
    }

    fn lookup(&self, text: &[u8]) -> Option<u32> {
        self.vocab.iter().position(|(token, _)| token == text).map(|id| id as u32)
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        if !text.is_empty() {
            tokens.push(self.lookup(b" ").unwrap());
        }
        for c in text.chars() {
            let bytes = c.to_string().into_bytes();
            match self.lookup(&bytes) {
                Some(id) => tokens.push(id),
                None => tokens.extend(bytes.iter().map(|&b| u32::from(b) + 3)),
            }
        }
        loop {
            let (mut best_score, mut best) = (-1e10, None);
            for i in 0..tokens.len().saturating_sub(1) {
                let [left, right] = [tokens[i], tokens[i + 1]].map(|id| &self.vocab[id as usize].0);
                let Some(id) = self.lookup(&[&left[..], right].concat()) else { continue };
                if self.vocab[id as usize].1 > best_score {
                    best_score = self.vocab[id as usize].1;
                    best = Some((i, id));
                }
            }
            let Some((i, id)) = best else { return tokens };
            tokens[i] = id;
            tokens.remove(i + 1);
        }
    }
}

/// Text of the vocabulary's own pieces, where merges compete, mixed with characters that it lacks.
fn text(pieces: Vec<String>) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(pieces),
        2 => "[a-zA-Z ,.!\"'\n]{0,6}",
        1 => "\\PC{0,3}",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|p| p.concat())
}

fn check(llama2c: &Llama2c, tokenizer: &Tokenizer, cases: u32) {
    let strings = llama2c.vocab.iter().map(|(t, _)| String::from_utf8(t.clone()).unwrap()).collect();
    let again = Tokenizer::from_json(tokenizer.to_json(Some(1)).as_bytes()).unwrap();
    assert_eq!(&again, tokenizer);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    runner
        .run(&text(strings), |text| {
            let ids = tokenizer.encode(&text);
            prop_assert_eq!(&ids, &llama2c.encode(&text));
            prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
            Ok(())
        })
        .unwrap();
}

#[test]
fn tok512_encodes_as_llama2c_does() {
    let Some(path) = tok512() else { return };
    let llama2c = Llama2c::parse(&std::fs::read(&path).unwrap());
    check(&llama2c, &stories_tokenizer(&path), 2000);
}

#[test]
fn tok512_encodes_whole_stories_as_llama2c_does() {
    let Some(path) = tok512() else { return };
    let (llama2c, tokenizer) = (Llama2c::parse(&std::fs::read(&path).unwrap()), stories_tokenizer(&path));
    let text = std::fs::read_to_string(path.with_file_name("tinystories_gpt4_a.txt")).unwrap();
    for story in text.split("<|endoftext|>").take(5) {
        assert_eq!(tokenizer.encode(story), llama2c.encode(story));
    }
}

/// Tokens that can be split in many ways, with equal scores among them: the order of merges matters most
/// here.
#[test]
fn overlapping_merges_and_equal_scores_are_as_in_llama2c() {
    let tokens = [" ", "a", "b", "aa", "ab", "ba", "aba", "aab", "abab", " a", " ab", "bab", "aaaa"];
    let scores = [-1.0, -1.0, -1.0, -5.0, -4.0, -4.0, -3.0, -3.0, -3.0, -9.0, -2.0, -3.0, -1e10];
    let mut vocab: Vec<(Vec<u8>, f32)> =
        ["<unk>", "\n<s>\n", "\n</s>\n"].map(|t| (t.as_bytes().to_vec(), 0.0)).into();
    vocab.extend((0..=255).map(|b| (format!("<0x{b:02X}>").into_bytes(), 0.0)));
    vocab.extend(tokens.iter().zip(scores).map(|(t, s)| (t.as_bytes().to_vec(), s)));
    let mut file = 7i32.to_le_bytes().to_vec();
    for (text, score) in &vocab {
        file.extend(score.to_le_bytes());
        file.extend((text.len() as i32).to_le_bytes());
        file.extend(text);
    }
    // The smallest checkpoint with such a vocabulary: one layer, one head, width 2.
    let vocab_size = vocab.len() as i32;
    let mut checkpoint: Vec<u8> =
        [2, 1, 1, 1, 1, vocab_size, 1].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    let floats = vocab.len() * 2 + (2 + 4 * 4 + 2 + 3 * 2) + 2 + 2;
    checkpoint.resize(checkpoint.len() + 4 * floats, 0);

    let dir = tempfile::tempdir().unwrap();
    let (c, t) = (dir.path().join("c"), dir.path().join("t"));
    std::fs::write(&c, checkpoint).unwrap();
    std::fs::write(&t, file).unwrap();
    let (_, tokenizer) = pageformer_import::llama2c(&c, &t).unwrap();
    check(&Llama2c { vocab: vocab.clone() }, &tokenizer, 200);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let llama2c = Llama2c { vocab };
    runner
        .run(&"[ab ]{0,24}", |text| {
            prop_assert_eq!(tokenizer.encode(&text), llama2c.encode(&text));
            Ok(())
        })
        .unwrap();
}
