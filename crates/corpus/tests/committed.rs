//! The committed corpus keeps its promises. Everything here reads the files as any other program would, with its own
//! idea of what makes two questions the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use pageformer_corpus::{Options, generate, load, output};
use serde_json::Value;

struct Line {
    /// Questions and answers in turn.
    turns: Vec<(String, String)>,
    intent: String,
}

impl Line {
    fn question(&self) -> &str {
        &self.turns.last().expect("a turn").0
    }

    fn answer(&self) -> &str {
        &self.turns.last().expect("a turn").1
    }
}

struct Intent {
    group: String,
    answers: Vec<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../corpora/chat"))
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn lines(name: &str) -> Vec<Line> {
    let parse = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        let messages = value["messages"].as_array().expect("messages");
        let turns = messages.chunks(2).map(|pair| {
            assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&"user".into(), &"assistant".into()));
            (string(&pair[0]["content"]), string(&pair[1]["content"]))
        });
        Line { turns: turns.collect(), intent: string(&value["intent"]) }
    };
    read(name).lines().map(parse).collect()
}

fn intents() -> BTreeMap<String, Intent> {
    let list: Vec<Value> = serde_json::from_str(&read("intents.json")).expect("a list of intents");
    let intent = |v: &Value| {
        let answers = v["answers"].as_array().expect("answers").iter().map(string).collect();
        (string(&v["id"]), Intent { group: string(&v["group"]), answers })
    };
    list.iter().map(intent).collect()
}

/// Lower case, letters and digits only; signs between numbers are spelt.
fn normal(question: &str) -> String {
    let text = question.to_lowercase();
    let mut out = String::new();
    for (i, c) in text.char_indices() {
        let before = text[..i].trim_end().ends_with(|c: char| c.is_ascii_digit());
        let after = text[i + 1..].trim_start().starts_with(|c: char| c.is_ascii_digit());
        match c {
            '+' => out.push_str("plus"),
            '*' => out.push_str("times"),
            '-' if before && after => out.push_str("minus"),
            '/' if before && after => out.push_str("over"),
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ => {}
        }
    }
    out
}

#[test]
fn the_committed_files_are_what_the_sources_give() {
    let corpus = generate(load(&folder().join("intents")).unwrap(), Options::default()).unwrap();
    for file in output::files(&corpus).unwrap() {
        assert!(read(file.name) == file.text, "{} is stale: run cargo run -p pageformer-corpus", file.name);
    }
    let other = generate(corpus.leaves.clone(), Options { seed: 2, scale: 1 }).unwrap();
    assert_ne!(output::files(&other).unwrap()[0].text, read("train.jsonl"));
}

#[test]
fn more_training_questions_leave_the_held_out_ones_alone() {
    let leaves = load(&folder().join("intents")).unwrap();
    let corpus = generate(leaves, Options { seed: 1, scale: 2 }).unwrap();
    let held: Vec<_> = lines("heldout.jsonl").iter().map(|l| l.question().to_owned()).collect();
    let again: Vec<_> = corpus.heldout.iter().map(|i| i.turns.last().unwrap().question.clone()).collect();
    assert_eq!(held, again);
    assert!(corpus.train.len() > 5 * lines("train.jsonl").len() / 4);
}

#[test]
fn the_corpus_is_as_large_as_it_should_be() {
    let (train, heldout, intents) = (lines("train.jsonl"), lines("heldout.jsonl"), intents());
    assert!((15_000..=40_000).contains(&train.len()), "{} to train on", train.len());
    assert!((600..=2000).contains(&heldout.len()), "{} held out", heldout.len());
    let groups: BTreeSet<_> = intents.values().map(|i| &i.group).collect();
    assert!(groups.len() >= 60);
    let bytes =
        ["train.jsonl", "heldout.jsonl", "intents.json"].map(|name| read(name).len()).iter().sum::<usize>();
    assert!(bytes < 7_000_000, "{bytes} bytes");
}

/// `common.txt` is written by hand, not generated, and so is not checked by the generator.
#[test]
fn the_plainest_questions_are_not_held_out_and_have_right_answers() {
    let held: HashSet<String> = lines("heldout.jsonl").iter().map(|l| normal(l.question())).collect();
    let answers: HashSet<String> = intents().into_values().flat_map(|i| i.answers).collect();
    let common = read("common.txt");
    let mut chats = 0;
    for chat in common.trim().split("\n\n") {
        let turns: Vec<&str> = chat.lines().collect();
        assert!(turns.len() == 2 && answers.contains(turns[1]), "{turns:?}");
        assert!(!held.contains(&normal(turns[0])), "{turns:?} is held out");
        chats += 1;
    }
    assert!(chats > 200);
}

#[test]
fn every_intent_is_on_both_sides() {
    let intents = intents();
    let mut trained: HashMap<&str, usize> = HashMap::new();
    let train = lines("train.jsonl");
    for line in &train {
        *trained.entry(&line.intent).or_default() += 1;
    }
    for id in intents.keys() {
        assert!(
            trained.get(id.as_str()).is_some_and(|n| *n >= 5),
            "{id} is trained on {:?} times",
            trained.get(id.as_str())
        );
    }
    let heldout = lines("heldout.jsonl");
    let held: HashSet<_> = heldout.iter().map(|l| &intents[&l.intent].group).collect();
    for (id, intent) in &intents {
        assert!(held.contains(&intent.group), "nothing of {id} is held out");
    }
}

#[test]
fn every_answer_is_one_of_its_intent() {
    let intents = intents();
    for line in lines("train.jsonl").iter().chain(&lines("heldout.jsonl")) {
        let intent = intents.get(&line.intent).unwrap_or_else(|| panic!("{} is not listed", line.intent));
        assert!(
            intent.answers.iter().any(|a| a == line.answer()),
            "{:?}: {:?}",
            line.question(),
            line.answer()
        );
    }
}

#[test]
fn no_held_out_question_is_trained_on() {
    let trained: HashSet<_> = lines("train.jsonl")
        .iter()
        .flat_map(|l| l.turns.iter().map(|(q, _)| normal(q)).collect::<Vec<_>>())
        .collect();
    for line in lines("heldout.jsonl") {
        assert!(!trained.contains(&normal(line.question())), "{:?} is trained on", line.question());
    }
}

#[test]
fn a_question_has_one_intent() {
    let mut owners: HashMap<Vec<String>, String> = HashMap::new();
    let (train, heldout) = (lines("train.jsonl"), lines("heldout.jsonl"));
    for line in train.iter().chain(&heldout) {
        let key = line.turns.iter().map(|(question, _)| normal(question)).collect();
        let owner = owners.entry(key).or_insert_with(|| line.intent.clone());
        assert_eq!(*owner, line.intent, "{:?}", line.question());
    }
}

#[test]
fn texts_are_short_printable_ascii() {
    for line in lines("train.jsonl").iter().chain(&lines("heldout.jsonl")) {
        let mut total = 0;
        for text in line.turns.iter().flat_map(|(q, a)| [q, a]) {
            assert!((1..=100).contains(&text.len()), "{text:?}");
            assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
            assert!(!text.contains("  ") && text.trim() == text, "{text:?}");
            assert!(
                !text.contains(['{', '}', '[', ']', '<', '>', '|']),
                "a bit of a template is left in {text:?}"
            );
            total += text.len();
        }
        assert!(total <= 230, "a conversation of {total} characters");
    }
}

#[test]
fn sums_are_right() {
    let mut checked = 0;
    for (id, intent) in intents() {
        let answer = &intent.answers[0];
        let numbers: Vec<i32> = answer.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        match (intent.group.as_str(), &numbers[..]) {
            ("plus", [x, y, z]) => assert_eq!(x + y, *z, "{id}"),
            ("minus", [x, y, z]) => assert_eq!(x - y, *z, "{id}"),
            ("plus" | "minus", _) => panic!("{id}: {answer}"),
            _ => continue,
        }
        checked += 1;
    }
    assert_eq!(checked, 155);
}
