//! Everything in a step that takes time, once for each kind of processor.
//!
//! [`portable`] defines the results; the others must give the same bits. Integer sums are exact, and whatever
//! is computed in f32 is one source for all kernels ([`crate::numerics`]), which each compiles for the
//! instructions that it has. A kernel is chosen once, at start.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod group;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
pub mod portable;
mod scalar;
mod team;
#[cfg(thumb2)]
mod thumb;
#[cfg(target_arch = "x86_64")]
mod x86;

use pageformer_card::{MatrixDims, Page};

pub use crate::attention::{Head, Scratch};
pub use group::{GroupProduct, Input};
#[cfg(feature = "threads")]
pub use team::Desk;
#[cfg(feature = "threads")]
pub(crate) use team::share;
pub use team::{Team, Work};

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

/// [`Compute`] but for `multiply` and `kept_cells`: the shared source, compiled with `attribute`, with the attention products of
/// `products`.
macro_rules! shared_source {
    ($(#[$attribute:meta])* $products:ty) => {
        shared_source! { @ [$(#[$attribute])*]
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
    let simd = {
        let features = x86::Features::of_this_processor();
        avx512::detect(&features).into_iter().chain(avx2::detect(&features))
    };
    #[cfg(thumb2)]
    let simd = [thumb::THUMB];
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    let simd = neon::detect().into_iter().flatten();
    #[cfg(not(any(target_arch = "x86_64", thumb2, all(target_arch = "aarch64", target_feature = "neon"))))]
    let simd: [Kernel; 0] = [];
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

    /// A matrix of random cells, scales and masks: each tile's record and cells.
    fn tiles(dims: &MatrixDims, density: u32, seed: u64) -> Vec<(TileRecord, Vec<u8>)> {
        let mut state = seed;
        let mut bits = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        (0..dims.tiles())
            .map(|tile| {
                // Densities 0, 1/4, 1/2, 3/4 and 1; with 5, a mixture.
                let mask = match if density == 5 { (bits() % 5) as u32 } else { density } {
                    0 => 0,
                    1 => bits() & bits(),
                    2 => bits(),
                    3 => bits() | bits(),
                    _ => u64::MAX,
                } & dims.full_mask(tile % dims.segments());
                let cells = (0..mask.count_ones() * 16).map(|_| bits() as u8).collect();
                // bf16 from 1 to 2.
                let scales = core::array::from_fn(|_| 0x3F80 + (bits() % 128) as u16);
                (TileRecord { scales, mask }, cells)
            })
            .collect()
    }

    proptest! {
        /// Whole matrices: any shape, masks and weights (-128, too, which only a damaged card has), fed in any pieces, for
        /// several positions. The portable kernel is compared with plain sums, the others with it.
        #[test]
        fn kernels_agree(
            outputs in 1u32..70,
            inputs in prop_oneof![1u32..70, 1u32..800],
            density in 0u32..6,
            batch in 1usize..6,
            piece in prop_oneof![1usize..70, Just(usize::MAX / 16)],
            seed in any::<u64>(),
            x in proptest::collection::vec(-127i8..=127, 5 * 800),
        ) {
            let dims = MatrixDims { outputs, inputs };
            let tiles = tiles(&dims, density, seed);
            let (stride, segments) = (dims.padded_inputs() as usize, dims.segments() as usize);
            let values = &x[..batch * stride];
            let x_scales: Vec<f32> = (0..batch * segments).map(|i| 0.75 + i as f32).collect();
            let input = Input { values, scales: &x_scales, batch };

            let mut want = std::vec![0.0; batch * dims.padded_outputs() as usize];
            for (number, (record, cells)) in tiles.iter().enumerate() {
                let (row, segment) = (number / segments, number % segments);
                for b in 0..batch {
                    let x = &values[b * stride + segment * 256..(b + 1) * stride];
                    let sums = naive(cells, record.mask, x);
                    for r in 0..4 {
                        let y = &mut want[b * dims.padded_outputs() as usize + row * 4 + r];
                        *y += x_scales[b * segments + segment] * record.scales_f32()[r] * sums[r] as f32;
                    }
                }
            }
            for kernel in available() {
                let mut y = std::vec![f32::NAN; want.len()];
                for group in 0..dims.groups() {
                    let mut mask_page = [0; 512];
                    let mut cells = Vec::new();
                    let group_tiles = tiles.iter().skip(group as usize * 32).take(32);
                    for (at, (record, tile)) in group_tiles.enumerate() {
                        record.write(&mut mask_page, at);
                        cells.extend_from_slice(tile);
                    }
                    let kept = kernel.compute().kept_cells(&dims, group, &mask_page);
                    prop_assert_eq!(kept, Some(cells.len() / 16), "{}", kernel.name);
                    let mut product = GroupProduct::new(&dims, group, &mask_page, input, &mut y);
                    product.feed(kernel, &[]);
                    for part in cells.chunks(piece * 16) {
                        product.feed(kernel, part);
                    }
                }
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                prop_assert!(bits(&y) == bits(&want), "{}: {:?} instead of {:?}", kernel.name, y, want);
            }
        }

        /// A mask with a bit beyond its tile's width is noticed by every kernel, and does no harm before it is.
        #[test]
        fn masks_beyond_the_width(outputs in 1u32..130, inputs in 1u32..600, at in 0usize..32, bit in 0u32..64) {
            let dims = MatrixDims { outputs, inputs };
            let at = at % dims.tiles_in_group(0) as usize;
            let mut mask_page = [0; 512];
            TileRecord { scales: [0x3F80; 4], mask: 1 << bit }.write(&mut mask_page, at);
            let fits = bit < dims.cells_in_tile(at as u32 % dims.segments());
            for kernel in available() {
                let kept = kernel.compute().kept_cells(&dims, 0, &mask_page);
                prop_assert_eq!(kept, fits.then_some(1), "{}", kernel.name);
                let x = std::vec![1; dims.padded_inputs() as usize];
                let scales = std::vec![1.0; dims.segments() as usize];
                let mut y = std::vec![0.0; dims.padded_outputs() as usize];
                let input = Input { values: &x, scales: &scales, batch: 1 };
                GroupProduct::new(&dims, 0, &mask_page, input, &mut y).feed(kernel, &[1; 16]);
            }
        }

        /// Everything but the matrices: the same bits from every kernel.
        #[test]
        fn the_rest_agrees(
            x in proptest::collection::vec(-20f32..20.0, 1..400),
            head_dim in 1usize..40,
            seen in 1usize..600,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut byte = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as i8
            };
            let (places, channels) = (seen.next_multiple_of(8), head_dim.next_multiple_of(4));
            let keys: Vec<i8> = (0..places * channels).map(|_| byte().max(-127)).collect();
            let values: Vec<i8> = (0..places * channels).map(|_| byte().max(-127)).collect();
            let key_scales: Vec<u16> = (0..places).map(|_| 0x3C00 + (byte() as u8 as u16)).collect();
            let value_scales: Vec<u16> = (0..places).map(|_| 0x3C00 + (byte() as u8 as u16)).collect();
            let head = Head {
                keys: &keys,
                key_scales: &key_scales,
                values: &values,
                value_scales: &value_scales,
                seen,
                channels,
            };
            let query: Vec<f32> = (0..head_dim).map(|_| f32::from(byte()) / 16.0).collect();
            let mut want: Option<Vec<u32>> = None;
            for kernel in available() {
                let compute = kernel.compute();
                let mut all = Vec::new();
                let (mut scores, mut weights, mut quantized) =
                    (std::vec![0.0; places], std::vec![0; places], std::vec![0; channels]);
                let mut out = std::vec![0.0; head_dim];
                let mut scratch =
                    Scratch { query: &mut quantized, scores: &mut scores, weights: &mut weights };
                compute.attend(&head, &query, &mut out, &mut scratch).unwrap();
                all.extend_from_slice(&out);

                let mut bytes = std::vec![0; x.len().next_multiple_of(4)];
                let mut scales = std::vec![0.0; x.len().div_ceil(256)];
                compute.quantize(&x, &mut bytes, &mut scales).unwrap();
                all.extend(bytes.iter().map(|q| f32::from(*q)).chain(scales));
                let mut bytes = std::vec![0; x.len()];
                all.push(f32::from(compute.quantize_head(&x, &mut bytes).unwrap()));
                all.extend(bytes.iter().map(|q| f32::from(*q)));

                let mut h = std::vec![0.0; x.len()];
                compute.normalize(&x, false, 1e-5, &mut h);
                all.extend_from_slice(&h);
                compute.normalize(&x, true, 1e-5, &mut h);
                let gain: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
                compute.scale_by(&mut h, &gain);
                compute.shift_by(&mut h, &gain);
                compute.add(&mut h, &x);
                all.extend_from_slice(&h);
                compute.swiglu(&mut h, &x);
                all.extend_from_slice(&h);
                compute.gelu(&mut h);
                compute.rotate(&mut h, &x[..x.len().min(head_dim) / 2 * 2]);
                all.extend_from_slice(&h);
                all.push(compute.argmax(&x) as f32);
                prop_assert!(compute.all_finite(&x));

                let bits: Vec<u32> = all.iter().map(|x| x.to_bits()).collect();
                prop_assert!(&bits == want.get_or_insert(bits.clone()), "{}", kernel.name);
            }
        }
    }
}
