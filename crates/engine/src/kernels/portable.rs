//! The kernel in plain Rust: what most microcontrollers run, and the definition of the results. What is done for each cell
//! is kept small: an instruction more for a kept cell of a sparse tile is one in forty.

use pageformer_card::matrix::{TILE_OUTPUTS, TileRecord};
use pageformer_card::{MatrixDims, Page};

use super::group::{is_dense, kept_cells};
use super::scalar::{CELL_INPUTS, Cell, Tiles, consume};
use super::{Compute, GroupProduct, Head, Scratch, shared_source};
use crate::attention::Plain;
use crate::scaled::scaled;

/// The kernel.
pub(super) struct Portable;

impl Compute for Portable {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        consume(product, cells, PlainTiles);
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

#[derive(Clone, Copy)]
struct PlainTiles;

impl Tiles for PlainTiles {
    #[inline(always)]
    fn add(self, cells: &[Cell], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
        add_tile(cells, mask, x, sums);
    }

    #[inline(always)]
    fn whole<'c>(
        self,
        record: &TileRecord,
        cells: &'c [Cell],
        x: &[i8],
        x_scale: f32,
    ) -> Option<([f32; TILE_OUTPUTS], &'c [Cell])> {
        let (cells, later) = cells.split_at_checked(record.mask.count_ones() as usize)?;
        let mut sums = [0; TILE_OUTPUTS];
        add_tile(cells, record.mask, x, &mut sums);
        Some((scaled(x_scale, &record.scales, &sums), later))
    }
}

/// Adds the product of a tile's cells, which `mask` gives the places of, and the activations of its segment.
// Not inlined, here and below: the loops want all registers for themselves.
#[inline(never)]
fn add_tile(cells: &[Cell], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    let (x, _) = x.as_chunks();
    let mut all = *sums;
    if is_dense(mask) {
        for (cell, x) in cells.iter().zip(x) {
            add_cell(cell, x, &mut all);
        }
    } else {
        let low = mask as u32;
        let (low_cells, high_cells) = cells.split_at((low.count_ones() as usize).min(cells.len()));
        add_half(low_cells, low, x, &mut all);
        add_half(high_cells, (mask >> 32) as u32, x.get(32..).unwrap_or(&[]), &mut all);
    }
    *sums = all;
}

/// The same for half of a tile.
#[allow(unsafe_code)]
#[inline(never)]
fn add_half(cells: &[Cell], mask: u32, x: &[[i8; CELL_INPUTS]], sums: &mut [i32; TILE_OUTPUTS]) {
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
        add_cell(cell, x, sums);
    }
}

#[inline(always)]
fn add_cell(cell: &Cell, x: &[i8; CELL_INPUTS], sums: &mut [i32; TILE_OUTPUTS]) {
    for (sum, weights) in sums.iter_mut().zip(cell.chunks_exact(CELL_INPUTS)) {
        for (w, x) in weights.iter().zip(x) {
            *sum += i32::from(*w as i8) * i32::from(*x);
        }
    }
}
