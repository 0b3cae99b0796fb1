//! What `--json` prints, for programs.

use std::fs;

use serde_json::Value;

use crate::support::Place;

fn has_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(!object[*key].is_null(), "no {key} in {object:#}");
    }
}

#[test]
fn run_has_its_keys() {
    let place = Place::with_tiny_card();
    let got = place.json("run card --prompt Hi --max-tokens 5 --ram 16K");
    let keys = [
        "text",
        "prompt_tokens",
        "tokens",
        "passes",
        "tokens_per_s",
        "tape_pages",
        "pinned_pages",
        "pages_read",
        "tokens_per_pass",
        "ram_bytes",
        "logits_digest",
    ];
    has_keys(&got, &keys);
    assert_eq!((&got["prompt_tokens"], &got["tokens"]), (&2.into(), &5.into()));
    let parts = got["ram_bytes"].as_object().unwrap();
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(Some(sum), got["ram_total"].as_u64());
    for part in ["kv_cache", "activations", "ring", "pinned_pages", "checksums"] {
        assert!(parts.contains_key(part), "{parts:?}");
    }
    assert_eq!(parts["pinned_pages"].as_u64().unwrap(), got["pinned_pages"].as_u64().unwrap() * 512);
    let digest = got["logits_digest"].as_str().unwrap();
    assert!(digest.len() == 16 && digest.chars().all(|c| c.is_ascii_hexdigit()), "{digest}");
}

#[test]
fn a_prediction_names_its_model() {
    let place = Place::with_tiny_card();
    assert_eq!(place.json("plan card")["model"], "card");
    assert_eq!(place.json("plan")["model"], "default model");
}

#[test]
fn the_digest_tells_prompts_apart_and_nothing_else() {
    let place = Place::with_tiny_card();
    let digest =
        |options: &str| place.json(&format!("run card --max-tokens 5 {options}"))["logits_digest"].clone();
    assert_eq!(digest("--prompt Hi"), digest("--prompt Hi --batch 1 --ram 16K --context 20"));
    assert_ne!(digest("--prompt Hi"), digest("--prompt Ho"));
}

#[test]
fn eval_has_its_keys_for_a_card_and_for_a_model() {
    let place = Place::with_tiny_card();
    fs::write(place.path("text"), "One text.<|endoftext|>And another one, longer.<|endoftext|>").unwrap();
    for model in ["card", "model"] {
        let got = place.json(&format!("eval {model} --text text --separator '<|endoftext|>'"));
        has_keys(&got, &["tokens", "nll_per_token", "bits_per_byte", "perplexity"]);
        // A byte a token, without the first of each text, which nothing predicts.
        assert_eq!((&got["documents"], &got["tokens"]), (&2.into(), &(8 + 23).into()), "{got:#}");
        let one = place.json(&format!("eval {model} --text text --separator '<|endoftext|>' --documents 1"));
        assert_eq!(one["tokens"], 8);
    }
}

#[test]
fn inspect_accounts_for_every_page() {
    let place = Place::with_tiny_card();
    let got = place.json("inspect card");
    let mut next = 0;
    for tensor in got["tensors"].as_array().unwrap() {
        has_keys(tensor, &["name", "shape", "first_page", "pages"]);
        assert_eq!(tensor["first_page"], next, "{tensor}");
        next += tensor["pages"].as_u64().unwrap();
    }
    assert_eq!((&got["tape_pages"], &got["weights_pages"]), (&next.into(), &next.into()));
    assert_eq!(fs::metadata(place.path("card/weights.pages")).unwrap().len(), next * 512);
    assert_eq!(got["tape_bytes"], next * 512);
    for (key, file) in [
        ("checksum_bytes", "pages.crc"),
        ("tokenizer_bytes", "tokenizer.bin"),
        ("index_bytes", "index.json"),
        ("metadata_bytes", "pages.meta"),
    ] {
        assert_eq!(got[key], fs::metadata(place.path("card").join(file)).unwrap().len(), "{key}");
    }
    assert_eq!(got["metadata_writes"], 0);
}

#[test]
fn people_see_the_same_numbers() {
    let place = Place::with_tiny_card();
    let (people, program) = (place.ok("inspect card"), place.json("inspect card"));
    for tensor in program["tensors"].as_array().unwrap() {
        assert!(people.contains(tensor["name"].as_str().unwrap()), "{people}");
    }
    assert!(people.contains(&format!("{} pages", program["tape_pages"])), "{people}");
    let ran = place.run("run card --prompt Hi --max-tokens 5 --ram 16K");
    let program = place.json("run card --prompt Hi --max-tokens 5 --ram 16K");
    assert_eq!(ran.out.trim_end(), program["text"].as_str().unwrap().trim_end(), "the text alone");
    for part in ["5 tokens", "hit rate", "KV cache", "pages read per token"] {
        assert!(ran.err.contains(part), "no {part} in {}", ran.err);
    }
}
