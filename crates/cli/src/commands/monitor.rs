//! `pageformer monitor`.

mod link;
mod log;
mod ports;
mod screen;
mod script;

use std::io::{self, BufRead, IsTerminal, Read, Stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result, bail};
use clap::Parser;
use serial2::SerialPort;

use log::Log;
use screen::Screen;
use script::Script;

/// Talks to a board over its serial port. Keys go to the board as they are typed, Ctrl-C included, which stops an answer;
/// Ctrl-] leaves. When the board is reset or its cable is pulled, it waits until the port is back.
///
/// Piped, it types the lines of the standard input, each when the board has answered the one before, and ends after the
/// last answer.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    pageformer monitor                                  # the only USB serial port there is\n  \
    pageformer monitor --list                           # which ports there are\n  \
    pageformer monitor --port /dev/ttyACM0 --log board.log\n  \
    echo 'what does a cow say' | pageformer monitor --port COM3\n  \
    pageformer monitor --port /dev/ttyUSB0 < questions.txt > transcript.txt\n\n\
    Nothing appears? Press Enter: the board prints its prompt only once. Only rubbish appears? Then the firmware uses \
    another baud rate (--baud).\n\n\
    A port that is gone is waited for under the name that it had. A board may come back under another number, but a \
    name such as /dev/serial/by-id/... stays.\n\n\
    Prompt, statistics and errors are coloured on a terminal; NO_COLOR=1 leaves that out.")]
pub struct Monitor {
    /// The serial port, such as /dev/ttyACM0 or COM3 [default: the only USB serial port]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Bits a second; a port that is USB itself ignores it
    #[arg(long, value_name = "BAUD", default_value_t = 115_200, value_parser = clap::value_parser!(u32).range(1..))]
    baud: u32,
    /// Append everything that the board prints to a file, with the time of each connection
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Piped: give up when the board owes an answer and says nothing for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// List the serial ports
    #[arg(long, conflicts_with_all = ["port", "log"])]
    list: bool,
    /// With --list: machine-readable
    #[arg(long, requires = "list")]
    json: bool,
}

/// Ctrl-]
const LEAVE: u8 = 0x1D;
/// Ctrl-C: at the prompt, the board prints another one.
const INTERRUPT: u8 = 0x03;
/// The beginning of a line whose colour is not certain yet is shown after this time.
const SETTLE: Duration = Duration::from_millis(50);

/// A script says so when it has not heard anything from the board for this time.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// What happens.
enum Event {
    /// The port is open: for the first time, or again.
    Opened(Arc<SerialPort>),
    /// The board printed this.
    Printed(Vec<u8>),
    /// The port is gone, and why.
    Gone(String),
    /// These keys were typed.
    Keys(Vec<u8>),
    /// This line came through the pipe; the next one is read when it has been [asked](Script::next) for.
    Line(Vec<u8>),
    /// The standard input ended.
    End,
}

impl Monitor {
    pub fn run(self) -> Result<()> {
        if self.list {
            return ports::print(&ports::list()?, self.json);
        }
        let name = match &self.port {
            Some(port) => port.clone(),
            None => ports::choose(&ports::list()?)?,
        };
        let log = self.log.as_deref().map(|file| Log::open(file, &name, self.baud)).transpose()?;
        let port = link::open(&name, self.baud).map_err(|error| ports::explain(&name, &error))?;

        let (sender, events) = channel();
        let person = io::stdin().is_terminal();
        let colour = !matches!(AutoStream::choice(&io::stdout()), ColorChoice::Never);
        let screen = Screen::new(io::stdout(), colour, io::stdout().is_terminal());
        let mut conversation =
            Conversation { name, log, screen, port: None, events, script: None, was_gone: false, hint: None };
        // Dropped last: the terminal is as it was however this ends.
        let _raw = if person {
            conversation.note(&format!(
                "{} at {} baud. Ctrl-] leaves, Ctrl-C stops an answer, Enter shows the prompt",
                conversation.name, self.baud
            ));
            read_keys(sender.clone());
            Some(RawMode::enter()?)
        } else {
            let next = read_lines(sender.clone());
            conversation.script = Some(Script::new(next, Duration::from_secs(self.timeout)));
            None
        };
        link::watch(conversation.name.clone(), self.baud, port, sender);
        match conversation.go() {
            // Whoever read the output has seen enough.
            Err(error) if broken_pipe(&error) => Ok(()),
            result => result,
        }
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// One person, or one script, at one port.
struct Conversation {
    name: String,
    log: Option<Log>,
    screen: Screen<Stdout>,
    /// `None` while the port is gone.
    port: Option<Arc<SerialPort>>,
    events: Receiver<Event>,
    script: Option<Script>,
    was_gone: bool,
    /// When to say that nothing has come.
    hint: Option<Instant>,
}

impl Conversation {
    fn go(&mut self) -> Result<()> {
        loop {
            match self.next_event()? {
                None => {
                    self.screen.settle()?;
                    self.say_that_nothing_came();
                }
                Some(Event::Opened(port)) => self.opened(port)?,
                Some(Event::Printed(bytes)) => {
                    if let Some(log) = &mut self.log {
                        log.write(&bytes)?;
                    }
                    self.screen.show(&bytes)?;
                    if let Some(script) = &mut self.script {
                        script.printed(&bytes);
                    }
                }
                Some(Event::Gone(why)) => self.gone(&why)?,
                Some(Event::Keys(keys)) => {
                    let leave = keys.iter().position(|key| *key == LEAVE);
                    self.type_in(&keys[..leave.unwrap_or(keys.len())]);
                    if leave.is_some() {
                        self.screen.end_line()?;
                        return Ok(());
                    }
                }
                Some(Event::Line(line)) => self.with_script(|script| script.read(line)),
                Some(Event::End) if self.script.is_none() => return Ok(()),
                Some(Event::End) => self.with_script(Script::end),
            }
            if let Some(script) = &mut self.script {
                if let Some(line) = script.next() {
                    self.type_in(&line);
                } else if script.is_done() {
                    let result = script.result();
                    self.screen.end_line()?;
                    return result;
                }
            }
        }
    }

    fn with_script(&mut self, change: impl FnOnce(&mut Script)) {
        if let Some(script) = &mut self.script {
            change(script);
        }
    }

    fn say_that_nothing_came(&mut self) {
        if self.hint.take_if(|hint| *hint <= Instant::now()).is_some()
            && self.script.as_ref().is_some_and(Script::is_unheard)
        {
            self.note(&format!("{} says nothing; waiting for its prompt", self.name));
        }
    }

    /// The next event; `None` if what the screen holds back, or a hint, should wait no longer.
    fn next_event(&mut self) -> Result<Option<Event>> {
        let moments = [self.script.as_ref().and_then(Script::deadline), self.hint];
        let left =
            moments.into_iter().flatten().map(|moment| moment.saturating_duration_since(Instant::now()));
        let settle = self.screen.holds_back().then_some(SETTLE);
        let event = match left.chain(settle).min() {
            Some(wait) => self.events.recv_timeout(wait),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => match &self.script {
                Some(script) if script.deadline().is_some_and(|deadline| deadline <= Instant::now()) => {
                    self.screen.end_line()?;
                    bail!("{}: {}", self.name, script.silence(self.port.is_some()))
                }
                _ => Ok(None),
            },
            // The thread that watches the port does not end before this one.
            Err(RecvTimeoutError::Disconnected) => bail!("{}: nobody watches the port any more", self.name),
        }
    }

    fn opened(&mut self, port: Arc<SerialPort>) -> Result<()> {
        self.port = Some(port);
        if std::mem::take(&mut self.was_gone) {
            self.note(&format!("{} is back", self.name));
            if let Some(log) = &mut self.log {
                log.stamp("back")?;
            }
        }
        // The prompt of a board that is waiting already was printed long ago: another one, please.
        if self.script.is_some() {
            self.type_in(&[INTERRUPT]);
            self.hint = Some(Instant::now() + FIRST_WORDS);
        }
        Ok(())
    }

    fn gone(&mut self, why: &str) -> Result<()> {
        // Closed here and now: while it is open, a board that is put in again gets another name.
        self.port = None;
        self.was_gone = true;
        self.screen.end_line()?;
        let leave = if self.script.is_some() { "" } else { "; Ctrl-] leaves" };
        self.note(&format!("{} is gone ({why}); waiting until it is back{leave}", self.name));
        if let Some(log) = &mut self.log {
            log.stamp("gone")?;
        }
        self.with_script(Script::lost);
        Ok(())
    }

    fn type_in(&self, keys: &[u8]) {
        if let Some(port) = &self.port {
            // If it cannot be typed, the port is gone, and the thread that reads it says so.
            let _ = link::type_in(port, keys);
        }
    }

    /// Says something that is not the board's.
    fn note(&self, text: &str) {
        // A terminal in raw mode wants the carriage return, and no other minds it.
        eprint!("[{text}]{}", if self.script.is_some() { "\n" } else { "\r\n" });
    }
}

/// Sends what is typed, key by key.
fn read_keys(events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(n @ 1..) = io::stdin().read(&mut buffer) {
            if events.send(Event::Keys(buffer[..n].to_vec())).is_err() {
                return;
            }
        }
        let _ = events.send(Event::End);
    });
}

/// Sends the lines of the standard input, each when it is asked for through the channel that is returned.
fn read_lines(events: Sender<Event>) -> Sender<()> {
    let (next, wanted) = channel();
    thread::spawn(move || {
        while let Ok(()) = wanted.recv() {
            let mut line = Vec::new();
            let event = match io::stdin().lock().read_until(b'\n', &mut line) {
                Ok(1..) => Event::Line(line),
                _ => Event::End,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    next
}

/// The user's terminal hands over every key by itself and shows none.
struct RawMode;

impl RawMode {
    fn enter() -> Result<Self> {
        crossterm::terminal::enable_raw_mode().context("the terminal cannot be read key by key")?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}
