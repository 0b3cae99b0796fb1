//! The order of the training data.

use crate::Example;
use crate::rng::Rng;

/// Deals shuffled examples into batches, epoch after epoch. Its state is two numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batches {
    seed: u64,
    epoch: u64,
    cursor: usize,     // examples of this epoch that have been dealt
    tokens: u64,       // dealt since the start of the program
    order: Vec<usize>, // of this epoch; empty until it is needed
}

/// Streams of random numbers: one an epoch, far from those of dropout.
const STREAMS: u64 = 1 << 62;

impl Batches {
    pub(crate) fn new(seed: u64) -> Self {
        Batches { seed, epoch: 0, cursor: 0, tokens: 0, order: vec![] }
    }

    /// Epoch, and number of its examples that have been dealt.
    pub(crate) fn position(&self) -> (u64, usize) {
        (self.epoch, self.cursor)
    }

    /// Goes to a position.
    pub(crate) fn seek(&mut self, (epoch, cursor): (u64, usize)) {
        (self.epoch, self.cursor) = (epoch, cursor);
        self.order.clear();
    }

    /// Tokens dealt since the start of the program.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The next examples, until they have at least `tokens` tokens. There must be at least one example.
    pub(crate) fn next<'a>(&mut self, examples: &'a [Example], tokens: usize) -> Vec<&'a Example> {
        let mut batch = vec![];
        let mut rows = 0;
        while rows < tokens {
            if self.order.len() != examples.len() {
                self.order = (0..examples.len()).collect();
                Rng::new(self.seed, STREAMS + self.epoch).shuffle(&mut self.order);
            }
            let Some(&at) = self.order.get(self.cursor) else {
                self.seek((self.epoch + 1, 0));
                continue;
            };
            self.cursor += 1;
            rows += examples[at].inputs().len();
            batch.push(&examples[at]);
        }
        self.tokens += rows as u64;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_example_in_another_order() {
        let examples: Vec<_> = (0..10).map(|i| Example::all(vec![i, i, i]).unwrap()).collect();
        let mut batches = Batches::new(3);
        let mut firsts = vec![];
        let mut at_25 = None;
        while firsts.len() < 50 {
            let batch = batches.next(&examples, 9);
            assert_eq!(batch.len(), 5);
            firsts.extend(batch.iter().map(|e| e.inputs()[0]));
            if firsts.len() == 25 {
                at_25 = Some(batches.position());
            }
        }
        let epochs: Vec<Vec<u32>> = firsts.chunks(10).map(<[u32]>::to_vec).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);

        let mut resumed = Batches::new(3);
        resumed.seek(at_25.unwrap());
        let next: Vec<u32> = resumed.next(&examples, 9).iter().map(|e| e.inputs()[0]).collect();
        assert_eq!(next, firsts[25..30]);
    }
}
