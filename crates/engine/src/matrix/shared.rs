//! The groups that lie in memory, shared out to threads. Rows do not know of each other, nor do positions: whoever computes which,
//! the bits are the same.

use pageformer_card::matrix::{TILE_OUTPUTS, TILES_PER_GROUP};
use pageformer_card::{CELL_BYTES, CELLS_PER_PAGE, MatrixDims, Page};

use crate::kernels::{GroupProduct, Input, Kernel, Team, share};

/// Pages, times positions, from which on sharing out takes less time than it saves: some 3 microseconds of work where a hand-over
/// costs half of one.
const LEAST: usize = 300;
/// Pages that a part has at least. A kernel asks for cells well ahead, which is for nothing at the end of a part.
const PART: usize = 32;
/// Parts for each thread, so that one that comes late is not waited for long.
const PARTS: usize = 4;

/// What a team takes from a matrix, and where it begins.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    pub kernel: Kernel,
    pub dims: &'a MatrixDims,
    /// The group at which `run` begins.
    pub group: u32,
    /// Pages of the matrix.
    pub run: &'a [Page],
    pub x: Input<'a>,
}

impl<'a> Stretch<'a> {
    /// Multiplies groups that lie whole in the run, from its beginning on, and says how many they and their pages are: none if it is
    /// not worth it. What is left is the caller's: the next group ends elsewhere, or something is wrong with it.
    #[inline]
    pub fn multiply(self, team: &dyn Team, y: &mut [f32], y_stride: usize) -> (u32, usize) {
        if self.run.len() * self.x.batch < LEAST {
            return (0, 0);
        }
        self.share_out(team, y, y_stride)
    }

    fn share_out(self, team: &dyn Team, y: &mut [f32], y_stride: usize) -> (u32, usize) {
        // What another group has begun would be added to.
        let begins_a_row = (self.group * TILES_PER_GROUP as u32).is_multiple_of(self.dims.segments());
        if !begins_a_row {
            return (0, 0);
        }
        match self.x.batch {
            1 => self.by_rows(team, y),
            _ => self.by_positions(team, y, y_stride),
        }
    }

    fn by_rows(self, team: &dyn Team, y: &mut [f32]) -> (u32, usize) {
        let y = y.get_mut(self.first_row()..).unwrap_or(&mut []);
        let part = (self.run.len() / (PARTS * team.threads().max(1))).max(PART) as u32;
        match share(team, Parts { left: self, y, part }, |one| {
            let outputs = one.y.len();
            one.left.compute((one.y, outputs), one.left.first_row());
        }) {
            Some(Parts { left, .. }) => (left.group - self.group, self.run.len() - left.run.len()),
            None => (0, 0),
        }
    }

    fn by_positions(self, team: &dyn Team, y: &mut [f32], y_stride: usize) -> (u32, usize) {
        let Self { dims, x, .. } = self;
        let (groups, pages) = self.whole(dims.groups() - self.group);
        let used = (x.batch - 1) * y_stride + dims.padded_outputs() as usize;
        let Some(y) = y.get_mut(..used) else { return (0, 0) };
        // Many together, for which weights are loaded once.
        let positions = x.batch.div_ceil(team.threads().max(1));
        let inputs = x.values.chunks(positions * dims.padded_inputs() as usize);
        let scales = x.scales.chunks(positions * dims.segments() as usize);
        let parts = y.chunks_mut(positions * y_stride).zip(inputs.zip(scales));
        let done = share(team, parts, |(y, (values, scales))| {
            self.of(Input { values, scales, batch: y.len().div_ceil(y_stride) }).compute((y, y_stride), 0);
        });
        if done.is_some() { (groups, pages) } else { (0, 0) }
    }

    /// The same for other positions.
    fn of(self, x: Input<'a>) -> Self {
        Self { x, ..self }
    }

    /// First output of the group, which begins a row.
    fn first_row(&self) -> usize {
        self.group as usize * TILES_PER_GROUP / self.dims.segments() as usize * TILE_OUTPUTS
    }

    /// How many groups, at most `most`, lie whole in the run, and their pages.
    fn whole(&self, most: u32) -> (u32, usize) {
        let (mut groups, mut pages) = (0, 0);
        while groups < most
            && let Some(masks) = self.run.get(pages)
            && let Some(cells) = self.kernel.compute().kept_cells(self.dims, self.group + groups, masks)
            && pages + 1 + cells.div_ceil(CELLS_PER_PAGE) <= self.run.len()
        {
            groups += 1;
            pages += 1 + cells.div_ceil(CELLS_PER_PAGE);
        }
        (groups, pages)
    }

    /// Computes the groups that lie whole in the run; `y` is `(batch, y_stride)`, from output `first` on.
    fn compute(self, (y, y_stride): (&mut [f32], usize), first: usize) {
        let Self { kernel, dims, group, mut run, x } = self;
        for group in group..dims.groups() {
            let Some((masks, rest)) = run.split_first() else { return };
            let Some(cells) = kernel.compute().kept_cells(dims, group, masks) else { return };
            let Some((here, later)) = rest.split_at_checked(cells.div_ceil(CELLS_PER_PAGE)) else { return };
            let bytes = here.as_flattened();
            let bytes = bytes.get(..cells * CELL_BYTES).unwrap_or(bytes);
            GroupProduct::new(dims, group, masks, x, (&mut *y, y_stride))
                .with_outputs_from(first)
                .feed(kernel, bytes);
            run = later;
        }
    }
}

/// The parts of a stretch for one position: whole groups that begin and end with a row, and their outputs.
struct Parts<'a> {
    left: Stretch<'a>,
    /// Outputs of `left`.
    y: &'a mut [f32],
    /// Pages of a part.
    part: u32,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Self;

    fn next(&mut self) -> Option<Self> {
        let Stretch { dims, group, run, .. } = self.left;
        let all = dims.groups().saturating_sub(group);
        // One in so many groups begins a row.
        let period =
            dims.segments() >> dims.segments().trailing_zeros().min(TILES_PER_GROUP.trailing_zeros());
        let wanted = (self.part.div_ceil(dims.dense_cell_pages(0) * period) * period).min(all);
        let (mut groups, mut pages) = self.left.whole(wanted);
        if groups < wanted {
            (groups, pages) = self.left.whole(groups / period * period);
        }
        if groups == 0 {
            return None;
        }
        let (run, later) = run.split_at_checked(pages)?;
        let left = Stretch { group: group + groups, run: later, ..self.left };
        let outputs = if groups == all { self.y.len() } else { left.first_row() - self.left.first_row() };
        let (y, rest) = core::mem::take(&mut self.y).split_at_mut_checked(outputs)?;
        let part = Parts { left: Stretch { run, ..self.left }, y, part: self.part };
        (self.left, self.y) = (left, rest);
        Some(part)
    }
}
