//! Tables of drafts: made, measured, checked, and never believed.

use std::fs;

use crate::support::{Place, data};

const RUN: &str = "--prompt Hi --max-tokens 20 --ram 16K --context 28 --batch 4";

/// A tiny card, what it says, and a table made from exactly that.
fn place() -> (Place, serde_json::Value) {
    let place = Place::with_tiny_card();
    let plain = place.json(&format!("run card {RUN} --speculate off"));
    let said = plain["text"].as_str().unwrap();
    // Several times, since some texts are kept out to measure with.
    fs::write(place.path("said.txt"), format!("Hi{said}<end>").repeat(9)).unwrap();
    let made = place.ok("drafts card --data said.txt --separator <end> --pages 2");
    assert!(made.contains("1024 B") && made.contains("guessed right"), "{made}");
    (place, plain)
}

#[test]
fn a_table_saves_passes_and_changes_nothing_else() {
    let (place, plain) = place();
    assert_eq!((&plain["tokens_per_pass"], &plain["guessed"]), (&1.0.into(), &0.into()));
    assert_eq!(fs::read(place.path("card/drafts.bin")).unwrap().len(), 1024);
    for speculate in ["auto", "3"] {
        let got = place.json(&format!("run card {RUN} --speculate {speculate}"));
        for key in ["text", "logits_digest", "tokens", "stop", "prompt_tokens"] {
            assert_eq!(got[key], plain[key], "{key}");
        }
        assert!(got["passes"].as_u64() <= plain["passes"].as_u64(), "{got:#}");
        // Left to itself, it guesses only where that saves reading.
        assert!(speculate == "auto" || got["tokens_per_pass"].as_f64().unwrap() > 1.5, "{got:#}");
    }
    let line = place.run(&format!("run card {RUN} --speculate 3")).err;
    assert!(line.contains("tokens per pass"), "{line}");
    assert!(place.ok("inspect card").contains("drafts"));
    // An image has it, too.
    place.ok("image card -o card.img");
    let image = place.json(&format!("run card.img {RUN} --speculate 3"));
    assert_eq!(image["text"], plain["text"]);
    assert!(image["tokens_per_pass"].as_f64().unwrap() > 1.5, "{image:#}");
}

/// Tokens a pass with both kinds of guesses, greedy and at a temperature, as `drafts --measure` counts them.
fn per_pass(said: &str) -> [f64; 2] {
    let rows: Vec<f64> = said
        .lines()
        .filter(|line| line.starts_with("both "))
        .map(|line| {
            let numbers: Vec<f64> = line.split_whitespace().skip(2).filter_map(|n| n.parse().ok()).collect();
            numbers[0] / numbers[1]
        })
        .collect();
    rows.try_into().unwrap_or_else(|rows| panic!("{rows:?} of\n{said}"))
}

/// Held-out chats, a good fifth of them, in the RAM of a board with 64 KB.
#[test]
fn the_default_model_says_several_tokens_a_pass() {
    let chats = concat!(env!("CARGO_MANIFEST_DIR"), "/../../corpora/chat/heldout.jsonl");
    let said = Place::new().ok(&format!("drafts --measure '{chats}' --ram 48K --documents 400"));
    assert!(per_pass(&said).iter().all(|tokens| *tokens >= 1.8), "{said}");
}

/// A table from other stories; without one, `plan` and `export` say what is missing.
#[test]
fn stories_are_told_in_fewer_passes() {
    let (Some(place), Some(stories)) = (Place::with_stories(), data("tinystories_gpt4_a.txt")) else {
        return;
    };
    let exported = place.ok("export model -o card");
    assert!(exported.contains("tip: `pageformer drafts card --data"), "{exported}");
    const END: &str = "<|endoftext|>";
    let stories = fs::read_to_string(stories).unwrap();
    let stories: Vec<&str> = stories.split(END).collect();
    let (told, others) = stories.split_at(100);
    fs::write(place.path("told.txt"), told.join(END)).unwrap();
    fs::write(place.path("others.txt"), others.join(END)).unwrap();
    let plan = "plan card --board esp32s3 --sd spi-20 --context 128";
    let before = place.ok(plan);
    assert!(before.contains("tip: this card has no table") && before.contains("drafts card"), "{before}");
    // Into an image, none is put.
    place.ok("image card -o card.img");
    assert!(!place.ok(&plan.replace("card ", "card.img ")).contains("tip:"));
    let measured =
        "drafts card --measure told.txt --separator <|endoftext|> --ram 96K --context 128 --documents 1";
    assert!(place.ok(measured).contains("the card has no table"));
    // A file is one text, unless it is said what stands between texts.
    let one = place.ok("drafts card --data others.txt");
    assert!(one.contains("warning: hardly anything") && one.contains("--separator"), "{one}");
    let made = place.ok(&format!("drafts card --data others.txt --separator {END}"));
    assert!(!made.contains("warning:"), "{made}");
    let after = place.ok(plan);
    assert!(!after.contains("tip:"), "{after}");
    let said = place.ok(&format!(
        "drafts card --measure told.txt --separator {END} --ram 96K --context 128 --documents 10"
    ));
    assert!(per_pass(&said).iter().all(|tokens| *tokens >= 1.7), "{said}");
}

#[test]
fn export_makes_one_from_texts() {
    let (place, _) = place();
    let exported = place.ok("export model -o other --drafts said.txt --separator <end>");
    assert!(!exported.contains("tip:"), "{exported}");
    assert_eq!(fs::read(place.path("other/drafts.bin")).unwrap().len(), 16 * 512);
    let mut without = vec![];
    for file in ["index.json", "pages.crc", "tokenizer.bin", "weights.pages"] {
        let bytes = |card: &str| fs::read(place.path(card).join(file)).unwrap();
        assert!(file == "index.json" || bytes("other") == bytes("card"), "{file} is as without");
        without.push(bytes("card"));
    }
    // The same texts give the same table.
    let first = fs::read(place.path("other/drafts.bin")).unwrap();
    place.ok("drafts other --data said.txt --separator <end>");
    assert_eq!(fs::read(place.path("other/drafts.bin")).unwrap(), first);
}

#[test]
fn a_damaged_table_is_named_and_not_used() {
    let (place, plain) = place();
    let good = place.ok("verify card");
    assert!(good.contains("good"), "{good}");
    let path = place.path("card/drafts.bin");
    let sound = fs::read(&path).unwrap();
    for (bytes, problem) in [
        (
            [&sound[..100], &[sound[100] ^ 1], &sound[101..]].concat(),
            "drafts.bin, page 0: the checksum is wrong",
        ),
        (sound[..700].to_vec(), "drafts.bin: 700 bytes are not whole pages"),
    ] {
        fs::write(&path, bytes).unwrap();
        let bad = place.run("verify card");
        assert_eq!(bad.code, Some(1));
        assert!(bad.out.contains(problem), "{}", bad.out);
        let got = place.json(&format!("run card {RUN}"));
        assert_eq!(got["logits_digest"], plain["logits_digest"]);
    }
    fs::write(&path, [&sound[..100], &[sound[100] ^ 1], &sound[101..]].concat()).unwrap();
    let said = place.run(&format!("run card {RUN}")).err;
    assert!(said.contains("nothing is guessed from the card's table: page 0 of drafts.bin"), "{said}");
}

#[test]
fn measuring_says_what_each_source_saves() {
    let (place, _) = place();
    let table =
        place.ok("drafts card --measure said.txt --separator <end> --ram 16K --context 28 --documents 3");
    for (row, of) in [("none", 2), ("text so far", 2), ("table", 2), ("both", 2)] {
        assert_eq!(table.lines().filter(|line| line.starts_with(row)).count(), of, "{row}: {table}");
    }
    let none = table.lines().find(|line| line.starts_with("none")).unwrap();
    assert!(none.contains("1.00"), "{table}");
}

#[test]
fn mistakes_say_what_to_do() {
    let place = Place::with_tiny_card();
    fs::write(place.path("a.txt"), "Hi").unwrap();
    place.ok("image card -o card.img");
    place.fails_with(
        "drafts card.img --data a.txt",
        &["card.img", "the folder of a card", "pageformer image"],
    );
    place.fails_with("drafts --data a.txt", &["default model", "the folder of a card", "drafts card/"]);
    place.fails_with("drafts nowhere --data a.txt", &["nowhere", "pageformer export"]);
    for command in ["drafts card", "drafts"] {
        let error = place.usage(command);
        assert!(error.contains("--data") && error.contains("--measure"), "{error}");
    }
    // What is no chat for a model that chats, chats for one that does not, and a folder.
    place.fails_with("drafts --measure a.txt", &["a.txt:1", "this model chats", "blank line"]);
    fs::write(place.path("chats.jsonl"), "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n")
        .unwrap();
    place.fails_with("drafts card --data chats.jsonl", &["chats.jsonl", "not trained to chat"]);
    place.fails_with("drafts card --data card", &["card: a folder; name the files in it"]);
    let error = place.fails("drafts card --data b.txt");
    assert!(error.contains("b.txt"), "{error}");
    for wrong in [
        "drafts card --data a.txt --measure a.txt",
        "drafts card --data a.txt --pages 0",
        "run card --speculate 32",
        "run card --speculate x",
    ] {
        place.usage(wrong);
    }
}
