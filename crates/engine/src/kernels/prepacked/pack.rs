//! How a matrix gets packed.

use alloc::vec::Vec;

use pageformer_card::matrix::{TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP, TileRecord};
use pageformer_card::{CELL_BYTES, CELLS_PER_PAGE, MatrixDims, Page};

use super::{
    BUNDLE, LANES, LAST, Line, Lines, OUTPUTS, PAIR, PAIR_LINES, PART, PART_LINES, PLACES_BITS, PLACES_STEPS,
    Packing, Part, Prepacked, REACH, SHORT_PLACES_BITS, STEP, Sparse, WINDOW_CELLS, Window, place_of_pair,
};
use crate::kernels::Kernel;
use crate::kernels::scalar::CELL_INPUTS;

/// Percent of lines up to which a sparse matrix takes less time, when the model is larger than the caches: then, bytes are what takes time.
const SPARSE_FAR_AWAY: usize = 90;

/// Cells of a whole segment.
const SEGMENT_CELLS: usize = TILE_INPUTS / CELL_INPUTS;

/// A tile on the tape.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub record: TileRecord,
    pub cells: &'a [[u8; CELL_BYTES]],
}

impl Prepacked {
    /// [`Kernel::prepack`].
    pub(in crate::kernels) fn new(
        kernel: Kernel,
        stack: &[(MatrixDims, &[Page])],
        far_away: bool,
    ) -> Option<Self> {
        let packing = kernel.compute().packing()?;
        let inputs = stack.first()?.0.inputs;
        let mut tiles = Vec::new();
        for (dims, pages) in stack {
            tiles.extend(tiles_of(kernel, dims, pages).filter(|_| dims.inputs == inputs)?);
        }
        let outputs = stack.iter().map(|(dims, _)| dims.padded_outputs()).sum();
        let dims = &MatrixDims { outputs, inputs };
        let weights = tiles.iter().flat_map(|tile| tile.cells.as_flattened());
        if packing.least > i8::MIN && weights.into_iter().any(|weight| (*weight as i8) < packing.least) {
            return None;
        }
        let kept: usize = tiles.iter().map(|tile| tile.cells.len()).sum();
        if (kept as u64) < dims.cells() {
            let sparse = Self::sparse(packing, dims, &tiles);
            let all = dims.row_blocks().div_ceil(LANES as u32) * (dims.segments() + dims.padded_inputs() / 4);
            let most = if far_away { SPARSE_FAR_AWAY } else { packing.sparse };
            if sparse.lines.len() * 100 <= all as usize * most {
                return Some(sparse);
            }
        }
        Some(Self::dense(packing, dims, &tiles))
    }

    fn empty(packing: Packing, dims: &MatrixDims) -> Self {
        let (segments, inputs) = (dims.segments() as usize, dims.padded_inputs() as usize);
        let groups = PART_LINES / (segments + inputs / CELL_INPUTS);
        Self {
            dims: *dims,
            packing,
            inputs: (segments, inputs),
            groups: groups.next_multiple_of(BUNDLE).max(PART),
            parts: Vec::new(),
            lines: Lines::default(),
            sparse: None,
        }
    }

    fn begin_part(&mut self, group: usize, groups: usize, (step, count): (usize, usize)) {
        let (line, number) = (self.lines.len(), self.parts.len());
        let outputs = self.outputs(number..number + 1).len();
        self.parts.push(Part { groups, outputs, line, step, count, group });
    }

    fn dense(packing: Packing, dims: &MatrixDims, tiles: &[Tile<'_>]) -> Self {
        let mut packed = Self::empty(packing, dims);
        let (segments, row_blocks) = (dims.segments() as usize, dims.row_blocks() as usize);
        let all = row_blocks.div_ceil(LANES);
        packed.lines.own.reserve_exact(all * (segments + dims.padded_inputs() as usize / 4));
        for first in (0..all).step_by(packed.groups) {
            let groups = first..(first + packed.groups).min(all);
            packed.begin_part(first, groups.len(), (0, 0));
            for segment in 0..segments {
                let tile = |group: usize, lane| tiles.get((group * LANES + lane) * segments + segment);
                let cells = dims.cells_in_tile(segment as u32) as usize;
                for bundle in groups.clone().step_by(BUNDLE) {
                    let bundle = bundle..(bundle + BUNDLE).min(groups.end);
                    let lanes_of = |group| [0, 1, 2, 3].map(|lane| tile(group, lane));
                    packed.lines.own.extend(bundle.clone().map(|group| finish_of(lanes_of(group))));
                    let from = packed.lines.len();
                    packed.lines.own.resize(from + cells * bundle.len(), Line::ZERO);
                    for (at, group) in bundle.clone().enumerate() {
                        for (lane, tile) in lanes_of(group).into_iter().enumerate() {
                            let Some(tile) = tile else { continue };
                            for (cell, weights) in ones(tile.record.mask).zip(tile.cells) {
                                packed.lines.own[from + cell * bundle.len() + at].0[lane] = signed(weights);
                            }
                        }
                    }
                }
            }
        }
        packed
    }

    fn sparse(packing: Packing, dims: &MatrixDims, tiles: &[Tile<'_>]) -> Self {
        let mut packed = Self::empty(packing, dims);
        let mut sparse = Sparse::default();
        let (segments, row_blocks) = (dims.segments() as usize, dims.row_blocks() as usize);
        let rows = packed.groups * LANES;
        for first in (0..row_blocks).step_by(rows) {
            let last = (first + rows).min(row_blocks);
            // One of the two is empty.
            let begin = (sparse.windows.len().max(sparse.pairs.len()), sparse.counts.len());
            let together = if packed.is_short() { PAIR } else { 1 };
            let here = (last - first).div_ceil(LANES).next_multiple_of(together);
            packed.begin_part(sparse.outputs.len(), here, begin);
            let row = |row: usize| tiles.get(row * segments..(row + 1) * segments).unwrap_or(&[]);
            // The part's row-blocks, and those behind them that make groups full: whoever is there twice gives the same outputs twice.
            let groups_by = |kept: &dyn Fn(usize) -> usize| {
                let mut order: Vec<usize> = (first..last).collect();
                order.sort_by_key(|at| kept(*at));
                order.resize(here * LANES, order[order.len() - 1]);
                order
            };
            let outputs_of = |lanes: &[usize; LANES]| lanes.map(|row| ((row - first) * TILE_OUTPUTS) as u32);
            if packing.window == Window::Pairs {
                for segment in 0..segments {
                    let tile = |at: usize| row(at).get(segment);
                    let order = groups_by(&|at| tile(at).map_or(0, |tile| pairs(tile.record.mask).count()));
                    for lanes in order.as_chunks().0 {
                        packed.pairs_of(lanes.map(tile), &mut sparse);
                        sparse.outputs.push(outputs_of(lanes));
                    }
                }
                continue;
            }
            let order = groups_by(&|at| row(at).iter().map(|tile| tile.cells.len()).sum());
            let (groups, _) = order.as_chunks::<LANES>();
            if packed.is_short() {
                for pair in groups.as_chunks::<PAIR>().0 {
                    packed.short_steps_of(pair.map(|lanes| lanes.map(|at| row(at).first())), &mut sparse);
                }
            } else {
                for lanes in groups {
                    for segment in 0..segments {
                        packed.steps_of(segment, lanes.map(|at| row(at).get(segment)), &mut sparse);
                    }
                }
            }
            sparse.outputs.extend(groups.iter().map(outputs_of));
        }
        Self { sparse: Some(sparse), ..packed }
    }

    /// The pairs of a group in a segment.
    fn pairs_of(&mut self, tiles: [Option<&Tile<'_>>; LANES], sparse: &mut Sparse) {
        self.lines.own.push(finish_of(tiles));
        let mut lanes = tiles.map(|tile| {
            let (mask, cells) = tile.map_or((0, &[][..]), |tile| (tile.record.mask, tile.cells));
            (pairs(mask), cells.iter())
        });
        let count = lanes.iter().map(|(pairs, _)| pairs.clone().count()).max().unwrap_or(0).max(1);
        for _ in 0..count {
            let mut places = [0; LANES];
            let mut lines = [Line::ZERO; PAIR_LINES];
            let registers = lines.iter_mut().flat_map(|line| line.0.as_chunks_mut().0);
            for (((pairs, cells), place), register) in lanes.iter_mut().zip(&mut places).zip(registers) {
                let Some((cell, apart)) = pairs.next() else { continue };
                *place = place_of_pair(cell, apart.unwrap_or(1));
                *register = register_of(cells.next(), apart.and_then(|_| cells.next()));
            }
            sparse.pairs.push(places);
            self.lines.own.extend(lines);
        }
        sparse.counts.push(count as u16);
    }

    /// The steps of a group in a segment.
    fn steps_of(&mut self, segment: usize, tiles: [Option<&Tile<'_>>; LANES], sparse: &mut Sparse) {
        self.lines.own.push(finish_of(tiles));
        let mut lanes = tiles.map(|tile| {
            let (mask, cells) = tile.map_or((0, &[][..]), |tile| (tile.record.mask, tile.cells));
            ones(mask).map(|cell| segment * SEGMENT_CELLS + cell).zip(cells).peekable()
        });
        let last_window = (self.inputs.1 / CELL_INPUTS).saturating_sub(WINDOW_CELLS);
        let sliding = self.packing.window == Window::Sliding;
        let (mut steps, mut count, mut places_at) = (0, 0, 0);
        while let Some(first) = lanes.iter_mut().filter_map(|lane| Some(lane.peek()?.0)).min() {
            let (window, cells_of_window) = if sliding {
                (first.min(last_window), WINDOW_CELLS)
            } else {
                (segment * SEGMENT_CELLS, SEGMENT_CELLS)
            };
            let cells = lanes
                .each_mut()
                .map(|lane| [(); STEP].map(|()| lane.next_if(|(cell, _)| *cell < window + cells_of_window)));
            let is_last = lanes.iter_mut().all(|lane| lane.peek().is_none());
            let lines = if is_last && cells.iter().all(|cells| cells[LAST].is_none()) { LAST } else { STEP };
            let (step, places) = step_of(cells, window, lines);
            if sliding {
                sparse.windows.push(window as u32);
                sparse.places.push(places.map(|place| place | (place & 8) << 4));
            } else {
                if steps % PLACES_STEPS == 0 {
                    places_at = self.lines.len();
                    self.lines.own.push(Line::ZERO);
                }
                for (of_steps, place) in self.lines.own[places_at].numbers().iter_mut().zip(places) {
                    *of_steps |= u32::from(place) << (PLACES_BITS * (steps % PLACES_STEPS));
                }
            }
            steps += 1;
            count += lines;
            self.lines.own.extend(&step[..lines]);
        }
        sparse.counts.push(count as u16);
    }

    /// The steps of two groups with short rows.
    fn short_steps_of(&mut self, pair: [[Option<&Tile<'_>>; LANES]; PAIR], sparse: &mut Sparse) {
        let places_at = self.lines.len();
        self.lines.own.push(Line::ZERO);
        self.lines.own.extend(pair.map(finish_of));
        let most = pair.iter().flatten().flatten().map(|tile| tile.cells.len()).max().unwrap_or(0);
        let mut count = 0;
        for (number, from) in (0..most).step_by(STEP).enumerate() {
            let lines = match most - from {
                left @ ..=LAST => left,
                _ => STEP,
            };
            for (group, tiles) in pair.iter().enumerate() {
                let cells = tiles.map(|tile| {
                    let cells = tile.into_iter().flat_map(|tile| ones(tile.record.mask).zip(tile.cells));
                    let mut cells = cells.skip(from);
                    [(); STEP].map(|()| cells.next())
                });
                let (step, places) = step_of(cells, 0, lines);
                self.lines.own.extend(&step[..lines]);
                let bit = group * 32 / PAIR + number * SHORT_PLACES_BITS;
                for (of_steps, place) in self.lines.own[places_at].numbers().iter_mut().zip(places) {
                    *of_steps |= u32::from(place) << bit;
                }
            }
            count += lines;
        }
        sparse.counts.push(count as u16);
    }
}

/// A row-block's pairs of cells: the first one, and how far behind it the second is, if there is one that near.
fn pairs(mask: u64) -> impl Iterator<Item = (usize, Option<usize>)> + Clone {
    let mut cells = ones(mask).peekable();
    core::iter::from_fn(move || {
        let cell = cells.next()?;
        Some((cell, cells.next_if(|second| second - cell <= REACH).map(|second| second - cell)))
    })
}

/// The weights of a pair of cells: in the second half of the register, outputs are turned against those of the first. Each is a magnitude, with the highest bit
/// set if it is negative: so kernels have its sign and, with one operation, its magnitude.
fn register_of(first: Option<&[u8; CELL_BYTES]>, second: Option<&[u8; CELL_BYTES]>) -> [[i8; CELL_BYTES]; 2] {
    let mut register = [[0; CELL_BYTES]; 2];
    for (turn, half) in register.iter_mut().enumerate() {
        for (place, weights) in half.as_chunks_mut::<CELL_INPUTS>().0.iter_mut().enumerate() {
            let cell = if place % 2 == 0 { first } else { second };
            let output = place ^ turn;
            if let Some(cell) = cell {
                *weights = core::array::from_fn(|input| {
                    let weight = cell[output * CELL_INPUTS + input] as i8;
                    (weight.unsigned_abs() | weight as u8 & 0x80) as i8
                });
            }
        }
    }
    register
}

/// Which cell of a row it is, and its weights.
type Cell<'a> = (usize, &'a [u8; CELL_BYTES]);

/// The lines of a step, the first `lines` of which are needed, and where in the window the activations of a register are.
fn step_of(
    cells: [[Option<Cell<'_>>; STEP]; LANES],
    window: usize,
    lines: usize,
) -> ([Line; STEP], [u8; OUTPUTS]) {
    let mut step = [Line::ZERO; STEP];
    let mut places = [0; OUTPUTS];
    for (i, of_lane) in (0..OUTPUTS).zip(cells.iter().flat_map(|cells| [cells; TILE_OUTPUTS])) {
        let (lane, turn) = (i / TILE_OUTPUTS, i % TILE_OUTPUTS);
        let Some((cell, weights)) = of_lane[turn % lines] else { continue };
        places[i] = (cell - window) as u8;
        for (number, line) in step.iter_mut().enumerate().take(lines) {
            let output = turn ^ number;
            let (to, from) = (turn * CELL_INPUTS, output * CELL_INPUTS);
            for (to, from) in line.0[lane][to..].iter_mut().zip(&weights[from..from + CELL_INPUTS]) {
                *to = *from as i8;
            }
        }
    }
    (step, places)
}

/// The finish of a group's tiles.
fn finish_of(lanes: [Option<&Tile<'_>>; LANES]) -> Line {
    let mut finish = Line::ZERO;
    for (outputs, tile) in finish.numbers().as_chunks_mut::<TILE_OUTPUTS>().0.iter_mut().zip(lanes) {
        let Some(tile) = tile else { continue };
        for (number, (output, scale)) in outputs.iter_mut().zip(tile.record.scales).enumerate() {
            let weights = tile.cells.iter().flat_map(|cell| &cell[number * 4..number * 4 + 4]);
            // Of at most 256 weights, so no more than 16 bits.
            let sum = weights.map(|w| i32::from(*w as i8)).sum::<i32>();
            *output = u32::from(sum as i16 as u16) | u32::from(scale) << 16;
        }
    }
    finish
}

/// The tiles of a matrix, in order.
pub(super) fn tiles_of<'a>(
    kernel: Kernel,
    dims: &MatrixDims,
    mut pages: &'a [Page],
) -> Option<Vec<Tile<'a>>> {
    let mut tiles = Vec::with_capacity(dims.tiles() as usize);
    for group in 0..dims.groups() {
        let (masks, rest) = pages.split_first()?;
        let kept = kernel.compute().kept_cells(dims, group, masks)?;
        let (here, later) = rest.split_at_checked(kept.div_ceil(CELLS_PER_PAGE))?;
        let (mut cells, _) = here.as_flattened().as_chunks();
        for at in 0..dims.tiles_in_group(group) as usize {
            let record = TileRecord::read(masks, at);
            // Kernels rely on it, not only on `kept_cells`.
            let segment = (group * TILES_PER_GROUP as u32 + at as u32) % dims.segments();
            if record.mask & !dims.full_mask(segment) != 0 {
                return None;
            }
            let (own, others) = cells.split_at_checked(record.mask.count_ones() as usize)?;
            tiles.push(Tile { record, cells: own });
            cells = others;
        }
        pages = later;
    }
    pages.is_empty().then_some(tiles)
}

/// The numbers of a mask's ones, from the lowest.
fn ones(mut mask: u64) -> impl Iterator<Item = usize> + Clone {
    core::iter::from_fn(move || {
        let lowest = (mask != 0).then_some(mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        lowest
    })
}

fn signed(cell: &[u8; CELL_BYTES]) -> [i8; CELL_BYTES] {
    cell.map(|weight| weight as i8)
}
