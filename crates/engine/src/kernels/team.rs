//! Threads that help with a matrix. The engine starts none: whoever has some implements [`Team`], best with a [`Desk`].

#[cfg(feature = "threads")]
mod desk;

use core::hint::spin_loop;

#[cfg(feature = "threads")]
pub use desk::Desk;
#[cfg(feature = "threads")]
pub(crate) use desk::share;

/// What a thread does with its part of some work: takes the next piece, until none is left.
pub type Work<'a> = dyn Fn() + Sync + 'a;

/// Threads that may help. What they compute is the same to the bit, however many there are.
pub trait Team: Sync {
    /// How many threads there are with the one that asks, at most.
    fn threads(&self) -> usize;

    /// Calls `work` here, and at the same time on every helper that has time. Returns when all calls have, and says whether each
    /// came to its end.
    fn run(&self, work: &Work<'_>) -> bool;

    /// Waits a moment for another thread, for the time number `round` in a row.
    fn pause(&self, round: u32) {
        let _ = round;
        spin_loop();
    }
}
