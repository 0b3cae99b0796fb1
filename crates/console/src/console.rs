//! The prompt, and what is typed there.

use core::fmt::{self, Write as _};

use embedded_io::{Read, ReadReady, Write};
use pageformer_engine::Session;
use pageformer_vram::Card;

use crate::command::Command;
use crate::editor::{EDITOR_BYTES, Key, LineEditor};
use crate::host::Host;
use crate::pages::{self, PageKey};
use crate::report::{self, Grouped};
use crate::talk::{Settings, Talk};
use crate::terminal::{Closed, Terminal};

/// Pages that are checked without being asked for: 4 MiB, which an SD card on SPI gives in some seconds.
const BOOT_PAGES: u32 = 8192;
/// Dots that show how far that is.
const DOTS: u64 = 16;

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
enum Typed {
    /// A line, in the editor.
    Line,
    Interrupt,
    /// Ctrl-D.
    EndOfInput,
    /// `wake` said so.
    Woken,
}

/// A person at a port, with an editor of `N` bytes.
pub struct Console<P, H, const N: usize = EDITOR_BYTES> {
    editor: LineEditor<N>,
    talk: Talk<P, H>,
}

impl<P: Read + ReadReady + Write, H: Host> Console<P, H> {
    /// A console over a port.
    pub fn new(port: P, host: H, settings: Settings) -> Self {
        Self::with_editor(LineEditor::default(), port, host, settings)
    }
}

impl<P: Read + ReadReady + Write, H: Host, const N: usize> Console<P, H, N> {
    /// A console over a port, with an editor for lines of other lengths.
    pub fn with_editor(editor: LineEditor<N>, port: P, host: H, settings: Settings) -> Self {
        Self { editor, talk: Talk { terminal: Terminal::new(port), host, settings, last: None } }
    }

    /// The terminal, to say something.
    pub fn terminal(&mut self) -> &mut Terminal<P> {
        &mut self.talk.terminal
    }

    /// The host.
    pub fn host(&mut self) -> &mut H {
        &mut self.talk.host
    }

    /// Says why there is no session.
    ///
    /// # Errors
    /// If the port is closed.
    pub fn error(&mut self, error: fmt::Arguments<'_>) -> Result<(), Closed> {
        Ok(self.talk.host.error(error, &mut self.talk.terminal)?)
    }

    /// Says what the model is and where the RAM goes, in a few lines.
    ///
    /// # Errors
    /// If the port is closed.
    #[inline(never)]
    pub fn banner<C: Card>(&mut self, session: &Session<'_, C>) -> Result<(), Closed> {
        let (manifest, plan, shape) = (session.manifest(), session.engine().plan(), session.engine().shape());
        let out = &mut self.talk.terminal;
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

    /// Holds every page of the card against its checksum and says how that went. Unless somebody `asked` for it, a card that takes
    /// long is left alone: its pages are checked whenever they are read. Ctrl-C ends it. `false` if a page is bad.
    ///
    /// # Errors
    /// If the port is closed.
    #[inline(never)]
    pub fn verify<C: Card>(&mut self, session: &mut Session<'_, C>, asked: bool) -> Result<bool, Closed> {
        let Talk { terminal, host, .. } = &mut self.talk;
        let pages = session.pages_to_verify();
        if pages > BOOT_PAGES && !asked {
            writeln!(
                terminal,
                "\n{} pages take long to check: each is checked whenever it is read, and /card checks them all",
                Grouped(pages.into())
            )?;
            return Ok(true);
        }
        write!(terminal, "\nchecking {} pages ", Grouped(pages.into()))?;
        let (mut dots, mut open) = (0, Ok(()));
        let result = session.verify(&mut |done| {
            while dots < u64::from(done) * DOTS / u64::from(pages.max(1)) {
                dots += 1;
                open = open.and(terminal.write(b"."));
            }
            let stop = open.and(terminal.flush()).and_then(|()| match host.interrupted() {
                Some(stop) => Ok(stop),
                None => terminal.interrupted(),
            });
            open = stop.map(|_| ());
            stop == Ok(false)
        });
        open?;
        match result {
            Ok(whole) => terminal.write(if whole { b" good\n" } else { b" stopped\n" })?,
            Err(error) => {
                terminal.write(b" bad\n")?;
                host.error(format_args!("{error}"), terminal)?;
            }
        }
        Ok(result.is_ok())
    }

    /// Talks until the card is to be read again, or is gone, or the port is closed.
    pub fn run<C: Card>(&mut self, session: &mut Session<'_, C>) -> End {
        session.sampler = self.talk.settings.sampler;
        self.talk.last = None;
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
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(Closed) => return End::Closed,
            }
        }
    }

    fn turn_without(&mut self, wake: &mut dyn FnMut() -> bool) -> Result<Option<End>, Closed> {
        let input = self.input("> ", wake)?;
        let out = &mut self.talk.terminal;
        match input {
            Typed::Woken => {
                writeln!(out, "a card was put in")?;
                return Ok(Some(End::Reload));
            }
            Typed::Interrupt => return Ok(None),
            Typed::EndOfInput => return self.talk.quit(),
            Typed::Line => {}
        }
        match self.editor.line() {
            "" => {}
            "/card" => return Ok(Some(End::Reload)),
            "/memory" => self.talk.host.memory(out)?,
            "/quit" => return self.talk.quit(),
            _ => writeln!(out, "there is no model yet; put a card in, or type /card to try again")?,
        }
        Ok(None)
    }

    fn turn<C: Card>(&mut self, session: &mut Session<'_, C>) -> Result<Option<End>, Closed> {
        match self.input("> ", &mut || false)? {
            Typed::Line => {}
            Typed::EndOfInput => return self.talk.quit(),
            Typed::Interrupt | Typed::Woken => return Ok(None),
        }
        match self.editor.line() {
            "" => Ok(None),
            line => match line.strip_prefix('/').map(Command::parse) {
                None => self.talk.answer(&mut self.editor, session),
                Some(Command::Pages) => self.pages(session).map(|()| None),
                Some(command) => self.talk.command(command, session),
            },
        }
    }

    /// Waits for a line.
    fn input(&mut self, prompt: &str, wake: &mut dyn FnMut() -> bool) -> Result<Typed, Closed> {
        let Talk { terminal, host, .. } = &mut self.talk;
        let person = host.person();
        if person {
            write!(terminal, "\n{prompt}")?;
            terminal.flush()?;
        }
        loop {
            let Some(byte) = terminal.poll()? else {
                if wake() {
                    writeln!(terminal)?;
                    return Ok(Typed::Woken);
                }
                host.idle();
                continue;
            };
            let mut written = Ok(());
            let key = self.editor.key(byte, &mut |echo| {
                if person {
                    written = written.and(terminal.write(echo));
                }
            });
            written?;
            terminal.flush()?;
            match key {
                Key::None => {}
                Key::Line => return Ok(Typed::Line),
                Key::Interrupt => return Ok(Typed::Interrupt),
                Key::EndOfInput => return Ok(Typed::EndOfInput),
                Key::TooLong => {
                    let most = LineEditor::<N>::MOST;
                    host.error(format_args!("a line has {most} bytes at most; please shorten it"), terminal)?;
                    if person {
                        write!(terminal, "\n{prompt}")?;
                        terminal.flush()?;
                    }
                }
            }
        }
    }

    /// The page debugger.
    #[inline(never)]
    fn pages<C: Card>(&mut self, session: &mut Session<'_, C>) -> Result<(), Closed> {
        writeln!(self.talk.terminal, "the page debugger; H shows its keys")?;
        loop {
            if self.input("pages> ", &mut || false)? != Typed::Line {
                return Ok(());
            }
            let out = &mut self.talk.terminal;
            let vram = session.engine_mut().vram_mut();
            match PageKey::parse(self.editor.line()) {
                PageKey::Status => pages::status(session.engine(), out)?,
                PageKey::Page(number) => pages::page(session.engine(), number, out)?,
                PageKey::Reset => {
                    vram.reset_meta();
                    writeln!(out, "loads, retries and tags of all pages are forgotten")?;
                    pages::save(vram, out)?;
                }
                PageKey::Write => pages::save(vram, out)?,
                PageKey::Tag(page, tag) => match vram.tag(page, tag) {
                    true => writeln!(out, "page {page} has tag {tag}")?,
                    false => writeln!(out, "nothing is kept of page {page}")?,
                },
                PageKey::Help => out.write_str(pages::HELP)?,
                PageKey::Quit => return Ok(()),
                PageKey::Unknown => writeln!(out, "not a key of the debugger; H shows them")?,
            }
        }
    }
}

impl<P, H, const N: usize> fmt::Debug for Console<P, H, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("settings", &self.talk.settings).finish_non_exhaustive()
    }
}
