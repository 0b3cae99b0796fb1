//! `index.json` that says something else: each key missing, each with values that it cannot have, any garbage. The
//! checksums are right, so that nothing but the reader's own checks stands before the engine.

use pageformer_engine::{Error, Request};
use pageformer_sim::MemoryCard;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::*;

fn card() -> MemoryCard {
    let (mut model, tokenizer) = random(two_kinds()[0], 4);
    model.chat = Some(pageformer_model::ChatTemplate { user: "Q: {}\nA:".into(), stop: "\n".into() });
    memory_card(&model, &tokenizer)
}

/// What the card says with this `index.json`.
fn with_index(card: &MemoryCard, index: &[u8]) -> Result<Said, Error> {
    let mut card = MemoryCard { index: index.to_vec(), ..card.clone() };
    reseal(&mut card);
    run(card, 256 << 10, &Request { context: Some(16), ..Request::default() }, "the", 2)
}

fn index(card: &MemoryCard) -> Value {
    serde_json::from_slice(&card.index).unwrap()
}

/// The paths of every value: `n_layers`, `tensors/dec0_Wq`, ….
fn paths(index: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in index.as_object().unwrap() {
        all.push(format!("/{key}"));
        let inner = value.as_object().into_iter().flatten();
        all.extend(inner.map(|(inner, _)| format!("/{key}/{inner}")));
    }
    all
}

fn remove(index: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('/').unwrap();
    index.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
}

/// Whether an error's message names the key.
fn names(message: &str, path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|key| message.contains(key))
}

#[test]
fn each_missing_key_is_named() {
    let card = card();
    let sound = index(&card);
    let right = with_index(&card, &card.index).unwrap();
    let optional =
        ["/name", "/source", "/tokenizer/bos", "/tokenizer/eos", "/chat", "/chat/user", "/chat/stop"];
    for path in paths(&sound) {
        let mut index = sound.clone();
        remove(&mut index, &path);
        let result = with_index(&card, index.to_string().as_bytes());
        match result {
            Ok(said) => {
                assert!(optional.contains(&&path[..]), "{path} can be left out");
                assert!(path.starts_with("/tokenizer") || said == right, "{path} changes what is said");
            }
            Err(error) => {
                assert!(!optional.contains(&&path[..]), "{path}: {error}");
                assert!(names(&error.to_string(), &path), "{path} is missing: {error}");
            }
        }
    }
}

/// Values that are as good as the ones that were there, whatever the card then says.
fn is_possible(path: &str, value: &Value) -> bool {
    match path {
        // What these are not needed for is not asked of them.
        "/name" | "/source" => value.is_string() || value.is_array() || value.is_object(),
        "/chat" => value.is_array() || value == &json!({}),
        "/chat/stop" => value.is_string(),
        "/eps" => value.as_f64().is_some_and(|x| (0.0..1e30).contains(&x)),
        "/theta" => value.as_f64().is_some_and(|x| (1.0..1e30).contains(&x)),
        "/density" => value == &json!(0),
        "/final_norm" => value == &json!(true),
        "/tokenizer/bos" => value == &json!(0) || value.is_null(),
        "/tokenizer/eos" => value == &json!([]),
        _ => false,
    }
}

#[test]
fn each_impossible_value_is_named() {
    let card = card();
    let sound = index(&card);
    let absurd = [
        json!(0),
        json!(-1),
        json!(65_537),
        json!(4_294_967_295u32),
        json!(4_294_967_296u64),
        json!(1.5),
        json!(1e300),
        json!("7"),
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([1, [2, {"a": 3}]]),
        json!({"b": {"c": [4]}}),
    ];
    for path in paths(&sound) {
        for value in &absurd {
            let mut index = sound.clone();
            *index.pointer_mut(&path).unwrap() = value.clone();
            match with_index(&card, index.to_string().as_bytes()) {
                Ok(_) => assert!(is_possible(&path, value), "{path} cannot be {value}"),
                Err(error) => {
                    assert!(!is_possible(&path, value), "{path} can be {value}: {error}");
                    let message = error.to_string();
                    let named = names(&message, &path)
                        // The object that it is in, or a tensor that there is not any more.
                        || path.split('/').nth(1).is_some_and(|object| message.contains(object))
                        || message.contains("head_weight");
                    assert!(named, "{path} is {value}: {message}");
                }
            }
        }
    }
}

/// Too long a text, and numbers that are only just too large for their type.
#[test]
fn long_texts_and_large_numbers_are_errors() {
    let card = card();
    let sound = index(&card);
    let long = "x".repeat(300);
    for path in ["/name", "/source", "/layout", "/chat/user", "/chat/stop", "/n_layers"] {
        let mut index = sound.clone();
        *index.pointer_mut(path).unwrap() = json!(long);
        with_index(&card, index.to_string().as_bytes()).unwrap_err();
    }
    for digits in [
        "65536",
        "4294967296",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
        "1e-400",
        "-0",
    ] {
        let text = String::from_utf8(card.index.clone()).unwrap();
        let text = text.replace("\"d_model\": 20", &format!("\"d_model\": {digits}"));
        with_index(&card, text.as_bytes()).unwrap_err();
    }
}

#[test]
fn unknown_keys_are_ignored() {
    let card = card();
    let right = with_index(&card, &card.index).unwrap();
    let unknown = [
        json!(1),
        json!("text"),
        json!(null),
        json!([1, [2, {"n_layers": 7}]]),
        json!({"tensors": {"dec0_Wq": 1}}),
    ];
    for value in unknown {
        for at in ["", "/tokenizer", "/chat"] {
            let mut index = index(&card);
            let object = index.pointer_mut(at).unwrap().as_object_mut().unwrap();
            // The first key of all and the last.
            object.insert("zzz".into(), value.clone());
            object.insert("a_key_that_is_longer_than_any_that_the_format_has".into(), value.clone());
            let said = with_index(&card, index.to_string().as_bytes());
            match at.is_empty() || !(value.is_object() || value.is_array()) {
                true => assert_eq!(said.unwrap(), right, "{at} {value}"),
                // Known objects have no objects within.
                false => assert!(said.unwrap_err().to_string().contains(&at[1..])),
            }
        }
    }
}

#[test]
fn another_programs_index_is_not_ours() {
    let card = card();
    for (index, key) in [
        (json!({"emb_weight": ["emb_weight_0000.bin"], "emb_weight_shape": [128, 64]}), "format"),
        (json!({"format": "onnx"}), "format"),
        (json!({"format": "pageformer", "version": 2}), "version"),
        (json!({}), "format"),
    ] {
        let error = with_index(&card, index.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(key), "{index}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Any few bytes changed, removed or repeated.
    #[test]
    fn a_garbled_index_does_no_harm(
        edits in proptest::collection::vec((any::<u32>(), 0usize..20, "[0-9a-z\"{},:. \\[\\]\\\\-]{0,6}"), 1..4)
    ) {
        thread_local!(static CARD: MemoryCard = card());
        CARD.with(|card| {
            let mut index = card.index.clone();
            for (at, remove, insert) in &edits {
                let at = *at as usize % index.len();
                let end = (at + remove).min(index.len());
                index.splice(at..end, insert.bytes());
            }
            let _ = with_index(card, &index);
        });
    }
}
