//! A matrix that is packed for the kernel, by one thread or by a team.

use alloc::vec::Vec;

use pageformer_vram::{Card, Vram};

use super::MatrixPages;
#[cfg(feature = "threads")]
use crate::kernels::share;
use crate::kernels::{Input, Kernel, Prepacked, Team};

/// Lines of weights from which on sharing out takes less time than it saves, for any number of positions: more of them come with more activations and
/// outputs that go from one processor to the other.
#[cfg(feature = "threads")]
const LEAST: usize = 2400;
/// Lines that a thread takes at a time, at least.
#[cfg(feature = "threads")]
const TAKE: usize = 256;

/// Matrices that follow each other on the tape, packed as one, if they can be and all of their pages are in memory, one behind the other.
pub(crate) fn pack<C: Card>(
    matrices: &[MatrixPages],
    vram: &mut Vram<'_, C>,
    kernel: Kernel,
    far_away: bool,
) -> Option<Prepacked> {
    let (first, last) = (matrices.first()?.pages.start, matrices.last()?.pages.end);
    let tape = vram.pages(first, last.checked_sub(first)?).ok()?;
    let pages_of = |matrix: &MatrixPages| {
        let from = matrix.pages.start.checked_sub(first)? as usize;
        Some((matrix.dims, tape.get(from..from + matrix.pages.len())?))
    };
    let stack: Option<Vec<_>> = matrices.iter().map(pages_of).collect();
    kernel.prepack(&stack?, far_away)
}

/// `y = W·x`: `(batch, padded outputs)`. False if it has to be done otherwise.
pub(crate) fn multiply(
    matrix: &Prepacked,
    kernel: Kernel,
    team: Option<&dyn Team>,
    x: Input<'_>,
    y: &mut [f32],
) -> bool {
    let compute = kernel.compute();
    let stride = matrix.outputs(0..matrix.parts()).len();
    #[cfg(feature = "threads")]
    if let Some(team) = team
        && matrix.lines() >= LEAST
    {
        if compute.packing() != Some(matrix.packing()) || !matrix.fits(&(0..matrix.parts()), &x, y, stride) {
            return false;
        }
        let y = &mut y[..x.batch * stride];
        return if x.batch == 1 {
            let parts = (TAKE * matrix.parts()).div_ceil(matrix.lines());
            let mut y = y;
            let pieces = (0..matrix.parts()).step_by(parts).map_while(move |first| {
                let parts = first..(first + parts).min(matrix.parts());
                let (here, later) =
                    core::mem::take(&mut y).split_at_mut_checked(matrix.outputs(parts.clone()).len())?;
                y = later;
                Some((parts, here))
            });
            let work = |(parts, y): (core::ops::Range<usize>, &mut [f32])| {
                let stride = y.len();
                compute.multiply_prepacked(matrix, parts, x, y, stride);
            };
            share(team, pieces, work).is_some()
        } else {
            let positions = x.batch.div_ceil(team.threads().max(1));
            let pieces = matrix.pieces(x, positions).zip(y.chunks_mut(positions * stride));
            share(team, pieces, |(x, y)| {
                compute.multiply_prepacked(matrix, 0..matrix.parts(), x, y, stride);
            })
            .is_some()
        };
    }
    #[cfg(not(feature = "threads"))]
    let _ = team;
    compute.multiply_prepacked(matrix, 0..matrix.parts(), x, y, stride)
}
