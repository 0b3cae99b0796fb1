//! Right, text included: the device's tokenizer, which looks everything up on the card, does what the PC's does.

use std::cell::{Cell, RefCell};

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_engine::{Error, Request, kernels};
use pageformer_model::{Kind, Tokenizer};
use pageformer_sim::MemoryCard;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::*;

/// The smallest model that has this vocabulary.
fn card(tokenizer: &Tokenizer) -> MemoryCard {
    let shape = Shape {
        n_layers: 1,
        d_model: 4,
        d_ff: 4,
        head_dim: 2,
        vocab: tokenizer.vocab_size(),
        ..shape(Norm::Rms, Mlp::Gelu, [1, 1])
    };
    memory_card(&random_model(shape, 1), tokenizer)
}

/// Every tokenizer that a card can have.
fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    let mut all = vec![
        ("ASCII", Tokenizer::ascii()),
        ("bytes", Tokenizer::bytes()),
        ("byte-level BPE by words", byte_level(333, false)),
        ("byte-level BPE", byte_level(333, true)),
        ("SentencePiece by words", sentencepiece(400, false, true)),
        ("SentencePiece", sentencepiece(400, true, true)),
        ("SentencePiece without a prefix", sentencepiece(360, false, false)),
    ];
    all.extend(stories().map(|(_, tokenizer)| ("tok512", tokenizer)));
    all
}

/// Texts: of the words that the vocabularies know, of any characters, of many spaces, and mixtures.
fn texts() -> impl Strategy<Value = String> {
    let words: Vec<&str> = TEXT.split_inclusive(' ').collect();
    let part = prop_oneof![
        4 => proptest::sample::select(words).prop_map(str::to_string),
        2 => "[a-z]{1,12}",
        2 => any::<char>().prop_map(String::from),
        1 => " {1,9}",
        1 => "[ \n\t]{0,4}",
        1 => "\\PC{0,6}",
        1 => "(the ?){0,5}",
    ];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// The most symbols that a stretch without a break has before merging.
fn longest_word(tokenizer: &Tokenizer, text: &str) -> usize {
    let first_symbols = |c: char| match tokenizer.char_id(c) {
        Some(_) => 1,
        None => c.len_utf8(),
    };
    let spaced = if tokenizer.dummy_prefix() && !text.is_empty() { format!(" {text}") } else { text.into() };
    let (mut longest, mut now) = (0, 0);
    for c in spaced.chars() {
        if c == ' ' && !tokenizer.space_inside() {
            now = 0;
        }
        now += first_symbols(c);
        longest = longest.max(now);
    }
    longest
}

#[test]
fn encodes_as_the_pc_does() {
    for (name, tokenizer) in tokenizers() {
        let card = card(&tokenizer);
        let ram = least_ram(&needs(card.clone()), &Request::default());
        let mut memory = memory(ram);
        let session = RefCell::new(session(card, &mut memory, &Request::default(), kernels::best()).unwrap());
        let fitting = Cell::new(0);
        let config = Config { failure_persistence: None, ..Config::with_cases(256) };
        let outcome = TestRunner::new(config).run(&texts(), |text| {
            let mut device = Vec::new();
            let encoded = session.borrow_mut().encode(&text, &mut |token| {
                device.push(u32::from(token));
                Ok(())
            });
            match encoded {
                Ok(()) => {
                    fitting.set(fitting.get() + 1);
                    prop_assert_eq!(device, tokenizer.encode(&text));
                }
                // The longest word fills the memory of the logits, 8 bytes a symbol.
                Err(Error::Word { most }) => {
                    prop_assert!(most >= tokenizer.vocab_size() as usize / 2);
                    prop_assert!(longest_word(&tokenizer, &text) > most);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("{name}: {e}");
        }
        assert!(fitting.get() > 150, "{name}: hardly any text fits");
    }
}

#[test]
fn decodes_as_the_pc_does() {
    for (name, tokenizer) in tokenizers() {
        let card = card(&tokenizer);
        let needs = needs(card.clone());
        let mut memory = memory(least_ram(&needs, &Request::default()));
        let mut session = session(card, &mut memory, &Request::default(), kernels::best()).unwrap();
        let vram = session.engine_mut().vram_mut();
        let device =
            pageformer_engine::Tokenizer::open(vram, needs.tokenizer_pages, needs.shape.vocab).unwrap();
        for id in 0..tokenizer.vocab_size() {
            let mut piece = Vec::new();
            device.decode(vram, id as u16, &mut |bytes| piece.extend_from_slice(bytes)).unwrap();
            assert_eq!(piece, tokenizer.piece(id), "{name}: token {id}");
        }
        let beyond = tokenizer.vocab_size() as u16;
        assert_eq!(device.decode(vram, beyond, &mut |_| {}), Err(Error::Token(beyond)), "{name}");
    }
}

#[test]
fn golden_cases_encode() {
    let (Some((model, tokenizer)), Some(golden)) = (stories(), golden()) else { return };
    let mut memory = memory(64 << 10);
    let request = Request { context: Some(64), ..Request::default() };
    let mut session =
        session(memory_card(&model, &tokenizer), &mut memory, &request, kernels::best()).unwrap();
    let cases = golden["encode_with_bos"].as_object().unwrap();
    assert!(cases.len() > 3);
    for (text, want) in cases {
        let mut ids = vec![model.bos.unwrap()];
        session
            .encode(text, &mut |token| {
                ids.push(u32::from(token));
                Ok(())
            })
            .unwrap();
        let want: Vec<u32> = want.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(ids, want, "{text:?}");
    }
}

#[test]
fn the_vocabularies_are_the_kinds_that_they_say() {
    let kinds: Vec<Kind> = tokenizers().iter().map(|(_, tokenizer)| tokenizer.kind()).collect();
    for kind in [Kind::Ascii, Kind::Bytes, Kind::ByteLevel, Kind::SentencePiece] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
    assert!(!byte_level(333, false).space_inside() && byte_level(333, true).space_inside());
    assert!(!sentencepiece(400, false, true).space_inside() && sentencepiece(400, true, true).space_inside());
}
