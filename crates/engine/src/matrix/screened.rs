//! The largest output of a matrix, most of whose outputs are not computed.

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP};
use pageformer_card::{CELL_BYTES, MatrixDims, PAGE_BYTES, Page};
use pageformer_vram::{Card, Vram};

use super::MatrixPages;
use crate::error::Error;
#[cfg(feature = "threads")]
use crate::kernels::share;
use crate::kernels::{GroupProduct, Input, Kernel, Screen, Team, ask_for};

/// Bundles that a thread takes at a time.
#[cfg(feature = "threads")]
const TAKE: usize = 16;
/// Bounds that are looked at together.
const LOOK: usize = 64;

/// A bound in so many may reach the largest output, divided among threads: finding the bounds and computing more of them, one by one, takes longer than
/// computing all outputs together.
const FEW: usize = 16;

/// Row-blocks that are asked for, and computed, together, at most.
const ASK: usize = 16;
/// Bytes of the cells of [`TILES_PER_GROUP`] tiles.
const CELLS: usize = TILES_PER_GROUP * TILE_OUTPUTS * TILE_INPUTS;

/// The first of the largest outputs of `matrix`, of one position; `None` if it has to be found otherwise. `bounds` is memory for a number for each row-block.
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
    let blocks = matrix.dims.row_blocks() as usize;
    let (Some(bounds), Some(values)) = (bounds.get_mut(..blocks), x.values.get(..inputs)) else {
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
    let mut cells = [0; CELLS];
    let mut compute = |blocks: &[usize]| {
        let Some(y) = row_blocks(matrix, pages, blocks, kernel, x, &mut cells) else { return Ok(None) };
        for (block, y) in blocks.iter().zip(y) {
            for (output, y) in (block * TILE_OUTPUTS..outputs).zip(y) {
                if !y.is_finite() {
                    return Err(Error::NotFinite(matrix.tensor));
                }
                if y > most || (y == most && output < best) {
                    (most, best) = (y, output);
                }
            }
        }
        Ok(Some((most, best)))
    };
    // Behind the likeliest, few others can be larger.
    let first = kernel.compute().argmax(bounds);
    let Some((least, mut likeliest)) = compute(&[first])? else { return Ok(None) };
    // NaN would be no bound.
    let is_below = |bound: &f32| *bound < least;
    let count = bounds.iter().map(|bound| u32::from(!is_below(bound))).sum::<u32>() as usize;
    if count > blocks / FEW / team.map_or(1, Team::threads) {
        return Ok(None);
    }
    let mut reaching = (bounds.chunks(LOOK).enumerate())
        .filter(|(_, bounds)| !bounds.iter().fold(true, |all, bound| all & is_below(bound)))
        .flat_map(|(look, bounds)| (look * LOOK..).zip(bounds))
        .filter(|(block, bound)| *block != first && !is_below(bound));
    // They lie anywhere, so each would be waited for alone.
    let mut some = [0; ASK];
    let together = ASK.min(TILES_PER_GROUP / matrix.dims.segments() as usize);
    loop {
        let mut found = 0;
        for (place, (block, _)) in some.iter_mut().take(together).zip(&mut reaching) {
            *place = block;
            found += 1;
            for (record, cells) in places(matrix, pages, block) {
                ask_for(record);
                ask_for(cells);
            }
        }
        if found == 0 {
            return Ok(Some(likeliest));
        }
        let Some((_, best)) = compute(some.get(..found).unwrap_or(&[]))? else { return Ok(None) };
        likeliest = best;
    }
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
            let blocks = screen.row_blocks(bundles.clone()).len();
            let (here, later) = core::mem::take(&mut rest).split_at_mut_checked(blocks)?;
            rest = later;
            Some((bundles, here))
        });
        let work = |(bundles, bounds): (core::ops::Range<usize>, &mut [f32])| {
            if !compute.screen(screen, bundles, &x, bounds) {
                bounds.fill(f32::INFINITY);
            }
        };
        return share(team, pieces, work).map(|_| ());
    }
    #[cfg(not(feature = "threads"))]
    let _ = team;
    compute.screen(screen, 0..screen.bundles(), &x, bounds).then_some(())
}

/// The outputs of some row-blocks, no more than [`ASK`] and [`TILES_PER_GROUP`] tiles, as those of a matrix that has no others. `cells` is memory for theirs.
/// `None` if that is too small, or pages are missing.
fn row_blocks(
    matrix: &MatrixPages,
    pages: &[Page],
    blocks: &[usize],
    kernel: Kernel,
    x: Input<'_>,
    cells: &mut [u8; CELLS],
) -> Option<[[f32; TILE_OUTPUTS]; ASK]> {
    let (mut records, mut y) = ([0; PAGE_BYTES], [[0.0; TILE_OUTPUTS]; ASK]);
    let (mut used, mut places_of_records) = (0, records.chunks_mut(RECORD_BYTES));
    for (record, of_tile) in blocks.iter().flat_map(|block| places(matrix, pages, *block)) {
        places_of_records.next().filter(|to| to.len() == record.len())?.copy_from_slice(record);
        cells.get_mut(used..used + of_tile.len())?.copy_from_slice(of_tile);
        used += of_tile.len();
    }
    let outputs = blocks.len() * TILE_OUTPUTS;
    let dims = MatrixDims { outputs: outputs as u32, ..matrix.dims };
    if used as u64 != dims.cells() * CELL_BYTES as u64 {
        return None;
    }
    let of_blocks = y.as_flattened_mut().get_mut(..outputs)?;
    GroupProduct::new(&dims, 0, &records, x, (of_blocks, outputs)).feed(kernel, cells.get(..used)?);
    Some(y)
}

/// Of each segment of a row-block, the record and the cells.
fn places<'p>(
    matrix: &MatrixPages,
    pages: &'p [Page],
    block: usize,
) -> impl Iterator<Item = (&'p [u8], &'p [u8])> {
    let dims = matrix.dims;
    (0..dims.segments()).map(move |segment| {
        let place = dims.dense_tile(block as u32 * TILE_OUTPUTS as u32, segment);
        let part = |page: u32, from: u32, len: usize| {
            let from = page as usize * PAGE_BYTES + from as usize;
            pages.as_flattened().get(from..from + len).unwrap_or(&[])
        };
        let cells = dims.cells_in_tile(segment) as usize * CELL_BYTES;
        (
            part(place.mask_page, place.record * RECORD_BYTES as u32, RECORD_BYTES),
            part(place.cell_page, place.cell * CELL_BYTES as u32, cells),
        )
    })
}
