//! Matrices that are packed anew for a processor with much memory and wide registers.
//!
//! On the tape, four outputs follow each other cell by cell, and what a pruned tile keeps is known by its mask. A register takes four
//! cells; here they are of four row-blocks, so that its 16 sums are those of 16 outputs, and nothing is added across a register.
//!
//! - **Dense**: the four cells have the same inputs. Up to four such groups of 16 outputs lie side by side, so that all meet an
//!   activation that is loaded once.
//! - **Sparse**: each row-block goes through its own kept cells, whatever the others keep, four at a *step*. What a step's four times four
//!   cells need has to be within a *window* of cells, as many as the kernel has permutations for: all of the segment, whose activations stay in registers;
//!   or 16 of them, which begin where the row-block is that has come least far, or end with the inputs. *Places* say where in the window.
//!   One permutation brings a step's activations together, four different ones in each lane; so the four lines of a step have their
//!   outputs turned against each other, and their sums, which are kept apart, are turned back when all is added up:
//!
//!   ```text
//!   a lane's activations   x of cell 0    x of cell 1    x of cell 2    x of cell 3
//!   line 0, weights of     0, output 0    1, output 1    2, output 2    3, output 3
//!   line 1                 0, output 1    1, output 0    2, output 3    3, output 2
//!   line 2                 0, output 2    1, output 3    2, output 0    3, output 1
//!   line 3                 0, output 3    1, output 2    2, output 1    3, output 0
//!   ```
//!
//!   Where two cells are left, the last step has the first two of these lines, and each cell twice. Row-blocks that keep about as many
//!   cells go together. Where a register has all activations of a row, two groups go side by side: they share a line of places and a number of
//!   lines, and do not wait for each other.
//! - **Sparse, in pairs**, for kernels to which permutations are dear: each row-block goes through its own kept cells, two at a time. A register has both, with
//!   four outputs each, and its activations are the same eight bytes over and over: those of two cells, which are in a table of all *pairs* of cells that are near
//!   enough to each other. The table is made once for a segment of activations.
//!
//!   ```text
//!   activations        x of cell 0   x of cell 1   x of cell 0   x of cell 1   | the same again
//!   line, weights of   0, output 0   1, output 1   0, output 2   1, output 3   | 0, output 1   1, output 0   0, output 3   1, output 2
//!   ```
//!
//! What is packed gives the same bits: sums of integers are exact, and the scales, one for each tile, are applied as everywhere.
// Elsewhere no kernel wants matrices packed, but the types are there for whoever implements [`super::Compute`].
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#![allow(unsafe_code)]

mod lines;
mod pack;
mod screen;

use alloc::vec::Vec;
use core::ops::Range;

use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS};
use pageformer_card::{CELL_BYTES, MatrixDims};

use super::Input;
use super::scalar::CELL_INPUTS;
pub(crate) use lines::{Lines, gather};
pub(super) use screen::{AHEAD, DOUBT, LEAST_DOUBT, LINE_INPUTS};
pub use screen::{Screen, Screened};

/// How a kernel wants matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// The least weight. With a lesser one, matrices are multiplied from the tape.
    pub(super) least: i8,
    /// Percent of lines up to which a sparse matrix takes less time than a dense one, when both are in the caches.
    pub(super) sparse: usize,
    /// What a step of a sparse one can take its activations from.
    pub(super) window: Window,
}

/// Cells within which a step's activations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// All of the segment.
    Segment,
    /// [`WINDOW_CELLS`] of the row.
    Sliding,
    /// Two cells, the second at most [`REACH`] behind the first. There are no steps, but pairs.
    Pairs,
}

/// Row-blocks of a group: a register's 128-bit parts.
pub(super) const LANES: usize = 4;
/// Outputs of a group.
pub(super) const OUTPUTS: usize = LANES * TILE_OUTPUTS;
/// Groups that lie side by side, if nothing is missing.
pub(super) const BUNDLE: usize = 4;
/// Lines of a part about, as long as nothing is missing: outputs that follow each other, for one thread.
const PART_LINES: usize = if cfg!(test) { 64 } else { 1024 };
/// Groups of a part at least.
const PART: usize = 16;
/// Cells of a window.
const WINDOW_CELLS: usize = 16;
/// Inputs of a window.
pub(super) const WINDOW: usize = WINDOW_CELLS * CELL_INPUTS;
/// Steps of which a line has the places.
pub(super) const PLACES_STEPS: usize = 5;
/// Bits of such a place: of one of a segment's 64 cells.
pub(super) const PLACES_BITS: usize = 6;
/// Inputs of rows that are *short*: a register has all of their activations.
pub(super) const SHORT: usize = OUTPUTS * CELL_INPUTS;
/// Groups that go together where rows are short: a line has the places of both, those of the first in the lower half of each number.
pub(super) const PAIR: usize = 2;
/// Bits of a place in a short row: of one of 16 cells, which are four steps.
pub(super) const SHORT_PLACES_BITS: usize = 4;
/// Lines of a step, and cells of a lane that it takes.
pub(super) const STEP: usize = 4;
/// Lines of a last step that has no more than so many cells of a lane.
pub(super) const LAST: usize = 2;
/// How far behind the first cell of a pair the second can be. Of what is kept at random, half of all, 15 cells in 16 have the next one so near.
pub(super) const REACH: usize = 4;
/// Pairs of a segment's cells.
pub(super) const CELL_PAIRS: usize = TILE_INPUTS / CELL_INPUTS * REACH;
/// Lines of a group's pairs: two row-blocks each.
pub(super) const PAIR_LINES: usize = 2;

/// A register of what kernels go through. Most are weights, `[lane][output][input]`; others are 16 numbers of 32 bits, each for an output of a group:
///
/// - A *finish*, what the sums of a segment need to become products: Σw, 16 bits, and above it the weights' scale, a bf16. Activations go in as
///   `x + 128`, so sums begin at −128 · Σw, which is the product of these pairs of 16 bits and [`START`]; a bf16 is the upper half of an f32.
/// - *Places* in the segment, for up to [`PLACES_STEPS`] steps, of the activations that a register wants; those of the first step are in the lowest bits.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [[i8; CELL_BYTES]; LANES]);

/// What the pairs of a finish are multiplied by: so many times Σw, and nothing of the scale.
pub(super) const START: i32 = -128 & 0xFFFF;
/// The scale of a finish.
pub(super) const SCALE: i32 = 0xFFFF_0000_u32 as i32;

// SAFETY: bytes with nothing in between, of which any is a weight.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: the same.
unsafe impl bytemuck::Pod for Line {}

impl Line {
    const ZERO: Self = Self([[0; CELL_BYTES]; LANES]);

    /// The same as numbers.
    fn numbers(&mut self) -> &mut [u32; OUTPUTS] {
        bytemuck::cast_mut(self)
    }
}

/// A matrix, packed for a kernel by [`Kernel::prepack`](super::Kernel::prepack).
pub struct Prepacked {
    pub(super) dims: MatrixDims,
    /// How it is packed; a kernel that wants it otherwise does not multiply.
    packing: Packing,
    /// Segments and padded inputs.
    pub(super) inputs: (usize, usize),
    /// Groups of each part but the last, which may have fewer.
    groups: usize,
    pub(super) parts: Vec<Part>,
    /// Sparse: for each group and segment, a finish, and the lines of its steps; where windows do not slide, places in front of the lines that they are
    /// for. Pairs: for each part, segment and group, a finish, and the [`PAIR_LINES`] of the first pairs of its lanes, of the second ones and so on. Short rows: for each
    /// pair of groups, places, two finishes, and for each step the lines of one and of the other. Dense: for each part, segment and bundle, a finish for each group,
    /// then for each cell a line for each group.
    pub(crate) lines: Lines,
    /// Only where cells are missing.
    pub(super) sparse: Option<Sparse>,
}

/// Where a part's groups begin.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub groups: usize,
    /// Outputs, padded.
    pub outputs: usize,
    /// In `lines`.
    pub line: usize,
    /// In `windows`, or in `pairs`.
    pub step: usize,
    /// In `counts`.
    pub count: usize,
    /// In `Sparse::outputs`.
    pub group: usize,
}

/// What is known of kept cells.
#[derive(Default)]
pub(super) struct Sparse {
    /// Where windows slide: for each step, the first cell of the window. All of it is within the inputs, where these are no fewer.
    pub windows: Vec<u32>,
    /// For each of these, where in the window the activations of a register are. A place that is 8 or more has the byte's highest bit set, too.
    pub places: Vec<[u8; OUTPUTS]>,
    /// Lines of each group and segment: [`STEP`] for each step, but [`LAST`] for the last one if that is enough. Of each of a pair of groups with short
    /// rows, whose last step may have one line, too. Pairs: how many each lane has in a part, a segment and a group, at least one.
    pub counts: Vec<u16>,
    /// For each group, the first output of each lane's row-block, counted within the part. Where a group has fewer, the last one is there again.
    /// Pairs: for each part, segment and group; row-blocks are in another order in each segment.
    pub outputs: Vec<[u32; LANES]>,
    /// Pairs: which one of a segment's each lane has, as [`place_of_pair`] says.
    pub pairs: Vec<[u8; LANES]>,
}

/// Where in a segment's table the pair of `cell` and the one `apart` behind it is (1 to [`REACH`]). So come pairs out of registers of eight cells, of which those of
/// either half are put between each other.
pub(super) fn place_of_pair(cell: usize, apart: usize) -> u8 {
    const EIGHT: [usize; 8] = [0, 1, 4, 5, 2, 3, 6, 7];
    ((cell / EIGHT.len() * REACH + apart - 1) * EIGHT.len() + EIGHT[cell % EIGHT.len()]) as u8
}

impl Prepacked {
    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let sparse = self.sparse.as_ref().map_or(0, |sparse| {
            size_of_val(&sparse.windows[..])
                + size_of_val(&sparse.places[..])
                + size_of_val(&sparse.counts[..])
                + size_of_val(&sparse.outputs[..])
                + size_of_val(&sparse.pairs[..])
        });
        size_of_val(&self.lines[..]) + sparse
    }

    /// Whether rows are short, and groups go in pairs.
    #[inline(always)]
    pub(super) fn is_short(&self) -> bool {
        self.packing.window == Window::Segment && self.inputs.1 <= SHORT
    }

    /// How it is packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Registers of weights and what belongs to them.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Parts, whose outputs follow each other.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Outputs, padded, of some parts.
    pub fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        let output = |part: usize| (part * self.groups * OUTPUTS).min(self.dims.padded_outputs() as usize);
        output(parts.start)..output(parts.end)
    }

    /// Whether there is enough of `x` and of `y`, which is `(batch, y_stride)`.
    #[inline(always)]
    pub(crate) fn fits(&self, parts: &Range<usize>, x: &Input<'_>, y: &[f32], y_stride: usize) -> bool {
        let ((segments, stride), outputs) = (self.inputs, self.outputs(parts.clone()).len());
        let enough_for_one = || stride <= x.values.len() && segments <= x.scales.len() && outputs <= y.len();
        let enough = || {
            let y_used = x.batch.checked_sub(1)?.checked_mul(y_stride)?.checked_add(outputs)?;
            Some(
                x.batch.checked_mul(stride)? <= x.values.len()
                    && x.batch.checked_mul(segments)? <= x.scales.len()
                    && y_used <= y.len(),
            )
        };
        let enough = || if x.batch == 1 { enough_for_one() } else { enough() == Some(true) };
        parts.end <= self.parts.len() && outputs <= y_stride && enough()
    }

    /// `x` in pieces of so many positions; the last may have fewer.
    #[cfg(feature = "threads")]
    pub(crate) fn pieces<'a>(
        &self,
        x: Input<'a>,
        positions: usize,
    ) -> impl Iterator<Item = Input<'a>> + use<'a> {
        let (segments, stride) = self.inputs;
        let (values, scales) = (x.values.chunks(positions * stride), x.scales.chunks(positions * segments));
        let batches = (0..x.batch).step_by(positions).map(move |from| positions.min(x.batch - from));
        values.zip(scales).zip(batches).map(|((values, scales), batch)| Input { values, scales, batch })
    }

    /// Calls `one` for each of `parts` if there is one position, or else `several` for each and at most `positions` at once. False, and nothing is done, if the matrix is packed otherwise than `packing`, or
    /// if `x` or `y`, which is `(batch, y_stride)`, is too short.
    #[inline(always)]
    pub(super) fn jobs(
        &self,
        parts: Range<usize>,
        x: Input<'_>,
        y: &mut [f32],
        y_stride: usize,
        (packing, positions): (Packing, usize),
        (mut one, mut several): (impl FnMut(&Job<'_>), impl FnMut(&Job<'_>)),
    ) -> bool {
        if packing != self.packing || !self.fits(&parts, &x, y, y_stride) {
            return false;
        }
        let (segments, stride) = self.inputs;
        let mut y = y.as_mut_ptr();
        for part in &self.parts[parts] {
            let mut job = Job {
                packed: self,
                part,
                values: x.values.as_ptr(),
                stride,
                scales: x.scales.as_ptr(),
                segments,
                y,
                y_stride,
                positions: 1,
            };
            if x.batch == 1 {
                one(&job);
            } else {
                let mut left = x.batch;
                while left > 0 {
                    job.positions = positions.min(left);
                    several(&job);
                    job.values = job.values.wrapping_add(job.positions * stride);
                    job.scales = job.scales.wrapping_add(job.positions * segments);
                    job.y = job.y.wrapping_add(job.positions * y_stride);
                    left -= job.positions;
                }
            }
            y = y.wrapping_add(part.outputs);
        }
        true
    }
}

/// A part and some positions, of which there are activations, scales and outputs.
pub(super) struct Job<'a> {
    pub packed: &'a Prepacked,
    pub part: &'a Part,
    /// `(positions, stride)`, the padded inputs.
    pub values: *const i8,
    pub stride: usize,
    /// `(positions, segments)`
    pub scales: *const f32,
    pub segments: usize,
    /// `(positions, y_stride)`, from the part's first output on.
    pub y: *mut f32,
    pub y_stride: usize,
    pub positions: usize,
}

/// Where a part of a sparse matrix begins.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub lines: *const Line,
    pub windows: *const u32,
    pub places: *const [u8; OUTPUTS],
    pub counts: *const u16,
    pub pairs: *const [u8; LANES],
    /// First outputs of each group's lanes.
    pub outputs: &'a [[u32; LANES]],
}

impl Job<'_> {
    /// The inputs of segment `segment` at the first position, and how many they are; those of others are `stride` behind.
    #[inline(always)]
    pub fn segment(&self, segment: usize) -> (*const i8, usize) {
        let from = segment * TILE_INPUTS;
        (self.values.wrapping_add(from), (self.stride - from).min(TILE_INPUTS))
    }

    /// The beginning of the part, of which `kept` is known.
    #[inline(always)]
    pub fn cursor<'a>(&self, kept: &'a Sparse) -> Cursor<'a> {
        let Part { groups, line, step, count, group, .. } = *self.part;
        let orders = if self.packed.packing.window == Window::Pairs { self.segments } else { 1 };
        Cursor {
            lines: self.packed.lines.as_ptr().wrapping_add(line),
            windows: kept.windows.as_ptr().wrapping_add(step),
            places: kept.places.as_ptr().wrapping_add(step),
            counts: kept.counts.as_ptr().wrapping_add(count),
            pairs: kept.pairs.as_ptr().wrapping_add(step),
            outputs: kept.outputs.get(group..group + orders * groups).unwrap_or(&[]),
        }
    }

    /// Four outputs at position `b`, from the part's `output` on.
    #[inline(always)]
    pub fn outputs_from(&self, b: usize, output: u32) -> *mut f32 {
        self.y.wrapping_add(b * self.y_stride + output as usize)
    }
}
