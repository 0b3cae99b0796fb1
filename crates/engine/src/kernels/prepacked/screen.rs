//! Which of a large matrix's outputs can be the largest, from half of each weight.
//!
//! Who only wants to know the largest output, as greedy decoding does of the head, need not know the others: of a weight `w = 16 · high + low`, the
//! upper half says where an output is about, and how far it can be from there is at most `|low| · |x|`, the lengths of the two vectors (Cauchy and Schwarz).
//! Only outputs that can reach the largest are computed, as everywhere. So half of the bytes are read; the token is the same.

use alloc::vec::Vec;
use core::ops::Range;

use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS};
use pageformer_card::{CELL_BYTES, MatrixDims, Page, bf16};

use super::pack::{Tile, tiles_of};
use super::{BUNDLE, LANES, Line, Lines};
use crate::kernels::scalar::CELL_INPUTS;
use crate::kernels::{Input, Kernel};

/// Most segments of a row.
pub(super) const SEGMENTS: usize = 8;
/// How many lines ahead each is asked for: while a bundle's bounds are made of its sums, nothing else is read.
pub(crate) const AHEAD: usize = 64;
/// Inputs of a line: a byte's lower half is of the first cell, its upper half of the second.
pub(crate) const LINE_INPUTS: usize = 8;
/// By how much f32 may be wrong, of an estimate or a bound: some 20 roundings of 2⁻²⁴ each, in the estimate, the bound and the output itself.
pub(crate) const DOUBT: f32 = 1.0 / (1 << 19) as f32;
/// The same of numbers so small that an f32 has fewer digits.
pub(crate) const LEAST_DOUBT: f32 = 1e-36;

/// Scales of weights below which the length of what is left out is finite.
const LARGEST_SCALE: f32 = f32::MAX / 512.0;

/// The upper halves of a matrix's weights.
pub struct Screen {
    dims: MatrixDims,
    /// For each bundle and segment: for each two cells, a line for each of the bundle's groups, `high + 8`, two in a byte; then a rest for each group.
    /// That is a line as well, what the group's sums need to become bounds, two bf16 for each output: above, the weights' scale; below, the length of what is
    /// left out, times that scale.
    pub(crate) lines: Lines,
    /// No weight's scale is larger.
    largest_scale: f32,
}

/// Activations that outputs are screened for.
#[derive(Clone, Copy)]
pub struct Screened<'a> {
    /// `(padded inputs)`
    pub values: &'a [i8],
    /// For each segment, what a sum begins with, the scale of activations, and their length.
    pub(in crate::kernels) segments: [(i32, f32, f32); SEGMENTS],
}

impl Screen {
    /// [`Kernel::screen`].
    pub(in crate::kernels) fn new(kernel: Kernel, dims: &MatrixDims, pages: &[Page]) -> Option<Self> {
        let (segments, cells) = (dims.segments() as usize, dims.padded_inputs() as usize / CELL_INPUTS);
        if kernel.compute().packing().is_none() || segments > SEGMENTS || !cells.is_multiple_of(2) {
            return None;
        }
        let tiles = tiles_of(kernel, dims, pages)?;
        if tiles.iter().map(|tile| tile.cells.len() as u64).sum::<u64>() < dims.cells() {
            return None;
        }
        let scales = tiles.iter().flat_map(|tile| tile.record.scales_f32());
        let largest_scale = scales
            .map(|scale| if scale.is_finite() { scale.abs() } else { f32::INFINITY })
            .fold(0.0, f32::max);
        let bundles = (dims.row_blocks() as usize).div_ceil(LANES * BUNDLE);
        let mut lines = Vec::new();
        lines.reserve_exact(bundles * BUNDLE * (cells / 2 + segments));
        for bundle in 0..bundles {
            for segment in 0..segments {
                let from = lines.len();
                let rests = from + dims.cells_in_tile(segment as u32) as usize / 2 * BUNDLE;
                lines.resize(rests + BUNDLE, Line::ZERO);
                for group in 0..BUNDLE {
                    for lane in 0..LANES {
                        let row_block = (bundle * BUNDLE + group) * LANES + lane;
                        let Some(tile) = tiles.get(row_block * segments + segment) else { continue };
                        let of_group = lines[from..rests].iter_mut().skip(group).step_by(BUNDLE);
                        let lengths = halve(tile, of_group.map(|line| &mut line.0[lane]));
                        let outputs = lines[rests + group].numbers().iter_mut().skip(lane * TILE_OUTPUTS);
                        for ((of_output, scale), length) in outputs.zip(tile.record.scales).zip(lengths) {
                            let length = bf16::round_up(bf16::to_f32(scale).abs() * length);
                            *of_output = u32::from(scale) << 16 | u32::from(length);
                        }
                    }
                }
            }
        }
        Some(Self { dims: *dims, lines: Lines::from(lines), largest_scale })
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Bundles of [`BUNDLE`] groups.
    pub(crate) fn bundles(&self) -> usize {
        (self.dims.row_blocks() as usize).div_ceil(LANES * BUNDLE)
    }

    /// Row-blocks of some bundles.
    pub(crate) fn row_blocks(&self, bundles: Range<usize>) -> Range<usize> {
        let first = |bundle: usize| (bundle * BUNDLE * LANES).min(self.dims.row_blocks() as usize);
        first(bundles.start)..first(bundles.end)
    }

    /// Activations of one position; `None` if there are others, or if some output might be beyond all f32.
    pub(crate) fn look_at<'a>(&self, x: Input<'a>) -> Option<Screened<'a>> {
        let values = x.values.get(..self.dims.padded_inputs() as usize)?;
        let scales = x.scales.get(..self.dims.segments() as usize)?;
        let mut segments = [(0, 0.0, 0.0); SEGMENTS];
        let (mut largest, mut longest) = (0.0, 0.0);
        for ((segment, values), scale) in segments.iter_mut().zip(values.chunks(TILE_INPUTS)).zip(scales) {
            let sum: i32 = values.iter().map(|x| i32::from(*x)).sum();
            let squares: i32 = values.iter().map(|x| i32::from(*x) * i32::from(*x)).sum();
            *segment = (-8 * sum, *scale, scale.abs() * length(squares as u32));
            longest += segment.2;
            largest += scale.abs() * self.largest_scale * (128 * 128 * TILE_INPUTS) as f32;
        }
        // A NaN is none of these. Where lengths are finite, no bound is NaN.
        let finite = largest < f32::MAX / 4.0 && longest < f32::MAX && self.largest_scale < LARGEST_SCALE;
        (x.batch == 1 && finite).then_some(Screened { values, segments })
    }

    /// What a kernel begins with; `None` if something is too short.
    #[inline(always)]
    pub(in crate::kernels) fn begin(
        &self,
        bundles: &Range<usize>,
        x: &Screened<'_>,
        bounds: &[f32],
    ) -> Option<*const Line> {
        let (segments, inputs) = (self.dims.segments() as usize, self.dims.padded_inputs() as usize);
        let of_bundle = BUNDLE * (inputs / LINE_INPUTS + segments);
        let fits = bundles.end <= self.bundles()
            && bundles.end * of_bundle <= self.lines.len()
            && x.values.len() == inputs
            && bounds.len() == self.row_blocks(bundles.clone()).len();
        let lines = self.lines.as_ptr().wrapping_add(bundles.start * of_bundle);
        fits.then_some(lines)
    }
}

impl<'a> Screened<'a> {
    /// For each segment: its activations, what sums begin with, the activations' scale, their length.
    #[inline(always)]
    pub(in crate::kernels) fn segments(&self) -> impl Iterator<Item = (&'a [i8], (i32, f32, f32))> {
        self.values.chunks(TILE_INPUTS).zip(self.segments)
    }
}

/// Puts the upper halves of a tile's weights into lines, each of which has two of its cells. Returns the length of the lower halves of
/// each output, a little more if anything.
fn halve<'l>(tile: &Tile<'_>, lines: impl Iterator<Item = &'l mut [i8; CELL_BYTES]>) -> [f32; TILE_OUTPUTS] {
    // Whole cells at a time, and no more bits than needed: compilers make vectors of it. A square is at most 15², and a tile has 64 cells.
    let mut squares = [0u16; CELL_BYTES];
    let mut high = |cell: &[u8; CELL_BYTES]| {
        let weights = cell.map(|weight| i16::from(weight as i8));
        let high = weights.map(|weight| ((weight + 8) >> 4).min(7));
        for (square, (weight, high)) in squares.iter_mut().zip(weights.into_iter().zip(high)) {
            let low = weight - 16 * high;
            *square += (low * low) as u16;
        }
        high.map(|high| (high + 8) as i8)
    };
    for (line, cells) in lines.zip(tile.cells.as_chunks::<2>().0) {
        let [first, second] = cells.each_ref().map(&mut high);
        for (half, (first, second)) in line.iter_mut().zip(first.into_iter().zip(second)) {
            *half = first | second << 4;
        }
    }
    let (outputs, _) = squares.as_chunks::<CELL_INPUTS>();
    core::array::from_fn(|output| length(outputs[output].iter().map(|square| u32::from(*square)).sum()))
}

/// The length of a vector, of the sum of its squares, a little more if anything.
fn length(squares: u32) -> f32 {
    libm::sqrtf(squares as f32) * (1.0 + 4.0 * DOUBT)
}
