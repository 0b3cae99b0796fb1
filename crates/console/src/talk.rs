//! What the commands do, and the answers.

use core::fmt::Write as _;

use embedded_io::{Read, ReadReady, Write};
use pageformer_engine::{Error, Sampler, Session};
use pageformer_vram::{Card, Fault, ReadError};

use crate::command::{Command, HELP};
use crate::console::End;
use crate::editor::LineEditor;
use crate::host::{Host, HostCommand};
use crate::report::{self, Costs, Grouped, Ratio};
use crate::terminal::{Closed, Terminal};

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

/// Everything of a console but the line that is being typed.
pub(crate) struct Talk<P, H> {
    pub terminal: Terminal<P>,
    pub host: H,
    pub settings: Settings,
    /// What the last answer took.
    pub last: Option<Costs>,
}

impl<P: Read + ReadReady + Write, H: Host> Talk<P, H> {
    #[inline(never)]
    pub fn command<C: Card>(
        &mut self,
        command: Command<'_>,
        session: &mut Session<'_, C>,
    ) -> Result<Option<End>, Closed> {
        let out = &mut self.terminal;
        match command {
            Command::Help => {
                out.write_str(HELP)?;
                out.write_str(self.host.help())?;
            }
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
            Command::Other(name, argument) => return self.other(name, argument),
            Command::Argument(found, must) => writeln!(out, "`{found}` is not {must}")?,
            // The console's, which has the line editor that it needs.
            Command::Pages => {}
        }
        Ok(None)
    }

    /// Ctrl-D, or `/quit` while there is no session: ends if the host has an end.
    pub fn quit(&mut self) -> Result<Option<End>, Closed> {
        Ok(match self.host.command("quit", "", &mut self.terminal)? {
            HostCommand::End(end) => Some(end),
            _ => None,
        })
    }

    /// A command that the host may know.
    fn other(&mut self, name: &str, argument: &str) -> Result<Option<End>, Closed> {
        let out = &mut self.terminal;
        match self.host.command(name, argument, out)? {
            HostCommand::Unknown => writeln!(out, "there is no /{name}; /help shows the commands")?,
            HostCommand::Done => {}
            HostCommand::End(end) => return Ok(Some(end)),
        }
        Ok(None)
    }

    /// Answers the editor's line, or continues it if the model was not trained to chat.
    #[inline(never)]
    pub fn answer<C: Card, const N: usize>(
        &mut self,
        editor: &mut LineEditor<N>,
        session: &mut Session<'_, C>,
    ) -> Result<Option<End>, Closed> {
        let person = self.host.person();
        let chat = session.manifest().chat;
        let (prompt, until) = match &chat {
            Some(chat) => (editor.within(chat.around()), chat.stop.as_str()),
            None => {
                session.reset();
                (editor.line(), "")
            }
        };
        loop {
            let (before, passes) = (*session.engine().vram().stats(), session.engine().passes());
            let speculated = *session.speculated();
            let (started, mut first) = (self.host.ticks(), None);
            let (terminal, host) = (&mut self.terminal, &mut self.host);
            let mut open = Ok(());
            let result = session.reply(prompt, until, self.settings.max_tokens, &mut |text| {
                if first.is_none() && !text.is_empty() {
                    first = host.ticks();
                }
                let stop = terminal.write(text).and_then(|()| terminal.flush()).and_then(|()| {
                    match host.interrupted() {
                        Some(stop) => Ok(stop),
                        None => terminal.interrupted(),
                    }
                });
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
                    if person {
                        writeln!(self.terminal, "(the conversation was too long and is forgotten)")?;
                    }
                    continue;
                }
                Err(error) => return self.failed(error),
            };
            let costs = Costs {
                reply,
                passes: session.engine().passes() - passes,
                stats: session.engine().vram().stats().since(&before),
                speculated: session.speculated().since(&speculated),
                pinning: *session.engine().vram().pinning(),
                ticks: elapsed(started, first.or(end), end, self.host.ticks_per_second()),
                place: self.host.place(),
            };
            writeln!(self.terminal)?;
            if person {
                writeln!(self.terminal, "({costs})")?;
            }
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
        let stats = session.engine().vram().stats().since(&before);
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
        self.host.error(format_args!("{error}"), &mut self.terminal)?;
        match error {
            Error::Page(Fault { error: Some(ReadError::NoCard), .. }, _) => Ok(Some(End::CardGone)),
            _ => Ok(None),
        }
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
