//! A line, as it is typed.

use crate::terminal::INTERRUPT;

/// Bytes of a chat template's text around the message.
const TEMPLATE_BYTES: usize = 96;
/// Bytes of a board's editor: lines of 240 bytes, and a chat template around them.
pub const EDITOR_BYTES: usize = 240 + TEMPLATE_BYTES;
/// Ctrl-D.
const END_OF_INPUT: u8 = 0x04;

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing that matters outside.
    None,
    /// The line is complete: [`LineEditor::line`] has it until the next byte.
    Line,
    /// The line is complete, but it was longer than [`LineEditor::MOST`] and is lost.
    TooLong,
    /// Ctrl-C: the line is forgotten.
    Interrupt,
    /// Ctrl-D at the beginning of a line.
    EndOfInput,
}

/// Edits a line: a state machine over the bytes of a terminal. What is typed is UTF-8. Its `N` bytes also have room for
/// the chat template around a line.
#[derive(Clone, Debug)]
pub struct LineEditor<const N: usize = EDITOR_BYTES> {
    bytes: [u8; N],
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

impl<const N: usize> Default for LineEditor<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0, state: State::Typing, after_cr: false, escape: Escape::No }
    }
}

impl<const N: usize> LineEditor<N> {
    /// Bytes of the longest line.
    pub const MOST: usize = N.saturating_sub(TEMPLATE_BYTES);

    /// The line so far, without blanks around it. A character that is not complete ends it.
    pub fn line(&self) -> &str {
        self.text().trim_ascii()
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        match core::str::from_utf8(bytes) {
            Ok(line) => line,
            Err(e) => core::str::from_utf8(bytes.get(..e.valid_up_to()).unwrap_or(&[])).unwrap_or(""),
        }
    }

    /// The line with the text of a chat template around it. The line is gone afterwards. One that is all in capitals, more than a letter, goes in as lower
    /// case: chats to learn from are not shouted, and tokens of capitals mean nothing to a model that has not seen them.
    pub fn within(&mut self, (before, after): (&str, &str)) -> &str {
        let start = self.text().len() - self.text().trim_ascii_start().len();
        let line = start..start + self.line().len();
        let end = before.len() + line.len();
        if let Some(line) = self.bytes.get_mut(line.clone())
            && line.len() > 1
            && line.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_lowercase())
        {
            line.make_ascii_lowercase();
        }
        // It fits: a line has `MOST` bytes, a template what is left.
        if end + after.len() <= N && line.end <= N {
            self.bytes.copy_within(line, before.len());
            for (at, text) in [(0, before), (end, after)] {
                if let Some(room) = self.bytes.get_mut(at..at + text.len()) {
                    room.copy_from_slice(text.as_bytes());
                }
            }
            self.len = end + after.len();
        }
        self.text()
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
                self.drop_noise();
                self.state = State::Done;
                if too_long { Key::TooLong } else { Key::Line }
            }
            INTERRUPT => {
                echo(b"^C\n");
                (self.len, self.state) = (0, State::Typing);
                Key::Interrupt
            }
            END_OF_INPUT if self.len == 0 => Key::EndOfInput,
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

    /// Takes out what is no UTF-8, such as the bytes that a port makes up when its cable is plugged in.
    fn drop_noise(&mut self) {
        let mut start = 0;
        while let Some(rest) = self.bytes.get(start..self.len)
            && let Err(error) = core::str::from_utf8(rest)
        {
            start += error.valid_up_to();
            let noise = error.error_len().unwrap_or(self.len - start);
            // Both are within the line, since `rest` is.
            self.bytes.copy_within(start + noise..self.len, start);
            self.len -= noise;
        }
    }

    fn insert(&mut self, byte: u8, echo: &mut dyn FnMut(&[u8])) -> Key {
        match self.bytes.get_mut(..Self::MOST).and_then(|bytes| bytes.get_mut(self.len)) {
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
            _ if byte == 0x1B => self.escape = Escape::Begun,
            Escape::No => return false,
            // Whatever it was, it is not one of ours; and Ctrl-C always is Ctrl-C.
            _ if byte < 0x20 => {
                self.escape = Escape::No;
                return false;
            }
            Escape::Begun if byte == b'[' || byte == b'O' => self.escape = Escape::Within,
            // A sequence of two bytes: Alt with a key.
            Escape::Begun => self.escape = Escape::No,
            Escape::Within if (0x40..0x7F).contains(&byte) => self.escape = Escape::No,
            Escape::Within => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    fn typed<const N: usize>(text: &str) -> LineEditor<N> {
        let mut editor = LineEditor::default();
        for byte in text.bytes() {
            editor.key(byte, &mut |_| {});
        }
        editor
    }

    #[test]
    fn noise_is_taken_out_and_the_line_stays() {
        for (bytes, line) in [
            (&b"\xFF\x80hello\r"[..], "hello"),
            (b"caf\xE9 au\xC3\xA4 \xF0\x9F\xFFlait\xC3\r", "caf au\u{e4} lait"),
            (b"\xFF\xFE\xFD\r", ""),
        ] {
            let mut editor = LineEditor::<EDITOR_BYTES>::default();
            let keys: std::vec::Vec<Key> = bytes.iter().map(|byte| editor.key(*byte, &mut |_| {})).collect();
            assert_eq!((editor.line(), keys.last()), (line, Some(&Key::Line)));
        }
    }

    #[test]
    fn a_line_goes_into_a_template() {
        for (line, around, prompt) in [
            ("  how are you? \r", ("Q: ", "\nA: "), "Q: how are you?\nA: "),
            ("\r", ("<", ">"), "<>"),
            ("hi\r", ("", ""), "hi"),
            // All in capitals, and not.
            ("WHAT IS 2 + 3?\r", ("Q: ", "\nA: "), "Q: what is 2 + 3?\nA: "),
            ("U\r", ("Q: ", ""), "Q: U"),
            ("What is NASA?\r", ("Q: ", ""), "Q: What is NASA?"),
            ("\u{c9}T\u{c9}\r", ("Q: ", ""), "Q: \u{c9}T\u{c9}"),
        ] {
            assert_eq!(typed::<EDITOR_BYTES>(line).within(around), prompt);
        }
        // The longest line in the longest template.
        let (line, half) = ("x".repeat(LineEditor::<120>::MOST), "t".repeat(48));
        let prompt = format!("{half}{line}{half}");
        assert_eq!(typed::<120>(&line).within((&half, &half)), prompt);
        assert_eq!(typed::<120>(&(line + "x")).key(b'\r', &mut |_| {}), Key::TooLong);
    }
}
