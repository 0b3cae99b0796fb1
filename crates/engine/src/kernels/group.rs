//! The walk through the tiles of a group, which all kernels share.

use core::mem::MaybeUninit;

use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP, TileRecord};
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use super::Kernel;
use crate::plan::MAX_BATCH;
use crate::scaled::scaled;

/// `y = W·x` for the tiles of one group and `batch` positions, in the making.
pub struct GroupProduct<'a> {
    #[cfg(target_arch = "x86_64")]
    pub(super) dims: MatrixDims,
    #[cfg(target_arch = "x86_64")]
    pub(super) group: u32,
    pub(super) mask_page: &'a Page,
    /// Tiles of the group.
    pub(super) tiles: usize,
    /// Next tile to begin.
    pub(super) next: usize,
    /// First output and segment of that tile.
    pub(super) row: usize,
    pub(super) segment: usize,
    pub(super) segments: usize,
    /// The tile that is being consumed.
    pub(super) tile: Option<Tile>,
    /// Its sums so far, for each position; written when it begins.
    sums: [MaybeUninit<[i32; TILE_OUTPUTS]>; MAX_BATCH as usize],
    /// `(batch, x_stride)`
    pub(super) x: &'a [i8],
    pub(super) x_stride: usize,
    /// `(batch, segments)`
    pub(super) x_scales: &'a [f32],
    /// `(batch, y_stride)`
    pub(super) y: &'a mut [f32],
    pub(super) y_stride: usize,
    pub(super) batch: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub record: TileRecord,
    /// Cells that have not been consumed.
    mask: u64,
    /// First output.
    row: usize,
    segment: usize,
}

/// Quantized activations of some positions, for one matrix.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `(batch, padded_inputs)`, −127 to 127: kernels may take a magnitude for seven bits.
    pub values: &'a [i8],
    /// `(batch, segments)`
    pub scales: &'a [f32],
    /// Positions, at most [`MAX_BATCH`].
    pub batch: usize,
}

impl<'a> GroupProduct<'a> {
    /// The product of group `group` of a matrix; `y` is `(batch, y_stride)` and begins with its first output.
    #[inline]
    pub fn new(
        dims: &MatrixDims,
        group: u32,
        mask_page: &'a Page,
        x: Input<'a>,
        (y, y_stride): (&'a mut [f32], usize),
    ) -> Self {
        let segments = dims.segments() as usize;
        let first = group as usize * TILES_PER_GROUP;
        Self {
            #[cfg(target_arch = "x86_64")]
            dims: *dims,
            #[cfg(target_arch = "x86_64")]
            group,
            mask_page,
            tiles: dims.tiles_in_group(group) as usize,
            next: 0,
            row: first / segments * TILE_OUTPUTS,
            segment: first % segments,
            segments,
            tile: None,
            // Most tiles do without, and filling this takes hundreds of instructions.
            sums: [const { MaybeUninit::uninit() }; MAX_BATCH as usize],
            x: x.values,
            x_stride: dims.padded_inputs() as usize,
            x_scales: x.scales,
            y,
            y_stride,
            batch: x.batch.min(MAX_BATCH as usize),
        }
    }

    /// The same without the first tiles.
    #[inline]
    pub fn behind(self, tiles: usize) -> Self {
        let segment = self.segment + tiles;
        let row = self.row + segment / self.segments * TILE_OUTPUTS;
        Self { next: self.next + tiles, row, segment: segment % self.segments, ..self }
    }

    /// The same for one position whose `y` begins with output `first`, of this group or one before it.
    #[cfg(feature = "threads")]
    #[inline]
    pub(crate) fn with_outputs_from(self, first: usize) -> Self {
        Self { row: self.row.saturating_sub(first), ..self }
    }

    /// Positions.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Consumes `cells`, whole cells in order. With the last of the group's cells, or with none if it has
    /// none, the group's outputs are complete.
    #[inline]
    pub fn feed(&mut self, kernel: Kernel, cells: &[u8]) {
        kernel.compute().multiply(self, cells);
    }

    /// Moves on from tile `next`.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        self.next += 1;
        self.segment += 1;
        if self.segment == self.segments {
            self.segment = 0;
            self.row += TILE_OUTPUTS;
        }
    }

    /// Whether a row-block that was begun in the group before, or with cells that came before, is yet to be ended.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn within_row(&self) -> bool {
        self.tile.is_some() || self.segment != 0
    }

    /// The loop in plain terms, until `cells` or the tiles are used up; `dot` adds the product of some cells of a
    /// tile, given by a mask, with the activations of its segment.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    pub(super) fn consume(
        &mut self,
        mut cells: &[u8],
        dot: impl Fn(&[u8], u64, &[i8], &mut [i32; TILE_OUTPUTS]),
    ) {
        while self.consume_tile(&mut cells, &dot) {}
    }

    /// One tile, or what `cells` have of it; false if the group or `cells` end before the tile does.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(super) fn consume_tile(
        &mut self,
        cells: &mut &[u8],
        dot: impl Fn(&[u8], u64, &[i8], &mut [i32; TILE_OUTPUTS]),
    ) -> bool {
        let mut tile = match self.tile {
            Some(tile) => tile,
            None if self.next == self.tiles => return false,
            None => {
                let record = TileRecord::read(self.mask_page, self.next);
                let tile = Tile { record, mask: record.mask, row: self.row, segment: self.segment };
                self.advance();
                for sums in self.sums.iter_mut().take(self.batch) {
                    sums.write([0; TILE_OUTPUTS]);
                }
                tile
            }
        };
        let here = (tile.mask.count_ones() as usize).min(cells.len() / CELL_BYTES);
        if here > 0 {
            let mask = lowest(tile.mask, here);
            let (now, later) = cells.split_at(here * CELL_BYTES);
            *cells = later;
            for (sums, x) in self.sums.iter_mut().take(self.batch).zip(self.x.chunks(self.x_stride)) {
                let from = tile.segment * TILE_INPUTS;
                let to = (from + TILE_INPUTS).min(x.len());
                // SAFETY: written when the tile began, here or in a call before, for the same number of positions.
                let sums = unsafe { sums.assume_init_mut() };
                dot(now, mask, x.get(from..to).unwrap_or(&[]), sums);
            }
            tile.mask ^= mask;
        }
        if tile.mask != 0 {
            self.tile = Some(tile);
            return false;
        }
        for b in 0..self.batch {
            if let Some(sums) = self.sums.get(b) {
                // SAFETY: as above.
                let sums = unsafe { sums.assume_init() };
                let products = scaled(self.x_scale(b, tile.segment), &tile.record.scales, &sums);
                self.add_products(b, tile.row, tile.segment, &products);
            }
        }
        self.tile = None;
        true
    }

    /// The scale of the activations of a segment at position `b`.
    #[inline(always)]
    pub(super) fn x_scale(&self, b: usize, segment: usize) -> f32 {
        self.x_scales.get(b * self.segments + segment).copied().unwrap_or(0.0)
    }

    /// `y[r] += products[r]` for a tile and position `b`, the segments of a row in order.
    #[inline(always)]
    pub(super) fn add_products(
        &mut self,
        b: usize,
        row: usize,
        segment: usize,
        products: &[f32; TILE_OUTPUTS],
    ) {
        let from = b * self.y_stride + row;
        let Some(y) = self.y.get_mut(from..from + TILE_OUTPUTS) else { return };
        for (y, product) in y.iter_mut().zip(products) {
            *y = if segment == 0 { *product } else { *y + product };
        }
    }
}

/// Kept cells of the group whose records `mask_page` holds; `None` if a mask has a bit beyond its tile's width.
#[inline(always)]
pub(super) fn kept_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
    kept_cells_by(dims, group, mask_page, ones)
}

/// The same; `ones` counts the ones of the masks of tiles and unites the masks.
#[inline(always)]
pub(super) fn kept_cells_by(
    dims: &MatrixDims,
    group: u32,
    mask_page: &Page,
    ones: impl Fn(&[[u8; 16]]) -> (usize, [u32; 2]),
) -> Option<usize> {
    let tiles = dims.tiles_in_group(group) as usize;
    let (records, _) = mask_page.as_chunks();
    let records = records.get(..tiles).unwrap_or(records);
    let segments = dims.segments() as usize;
    let last = dims.full_mask(segments as u32 - 1);
    let (kept, all) = ones(records);
    if last != u64::MAX {
        // Only the last tile of a row is narrower than masks are.
        let first = segments - 1 - group as usize * TILES_PER_GROUP % segments;
        let narrow = records.iter().skip(first).step_by(segments);
        let beyond = match segments {
            1 if !COUNTS => all,
            _ => narrow.map(mask_words).fold([0, 0], union),
        };
        if beyond[0] & !(last as u32) | beyond[1] & !((last >> 32) as u32) != 0 {
            return None;
        }
    }
    Some(kept)
}

/// Whether the processor counts ones by an instruction.
const COUNTS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Ones of the masks of tiles, and the union of the masks.
#[inline(always)]
fn ones(records: &[[u8; 16]]) -> (usize, [u32; 2]) {
    if COUNTS { ones_by_instruction(records) } else { ones_by_sums(records) }
}

/// The mask of a tile's record.
#[inline(always)]
fn mask_words(record: &[u8; 16]) -> [u32; 2] {
    let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h] = *record;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[inline(always)]
fn union([a, b]: [u32; 2], [c, d]: [u32; 2]) -> [u32; 2] {
    [a | c, b | d]
}

#[inline(always)]
fn ones_by_instruction(records: &[[u8; 16]]) -> (usize, [u32; 2]) {
    let ones = records.iter().flat_map(mask_words).map(|word| word.count_ones() as usize).sum();
    (ones, records.iter().map(mask_words).fold([0, 0], union))
}

/// The same for processors that have no instruction for it.
#[inline(always)]
fn ones_by_sums(records: &[[u8; 16]]) -> (usize, [u32; 2]) {
    let pairs = |word: u32| {
        let pairs = word - (word >> 1 & 0x5555_5555);
        (pairs & 0x3333_3333) + (pairs >> 2 & 0x3333_3333)
    };
    let (mut all, mut any) = (0, [0, 0]);
    // A byte of sums holds what 15 masks have: each has at most 16 ones in two bytes.
    for records in records.chunks(15) {
        let mut bytes = 0;
        for record in records {
            let [low, high] = mask_words(record);
            any = union(any, [low, high]);
            let mut nibbles = pairs(low);
            // Tiles of up to 128 inputs have no such places.
            if high != 0 {
                nibbles += pairs(high);
            }
            bytes += (nibbles & 0x0F0F_0F0F) + (nibbles >> 4 & 0x0F0F_0F0F);
        }
        all += (bytes & 0x00FF_00FF) + (bytes >> 8 & 0x00FF_00FF);
    }
    (((all & 0xFFFF) + (all >> 16)) as usize, any)
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
pub(super) fn is_dense(mask: u64) -> bool {
    mask & mask.wrapping_add(1) == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ones_are_counted(bytes in proptest::collection::vec(prop_oneof![Just(0xFF), any::<u8>()], 512)) {
            let (records, _) = bytes.as_chunks();
            for n in 0..=records.len() {
                prop_assert_eq!(ones_by_sums(&records[..n]), ones_by_instruction(&records[..n]));
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
