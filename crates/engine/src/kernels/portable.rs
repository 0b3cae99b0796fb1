//! The kernel in plain Rust: what microcontrollers run, and the definition of the results.

use pageformer_card::matrix::TILE_OUTPUTS;
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::group::{is_dense, kept_cells};
use super::{Compute, GroupProduct, Head, Scratch, shared_source};
use crate::attention::Plain;

/// The kernel.
pub(super) struct Portable;

impl Compute for Portable {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        product.consume(cells, dot);
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

#[inline(always)]
fn dot(cells: &[u8], mut mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    if is_dense(mask) {
        for (cell, x) in cells.chunks_exact(CELL_BYTES).zip(x.chunks_exact(4)) {
            add_cell(cell, x, sums);
        }
        return;
    }
    for cell in cells.chunks_exact(CELL_BYTES) {
        let j = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        if let Some(x) = x.get(j * 4..j * 4 + 4) {
            add_cell(cell, x, sums);
        }
    }
}

/// `cell`: 4 outputs × 4 inputs; `x`: 4 inputs.
#[inline(always)]
fn add_cell(cell: &[u8], x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    for (sum, weights) in sums.iter_mut().zip(cell.chunks_exact(4)) {
        for (w, x) in weights.iter().zip(x) {
            *sum += i32::from(*w as i8) * i32::from(*x);
        }
    }
}
