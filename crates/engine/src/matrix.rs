//! A matrix that streams by: `y = W·x` over the pages of the tape.

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP, TileRecord};
use pageformer_card::{CELL_BYTES, CELLS_PER_PAGE, MatrixDims, Page, Tensor};
use pageformer_vram::{Card, CardFile, Fault, Vram};

#[cfg(feature = "prepack")]
pub(crate) mod prepacked;
#[cfg(feature = "prepack")]
pub(crate) mod screened;
#[cfg(feature = "threads")]
mod shared;

use crate::error::Error;
use crate::kernels::{GroupProduct, Input, Kernel, Team};

/// A matrix on the tape.
pub(crate) struct MatrixPages {
    pub tensor: Tensor,
    pub dims: MatrixDims,
    /// Its pages.
    pub pages: core::ops::Range<u32>,
}

impl MatrixPages {
    /// A page of this matrix could not be had.
    pub fn fault(&self, fault: Fault) -> Error {
        let within = match fault.file {
            CardFile::Weights => Some((self.tensor, fault.page.saturating_sub(self.pages.start))),
            _ => None,
        };
        Error::Page(fault, within)
    }

    /// `y = W·x`: reads the matrix once, whatever the batch. `y` is `(batch, y_stride)`, and the first output comes at `from`; `mask_page` is
    /// memory for the mask page of the group that streams by; `team` may help. `finished` is told how many outputs are there, again and again.
    pub fn multiply<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        #[cfg_attr(not(feature = "threads"), allow(unused_variables))] (kernel, team): (
            Kernel,
            Option<&dyn Team>,
        ),
        x: Input<'_>,
        (out, from, y_stride): (&mut [f32], usize, usize),
        mask_page: &mut Page,
        mut finished: impl FnMut(&mut [f32], usize),
    ) -> Result<(), Error> {
        let compute = kernel.compute();
        let (mut page, end) = (self.pages.start, self.pages.end);
        let (tiles, groups) = (self.dims.tiles() as usize, self.dims.groups());
        // What all tiles share, if there is one segment and one position.
        let shared = match x.scales {
            [scale, ..] if x.batch == 1 && self.dims.segments() == 1 => {
                (x.values.get(..self.dims.padded_inputs() as usize).unwrap_or(&[]), *scale)
            }
            _ => (&[][..], 0.0),
        };
        let mut group = 0;
        while group < groups {
            let torn = |page| Error::Tape { tensor: self.tensor, page: page - self.pages.start };
            if page >= end {
                return Err(torn(page));
            }
            let mut run = vram.pages(page, end - page).map_err(|fault| self.fault(fault))?;
            // The groups that lie in this run.
            while let Some((masks, rest)) = run.split_first()
                && group < groups
            {
                let y = out.get_mut(from..).unwrap_or(&mut []);
                #[cfg(feature = "threads")]
                if let Some(team) = team {
                    let stretch = shared::Stretch { kernel, dims: &self.dims, group, run, x };
                    let (groups, pages) = stretch.multiply(team, y, y_stride);
                    if groups > 0 {
                        run = run.get(pages..).unwrap_or(&[]);
                        (group, page) = (group + groups, page + pages as u32);
                        continue;
                    }
                }
                // As far as that needs no look at the group as a whole.
                let first = group as usize * TILES_PER_GROUP;
                let tiles = tiles.saturating_sub(first).min(TILES_PER_GROUP);
                let records = masks.get(..tiles * RECORD_BYTES).unwrap_or(&[]);
                let own = y.get_mut(first * TILE_OUTPUTS..).unwrap_or(&mut []);
                let (done, used) = compute.multiply_tiles(records, rest.as_flattened(), &shared, own);
                if done == tiles {
                    let pages = used.div_ceil(CELLS_PER_PAGE);
                    run = rest.get(pages..).unwrap_or(&[]);
                    (group, page) = (group + 1, page + 1 + pages as u32);
                    finished(out, group as usize * TILES_PER_GROUP * TILE_OUTPUTS);
                    continue;
                }
                let cells = compute.kept_cells(&self.dims, group, masks).ok_or(torn(page))?;
                let pages = cells.div_ceil(CELLS_PER_PAGE);
                let after = page + 1 + pages as u32;
                if after > end {
                    return Err(torn(page));
                }
                if let Some((here, later)) = rest.split_at_checked(pages) {
                    let bytes = here.as_flattened();
                    let bytes = bytes.get(used * CELL_BYTES..cells * CELL_BYTES).unwrap_or(&[]);
                    GroupProduct::new(&self.dims, group, masks, x, (y, y_stride))
                        .behind(done)
                        .feed(kernel, bytes);
                    (run, page) = (later, after);
                } else {
                    // Only its beginning does; its masks must outlast the run.
                    *mask_page = *masks;
                    let product = GroupProduct::new(&self.dims, group, mask_page, x, (y, y_stride));
                    let mut product = product.behind(done);
                    product.feed(kernel, rest.as_flattened().get(used * CELL_BYTES..).unwrap_or(&[]));
                    let mut left = cells - rest.len() * CELLS_PER_PAGE;
                    page += 1 + rest.len() as u32;
                    while page < after {
                        let run = vram.pages(page, after - page).map_err(|fault| self.fault(fault))?;
                        page += run.len() as u32;
                        let bytes = run.as_flattened();
                        let bytes = bytes.get(..left * CELL_BYTES).unwrap_or(bytes);
                        left -= bytes.len() / CELL_BYTES;
                        product.feed(kernel, bytes);
                    }
                    run = &[];
                }
                group += 1;
                let rows = group as usize * TILES_PER_GROUP / self.dims.segments() as usize;
                finished(out, rows * TILE_OUTPUTS);
            }
        }
        if page == self.pages.end {
            Ok(())
        } else {
            Err(Error::Tape { tensor: self.tensor, page: page - self.pages.start })
        }
    }

    /// Lets the card begin with what [`Self::row`] wants of it first.
    pub fn begin_row<C: Card>(&self, vram: &mut Vram<'_, C>, row: u32) {
        for page in self.first_of_row(row) {
            vram.begin_page(CardFile::Weights, page);
        }
    }

    /// Whether that has been read.
    pub fn has_arrived<C: Card>(&self, vram: &mut Vram<'_, C>, row: u32) -> bool {
        self.first_of_row(row).into_iter().all(|page| vram.has_arrived(CardFile::Weights, page))
    }

    fn first_of_row(&self, row: u32) -> [u32; 2] {
        let place = self.dims.dense_tile(row, 0);
        [place.mask_page, place.cell_page].map(|page| self.pages.start + page)
    }

    /// Row `row` of an unpruned matrix: a scale for each segment, then each weight by its number and with its scale. Each page is asked for once, one after the
    /// other. A card that reads ahead is told of a page before the one in front of it is waited for: in between it would begin to read a run of others.
    pub fn row<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        row: u32,
        scales: &mut [f32],
        mut weight: impl FnMut(usize, i8, f32),
    ) -> Result<(), Error> {
        let (start, place_in_row) = (self.pages.start, (row % 4) as usize);
        vram.begin_page(CardFile::Weights, start + self.dims.dense_tile(row, 0).cell_page);
        for (segment, scale) in (0..self.dims.segments()).zip(&mut *scales) {
            let place = self.dims.dense_tile(row, segment);
            let page = vram.page(CardFile::Weights, start + place.mask_page);
            let record = TileRecord::read(page.map_err(|fault| self.fault(fault))?, place.record as usize);
            if record.mask != self.dims.full_mask(segment) {
                return Err(Error::Tape { tensor: self.tensor, page: place.mask_page });
            }
            *scale = record.scales_f32()[place_in_row];
        }
        let mut left = self.dims.inputs as usize;
        for (segment, scale) in (0..self.dims.segments()).zip(scales) {
            let place = self.dims.dense_tile(row, segment);
            let (mut number, mut cell) = (place.cell_page, place.cell as usize);
            let inputs = left.min(TILE_INPUTS);
            if cell + inputs.div_ceil(4) > CELLS_PER_PAGE {
                vram.begin_page(CardFile::Weights, start + number + 1);
            }
            let mut page = |page: u32| {
                vram.page(CardFile::Weights, start + page).copied().map_err(|fault| self.fault(fault))
            };
            let mut cells = page(number)?;
            for first in (0..inputs).step_by(4) {
                if cell == CELLS_PER_PAGE {
                    (number, cell) = (number + 1, 0);
                    cells = page(number)?;
                }
                let from = cell * CELL_BYTES + place_in_row * 4;
                let weights = cells.get(from..from + 4).unwrap_or(&[0; 4]);
                let to = self.dims.inputs as usize - left + first;
                for (to, w) in (to..).zip(weights).take(inputs - first) {
                    weight(to, *w as i8, *scale);
                }
                cell += 1;
            }
            left -= inputs;
        }
        Ok(())
    }
}
