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
use crate::pace::Costs;
use crate::plan::MAX_BATCH;

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

/// Trust in a guess of each source of which nothing is known yet, in 1 ÷ 256: how often they are right in chats and stories.
const FIRST_TRUST: [u16; 3] = [154, 141, 64];
/// Passes in which nothing is guessed until a source is trusted by 1 ÷ 256 more: where guesses hardly pay, trying one that is wrong
/// must be rare.
const PATIENCE: u64 = 8;

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
            trust: FIRST_TRUST,
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

    /// Puts guesses behind the first `len` of `tokens`, of which `unread` are read by the same pass, at most `most`, and says how many.
    pub fn draft<C: Card>(
        &mut self,
        vram: &mut Vram<'_, C>,
        how: Speculation,
        tokens: &mut [u16],
        (unread, len): (usize, usize),
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
            let pays = self.trust.map(|trust| {
                let right = (right * u64::from(trust)) >> 8;
                how != Speculation::Auto || self.costs.pays((unread, made), right, expected)
            });
            let (known, rest) = tokens.split_at_mut((len + made).min(tokens.len()));
            let (Some((token, source)), Some(slot)) = (self.guess(vram, known, pays), rest.first_mut())
            else {
                if made == 0 {
                    self.trust_again(pays);
                }
                break;
            };
            right = (right * u64::from(self.trust[source as usize])) >> 8;
            expected += right;
            *slot = token;
            self.sources[made] = source;
            made += 1;
        }
        made
    }

    /// Sources that are not asked, since their guesses would not pay, are slowly trusted again.
    fn trust_again(&mut self, pays: [bool; 3]) {
        if self.counts.passes.is_multiple_of(PATIENCE) {
            for ((trust, first), pays) in self.trust.iter_mut().zip(FIRST_TRUST).zip(pays) {
                *trust += u16::from(!pays && *trust < first);
            }
        }
    }

    /// What may follow `known`, of the sources whose guesses pay.
    fn guess<C: Card>(
        &mut self,
        vram: &mut Vram<'_, C>,
        known: &[u16],
        pays: [bool; 3],
    ) -> Option<(u16, Source)> {
        let [copy, table, echo] = pays;
        let (same, token) = if self.from_text { what_followed(known) } else { (0, 0) };
        if same >= LONG {
            return copy.then_some((token, Source::Copy));
        }
        if table && let Some(token) = self.look_up(vram, known) {
            return Some((token, Source::Table));
        }
        (same > 0 && echo).then_some((token, Source::Echo))
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
}
