//! `pageformer chat` at a terminal, which a pseudo-terminal stands in for.

use std::process::Command;

use crate::pty::Person;
use crate::support::{Place, numbers};

/// Whoever types at the terminal of a chat.
struct Typist(Person);

impl Typist {
    fn begin(place: &Place, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pageformer"));
        Self(Person::sits_down(command.args(args).current_dir(place.path(""))))
    }

    /// What is shown up to the next prompt.
    fn until_prompt(&mut self) -> String {
        self.0.running.until("\r\n> ")
    }

    /// What is shown up to the next prompt behind some words.
    fn until_prompt_after(&mut self, words: &str) -> String {
        self.0.running.until(words) + &self.until_prompt()
    }

    fn types(&mut self, keys: &str) -> String {
        self.0.types(keys);
        self.until_prompt()
    }
}

#[test]
fn a_person_meets_the_console_of_a_board() {
    let place = Place::with_tiny_card();
    let mut typist = Typist::begin(&place, &["chat", "card", "--max-tokens", "8"]);
    let banner = typist.until_prompt();
    assert!(banner.contains(" B of RAM: 48 positions, ") && banner.contains("/help"), "{banner}");

    // Keys edit the line, which is echoed; the answer has statistics.
    let said = typist.types("Helxx\x7f\x7flo\r");
    assert!(said.starts_with("Helxx\x08 \x08\x08 \x08lo\r\n"), "{said:?}");
    assert!(said.contains("(8 tokens, ") && said.contains(" tokens/s on this PC, "), "{said}");
    assert!(said.contains(" pages read per token, hit rate "), "{said}");

    // Ctrl-C forgets a line, or stops an answer: never the program.
    assert!(typist.types("abc\x03").contains("^C"));
    assert!(typist.types("/max 40\r").contains("40 tokens"));
    let said = typist.types("Hello\r\x03");
    assert!(said.contains(", stopped)") && !said.contains("(40 tokens"), "{said}");

    // What is typed during an answer is not lost.
    typist.0.types("Hello\r/seed 7\r");
    let said = typist.until_prompt_after("the seed is 7");
    assert!(said.contains("(40 tokens, "), "{said}");

    // Another amount of RAM: a new session. Too little: the old one goes on.
    let said = typist.types("/ram 16K\r");
    assert!(said.contains(" B of RAM: 48 positions, "), "{said}");
    let said = typist.types("/ram 1K\r");
    assert!(!said.contains("positions, 0 of"), "{said}");
    assert!(typist.types("Hello\r").contains("(40 tokens, "));

    // The page debugger.
    typist.0.types("/pages\rP 0\rQ\r");
    let said = typist.until_prompt();
    assert!(said.contains("page 0: dec0_ln1") && said.contains("checksum: right"), "{said}");

    // Ctrl-D ends it, at the beginning of a line only.
    assert!(typist.types("a\x04\x15\r").contains("a\x08 \x08"));
    typist.0.types("\x04");
    assert_eq!(typist.0.running.code(), Some(0));
}

/// A board's answers are by its clock, which is paced; that such a clock is as slow as it says, and no faster after a pause, is tested where it is
/// (`pageformer_sim`).
#[test]
fn answers_are_paced_as_the_board_would_give_them() {
    let place = Place::with_tiny_card();
    let args = ["chat", "card", "--board", "lm3s6965", "--max-tokens", "40"];
    let time = |text: &str| text.lines().find(|line| line.starts_with("time: ")).unwrap().trim().to_string();
    let piped = time(&place.run_with(&args.join(" "), "Hello\n/stats\n").out);
    assert!(numbers(&piped).iter().sum::<u64>() > 200, "{piped}");
    let mut typist = Typist::begin(&place, &args);
    typist.until_prompt();
    let said = typist.types("Hello\r");
    assert!(said.contains("(40 tokens, ") && said.contains(" tokens/s as predicted for the board"), "{said}");
    assert_eq!(time(&typist.types("/stats\r")), piped);

    let mut typist = Typist::begin(&place, &[&args[..], &["--no-pace"]].concat());
    typist.until_prompt();
    let said = typist.types("Hello\r");
    assert!(said.contains("(40 tokens, ") && said.contains(" tokens/s on this PC"), "{said}");
}
