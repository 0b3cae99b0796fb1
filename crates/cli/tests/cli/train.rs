//! From a text of one's own to a model, and to a smaller one.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::Place;

/// A model that trains in a moment.
const TINY: &str =
    "--preset sketch --layers 1 --d-model 16 --d-ff 24 --heads 2 --context 32 --batch-tokens 128";

/// A folder with a text.
fn with_text() -> Place {
    let place = Place::new();
    let lines: Vec<String> = (0..200).map(|n| format!("{n} cats sat on {} mats.", n * 7 % 10)).collect();
    fs::write(place.path("text.txt"), lines.join("\n")).unwrap();
    place
}

/// The same with a dense model of it.
fn with_model() -> Place {
    let place = with_text();
    place.ok(&format!("train --data text.txt -o dense {TINY} --steps 30"));
    place
}

fn weights(place: &Place, model: &str) -> Vec<u8> {
    fs::read(place.path(model).join("model.safetensors")).unwrap()
}

#[test]
fn what_cannot_be_kept_is_not_trained() {
    let place = with_text();
    place.fails_with(
        &format!("train --data text.txt -o text.txt {TINY} --steps 30"),
        &["text.txt", "no folder", "-o"],
    );
    place.fails_with(&format!("train --data text.txt -o text.txt/model {TINY} --steps 30"), &["text.txt"]);
    // Folders on the way are made.
    place.ok(&format!("train --data text.txt -o some/where/model {TINY} --steps 3"));
}

#[test]
fn a_text_becomes_a_model_that_speaks() {
    let place = with_text();
    let ran = place.run(&format!("train --data text.txt -o model {TINY} --steps 40"));
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    // Of a single text, too, something is held out to measure on.
    for part in ["loss", "held out", "tokens/s"] {
        assert!(ran.err.contains(part), "no {part} in {ran:#?}");
    }
    assert!(ran.out.contains("nats per token of what was held out"), "{ran:#?}");
    let svg = fs::read_to_string(place.path("model/loss.svg")).unwrap();
    assert!(svg.contains("held out") && svg.contains("<polyline"));
    assert!(!place.path("model.checkpoint").exists());
    place.ok("export model -o card");
    place.ok("verify card");
    assert_eq!(place.json("run card --prompt '4 cats' --max-tokens 8")["tokens"], 8);

    // The recipe that lies beside it makes the same model, from anywhere, with any number of threads.
    fs::create_dir(place.path("else")).unwrap();
    place.ok("train --recipe model/recipe.toml -o else/model --threads 3");
    assert_eq!(weights(&place, "else/model"), weights(&place, "model"));
    place.ok("train --recipe model/recipe.toml -o other --seed 2");
    assert_ne!(weights(&place, "other"), weights(&place, "model"));
}

#[test]
fn chats_are_trained_as_chats() {
    let place = Place::new();
    fs::write(place.path("chat.txt"), "hi\nHello!\nwho are you\nA model.\n\nbye\nSee you!\n".repeat(8))
        .unwrap();
    let line = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Hello!"}]}"#;
    fs::write(place.path("chat.jsonl"), format!("{line}\n").repeat(20)).unwrap();
    for data in ["chat.txt", "chat.jsonl"] {
        place.ok(&format!(
            "train --data {data} -o model --force --preset chat --layers 1 --d-model 16 --d-ff 24 --heads 2 --context 96 \
             --vocab 260 --steps 5 --batch-tokens 64"
        ));
        assert!(place.ok("export model -o card").contains("next: pageformer chat card"));
        let ran = place.run_with("chat card --max-tokens 3", "hi\nbye\n");
        assert_eq!((ran.code, ran.err.as_str(), ran.out.lines().count()), (Some(0), "", 2), "{ran:#?}");
    }
}

/// Starts a command and kills it when it has written `file`; whether it was killed before its end.
fn killed_after(place: &Place, args: &str, file: &str) -> bool {
    let mut child: Child = Command::new(env!("CARGO_BIN_EXE_pageformer"))
        .args(args.split_whitespace())
        .current_dir(place.path("."))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !place.path(file).exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let place = with_text();
    let recipe = "preset = 'sketch'\n[model]\nn_layers = 1\nd_model = 16\nd_ff = 24\nn_heads = 2\n[data]\nfiles = ['text.txt']\n\
                  [train]\nsteps = 400\nbatch_tokens = 128\nvalidate_every = 50\ncheckpoint_every = 5\n";
    fs::write(place.path("recipe.toml"), recipe).unwrap();
    place.ok("train --recipe recipe.toml -o whole");
    let train = "train --recipe recipe.toml -o model";
    // It may be done before it is killed: then once more.
    while !killed_after(&place, train, "model.checkpoint") {
        fs::remove_dir_all(place.path("model")).unwrap();
    }
    place.fails_with(train, &["model.checkpoint", "not finished", "--resume"]);
    place.fails_with(&format!("{train} --resume --lr 0.001"), &["model.checkpoint", "another recipe"]);
    let resumed = place.run(&format!("{train} --resume"));
    assert!(resumed.code == Some(0) && resumed.err.contains("resumed at step"), "{resumed:#?}");
    assert_eq!(weights(&place, "model"), weights(&place, "whole"));
    place.fails_with(&format!("{train} --resume"), &["no run to continue", "model.checkpoint"]);
}

#[test]
fn bad_data_and_recipes_are_named() {
    let place = with_text();
    fs::write(place.path("chat.txt"), "hi\nHello!\n\nbye\n\n").unwrap();
    fs::write(place.path("chat.jsonl"), "{\"messages\": []}\n").unwrap();
    fs::write(place.path("latin.txt"), b"one\ntwo\ncaf\xe9\n").unwrap();
    fs::write(place.path("empty.txt"), "\n").unwrap();
    fs::write(place.path("recipe.toml"), "[train]\nstepps = 4\n").unwrap();
    for (options, parts) in [
        ("--preset chat --data chat.txt", ["chat.txt:4:", "without an answer"]),
        ("--data chat.jsonl", ["chat.jsonl:1:", "no question"]),
        ("--data latin.txt", ["latin.txt:3:", "UTF-8"]),
        ("--data empty.txt", ["empty.txt", "no text"]),
        ("--data nowhere.txt", ["nowhere.txt", "No such file"]),
        ("--recipe recipe.toml", ["recipe.toml", "stepps"]),
        ("--preset large", ["large", "sketch, chat, stories"]),
        ("--preset sketch", ["no data", "--data"]),
        ("--data text.txt --heads 5", ["shape", "head"]),
        ("--data text.txt --steps 0", ["train.steps", "at least 1"]),
    ] {
        place.fails_with(&format!("train -o model {options}"), &parts);
    }
    assert!(!place.path("model").exists() && !place.path("model.checkpoint").exists());
}

#[test]
fn compression_tells_what_each_step_costs() {
    let place = with_model();
    let compress = "compress dense -o small --density 0.7 --finetune text.txt --steps 12 --block 8x4";
    let table = place.json(compress);
    let rows = table["rows"].as_array().unwrap();
    let column = |key: &str| rows.iter().map(|r| r[key].clone()).collect::<Vec<Value>>();
    assert_eq!(column("model"), ["dense f32", "dense int8", "one-shot Fisher", "fine-tuned"]);
    let pages: Vec<_> = column("pages_per_token").iter().map(Value::as_u64).collect();
    assert!(pages[0].is_none() && pages[3] < pages[1], "{pages:?}");
    for row in rows {
        let (nll, bits) = (row["nll_per_token"].as_f64().unwrap(), row["bits_per_byte"].as_f64().unwrap());
        // ASCII: a token is a byte.
        assert!((nll / std::f64::consts::LN_2 - bits).abs() < 1e-6, "{row}");
    }
    // What was measured is what runs.
    place.ok("export small -o card");
    let inspect = place.json("inspect card");
    assert_eq!(inspect["tape_pages"].as_u64(), pages[3]);
    let density = inspect["density"].as_f64().unwrap();
    assert!(density <= 0.7 && density > 0.5, "{density}");
    // One-shot: nothing is trained.
    let table = place.ok("compress dense -o pruned --density 0.7 --data text.txt --method magnitude");
    assert!(table.contains("one-shot magnitude") && !table.contains("fine-tuned"), "{table}");
    place.fails_with("compress dense -o x --density 0.7", &["no data", "--data"]);
    place.fails_with("compress dense -o x --density 1.7 --data text.txt", &["1.7"]);
}

#[test]
fn a_sweep_goes_on_with_the_points_that_are_missing() {
    let place = with_model();
    let sweep = |densities: &str, more: &str| {
        place
            .run(&format!("compress dense -o curve --sweep {densities} --finetune text.txt --steps 8 {more}"))
    };
    let first = sweep("1,0.7", "");
    assert_eq!(first.code, Some(0), "{first:#?}");
    assert_eq!(first.err.matches("tokens to learn").count(), 2);
    assert!(first.out.contains("one-shot") && first.out.contains("fine-tuned"));
    let before = weights(&place, "curve/0.7");
    let more = sweep("1,0.7,0.6", "--resume");
    assert_eq!(more.err.matches("tokens to learn").count(), 1, "{more:#?}");
    assert_eq!(more.err.matches("trained before").count(), 2, "{more:#?}");
    assert_eq!(weights(&place, "curve/0.7"), before);
    // The rows that were there are there again.
    assert!(first.out.lines().all(|line| more.out.contains(line.trim_end())), "{first:#?}\n{more:#?}");
    let json: Value =
        serde_json::from_str(&fs::read_to_string(place.path("curve/curve.json")).unwrap()).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 2 + 3 * 2);
    let svg = fs::read_to_string(place.path("curve/curve.svg")).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 3, "dense, one-shot, fine-tuned");
    assert!(svg.matches("<circle").count() >= 3, "all points of the last, and those of one-shot that fit");
    // Another recipe is another curve.
    let other = sweep("0.7", "--resume --method magnitude");
    assert_eq!(other.err.matches("tokens to learn").count(), 1, "{other:#?}");
}
