//! What a pass over the tape takes: reading beside computing.
//!
//! How many tokens are guessed ahead, and how wide a prompt's batch is, depend on which of the two is waited for. A board knows how long each takes; the
//! plan knows how much of each there is. All in integers and without a clock, so that the same conversation takes the same passes everywhere.

use pageformer_card::page::SUMS_PER_PAGE;
use pageformer_vram::Reads;

use crate::plan::{Needs, Plan};

/// What reading and computing take beside each other, all in one unit of the caller's, such as nanoseconds. It changes how long a reply
/// takes, never what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A read command, however many pages it reads.
    pub command: u32,
    /// Reading a page.
    pub page: u32,
    /// Checking a page that was read, which the processor does.
    pub check: u32,
    /// Fetching a page from slow memory that it stays in, once for all positions of a pass; for each page of the tape.
    pub fetch: u32,
    /// Computing one position, for each page of the tape, without its logits: of the last layer, it takes keys and values only.
    pub compute: u32,
    /// Computing the logits of one position more than the last, for each page of the tape, and the last layer for it: what a guess takes and a token of a prompt does not.
    pub logits: u32,
}

impl Pace {
    /// What reading takes, for the choice of runs. Where commands cost next to nothing, each still takes some of the processor's time, which the pace does
    /// not say: there, one counts as two pages.
    pub(crate) fn reads(&self) -> Reads {
        let command = self.command.max(self.page.saturating_mul(2));
        Reads { command, page: self.page, ..Reads::default() }
    }
}

impl Default for Pace {
    /// A processor of 100 to 200 MHz beside a card on SPI at 20 MHz: see [`Reads`] for the command.
    fn default() -> Self {
        Self { command: 32, page: 16, check: 0, fetch: 0, compute: 1, logits: 0 }
    }
}

/// Trust of the plan in guesses, which it knows nothing of, in 1 ÷ 256.
const FIRST_TRUST: u16 = 154;
/// By this part of its time, a guess has to bring more than it takes: attention takes longer late in a conversation than the pace says.
const MARGIN: u64 = 64;

/// By this part of either, a pass takes longer than the longer of reading and computing, if they take the same; by none, if one takes twice as long. Seen are a
/// third of this on an ESP32-S3 and twice as much without a floating-point unit.
const UNEVEN: u64 = 8;

/// Nothing that a pass is put together from takes longer, in any unit: so no sum or product here is beyond 64 bits, for positions and tokens of a turn
/// as many as there can be. In nanoseconds, it is 18 minutes.
const MOST: u64 = 1 << 40;

/// A part of a pass, whatever the number of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Reading its pages.
    reading: u64,
    /// What the processor does: checking what was read, fetching what was not.
    once: u64,
}

impl Part {
    /// What it takes beside so much `computing`.
    // Not inlined, like what else is used more than once here: a board plans once, and has little flash.
    #[inline(never)]
    fn with(&self, computing: u64, ahead: bool) -> u64 {
        let computing = self.once + computing;
        if !ahead {
            return self.reading + computing;
        }
        // Where both take about as long, neither hides all of the other: it comes in pieces, and the reader has little room.
        let (less, more) = (self.reading.min(computing), self.reading.max(computing));
        more + (2 * less).saturating_sub(more) / UNEVEN
    }
}

/// What passes take with a plan, in the unit of its pace.
///
/// A pass has two parts, of which each takes the longer of reading and computing, since what is read ahead is little beside them: where positions have
/// keys and values computed, and what is behind that, which is little computing for many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Costs {
    /// Up to the last layer's values: all that passes without logits read.
    front: Part,
    /// The rest of the last layer, and the head.
    behind: Part,
    /// Computing a position, in front.
    position: u64,
    /// Computing the logits of one, behind, where they are not those of the last.
    logits: u64,
    /// Looking up a guess and its row of the embedding: reads that are waited for.
    lookup: u64,
    /// Whether the tape is read while positions are computed.
    ahead: bool,
}

impl Costs {
    pub fn of(plan: &Plan, needs: &Needs) -> Self {
        let Pace { command, page, check, fetch, compute, logits } = plan.pace;
        let (pinning, end) = (&plan.pinning, needs.prompts_end);
        let all_sums = needs.sums().pages();
        // Where nothing is streamed, nothing is checked.
        let sums = if pinning.streamed() > 0 && plan.sum_pages < all_sums { all_sums } else { 0 };
        let times = |n: u32, cost: u32| (u64::from(n) * u64::from(cost)).min(MOST);
        // Of so many pages that are read, by so many commands, in so many pages of the tape.
        let part = |[read, commands, pages]: [u32; 3]| Part {
            reading: times(read, page) + times(commands, command),
            once: times(read, check) + times(pages, fetch.saturating_sub(logits)),
        };
        let commands = pinning.runs_before(end);
        let streamed = pinning.streamed_before(commands);
        let of_front = sums.min(end / SUMS_PER_PAGE as u32);
        let in_front = [streamed + of_front, commands + of_front, end];
        let all = [pinning.streamed() + sums, pinning.periods() + sums, pinning.tape.max(end)];
        let rest: [u32; 3] = core::array::from_fn(|i| all[i] - in_front[i]);
        let [front, mut behind] = [in_front, rest].map(part);
        // What is behind, for the last position.
        behind.once += times(pinning.tape, fetch.min(logits));
        // An embedding that is the head is a part of the tape.
        let mut lookup = 2 * (times(1, page) + times(1, command) + times(1, check));
        if let ([.., pages @ 1..=u32::MAX], true) = (rest, needs.shape.tied_embeddings) {
            lookup = lookup.saturating_mul((pinning.streamed() - streamed).into()) / u64::from(pages);
        }
        Self {
            front,
            behind,
            position: times(pinning.tape, compute),
            logits: times(pinning.tape, logits),
            lookup,
            ahead: plan.reads_ahead,
        }
    }

    /// What a pass takes with so many positions, and logits of the last `rows` of them.
    #[inline(never)]
    pub fn pass(&self, positions: usize, rows: usize) -> u64 {
        let (positions, more) = (positions as u64, rows.saturating_sub(1) as u64);
        let (computing, looking_up) = (self.position * positions, self.lookup * positions);
        if rows == 0 {
            // With a reader, the rows of the next batch are looked up while this one is computed.
            let reading = self.front.reading + looking_up;
            return Part { reading, ..self.front }.with(computing, self.ahead);
        }
        let front = self.front.with(computing, self.ahead);
        front + self.behind.with(self.logits * more, self.ahead) + looking_up
    }

    /// Whether one more guess pays behind `made` of them in a pass that reads `unread` tokens, too, if all guesses so far are right with probability
    /// `right` and this one, too, and so many tokens are `expected` of the pass without it; both in 1 ÷ 65,536. It does if it brings more tokens for
    /// its time than a pass without it that reads a single token, as those do that come after. A pass takes the longer of two times, or their
    /// sum, so what pays less than its like before it ends it: no later one pays.
    pub fn pays(&self, (unread, made): (usize, usize), right: u64, expected: u64) -> bool {
        let pass = |unread, made| self.pass(unread + made, 1 + made);
        let more = pass(unread, made + 1).saturating_sub(pass(unread, made));
        right.saturating_mul(pass(1, made)) > expected.saturating_mul(more.saturating_add(more / MARGIN))
    }

    /// What a turn takes: a prompt of so many `tokens` that is read in batches of `batch` positions, the last with logits, and as many tokens
    /// of a reply in passes of `rows` positions, with guesses of the first trust.
    pub fn turn(&self, tokens: u32, batch: u32, rows: u32) -> u64 {
        let (batch, tokens) = (batch.max(1) as usize, tokens as usize);
        let before = tokens.saturating_sub(1) / batch;
        let prompt = self.pass(batch, 0) * before as u64 + self.pass(tokens - before * batch, 1);
        let (mut right, mut expected) = (1u64 << 16, 1u64 << 16);
        for _ in 1..rows {
            right = (right * u64::from(FIRST_TRUST)) >> 8;
            expected += right;
        }
        let reply = ((self.pass(rows as usize, rows as usize) * tokens as u64) << 10) / (expected >> 6);
        prompt + reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Part = Part { reading: 0, once: 0 };
    const SERIAL: Costs = costs(1600, 100);

    /// All of it in front.
    const fn costs(reading: u64, position: u64) -> Costs {
        let front = Part { reading, once: 0 };
        Costs { front, behind: FREE, position, logits: 0, lookup: 0, ahead: false }
    }

    #[test]
    fn guesses_do_not_pay_where_nothing_is_read() {
        let resident = costs(0, 100);
        assert!((2..=16).all(|rows| resident.turn(32, 16, 1) < resident.turn(32, 16, rows)));
        assert!(!resident.pays((1, 0), 1 << 16, 1 << 16), "not even one that is surely right");
        assert!(SERIAL.turn(32, 4, 4) < SERIAL.turn(32, 4, 1));
        assert!(SERIAL.turn(32, 4, 4) < SERIAL.turn(32, 2, 2));
        assert!(SERIAL.pays((1, 0), 1 << 14, 1 << 16));
    }

    /// Computing that hides behind reading costs nothing, up to where it does not any more.
    #[test]
    fn guesses_pay_as_long_as_the_card_is_waited_for() {
        let ahead = Costs { ahead: true, ..SERIAL };
        assert!((1..=8).all(|n| ahead.pass(n, n) == 1600) && ahead.pass(16, 16) == 1600 + 1600 / UNEVEN);
        assert!((1..8).all(|n| ahead.pays((1, n - 1), 1, 1 << 16)) && ahead.pays((1, 14), 1 << 11, 1 << 16));
        assert!(!ahead.pays((1, 15), 1 << 11, 1 << 16) && ahead.pays((1, 15), 1 << 15, 1 << 16));
        let slow = Costs { position: 3200, ..ahead };
        assert_eq!([1, 2, 3].map(|positions| slow.pass(positions, 1)), [3200, 6400, 9600]);
        assert!(!slow.pays((1, 0), 1 << 16, 1 << 16));
    }

    /// What is left to read of one part hides nothing of the other's computing.
    #[test]
    fn each_part_takes_the_longer_of_both() {
        let [front, behind] = [1000, 600].map(|reading| Part { reading, once: 50 });
        let costs = Costs { front, behind, logits: 200, lookup: 10, ahead: true, ..SERIAL };
        assert_eq!([costs.pass(4, 1), costs.pass(4, 2)], [1000 + 600 + 40, 1000 + 600 + 40]);
        assert_eq!(costs.pass(30, 1), 3050 + 600 + 300);
        assert_eq!(costs.pass(1, 11), 1000 + 2050 + 10);
        assert_eq!([costs.pass(4, 0), costs.pass(30, 0)], [1040, 3050], "rows are looked up meanwhile");
    }

    /// A guess takes its logits, too, which a token of a prompt does not.
    #[test]
    fn the_head_counts_for_guesses_alone() {
        let head = Costs { logits: 1000, ..SERIAL };
        assert_eq!((head.pass(4, 1), head.pass(4, 4)), (2000, 5000));
        assert!(head.pays((1, 0), 1 << 16, 1 << 16) && !head.pays((1, 0), 1 << 15, 1 << 16));
        assert!(!head.pays((16, 0), 1 << 15, 1 << 16), "that a prompt is read makes no guess better");
        assert!(SERIAL.pays((1, 0), 1 << 15, 1 << 16));
        assert_eq!(head.turn(32, 4, 1), SERIAL.turn(32, 4, 1), "without guesses nothing changes");
        assert!(head.turn(32, 4, 2) > head.turn(32, 4, 1) && SERIAL.turn(32, 4, 2) < SERIAL.turn(32, 4, 1));
    }

    /// Only the last pass of a prompt goes on behind the last layer's values.
    #[test]
    fn prompts_end_in_the_last_layer() {
        let (front, behind) = (Part { reading: 800, once: 100 }, Part { reading: 800, once: 100 });
        let half = Costs { front, behind, ..SERIAL };
        assert_eq!((half.pass(4, 0), half.pass(4, 1)), (800 + 100 + 400, 1600 + 200 + 400));
        let reply = 32 * half.pass(1, 1);
        assert_eq!(half.turn(32, 8, 1), 3 * half.pass(8, 0) + half.pass(8, 1) + reply);
        assert_eq!(half.turn(33, 8, 1), 4 * half.pass(8, 0) + 34 * half.pass(1, 1));
        assert_eq!(half.turn(3, 8, 1), half.pass(3, 1) + 3 * half.pass(1, 1));
    }

    /// Stopping at the first guess that does not pay finds the best number of all, but for the margin.
    #[test]
    fn the_first_that_does_not_pay_is_the_last() {
        for (reading, position, lookup) in
            [(1600, 100, 0), (1600, 100, 300), (400, 100, 10), (90, 100, 0), (5000, 7, 3)]
        {
            for (ahead, trust) in [(false, 100), (false, 200), (true, 60), (true, 150), (true, 240)] {
                let behind = Part { reading: reading / 3, once: 30 };
                let costs = Costs { behind, logits: position / 2, lookup, ahead, ..costs(reading, position) };
                let (mut right, mut expected, mut made, mut stopped) = (1u64 << 16, 1u64 << 16, 0, None);
                let mut best = (0, costs.pass(1, 1) as f64 / expected as f64);
                while made < 16 {
                    right = (right * trust) >> 8;
                    if stopped.is_none() && !costs.pays((1, made), right, expected) {
                        stopped = Some(made);
                    }
                    expected += right;
                    made += 1;
                    let time = costs.pass(made + 1, made + 1) as f64 / expected as f64;
                    if time < best.1 {
                        best = (made, time);
                    }
                }
                let made = stopped.unwrap_or(16);
                assert!(
                    (best.0.saturating_sub(1)..=best.0).contains(&made),
                    "{made}, {best:?}: {costs:?}, {trust}"
                );
            }
        }
    }
}
