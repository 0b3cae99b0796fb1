//! The prompt, the answers and what the commands do.

use core::fmt::{self, Write as _};

use embedded_io::{Read, ReadReady, Write};
use pageformer_engine::{Error, Sampler, Session};
use pageformer_vram::{Card, Fault, ReadError};

use crate::command::{Command, HELP};
use crate::editor::{Key, LINE_BYTES, LineEditor};
use crate::host::Host;
use crate::pages::{self, PageKey};
use crate::report::{self, Costs, Grouped, Ratio};
use crate::terminal::{Closed, Terminal};

/// Bytes of a chat template's text around the message.
const TEMPLATE_BYTES: usize = 96;
/// Tokens that `/bench` times.
const BENCH_TOKENS: u32 = 16;

/// What the user may change. It outlives a change of cards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Tokens of an answer at most.
    pub max_tokens: u32,
    /// Chooses tokens.
    pub sampler: Sampler,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_tokens: 80, sampler: Sampler::GREEDY }
    }
}

/// Why the console came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// `/card`: the user wants the card to be read again.
    Reload,
    /// The card was pulled out. The user has been told.
    CardGone,
    /// The port is closed.
    Closed,
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// A line, in the editor.
    Line,
    Interrupt,
    /// `wake` said so.
    Woken,
}

/// A person at a port.
pub struct Console<P, H> {
    terminal: Terminal<P>,
    host: H,
    settings: Settings,
    editor: LineEditor,
    last: Option<Costs>,
}

impl<P: Read + ReadReady + Write, H: Host> Console<P, H> {
    /// A console over a port.
    pub fn new(port: P, host: H, settings: Settings) -> Self {
        Self { terminal: Terminal::new(port), host, settings, editor: LineEditor::default(), last: None }
    }

    /// The terminal, to say something.
    pub fn terminal(&mut self) -> &mut Terminal<P> {
        &mut self.terminal
    }

    /// The host.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// Says what the model is and where the RAM goes, in a few lines.
    ///
    /// # Errors
    /// If the port is closed.
    #[inline(never)]
    pub fn banner<C: Card>(&mut self, session: &Session<'_, C>) -> Result<(), Closed> {
        let (manifest, plan, shape) = (session.manifest(), session.engine().plan(), session.engine().shape());
        let out = &mut self.terminal;
        writeln!(
            out,
            "\n{}: {} parameters, {} layers of width {}, {}",
            manifest.name.as_str(),
            Grouped(shape.parameters()),
            shape.n_layers,
            shape.d_model,
            report::layout(manifest.layout)
        )?;
        writeln!(
            out,
            "{} B of RAM: {} positions, {} of {} tape pages in RAM",
            Grouped(plan.total() as u64),
            plan.context,
            plan.pinning.pinned,
            plan.pinning.tape
        )?;
        if manifest.chat.is_none() {
            writeln!(
                out,
                "This model was not trained to chat: it continues each line as a text of its own."
            )?;
        }
        writeln!(out, "/help shows the commands.")?;
        Ok(())
    }

    /// Talks until the card is to be read again, or is gone, or the port is closed.
    pub fn run<C: Card>(&mut self, session: &mut Session<'_, C>) -> End {
        session.sampler = self.settings.sampler;
        self.last = None;
        loop {
            match self.turn(session) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(Closed) => return End::Closed,
            }
        }
    }

    /// While there is no session: keeps the prompt alive until `/card`, or until `wake`, which is asked again and
    /// again, says that a card has been put in.
    pub fn wait(&mut self, wake: &mut dyn FnMut() -> bool) -> End {
        loop {
            match self.turn_without(wake) {
                Ok(false) => {}
                Ok(true) => return End::Reload,
                Err(Closed) => return End::Closed,
            }
        }
    }

    fn turn_without(&mut self, wake: &mut dyn FnMut() -> bool) -> Result<bool, Closed> {
        match self.input("> ", wake)? {
            Input::Woken => {
                writeln!(self.terminal, "a card was put in")?;
                return Ok(true);
            }
            Input::Interrupt => return Ok(false),
            Input::Line => {}
        }
        match self.editor.line() {
            "" => {}
            "/card" => return Ok(true),
            "/memory" => self.host.memory(&mut self.terminal)?,
            _ => writeln!(self.terminal, "there is no model yet; put a card in, or type /card to try again")?,
        }
        Ok(false)
    }

    fn turn<C: Card>(&mut self, session: &mut Session<'_, C>) -> Result<Option<End>, Closed> {
        if self.input("> ", &mut || false)? != Input::Line {
            return Ok(None);
        }
        // A copy, because commands write to the terminal, which is lent along with the editor.
        let editor = self.editor.clone();
        match editor.line() {
            "" => Ok(None),
            line => match line.strip_prefix('/') {
                Some(command) => self.command(Command::parse(command), session),
                None => self.answer(line, session),
            },
        }
    }

    /// Waits for a line.
    fn input(&mut self, prompt: &str, wake: &mut dyn FnMut() -> bool) -> Result<Input, Closed> {
        write!(self.terminal, "\n{prompt}")?;
        self.terminal.flush()?;
        loop {
            let Some(byte) = self.terminal.poll()? else {
                if wake() {
                    writeln!(self.terminal)?;
                    return Ok(Input::Woken);
                }
                self.host.idle();
                continue;
            };
            let mut written = Ok(());
            let terminal = &mut self.terminal;
            let key = self.editor.key(byte, &mut |echo| written = written.and(terminal.write(echo)));
            written?;
            self.terminal.flush()?;
            match key {
                Key::None => {}
                Key::Line => return Ok(Input::Line),
                Key::Interrupt => return Ok(Input::Interrupt),
                Key::TooLong => {
                    write!(
                        self.terminal,
                        "(that line has more than {LINE_BYTES} bytes; please shorten it)\n\n{prompt}"
                    )?;
                    self.terminal.flush()?;
                }
            }
        }
    }

    #[inline(never)]
    fn command<C: Card>(
        &mut self,
        command: Command<'_>,
        session: &mut Session<'_, C>,
    ) -> Result<Option<End>, Closed> {
        let out = &mut self.terminal;
        match command {
            Command::Help => out.write_str(HELP)?,
            Command::Stats => match &self.last {
                Some(costs) => report::details(costs, out)?,
                None => writeln!(out, "nothing has been answered yet")?,
            },
            Command::Model => report::model(session.manifest(), out)?,
            Command::Memory => {
                report::memory(session.engine().plan(), out)?;
                self.host.memory(out)?;
            }
            Command::Temperature(t) => {
                self.settings.sampler.temperature = t;
                session.sampler.temperature = t;
                writeln!(out, "the temperature is {}", Ratio((t * 1000.0) as u64, 1000))?;
            }
            Command::Seed(seed) => {
                self.settings.sampler.seed(seed);
                session.sampler.seed(seed);
                writeln!(out, "the seed is {seed}")?;
            }
            Command::Max(max) => {
                self.settings.max_tokens = max;
                writeln!(out, "an answer has {max} tokens at most")?;
            }
            Command::Reset => {
                session.reset();
                writeln!(out, "the conversation is forgotten")?;
            }
            Command::Bench => return self.bench(session),
            Command::Card => return Ok(Some(End::Reload)),
            Command::Pages => self.pages(session)?,
            Command::Unknown(name) => writeln!(out, "there is no /{name}; /help shows the commands")?,
            Command::Argument(found, must) => writeln!(out, "`{found}` is not {must}")?,
        }
        Ok(None)
    }

    /// The page debugger.
    #[inline(never)]
    fn pages<C: Card>(&mut self, session: &mut Session<'_, C>) -> Result<(), Closed> {
        writeln!(self.terminal, "the page debugger; H shows its keys")?;
        loop {
            if self.input("pages> ", &mut || false)? == Input::Interrupt {
                return Ok(());
            }
            let out = &mut self.terminal;
            match PageKey::parse(self.editor.line()) {
                PageKey::Status => pages::status(session.engine(), out)?,
                PageKey::Page(number) => pages::page(session.engine(), number, out)?,
                PageKey::Reset => {
                    session.engine_mut().vram_mut().reset_meta();
                    writeln!(out, "loads, retries and tags of all pages are forgotten")?;
                }
                PageKey::Help => out.write_str(pages::HELP)?,
                PageKey::Quit => return Ok(()),
                PageKey::Unknown => writeln!(out, "not a key of the debugger; H shows them")?,
            }
        }
    }

    /// Answers a message, or continues a text if the model was not trained to chat.
    #[inline(never)]
    fn answer<C: Card>(&mut self, line: &str, session: &mut Session<'_, C>) -> Result<Option<End>, Closed> {
        let mut buffer = [0; LINE_BYTES + TEMPLATE_BYTES];
        let chat = session.manifest().chat;
        let (prompt, until) = match &chat {
            Some(chat) => (fill(chat.user.as_str(), line, &mut buffer), chat.stop.as_str()),
            None => {
                session.reset();
                (line, "")
            }
        };
        loop {
            let (before, passes) = (*session.engine().vram().stats(), session.engine().passes());
            let (started, mut first) = (self.host.ticks(), None);
            let (terminal, host) = (&mut self.terminal, &mut self.host);
            let mut open = Ok(());
            let result = session.reply(prompt, until, self.settings.max_tokens, &mut |text| {
                if first.is_none() && !text.is_empty() {
                    first = host.ticks();
                }
                let stop = terminal
                    .write(text)
                    .and_then(|()| terminal.flush())
                    .and_then(|()| terminal.interrupted());
                open = stop.map(|_| ());
                stop == Ok(false)
            });
            open?;
            let end = self.host.ticks();
            let reply = match result {
                Ok(reply) => reply,
                // The conversation fills the context: forget it and answer once more.
                Err(Error::ContextFull { .. }) if chat.is_some() && !session.is_fresh() => {
                    session.reset();
                    writeln!(self.terminal, "(the conversation was too long and is forgotten)")?;
                    continue;
                }
                Err(error) => return self.failed(error),
            };
            let costs = Costs {
                reply,
                passes: session.engine().passes() - passes,
                stats: Costs::difference(session.engine().vram().stats(), &before),
                pinning: *session.engine().vram().pinning(),
                ticks: elapsed(started, first.or(end), end, self.host.ticks_per_second()),
            };
            writeln!(self.terminal, "\n({costs})")?;
            self.last = Some(costs);
            return Ok(None);
        }
    }

    /// Times passes of one token each.
    #[inline(never)]
    fn bench<C: Card>(&mut self, session: &mut Session<'_, C>) -> Result<Option<End>, Closed> {
        session.reset();
        let tokens = BENCH_TOKENS.min(session.engine().plan().context);
        let token = session.manifest().bos.unwrap_or(0);
        let before = *session.engine().vram().stats();
        let started = self.host.ticks();
        for _ in 0..tokens {
            if let Err(error) = session.engine_mut().step(&[token]).map(|_| ()) {
                session.reset();
                return self.failed(error);
            }
        }
        let end = self.host.ticks();
        session.reset();
        let stats = Costs::difference(session.engine().vram().stats(), &before);
        let n = u64::from(tokens.max(1));
        let out = &mut self.terminal;
        writeln!(
            out,
            "{tokens} tokens, {} pages in {} reads per token",
            Ratio(stats.streamed + stats.embedding + stats.sums, n),
            Ratio(stats.commands, n)
        )?;
        if let Some((_, ticks, per_second)) = elapsed(started, started, end, self.host.ticks_per_second()) {
            writeln!(
                out,
                "{} tokens/s; {} ticks of {} Hz per token",
                Ratio(n.saturating_mul(u64::from(per_second)), ticks),
                Grouped(ticks / n),
                Grouped(u64::from(per_second))
            )?;
        }
        Ok(None)
    }

    /// Says why there is no answer. The card may be the reason.
    fn failed(&mut self, error: Error) -> Result<Option<End>, Closed> {
        writeln!(self.terminal, "\nerror: {error}")?;
        match error {
            Error::Page(Fault { error: Some(ReadError::NoCard), .. }, _) => Ok(Some(End::CardGone)),
            _ => Ok(None),
        }
    }
}

impl<P: fmt::Debug, H> fmt::Debug for Console<P, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Ticks until the first token, from there to the end, and of a second.
fn elapsed(
    start: Option<u64>,
    first: Option<u64>,
    end: Option<u64>,
    per_second: u32,
) -> Option<(u64, u64, u32)> {
    let (start, first, end) = (start?, first?, end?);
    Some((first.saturating_sub(start), end.saturating_sub(first), per_second))
}

/// Puts a message into a chat template, in the place of `{}`.
fn fill<'a>(template: &str, message: &str, buffer: &'a mut [u8]) -> &'a str {
    let (before, after) = template.split_once("{}").unwrap_or(("", ""));
    let mut len = 0;
    for part in [before, message, after] {
        // A template has 96 bytes at most and a message LINE_BYTES: it fits.
        if let Some(room) = buffer.get_mut(len..len + part.len()) {
            room.copy_from_slice(part.as_bytes());
            len += part.len();
        }
    }
    buffer.get(..len).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
}
