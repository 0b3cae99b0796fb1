//! The walk of processors without vector instructions: whole tiles, one after the other.

use pageformer_card::CELL_BYTES;
use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS, TileRecord};

use super::GroupProduct;

/// 4 outputs × 4 inputs.
pub(super) type Cell = [u8; CELL_BYTES];
/// Inputs of a cell.
pub(super) const CELL_INPUTS: usize = 4;

/// What a processor does for a tile.
pub(super) trait Tiles: Copy {
    /// Adds the product of cells, which `mask` gives the places of, and the activations of their segment.
    fn add(self, cells: &[Cell], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]);

    /// The scaled products of a whole tile, whose cells are the first of those given, and the cells behind them; `None` if not all of
    /// the tile's are there.
    fn whole<'c>(
        self,
        record: &TileRecord,
        cells: &'c [Cell],
        x: &[i8],
        x_scale: f32,
    ) -> Option<([f32; TILE_OUTPUTS], &'c [Cell])>;

    /// Consumes some whole tiles, or none, in a way that is faster than one by one; returns the other cells.
    #[inline(always)]
    fn several<'c>(self, _: &mut GroupProduct<'_>, cells: &'c [Cell]) -> &'c [Cell] {
        cells
    }
}

/// Consumes cells of a group, in order, until they or its tiles are used up.
#[inline(always)]
pub(super) fn consume(product: &mut GroupProduct<'_>, mut cells: &[u8], tiles: impl Tiles) {
    let dot = |cells: &[u8], mask, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]| {
        tiles.add(cells.as_chunks().0, mask, x, sums);
    };
    loop {
        if product.tile.is_none() {
            let whole = tiles.several(product, cells.as_chunks().0);
            cells = whole_tiles(product, whole, tiles).as_flattened();
        }
        // A tile that began or ends elsewhere.
        if !product.consume_tile(&mut cells, dot) {
            return;
        }
    }
}

/// Consumes tiles as long as all of their cells are here; returns the other cells.
#[inline(always)]
fn whole_tiles<'c>(product: &mut GroupProduct<'_>, mut cells: &'c [Cell], tiles: impl Tiles) -> &'c [Cell] {
    while product.next < product.tiles {
        let record = TileRecord::read(product.mask_page, product.next);
        let (row, segment) = (product.row, product.segment);
        let mut later = cells;
        for b in 0..product.batch {
            let (start, end) = (b * product.x_stride, (b + 1) * product.x_stride);
            let from = start + segment * TILE_INPUTS;
            let x = product.x.get(from..end.min(from + TILE_INPUTS)).unwrap_or(&[]);
            match tiles.whole(&record, cells, x, product.x_scale(b, segment)) {
                Some((products, rest)) => {
                    later = rest;
                    product.add_products(b, row, segment, &products);
                }
                // Known with the first position.
                None => return cells,
            }
        }
        cells = later;
        product.advance();
    }
    cells
}
