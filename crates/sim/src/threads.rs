//! Threads of this PC that help the engine.

use std::hint::spin_loop;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pageformer_engine::kernels::{Desk, Team, Work};

/// How long a helper looks for work before it sleeps. Between two matrices there are some microseconds, between two tokens some more;
/// to wake a thread takes longer than most matrices.
const AWAKE: Duration = Duration::from_micros(500);
/// How often somebody who waits looks before others may have the processor: for about 20 microseconds.
const LOOKS: u32 = 1000;

/// Helpers, each a thread. They sleep when nothing is computed, and end when this is dropped.
pub struct Threads {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    desk: Desk,
    asleep: AtomicUsize,
    closed: AtomicBool,
}

impl Threads {
    /// As many threads as `all` says, the one that calls the engine among them.
    ///
    /// # Errors
    /// If the operating system has no more threads.
    pub fn new(all: usize) -> io::Result<Self> {
        let mut threads = Self { shared: Arc::default(), helpers: Vec::new() };
        for number in 1..all {
            let shared = threads.shared.clone();
            let helper = thread::Builder::new().name(format!("helper {number}"));
            threads.helpers.push(helper.spawn(move || shared.help())?);
        }
        Ok(threads)
    }
}

impl Shared {
    fn help(&self) {
        while !self.closed.load(Ordering::Relaxed) {
            if !self.look() {
                self.asleep.fetch_add(1, Ordering::SeqCst);
                // Who is called between the two sleeps the next time.
                if !self.desk.is_open() && !self.closed.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Looks for work for some time, and does it when there is some; `false` if there was none.
    fn look(&self) -> bool {
        let begun = Instant::now();
        let mut round = 0;
        while !self.desk.help() {
            if round % 64 == 63 && (begun.elapsed() > AWAKE || self.closed.load(Ordering::Relaxed)) {
                return false;
            }
            wait(round);
            round += 1;
        }
        true
    }
}

/// Waits a moment, the longer the more generously.
fn wait(round: u32) {
    if round < LOOKS { spin_loop() } else { thread::yield_now() }
}

impl Team for Threads {
    fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    fn run(&self, work: &Work<'_>) -> bool {
        let wake = || {
            if self.shared.asleep.load(Ordering::SeqCst) > 0 {
                self.helpers.iter().for_each(|helper| helper.thread().unpark());
            }
        };
        self.shared.desk.run(work, wake, |round| self.pause(round))
    }

    fn pause(&self, round: u32) {
        wait(round);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // One that panicked has said so.
            let _ = helper.join();
        }
    }
}
