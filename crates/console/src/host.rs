//! What the console wants from its surroundings besides the port.

use core::fmt;

use crate::End;

/// What a host makes of a command that the console does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostCommand {
    /// It does not know it either.
    Unknown,
    /// Done; what there is to say has been said.
    Done,
    /// The console comes back with this.
    End(End),
}

/// A clock, a few words about the memory, commands of its own. Every method has a default: [`NoHost`] is a host without
/// anything.
pub trait Host {
    /// Ticks of a clock that never goes back; `None` if there is no clock.
    fn ticks(&mut self) -> Option<u64> {
        None
    }

    /// Ticks of a second.
    fn ticks_per_second(&self) -> u32 {
        1
    }

    /// Called again and again while nobody types: the place to sleep until the next interrupt.
    fn idle(&mut self) {}

    /// What `/memory` says besides the memory plan, such as how deep the stack has been: whole lines.
    ///
    /// # Errors
    /// `out`'s.
    fn memory(&mut self, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = out;
        Ok(())
    }

    /// Whether a person is at the port. If not, as at a pipe, it gets answers only: no prompt, no echo, no statistics.
    fn person(&self) -> bool {
        true
    }

    /// Whether an answer is to be stopped, asked again and again while it comes. `None` leaves it to the port: Ctrl-C
    /// stops the answer, and what else is typed is dropped.
    fn interrupted(&mut self) -> Option<bool> {
        None
    }

    /// What `/help` says of this host's commands: whole lines.
    fn help(&self) -> &'static str {
        ""
    }

    /// A command that the console does not know, without its `/`. Ctrl-D at the beginning of a line is `quit`.
    ///
    /// # Errors
    /// `out`'s.
    fn command(
        &mut self,
        name: &str,
        argument: &str,
        out: &mut dyn fmt::Write,
    ) -> Result<HostCommand, fmt::Error> {
        let _ = (name, argument, out);
        Ok(HostCommand::Unknown)
    }

    /// Says why there is no answer.
    ///
    /// # Errors
    /// `out`'s.
    fn error(&mut self, error: fmt::Arguments<'_>, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "\nerror: {error}")
    }

    /// What follows "tokens/s" in the statistics, such as " on this PC".
    fn place(&self) -> &'static str {
        ""
    }
}

/// No clock, nothing to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl Host for NoHost {}
