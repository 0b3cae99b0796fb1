//! The kernel for matrices alone: whether it says what the one in plain Rust says, and what it takes.
//!
//! `cargo xtask emulate --kernels` builds and runs it.
#![no_std]
#![no_main]

use core::fmt::{self, Write as _};

use cortex_m_rt::entry;
use pageformer_card::matrix::{RECORD_BYTES, TILES_PER_GROUP, TileRecord};
use pageformer_card::{CELL_BYTES, MatrixDims};
use pageformer_console::{Host, Terminal};
use pageformer_engine::kernels::{self, GroupProduct, Input, Kernel, PORTABLE};
use pageformer_qemu_cortex_m3::board::Board;
use pageformer_qemu_cortex_m3::halt;
use pageformer_qemu_cortex_m3::uart::Uart;

/// Random groups that are compared.
const CASES: u32 = 1000;
/// Most positions of one.
const BATCH: usize = 3;
/// Most inputs of one.
const INPUTS: usize = 512;
/// Most outputs of one.
const OUTPUTS: usize = 4 * TILES_PER_GROUP;
/// Most cells of a group.
const CELLS: usize = 64 * TILES_PER_GROUP;

/// One group of a matrix and what it is multiplied with.
struct Group {
    dims: MatrixDims,
    mask_page: [u8; 512],
    cells: [u8; CELLS * CELL_BYTES],
    kept: usize,
    batch: usize,
    x: [i8; BATCH * INPUTS],
    x_scales: [f32; BATCH * 2],
}

/// Which cells are kept.
#[derive(Clone, Copy)]
enum Keep {
    All,
    /// Exactly half of the group's, drawn at random.
    Half,
    /// In each tile another part, none and all among them.
    Some,
}

#[entry]
fn main() -> ! {
    static mut GROUP: Group = Group {
        dims: MatrixDims { outputs: 0, inputs: 0 },
        mask_page: [0; 512],
        cells: [0; CELLS * CELL_BYTES],
        kept: 0,
        batch: 0,
        x: [0; BATCH * INPUTS],
        x_scales: [0.0; BATCH * 2],
    };
    static mut OUT: [[f32; BATCH * OUTPUTS]; 2] = [[0.0; BATCH * OUTPUTS]; 2];

    let Some(mut core) = cortex_m::Peripherals::take() else { halt() };
    let mut board = Board::new(&mut core.SYST);
    let _ = report(&mut board, GROUP, OUT);
    halt()
}

fn report(board: &mut Board, group: &mut Group, y: &mut [[f32; BATCH * OUTPUTS]; 2]) -> fmt::Result {
    let mut out = Terminal::new(Uart::new());
    let mut random = Random(1);
    let kernel = kernels::best();
    for case in 0..CASES {
        let dims = MatrixDims {
            outputs: 1 + random.below(OUTPUTS as u32 / 2),
            inputs: 1 + random.below(if case % 2 == 0 { 256 } else { INPUTS as u32 }),
        };
        let batch = 1 + random.below(BATCH as u32) as usize;
        group.fill(&mut random, dims, Keep::Some, batch);
        let piece = if case % 3 == 0 { CELLS } else { 1 + random.below(100) as usize };
        if !group.agrees(kernel, piece, y) || !group.refuses_bits_beyond(kernel) {
            writeln!(out, "case {case}: `{}` differs from `{}`", kernel.name, PORTABLE.name)?;
            return write!(out, "\n> ");
        }
    }
    writeln!(out, "{CASES} random groups: `{}` agrees with `{}`", kernel.name, PORTABLE.name)?;

    writeln!(
        out,
        "\nticks of {} Hz for 32 tiles, of all cells and of half of them",
        board.ticks_per_second()
    )?;
    for inputs in [256, 128, 64, 512] {
        let outputs = if inputs > 256 { OUTPUTS / 2 } else { OUTPUTS };
        let dims = MatrixDims { outputs: outputs as u32, inputs };
        let [all, half] = [Keep::All, Keep::Half].map(|keep| {
            group.fill(&mut random, dims, keep, 1);
            let start = board.ticks().unwrap_or(0);
            group.multiply(kernel, CELLS, &mut y[0]);
            let ticks = board.ticks().unwrap_or(0) - start;
            if group.agrees(kernel, CELLS, y) { ticks } else { 0 }
        });
        writeln!(out, "{inputs} inputs: {all} and {half}")?;
    }
    write!(out, "\n> ")
}

impl Group {
    fn fill(&mut self, random: &mut Random, dims: MatrixDims, keep: Keep, batch: usize) {
        (self.dims, self.batch, self.kept) = (dims, batch, 0);
        let (tiles, segments) = (dims.tiles_in_group(0), dims.segments());
        let mut left = (0..tiles).map(|tile| dims.cells_in_tile(tile % segments)).sum::<u32>();
        let mut wanted = left / 2;
        for tile in 0..tiles {
            let eighths = random.below(11);
            let mut mask = 0;
            for cell in 0..dims.cells_in_tile(tile % segments) {
                let kept = match keep {
                    Keep::All => true,
                    Keep::Half => random.below(left) < wanted,
                    Keep::Some => random.below(8) + 1 < eighths,
                };
                left -= 1;
                wanted -= u32::from(kept && wanted > 0);
                mask |= u64::from(kept) << cell;
            }
            self.kept += mask.count_ones() as usize;
            let scales = core::array::from_fn(|_| match keep {
                // Any bits at all: negative, subnormal, infinite.
                Keep::Some if eighths == 5 => random.below(1 << 16) as u16,
                // From 2⁻¹⁵ to 2.
                _ => 0x3800 + random.below(0x800) as u16,
            });
            TileRecord { scales, mask }.write(&mut self.mask_page, tile as usize);
        }
        self.cells.fill_with(|| random.below(256) as u8);
        // Small ones are rounded to halves more often, and add up to zero.
        let most = if random.below(4) == 0 { 1 } else { 127 };
        self.x.fill_with(|| (random.below(2 * most + 1) as i32 - most as i32) as i8);
        self.x_scales.fill_with(|| match keep {
            Keep::Some if random.below(8) == 0 => [0.0, 1e-30, 1e30, 0.5][random.below(4) as usize],
            _ => 0.001 + random.below(1 << 20) as f32 / 1e8,
        });
    }

    /// `y = W·x`, the cells in pieces, masks checked and counted, as the engine does it: what can be begun with the first piece, behind which
    /// other cells follow if it is all, and then the rest.
    #[inline(never)]
    fn multiply(&self, kernel: Kernel, piece: usize, y: &mut [f32]) {
        let (stride, segments) = (self.dims.padded_inputs() as usize, self.dims.segments() as usize);
        let input = Input {
            values: self.x.get(..self.batch * stride).unwrap_or(&[]),
            scales: self.x_scales.get(..self.batch * segments).unwrap_or(&[]),
            batch: self.batch,
        };
        let tiles = self.dims.tiles_in_group(0) as usize;
        let (mut done, mut used) = (0, 0);
        if self.batch == 1 && segments == 1 {
            let records = self.mask_page.get(..tiles * RECORD_BYTES).unwrap_or(&[]);
            let first = self.cells.get(..piece * CELL_BYTES).unwrap_or(&[]);
            (done, used) =
                kernel.compute().multiply_tiles(records, first, &(input.values, self.x_scales[0]), y);
            if done == tiles {
                return;
            }
        }
        let kept = kernel.compute().kept_cells(&self.dims, 0, &self.mask_page).unwrap_or(0);
        let cells = self.cells.get(used * CELL_BYTES..kept * CELL_BYTES).unwrap_or(&[]);
        let product = GroupProduct::new(
            &self.dims,
            0,
            &self.mask_page,
            input,
            (y, self.dims.padded_outputs() as usize),
        );
        let mut product = product.behind(done);
        if cells.is_empty() {
            product.feed(kernel, &[]);
        }
        for piece in cells.chunks(piece * CELL_BYTES) {
            product.feed(kernel, piece);
        }
    }

    /// Whether the kernel counts right and has the results of the one in plain Rust, which gets all cells at once.
    fn agrees(&self, kernel: Kernel, piece: usize, y: &mut [[f32; BATCH * OUTPUTS]; 2]) -> bool {
        let [ours, plain] = y;
        ours.fill(f32::NAN);
        plain.fill(f32::NAN);
        self.multiply(kernel, piece, ours);
        self.multiply(PORTABLE, CELLS, plain);
        let kept = kernel.compute().kept_cells(&self.dims, 0, &self.mask_page);
        let same = |(a, b): (&mut f32, &mut f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        kept == Some(self.kept) && ours.iter_mut().zip(plain).all(same)
    }

    /// Whether the kernel refuses a mask with a bit beyond its tile's width; there is none in a tile of 256 inputs.
    fn refuses_bits_beyond(&mut self, kernel: Kernel) -> bool {
        let tile = self.dims.segments() - 1;
        let record = TileRecord::read(&self.mask_page, tile as usize);
        let refused = (self.dims.cells_in_tile(tile)..64).all(|place| {
            let mask = record.mask | 1 << place;
            TileRecord { mask, ..record }.write(&mut self.mask_page, tile as usize);
            let x = self.x.get(..self.dims.padded_inputs() as usize).unwrap_or(&[]);
            let records = self.mask_page.get(..RECORD_BYTES).unwrap_or(&[]);
            // One that does not count cells first has to notice by itself.
            let (done, _) = match self.dims.segments() {
                1 => kernel.compute().multiply_tiles(records, &self.cells, &(x, 0.5), &mut [0.0; 4]),
                _ => (0, 0),
            };
            done == 0 && kernel.compute().kept_cells(&self.dims, 0, &self.mask_page).is_none()
        });
        record.write(&mut self.mask_page, tile as usize);
        refused
    }
}

/// Numbers that look random, the same in every run.
struct Random(u32);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        // xorshift32
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        ((u64::from(self.0) * u64::from(end)) >> 32) as u32
    }
}
