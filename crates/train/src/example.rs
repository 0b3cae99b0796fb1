//! What is trained on: a sequence of tokens, and which of them count.

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
}
