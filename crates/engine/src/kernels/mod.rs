//! Everything in a step that takes time, once for each kind of processor.
//!
//! [`portable`] defines the results; the others must give the same bits. Integer sums are exact, and whatever
//! is computed in f32 is one source for all kernels ([`crate::numerics`]), which each compiles for the
//! instructions that it has. A kernel is chosen once, at start.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod group;
pub mod portable;

use pageformer_card::{MatrixDims, Page};

pub use crate::attention::{Head, Scratch};
pub use group::{GroupProduct, Input};

/// What a kernel must do. `None` stands for a number that is not finite, unless a method says otherwise.
pub trait Compute: Sync {
    /// Consumes cells of a group, in order, until they or its tiles are used up.
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]);

    /// Kept cells of the group whose records `mask_page` holds; `None` if a mask has a bit beyond its tile's
    /// width.
    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize>;

    /// Attention of one query `q` `(head_dim)` over what `head` holds.
    fn attend(&self, head: &Head<'_>, q: &[f32], out: &mut [f32], scratch: &mut Scratch<'_>) -> Option<()>;

    /// Quantizes a key or a value; returns its bf16 scale.
    fn quantize_head(&self, x: &[f32], out: &mut [i8]) -> Option<u16>;

    /// Quantizes in segments of 256 into `out`, padded with zeros; a scale for each into `scales`.
    fn quantize(&self, x: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()>;

    /// `h = (x − mean) / √(var + eps)`, with `mean = 0` unless `centred`.
    fn normalize(&self, x: &[f32], centred: bool, eps: f32, h: &mut [f32]);

    /// `h *= gain`; `gain` as on the card.
    fn scale_by(&self, h: &mut [f32], gain: &[u8]);

    /// `h += bias`; `bias` as on the card.
    fn shift_by(&self, h: &mut [f32], bias: &[u8]);

    /// Rotates heads by `head_dim / 2` cosines and as many sines.
    fn rotate(&self, heads: &mut [f32], angles: &[f32]);

    /// `up *= silu(gate)`.
    fn swiglu(&self, up: &mut [f32], gate: &[f32]);

    /// `up = gelu(up)`.
    fn gelu(&self, up: &mut [f32]);

    /// `x += h`.
    fn add(&self, x: &mut [f32], h: &[f32]);

    /// Whether none of `values` is infinite or NaN.
    fn all_finite(&self, values: &[f32]) -> bool;

    /// The first of the largest.
    fn argmax(&self, values: &[f32]) -> usize;
}

/// [`Compute`] but for `multiply`: the shared source, compiled with `attribute`, with the attention products of
/// `products`.
macro_rules! shared_source {
    ($(#[$attribute:meta])* $products:ty) => {
        shared_source! { @ [$(#[$attribute])*]
            kept_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize>
                = $crate::kernels::group::kept_cells;
            attend(head: &Head<'_>, q: &[f32], out: &mut [f32], scratch: &mut Scratch<'_>) -> Option<()>
                = $crate::attention::attend::<$products>;
            quantize_head(x: &[f32], out: &mut [i8]) -> Option<u16> = $crate::attention::quantize_head;
            quantize(x: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()>
                = $crate::numerics::quantize_segments;
            normalize(x: &[f32], centred: bool, eps: f32, h: &mut [f32]) -> () = $crate::numerics::normalize;
            scale_by(h: &mut [f32], gain: &[u8]) -> () = $crate::numerics::scale_by;
            shift_by(h: &mut [f32], bias: &[u8]) -> () = $crate::numerics::shift_by;
            rotate(heads: &mut [f32], angles: &[f32]) -> () = $crate::numerics::rotate;
            swiglu(up: &mut [f32], gate: &[f32]) -> () = $crate::numerics::swiglu;
            gelu(up: &mut [f32]) -> () = $crate::numerics::gelu_all;
            add(x: &mut [f32], h: &[f32]) -> () = $crate::numerics::add;
            all_finite(values: &[f32]) -> bool = $crate::numerics::all_finite;
            argmax(values: &[f32]) -> usize = $crate::numerics::argmax;
        }
    };
    (@ $attributes:tt $($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $source:expr;)*) => {
        $(shared_source! { @@ $attributes $name($($arg: $type),*) -> $result = $source; })*
    };
    (@@ [] $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $source:expr;) => {
        fn $name(&self, $($arg: $type),*) -> $result {
            $source($($arg),*)
        }
    };
    (@@ [$(#[$attribute:meta])+] $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $source:expr;) => {
        fn $name(&self, $($arg: $type),*) -> $result {
            $(#[$attribute])+
            fn inner($($arg: $type),*) -> $result {
                $source($($arg),*)
            }
            // SAFETY: the kernel is only given out when the processor has what the attribute asks for.
            unsafe { inner($($arg),*) }
        }
    };
}
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_imports))]
use shared_source;

/// `√x` by the instruction of x86-64, which a target without an operating system may lack.
#[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    use core::arch::x86_64::{_mm_cvtss_f32, _mm_set_ss, _mm_sqrt_ss};
    // SAFETY: SSE, by the condition above.
    unsafe { _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))) }
}

/// A kernel: a name, and what it does.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Its name, for people.
    pub name: &'static str,
    compute: &'static dyn Compute,
}

impl Kernel {
    /// A kernel of one's own, such as one that measures another.
    pub const fn new(name: &'static str, compute: &'static dyn Compute) -> Self {
        Self { name, compute }
    }

    /// What it does.
    #[inline(always)]
    pub fn compute(&self) -> &'static dyn Compute {
        self.compute
    }
}

impl core::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

/// The portable kernel, which defines the results.
pub const PORTABLE: Kernel = Kernel::new("portable", &portable::Portable);

/// Every kernel that this processor can run, the fastest first.
pub fn available() -> impl Iterator<Item = Kernel> {
    #[cfg(target_arch = "x86_64")]
    let simd = avx2::detect();
    #[cfg(not(target_arch = "x86_64"))]
    let simd = None;
    simd.into_iter().chain([PORTABLE])
}

/// The fastest kernel that this processor can run.
pub fn best() -> Kernel {
    available().next().unwrap_or(PORTABLE)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use pageformer_card::matrix::TileRecord;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Adds up a tile weight by weight.
    fn naive(cells: &[u8], mut mask: u64, x: &[i8]) -> [i32; 4] {
        let mut sums = [0i32; 4];
        for cell in cells.chunks(16) {
            let j = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            for r in 0..4 {
                for i in 0..4 {
                    sums[r] += i32::from(cell[r * 4 + i] as i8) * i32::from(x[j * 4 + i]);
                }
            }
        }
        sums
    }

    fn weight() -> impl Strategy<Value = u8> {
        (-127i8..=127).prop_map(|w| w as u8)
    }

    proptest! {
        /// One tile, any mask, fed in any pieces, for several positions.
        #[test]
        fn kernels_agree(
            width in 1usize..=64,
            bits in any::<u64>(),
            all in any::<bool>(),
            batch in 1usize..5,
            piece in 1usize..70,
            cells in proptest::collection::vec(weight(), 64 * 16),
            x in proptest::collection::vec(-127i8..=127, 5 * 256),
        ) {
            let dims = MatrixDims { outputs: 4, inputs: width as u32 * 4 };
            let mask = if all { u64::MAX } else { bits } & dims.full_mask(0);
            let cells = &cells[..mask.count_ones() as usize * 16];
            let mut mask_page = [0; 512];
            // 0x3F80 is 1.0 in bf16.
            TileRecord { scales: [0x3F80; 4], mask }.write(&mut mask_page, 0);
            let values = &x[..batch * width * 4];
            let input = Input { values, scales: &[1.0; 5][..batch], batch };
            let want: Vec<f32> = values.chunks(width * 4).flat_map(|x| naive(cells, mask, x)).map(|s| s as f32).collect();
            for kernel in available() {
                let mut y = std::vec![f32::NAN; batch * 4];
                let mut product = GroupProduct::new(&dims, 0, &mask_page, input, &mut y);
                product.feed(kernel, &[]);
                for part in cells.chunks(piece * 16) {
                    product.feed(kernel, part);
                }
                prop_assert_eq!(&y, &want, "{}", kernel.name);
            }
        }
    }
}
