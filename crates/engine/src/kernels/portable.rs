//! The kernel in plain Rust: what microcontrollers run, and the definition of the results.

use pageformer_card::matrix::TILE_OUTPUTS;
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::group::kept_cells;
use super::scalar::{CELL_INPUTS, consume};
use super::{Compute, GroupProduct, Head, Scratch, shared_source};
use crate::attention::Plain;

/// The kernel.
pub(super) struct Portable;

impl Compute for Portable {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        consume(product, cells, add_cell);
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

/// `cell`: 4 outputs × 4 inputs; `x`: 4 inputs.
#[inline(always)]
fn add_cell(cell: &[u8; CELL_BYTES], x: &[i8; CELL_INPUTS], sums: &mut [i32; TILE_OUTPUTS]) {
    for (sum, weights) in sums.iter_mut().zip(cell.chunks_exact(CELL_INPUTS)) {
        for (w, x) in weights.iter().zip(x) {
            *sum += i32::from(*w as i8) * i32::from(*x);
        }
    }
}
