//! The standard input and output as a port for the console.
//!
//! At a terminal, keys come one by one and without echo, as from a serial line: the console edits the line. At a pipe, its
//! bytes come as they are, and the output has plain line ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use embedded_io::{ErrorType, Read, ReadReady, Write};

/// Ctrl-C, as a terminal sends it.
const INTERRUPT: u8 = 0x03;

/// Ctrl-C came as a signal: there is no terminal that would send it as a byte.
static SIGNALLED: AtomicBool = AtomicBool::new(false);
/// The program waits for its input: a signal ends it.
static WAITING: AtomicBool = AtomicBool::new(true);

/// The error of printing, unless it is that the reader of a pipe is gone, who has seen enough.
pub fn unless_closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

/// What was typed and has not been taken yet. Clones are of the same.
#[derive(Clone)]
pub struct Keys {
    person: bool,
    /// Why nothing can be printed any more.
    broken: Rc<RefCell<Option<io::Error>>>,
    typed: Rc<RefCell<VecDeque<u8>>>,
}

impl Keys {
    /// Whether a person sits at a terminal.
    pub fn person(&self) -> bool {
        self.person
    }

    /// Why nothing could be printed any more, if that is so; that nobody reads it is no error.
    pub fn broken(&self) -> io::Result<()> {
        self.broken.take().map_or(Ok(()), Err).or_else(unless_closed)
    }

    /// Waits a little for a key, at a terminal.
    pub fn wait(&self) {
        // An error shows when the key is read.
        let _ = poll(Duration::from_millis(100));
    }

    /// Whether Ctrl-C was typed. What else was stays for later.
    pub fn interrupted(&self) -> bool {
        if !self.person {
            return SIGNALLED.swap(false, Ordering::Relaxed);
        }
        // A terminal that is gone shows at the next write.
        let _ = self.gather();
        let mut typed = self.typed.borrow_mut();
        match typed.iter().position(|byte| *byte == INTERRUPT) {
            // Whoever stops an answer does not mean what was typed before that.
            Some(at) => typed.drain(..=at).next().is_some(),
            None => false,
        }
    }

    /// Takes what the terminal has.
    fn gather(&self) -> io::Result<()> {
        while poll(Duration::ZERO)? {
            if let Event::Key(key) = read()? {
                bytes(key, &mut |byte| self.typed.borrow_mut().push_back(byte));
            }
        }
        Ok(())
    }
}

/// The bytes that a serial terminal would send for a key.
fn bytes(key: KeyEvent, send: &mut dyn FnMut(u8)) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    match key.code {
        KeyCode::Enter => send(b'\r'),
        KeyCode::Backspace => send(0x7F),
        KeyCode::Tab => send(b'\t'),
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::CONTROL) => {
            if let Ok(letter @ 0..0x80) = u8::try_from(c) {
                send(letter & 0x1F);
            }
        }
        KeyCode::Char(c) => c.encode_utf8(&mut [0; 4]).bytes().for_each(send),
        _ => {}
    }
}

/// The port.
pub struct StdPort {
    keys: Keys,
    /// A pipe: the last byte that came; a last line without its end is a line.
    last: u8,
}

impl StdPort {
    /// Opens the port, and what was typed at it.
    ///
    /// # Errors
    /// If the terminal cannot be set up.
    pub fn open() -> anyhow::Result<(Self, Keys)> {
        let person = io::stdin().is_terminal() && io::stdout().is_terminal();
        if person {
            enable_raw_mode()?;
        } else {
            ctrlc::set_handler(|| {
                // Between two answers it ends the program, as it does any other; within one, the answer.
                if WAITING.load(Ordering::Relaxed) || SIGNALLED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            })?;
        }
        let keys = Keys { person, broken: Rc::default(), typed: Rc::default() };
        Ok((Self { keys: keys.clone(), last: b'\n' }, keys))
    }
}

impl StdPort {
    /// The console only knows that its port is closed: keeps why.
    fn keep(&self, printed: io::Result<()>) -> io::Result<()> {
        printed.map_err(|error| {
            let kind = error.kind();
            self.keys.broken.borrow_mut().get_or_insert(error);
            kind.into()
        })
    }
}

impl Drop for StdPort {
    fn drop(&mut self) {
        if self.keys.person {
            let _ = disable_raw_mode();
        }
    }
}

impl ErrorType for StdPort {
    type Error = io::Error;
}

impl ReadReady for StdPort {
    fn read_ready(&mut self) -> io::Result<bool> {
        if !self.keys.person {
            return Ok(true);
        }
        self.keys.gather()?;
        Ok(!self.keys.typed.borrow().is_empty())
    }
}

impl Read for StdPort {
    /// A byte at a time: whoever reads has to see what it does.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(slot) = buf.first_mut() else { return Ok(0) };
        if self.keys.person {
            while !self.read_ready()? {
                self.keys.wait();
            }
            *slot = self.keys.typed.borrow_mut().pop_front().unwrap_or(b'\r');
            return Ok(1);
        }
        WAITING.store(true, Ordering::Relaxed);
        let n = io::stdin().lock().read(&mut buf[..1])?;
        WAITING.store(false, Ordering::Relaxed);
        match n {
            0 if self.last == b'\n' => return Ok(0),
            0 => buf[0] = b'\n',
            _ => {}
        }
        self.last = buf[0];
        Ok(1)
    }
}

impl Write for StdPort {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // The console writes line ends by themselves.
        let printed = match (buf, self.keys.person) {
            (b"\r\n", false) => io::stdout().write_all(b"\n"),
            _ => io::stdout().write_all(buf),
        };
        self.keep(printed).map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let printed = io::stdout().flush();
        self.keep(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_a_serial_terminal_sends() {
        let sent = |code, modifiers| {
            let mut all = Vec::new();
            bytes(KeyEvent::new(code, modifiers), &mut |byte| all.push(byte));
            all
        };
        let none = KeyModifiers::NONE;
        assert_eq!(sent(KeyCode::Char('ä'), none), "ä".as_bytes());
        assert_eq!(sent(KeyCode::Char('A'), KeyModifiers::SHIFT), b"A");
        assert_eq!(sent(KeyCode::Enter, none), b"\r");
        assert_eq!(sent(KeyCode::Backspace, none), b"\x7F");
        assert_eq!(sent(KeyCode::Up, none), b"");
        for (letter, byte) in [('c', 3), ('d', 4), ('h', 8), ('j', 10), ('u', 21)] {
            assert_eq!(sent(KeyCode::Char(letter), KeyModifiers::CONTROL), [byte]);
        }
    }
}
