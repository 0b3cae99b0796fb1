//! Lossless speculation (Leviathan et al. 2023): several tokens from one pass over the tape.
//!
//! A pass costs about the same for one position as for several while the card is what is waited for. So the tokens that are likely
//! to come are guessed, read together with the last one that is known, and each position's token is then chosen exactly as
//! it would have been: from the same logits, with the same random number. As long as the guesses are what is chosen, the next
//! position's logits are right, too; at the first that is not, the rest is forgotten. The text is the same to the byte, whatever is
//! guessed.
//!
//! Guesses come from the text so far (what followed the same tokens earlier: Saxena's prompt lookup) and from a table on
//! the card, `drafts.bin`. How many are made follows from what a position costs beside the pass, and from how
//! often the guesses of each kind were right: all in integers, so that the same conversation takes the same passes everywhere.

use pageformer_card::drafts::DraftTable;
use pageformer_vram::{Card, CardFile, Vram};

use crate::error::Error;
use crate::plan::{MAX_BATCH, Plan};

/// Whether tokens are guessed ahead. It changes how long a reply takes, never what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// Every token takes a pass.
    #[default]
    Off,
    /// As many guesses as pay.
    Auto,
    /// So many guesses in every pass, if there are as many.
    Fixed(u32),
}

/// What came of guesses, since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speculated {
    /// Passes that tokens were chosen from; the same as the tokens where nothing is guessed.
    pub passes: u64,
    /// Tokens that were chosen.
    pub tokens: u64,
    /// Guesses that were read.
    pub drafted: u64,
    /// Guesses that were right.
    pub accepted: u64,
}

impl Speculated {
    /// What came of them since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            passes: self.passes.saturating_sub(before.passes),
            tokens: self.tokens.saturating_sub(before.tokens),
            drafted: self.drafted.saturating_sub(before.drafted),
            accepted: self.accepted.saturating_sub(before.accepted),
        }
    }
}

/// Pages that read as long as it takes to compute one position of a page: 1 ÷ 16 for a processor of 100 to 200 MHz
/// beside a card on SPI at 20 MHz.
const READ_PER_COMPUTE: u32 = 16;
/// Pages' time that a read command takes: see [`pageformer_vram::Pinning`].
const COMMAND_PAGES: u32 = 2;
/// Trust in a guess of which nothing is known yet, in 1 ÷ 256.
const FIRST_TRUST: u16 = 154;

/// What a pass costs, in 1 ÷ 16 of a page's reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Costs {
    /// Whatever the number of positions.
    pass: u32,
    /// For each position.
    position: u32,
}

impl Costs {
    pub fn of(plan: &Plan, all_sums: u32) -> Self {
        let sums = if plan.sum_pages < all_sums { all_sums * (1 + COMMAND_PAGES) } else { 0 };
        let pages = plan.pinning.streamed() + plan.pinning.periods() * COMMAND_PAGES + sums;
        Self { pass: pages.saturating_mul(READ_PER_COMPUTE), position: plan.pinning.tape }
    }

    /// What a token of a prompt and a token of its reply cost together, in some unit, when `batch` positions of a prompt are read
    /// at once and `rows` positions of a reply, with guesses of the first trust.
    pub fn of_tokens(&self, batch: u32, rows: u32) -> u64 {
        let of_pass = |positions: u32| u64::from(self.pass) + u64::from(self.position) * u64::from(positions);
        let (mut right, mut tokens) = (1u64 << 16, 1u64 << 16);
        for _ in 1..rows {
            right = (right * u64::from(FIRST_TRUST)) >> 8;
            tokens += right;
        }
        (of_pass(batch) << 16) / u64::from(batch.max(1)) + (of_pass(rows) << 32) / tokens
    }
}

/// Where a guess comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Source {
    /// What followed the same [`LONG`] or more tokens in the text so far.
    Copy,
    /// The table on the card.
    Table,
    /// What followed the last token, or the last two.
    Echo,
}

/// Tokens that must be the same for a guess that goes before the table's.
const LONG: usize = 3;
/// More tokens than these are not compared.
const LONGEST: usize = 4;

/// Makes guesses and learns from what becomes of them.
pub(crate) struct Drafter {
    table: Option<DraftTable>,
    /// Why there is no table although the card has one.
    fault: Option<Error>,
    costs: Costs,
    /// How often guesses of each source were right of late, in 1 ÷ 256; between 15 and 241.
    trust: [u16; 3],
    /// The sources of the guesses of this pass.
    sources: [Source; MAX_BATCH as usize],
    pub from_text: bool,
    pub from_table: bool,
    pub counts: Speculated,
}

impl Drafter {
    /// Opens the card's table, if it has one. A bad one is none.
    pub fn open<C: Card>(vram: &mut Vram<'_, C>, costs: Costs, vocab: u32) -> Self {
        let pages = vram.card().bytes(CardFile::Drafts) / size_of::<pageformer_card::Page>() as u64;
        let (mut table, mut fault) = (None, None);
        if pages > 0 && cfg!(feature = "speculation") {
            let first = vram.page(CardFile::Drafts, 0).map_err(|fault| Error::Page(fault, None));
            let read = first.and_then(|page| {
                DraftTable::read(page, pages.try_into().unwrap_or(u32::MAX), vocab).map_err(Error::Drafts)
            });
            match read {
                Ok(found) => table = Some(found),
                Err(error) => fault = Some(error),
            }
        }
        let sources = [Source::Echo; MAX_BATCH as usize];
        Self {
            table,
            fault,
            costs,
            trust: [FIRST_TRUST; 3],
            sources,
            from_text: true,
            from_table: true,
            counts: Speculated::default(),
        }
    }

    pub fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    pub fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// Puts guesses behind the first `len` of `tokens`, at most `most`, and says how many.
    pub fn draft<C: Card>(
        &mut self,
        vram: &mut Vram<'_, C>,
        how: Speculation,
        tokens: &mut [u16],
        len: usize,
        most: usize,
    ) -> usize {
        let most = match how {
            Speculation::Off => 0,
            Speculation::Auto => most,
            Speculation::Fixed(n) => most.min(n as usize),
        };
        // In 1 ÷ 65,536: that all guesses so far are right, and the tokens to expect from the pass.
        let (mut right, mut expected) = (1u64 << 16, 1u64 << 16);
        let mut made = 0;
        while made < most.min(self.sources.len()) {
            let (known, rest) = tokens.split_at_mut((len + made).min(tokens.len()));
            let (Some((token, source)), Some(slot)) = (self.guess(vram, known), rest.first_mut()) else {
                break;
            };
            let trust = &mut self.trust[source as usize];
            right = (right * u64::from(*trust)) >> 8;
            // One more position pays if it brings more tokens for its cost than the pass does without it.
            let cost = u64::from(self.costs.pass) + u64::from(self.costs.position) * (made as u64 + 1);
            if how == Speculation::Auto && right * cost <= expected * u64::from(self.costs.position) {
                // A source that is not asked is slowly trusted again.
                *trust += u16::from(made == 0 && *trust < FIRST_TRUST);
                break;
            }
            expected += right;
            *slot = token;
            self.sources[made] = source;
            made += 1;
        }
        made
    }

    /// What may follow `known`.
    fn guess<C: Card>(&mut self, vram: &mut Vram<'_, C>, known: &[u16]) -> Option<(u16, Source)> {
        let (same, token) = if self.from_text { what_followed(known) } else { (0, 0) };
        if same >= LONG {
            return Some((token, Source::Copy));
        }
        if let Some(token) = self.look_up(vram, known) {
            return Some((token, Source::Table));
        }
        (same > 0).then_some((token, Source::Echo))
    }

    /// What the card's table says. A page that cannot be had ends its use.
    fn look_up<C: Card>(&mut self, vram: &mut Vram<'_, C>, known: &[u16]) -> Option<u16> {
        let table = self.table.filter(|_| self.from_table)?;
        let context = known.get(known.len().checked_sub(table.context)?..)?;
        let place = table.place(context);
        match vram.page(CardFile::Drafts, place.page) {
            Ok(page) => table.find(page, place),
            Err(fault) => {
                self.table = None;
                self.fault = Some(Error::Page(fault, None));
                None
            }
        }
    }

    /// Learns what became of this pass's `drafted` guesses: `chosen` tokens were chosen, of which `accepted` had been guessed. Guesses
    /// behind the first wrong one were not put to the test.
    pub fn judge(&mut self, drafted: usize, chosen: usize, accepted: usize) {
        self.counts.passes += 1;
        self.counts.tokens += chosen as u64;
        self.counts.drafted += drafted as u64;
        self.counts.accepted += accepted as u64;
        let tested = drafted.min(chosen);
        for (at, source) in self.sources.iter().enumerate().take(tested) {
            let trust = &mut self.trust[*source as usize];
            *trust = if at < accepted { *trust + ((256 - *trust) >> 4) } else { *trust - (*trust >> 4) };
        }
    }
}

/// What followed the latest earlier place in `known` that ends like it does, and how many tokens are the same there (at most
/// [`LONGEST`]): the more the better.
fn what_followed(known: &[u16]) -> (usize, u16) {
    let mut best = (0, 0);
    for (end, next) in known.iter().enumerate().skip(1).rev() {
        let before = known.get(..end).unwrap_or(&[]);
        let pairs = before.iter().rev().zip(known.iter().rev()).take(LONGEST);
        let same = pairs.take_while(|(a, b)| a == b).count();
        if same > best.0 {
            best = (same, *next);
            if same == LONGEST {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_match_is_followed() {
        assert_eq!(what_followed(&[]), (0, 0));
        assert_eq!(what_followed(&[7]), (0, 0));
        assert_eq!(what_followed(&[1, 2, 3]), (0, 0));
        assert_eq!(what_followed(&[1, 2, 1]), (1, 2));
        assert_eq!(what_followed(&[1, 2, 9, 1, 5, 8, 1]), (1, 5), "the latest");
        assert_eq!(what_followed(&[3, 1, 2, 1, 5, 3, 1]), (2, 2), "the longest");
        assert_eq!(what_followed(&[4, 4, 4]), (2, 4), "it may overlap");
    }

    #[test]
    fn guesses_do_not_pay_where_nothing_is_read() {
        let resident = Costs { pass: 0, position: 100 };
        assert!((2..=16).all(|rows| resident.of_tokens(16, 1) < resident.of_tokens(16, rows)));
        let streamed = Costs { pass: 1600, position: 100 };
        assert!(streamed.of_tokens(4, 4) < streamed.of_tokens(4, 1));
        assert!(streamed.of_tokens(4, 4) < streamed.of_tokens(2, 2));
    }
}
