//! Mistakes in the sources are told with file, line and intent.

use pageformer_corpus::source::parse;
use pageformer_corpus::{Error, Options, generate};

/// What the generator says about a file `test.toml` with this text.
fn complaint(text: &str) -> String {
    let result = parse(vec![("test.toml".to_owned(), text.to_owned())]);
    match result.and_then(|leaves| generate(leaves, Options::default())) {
        Ok(_) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn intent(id: &str, answer: &str, ask: &str, heldout: &str) -> String {
    format!(
        "[[intent]]\nid = \"{id}\"\nanswers = [\"{answer}\"]\nask = [\n  \"{ask}\",\n]\nheldout = [\"{heldout}\"]\n"
    )
}

#[test]
fn a_good_file_passes() {
    let text = intent("name", "Page.", "what is your {name|age|size} [now|again]", "your name again");
    assert_eq!(complaint(&text), "nothing");
}

#[test]
fn template_errors_name_file_line_and_intent() {
    for (ask, why) in
        [("what is {your|my", "has no `}`"), ("where is <place>", "<place>"), ("a|b", "outside of a group")]
    {
        let text = intent("name", "Page.", ask, "who");
        let said = complaint(&text);
        assert!(said.starts_with("test.toml:5: name: "), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let said = complaint(&intent("name", "Page.", "who is {it|he}", "who [is"));
    assert!(said.starts_with("test.toml:7: name: "), "{said}");
}

#[test]
fn toml_errors_name_file_and_line() {
    let said = complaint("[[intent]]\nid = \"name\"\nanswer = [\"x\"]\n");
    assert!(said.starts_with("test.toml:3: ") && said.contains("answer"), "{said}");
}

#[test]
fn answers_must_be_short_and_ascii() {
    let long = "x".repeat(101);
    for answer in ["caf\u{e9}", long.as_str(), ""] {
        let said = complaint(&intent("name", answer, "who is {it|he}", "who"));
        assert!(said.starts_with("test.toml:3: name: ") && said.contains("answer"), "{said}");
    }
}

#[test]
fn a_question_of_two_intents_is_refused() {
    let text = intent("one", "1", "{count|tell} {me|us} one", "one two")
        + &intent("other", "2", "hey, {count|say} us one please", "two one");
    let said = complaint(&text);
    assert!(said.contains("test.toml:5: one") && said.contains("test.toml:12: other"), "{said}");
}

#[test]
fn held_out_words_must_be_known() {
    let said = complaint(&intent("one", "1", "{count|tell} {me|us} one", "an unheard word"));
    assert!(said.contains("unheard") && said.contains("(one)"), "{said}");
}

#[test]
fn held_out_wins_over_training() {
    let text = intent("one", "1", "{count|tell|say} {me|us|all} one", "Count me one");
    let leaves = parse(vec![("test.toml".to_owned(), text)]).unwrap();
    let corpus = generate(leaves, Options::default()).unwrap();
    assert!(corpus.train.iter().all(|i| !i.turns[0].question.to_lowercase().contains("count me one")));
    assert!(corpus.heldout.iter().any(|i| i.turns[0].question.to_lowercase().contains("count me one")));
}

#[test]
fn families_must_fit_their_columns() {
    let family = "[[family]]\nid = \"pet\"\ncolumns = [\"a\", \"b\"]\nanswers = [\"<b>\"]\nask = [\"{what|who} is <a>\"]\n\
                  heldout = [\"is it <a>\"]\nmembers = [\n";
    let said = complaint(&format!("{family}  [\"cat\"],\n]\n"));
    assert!(said.starts_with("test.toml:8: pet: ") && said.contains("2 columns"), "{said}");
    let said = complaint(&format!("{family}  [\"cat\", \"x\"],\n  [\"Cat\", \"y\"],\n]\n"));
    assert!(said.starts_with("test.toml:9: pet: ") && said.contains("key_columns"), "{said}");
    let said =
        complaint(&intent("one", "1", "{count|tell} me", "me").replace("ask", "after = [\"two\"]\nask"));
    assert!(said.starts_with("test.toml:2: one: ") && said.contains("two"), "{said}");
}

#[test]
fn an_empty_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = pageformer_corpus::load(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NoSources { .. }), "{error}");
}
