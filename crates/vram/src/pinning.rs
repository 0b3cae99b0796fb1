//! Which pages of the tape stay in memory.
//!
//! The tape of `P` pages is divided into *periods*; each begins with one run of streamed pages and ends with
//! one run of pinned pages. A run never exceeds the ring, so a run is one read; there are as few as the ring
//! allows. Both kinds are spread evenly, so that while the pinned part of a period is used there is time to
//! read the next run.

use core::ops::Range;

/// The division of a tape into pinned and streamed pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// Pages of the tape.
    pub tape: u32,
    /// Pages that stay in memory.
    pub pinned: u32,
    /// Pages of the ring: the longest run that is read at once.
    pub ring: u32,
}

/// What reading takes, for the choice of how long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// A command, however many pages it reads, in any unit.
    pub command: u32,
    /// A page, in the same unit.
    pub page: u32,
    /// Pages of a command at most.
    pub longest: u32,
}

impl Reads {
    /// The same for a card that holds up to `pages` pages which it has read before they are asked for: runs are then short enough for several of them.
    /// 0 is a card that does not.
    pub fn ahead(self, pages: u32) -> Self {
        let longest = if pages > 0 { (pages / RUNS_AHEAD).max(1) } else { u32::MAX };
        Self { longest: longest.min(self.longest), ..self }
    }

    /// What reading so many pages by so many commands takes.
    pub fn cost(&self, pages: u32, commands: u32) -> u64 {
        (u64::from(pages) * u64::from(self.page))
            .saturating_add(u64::from(commands) * u64::from(self.command))
    }
}

impl Default for Reads {
    /// SD over SPI at 20 MHz moves a page in 0.3 ms (1.67 MB/s), and single-page reads run at about a third of that speed: a command costs what two
    /// pages do.
    fn default() -> Self {
        Self { command: 2, page: 1, longest: u32::MAX }
    }
}

/// Runs that a card which reads ahead should hold besides the one that is in the ring: one that is read while the other waits to be taken. With
/// three, which are shorter, commands took more than was gained where computing takes longer for some pages (those that attention follows).
pub(crate) const RUNS_AHEAD: u32 = 2;

impl Pinning {
    /// Divides `frames` page frames between the pinned set and the ring. All pages are pinned when they fit;
    /// otherwise a larger ring means fewer commands but one more page to stream for each of its frames, and
    /// the sum is least at `ring² = streamed · cost of a command`. `None` when there is no frame at all.
    pub fn new(tape: u32, frames: u32, reads: &Reads) -> Option<Self> {
        if frames >= tape {
            return Some(Self { tape, pinned: tape, ring: 0 });
        }
        if frames == 0 {
            return None;
        }
        let commands = u64::from(tape - frames) * u64::from(reads.command) / u64::from(reads.page.max(1));
        let ring = (commands.isqrt() as u32).min(reads.longest).clamp(1, frames);
        Some(Self { tape, pinned: frames - ring, ring })
    }

    /// A division for pinned pages in memory of their own, `frames` of them, and a ring of up to `most` frames elsewhere: there,
    /// a longer ring costs no pinned page. `None` when there is no frame for a ring that is needed.
    pub fn apart(tape: u32, frames: u32, most: u32, reads: &Reads) -> Option<Self> {
        let pinned = frames.min(tape);
        let ring = most.min(tape - pinned).min(reads.longest);
        (ring > 0 || pinned == tape).then_some(Self { tape, pinned, ring })
    }

    /// Pages that each pass streams.
    pub fn streamed(&self) -> u32 {
        self.tape - self.pinned
    }

    /// Number of periods: of read commands in each pass.
    pub fn periods(&self) -> u32 {
        if self.ring == 0 { 0 } else { self.streamed().div_ceil(self.ring) }
    }

    /// Streamed and pinned pages before period `period`.
    fn before(&self, period: u32) -> (u32, u32) {
        let periods = self.periods();
        if periods == 0 {
            return (0, 0);
        }
        let share = |all: u32| match all.checked_mul(period) {
            Some(product) => product / periods,
            // A processor of 32 bits divides such numbers in software.
            None => (u64::from(all) * u64::from(period) / u64::from(periods)) as u32,
        };
        (share(self.streamed()), share(self.pinned))
    }

    /// Streamed and pinned pages of period `period` on the tape, and the frame of the first pinned one. Pinned pages lie in their frames
    /// in tape order.
    pub(crate) fn runs(&self, period: u32) -> (Range<u32>, Range<u32>, u32) {
        if self.periods() == 0 {
            return (0..0, 0..self.tape, 0);
        }
        let ((streamed, frame), (end, end_frame)) = (self.before(period), self.before(period + 1));
        (streamed + frame..end + frame, end + frame..end + end_frame, frame)
    }

    /// Streamed pages of period `period` on the tape.
    pub fn streamed_run(&self, period: u32) -> Range<u32> {
        self.runs(period).0
    }

    /// Pinned pages of period `period` on the tape.
    pub fn pinned_run(&self, period: u32) -> Range<u32> {
        self.runs(period).1
    }

    /// Frame of the first pinned page of period `period`.
    pub fn frame_of_run(&self, period: u32) -> u32 {
        self.runs(period).2
    }

    /// The period that `page` belongs to; `near` is a first guess.
    pub fn period_of(&self, page: u32, near: u32) -> u32 {
        let periods = self.periods();
        if periods == 0 {
            return 0;
        }
        let start = |period| {
            let (streamed, pinned) = self.before(period);
            streamed + pinned
        };
        let holds = |period: &u32| (start(*period)..start(*period + 1)).contains(&page);
        // Mostly, the pages of a period follow those of the one before it.
        if let Some(period) = [near.saturating_add(1), near].into_iter().find(|at| *at < periods && holds(at))
        {
            return period;
        }
        // Even spreading makes the proportional guess off by one at most.
        let guess = (u64::from(page) * u64::from(periods) / u64::from(self.tape)) as u32;
        let from = guess.saturating_sub(2);
        (from..periods).find(holds).unwrap_or(periods - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_page_is_in_one_run(
            tape in 1u32..3000,
            frames in 1u32..3200,
            command in 0u32..100,
            page in 0u32..10,
            longest in 0u32..50,
        ) {
            let pinning = Pinning::new(tape, frames, &Reads { command, page, longest }).unwrap();
            prop_assert!(pinning.pinned + pinning.ring <= frames.max(tape));
            let (mut next, mut pinned) = (0, 0);
            for period in 0..pinning.periods().max(1) {
                let (streamed, kept) = (pinning.streamed_run(period), pinning.pinned_run(period));
                prop_assert!(streamed.len() as u32 <= pinning.ring);
                prop_assert_eq!(streamed.start, if pinning.periods() == 0 { 0 } else { next });
                prop_assert_eq!(pinning.frame_of_run(period), pinned);
                pinned += kept.len() as u32;
                for page in streamed.clone().chain(kept.clone()) {
                    prop_assert_eq!(page, next);
                    for near in [0, period, period.saturating_sub(1), 7] {
                        prop_assert_eq!(pinning.period_of(page, near), period);
                    }
                    next += 1;
                }
            }
            prop_assert_eq!(next, tape);
            prop_assert_eq!(pinned, pinning.pinned);
        }
    }

    #[test]
    fn all_is_pinned_when_all_fits() {
        assert_eq!(Pinning::new(10, 10, &Reads::default()), Some(Pinning { tape: 10, pinned: 10, ring: 0 }));
        assert_eq!(Pinning::new(10, 0, &Reads::default()), None);
        assert_eq!(Pinning::new(10, 1, &Reads::default()), Some(Pinning { tape: 10, pinned: 0, ring: 1 }));
    }
}
