//! `pageformer chat`: the console of the boards, at the terminal of this PC.

use std::fmt;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use pageformer_console::{Console, End, Host, HostCommand, LineEditor, Settings};

use crate::card::CardArg;
use crate::port::{Keys, StdPort};
use crate::session::{Generate, buffer, start};
use crate::ui::{bytes, parse_bytes};

/// Bytes of the line editor: a PC has room for longer lines than a board.
const EDITOR_BYTES: usize = 16 << 10;

/// Talks to the model of a card, in as much RAM as a board has. Ctrl-C stops an answer. Piped, it prints the
/// answers only.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    pageformer chat                                   # the default model, as on a board with 64 KB\n  \
    pageformer chat card/ --ram 96K --context 128\n  \
    echo 'Once upon a time' | pageformer chat card/\n\n\
    A model without a chat template continues each line as a text of its own.")]
pub struct Chat {
    #[command(flatten)]
    card: CardArg,
    #[command(flatten)]
    generate: Generate,
}

impl Chat {
    pub fn run(self) -> Result<()> {
        self.generate.check()?;
        let mut generate = self.generate;
        generate.page_metadata = true;
        let ram = generate.ram.unwrap_or(self.card.default_ram());
        // Whatever is wrong with the card is said before the terminal is taken over.
        start(&self.card, &mut buffer(ram), &generate.request(), &generate.tuning)?;
        let settings = Settings { max_tokens: generate.max_tokens, sampler: generate.sampler() };
        let (port, keys) = StdPort::open()?;
        let host = Pc { card: self.card.clone(), generate, ram, keys, started: Instant::now() };
        let editor = LineEditor::<EDITOR_BYTES>::default();
        let mut console = Console::with_editor(editor, port, host, settings);
        loop {
            let Pc { ram, generate, .. } = console.host();
            let (mut memory, generate) = (buffer(*ram), generate.clone());
            let end = match start(&self.card, &mut memory, &generate.request(), &generate.tuning) {
                Ok(mut session) => {
                    if console.host().person() && console.banner(&session).is_err() {
                        return Ok(());
                    }
                    console.run(&mut session)
                }
                // The card was read before: it has been changed since.
                Err(error) => match console.error(format_args!("{error:#}")) {
                    Ok(()) => End::CardGone,
                    Err(_) => End::Closed,
                },
            };
            let end = if end == End::CardGone { console.wait(&mut || false) } else { end };
            if end == End::Closed {
                return Ok(());
            }
        }
    }
}

/// The PC around the console.
struct Pc {
    card: CardArg,
    generate: Generate,
    /// Bytes of RAM that the model has.
    ram: usize,
    keys: Keys,
    started: Instant,
}

impl Pc {
    /// Whether the model would start in so much RAM: a conversation is not given up for a plan that does not fit.
    fn fits(&self, ram: usize) -> Result<()> {
        start(&self.card, &mut buffer(ram), &self.generate.request(), &self.generate.tuning).map(|_| ())
    }
}

impl Host for Pc {
    fn ticks(&mut self) -> Option<u64> {
        Some(self.started.elapsed().as_micros() as u64)
    }

    fn ticks_per_second(&self) -> u32 {
        1_000_000
    }

    fn idle(&mut self) {
        self.keys.wait();
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
                Ok(ram) => match self.fits(ram) {
                    Ok(()) => {
                        self.ram = ram;
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
        eprintln!("error: {error}");
        Ok(())
    }

    fn place(&self) -> &'static str {
        " on this PC"
    }
}
