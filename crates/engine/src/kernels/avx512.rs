//! 64 products at once, for x86-64 with AVX-512 and its VNNI.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds four of them to an i32, exactly. Weights go in as
//! `w + 128`, which costs a XOR and is right for any weight, −128 included; activations with their sign; and what the
//! 128 add up to, 128 · Σx, is taken off again, once for all rows that meet the same activations.
#![allow(unsafe_code)]

mod attention;
mod dense;
#[cfg(feature = "prepack")]
mod prepacked;
mod rows;
#[cfg(feature = "prepack")]
mod screen;
mod sparse;

#[cfg(feature = "prepack")]
use super::prepacked_source;
use super::x86::Features;
use super::{Compute, GroupProduct, Head, Kernel, Scratch, shared_source};
use pageformer_card::{MatrixDims, Page};

/// The kernel. Only [`detect`] gives it out, so that a value of it means that the processor has what
/// [`Features::avx512_vnni`] asks for.
struct Avx512;

impl Compute for Avx512 {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        // SAFETY: this kernel is only given out by `detect`.
        unsafe { multiply(product, cells) }
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        // SAFETY: this kernel is only given out by `detect`.
        unsafe { rows::kept_cells(dims, group, mask_page) }
    }

    #[cfg(feature = "prepack")]
    prepacked_source! {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
        prepacked::PACKING, prepacked::multiply, screen::screen
    }

    shared_source! {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")] Avx512
    }
}

/// The kernel, if this processor can run it.
pub(super) fn detect(features: &Features) -> Option<Kernel> {
    features.avx512_vnni.then_some(Kernel::new("avx512-vnni", &Avx512))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
fn multiply(product: &mut GroupProduct<'_>, mut cells: &[u8]) {
    let dot = |cells: &[u8], mask, x: &[i8], sums: &mut [i32; 4]| sparse::dot(cells, mask, x, sums);
    while product.within_row() {
        if !product.consume_tile(&mut cells, dot) {
            return;
        }
    }
    rows::multiply(product, &mut cells);
    product.consume(cells, dot);
}
