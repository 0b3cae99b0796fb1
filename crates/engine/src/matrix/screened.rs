//! The largest output of a matrix, most of whose outputs are not computed.

use pageformer_card::matrix::{TILE_OUTPUTS, TileRecord};
use pageformer_card::{CELL_BYTES, MatrixDims, PAGE_BYTES, Page};
use pageformer_vram::{Card, Vram};

use super::MatrixPages;
use crate::error::Error;
#[cfg(feature = "threads")]
use crate::kernels::share;
use crate::kernels::{GroupProduct, Input, Kernel, Screen, Team};

/// Bundles that a thread takes at a time.
#[cfg(feature = "threads")]
const TAKE: usize = 16;
/// Bounds that are looked at together.
const LOOK: usize = 64;

/// A bound in so many may reach the largest output, divided among threads: computing more of them, one by one, takes longer than all together.
const FEW: usize = 64;

/// The first of the largest outputs of `matrix`, of one position; `None` if it has to be found otherwise. `bounds` is memory for a number for each output.
///
/// # Errors
/// If a page cannot be had. Outputs are finite: [`Screen::look_at`] declines where one might not be.
pub(crate) fn largest<C: Card>(
    (screen, matrix): (&Screen, &MatrixPages),
    vram: &mut Vram<'_, C>,
    kernel: Kernel,
    team: Option<&dyn Team>,
    x: Input<'_>,
    bounds: &mut [f32],
) -> Result<Option<usize>, Error> {
    let (outputs, inputs) = (matrix.dims.outputs as usize, matrix.dims.padded_inputs() as usize);
    let (Some(bounds), Some(values)) = (bounds.get_mut(..outputs), x.values.get(..inputs)) else {
        return Ok(None);
    };
    let x = Input { values, ..x };
    if bound(screen, kernel, team, x, bounds).is_none() {
        return Ok(None);
    }
    let all = matrix.pages.len();
    let pages = vram.pages(matrix.pages.start, all as u32).map_err(|fault| matrix.fault(fault))?;
    if pages.len() < all {
        return Ok(None);
    }
    let (mut most, mut best) = (f32::NEG_INFINITY, 0);
    let mut compute = |block: usize| {
        let y = row_block(matrix, pages, block as u32, kernel, x);
        for (output, y) in (block * TILE_OUTPUTS..outputs).zip(y) {
            if !y.is_finite() {
                return Err(Error::NotFinite(matrix.tensor));
            }
            if y > most || (y == most && output < best) {
                (most, best) = (y, output);
            }
        }
        Ok(most)
    };
    // Behind the likeliest, few others can be larger.
    let first = kernel.compute().argmax(bounds) / TILE_OUTPUTS;
    let mut most = compute(first)?;
    // A bound that is NaN is none.
    let below = bounds.iter().map(|bound| usize::from(*bound < most)).sum::<usize>();
    if outputs - below > outputs / FEW / team.map_or(1, Team::threads) {
        return Ok(None);
    }
    for (look, bounds) in bounds.chunks(LOOK).enumerate() {
        if bounds.iter().fold(true, |below, bound| below & (*bound < most)) {
            continue;
        }
        for (block, bounds) in (look * LOOK / TILE_OUTPUTS..).zip(bounds.chunks(TILE_OUTPUTS)) {
            if block != first && !bounds.iter().all(|bound| *bound < most) {
                most = compute(block)?;
            }
        }
    }
    Ok(Some(best))
}

/// Fills `bounds`.
fn bound(
    screen: &Screen,
    kernel: Kernel,
    team: Option<&dyn Team>,
    x: Input<'_>,
    bounds: &mut [f32],
) -> Option<()> {
    let (x, compute) = (screen.look_at(x)?, kernel.compute());
    #[cfg(feature = "threads")]
    if let Some(team) = team {
        let mut rest = bounds;
        let pieces = (0..screen.bundles()).step_by(TAKE).map_while(move |first| {
            let bundles = first..(first + TAKE).min(screen.bundles());
            let outputs = screen.outputs(bundles.clone()).len();
            let (here, later) = core::mem::take(&mut rest).split_at_mut_checked(outputs)?;
            rest = later;
            Some((bundles, here))
        });
        let work = |(bundles, bounds): (core::ops::Range<usize>, &mut [f32])| {
            if !compute.screen(screen, bundles, &x, bounds) {
                bounds.fill(f32::NAN);
            }
        };
        return share(team, pieces, work).map(|_| ());
    }
    #[cfg(not(feature = "threads"))]
    let _ = team;
    compute.screen(screen, 0..screen.bundles(), &x, bounds).then_some(())
}

/// Four outputs, as those of a matrix that has no others.
fn row_block(
    matrix: &MatrixPages,
    pages: &[Page],
    block: u32,
    kernel: Kernel,
    x: Input<'_>,
) -> [f32; TILE_OUTPUTS] {
    let dims = MatrixDims { outputs: TILE_OUTPUTS as u32, ..matrix.dims };
    let places = (0..dims.segments()).map(|segment| matrix.dims.dense_tile(block * dims.outputs, segment));
    let (mut records, mut y) = ([0; PAGE_BYTES], [0.0; TILE_OUTPUTS]);
    for (segment, place) in places.clone().enumerate() {
        let Some(page) = pages.get(place.mask_page as usize) else { continue };
        TileRecord::read(page, place.record as usize).write(&mut records, segment);
    }
    let mut product = GroupProduct::new(&dims, 0, &records, x, (&mut y, TILE_OUTPUTS));
    for (segment, place) in (0..).zip(places) {
        let from = place.cell_page as usize * PAGE_BYTES + place.cell as usize * CELL_BYTES;
        let to = from + dims.cells_in_tile(segment) as usize * CELL_BYTES;
        product.feed(kernel, pages.as_flattened().get(from..to).unwrap_or(&[]));
    }
    y
}
