//! Rows of the embedding that are looked up for the next pass of a prompt, while this one computes.

use pageformer_card::Tensor;
use pageformer_vram::Card;

use super::{Engine, matrix_of};

/// How far the rows of tokens that come next are looked up.
#[derive(Default)]
pub(super) struct Coming {
    /// Rows that are there.
    known: usize,
    /// Rows that shall be.
    wanted: usize,
    /// Whether the card was told of the next one's pages.
    begun: bool,
}

impl<C: Card> Engine<'_, C> {
    /// How many of `tokens`, from the first on, were looked up in the pass before.
    pub(super) fn looked_up(&self, tokens: &[u16]) -> usize {
        let there = self.act.coming_tokens.iter().take(self.coming.known);
        there.zip(tokens).take_while(|(there, token)| there == token).count()
    }

    /// The next pass begins with these.
    pub(super) fn will_come(&mut self, tokens: &[u16]) {
        let mut wanted = 0;
        let known = tokens.iter().take_while(|token| u32::from(**token) < self.shape.vocab);
        for (to, token) in self.act.coming_tokens.iter_mut().zip(known) {
            *to = *token;
            wanted += 1;
        }
        self.coming = Coming { known: 0, wanted, begun: false };
        self.look_ahead();
    }

    /// Takes the row that the card was told of, if it is there, and tells it of the next. Called again and again while a pass computes.
    pub(super) fn look_ahead(&mut self) {
        // The first is known when compiling.
        if !self.reads_ahead() || self.coming.known == self.coming.wanted {
            return;
        }
        let d_pad = self.shape.d_model.next_multiple_of(4) as usize;
        let Ok(embedding) = matrix_of(&self.shape, &self.table, Tensor::Embedding) else { return };
        let coming = &mut self.coming;
        if coming.begun
            && let Some(token) = self.act.coming_tokens.get(coming.known)
        {
            if !embedding.has_arrived(&mut self.vram, u32::from(*token)) {
                return;
            }
            let of = |width: usize| coming.known * width..(coming.known + 1) * width;
            let row = self.act.coming.get_mut(of(d_pad)).unwrap_or(&mut []);
            let scales = self.act.coming_scales.get_mut(of(embedding.dims.segments() as usize));
            let put = |to: usize, weight: i8, _| {
                if let Some(to) = row.get_mut(to) {
                    *to = weight;
                }
            };
            match embedding.row(&mut self.vram, u32::from(*token), scales.unwrap_or(&mut []), put) {
                Ok(()) => coming.known += 1,
                // It is looked up again when it is needed, and then what is wrong is said.
                Err(_) => coming.wanted = coming.known,
            }
        }
        coming.begun = coming.known < coming.wanted;
        if coming.begun
            && let Some(token) = self.act.coming_tokens.get(coming.known)
        {
            embedding.begin_row(&mut self.vram, u32::from(*token));
        }
    }
}
