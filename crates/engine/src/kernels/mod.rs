//! The one function that decides the speed: multiply the kept cells of a group's tiles with quantized
//! activations.
//!
//! [`portable`] defines the result; the others must give the same i32 sums, and since the sums are exact and
//! everything after them is the same code, the same bits. A kernel is chosen once, at start.

#[cfg(target_arch = "x86_64")]
mod avx2;
pub mod portable;

use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS, TileRecord};
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use crate::plan::MAX_BATCH;

/// A kernel: consumes cells, in order, until they or the group's tiles are used up.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Its name, for people.
    pub name: &'static str,
    run: fn(&mut GroupProduct<'_>, &[u8]),
}

impl core::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

/// The portable kernel, which defines the result.
pub const PORTABLE: Kernel = Kernel { name: "portable", run: portable::run };

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

/// `y = W·x` for the tiles of one group and `batch` positions, in the making.
pub struct GroupProduct<'a> {
    mask_page: &'a Page,
    /// Tiles of the group.
    tiles: usize,
    /// Next tile to begin.
    next: usize,
    /// Row-block and segment of that tile.
    row: usize,
    segment: usize,
    segments: usize,
    /// The tile that is being consumed: its scales, cells yet to come, row and segment.
    tile: Option<Tile>,
    sums: [[i32; TILE_OUTPUTS]; MAX_BATCH as usize],
    /// `(batch, x_stride)`
    x: &'a [i8],
    x_stride: usize,
    /// `(batch, segments)`
    x_scales: &'a [f32],
    /// `(batch, y_stride)`
    y: &'a mut [f32],
    y_stride: usize,
    batch: usize,
}

#[derive(Clone, Copy)]
struct Tile {
    record: TileRecord,
    /// Cells that have not been consumed.
    mask: u64,
    /// First output.
    row: usize,
    segment: usize,
}

/// Quantized activations of some positions, for one matrix.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `(batch, padded_inputs)`
    pub values: &'a [i8],
    /// `(batch, segments)`
    pub scales: &'a [f32],
    /// Positions, at most [`MAX_BATCH`].
    pub batch: usize,
}

impl<'a> GroupProduct<'a> {
    /// The product of group `group` of a matrix; `y` is `(batch, padded_outputs)`.
    pub fn new(dims: &MatrixDims, group: u32, mask_page: &'a Page, x: Input<'a>, y: &'a mut [f32]) -> Self {
        let segments = dims.segments() as usize;
        let first = group as usize * pageformer_card::matrix::TILES_PER_GROUP;
        Self {
            mask_page,
            tiles: dims.tiles_in_group(group) as usize,
            next: 0,
            row: first / segments * TILE_OUTPUTS,
            segment: first % segments,
            segments,
            tile: None,
            sums: [[0; TILE_OUTPUTS]; MAX_BATCH as usize],
            x: x.values,
            x_stride: dims.padded_inputs() as usize,
            x_scales: x.scales,
            y,
            y_stride: dims.padded_outputs() as usize,
            batch: x.batch.min(MAX_BATCH as usize),
        }
    }

    /// Consumes `cells`, whole cells in order. With the last of the group's cells, or with none if it has
    /// none, the group's outputs are complete.
    #[inline]
    pub fn feed(&mut self, kernel: Kernel, cells: &[u8]) {
        (kernel.run)(self, cells)
    }

    /// The loop that all kernels share; `dot` adds the product of some cells of a tile, given by a mask, with
    /// the activations of its segment.
    #[inline(always)]
    fn consume(&mut self, mut cells: &[u8], dot: impl Fn(&[u8], u64, &[i8], &mut [i32; TILE_OUTPUTS])) {
        loop {
            let Some(mut tile) = self.tile else {
                if self.next == self.tiles {
                    return;
                }
                let record = TileRecord::read(self.mask_page, self.next);
                self.tile = Some(Tile { record, mask: record.mask, row: self.row, segment: self.segment });
                self.next += 1;
                self.segment += 1;
                if self.segment == self.segments {
                    self.segment = 0;
                    self.row += TILE_OUTPUTS;
                }
                for sums in self.sums.iter_mut().take(self.batch) {
                    *sums = [0; TILE_OUTPUTS];
                }
                continue;
            };
            let here = (tile.mask.count_ones() as usize).min(cells.len() / CELL_BYTES);
            if here > 0 {
                let mask = lowest(tile.mask, here);
                let (now, later) = cells.split_at(here * CELL_BYTES);
                cells = later;
                for (sums, x) in self.sums.iter_mut().take(self.batch).zip(self.x.chunks(self.x_stride)) {
                    let from = tile.segment * TILE_INPUTS;
                    let to = (from + TILE_INPUTS).min(x.len());
                    dot(now, mask, x.get(from..to).unwrap_or(&[]), sums);
                }
                tile.mask ^= mask;
            }
            if tile.mask != 0 {
                self.tile = Some(tile);
                return;
            }
            self.finish(tile);
            self.tile = None;
        }
    }

    /// `y[r] += s_x · s_w[r] · sum[r]`, the segments of a row in order.
    #[inline(always)]
    fn finish(&mut self, tile: Tile) {
        let scales = tile.record.scales_f32();
        for b in 0..self.batch {
            let x_scale = self.x_scales.get(b * self.segments + tile.segment).copied().unwrap_or(0.0);
            let from = b * self.y_stride + tile.row;
            let Some(y) = self.y.get_mut(from..from + TILE_OUTPUTS) else { continue };
            let Some(sums) = self.sums.get(b) else { continue };
            for r in 0..TILE_OUTPUTS {
                let product = (x_scale * scales[r]) * sums[r] as f32;
                y[r] = if tile.segment == 0 { product } else { y[r] + product };
            }
        }
    }
}

/// The lowest `n` set bits of `mask`, which has at least that many.
#[inline(always)]
fn lowest(mask: u64, n: usize) -> u64 {
    if n == mask.count_ones() as usize {
        return mask;
    }
    let mut rest = mask;
    for _ in 0..n {
        rest &= rest.wrapping_sub(1);
    }
    mask ^ rest
}

/// Whether `mask` is a run of ones from bit 0: no cell of the tile so far is missing.
#[inline(always)]
fn is_dense(mask: u64) -> bool {
    mask & mask.wrapping_add(1) == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
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

    #[test]
    fn the_lowest_bits() {
        assert_eq!(lowest(0b1011_0100, 2), 0b0001_0100);
        assert_eq!(lowest(u64::MAX, 64), u64::MAX);
        assert!(is_dense(0b111) && is_dense(u64::MAX) && !is_dense(0b110));
    }
}
