//! `pageformer chat` at a terminal, which a pseudo-terminal stands in for.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::Place;

/// A chat, and whoever types at its terminal.
struct Typist {
    child: Child,
    terminal: File,
    shown: Receiver<Vec<u8>>,
}

impl Typist {
    fn begin(place: &Place, args: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let name = Path::new(OsStr::from_bytes(name.to_bytes()));
        let end = || OpenOptions::new().read(true).write(true).open(name).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pageformer"))
            .args(args)
            .current_dir(place.path(""))
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let terminal = File::from(terminal);
        let (sender, shown) = channel();
        let mut output = terminal.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            // An error: the other end is closed.
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, terminal, shown }
    }

    /// What is shown up to the next prompt.
    fn until_prompt(&mut self) -> String {
        self.until_prompt_after("")
    }

    /// What is shown up to the next prompt behind some words.
    fn until_prompt_after(&mut self, words: &str) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n> ") || !String::from_utf8_lossy(&all).contains(words) {
            match self.shown.recv_timeout(Duration::from_secs(60)) {
                Ok(more) => all.extend(more),
                Err(error) => panic!("{error}, after {}", String::from_utf8_lossy(&all)),
            }
        }
        String::from_utf8(all).unwrap()
    }

    fn types(&mut self, keys: &str) -> String {
        self.terminal.write_all(keys.as_bytes()).unwrap();
        self.until_prompt()
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    typist.terminal.write_all(b"Hello\r/seed 7\r").unwrap();
    let said = typist.until_prompt_after("the seed is 7");
    assert!(said.contains("(40 tokens, "), "{said}");

    // Another amount of RAM: a new session. Too little: the old one goes on.
    let said = typist.types("/ram 16K\r");
    assert!(said.contains(" B of RAM: 48 positions, "), "{said}");
    let said = typist.types("/ram 1K\r");
    assert!(!said.contains("positions, 0 of"), "{said}");
    assert!(typist.types("Hello\r").contains("(40 tokens, "));

    // The page debugger.
    typist.terminal.write_all(b"/pages\rP 0\rQ\r").unwrap();
    let said = typist.until_prompt();
    assert!(said.contains("page 0: dec0_ln1") && said.contains("checksum: right"), "{said}");

    // Ctrl-D ends it, at the beginning of a line only.
    assert!(typist.types("a\x04\x15\r").contains("a\x08 \x08"));
    typist.terminal.write_all(b"\x04").unwrap();
    assert_eq!(typist.child.wait().unwrap().code(), Some(0));
}
