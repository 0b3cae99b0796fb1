//! Which pages of the tape stay in memory.
//!
//! The tape of `P` pages is divided into *periods*; each begins with one run of streamed pages and ends with
//! one run of pinned pages. A run never exceeds the ring, so a run is one read; there are as few as the ring
//! allows. Both kinds are spread evenly, so that while the pinned part of a period is used there is time to
//! read the next run. The pinned pages of a front that some passes end behind can lie closer than the others; if all
//! of its pages are pinned, each period begins with its pinned run, so that nothing is streamed in front of them.

use core::ops::Range;

/// The division of a tape into pinned and streamed pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinning {
    /// Pages of the tape.
    pub tape: u32,
    /// Pages that stay in memory.
    pub pinned: u32,
    /// Pages of the ring: the longest run that is read at once.
    pub ring: u32,
    /// Where pinned pages lie closer than behind it.
    pub front: Front,
}

/// The first periods of a tape, and the pinned pages that are spread over them. With none, all of the tape is alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// Periods; none, if all pages of the front are pinned: then each period begins with its pinned pages, and the first of them is the front.
    pub periods: u32,
    /// Pinned pages of these.
    pub pinned: u32,
}

/// Steps from pinned pages that are spread evenly to as many of them in the front as it has pages, for [`Pinning::favour`].
pub const FAVOURS: u32 = 8;

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
            return Some(Self { tape, pinned: tape, ..Self::default() });
        }
        if frames == 0 {
            return None;
        }
        let commands = u64::from(tape - frames) * u64::from(reads.command) / u64::from(reads.page.max(1));
        let ring = (commands.isqrt() as u32).min(reads.longest).clamp(1, frames);
        Some(Self { tape, pinned: frames - ring, ring, ..Self::default() })
    }

    /// A division for pinned pages in memory of their own, `frames` of them, and a ring of up to `most` frames elsewhere: there,
    /// a longer ring costs no pinned page. `None` when there is no frame for a ring that is needed.
    pub fn apart(tape: u32, frames: u32, most: u32, reads: &Reads) -> Option<Self> {
        let pinned = frames.min(tape);
        let ring = most.min(tape - pinned).min(reads.longest);
        (ring > 0 || pinned == tape).then_some(Self { tape, pinned, ring, ..Self::default() })
    }

    /// The same with more of the pinned pages among the first `pages`, which are read more often than the others: `steps` of [`FAVOURS`] steps from as many as
    /// come to lie there by even spreading to as many as there can be.
    #[must_use]
    pub fn favour(self, pages: u32, steps: u32) -> Self {
        let (pages, streamed) = (pages.min(self.tape), self.streamed());
        if steps == 0 || streamed == 0 {
            return Self { front: Front::default(), ..self };
        }
        let even = share(self.pinned, pages, self.tape);
        let pinned = even + share(self.pinned.min(pages).saturating_sub(even), steps.min(FAVOURS), FAVOURS);
        // Whole runs, as many as come nearest.
        let nearest = share((pages - pinned).saturating_mul(2), self.periods(), streamed).div_ceil(2).max(1);
        let periods = if pinned == pages { 0 } else { nearest };
        let front = match nearest < self.periods() {
            true => Front { periods, pinned },
            false => Front::default(),
        };
        Self { front, ..self }
    }

    /// Pages that each pass streams.
    pub fn streamed(&self) -> u32 {
        self.tape - self.pinned
    }

    /// Number of periods: of read commands in each pass.
    pub fn periods(&self) -> u32 {
        if self.ring == 0 { 0 } else { self.streamed().div_ceil(self.ring) }
    }

    /// Streamed and pinned pages in front of period `period`, of `all` that there are.
    fn before(&self, period: u32, all: u32) -> (u32, u32) {
        let Front { periods, pinned } = self.front;
        let periods = periods.max(u32::from(self.begins_pinned()));
        let pinned = match period.checked_sub(periods) {
            Some(behind) => pinned + share(self.pinned - pinned, behind, all - periods),
            None => share(pinned, period, periods),
        };
        (share(self.streamed(), period, all), pinned)
    }

    /// Streamed pages in front of period `period`.
    pub fn streamed_before(&self, period: u32) -> u32 {
        self.before(period, self.periods()).0
    }

    /// Whether each period begins with its pinned pages.
    fn begins_pinned(&self) -> bool {
        self.front.periods == 0 && self.front.pinned > 0
    }

    /// Streamed and pinned pages of period `period` on the tape, and the frame of the first pinned one. Pinned pages lie in their frames
    /// in tape order.
    pub(crate) fn runs(&self, period: u32) -> (Range<u32>, Range<u32>, u32) {
        let all = self.periods();
        if all == 0 {
            return (0..0, 0..self.tape, 0);
        }
        let ((streamed, frame), (end, end_frame)) = (self.before(period, all), self.before(period + 1, all));
        let (start, behind) = (streamed + frame, end + end_frame);
        match self.begins_pinned() {
            false => (start..end + frame, end + frame..behind, frame),
            true => (streamed + end_frame..behind, start..streamed + end_frame, frame),
        }
    }

    /// Streamed pages of period `period` on the tape.
    pub fn streamed_run(&self, period: u32) -> Range<u32> {
        self.runs(period).0
    }

    /// Pinned pages of period `period` on the tape.
    pub fn pinned_run(&self, period: u32) -> Range<u32> {
        self.runs(period).1
    }

    /// The period that `page` belongs to; `near` is a first guess.
    pub fn period_of(&self, page: u32, near: u32) -> u32 {
        let periods = self.periods();
        let start = |period| {
            let (streamed, pinned) = self.before(period, periods);
            streamed + pinned
        };
        if near < periods && (start(near)..start(near + 1)).contains(&page) {
            return near;
        }
        let (mut first, mut behind) = (0, periods);
        while behind.saturating_sub(first) > 1 {
            let middle = first + (behind - first) / 2;
            *(if start(middle) <= page { &mut first } else { &mut behind }) = middle;
        }
        first
    }

    /// Periods whose runs begin in front of `page`.
    pub fn runs_before(&self, page: u32) -> u32 {
        let period = self.period_of(page, 0);
        (period + u32::from(self.streamed_run(period).start < page)).min(self.periods())
    }

    /// The runs that a pass reads which asks for pages before `end` only, and not for those `without`: of so many periods from the first on, and
    /// those among them that it leaves out, since all of their run is not asked for.
    pub fn runs_of(&self, end: u32, without: &Range<u32>) -> (u32, Range<u32>) {
        let periods = if end < self.tape { self.runs_before(end) } else { self.periods() };
        let first = self.runs_before(without.start).min(periods);
        let mut behind = first;
        while behind < periods && self.streamed_run(behind).end <= without.end {
            behind += 1;
        }
        (periods, first..behind)
    }
}

/// `all · n ÷ of`.
// Not inlined: divisions of 64 bits take flash on small processors.
#[inline(never)]
fn share(all: u32, n: u32, of: u32) -> u32 {
    match (of, all.checked_mul(n)) {
        (0, _) => 0,
        (_, Some(product)) => product / of,
        // A processor of 32 bits divides such numbers in software.
        _ => (u64::from(all) * u64::from(n) / u64::from(of)) as u32,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Runs of a front of a tape, and pages that are streamed in it.
    fn in_front(pinning: &Pinning, pages: u32) -> (u32, u32) {
        let runs = (0..pinning.periods()).map(|period| pinning.streamed_run(period));
        let in_front = runs.map(|run| run.start.min(pages)..run.end.min(pages));
        in_front
            .fold((0, 0), |(runs, pages), run| (runs + u32::from(!run.is_empty()), pages + run.len() as u32))
    }

    proptest! {
        #[test]
        fn every_page_is_in_one_run(
            tape in 1u32..3000,
            frames in 1u32..3200,
            command in 0u32..100,
            page in 0u32..10,
            longest in 0u32..50,
            (front, steps) in (0u32..3200, 0u32..10),
        ) {
            let even = Pinning::new(tape, frames, &Reads { command, page, longest }).unwrap();
            let pinning = even.favour(front, steps);
            prop_assert_eq!((pinning.pinned, pinning.ring, pinning.periods()), (even.pinned, even.ring, even.periods()));
            prop_assert!(pinning.pinned + pinning.ring <= frames.max(tape));
            let (mut next, mut pinned) = (0, 0);
            for period in 0..pinning.periods().max(1) {
                let (streamed, kept) = (pinning.streamed_run(period), pinning.pinned_run(period));
                prop_assert!(streamed.len() as u32 <= pinning.ring);
                prop_assert!(pinning.periods() == 0 || streamed.start.min(kept.start) == next);
                prop_assert_eq!(pinning.runs(period).2, pinned);
                pinned += kept.len() as u32;
                let mut pages: Vec<u32> = kept.clone().chain(streamed.clone()).collect();
                pages.sort_unstable();
                for page in pages {
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

        /// The more a front is favoured, the less of it is streamed, up to whole runs; in the end no more than what cannot be pinned.
        #[test]
        fn what_is_favoured_is_pinned(tape in 1u32..3000, frames in 1u32..3200, longest in 1u32..50, front in 0u32..3000) {
            let even = Pinning::new(tape, frames, &Reads { longest, ..Reads::default() }).unwrap();
            let front = front.min(tape);
            let streamed = [0, 2, 5, FAVOURS, FAVOURS + 1].map(|steps| in_front(&even.favour(front, steps), front).1);
            let slack = |share: u32| share * even.ring;
            prop_assert!(streamed.windows(2).all(|pair| pair[1] <= pair[0] + slack(1)), "{:?}", streamed);
            prop_assert!(streamed[3] <= front.saturating_sub(even.pinned) + slack(1), "{:?}: {:?}", streamed, even);
            prop_assert_eq!(streamed[3], streamed[4]);
        }

        #[test]
        fn runs_of_short_passes(
            tape in 1u32..3000,
            frames in 1u32..3200,
            (front, steps) in (0u32..3000, 0u32..=FAVOURS),
            end in 1u32..3200,
            without in (0u32..3000, 0u32..200),
        ) {
            let pinning = Pinning::new(tape, frames, &Reads::default()).unwrap().favour(front, steps);
            let without = without.0..without.0 + without.1;
            let (periods, left_out) = pinning.runs_of(end, &without);
            prop_assert!(periods <= pinning.periods() && left_out.end <= periods);
            for period in 0..pinning.periods() {
                let run = pinning.streamed_run(period);
                let is_needed = run.start < end && !(without.start <= run.start && run.end <= without.end);
                prop_assert_eq!(period < periods && !left_out.contains(&period), is_needed, "{}: {:?}", period, run);
            }
        }
    }

    #[test]
    fn all_is_pinned_when_all_fits() {
        let (tape, reads) = (Pinning { tape: 10, ..Pinning::default() }, Reads::default());
        assert_eq!(Pinning::new(10, 10, &reads), Some(Pinning { pinned: 10, ..tape }));
        assert_eq!(Pinning::new(10, 0, &reads), None);
        assert_eq!(Pinning::new(10, 1, &reads), Some(Pinning { ring: 1, ..tape }));
    }
}
