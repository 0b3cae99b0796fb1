//! How a weight matrix is cut into tiles, groups and pages.
//!
//! A matrix `[out, in]` (`y = W·x`) is cut into row-blocks of 4 outputs, each row-block into tiles of 256
//! inputs (the last may be narrower; both sides are zero-padded to multiples of 4). Tiles are ordered
//! row-block by row-block. Every 32 tiles make a *group*: one mask page with their records, then pages with
//! exactly the kept cells of those tiles, in order.

use crate::bf16;
use crate::page::{CELLS_PER_PAGE, Page};

/// Inputs of a full tile; also the length of an activation segment that shares one scale.
pub const TILE_INPUTS: usize = 256;
/// Outputs of a tile.
pub const TILE_OUTPUTS: usize = 4;
/// Tile records in a mask page.
pub const TILES_PER_GROUP: usize = 32;
/// Bytes of a tile record: 4 bf16 scales, then the u64 keep-mask.
pub const RECORD_BYTES: usize = 16;

/// The record of a tile: what its weights must be multiplied with, and which of its cells are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileRecord {
    /// bf16 weight scale of each of the 4 outputs.
    pub scales: [u16; TILE_OUTPUTS],
    /// Bit `j`: the cell for inputs `4j..4j + 4` is stored.
    pub mask: u64,
}

impl TileRecord {
    /// Record `at` (< 32) of a mask page.
    #[inline(always)]
    pub fn read(mask_page: &Page, at: usize) -> Self {
        let mut scales = [0; TILE_OUTPUTS];
        let mut mask = [0; 8];
        if let Some(bytes) = mask_page.get(at * RECORD_BYTES..(at + 1) * RECORD_BYTES) {
            for (scale, pair) in scales.iter_mut().zip(bytes.chunks_exact(2)) {
                *scale = u16::from_le_bytes([pair[0], pair[1]]);
            }
            mask.copy_from_slice(&bytes[8..16]);
        }
        Self { scales, mask: u64::from_le_bytes(mask) }
    }

    /// Writes the record to place `at` (< 32) of a mask page.
    pub fn write(&self, mask_page: &mut Page, at: usize) {
        if let Some(bytes) = mask_page.get_mut(at * RECORD_BYTES..(at + 1) * RECORD_BYTES) {
            for (pair, scale) in bytes.chunks_exact_mut(2).zip(self.scales) {
                pair.copy_from_slice(&scale.to_le_bytes());
            }
            bytes[8..16].copy_from_slice(&self.mask.to_le_bytes());
        }
    }

    /// The scales as f32.
    #[inline(always)]
    pub fn scales_f32(&self) -> [f32; TILE_OUTPUTS] {
        self.scales.map(bf16::to_f32)
    }
}

/// The dimensions of a weight matrix and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixDims {
    /// Outputs (rows).
    pub outputs: u32,
    /// Inputs (columns).
    pub inputs: u32,
}

impl MatrixDims {
    /// Outputs rounded up to whole row-blocks.
    pub fn padded_outputs(&self) -> u32 {
        self.outputs.next_multiple_of(4)
    }

    /// Inputs rounded up to whole cells.
    pub fn padded_inputs(&self) -> u32 {
        self.inputs.next_multiple_of(4)
    }

    /// Row-blocks of 4 outputs.
    pub fn row_blocks(&self) -> u32 {
        self.outputs.div_ceil(4)
    }

    /// Tiles of a row-block; also the number of activation segments.
    pub fn segments(&self) -> u32 {
        self.inputs.div_ceil(TILE_INPUTS as u32)
    }

    /// All tiles.
    pub fn tiles(&self) -> u32 {
        self.row_blocks() * self.segments()
    }

    /// All groups, which is also the number of mask pages.
    pub fn groups(&self) -> u32 {
        self.tiles().div_ceil(TILES_PER_GROUP as u32)
    }

    /// Tiles of group `group`.
    pub fn tiles_in_group(&self, group: u32) -> u32 {
        self.tiles().saturating_sub(group * TILES_PER_GROUP as u32).min(TILES_PER_GROUP as u32)
    }

    /// Cells that the tile of segment `segment` has when none is pruned.
    pub fn cells_in_tile(&self, segment: u32) -> u32 {
        (self.padded_inputs() / 4).saturating_sub(segment * 64).min(64)
    }

    /// The mask of that tile when none of its cells is pruned. A record with other bits is an error.
    pub fn full_mask(&self, segment: u32) -> u64 {
        match self.cells_in_tile(segment) {
            64 => u64::MAX,
            n => (1 << n) - 1,
        }
    }

    /// Cells of the unpruned matrix.
    pub fn cells(&self) -> u64 {
        self.row_blocks() as u64 * (self.padded_inputs() / 4) as u64
    }

    /// Cells of the unpruned matrix in the tiles before `tile`.
    fn cells_before(&self, tile: u32) -> u32 {
        let (row_block, segment) = (tile / self.segments(), tile % self.segments());
        row_block * (self.padded_inputs() / 4) + segment * 64
    }

    /// Cell pages of group `group` when none is pruned.
    pub fn dense_cell_pages(&self, group: u32) -> u32 {
        let first = group * TILES_PER_GROUP as u32;
        let cells = self.cells_before(first + self.tiles_in_group(group)) - self.cells_before(first);
        cells.div_ceil(CELLS_PER_PAGE as u32)
    }

    /// Page of the matrix at which group `group` (< `groups()`) starts when no cell is pruned. The pattern of group sizes
    /// repeats every `segments()` groups, so this takes few steps for any group.
    pub fn dense_group_start(&self, group: u32) -> u32 {
        let period = self.segments();
        let sum = |groups: core::ops::Range<u32>| groups.map(|g| 1 + self.dense_cell_pages(g)).sum::<u32>();
        match group / period {
            0 => sum(0..group),
            // Only whole periods before `group`: they all consist of full groups.
            times => times * sum(0..period) + sum(times * period..group),
        }
    }

    /// Pages of the unpruned matrix.
    pub fn dense_pages(&self) -> u32 {
        let last = self.groups().saturating_sub(1);
        self.dense_group_start(last) + 1 + self.dense_cell_pages(last)
    }

    /// Where the unpruned matrix keeps row `output` of segment `segment`: the page of its record, the place
    /// of the record in that page, the page in which its cells start and the first cell's place in it.
    pub fn dense_tile(&self, output: u32, segment: u32) -> TilePlace {
        let tile = output / 4 * self.segments() + segment;
        let group = tile / TILES_PER_GROUP as u32;
        let mask_page = self.dense_group_start(group);
        let cell = self.cells_before(tile) - self.cells_before(group * TILES_PER_GROUP as u32);
        TilePlace {
            mask_page,
            record: tile % TILES_PER_GROUP as u32,
            cell_page: mask_page + 1 + cell / CELLS_PER_PAGE as u32,
            cell: cell % CELLS_PER_PAGE as u32,
        }
    }
}

/// Place of a tile in the pages of its matrix. Pages count from the matrix's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePlace {
    /// Page with the tile's record.
    pub mask_page: u32,
    /// Place of the record in it.
    pub record: u32,
    /// Page with the tile's first cell.
    pub cell_page: u32,
    /// Place of that cell in it.
    pub cell: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The place of each tile, found by walking the matrix as a writer would.
    fn walk(dims: MatrixDims) -> (std::vec::Vec<TilePlace>, u32) {
        let (mut places, mut page) = (std::vec::Vec::new(), 0);
        let mut tile = 0;
        while tile < dims.tiles() {
            let (mask_page, mut cells) = (page, 0);
            for record in 0..dims.tiles_in_group(tile / 32) {
                places.push(TilePlace {
                    mask_page,
                    record,
                    cell_page: mask_page + 1 + cells / 32,
                    cell: cells % 32,
                });
                cells += dims.cells_in_tile(tile % dims.segments());
                tile += 1;
            }
            page += 1 + cells.div_ceil(32);
        }
        (places, page)
    }

    proptest! {
        #[test]
        fn places_are_arithmetic(outputs in 1u32..600, inputs in 1u32..1400) {
            let dims = MatrixDims { outputs, inputs };
            let (places, pages) = walk(dims);
            prop_assert_eq!(dims.dense_pages(), pages);
            prop_assert_eq!(dims.tiles() as usize, places.len());
            for (tile, place) in places.iter().enumerate() {
                let (row_block, segment) = (tile as u32 / dims.segments(), tile as u32 % dims.segments());
                prop_assert_eq!(dims.dense_tile(row_block * 4, segment), *place);
            }
        }

        #[test]
        fn records_round_trip(scales in any::<[u16; 4]>(), mask in any::<u64>(), at in 0usize..32) {
            let record = TileRecord { scales, mask };
            let mut page = [0xAA; 512];
            record.write(&mut page, at);
            prop_assert_eq!(TileRecord::read(&page, at), record);
        }
    }

    extern crate std;
}
