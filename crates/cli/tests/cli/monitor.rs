//! `pageformer monitor`, with a pseudo-terminal for the serial port and the real console behind it.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::board::{BOOT_NOISE, Board};
use crate::pty::{Person, Pty, Running};
use crate::support::{Place, Ran, numbers};

const QUESTIONS: [&str; 3] = ["hello", "what does a cow say", "tell me a joke"];

/// A folder with an image of the default model's card.
fn place() -> Place {
    let place = Place::new();
    let card = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/chat/card");
    place.ok(&format!("image '{card}' -o card.img"));
    place
}

fn plug_in(place: &Place) -> Board {
    Board::plug_in(&place.path("card.img"), &place.path("port"))
}

/// What the PC answers to the questions, with as many positions as the board says it has.
fn answers(place: &Place, transcript: &str, questions: &[&str]) -> Vec<String> {
    let banner = transcript.lines().find(|line| line.contains(" positions, ")).expect("a banner");
    let before = banner.split(" positions").next().unwrap();
    let positions = numbers(before).pop().unwrap();
    let lines: String = questions.iter().map(|line| format!("{line}\n")).collect();
    let ran = place.run_with(&format!("chat --context {positions}"), &lines);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let answers: Vec<String> = ran.out.lines().map(String::from).collect();
    assert_eq!(answers.len(), questions.len(), "{ran:#?}");
    answers
}

/// Waits until the board has booted and heard the Ctrl-C that asks for a prompt: it stops the check of the pages if that is still going on.
fn at_prompt(running: &mut Running) {
    let boot = running.until("/help shows the commands.\n\n> ");
    if !boot.contains(" stopped\n") {
        running.until("^C\n\n> ");
    }
}

/// The turns of a transcript: what was typed, and what the board said to it but for the statistics.
fn turns(transcript: &str) -> Vec<(&str, &str)> {
    let turns = transcript.split("\n\n> ").skip(1).filter_map(|turn| turn.split_once('\n'));
    turns
        .map(|(line, said)| {
            let answer = said.split("\n(").next().unwrap();
            (line, answer)
        })
        .collect()
}

#[test]
fn a_piped_conversation_is_what_the_pc_says() {
    let place = place();
    let board = plug_in(&place);
    let lines: String = QUESTIONS.iter().map(|line| format!("\n{line}  \n")).collect();
    let ran = talk(&place, &[], &lines);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    let answers = answers(&place, &ran.out, &QUESTIONS);
    // The Ctrl-C that asks for a prompt is a turn of its own.
    let wanted: Vec<(&str, &str)> = QUESTIONS.into_iter().zip(answers.iter().map(String::as_str)).collect();
    let found: Vec<_> = turns(&ran.out).into_iter().filter(|(line, _)| !["", "^C"].contains(line)).collect();
    assert_eq!(found, wanted, "{}", ran.out);
    // A file gets plain lines and no colours, and nothing else is missing.
    assert!(ran.out.ends_with("\n\n> \n"), "{:?}", ran.out);
    assert!(!ran.out.contains('\r'), "{:?}", ran.out);
    assert!(board.line_is_raw());

    // The board is at its prompt, which was printed long ago: a second script gets one all the same.
    let ran = talk(&place, &[], "/seed 12\n/pages\nS\nQ\n/nonsense");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for said in ["\n> /seed 12\nthe seed is 12\n", "\npages> S\n", "\n> /nonsense\nthere is no /nonsense"] {
        assert!(ran.out.contains(said), "no {said:?} in {}", ran.out);
    }
    // No line at all: it is there, and that is all.
    let ran = talk(&place, &[], "");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "^C\n\n> \n"), "{ran:#?}");
    drop(board);
}

#[test]
fn lines_that_no_board_should_see() {
    let place = place();
    let _board = plug_in(&place);
    let ran = talk(&place, &[], &format!("/seed\t7\u{3}\u{1B}\n{}\n/seed 8\n", "x".repeat(300)));
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("the seed is 7\n") && ran.out.contains("the seed is 8\n"), "{}", ran.out);
    assert!(ran.out.contains("240 bytes at most; please shorten it"), "{}", ran.out);
}

#[test]
fn the_log_has_every_byte_and_when() {
    let place = place();
    let _board = plug_in(&place);
    for line in ["/seed 1\n", "/seed 2\n"] {
        let ran = talk(&place, &["--log", "board.log"], line);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    }
    let log = fs::read(place.path("board.log")).unwrap();
    let noise = log.windows(BOOT_NOISE.len()).position(|bytes| bytes == BOOT_NOISE);
    let stamp = noise.expect("the first bytes of the port are not in the log");
    let text = String::from_utf8_lossy(&log).into_owned();
    let stamps: Vec<&str> = text.lines().filter(|line| line.starts_with("=== ")).collect();
    assert_eq!(stamps.len(), 2, "{text}");
    for line in stamps {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[2..], ["port", "115200", "baud"], "{line}");
        let shape: String = words[1].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z", "{line}");
    }
    assert_eq!(stamp, text.find('\n').unwrap() + 1, "the board's first byte follows the stamp: {text}");
    for said in ["> /seed 1\r\nthe seed is 1\r\n", "> /seed 2\r\nthe seed is 2\r\n"] {
        assert!(text.contains(said), "{text:?}");
    }
    let error = place.fails("monitor --port port --log nowhere/board.log");
    assert!(error.contains("nowhere/board.log"), "{error}");
}

/// A whole conversation through pipes.
fn talk(place: &Place, options: &[&str], lines: &str) -> Ran {
    let mut child = piped(place, options);
    // It may have ended already.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn monitor(place: &Place, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pageformer"));
    command.current_dir(place.path(".")).args(["monitor", "--port", "port"]).args(options);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm");
    command
}

fn piped(place: &Place, options: &[&str]) -> Child {
    let mut command = monitor(place, options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A script, whose lines come when the test sends them; both outputs through one pipe, so that their order is right.
fn script(place: &Place, options: &[&str]) -> (Running, ChildStdin) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = monitor(place, options);
    command.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    // Its ends of the pipe are closed here, or the pipe would not end with the program.
    drop(command);
    let stdin = child.stdin.take().unwrap();
    (Running::new(child, reader), stdin)
}

#[test]
fn a_script_goes_on_when_the_port_is_back_and_does_not_hide_what_was_lost() {
    let place = place();
    let board = plug_in(&place);
    let (mut running, mut lines) = script(&place, &["--log", "board.log"]);
    at_prompt(&mut running);
    // A few bytes into the answer, the cable is pulled.
    board.stand_still_after("tell me a joke\r\n".len() + 4);
    lines.write_all(b"tell me a joke\nhello\n").unwrap();
    running.until("tell me a joke\n");
    board.wait_until_it_stands();
    board.unplug();
    running.until("[port is gone (");
    let board = plug_in(&place);
    running.until("[port is back]\n");
    // A conversation from its beginning.
    let transcript = running.until("/help shows the commands.\n\n> ");
    drop(lines);
    let answer = &answers(&place, &transcript, &["hello"])[0];
    running.until(&format!("> hello\n{answer}\n("));
    running.until("error: 1 of 2 lines were not answered to the end");
    assert_eq!(running.code(), Some(1));
    assert_eq!(running.printed.matches("is gone").count(), 0, "it is said once");
    let log = String::from_utf8_lossy(&fs::read(place.path("board.log")).unwrap()).into_owned();
    let whats: Vec<&str> =
        log.lines().filter(|l| l.starts_with("=== ")).map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(whats, ["baud", "gone", "back"], "{log}");
    drop(board);
}

#[test]
fn a_board_that_is_reset_in_mid_answer_is_talked_to_again() {
    let place = place();
    let mut board = plug_in(&place);
    let (mut running, mut lines) = script(&place, &[]);
    at_prompt(&mut running);
    board.stand_still_after("tell me a joke\r\n".len() + 4);
    lines.write_all(b"tell me a joke\nhello\n").unwrap();
    board.wait_until_it_stands();
    board.reset();
    running.until("ESP-ROM:");
    let transcript = running.until("/help shows the commands.\n\n> ");
    let answer = &answers(&place, &transcript, &["hello"])[0];
    running.until(&format!("hello\n{answer}\n("));
    drop(lines);
    assert_eq!(running.code(), Some(0));
}

#[test]
fn silence_ends_a_script_with_a_reason() {
    let place = Place::new();
    // Nobody is behind this port.
    let pty = Pty::new();
    std::os::unix::fs::symlink(&pty.path, place.path("port")).unwrap();
    let error = place.fails_with("monitor --port port --timeout 1", &["port: ", "no prompt", "baud rate"]);
    assert!(!error.contains("--timeout waits longer"), "{error}");
    // Long before it is given up, somebody who waits is told.
    let (mut running, _lines) = script(&place, &[]);
    running.until("[port says nothing; waiting for its prompt]\n");
}

#[test]
fn ports_that_cannot_be_opened() {
    let place = Place::new();
    place.fails_with("monitor --port nothing", &["nothing: ", "no such port", "--list"]);
    fs::write(place.path("letter"), "dear").unwrap();
    place.fails_with("monitor --port letter", &["letter: ", "not a serial port"]);
    place.fails_with("monitor --port .", &[".: ", "not a serial port"]);
    assert_eq!(fs::read(place.path("letter")).unwrap(), b"dear");
    place.usage("monitor --port x --baud 0");
    place.usage("monitor --json");
    place.usage("monitor --list --port x");
    // What there is depends on the machine; every entry has the same form.
    let list = place.json("monitor --list");
    for port in list.as_array().unwrap() {
        assert!(port["port"].is_string() && port.get("usb").is_some(), "{list}");
    }
    assert!(!place.ok("monitor --list").is_empty());
}

const GREEN_PROMPT: &str = "\x1b[1;32m> \x1b[0m";

#[test]
fn a_person_types_stops_an_answer_and_leaves() {
    let place = place();
    let mut board = plug_in(&place);
    let mut person = Person::sits_down(&mut monitor(&place, &[]));
    person.running.until("port at 115200 baud. Ctrl-] leaves, Ctrl-C stops an answer");
    person.running.until(&format!("/help shows the commands.\r\n\r\n{GREEN_PROMPT}"));
    assert!(person.terminal_is_raw());
    // The keys are shown once, by the board; the statistics are dim.
    person.types("hellp\x7fo\r");
    person.running.until("hellp\x08 \x08o\r\nHello!");
    person.running.until("\r\n\x1b[2m(");
    person.running.until(")\x1b[0m\r\n\r\n\x1b[1;32m> \x1b[0m");
    // Ctrl-C goes to the board.
    board.stand_still_after("tell me a joke\r\n".len() + 4);
    person.types("tell me a joke\r");
    board.wait_until_it_stands();
    person.types("\x03");
    person.running.until(", stopped)\x1b[0m\r\n");
    person.running.until(GREEN_PROMPT);
    // The board is reset, then its cable is pulled, and it comes back.
    board.reset();
    person.running.until("ESP-ROM:");
    person.running.until(GREEN_PROMPT);
    board.unplug();
    person.running.until("[port is gone (");
    person.types("nobody hears this\r");
    let _board = plug_in(&place);
    person.running.until("[port is back]");
    person.running.until(GREEN_PROMPT);
    person.types("/seed 5\r");
    person.running.until("the seed is 5");
    person.running.until(GREEN_PROMPT);
    // What is typed behind Ctrl-] is not the board's.
    person.types("\x1d/seed 6\r");
    assert_eq!(person.running.code(), Some(0));
    assert!(!person.terminal_is_raw(), "the terminal is as it was");
}

#[test]
fn no_color_means_none() {
    let place = place();
    let _board = plug_in(&place);
    let mut person = Person::sits_down(monitor(&place, &[]).env("NO_COLOR", "1"));
    person.running.until("/help shows the commands.\r\n\r\n> ");
    person.types("hello\r");
    let said = person.running.until(")\r\n\r\n> ");
    assert!(said.contains("Hello!") && !said.contains('\x1b'), "{said:?}");
    person.types("\x1d");
    assert_eq!(person.running.code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = place();
    let _board = plug_in(&place);
    let mut child = piped(&place, &[]);
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"hello\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
