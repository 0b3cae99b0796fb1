//! `pageformer chat`: the console of the boards, at the terminal of this PC.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pageformer_console::{Console, End, Host, HostCommand, LineEditor, Settings};
use pageformer_engine::Session;
use pageformer_sim::{Clock, Setup};
use pageformer_vram::Card;

use crate::card::CardArg;
use crate::place::{Place, within_board};
use crate::port::{Keys, StdPort};
use crate::session::{Generate, buffer, start, start_on_board};
use crate::ui::{bytes, parse_bytes};

/// Bytes of the line editor: a PC has room for longer lines than a board.
const EDITOR_BYTES: usize = 16 << 10;

/// Talks to the model of a card, in as much RAM as a board has. Ctrl-C stops an answer. Piped, it prints the
/// answers only.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    pageformer chat                                   # the default model, as on a board with 64 KB\n  \
    pageformer chat card/ --ram 96K --context 128\n  \
    pageformer chat --board esp32s3 --sd spi-20       # as fast as is predicted for that board\n  \
    echo 'Once upon a time' | pageformer chat card/\n\n\
    A line that is all in capitals is read as if it were in lower case.\n\
    A model without a chat template continues each line as a text of its own.")]
pub struct Chat {
    #[command(flatten)]
    card: CardArg,
    #[command(flatten)]
    generate: Generate,
    #[command(flatten)]
    place: Place,
    /// With --board: its memory plan, but the speed of this PC
    #[arg(long, requires = "board")]
    no_pace: bool,
}

impl Chat {
    pub fn run(self) -> Result<()> {
        self.generate.check()?;
        let mut generate = self.generate;
        generate.page_metadata = true;
        let board = self.place.setup()?.map(|setup| {
            let clock = if self.no_pace { Clock::default() } else { Clock::paced() };
            (setup, clock)
        });
        let default_ram = board.as_ref().map_or(self.card.default_ram(), |(setup, _)| setup.board.ram);
        let ram = generate.ram.unwrap_or(default_ram);
        let settings = Settings { max_tokens: generate.max_tokens, sampler: generate.sampler() };
        let model = Model { card: self.card, generate, board };
        // Whatever is wrong with the card is said before the terminal is taken over.
        model.fits(ram)?;
        let (port, keys) = StdPort::open()?;
        let host =
            Pc { model: model.clone(), ram, keys, started: Instant::now(), failed: false, reload: false };
        let mut console = Console::with_editor(LineEditor::<EDITOR_BYTES>::default(), port, host, settings);
        let mut asked = false;
        loop {
            let mut memory = buffer(console.host().ram);
            let (request, tuning) = (model.generate.request(), &model.generate.tuning);
            let end = match &model.board {
                None => talk(&mut console, start(&model.card, &mut memory, &request, tuning), asked),
                Some((setup, clock)) => {
                    let session = start_on_board(&model.card, &mut memory, &request, tuning, setup, clock);
                    talk(&mut console, session, asked)
                }
            };
            let end = if end == End::CardGone { console.wait(&mut || false) } else { end };
            if end == End::Closed {
                let Pc { keys, failed, .. } = console.host();
                keys.broken().context("cannot print")?;
                if *failed && !keys.person() {
                    bail!("not everything was answered, as said above");
                }
                return Ok(());
            }
            // Whoever types /card wants all of it to be looked at.
            asked = !std::mem::take(&mut console.host().reload);
        }
    }
}

/// The console at this PC's terminal.
type PcConsole = Console<StdPort, Pc, EDITOR_BYTES>;

/// Talks until the session ends.
fn talk<C: Card>(console: &mut PcConsole, session: Result<Session<'_, C>>, asked: bool) -> End {
    match session {
        Ok(mut session) => {
            match asked.then(|| console.verify(&mut session, true)) {
                None | Some(Ok(true)) => {}
                Some(Ok(false)) => return End::CardGone,
                Some(Err(_)) => return End::Closed,
            }
            if console.host().person() && console.banner(&session).is_err() {
                return End::Closed;
            }
            console.run(&mut session)
        }
        // The card was read before: it has been changed since.
        Err(error) => match console.error(format_args!("{error:#}")) {
            Ok(()) => End::CardGone,
            Err(_) => End::Closed,
        },
    }
}

/// What is talked to, and as if where.
#[derive(Clone)]
struct Model {
    card: CardArg,
    generate: Generate,
    board: Option<(Setup<'static>, Clock)>,
}

impl Model {
    /// Whether the model would start in so much RAM: a conversation is not given up for a plan that does not fit.
    fn fits(&self, ram: usize) -> Result<()> {
        if let Some((setup, _)) = &self.board {
            within_board(ram, setup)?;
        }
        let (mut memory, request) = (buffer(ram), self.generate.request());
        match &self.board {
            None => start(&self.card, &mut memory, &request, &self.generate.tuning).map(|_| ()),
            Some((setup, _)) => {
                // By a clock of its own: nobody waits for this.
                let clock = Clock::default();
                start_on_board(&self.card, &mut memory, &request, &self.generate.tuning, setup, &clock)
                    .map(|_| ())
            }
        }
    }
}

/// The PC around the console.
struct Pc {
    model: Model,
    /// Bytes of RAM that the model has.
    ram: usize,
    keys: Keys,
    started: Instant,
    /// Whether something went wrong.
    failed: bool,
    /// Whether the session is started anew for another reason than the card.
    reload: bool,
}

impl Pc {
    /// The clock of the board whose speed is kept, if one is.
    fn pace(&self) -> Option<&Clock> {
        self.model.board.as_ref().map(|(_, clock)| clock).filter(|clock| clock.is_paced())
    }
}

impl Host for Pc {
    /// Where a board's speed is kept, its clock's: nobody's pauses count, nor what this PC does meanwhile.
    fn ticks(&mut self) -> Option<u64> {
        let time = self.pace().map_or_else(|| self.started.elapsed(), Clock::now);
        Some(time.as_micros() as u64)
    }

    fn ticks_per_second(&self) -> u32 {
        1_000_000
    }

    fn idle(&mut self) {
        self.keys.wait();
        if let Some(clock) = self.pace() {
            clock.rest();
        }
    }

    fn memory(&mut self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "of {} that the model may take; /ram changes that", bytes(self.ram as u64))
    }

    fn person(&self) -> bool {
        self.keys.person()
    }

    fn interrupted(&mut self) -> Option<bool> {
        Some(self.keys.interrupted())
    }

    fn help(&self) -> &'static str {
        "/ram 32K        start again with so much RAM\n\
         /quit           end (or Ctrl-D)\n"
    }

    fn command(
        &mut self,
        name: &str,
        argument: &str,
        out: &mut dyn fmt::Write,
    ) -> Result<HostCommand, fmt::Error> {
        match name {
            "quit" | "exit" => return Ok(HostCommand::End(End::Closed)),
            "ram" => match parse_bytes(argument) {
                Ok(ram) => match self.model.fits(ram) {
                    Ok(()) => {
                        (self.ram, self.reload) = (ram, true);
                        return Ok(HostCommand::End(End::Reload));
                    }
                    Err(error) => writeln!(out, "{error:#}")?,
                },
                Err(error) => writeln!(out, "{error}")?,
            },
            _ => return Ok(HostCommand::Unknown),
        }
        Ok(HostCommand::Done)
    }

    fn error(&mut self, error: fmt::Arguments<'_>, out: &mut dyn fmt::Write) -> fmt::Result {
        if self.person() {
            return writeln!(out, "\nerror: {error}");
        }
        // The output is for answers alone.
        self.failed = true;
        eprintln!("error: {error}");
        Ok(())
    }

    fn place(&self) -> &'static str {
        if self.pace().is_some() { " as predicted for the board" } else { " on this PC" }
    }
}
