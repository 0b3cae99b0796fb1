//! What is trained on: a sequence of tokens, and which of them count.

use crate::rng::Rng;

/// A sequence of tokens. The model sees each but the last and is asked for the one behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    tokens: Vec<u32>,  // (n + 1)
    scored: Vec<bool>, // (n), of tokens[1..]
}

impl Example {
    /// A sequence of which every token but the first counts. None if there are fewer than two tokens.
    pub fn all(tokens: Vec<u32>) -> Option<Self> {
        let scored = vec![true; tokens.len().checked_sub(1)?];
        Example::masked(tokens, scored)
    }

    /// A sequence of which those tokens count whose place in `scored` says so; `scored[i]` speaks of `tokens[i + 1]`.
    /// None if none counts, or the lengths do not fit.
    pub fn masked(tokens: Vec<u32>, scored: Vec<bool>) -> Option<Self> {
        let last = scored.iter().rposition(|s| *s)?;
        if tokens.len() != scored.len() + 1 {
            return None;
        }
        // What follows the last scored token would only cost time.
        let mut example = Example { tokens, scored };
        example.tokens.truncate(last + 2);
        example.scored.truncate(last + 1);
        Some(example)
    }

    /// The tokens that the model sees.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.scored.len()]
    }

    /// Row and token of each prediction that counts: after seeing `inputs()[..=row]` the model should say the token.
    pub fn targets(&self) -> impl Iterator<Item = (usize, u32)> {
        self.scored.iter().enumerate().filter(|(_, s)| **s).map(|(i, _)| (i, self.tokens[i + 1]))
    }

    /// Number of predictions that count.
    pub fn scored_tokens(&self) -> usize {
        self.scored.iter().filter(|s| **s).count()
    }

    /// The sequence with holes: each token that neither counts nor stands right before one that counts, nor is the first, is left out
    /// with probability `rate`. The answers of a chat stay whole, and so does the mark behind each question.
    pub(crate) fn with_holes(&self, rate: f32, rng: &mut Rng) -> Self {
        let counts = |i: usize| i < self.scored.len() && self.scored[i];
        let stays = |i: usize| i == 0 || counts(i - 1) || counts(i);
        let kept: Vec<usize> =
            (0..self.tokens.len()).filter(|&i| stays(i) || rng.uniform() >= rate).collect();
        Example {
            tokens: kept.iter().map(|&i| self.tokens[i]).collect(),
            scored: kept[1..].iter().map(|&i| self.scored[i - 1]).collect(),
        }
    }

    /// The largest token id.
    pub fn largest_token(&self) -> u32 {
        self.tokens.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_select_targets_and_cut_the_tail() {
        let e = Example::masked(vec![1, 2, 3, 4, 5], vec![false, true, true, false]).unwrap();
        assert_eq!(e.inputs(), [1, 2, 3]);
        assert_eq!(e.targets().collect::<Vec<_>>(), [(1, 3), (2, 4)]);
        assert_eq!(e.scored_tokens(), 2);
        assert!(Example::masked(vec![1, 2], vec![false]).is_none());
        assert!(Example::masked(vec![1, 2], vec![true, true]).is_none());
        assert!(Example::all(vec![1]).is_none());
        assert!(Example::all(vec![]).is_none());
    }
    #[test]
    fn holes_are_in_what_does_not_count() {
        let tokens: Vec<u32> = (0..400).collect();
        // Three questions of 90 tokens, each before an answer of 43.
        let scored = (1..400).map(|i| i % 133 >= 90).collect();
        let whole = Example::masked(tokens, scored).unwrap();
        let holes = whole.with_holes(0.25, &mut Rng::new(1, 1));
        assert!(holes.targets().map(|(_, t)| t).eq(whole.targets().map(|(_, t)| t)));
        // What stands before each target is what stood there.
        assert!(holes.targets().all(|(row, target)| holes.inputs()[row] == target - 1));
        assert_eq!(holes.inputs()[0], 0);
        let missing = whole.inputs().len() - holes.inputs().len();
        assert!((45..90).contains(&missing), "{missing} of 266");
        assert_eq!(whole.with_holes(0.0, &mut Rng::new(1, 1)), whole);
    }
}
