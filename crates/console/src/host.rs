//! What the console wants from its surroundings besides the port.

use core::fmt;

/// A clock and a few words about the memory. Every method has a default: [`NoHost`] is a host without anything.
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
}

/// No clock, nothing to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl Host for NoHost {}
