//! Cortex-M with the DSP extension (M4, M7, mostly M33 and later): two products of 16 bits an instruction.
#![allow(unsafe_code)]

use core::arch::asm;

use pageformer_card::matrix::TILE_OUTPUTS;
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::group::kept_cells;
use super::scalar::{CELL_INPUTS, consume};
use super::{Compute, GroupProduct, Head, Kernel, Scratch, shared_source};
use crate::attention::Plain;

/// The kernel, for targets that have the extension.
pub(super) const DSP: Kernel = Kernel::new("dsp", &Dsp);

struct Dsp;

impl Compute for Dsp {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        consume(product, cells, add_cell);
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells(dims, group, mask_page)
    }

    shared_source! { Plain }
}

/// `cell`: 4 outputs × 4 inputs; `x`: 4 inputs. 21 instructions; one product at a time they would be 36.
#[inline(always)]
fn add_cell(cell: &[u8; CELL_BYTES], x: &[i8; CELL_INPUTS], sums: &mut [i32; TILE_OUTPUTS]) {
    let x = u32::from_le_bytes(x.map(|x| x as u8));
    let (even, odd) = (even_bytes(x), odd_bytes(x));
    let (rows, _) = cell.as_chunks();
    for (sum, row) in sums.iter_mut().zip(rows) {
        let w = u32::from_le_bytes(*row);
        *sum = add_products(even_bytes(w), even, *sum);
        *sum = add_products(odd_bytes(w), odd, *sum);
    }
}

/// Bytes 0 and 2 as two signed numbers of 16 bits.
#[inline(always)]
fn even_bytes(bytes: u32) -> u32 {
    let halves;
    // SAFETY: an instruction of the DSP extension, which the target has; it reads a register and writes another.
    unsafe {
        asm!("sxtb16 {}, {}", out(reg) halves, in(reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// Bytes 1 and 3 as two signed numbers of 16 bits.
#[inline(always)]
fn odd_bytes(bytes: u32) -> u32 {
    let halves;
    // SAFETY: as above.
    unsafe {
        asm!("sxtb16 {}, {}, ror #8", out(reg) halves, in(reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// `sum` and the two products of the signed halves of `a` and `b`.
#[inline(always)]
fn add_products(a: u32, b: u32, sum: i32) -> i32 {
    let result;
    // SAFETY: as above. It sets a flag if the sum overflows, which that of 256 products of int8 does not.
    unsafe {
        asm!("smlad {}, {}, {}, {}", out(reg) result, in(reg) a, in(reg) b, in(reg) sum,
            options(pure, nomem, nostack, preserves_flags));
    }
    result
}
