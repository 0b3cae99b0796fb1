//! A line, as it is typed.

use crate::terminal::INTERRUPT;

/// Bytes of the longest line.
pub const LINE_BYTES: usize = 240;

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing that matters outside.
    None,
    /// The line is complete: [`LineEditor::line`] has it until the next byte.
    Line,
    /// The line is complete, but it was longer than [`LINE_BYTES`] and is lost.
    TooLong,
    /// Ctrl-C: the line is forgotten.
    Interrupt,
}

/// Edits a line: a state machine over the bytes of a terminal. What is typed is UTF-8.
#[derive(Clone, Debug)]
pub struct LineEditor {
    bytes: [u8; LINE_BYTES],
    len: usize,
    state: State,
    /// The last byte was a CR: an LF behind it is the same Enter.
    after_cr: bool,
    escape: Escape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Typing,
    /// Something did not fit.
    Overflow,
    /// The line has been handed out; the next byte begins another.
    Done,
}

/// Within a sequence that a key such as an arrow sends: ESC, then `[` or `O`, then anything up to a letter or `~`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    Within,
}

impl Default for LineEditor {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES], len: 0, state: State::Typing, after_cr: false, escape: Escape::No }
    }
}

impl LineEditor {
    /// The line so far, without blanks around it. Bytes that are not UTF-8 end it.
    pub fn line(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        match core::str::from_utf8(bytes) {
            Ok(line) => line.trim(),
            Err(e) => core::str::from_utf8(bytes.get(..e.valid_up_to()).unwrap_or(&[])).unwrap_or("").trim(),
        }
    }

    /// Takes a byte; `echo` receives what the terminal should show.
    pub fn key(&mut self, byte: u8, echo: &mut dyn FnMut(&[u8])) -> Key {
        if self.state == State::Done {
            (self.len, self.state) = (0, State::Typing);
        }
        let after_cr = core::mem::replace(&mut self.after_cr, byte == b'\r');
        if self.skip_escape(byte) {
            return Key::None;
        }
        match byte {
            b'\n' if after_cr => Key::None,
            b'\r' | b'\n' => {
                echo(b"\n");
                let too_long = self.state == State::Overflow;
                if too_long {
                    self.len = 0;
                }
                self.state = State::Done;
                if too_long { Key::TooLong } else { Key::Line }
            }
            INTERRUPT => {
                echo(b"^C\n");
                (self.len, self.state) = (0, State::Typing);
                Key::Interrupt
            }
            // Ctrl-U
            0x15 => {
                while self.len > 0 {
                    self.rub_out(echo);
                }
                self.state = State::Typing;
                Key::None
            }
            // Backspace, as either kind of terminal sends it.
            0x08 | 0x7F => {
                self.rub_out(echo);
                Key::None
            }
            b'\t' => self.insert(b' ', echo),
            0x20.. => self.insert(byte, echo),
            _ => Key::None,
        }
    }

    fn insert(&mut self, byte: u8, echo: &mut dyn FnMut(&[u8])) -> Key {
        match self.bytes.get_mut(self.len) {
            Some(slot) if self.state == State::Typing => {
                *slot = byte;
                self.len += 1;
                echo(&[byte]);
            }
            _ => {
                self.state = State::Overflow;
                // A bell.
                echo(b"\x07");
            }
        }
        Key::None
    }

    /// Takes back the last character. After an overflow the line is lost whatever is taken back, since what did
    /// not fit is gone.
    fn rub_out(&mut self, echo: &mut dyn FnMut(&[u8])) {
        while self.len > 0 {
            self.len -= 1;
            let byte = self.bytes.get(self.len).copied().unwrap_or(0);
            // Bytes 10xx_xxxx continue a character.
            if byte & 0xC0 != 0x80 {
                echo(b"\x08 \x08");
                return;
            }
        }
    }

    fn skip_escape(&mut self, byte: u8) -> bool {
        match self.escape {
            Escape::No if byte == 0x1B => self.escape = Escape::Begun,
            Escape::No => return false,
            Escape::Begun if byte == b'[' || byte == b'O' => self.escape = Escape::Within,
            // A sequence of two bytes: Alt with a key.
            Escape::Begun => self.escape = Escape::No,
            Escape::Within if (0x40..0x7F).contains(&byte) => self.escape = Escape::No,
            // Whatever it was, it is not one of ours.
            Escape::Within if byte < 0x20 => {
                self.escape = Escape::No;
                return false;
            }
            Escape::Within => {}
        }
        true
    }
}
