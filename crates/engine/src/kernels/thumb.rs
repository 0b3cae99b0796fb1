//! Cortex-M3 and up: a sparse tile costs little more than its cells do.
//!
//! Four bits of a tile's mask are the number of a case, and a case is the products of its cells, one behind the other. What is
//! left to do for four places, whatever is kept of them, is to find the next case: four instructions, beside 36 for a cell
//! (23 with the DSP extension). All four places of a dense tile are a case like any other.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::ops::Range;
use core::ptr::null;

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TileRecord};
use pageformer_card::{MatrixDims, Page};

use super::group::kept_cells_by;
use super::scalar::{CELL_INPUTS, Cell, Tiles, consume};
use super::{Compute, GroupProduct, Head, Kernel, Scratch, shared_source};
use crate::attention::Plain;
use crate::scaled::{is_usual, scaled, usual_parts};

/// The kernel.
pub(super) const THUMB: Kernel = Kernel::new(if cfg!(arm_dsp) { "dsp" } else { "thumb" }, &Thumb);

/// Cells of the largest tile.
const MOST_CELLS: usize = u64::BITS as usize;
/// Scales that are usual.
const USUAL: [u16; TILE_OUTPUTS] = [0x2000; TILE_OUTPUTS];

#[derive(Clone, Copy)]
struct Thumb;

impl Compute for Thumb {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        consume(product, cells, *self);
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        kept_cells_by(dims, group, mask_page, ones)
    }

    // Not inlined where tiles are what is left of a group: flash.
    #[inline(never)]
    fn multiply_tiles(
        &self,
        records: &[u8],
        cells: &[u8],
        (x, x_scale): &(&[i8], f32),
        y: &mut [f32],
    ) -> (usize, usize) {
        let (records, _) = records.as_chunks::<RECORD_BYTES>();
        let (cells, _) = cells.as_chunks();
        let (out, _) = y.as_chunks_mut::<TILE_OUTPUTS>();
        let tiles = records.len().min(out.len());
        let Some(scale) = Scale::new(*x_scale).filter(|_| tiles > 0) else { return (0, 0) };
        let Range { start, end } = cells.as_ptr_range();
        // No tile has more cells than there are places.
        let most = MOST_CELLS.min(x.len() / CELL_INPUTS);
        let beyond = u64::MAX.checked_shl(most as u32).unwrap_or(0);
        let out = out.as_mut_ptr();
        let mut run = Run {
            scale,
            record: records.as_ptr(),
            out: out.cast(),
            one: 1,
            out_end: out.wrapping_add(tiles).cast(),
            last: cells.len().checked_sub(most).map_or(null(), |last| start.wrapping_add(last)),
            cells: start,
            end,
            beyond_high: (beyond >> 32) as u32,
            beyond: beyond as u32,
            x: x.as_ptr(),
        };
        // SAFETY: there is a record for each output, as many cells as any tile has from `last` on, and activations for each place but
        // those beyond.
        unsafe { pageformer_thumb_multiply(&mut run) };
        // SAFETY: these have moved within the same slices, or to their ends.
        unsafe { (run.record.offset_from_unsigned(records.as_ptr()), run.cells.offset_from_unsigned(start)) }
    }

    shared_source! { Plain }
}

impl Tiles for Thumb {
    #[inline(always)]
    fn add(self, cells: &[Cell], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
        let record = TileRecord { scales: [0; TILE_OUTPUTS], mask };
        if let Some((more, _)) = tile(&record, cells, x, &Scale::NONE) {
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum += more as i32;
            }
        }
    }

    #[inline(always)]
    fn whole<'c>(
        self,
        record: &TileRecord,
        cells: &'c [Cell],
        x: &[i8],
        x_scale: f32,
    ) -> Option<([f32; TILE_OUTPUTS], &'c [Cell])> {
        let scale = Scale::new(x_scale).filter(|_| are_usual(&record.scales));
        let (products, later) = tile(record, cells, x, scale.as_ref().unwrap_or(&Scale::NONE))?;
        let products = match scale {
            Some(_) => products.map(f32::from_bits),
            None => scaled(x_scale, &record.scales, &products.map(|sum| sum as i32)),
        };
        Some((products, later))
    }

    /// The tiles of a matrix of one segment share their activations.
    #[inline(always)]
    fn several<'c>(self, product: &mut GroupProduct<'_>, cells: &'c [Cell]) -> &'c [Cell] {
        if product.segments != 1 || product.batch != 1 {
            return cells;
        }
        let records = product.next * RECORD_BYTES..product.tiles * RECORD_BYTES;
        let records = product.mask_page.get(records).unwrap_or(&[]);
        let x = (product.x.get(..product.x_stride).unwrap_or(&[]), product.x_scale(0, 0));
        let y = product.y.get_mut(product.row..).unwrap_or(&mut []);
        let (tiles, used) = self.multiply_tiles(records, cells.as_flattened(), &x, y);
        product.next += tiles;
        product.row += tiles * TILE_OUTPUTS;
        cells.get(used..).unwrap_or(&[])
    }
}

/// The products of a tile whose cells are the first of those given, as bits of f32 or, without a scale, as sums; and the cells
/// behind. `None` if not all of the tile's are there. With a scale, those of the record must be usual.
#[inline(never)]
fn tile<'c>(
    record: &TileRecord,
    cells: &'c [Cell],
    x: &[i8],
    scale: &Scale,
) -> Option<([u32; TILE_OUTPUTS], &'c [Cell])> {
    let mask = record.mask;
    // Counting takes as long as a cell; mostly there are more cells than any tile has.
    if cells.len() < MOST_CELLS && cells.len() < count(mask) {
        return None;
    }
    let mut products = [0; TILE_OUTPUTS];
    let width = (u64::BITS - mask.leading_zeros()) as usize;
    if x.len() < TILE_INPUTS && x.len() / CELL_INPUTS < width {
        // A damaged mask.
        return Some((products, cells.get(count(mask)..)?));
    }
    let [a, b, c, d] = if scale.value == 0 { USUAL } else { record.scales }.map(u32::from);
    let record = [a | b << 16, c | d << 16, mask as u32, (mask >> 32) as u32];
    let out = &raw mut products;
    let mut run = Run {
        scale: *scale,
        record: (&raw const record).cast(),
        out,
        one: 1,
        out_end: out.wrapping_add(1),
        last: cells.as_ptr(),
        cells: cells.as_ptr(),
        end: cells.as_ptr(),
        beyond_high: 0,
        beyond: 0,
        x: x.as_ptr(),
    };
    // SAFETY: one record, one output, as many cells as the mask has bits, and activations for each of its places.
    unsafe { pageformer_thumb_multiply(&mut run) };
    // SAFETY: behind as many of the cells as the mask has bits.
    let used = unsafe { run.cells.offset_from_unsigned(cells.as_ptr()) };
    Some((products, cells.get(used..)?))
}

// Inlined, it would be done before it is known to be wanted.
#[cold]
#[inline(never)]
fn count(mask: u64) -> usize {
    mask.count_ones() as usize
}

/// Tiles that are multiplied with the same activations.
#[repr(C)]
struct Run {
    scale: Scale,
    /// The next tile's record.
    record: *const [u8; 16],
    /// Its products as bits of f32, or its sums.
    out: *mut [u32; TILE_OUTPUTS],
    /// A register is loaded with it.
    one: u32,
    /// The end of `out`.
    out_end: *mut [u32; TILE_OUTPUTS],
    /// The last of the cells that a tile may begin with uncounted: all it can have are there.
    last: *const Cell,
    /// The next tile's cells.
    cells: *const Cell,
    /// The end of the cells.
    end: *const Cell,
    /// Places that there are no activations for.
    beyond_high: u32,
    beyond: u32,
    /// Activations.
    x: *const i8,
}

/// The activations' scale.
#[derive(Clone, Copy)]
#[repr(C)]
struct Scale {
    /// With a floating-point unit, an f32; otherwise what [`usual_parts`] gives, the exponent as if the second product began with
    /// bit 31 of its upper word. 0 if sums are wanted, without scales.
    value: u32,
    exponent: u32,
}

impl Scale {
    const NONE: Self = Self { value: 0, exponent: 0 };

    /// `None` if the general path must be taken.
    #[inline(always)]
    fn new(x_scale: f32) -> Option<Self> {
        let (value, exponent) = if cfg!(soft_f32) { usual_parts(x_scale)? } else { (x_scale.to_bits(), 0) };
        (value != 0).then_some(Self { value, exponent: exponent.wrapping_add(1) })
    }
}

/// Whether the assembly may do with the weights' scales.
#[inline(always)]
fn are_usual(scales: &[u16; TILE_OUTPUTS]) -> bool {
    !cfg!(soft_f32) || is_usual(scales)
}

/// Ones of the masks of tiles, and the union of the masks.
#[inline(always)]
fn ones(records: &[[u8; 16]]) -> (usize, [u32; 2]) {
    let mut union = [0, 0];
    // SAFETY: the slice has as many as it says.
    let ones = unsafe { pageformer_thumb_ones(records.as_ptr(), records.len(), &mut union) };
    (ones, union)
}

unsafe extern "C" {
    /// Multiplies tiles until `out` ends, not all cells of the next are there, its scales are not usual, or its mask has a bit for a
    /// place beyond. With [`Scale::NONE`], `record` is one that is usual.
    ///
    /// # Safety
    /// `run` has a record for each output, at least one, the cells of any tile that begins not behind `last`, all cells up to `end`,
    /// and activations for each place of the masks but those beyond.
    fn pageformer_thumb_multiply(run: *mut Run);

    /// Ones of the masks of `tiles` records; the union of the masks is written.
    ///
    /// # Safety
    /// `records` has so many.
    fn pageformer_thumb_ones(records: *const [u8; 16], tiles: usize, union: &mut [u32; 2]) -> usize;
}

global_asm!(concat!(env!("THUMB_TARGET"), "\n", include_str!("thumb.s")), options(raw));
