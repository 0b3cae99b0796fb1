//! Lines through a pipe: which is typed when.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The board's prompts as they are printed, each behind a blank line, without CR.
const PROMPTS: [&[u8]; 2] = [b"\n\n> ", b"\n\npages> "];
/// So much of what was printed last is kept to look for the echo and the prompt.
const TAIL: usize = 512;
/// So much of a line has to come back as its echo. A line that is too long for the board comes back in part.
const ECHO: usize = 64;

/// Types each line when the board has answered the one before.
pub struct Script {
    state: State,
    /// What was printed last, without CR.
    tail: Vec<u8>,
    /// Asks for another line.
    next: Sender<()>,
    line: Option<Vec<u8>>,
    /// There are no more lines.
    ended: bool,
    typed: usize,
    /// Lines that were not answered to the end.
    lost: usize,
    /// When the board gave the last sign of life.
    heard: Instant,
    timeout: Duration,
}

/// What the board is doing, as far as one can tell from what it prints.
#[derive(Debug, PartialEq)]
enum State {
    /// Nothing is known: the next prompt will tell.
    Unknown,
    /// A line was typed; this much of it comes back first. A prompt before that is an old one.
    Echo(Vec<u8>),
    /// It answers.
    Answer,
    /// It waits for a line.
    Prompt,
}

impl Script {
    /// A script whose lines are asked for through `next`.
    pub fn new(next: Sender<()>, timeout: Duration) -> Self {
        // If nobody reads lines, none come.
        let _ = next.send(());
        Self {
            state: State::Unknown,
            tail: Vec::new(),
            next,
            line: None,
            ended: false,
            typed: 0,
            lost: 0,
            heard: Instant::now(),
            timeout,
        }
    }

    /// A line was read. Keys that are not text, which could mean anything to the board, are dropped.
    pub fn read(&mut self, line: Vec<u8>) {
        let text = String::from_utf8_lossy(&line).replace('\t', " ");
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        if text.is_empty() {
            let _ = self.next.send(());
        } else {
            self.line = Some(text.as_bytes().to_vec());
        }
    }

    /// There are no more lines.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The board printed this.
    pub fn printed(&mut self, bytes: &[u8]) {
        self.heard = Instant::now();
        self.tail.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        if let State::Echo(echo) = &self.state
            && let Some(at) = self.tail.windows(echo.len()).position(|window| window == echo)
        {
            self.tail.drain(..at + echo.len());
            self.state = State::Answer;
        }
        // Looked for at the end only: what looks like a prompt and goes on is a text.
        if matches!(self.state, State::Unknown | State::Answer)
            && PROMPTS.iter().any(|prompt| self.tail.ends_with(prompt))
        {
            self.state = State::Prompt;
        }
        let old = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..old);
    }

    /// The port has gone, and with it the answer that was on its way.
    pub fn lost(&mut self) {
        if self.is_owed() && self.state != State::Unknown {
            self.lost += 1;
        }
        self.state = State::Unknown;
        self.tail.clear();
        self.heard = Instant::now();
    }

    /// The keys to type now, if it is time for a line.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        if self.state != State::Prompt {
            return None;
        }
        let mut line = self.line.take()?;
        self.state = State::Echo(line[..line.len().min(ECHO)].to_vec());
        self.tail.clear();
        self.heard = Instant::now();
        self.typed += 1;
        line.push(b'\r');
        let _ = self.next.send(());
        Some(line)
    }

    /// Whether the board is to say something: an answer, or that it is there.
    fn is_owed(&self) -> bool {
        self.state != State::Prompt
    }

    /// When to give up, while the board is to say something.
    pub fn deadline(&self) -> Option<Instant> {
        self.is_owed().then(|| self.heard + self.timeout)
    }

    /// Whether nothing at all has come from the board yet.
    pub fn is_unheard(&self) -> bool {
        self.state == State::Unknown && self.tail.is_empty()
    }

    /// Why it was given up.
    pub fn silence(&self, connected: bool) -> &'static str {
        match (connected, &self.state) {
            (false, _) => "the port has not come back (--timeout waits longer)",
            (_, State::Unknown) => {
                "no prompt came; is this the board's port, is the firmware on it, is the baud rate right?"
            }
            (_, State::Echo(_)) => "the board does not take what is typed; reset it",
            _ => "the board has stopped in the middle of an answer (--timeout waits longer)",
        }
    }

    /// Whether everything has been typed and answered.
    pub fn is_done(&self) -> bool {
        self.ended && self.line.is_none() && !self.is_owed()
    }

    /// Whether all went well.
    pub fn result(&self) -> Result<()> {
        match self.lost {
            0 => Ok(()),
            lost => bail!(
                "{lost} of {} lines were not answered to the end, because the port was gone, and what was said before is \
                 forgotten",
                self.typed
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn script(lines: &[&str]) -> (Script, Receiver<()>) {
        let (next, wanted) = channel();
        let mut script = Script::new(next, Duration::from_secs(9));
        match lines {
            [line] => {
                script.read(line.as_bytes().to_vec());
                script.end();
            }
            _ => script.end(),
        }
        (script, wanted)
    }

    #[test]
    fn a_line_is_typed_at_the_prompt_and_done_at_the_next() {
        let (mut script, _wanted) = script(&["\thi\tthere \x07\n"]);
        assert_eq!(script.next(), None);
        for piece in ["banner\r\n", "\r\n>", " "] {
            assert_eq!(script.next(), None);
            script.printed(piece.as_bytes());
        }
        assert_eq!(script.next().as_deref(), Some(b"hi there\r".as_slice()));
        for piece in ["hi", " there\r\n", "Hello\r\n\r\n> you\r\n(2 tokens)\r\n\r\n", "> "] {
            assert!(!script.is_done() && script.deadline().is_some(), "before {piece:?}");
            script.printed(piece.as_bytes());
        }
        assert!(script.is_done() && script.deadline().is_none());
        assert!(script.result().is_ok());
    }

    #[test]
    fn a_prompt_that_was_on_its_way_is_no_answer() {
        let (mut script, _wanted) = script(&["hi"]);
        script.printed(b"x\r\n\r\n> ");
        assert!(script.next().is_some());
        // Ctrl-C, which was typed before.
        script.printed(b"^C\r\n\r\n> ");
        assert!(!script.is_done());
        script.printed(b"hi\r\n\r\n> ");
        assert!(script.is_done());
    }

    #[test]
    fn a_long_line_comes_back_in_part() {
        let (mut script, _wanted) = script(&[&"word ".repeat(60)]);
        script.printed(b"\n\n> ");
        assert!(script.next().is_some());
        script.printed(format!("{}\x07\x07\r\n(that line has ...)\r\n\r\n> ", "word ".repeat(48)).as_bytes());
        assert!(script.is_done());
    }

    #[test]
    fn an_answer_that_is_lost_is_counted() {
        let (mut script, _wanted) = script(&["hi"]);
        script.lost();
        script.printed(b"\n\n> ");
        assert!(script.next().is_some());
        script.printed(b"hi\r\nHel");
        script.lost();
        assert!(!script.is_done());
        script.printed(b"banner\n\n> ");
        assert!(script.is_done());
        assert!(script.result().unwrap_err().to_string().starts_with("1 of 1 lines"));
    }

    #[test]
    fn blank_lines_are_not_typed_and_nothing_is_a_script_too() {
        let (mut script, wanted) = script(&[" \r\n"]);
        assert_eq!(wanted.try_iter().count(), 2);
        script.printed(b"\n\n> ");
        assert!(script.next().is_none() && script.is_done());
    }
}
