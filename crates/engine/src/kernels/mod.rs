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
#[cfg(feature = "prepack")]
mod prepacked;
mod scalar;
mod team;
#[cfg(thumb2)]
mod thumb;
#[cfg(target_arch = "x86_64")]
mod x86;

use pageformer_card::{MatrixDims, Page};

pub use crate::attention::{Head, Scratch};
pub use group::{GroupProduct, Input};
#[cfg(feature = "prepack")]
pub(crate) use prepacked::gather;
#[cfg(feature = "prepack")]
pub use prepacked::{Packing, Prepacked, Screen, Screened};
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

    /// Multiplies tiles with the same activations, from the first of some records on, and says how many and how many cells they had: those
    /// that have all of their cells among `cells`, one behind the other, of which there may be more, and that the kernel need not look
    /// at twice. None at all if it would rather know first what [`Self::kept_cells`] says. `x` are activations of a segment, and their
    /// scale. Records are aligned to four bytes, as pages in the engine's memory are.
    fn multiply_tiles(
        &self,
        records: &[u8],
        cells: &[u8],
        x: &(&[i8], f32),
        y: &mut [f32],
    ) -> (usize, usize) {
        let _ = (records, cells, x, y);
        (0, 0)
    }

    /// How matrices should be packed for [`Self::multiply_prepacked`]; `None` if it does not multiply.
    #[cfg(feature = "prepack")]
    fn packing(&self) -> Option<Packing> {
        None
    }

    /// `y = W·x` for some parts of a matrix; `y` is `(batch, y_stride)` and begins with their first output. False, and nothing is
    /// written, if the kernel cannot or something is too short.
    #[cfg(feature = "prepack")]
    fn multiply_prepacked(
        &self,
        matrix: &Prepacked,
        parts: core::ops::Range<usize>,
        x: Input<'_>,
        y: &mut [f32],
        y_stride: usize,
    ) -> bool {
        let _ = (matrix, parts, x, y, y_stride);
        false
    }

    /// For each row-block of some bundles a number that none of its outputs exceeds. False, and nothing is written, if the kernel cannot or `bounds` has
    /// another length.
    #[cfg(feature = "prepack")]
    fn screen(
        &self,
        screen: &Screen,
        bundles: core::ops::Range<usize>,
        x: &Screened<'_>,
        bounds: &mut [f32],
    ) -> bool {
        let _ = (screen, bundles, x, bounds);
        false
    }

    /// Attention of a query `q` `(head.width)` over what `head` holds. With the feature `prepack`, of two `(2, head.width)`, if `scratch` has room for both.
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

    /// `gate = up · silu(gate)`.
    fn swiglu(&self, gate: &mut [f32], up: &[f32]);

    /// `up = gelu(up)`.
    fn gelu(&self, up: &mut [f32]);

    /// `x += h`.
    fn add(&self, x: &mut [f32], h: &[f32]);

    /// Whether none of `values` is infinite or NaN.
    fn all_finite(&self, values: &[f32]) -> bool;

    /// The first of the largest.
    fn argmax(&self, values: &[f32]) -> usize;
}

/// [`Compute`] but for `multiply` and `kept_cells`: the shared source, compiled with `attribute`, with the passes of attention of
/// `passes`.
macro_rules! shared_source {
    ($(#[$attribute:meta])* $passes:ty) => {
        shared_source! { @ [$(#[$attribute])*]
            attend(head: &Head<'_>, q: &[f32], out: &mut [f32], scratch: &mut Scratch<'_>) -> Option<()>
                = $crate::attention::attend::<$passes>;
            quantize_head(x: &[f32], out: &mut [i8]) -> Option<u16> = $crate::attention::quantize_head;
            quantize(x: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()>
                = $crate::numerics::quantize_segments;
            normalize(x: &[f32], centred: bool, eps: f32, h: &mut [f32]) -> () = $crate::numerics::normalize;
            scale_by(h: &mut [f32], gain: &[u8]) -> () = $crate::numerics::scale_by;
            shift_by(h: &mut [f32], bias: &[u8]) -> () = $crate::numerics::shift_by;
            rotate(heads: &mut [f32], angles: &[f32]) -> () = $crate::numerics::rotate;
            swiglu(gate: &mut [f32], up: &[f32]) -> () = $crate::numerics::swiglu;
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

/// What [`Compute`] has for packed matrices, by functions that are compiled with `attribute`.
#[cfg(all(feature = "prepack", target_arch = "x86_64"))]
macro_rules! prepacked_source {
    ($(#[$attribute:meta])+ $packing:expr, $multiply:expr, $screen:expr) => {
        fn packing(&self) -> Option<$crate::kernels::Packing> {
            Some($packing)
        }

        shared_source! { @ [$(#[$attribute])+]
            multiply_prepacked(matrix: &$crate::kernels::Prepacked, parts: core::ops::Range<usize>, x: $crate::kernels::Input<'_>, y: &mut [f32], y_stride: usize) -> bool
                = $multiply;
            screen(screen: &$crate::kernels::Screen, bundles: core::ops::Range<usize>, x: &$crate::kernels::Screened<'_>, bounds: &mut [f32]) -> bool
                = $screen;
        }
    };
}
#[cfg(all(feature = "prepack", target_arch = "x86_64"))]
use prepacked_source;

/// `√x` by the instruction of x86-64, which a target without an operating system may lack.
#[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    use core::arch::x86_64::{_mm_cvtss_f32, _mm_set_ss, _mm_sqrt_ss};
    // SAFETY: SSE, by the condition above.
    unsafe { _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))) }
}

/// Bytes that are wanted soon, and may come from memory while something else is computed.
#[cfg(feature = "prepack")]
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn ask_for(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    for line in bytes.chunks(64) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE, by the condition above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    let _ = bytes;
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

#[cfg(feature = "prepack")]
impl Kernel {
    /// Packs matrices of the same inputs for this kernel, each with the pages that hold it, as one: the outputs of each, padded, follow those
    /// of the one before it. `None` if the kernel multiplies from pages only, or if pages do not hold their matrix. `far_away`: the model is
    /// larger than the processor's caches.
    pub fn prepack(self, stack: &[(MatrixDims, &[Page])], far_away: bool) -> Option<Prepacked> {
        Prepacked::new(self, stack, far_away)
    }

    /// Prepares a matrix, which its pages hold, for finding the largest of its outputs. `None` if the kernel does not, cells are missing, or rows are
    /// very long.
    pub fn screen(self, dims: &MatrixDims, pages: &[Page]) -> Option<Screen> {
        Screen::new(self, dims, pages)
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
mod tests;
