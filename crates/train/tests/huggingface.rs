//! A trained tokenizer's file, read by Hugging Face's `tokenizers`: `huggingface.json` is what that made of it, written by
//! `huggingface.py`.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;

use pageformer_model::Tokenizer;
use pageformer_train::{Layout, Recipe, tokenizer::train_bpe};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn other_tools_read_the_same_tokens() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::env::var_os("HUGGINGFACE_JSON").map_or(here.join("tests/huggingface.json"), Into::into);
    let golden: Value = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    let strings: Vec<&str> =
        golden["strings"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert!(strings.len() >= 100);
    let text = fs::read_to_string(here.join("../../corpora/chat/common.txt")).unwrap();
    let bpe = train_bpe(&[text.trim()], 600).unwrap();
    for (kind, tokenizer) in [("ascii", Tokenizer::ascii()), ("bytes", Tokenizer::bytes()), ("bpe", bpe)] {
        let theirs = &golden["kinds"][kind];
        // It is this file that they read.
        let dir = tempfile::tempdir().unwrap();
        let shape = Recipe::preset("sketch").unwrap().shape(tokenizer.vocab_size()).unwrap();
        let layout = Layout::new(shape).unwrap();
        let mut model = layout.model(&layout.initial_weights(1)).unwrap();
        // What begins a text, if the vocabulary has such a token: theirs adds it, too.
        model.bos = (kind == "bpe").then_some(0);
        model.eos = model.bos.into_iter().collect();
        model.save(&tokenizer, dir.path()).unwrap();
        let file = fs::read(dir.path().join("tokenizer.json")).unwrap();
        assert_eq!(
            crc(&file),
            theirs["crc32"].as_u64().unwrap(),
            "{kind}: tokenizer.json has changed; run huggingface.py"
        );
        assert_eq!(theirs["vocab"].as_u64().unwrap(), u64::from(tokenizer.vocab_size()));

        assert_eq!(ids(&theirs["first"]), model.bos.iter().map(|id| u64::from(*id)).collect::<Vec<_>>());

        for (number, string) in strings.iter().enumerate() {
            let ours = tokenizer.encode(string);
            assert_eq!(
                ours.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(),
                ids(&theirs["ids"][number]),
                "{kind}: {string:?}"
            );
            let decoded = String::from_utf8_lossy(&tokenizer.decode(&ours)).into_owned();
            assert_eq!(decoded, theirs["decoded"][number].as_str().unwrap(), "{kind}: {string:?}");
        }
    }
}

/// CRC-32 as zlib computes it, bit by bit.
fn crc(bytes: &[u8]) -> u64 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    u64::from(!bytes.iter().fold(!0u32, step))
}
