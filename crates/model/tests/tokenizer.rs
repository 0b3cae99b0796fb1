//! Tokenizers: against the definition (merge the best pair of the whole text until there is none), and as
//! files.

use pageformer_model::{Error, Kind, Merge, Token, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A byte-level BPE over the bytes and these texts, each merged from any two tokens that make it, in order of
/// the list.
fn byte_level(texts: &[&str]) -> Tokenizer {
    let mut tokens: Vec<Token> = (0..=255).map(|b| Token::Text(vec![b])).collect();
    tokens.extend(texts.iter().map(|t| Token::Text(t.as_bytes().to_vec())));
    tokens.push(Token::Control("<|endoftext|>".into()));
    let merges = merges(&tokens);
    Tokenizer::byte_level(tokens, merges).unwrap()
}

fn sentencepiece(texts: &[&str], dummy_prefix: bool) -> Tokenizer {
    let mut tokens = vec![Token::Control("<unk>".into()), Token::Control("<s>".into())];
    tokens.extend((0..=255).map(Token::Byte));
    tokens.extend(texts.iter().map(|t| Token::Text(t.as_bytes().to_vec())));
    let merges = merges(&tokens);
    Tokenizer::sentencepiece(tokens, merges, dummy_prefix).unwrap()
}

fn merges(tokens: &[Token]) -> Vec<Merge> {
    let find = |text: &[u8]| {
        let id = tokens.iter().position(|t| matches!(t, Token::Text(t) if t == text));
        id.map(|id| id as u32)
    };
    let mut merges = Vec::new();
    for (merged, token) in tokens.iter().enumerate() {
        let Token::Text(text) = token else { continue };
        for at in 1..text.len() {
            if let (Some(left), Some(right)) = (find(&text[..at]), find(&text[at..])) {
                merges.push(Merge { left, right, merged: merged as u32, rank: merges.len() as u32 });
            }
        }
    }
    merges
}

/// Byte pair encoding by definition.
fn merge_by_definition(tokenizer: &Tokenizer, mut ids: Vec<u32>) -> Vec<u32> {
    loop {
        let pair = |m: &Merge| ids.windows(2).position(|w| w == [m.left, m.right]);
        let best = tokenizer.merges().iter().filter_map(|m| Some((m.rank, pair(m)?, m.merged))).min();
        let Some((_, at, merged)) = best else { return ids };
        ids.splice(at..at + 2, [merged]);
    }
}

const TEXTS: [&str; 12] = ["ab", "ba", "aa", "aab", " a", "abab", "é", "bé", "  ", " ab a", "a b", "bab"];

proptest! {
    #[test]
    fn byte_level_is_by_definition(text in "[ab é\\PC]{0,40}") {
        let tokenizer = byte_level(&TEXTS);
        let ids = tokenizer.encode(&text);
        prop_assert_eq!(&ids, &merge_by_definition(&tokenizer, text.bytes().map(u32::from).collect()));
        prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }

    #[test]
    fn text_survives_every_tokenizer(text in "\\PC{0,20}|[ ab\u{2581}<s>\n]{0,20}") {
        let sentencepiece = |prefix| sentencepiece(&[" ", "a", "b", "ab", " a"], prefix);
        for tokenizer in [byte_level(&TEXTS), Tokenizer::bytes(), sentencepiece(true), sentencepiece(false)] {
            let ids = tokenizer.encode(&text);
            prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
            let control = |&id: &u32| matches!(tokenizer.tokens()[id as usize], Token::Control(_));
            prop_assert!(!ids.iter().any(control));
        }
    }

    #[test]
    fn ascii_takes_other_characters_for_question_marks(text in "\\PC{0,20}") {
        let ids = Tokenizer::ascii().encode(&text);
        let expected: Vec<u32> = text.chars().map(|c| if c.is_ascii() { c as u32 } else { 63 }).collect();
        prop_assert_eq!(ids, expected);
    }

    #[test]
    fn anything_as_a_file_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Tokenizer::from_json(&bytes);
    }
}

#[test]
fn the_dummy_prefix_is_put_before_a_text_and_taken_away_again() {
    let tokenizer = sentencepiece(&[" ", "a", " a"], true);
    let [space, a, space_a] = [258, 259, 260];
    assert_eq!(tokenizer.encode("a a"), [space_a, space_a]);
    assert_eq!(tokenizer.encode(" a"), [space, space_a]);
    assert!(tokenizer.encode("").is_empty());
    assert_eq!(tokenizer.decode(&[space_a, space_a]), b"a a");
    // After BOS as well, and after a further one; not elsewhere.
    assert_eq!(tokenizer.decode(&[1, space_a, space_a, 1, space_a]), b"a aa");
    assert_eq!(tokenizer.decode(&[a, space_a]), b"a a");
    assert_eq!(tokenizer.piece(space_a), b" a");
    let without = sentencepiece(&[" ", "a", " a"], false);
    assert_eq!(without.encode("a a"), [a, space_a]);
    assert_eq!(without.decode(&[space_a]), b" a");
}

#[test]
fn pieces_are_bytes_and_controls_print_nothing() {
    let tokenizer = sentencepiece(&[" ", "a"], true);
    assert_eq!(tokenizer.piece(2 + 10), b"\n");
    assert_eq!(tokenizer.encode("\n")[1..], [12]);
    assert_eq!([tokenizer.piece(0), tokenizer.piece(1), tokenizer.piece(99_999)], [b""; 3]);
    assert_eq!(tokenizer.chars(), [(' ', 258), ('a', 259)]);
    assert!(!sentencepiece(&[" ", "a", " a"], true).space_inside());
    assert!(sentencepiece(&[" ", "a", "a "], true).space_inside());
    assert!(byte_level(&["  "]).space_inside());
}

#[test]
fn every_kind_survives_the_file() {
    let every = [
        Tokenizer::ascii(),
        Tokenizer::bytes(),
        byte_level(&TEXTS),
        sentencepiece(&[" ", "a", "b", " a", "é", " é", "<x>"], true),
        sentencepiece(&[" ", "a"], false),
    ];
    for tokenizer in every {
        let again = Tokenizer::from_json(tokenizer.to_json(Some(1)).as_bytes()).unwrap();
        assert_eq!(again, tokenizer);
        assert_eq!(again.kind(), tokenizer.kind());
    }
}

#[test]
fn equal_ranks_survive_the_file() {
    let [a, b] = [259, 260];
    let merges =
        [(a, a, 261), (b, b, 262)].map(|(left, right, merged)| Merge { left, right, merged, rank: 7 });
    let mut tokens = vec![Token::Control("<unk>".into()), Token::Control("<s>".into())];
    tokens.extend((0..=255).map(Token::Byte));
    tokens.extend([" ", "a", "b", "aa", "bb"].map(|t| Token::Text(t.into())));
    let tokenizer = Tokenizer::sentencepiece(tokens, merges.to_vec(), true).unwrap();
    let again = Tokenizer::from_json(tokenizer.to_json(None).as_bytes()).unwrap();
    assert_eq!(again.merges(), merges);
}

/// Half a file as Hugging Face's library writes it for GPT-2's kind, with merges in the newer form.
fn hugging_face() -> Value {
    let mut file: Value = serde_json::from_str(&byte_level(&["ab", " ab"]).to_json(None)).unwrap();
    file["model"]["merges"] = json!([["a", "b"], ["\u{120}", "ab"]]);
    file["decoder"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    file["post_processor"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    file
}

#[test]
fn newer_files_are_read() {
    let mut file = hugging_face();
    // A key that came later.
    file["model"].as_object_mut().unwrap().shift_remove("ignore_merges");
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.kind(), Kind::ByteLevel);
    assert_eq!(tokenizer.encode("ab ab\n"), [256, 257, 10]);
    assert_eq!(tokenizer.tokens()[258], Token::Control("<|endoftext|>".into()));
    // GPT-2's stand-ins: a space is U+0120, a newline U+010A, 0xAD the last of them.
    let vocab = &file["model"]["vocab"];
    assert_eq!([&vocab["\u{120}"], &vocab["\u{10A}"], &vocab["\u{143}"], &vocab["~"]], [32, 10, 0xAD, 126]);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let cases: [(&str, Value, &str); 16] = [
        ("/model/type", json!("WordPiece"), "model type \"WordPiece\" is not supported"),
        ("/model/dropout", json!(0.1), "`dropout`"),
        ("/model/ignore_merges", json!(true), "`ignore_merges`"),
        ("/model/end_of_word_suffix", json!("</w>"), "`end_of_word_suffix`"),
        ("/pre_tokenizer/use_regex", json!(true), "pre-tokenizer"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "pre-tokenizer"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "pre-tokenizer"),
        ("/pre_tokenizer", json!("ByteLevel"), "pre-tokenizer"),
        ("/pre_tokenizer", json!(null), "neither normalizer nor pre-tokenizer"),
        ("/normalizer", json!({"type": "NFC"}), "normalizer"),
        ("/decoder", json!({"type": "WordPiece"}), "decoder"),
        ("/added_tokens/0/special", json!(false), "`<|endoftext|>` is not `special`"),
        ("/added_tokens/0/id", json!(300), "none has the id 258"),
        ("/model/merges/0", json!(["a", "xyz"]), "`xyz` is not in the vocabulary"),
        ("/model/merges/0", json!("ab"), "merge 0 is not two tokens"),
        ("/model/vocab/a", json!(1), "have the same id 1"),
    ];
    for (place, value, expected) in cases {
        let mut file = hugging_face();
        // The vocabulary names the control token as well; only `added_tokens` need to.
        file["model"]["vocab"].as_object_mut().unwrap().shift_remove("<|endoftext|>");
        *file.pointer_mut(place).unwrap() = value.clone();
        let error = Tokenizer::from_json(file.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{place} = {value}: {error}");
    }
}

#[test]
fn vocabularies_that_cannot_work_are_refused() {
    let bytes = || (0..=255).map(Token::Byte).collect::<Vec<_>>();
    let text = |t: &str| Token::Text(t.as_bytes().to_vec());
    let merge = |left, right, merged| Merge { left, right, merged, rank: 0 };
    let refused = |tokens: Vec<Token>, merges: Vec<Merge>, expected: &str| {
        let error = Tokenizer::sentencepiece(tokens, merges, true).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains(expected), "{error}");
    };
    let with = |more: &[Token]| [bytes(), more.to_vec()].concat();
    refused(bytes()[1..].to_vec(), vec![], "no token for byte 0x00");
    refused(with(&[text("a"), text("a")]), vec![], "tokens 256 and 257 are the same");
    refused(with(&[Token::Byte(0)]), vec![], "tokens 0 and 256 are the same");
    refused(with(&[text("<s>"), Token::Control("<s>".into())]), vec![], "are the same");
    refused(with(&[text("")]), vec![], "token 256 is empty");
    refused(with(&[text("\u{2581}a")]), vec![], "stands for a space");
    refused(with(&[Token::Text(vec![0xFF])]), vec![], "not UTF-8");
    refused(
        with(&[text("a"), text("b")]),
        vec![merge(256, 256, 257)],
        "256 and 256 joined are not token 257",
    );
    refused(with(&[text("a")]), vec![merge(256, 0, 256)], "token 0 is not text");
    refused(with(&[text("a")]), vec![merge(256, 256, 999)], "token 999 is not text");
    refused(with(&[text("a"), text("aa")]), vec![merge(256, 256, 257); 2], "two merges");
    let too_many = (0..65_536).map(|i| text(&i.to_string())).collect::<Vec<_>>();
    refused(with(&too_many), vec![], "at most 65536");
}
