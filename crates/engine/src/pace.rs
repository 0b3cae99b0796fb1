//! What a pass over the tape takes: reading beside computing.
//!
//! How many tokens are guessed ahead, and how wide a prompt's batch is, depend on which of the two is waited for. A board knows how long each takes; the
//! plan knows how much of each there is. All in integers and without a clock, so that the same conversation takes the same passes everywhere.

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

/// What passes take with a plan, in the unit of its pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Costs {
    /// Reading the tape, whatever the number of positions.
    reading: u64,
    /// What the processor does whatever the number of positions: checking what was read, fetching what was not.
    once: u64,
    /// Computing a position.
    position: u64,
    /// Computing its logits, where they are not those of the last.
    logits: u64,
    /// Looking up a guess and its row of the embedding: reads that are waited for.
    lookup: u64,
    /// Whether the tape is read while positions are computed.
    ahead: bool,
    /// What passes without logits read and fetch, which end in the last layer, in 1 ÷ 256.
    prompts: u64,
}

impl Costs {
    pub fn of(plan: &Plan, needs: &Needs) -> Self {
        let Pace { command, page, check, fetch, compute, logits } = plan.pace;
        let (streamed, commands) = (plan.pinning.streamed(), plan.pinning.periods());
        let all_sums = needs.sums().pages();
        // Where nothing is streamed, nothing is checked.
        let sums = if streamed > 0 && plan.sum_pages < all_sums { all_sums } else { 0 };
        let times = |n: u32, cost: u32| u64::from(n) * u64::from(cost);
        Self {
            reading: times(streamed.saturating_add(sums), page)
                .saturating_add(times(commands.saturating_add(sums), command)),
            once: times(streamed, check).saturating_add(times(plan.pinning.tape, fetch)),
            position: times(plan.pinning.tape, compute),
            logits: times(plan.pinning.tape, logits),
            lookup: 2 * (u64::from(page) + u64::from(command) + u64::from(check)),
            ahead: plan.reads_ahead,
            prompts: needs.of_prompts(256),
        }
    }

    /// What a pass takes with so many positions, and logits of the last `rows` of them.
    pub fn pass(&self, positions: usize, rows: usize) -> u64 {
        let (positions, more) = (positions as u64, rows.saturating_sub(1) as u64);
        let computing =
            self.position.saturating_mul(positions).saturating_add(self.logits.saturating_mul(more));
        let of_tape = |all: u64| if rows > 0 { all } else { all.saturating_mul(self.prompts) >> 8 };
        let (reading, computing) = (of_tape(self.reading), of_tape(self.once).saturating_add(computing));
        let looking_up = self.lookup.saturating_mul(positions);
        if self.ahead && rows == 0 {
            // The rows of the next batch, while this one is computed.
            return reading.saturating_add(looking_up).max(computing);
        }
        let both = if self.ahead { reading.max(computing) } else { reading.saturating_add(computing) };
        both.saturating_add(looking_up)
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
        let prompt = self.pass(batch, 0).saturating_mul(before as u64);
        let prompt = prompt.saturating_add(self.pass(tokens - before * batch, 1));
        let (mut right, mut expected) = (1u64 << 16, 1u64 << 16);
        for _ in 1..rows {
            right = (right * u64::from(FIRST_TRUST)) >> 8;
            expected += right;
        }
        let reply = self.pass(rows as usize, rows as usize).saturating_mul((tokens as u64) << 16) / expected;
        prompt.saturating_add(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: Costs =
        Costs { reading: 1600, once: 0, position: 100, logits: 0, lookup: 0, ahead: false, prompts: 256 };

    #[test]
    fn guesses_do_not_pay_where_nothing_is_read() {
        let resident = Costs { reading: 0, ..SERIAL };
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
        assert!((1..16).all(|n| ahead.pass(n, n) == 1600 && ahead.pays((1, n - 1), 1, 1 << 16)));
        assert!(!ahead.pays((1, 15), 1 << 11, 1 << 16) && ahead.pays((1, 15), 1 << 15, 1 << 16));
        let slow = Costs { position: 1600, ..ahead };
        assert_eq!([1, 2, 3].map(|positions| slow.pass(positions, 1)), [1600, 3200, 4800]);
        assert!(!slow.pays((1, 0), 1 << 16, 1 << 16));
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
        let half = Costs { prompts: 128, once: 200, ..SERIAL };
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
                let costs =
                    Costs { reading, once: 30, position, logits: position / 2, lookup, ahead, prompts: 256 };
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
