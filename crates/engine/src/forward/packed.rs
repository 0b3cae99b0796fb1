//! What an engine with memory for it has prepared: matrices packed for the kernel, and the upper halves of a large head.

use pageformer_card::{CELL_BYTES, Mlp, Page, Role, Tensor};
use pageformer_vram::Card;

use super::{Engine, GATE_UP, QKV, head_of, matrix_of};
use crate::error::Error;
use crate::kernels::{Input, Prepacked, Screen, gather};
use crate::matrix::{prepacked, screened};

/// How the most likely token is found, where nobody asks for logits.
#[derive(Default)]
pub(super) struct Best {
    /// The head, to find its largest output without the others; or nothing.
    screen: Option<Screen>,
    /// Tokens until that is tried again, and how many there were the last time that it brought nothing.
    pause: u32,
    last_pause: u32,
    /// The next pass is asked for no more.
    pub only: bool,
    /// What the last pass found.
    pub token: Option<u16>,
}

impl<C: Card> Engine<'_, C> {
    /// If the whole tape lies in memory, packs its matrices anew for the kernel, in memory of their own, if the kernel multiplies faster
    /// then. Returns the bytes that they take. Attention gets memory for two queries at once. It changes no bit.
    pub fn prepack(&mut self) -> usize {
        /// Larger models come from memory, or from a cache that is shared.
        const CACHES: u32 = 16 << 20;
        let tape = self.plan.pinning.tape;
        if self.plan.pinning.pinned < tape {
            return 0;
        }
        let far_away = tape > CACHES / size_of::<Page>() as u32;
        self.pair = (alloc::vec![0.0; 2 * self.act.scores.len()], alloc::vec![0; 2 * self.act.weights.len()]);
        self.prepacked.resize_with(self.shape.tensors() as usize, || None);
        let gate_up = if self.shape.mlp == Mlp::SwiGlu { &GATE_UP[..] } else { &[Role::W1] };
        for layer in 0..self.shape.n_layers {
            for roles in [&QKV, &[Role::Wo][..], gate_up, &[Role::W2]] {
                let tensors: alloc::vec::Vec<_> =
                    roles.iter().map(|role| Tensor::Layer(layer, *role)).collect();
                self.prepack_stack(&tensors, far_away);
            }
        }
        self.prepack_stack(&[head_of(&self.shape)], far_away);
        self.best.screen = self.screen_head();
        let screen = &mut self.best.screen;
        let bytes = screen.as_ref().map_or(0, Screen::bytes);
        let matrices = self.prepacked.iter_mut().flatten().map(|matrix| &mut matrix.lines);
        let mut lines: alloc::vec::Vec<_> =
            matrices.chain(screen.as_mut().map(|screen| &mut screen.lines)).collect();
        gather(&mut lines);
        self.prepacked.iter().flatten().map(Prepacked::bytes).sum::<usize>() + bytes
    }

    /// Prepares the head for finding its largest output.
    fn screen_head(&mut self) -> Option<Screen> {
        /// A head of fewer weights lies in the near caches, where it takes less time to read it than to look at half of it.
        const LEAST: u64 = 4 << 20;
        let head = matrix_of(&self.shape, &self.table, head_of(&self.shape)).ok()?;
        let large = head.dims.cells() * CELL_BYTES as u64 >= LEAST;
        let pages = self.vram.pages(head.pages.start, head.pages.len() as u32).ok().filter(|_| large)?;
        self.kernel.screen(&head.dims, pages)
    }

    /// Packs matrices that [`Self::multiply`] is called with together.
    fn prepack_stack(&mut self, tensors: &[Tensor], far_away: bool) -> Option<()> {
        let matrices: Result<alloc::vec::Vec<_>, _> =
            tensors.iter().map(|tensor| matrix_of(&self.shape, &self.table, *tensor)).collect();
        let index = self.shape.tensor_index(*tensors.first()?)? as usize;
        *self.prepacked.get_mut(index)? =
            prepacked::pack(&matrices.ok()?, &mut self.vram, self.kernel, far_away);
        Some(())
    }

    /// Whether the most likely token was found without all logits, of one position whose input is quantized.
    pub(super) fn find_best(&mut self, head: Tensor) -> Result<bool, Error> {
        /// Tokens without a try, at most, where logits are too close to each other.
        const LONGEST: u32 = 64;
        let Best { screen: Some(screen), token, pause, last_pause, .. } = &mut self.best else {
            return Ok(false);
        };
        if *pause > 0 {
            *pause -= 1;
            return Ok(false);
        }
        let matrix = matrix_of(&self.shape, &self.table, head)?;
        let input = Input { values: self.act.quantized, scales: self.act.scales, batch: 1 };
        let wide = &mut *self.act.wide;
        let found =
            screened::largest((screen, &matrix), &mut self.vram, self.kernel, self.team, input, wide)?;
        *last_pause = if found.is_some() { 0 } else { (2 * *last_pause).clamp(1, LONGEST) };
        *pause = *last_pause;
        *token = found.map(|token| token as u16);
        Ok(found.is_some())
    }
}
