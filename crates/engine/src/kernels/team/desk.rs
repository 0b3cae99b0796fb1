//! How work gets to helpers: one thread leaves it, others look for it, by atomics alone. Nobody is waited for who has not begun: a
//! helper that comes late finds nothing left.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{Team, Work};

/// Helpers may begin: the work is there, and something of it may be left.
const OPEN: u32 = 1 << 31;
/// The desk is in use. The other bits count the helpers that are at work.
const TAKEN: u32 = 1 << 30;

/// Where work is handed over: one piece of work at a time.
pub struct Desk {
    state: AtomicU32,
    /// Only written by who has set [`TAKEN`], while not [`OPEN`] and without helpers; only read by helpers that are counted.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    /// A helper did not come to the end of its call.
    failed: AtomicBool,
}

// SAFETY: `work` is shared out by `state`, as said there, and is `Sync` itself.
unsafe impl Sync for Desk {}

impl Default for Desk {
    fn default() -> Self {
        Self { state: AtomicU32::new(0), work: UnsafeCell::new(None), failed: AtomicBool::new(false) }
    }
}

impl Desk {
    /// [`Team::run`], with the helpers that call [`Self::help`] meanwhile. `wake` is called when there is something for them, `pause` as
    /// [`Team::pause`]. If the desk is in use, by another thread or by work that has work of its own, nobody helps.
    pub fn run(&self, work: &Work<'_>, wake: impl FnOnce(), pause: impl Fn(u32)) -> bool {
        if self.state.compare_exchange(0, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            work();
            return true;
        }
        // Closes the desk and waits for the helpers, even if `work` panics.
        struct Closing<'a, P: Fn(u32)>(&'a Desk, P);
        impl<P: Fn(u32)> Drop for Closing<'_, P> {
            fn drop(&mut self) {
                self.0.state.fetch_and(!OPEN, Ordering::Relaxed);
                let mut round = 0;
                while self.0.state.load(Ordering::Acquire) != TAKEN {
                    (self.1)(round);
                    round = round.saturating_add(1);
                }
                self.0.state.store(0, Ordering::Release);
            }
        }
        self.failed.store(false, Ordering::Relaxed);
        // SAFETY: the lifetime is only longer in name. Helpers use `work` while they are counted; they are counted only while the
        // desk is open; `closing` does not let this function end, by return or panic, before it is closed and nobody is counted.
        // Nobody else reads or writes the cell now: the desk was free, and is ours and not open.
        unsafe { *self.work.get() = Some(core::mem::transmute::<&Work<'_>, &'static Work<'static>>(work)) };
        let closing = Closing(self, pause);
        self.state.store(TAKEN | OPEN, Ordering::Release);
        wake();
        work();
        drop(closing);
        !self.failed.load(Ordering::Relaxed)
    }

    /// Whether there is work to help with.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OPEN != 0
    }

    /// Helps with the work that is there; `false` if there is none.
    pub fn help(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state & OPEN == 0
            || self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // From here on this thread is counted, until `helping` is dropped.
        struct Helping<'a>(&'a Desk, bool);
        impl Drop for Helping<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.failed.store(true, Ordering::Relaxed);
                }
                // Release: what was computed is there for who waits.
                self.0.state.fetch_sub(1, Ordering::Release);
            }
        }
        let mut helping = Helping(self, false);
        // SAFETY: the desk was open when this thread was counted, so the cell was written before and is not until it no longer is.
        if let Some(work) = unsafe { *self.work.get() } {
            work();
        }
        helping.1 = true;
        // Nothing is left: nobody else needs to look.
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        true
    }
}

/// Calls `work` once for each item, on whichever thread of the team comes first. Returns the iterator, which has said that there is
/// nothing more; `None` if a helper failed, and with it an item.
pub(crate) fn share<I>(team: &dyn Team, items: I, work: impl Fn(I::Item) + Sync) -> Option<I>
where
    I: Iterator + Send,
    I::Item: Send,
{
    let items = Turns::new(items);
    let fine = team.run(&|| {
        while let Some(item) = items.with(team, Iterator::next) {
            work(item);
        }
    });
    fine.then(|| items.into_inner())
}

/// Something that one thread at a time may have, for so short a time that the others wait in a loop.
struct Turns<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: only one thread at a time gets at the value, see `with`; `Send` lets it go from one to the next.
unsafe impl<T: Send> Sync for Turns<T> {}

impl<T> Turns<T> {
    fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    fn into_inner(self) -> T {
        self.value.into_inner()
    }

    fn with<R>(&self, team: &dyn Team, look: impl FnOnce(&mut T) -> R) -> R {
        struct Turn<'a>(&'a AtomicBool);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        let mut round = 0;
        while self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.taken.load(Ordering::Relaxed) {
                team.pause(round);
                round = round.saturating_add(1);
            }
        }
        let _turn = Turn(&self.taken);
        // SAFETY: `taken` was not set before, is now, and stays so until `_turn` is dropped, after `look`: no other reference exists.
        look(unsafe { &mut *self.value.get() })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::hint::spin_loop;
    use core::sync::atomic::AtomicUsize;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread::{self, current};
    use std::vec::Vec;

    /// A team of the threads that call `help` meanwhile.
    struct Several<'a>(&'a Desk);

    impl Team for Several<'_> {
        fn threads(&self) -> usize {
            3
        }

        fn run(&self, work: &Work<'_>) -> bool {
            self.0.run(work, || {}, |_| thread::yield_now())
        }

        fn pause(&self, _: u32) {
            thread::yield_now();
        }
    }

    /// Two helpers, while `body` runs.
    fn with_helpers<R>(body: impl FnOnce(&Desk) -> R) -> R {
        let (desk, over) = (Desk::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        // What a helper panics with is the test's own.
                        let _ = catch_unwind(AssertUnwindSafe(|| desk.help()));
                        thread::yield_now();
                    }
                });
            }
            let result = catch_unwind(AssertUnwindSafe(|| body(&desk)));
            over.store(true, Ordering::Relaxed);
            result.unwrap()
        })
    }

    #[test]
    fn every_item_is_taken_once_and_seen_by_all() {
        with_helpers(|desk| {
            for round in 0..3000usize {
                let mut places = std::vec![0; round % 40];
                let items = places.iter_mut().enumerate();
                let left = share(&Several(desk), items, |(i, place)| *place += round * i + 1);
                assert_eq!(left.map(Iterator::count), Some(0));
                assert!(places.iter().enumerate().all(|(i, place)| *place == round * i + 1));
            }
        });
    }

    /// Until a helper has come, the others wait: everybody really takes part.
    #[test]
    fn helpers_help() {
        with_helpers(|desk| {
            let leader = current().id();
            let helped = AtomicUsize::new(0);
            share(&Several(desk), 0..50, |_| {
                if current().id() != leader {
                    helped.fetch_add(1, Ordering::Relaxed);
                }
                while helped.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
            });
            assert!(helped.into_inner() > 0);
        });
    }

    #[test]
    fn a_helper_that_fails_is_noticed() {
        with_helpers(|desk| {
            let leader = current().id();
            let failed = AtomicBool::new(false);
            let left = share(&Several(desk), 0..50, |_| {
                if current().id() != leader {
                    failed.store(true, Ordering::Relaxed);
                    std::panic::resume_unwind(std::boxed::Box::new(()));
                }
                while !failed.load(Ordering::Relaxed) {
                    spin_loop();
                    thread::yield_now();
                }
            });
            assert!(left.is_none());
            // It is forgotten the next time.
            let sum = AtomicUsize::new(0);
            let add = |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            };
            assert!(share(&Several(desk), 0..50, add).is_some());
            assert_eq!(sum.into_inner(), 49 * 25);
        });
    }

    #[test]
    fn a_leader_that_fails_leaves_a_free_desk() {
        with_helpers(|desk| {
            for _ in 0..100 {
                let work = || std::panic::resume_unwind(std::boxed::Box::new(()));
                assert!(catch_unwind(AssertUnwindSafe(|| Several(desk).run(&work))).is_err());
                assert_eq!(desk.state.load(Ordering::Relaxed), 0);
            }
        });
    }

    /// Work within work, and two threads with work at once: one of them has no help, and both are done.
    #[test]
    fn a_desk_in_use_is_no_obstacle() {
        with_helpers(|desk| {
            let sums = |n: usize| {
                let sum = AtomicUsize::new(0);
                let add = |i| {
                    let inner = AtomicUsize::new(0);
                    share(&Several(desk), 0..=i, |j| {
                        inner.fetch_add(j, Ordering::Relaxed);
                    });
                    sum.fetch_add(inner.into_inner(), Ordering::Relaxed);
                };
                share(&Several(desk), 0..n, add).map(|_| sum.into_inner())
            };
            let right = |n: usize| Some((0..n).map(|i| i * (i + 1) / 2).sum());
            thread::scope(|scope| {
                let others: Vec<_> =
                    (0..2).map(|_| scope.spawn(|| (0..100).all(|n| sums(n) == right(n)))).collect();
                assert!((0..100).all(|n| sums(n) == right(n)));
                others.into_iter().for_each(|other| assert!(other.join().unwrap()));
            });
        });
    }
}
