//! A virtual clock, and a card that runs by it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pageformer_card::Page;
use pageformer_vram::{Card, CardFile, ReadError, WriteError};

/// Time that only passes when somebody says so. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    nanoseconds: Arc<AtomicU64>,
    /// For a clock that must not outrun real time.
    pace: Option<Arc<Mutex<Pace>>>,
}

#[derive(Debug)]
struct Pace {
    /// When it should be as late as the clock says.
    due: Instant,
    time: Box<dyn RealTime>,
}

/// Time that passes by itself.
trait RealTime: fmt::Debug + Send {
    fn now(&self) -> Instant;
    fn sleep(&self, time: Duration);
}

#[derive(Debug)]
struct System;

impl RealTime for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A paced clock lets its thread sleep when it is ahead by more than this.
const LEAD: Duration = Duration::from_millis(5);
/// By so much it may be behind, and hurries.
const ARREARS: Duration = Duration::from_millis(200);

impl Clock {
    /// A clock that holds up whoever lets time pass, so that it takes so long indeed. What the PC itself needs, or
    /// does meanwhile, counts.
    pub fn paced() -> Self {
        Self::paced_by(System)
    }

    fn paced_by(time: impl RealTime + 'static) -> Self {
        let pace = Pace { due: time.now(), time: Box::new(time) };
        Self { pace: Some(Arc::new(Mutex::new(pace))), ..Self::default() }
    }

    /// Whether it holds up whoever lets time pass.
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// Time since the clock was made.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        if let Some(pace) = &self.pace {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            let now = pace.time.now();
            // What a sleep was too long is made up for, if it is not much.
            pace.due = pace.due.max(now.checked_sub(ARREARS).unwrap_or(now)) + time;
            let lead = pace.due.saturating_duration_since(now);
            if lead > LEAD {
                pace.time.sleep(lead);
            }
        }
    }

    /// For a clock that holds up: what was until now is no reason to hurry. Called while nothing is to be done.
    pub fn rest(&self) {
        if let Some(pace) = &self.pace {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.due = pace.due.max(pace.time.now());
        }
    }

    /// Waits until it is `time`, unless it is later already.
    pub fn wait_until(&self, time: Duration) {
        self.pass(time.saturating_sub(self.now()));
    }
}

/// What reads take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For each command, however long the run is that it reads.
    pub command: Duration,
    /// For each page.
    pub page: Duration,
    /// Pages of the pieces that the files lie in; each piece of a run takes a command of its own. `None`: every file is one piece.
    pub piece: Option<u32>,
}

impl Timing {
    /// What a run of pages takes.
    pub fn of(&self, first: u32, pages: u32) -> Duration {
        let commands = match self.piece {
            Some(piece) if piece > 0 && pages > 0 => (first + pages - 1) / piece - first / piece + 1,
            _ => 1,
        };
        self.command * commands + self.page * pages
    }
}

/// Pages that are announced and remembered.
const ANNOUNCED: usize = 2;

/// A run that the card reads by itself.
#[derive(Debug)]
struct Begun {
    file: CardFile,
    first: u32,
    pages: u32,
    /// When it begins to be read, unless something that is waited for comes first, and when it is there.
    start: Duration,
    done: Duration,
}

/// A card by a virtual clock: reading takes what [`Timing`] says, and nothing is slowed down. It can be one that reads ahead: then
/// it reads one run after the other while the processor, by the same clock, does something else.
#[derive(Debug)]
pub struct Timed<C> {
    card: C,
    timing: Timing,
    clock: Clock,
    read_ahead: u32,
    check: Duration,
    begun: VecDeque<Begun>,
    /// Pages that were announced, and when each is there.
    pages: VecDeque<(CardFile, u32, Duration)>,
    /// When the card is done with all that it was told.
    free: Duration,
    busy: Duration,
    checking: Duration,
}

impl<C> Timed<C> {
    /// A card that reads while it is waited for.
    pub fn new(card: C, timing: Timing, clock: Clock) -> Self {
        let (begun, free, busy) = (VecDeque::new(), Duration::ZERO, Duration::ZERO);
        Self {
            card,
            timing,
            clock,
            read_ahead: 0,
            check: Duration::ZERO,
            begun,
            pages: VecDeque::new(),
            free,
            busy,
            checking: Duration::ZERO,
        }
    }

    /// Lets it read up to `pages` pages before they are asked for.
    pub fn with_read_ahead(self, pages: u32) -> Self {
        Self { read_ahead: pages, ..self }
    }

    /// Lets the processor take so long for each page when it gets it, for checking it and for copying it from where it was read to.
    pub fn with_check(self, page: Duration) -> Self {
        Self { check: page, ..self }
    }

    /// Time that was spent reading until now.
    pub fn busy(&self) -> Duration {
        // What was begun and not read yet is read without a pause.
        self.busy.saturating_sub(self.free.saturating_sub(self.clock.now()))
    }

    /// Time that the processor spent checking pages.
    pub fn checking(&self) -> Duration {
        self.checking
    }

    /// Pages that were waited for.
    fn deliver(&mut self, done: Duration, pages: &[Page]) {
        self.clock.wait_until(done);
        let check = self.check * pages.len() as u32;
        self.checking += check;
        self.clock.pass(check);
    }

    /// Reads behind everything else; returns when that begins and ends.
    fn queue(&mut self, first: u32, pages: u32) -> (Duration, Duration) {
        let time = self.timing.of(first, pages);
        let start = self.free.max(self.clock.now());
        self.free = start + time;
        self.busy += time;
        (start, self.free)
    }

    /// Reads before all that has not begun to be read; returns when that ends.
    fn interpose(&mut self, first: u32, pages: u32) -> Duration {
        let (now, time) = (self.clock.now(), self.timing.of(first, pages));
        let later = self.begun.iter().position(|run| run.start > now).unwrap_or(self.begun.len());
        let start = match self.begun.get(later) {
            Some(next) => next.start,
            None => self.free.max(now),
        };
        for run in self.begun.iter_mut().skip(later) {
            run.start += time;
            run.done += time;
        }
        self.free = self.free.max(now) + time;
        self.busy += time;
        start + time
    }
}

impl<C: Card> Card for Timed<C> {
    fn bytes(&self, file: CardFile) -> u64 {
        self.card.bytes(file)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let announced = self.pages.iter().position(|page| (page.0, page.1, 1) == (file, first, pages.len()));
        let done = match announced.and_then(|at| self.pages.remove(at)) {
            Some((_, _, done)) => done,
            None => self.interpose(first, pages.len() as u32),
        };
        self.deliver(done, pages);
        self.card.read(file, first, pages)
    }

    fn read_ahead(&self) -> u32 {
        self.read_ahead
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        let known = self.pages.iter().any(|(of, number, _)| (*of, *number) == (file, page));
        if self.read_ahead > 0 && !known {
            if self.pages.len() == ANNOUNCED {
                self.pages.pop_front();
            }
            let done = self.interpose(page, 1);
            self.pages.push_back((file, page, done));
        }
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        let announced = self.pages.iter().find(|(of, number, _)| (*of, *number) == (file, page));
        announced.is_none_or(|(_, _, done)| *done <= self.clock.now())
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        let waiting: u32 = self.begun.iter().map(|begun| begun.pages).sum();
        if waiting + pages <= self.read_ahead {
            let (start, done) = self.queue(first, pages);
            self.begun.push_back(Begun { file, first, pages, start, done });
        }
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        while let Some(begun) = self.begun.pop_front() {
            if (begun.file, begun.first, begun.pages as usize) == (file, first, pages.len()) {
                self.deliver(begun.done, pages);
                return self.card.read(file, first, pages);
            }
        }
        self.read(file, first, pages)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        self.card.write_meta(first, pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryCard;

    const MS: Duration = Duration::from_millis(1);

    /// Real time of a test's own, in which every sleep is as much too long.
    #[derive(Clone, Debug)]
    struct Told {
        now: Arc<Mutex<Instant>>,
        too_long: Duration,
        sleeps: Arc<AtomicU64>,
    }

    impl Told {
        fn with(too_long: Duration) -> Self {
            Self { now: Arc::new(Mutex::new(Instant::now())), too_long, sleeps: Arc::default() }
        }
    }

    impl RealTime for Told {
        fn now(&self) -> Instant {
            *self.now.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            *self.now.lock().unwrap() += time + self.too_long;
            self.sleeps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Real time that 40 steps of 10 ms take behind a pause, by a clock that rests in it or not.
    fn behind_a_pause(pause: Duration, rests: bool, too_long: Duration) -> Duration {
        let time = Told::with(too_long);
        let clock = Clock::paced_by(time.clone());
        assert!(clock.is_paced() && !Clock::default().is_paced());
        clock.pass(50 * MS);
        *time.now.lock().unwrap() += pause;
        if rests {
            clock.rest();
        }
        let (begin, virtual_begin) = (time.now(), clock.now());
        for _ in 0..40 {
            clock.clone().pass(10 * MS);
        }
        assert_eq!(clock.now() - virtual_begin, 400 * MS);
        time.now() - begin
    }

    #[test]
    fn a_paced_clock_is_as_slow_after_a_pause() {
        for too_long in [Duration::ZERO, MS] {
            let took = behind_a_pause(300 * MS, true, too_long);
            assert!((400 * MS..=400 * MS + too_long).contains(&took), "{took:?}");
        }
        // Time that went by while it was busy is made up for, but no more than a little of it.
        assert_eq!(behind_a_pause(100 * MS, false, Duration::ZERO), 300 * MS);
        assert_eq!(behind_a_pause(300 * MS, false, Duration::ZERO), 400 * MS - ARREARS);
    }

    #[test]
    fn short_steps_are_paced_together() {
        let time = Told::with(Duration::ZERO);
        let clock = Clock::paced_by(time.clone());
        let begin = time.now();
        for _ in 0..1000 {
            clock.pass(MS / 10);
            let lead = (begin + clock.now()).saturating_duration_since(time.now());
            assert!(lead <= LEAD, "{lead:?}");
        }
        assert_eq!(clock.now(), 100 * MS);
        assert!((15..25).contains(&time.sleeps.load(Ordering::Relaxed)), "{time:?}");
    }

    fn card(read_ahead: u32, piece: Option<u32>) -> (Timed<MemoryCard>, Clock) {
        let (clock, card) = (
            Clock::default(),
            MemoryCard { weights: vec![0; 512 * 64], tokenizer: vec![0; 512 * 8], ..MemoryCard::default() },
        );
        let timing = Timing { command: 2 * MS, page: MS, piece };
        (Timed::new(card, timing, clock.clone()).with_read_ahead(read_ahead), clock)
    }

    #[test]
    fn what_is_begun_takes_no_time_while_something_else_does() {
        let (mut card, clock) = card(8, None);
        let pages = &mut [[0; 512]; 4][..];
        card.begin_read(CardFile::Weights, 0, 4); // done at 6
        card.begin_read(CardFile::Weights, 4, 4); // at 12
        card.begin_read(CardFile::Weights, 8, 1); // no room: read when it is asked for
        clock.pass(5 * MS);
        card.finish_read(CardFile::Weights, 0, pages).unwrap();
        assert_eq!(
            (clock.now(), card.busy()),
            (6 * MS, 6 * MS),
            "what is still to be read does not count yet"
        );
        clock.pass(10 * MS);
        card.finish_read(CardFile::Weights, 4, pages).unwrap();
        assert_eq!(clock.now(), 16 * MS);
        card.finish_read(CardFile::Weights, 8, &mut pages[..1]).unwrap();
        assert_eq!((clock.now(), card.busy()), (19 * MS, 15 * MS));
    }

    #[test]
    fn what_is_waited_for_comes_before_what_has_not_begun() {
        let (mut card, clock) = card(8, None);
        let pages = &mut [[0; 512]; 4][..];
        card.begin_read(CardFile::Weights, 0, 4); // begins at once, done at 6
        card.begin_read(CardFile::Weights, 4, 4); // at 12, and then at 15
        clock.pass(MS);
        card.read(CardFile::Weights, 20, &mut pages[..1]).unwrap();
        assert_eq!(clock.now(), 9 * MS);
        card.finish_read(CardFile::Weights, 0, pages).unwrap();
        assert_eq!(clock.now(), 9 * MS);
        card.finish_read(CardFile::Weights, 4, pages).unwrap();
        assert_eq!((clock.now(), card.busy()), (15 * MS, 15 * MS));
        card.read(CardFile::Weights, 20, &mut pages[..1]).unwrap();
        assert_eq!(clock.now(), 18 * MS);
    }

    #[test]
    fn a_page_that_was_announced_is_read_meanwhile() {
        let (mut card, clock) = card(8, None);
        let pages = &mut [[0; 512]; 4][..];
        card.begin_read(CardFile::Weights, 0, 4); // begins at once, done at 6
        card.begin_read(CardFile::Weights, 4, 4); // at 12, and then at 15
        card.begin_page(CardFile::Tokenizer, 7); // at 9
        clock.pass(MS);
        card.read(CardFile::Weights, 20, &mut pages[..1]).unwrap(); // at 12, and the second run at 18
        assert_eq!(clock.now(), 12 * MS);
        card.read(CardFile::Tokenizer, 7, &mut pages[..1]).unwrap();
        card.finish_read(CardFile::Weights, 0, pages).unwrap();
        assert_eq!(clock.now(), 12 * MS);
        card.finish_read(CardFile::Weights, 4, pages).unwrap();
        assert_eq!((clock.now(), card.busy()), (18 * MS, 18 * MS));
        // It was read once: the next time takes as long as any other read.
        card.read(CardFile::Tokenizer, 7, &mut pages[..1]).unwrap();
        assert_eq!(clock.now(), 21 * MS);
    }

    #[test]
    fn what_is_not_asked_for_is_dropped() {
        let (mut card, clock) = card(8, None);
        let pages = &mut [[0; 512]; 4][..];
        card.begin_read(CardFile::Weights, 0, 4); // done at 6
        clock.pass(MS);
        card.finish_read(CardFile::Weights, 4, pages).unwrap(); // was not begun: read now
        assert_eq!(clock.now(), 12 * MS);
        card.finish_read(CardFile::Weights, 0, pages).unwrap(); // was dropped: read again
        assert_eq!(clock.now(), 18 * MS);
    }

    #[test]
    fn each_piece_takes_a_command() {
        let timing = card(0, Some(8)).0.timing;
        assert_eq!(timing.of(0, 8), 10 * MS);
        assert_eq!(timing.of(7, 2), 6 * MS);
        assert_eq!(timing.of(7, 10), 16 * MS);
    }
}
