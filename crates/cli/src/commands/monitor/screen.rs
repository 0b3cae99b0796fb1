//! What the board prints, as the user sees it: in colour, and with the line ends that the output wants.

use std::io::{self, Write};

const PROMPT: &str = "\x1b[1;32m";
const STATISTICS: &str = "\x1b[2m";
const ERROR: &str = "\x1b[1;31m";
const RESET: &str = "\x1b[0m";

/// The output. Bytes go through as they come, in pieces that need not be whole lines or characters.
pub struct Screen<W> {
    out: W,
    colour: bool,
    /// A terminal gets CR LF as the board sends it; a file or a pipe gets LF.
    terminal: bool,
    /// The beginning of a line, while it is not certain what it will be.
    held: Vec<u8>,
    place: Place,
}

/// Where in a line the output is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Start,
    Within,
    /// Within a line that is coloured to its end.
    Coloured,
}

/// What the beginning of a line says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A prompt, which what has come so far is the whole of.
    Prompt,
    /// `(80 tokens, …)`.
    Statistics,
    Error,
    Text,
    /// More of it has to be seen.
    Uncertain,
}

impl Kind {
    fn of(start: &[u8]) -> Self {
        let words: [(&[u8], Self); 3] =
            [(b"> ", Self::Prompt), (b"pages> ", Self::Prompt), (b"error:", Self::Error)];
        if let Some((_, kind)) = words.iter().find(|(word, _)| start.starts_with(word)) {
            return *kind;
        }
        if words.iter().any(|(word, _)| word.starts_with(start)) {
            return Self::Uncertain;
        }
        let Some(rest) = start.strip_prefix(b"(") else { return Self::Text };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (word, rest) = (b" tokens".as_slice(), &rest[digits..]);
        match (digits, rest.len()) {
            (0, 1..) | (8.., _) => Self::Text,
            _ if rest.starts_with(word) => Self::Statistics,
            _ if word.starts_with(rest) => Self::Uncertain,
            _ => Self::Text,
        }
    }
}

impl<W: Write> Screen<W> {
    /// Over an output.
    pub fn new(out: W, colour: bool, terminal: bool) -> Self {
        Self { out, colour, terminal, held: Vec::new(), place: Place::Start }
    }

    /// Shows what the board printed.
    pub fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut shown = Vec::with_capacity(bytes.len() + 16);
        for &byte in bytes {
            match byte {
                b'\r' if !self.terminal => {}
                b'\r' | b'\n' => {
                    shown.append(&mut self.held);
                    if self.place == Place::Coloured {
                        shown.extend(RESET.bytes());
                    }
                    // Behind a CR alone the line is not over, but nothing of it needs colour.
                    self.place = if byte == b'\n' { Place::Start } else { Place::Within };
                    shown.push(byte);
                }
                _ if self.place == Place::Start && self.colour => {
                    self.held.push(byte);
                    self.decide(&mut shown);
                }
                _ => {
                    if self.place == Place::Start {
                        self.place = Place::Within;
                    }
                    shown.push(byte);
                }
            }
        }
        self.out.write_all(&shown)?;
        self.out.flush()
    }

    /// Gives a line its colour as soon as that is certain.
    fn decide(&mut self, shown: &mut Vec<u8>) {
        let kind = Kind::of(&self.held);
        let (colour, place) = match kind {
            Kind::Uncertain => return,
            Kind::Text => ("", Place::Within),
            Kind::Prompt => (PROMPT, Place::Within),
            Kind::Statistics => (STATISTICS, Place::Coloured),
            Kind::Error => (ERROR, Place::Coloured),
        };
        shown.extend(colour.bytes());
        shown.append(&mut self.held);
        if kind == Kind::Prompt {
            shown.extend(RESET.bytes());
        }
        self.place = place;
    }

    /// Whether something is held back until it is certain what it is.
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// Shows what is held back: the board seems to have nothing to add.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.holds_back() {
            self.place = Place::Within;
            self.out.write_all(&self.held)?;
            self.held.clear();
        }
        self.out.flush()
    }

    /// Ends the line if one has begun: something else is to be said.
    pub fn end_line(&mut self) -> io::Result<()> {
        self.settle()?;
        if self.place == Place::Start {
            return Ok(());
        }
        let end = if self.terminal { "\r\n" } else { "\n" };
        let reset = if self.place == Place::Coloured { RESET } else { "" };
        write!(self.out, "{reset}{end}")?;
        self.place = Place::Start;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Pageformer\r\n\r\n> hi there\r\nHello (3 tokens) > you\r\n(12 tokens, 9.1 tokens/s)\r\n\r\n> \
                        /x\r\nerror: no\r\n(an aside)\r\n(1234 toys)\r\n()\r\nerr\r\n\r\npages> \r\n";

    /// In pieces of every size.
    fn shown(colour: bool, terminal: bool) -> String {
        let mut all: Vec<String> = (1..=SAID.len())
            .map(|size| {
                let mut screen = Screen::new(Vec::new(), colour, terminal);
                for piece in SAID.as_bytes().chunks(size) {
                    screen.show(piece).unwrap();
                }
                screen.settle().unwrap();
                String::from_utf8(screen.out).unwrap()
            })
            .collect();
        all.dedup();
        assert_eq!(all.len(), 1, "the pieces make a difference: {all:#?}");
        all.remove(0)
    }

    #[test]
    fn colours_are_for_prompts_statistics_and_errors() {
        let wanted = SAID
            .replace("\n> ", "\n\x1b[1;32m> \x1b[0m")
            .replace("pages> ", "\x1b[1;32mpages> \x1b[0m")
            .replace("(12 tokens, 9.1 tokens/s)", "\x1b[2m(12 tokens, 9.1 tokens/s)\x1b[0m")
            .replace("error: no", "\x1b[1;31merror: no\x1b[0m");
        assert_eq!(shown(true, true), wanted);
    }

    #[test]
    fn without_colour_every_byte_is_the_boards_but_for_line_ends_in_a_pipe() {
        assert_eq!(shown(false, true), SAID);
        assert_eq!(shown(false, false), SAID.replace('\r', ""));
    }

    #[test]
    fn what_is_held_back_comes_out() {
        let mut screen = Screen::new(Vec::new(), true, true);
        screen.show(b"err").unwrap();
        assert!(screen.holds_back() && screen.out.is_empty());
        screen.settle().unwrap();
        screen.show(b"or: no\r\nerror: x").unwrap();
        screen.end_line().unwrap();
        screen.end_line().unwrap();
        assert_eq!(screen.out, b"error: no\r\n\x1b[1;31merror: x\x1b[0m\r\n");
    }
}
