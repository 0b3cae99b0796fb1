//! `pageformer chat` through a pipe.

use std::fs;

use crate::support::Place;

/// A card whose model continues texts, and what it continues a line with.
fn continues(place: &Place, line: &str) -> String {
    place.json(&format!("run card --prompt '{line}' --max-tokens 8"))["text"].as_str().unwrap().to_string()
}

#[test]
fn piped_it_prints_the_answers_only() {
    let place = Place::with_tiny_card();
    let ran = place.run_with("chat card --max-tokens 8", "Hello\n\n  Hello  \nBye\n");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    // Without a template each line is a text of its own.
    let (hello, bye) = (continues(&place, "Hello"), continues(&place, "Bye"));
    assert_eq!(ran.out, format!("{hello}\n{hello}\n{bye}\n"));
}

/// Chats to learn from are not in capitals, so a line that is goes to the model as if it were not; texts to continue are left alone.
#[test]
fn capitals_are_heard_as_words() {
    let place = Place::with_tiny_card();
    let asked = |line: &str| place.run_with("chat --ram 300K", &format!("{line}\n")).out;
    let name = asked("what is your name?");
    assert!(name.contains("Pageformer"), "{name}");
    assert_eq!(asked("WHAT IS YOUR NAME?"), name);
    assert_eq!(
        place.run_with("chat card --max-tokens 8", "HELLO\n").out.trim_end(),
        continues(&place, "HELLO")
    );
}

/// Whoever continues a text with a model that chats is told of `chat`, not in the text.
#[test]
fn run_tells_of_chat() {
    let place = Place::with_tiny_card();
    let hint = "pageformer chat";
    let ran = place.run("run --prompt hello");
    assert!(ran.err.contains(hint) && !ran.out.contains(hint), "{ran:#?}");
    for silent in ["run --prompt hello --json", "run card --prompt hello", "run --prompt ' hello\n'"] {
        assert!(!place.run(silent).err.contains(hint), "{silent}");
    }
}

#[test]
fn the_end_of_the_input_ends_it() {
    let place = Place::with_tiny_card();
    for input in ["", "\n\n", "/quit\nHello\n", "/exit\n"] {
        let ran = place.run_with("chat card", input);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""), "{input:?}");
    }
    // A last line without its end is a line.
    assert!(!place.run_with("chat card --max-tokens 3", "Hello").out.is_empty());
}

#[test]
fn commands_work_through_a_pipe() {
    let place = Place::with_tiny_card();
    let ran = place.run_with(
        "chat card --max-tokens 8",
        "/help\n/memory\n/stats\n/nonsense\n/temperature hot\n/ram lots\n",
    );
    assert_eq!(ran.code, Some(0));
    for part in
        ["/temperature", "/ram 32K", "KV cache", "nothing has been", "no /nonsense", "`hot`", "`lots`"]
    {
        assert!(ran.out.contains(part), "no {part} in {ran:#?}");
    }
    // RAM is changed, too little is refused and the chat goes on.
    let ran = place.run_with("chat card --max-tokens 8", "/ram 12K\nHello\n/ram 1K\nHello\n/stats\n");
    let hello = continues(&place, "Hello");
    assert_eq!(ran.out.matches(&hello).count(), 2, "{ran:#?}");
    assert!(ran.out.contains("too few") || ran.out.contains("need"), "{ran:#?}");
}

#[test]
fn a_line_that_does_not_fit_is_an_error_and_the_next_one_is_answered() {
    let place = Place::with_tiny_card();
    let ran = place.run_with("chat card --max-tokens 8", &format!("{}\nHello\n", "long ".repeat(50)));
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("error: ") && ran.err.contains("fit"), "{ran:#?}");
    assert_eq!(ran.out, format!("{}\n", continues(&place, "Hello")));
    // So is one that does not even fit the line editor.
    let ran = place.run_with("chat card --max-tokens 8", &format!("{}\nHello\n", "long ".repeat(5000)));
    assert!(ran.err.contains("error: a line has 16288 bytes at most"), "{}", ran.err);
    assert_eq!(ran.out, format!("{}\n", continues(&place, "Hello")));
}

#[test]
fn whatever_a_pipe_sends_is_no_reason_to_fall() {
    let place = Place::with_tiny_card();
    let ran = place.run_with("chat card --max-tokens 4", "caf\u{e9} \u{1F600}\n\u{0}\u{7}\n");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

/// Gives the tiny model a chat template.
fn with_template(user: &str, stop: &str) -> Place {
    let place = Place::with_tiny_model();
    let path = place.path("model/config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["pageformer_chat"] = serde_json::json!({ "user": user, "stop": stop });
    fs::write(&path, config.to_string()).unwrap();
    place.ok("export model -o card");
    place
}

#[test]
fn a_template_stands_around_each_line_and_the_conversation_goes_on() {
    let place = with_template("Q: {}|", "");
    let ran = place.run_with("chat card --max-tokens 4", "one\ntwo\n");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    let first =
        place.json("run card --prompt 'Q: one|' --max-tokens 4")["text"].as_str().unwrap().to_string();
    assert!(ran.out.starts_with(&format!("{first}\n")), "{ran:#?}");
    let second =
        place.json(&format!("run card --prompt 'Q: one|{first}Q: two|' --max-tokens 4"))["text"].clone();
    assert_eq!(
        ran.out,
        format!("{first}\n{}\n", second.as_str().unwrap()),
        "the second turn follows the first"
    );
    // Forgotten, the second line is a first one.
    let ran = place.run_with("chat card --max-tokens 4", "one\n/reset\none\n");
    assert_eq!(ran.out.matches(&first).count(), 2, "{ran:#?}");
}

#[test]
fn a_conversation_that_fills_the_context_begins_anew() {
    let place = with_template("Q: {}|", "");
    let ran = place.run_with("chat card --max-tokens 10", &"what is it\n".repeat(8));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    let fresh = place.run_with("chat card --max-tokens 10", "what is it\n").out;
    assert!(ran.out.matches(&*fresh).count() >= 2, "answered as at first, again: {ran:#?}");
}

#[test]
fn an_answer_ends_before_the_stop_text() {
    let place = with_template("Q: {}|", "");
    let whole = place.run_with("chat card --max-tokens 12", "one\n").out;
    let stop = &whole[4..6];
    let place = with_template("Q: {}|", &stop.replace('\\', "\\\\"));
    let cut = place.run_with("chat card --max-tokens 12", "one\n").out;
    let at = whole.find(stop).unwrap();
    assert_eq!(cut, format!("{}\n", &whole[..at]));
}

#[test]
fn what_the_page_debugger_writes_is_there_the_next_time() {
    let place = Place::with_tiny_model();
    place.ok("export model -o packed");
    place.ok("export model -o files --layout files");
    place.ok("image packed -o packed.img");
    place.ok("image files -o files.img");
    for card in ["packed", "files", "packed.img", "files.img"] {
        let chat = |keys: &str| {
            let ran = place.run_with(&format!("chat {card}"), &format!("/pages\n{keys}Q\n"));
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
            ran.out
        };
        assert!(chat("T 3 7\n").contains("page 3 has tag 7"));
        assert!(chat("P 3\nT 3 9\nW\n").contains("tag:      0"), "it was not written");
        let said = chat("P 3\nS\nR\n");
        assert!(said.contains("tag:      9") && said.contains("written 1 times since the export"), "{said}");
        assert!(said.contains("(write 2 since the export)"), "{said}");
        let said = chat("P 3\n");
        assert!(said.contains("tag:      0") && said.contains("of its record 2"), "{said}");
        assert_eq!(place.json(&format!("inspect {card}"))["metadata_writes"], 2);
        place.ok(&format!("verify {card}"));
    }
}
