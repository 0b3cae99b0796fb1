//! The walk of processors without vector instructions: whole tiles, cell by cell, with what is done for each cell kept
//! small. An instruction more for a kept cell of a sparse tile is one in forty.

use pageformer_card::CELL_BYTES;
use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS, TileRecord};

use super::GroupProduct;
use super::group::is_dense;

/// Inputs of a cell.
pub(super) const CELL_INPUTS: usize = 4;

/// Adds the product of a cell, 4 outputs × 4 inputs, and 4 inputs.
pub(super) trait AddCell:
    Fn(&[u8; CELL_BYTES], &[i8; CELL_INPUTS], &mut [i32; TILE_OUTPUTS]) + Copy
{
}
impl<F: Fn(&[u8; CELL_BYTES], &[i8; CELL_INPUTS], &mut [i32; TILE_OUTPUTS]) + Copy> AddCell for F {}

/// Consumes cells of a group, in order, until they or its tiles are used up.
#[inline(always)]
pub(super) fn consume(product: &mut GroupProduct<'_>, mut cells: &[u8], add: impl AddCell) {
    let dot = |cells: &[u8], mask, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]| {
        let (cells, _) = cells.as_chunks();
        add_tile(cells, mask, x, sums, add);
    };
    loop {
        if product.tile.is_none() {
            cells = whole_tiles(product, cells, add);
        }
        // A tile that began or ends elsewhere.
        if !product.consume_tile(&mut cells, dot) {
            return;
        }
    }
}

/// Consumes tiles as long as all of their cells are here; returns the other cells.
#[inline(always)]
fn whole_tiles<'c>(product: &mut GroupProduct<'_>, cells: &'c [u8], add: impl AddCell) -> &'c [u8] {
    let mut cells = cells;
    while product.next < product.tiles {
        let record = TileRecord::read(product.mask_page, product.next);
        let Some((now, later)) = cells.split_at_checked(record.mask.count_ones() as usize * CELL_BYTES)
        else {
            break;
        };
        cells = later;
        let (row, segment) = (product.row, product.segment);
        product.advance();
        let (now, _) = now.as_chunks();
        let scales = record.scales_f32();
        for b in 0..product.batch {
            let (start, end) = (b * product.x_stride, (b + 1) * product.x_stride);
            let from = start + segment * TILE_INPUTS;
            let x = product.x.get(from..end.min(from + TILE_INPUTS)).unwrap_or(&[]);
            let mut sums = [0; TILE_OUTPUTS];
            add_tile(now, record.mask, x, &mut sums, add);
            product.add_sums(b, row, segment, &scales, sums);
        }
    }
    cells
}

/// Adds the product of a tile's cells, which `mask` gives the places of, and the activations of its segment.
// Not inlined, here and below: the loops want all registers for themselves.
#[inline(never)]
fn add_tile(
    cells: &[[u8; CELL_BYTES]],
    mask: u64,
    x: &[i8],
    sums: &mut [i32; TILE_OUTPUTS],
    add: impl AddCell,
) {
    let (x, _) = x.as_chunks();
    let mut all = *sums;
    if is_dense(mask) {
        for (cell, x) in cells.iter().zip(x) {
            add(cell, x, &mut all);
        }
    } else {
        let low = mask as u32;
        let (low_cells, high_cells) = cells.split_at((low.count_ones() as usize).min(cells.len()));
        add_half(low_cells, low, x, &mut all, add);
        add_half(high_cells, (mask >> 32) as u32, x.get(32..).unwrap_or(&[]), &mut all, add);
    }
    *sums = all;
}

/// The same for half of a tile.
#[allow(unsafe_code)]
#[inline(never)]
fn add_half(
    cells: &[[u8; CELL_BYTES]],
    mask: u32,
    x: &[[i8; CELL_INPUTS]],
    sums: &mut [i32; TILE_OUTPUTS],
    add: impl AddCell,
) {
    let width = (u32::BITS - mask.leading_zeros()) as usize;
    if width > x.len() || mask.count_ones() as usize > cells.len() {
        return;
    }
    let mut cells = cells.as_ptr();
    // Mirrored, since processors count zeros from the top.
    let mut rest = mask.reverse_bits();
    while rest != 0 {
        let place = rest.leading_zeros();
        rest &= !((1 << 31) >> place);
        // SAFETY: the loop runs once for each bit of the mask; there are as many cells, which was checked, and `place` is
        // the number of one of those bits, less than `width`, which is at most the length of `x`.
        let (cell, x) = unsafe {
            let cell = &*cells;
            cells = cells.add(1);
            (cell, x.get_unchecked(place as usize))
        };
        add(cell, x, sums);
    }
}
