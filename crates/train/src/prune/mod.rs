//! Block pruning: which blocks of which matrices are kept.
//!
//! A block is R×C weights of one matrix, R and C multiples of 4; at the right and lower edge it may be smaller. The embedding is never
//! pruned, a separate head may be. *Density* is the part of the 4×4 cells of all matrices, the embedding included, that is kept: it
//! says what becomes of the tape.
//!
//! The tape holds whole pages of 32 cells, and cells of different *groups* (32 tiles of a matrix) do not share one. So 4×4 blocks are
//! chosen by the page: of each group, the best cells fill pages, and the pages compete.

mod score;

use pageformer_card::matrix::{TILE_INPUTS, TILES_PER_GROUP};
use pageformer_card::page::FLOATS_PER_PAGE;
use pageformer_card::{CELLS_PER_PAGE, MatrixDims, Norm};
use serde::{Deserialize, Serialize};

use crate::params::{Layout, Role};

pub use score::{Evidence, Method};

/// Which blocks compete with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All blocks of the model: a matrix that matters more keeps more.
    #[default]
    Global,
    /// The blocks of each matrix: every matrix has the same density.
    Matrix,
}

/// The blocks of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixMask {
    /// Place of the matrix in [`Layout::views`].
    pub view: usize,
    /// Whether each block is kept, row by row.
    pub keep: Vec<bool>, // (block rows, block columns)
    columns: usize, // blocks in a row
    dims: MatrixDims,
}

/// Which blocks of all prunable matrices are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Masks {
    block: [usize; 2], // rows, columns
    matrices: Vec<MatrixMask>,
    embedding_cells: u64,
}

impl Masks {
    /// Everything is kept.
    pub fn dense(layout: &Layout, block: [usize; 2]) -> Self {
        let views = layout.views().iter().enumerate().filter(|(_, v)| v.role == Role::Matrix);
        let matrices = views.map(|(view, v)| {
            let columns = v.cols.div_ceil(block[1]);
            MatrixMask {
                view,
                keep: vec![true; v.rows.div_ceil(block[0]) * columns],
                columns,
                dims: MatrixDims { outputs: v.rows as u32, inputs: v.cols as u32 },
            }
        });
        let embedding = layout.views().iter().filter(|v| v.role == Role::Embedding);
        let dims = embedding.map(|v| MatrixDims { outputs: v.rows as u32, inputs: v.cols as u32 });
        Masks { block, matrices: matrices.collect(), embedding_cells: dims.map(|d| d.cells()).sum() }
    }

    /// The masks that keep exactly the blocks in which a weight is not zero.
    pub fn of_weights(layout: &Layout, weights: &[f32], block: [usize; 2]) -> Self {
        let mut masks = Self::dense(layout, block);
        let sums = masks.block_sums(layout, |i| f32::from(u8::from(weights[i] != 0.0)));
        for (matrix, sums) in masks.matrices.iter_mut().zip(sums) {
            matrix.keep = sums.into_iter().map(|s| s > 0.0).collect();
        }
        masks
    }

    /// Rows and columns of a block.
    pub fn block(&self) -> [usize; 2] {
        self.block
    }

    /// The mask of each prunable matrix.
    pub fn matrices(&self) -> &[MatrixMask] {
        &self.matrices
    }

    /// The mask of each prunable matrix, to be set.
    pub fn matrices_mut(&mut self) -> &mut [MatrixMask] {
        &mut self.matrices
    }

    /// The sum of a value of each weight over each block: for each matrix, (block rows, block columns).
    pub fn block_sums(&self, layout: &Layout, value: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
        let [high, wide] = self.block;
        let sums = |m: &MatrixMask| {
            let view = &layout.views()[m.view];
            let mut sums = vec![0.0; m.keep.len()];
            for row in 0..view.rows {
                let sums = &mut sums[row / high * m.columns..][..m.columns];
                for (block, sum) in sums.iter_mut().enumerate() {
                    let columns = block * wide..((block + 1) * wide).min(view.cols);
                    let first = view.range.start + row * view.cols;
                    *sum += columns.map(|column| value(first + column)).sum::<f32>();
                }
            }
            sums
        };
        self.matrices.iter().map(sums).collect()
    }

    /// Keeps the blocks with the largest scores until `density` is reached, or nearly (never more); where the embedding alone is more, nothing
    /// else. `scores` has the form of [`Masks::block_sums`]; a score is per cell, so that smaller blocks at the edges compete fairly.
    pub fn choose(&mut self, scores: &[Vec<f32>], density: f64, scope: Scope) {
        let prunable: u64 = self.matrices.iter().map(|m| m.dims.cells()).sum();
        let budget = (prunable + self.embedding_cells) as f64 * density - self.embedding_cells as f64;
        let share = (budget / prunable as f64).clamp(0.0, 1.0);
        let competitions: Vec<Vec<usize>> = match scope {
            Scope::Global => vec![(0..self.matrices.len()).collect()],
            Scope::Matrix => (0..self.matrices.len()).map(|m| vec![m]).collect(),
        };
        let mut left = 0.0;
        for matrices in competitions {
            // What one matrix could not use goes to the next.
            left += matrices.iter().map(|&m| self.matrices[m].dims.cells()).sum::<u64>() as f64 * share;
            let mut units: Vec<Unit> = matrices.iter().flat_map(|&m| self.units(m, &scores[m])).collect();
            units.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.place().cmp(&b.place())));
            for unit in units {
                // A small difference is what the floating-point sums are off.
                let keep = unit.cells as f64 <= left + 1e-6;
                left -= if keep { unit.cells as f64 } else { 0.0 };
                for block in unit.blocks {
                    self.matrices[unit.matrix].keep[block] = keep;
                }
            }
        }
    }

    /// What of a matrix is kept or pruned together: for 4×4 blocks, pages of a group's cells, best first; for other blocks, each.
    fn units(&self, matrix: usize, scores: &[f32]) -> Vec<Unit> {
        let unit = |blocks: Vec<usize>| {
            let cells = blocks.iter().map(|&b| self.cells(matrix, b)).sum();
            let score = blocks.iter().map(|&b| scores[b]).sum::<f32>() / cells as f32;
            Unit { matrix, score, cells, blocks }
        };
        if self.block != [4, 4] {
            return (0..scores.len()).map(|block| unit(vec![block])).collect();
        }
        let m = &self.matrices[matrix];
        let group = |block: usize| self.group(matrix, (block / m.columns, block % m.columns));
        let mut groups = vec![vec![]; m.dims.groups() as usize];
        (0..scores.len()).for_each(|block| groups[group(block)].push(block));
        for blocks in &mut groups {
            blocks.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        }
        groups
            .iter()
            .flat_map(|blocks| blocks.chunks(CELLS_PER_PAGE))
            .map(|page| unit(page.to_vec()))
            .collect()
    }

    /// 4×4 cells of a block.
    fn cells(&self, matrix: usize, block: usize) -> u64 {
        let m = &self.matrices[matrix];
        let [high, wide] = self.block.map(|n| n as u64 / 4);
        let (row, column) = ((block / m.columns) as u64, (block % m.columns) as u64);
        let rows = (m.dims.row_blocks() as u64 - row * high).min(high);
        let columns = (m.dims.padded_inputs() as u64 / 4 - column * wide).min(wide);
        rows * columns
    }

    /// Zeroes the pruned blocks of a flat buffer: weights, gradients or moments.
    pub fn apply(&self, layout: &Layout, buffer: &mut [f32]) {
        let [high, wide] = self.block;
        for m in &self.matrices {
            let view = &layout.views()[m.view];
            let rows = buffer[view.range.clone()].chunks_exact_mut(view.cols);
            for (row, values) in rows.enumerate() {
                let keep = &m.keep[row / high * m.columns..][..m.columns];
                for (values, _) in values.chunks_mut(wide).zip(keep).filter(|(_, keep)| !**keep) {
                    values.fill(0.0);
                }
            }
        }
    }

    /// Cells kept, and all cells, of each prunable matrix.
    pub fn cells_kept(&self) -> Vec<(u64, u64)> {
        let kept = |m: usize| {
            let keep = self.matrices[m].keep.iter().enumerate().filter(|(_, k)| **k);
            keep.map(|(b, _)| self.cells(m, b)).sum()
        };
        (0..self.matrices.len()).map(|m| (kept(m), self.matrices[m].dims.cells())).collect()
    }

    /// Part of the cells of all matrices, the embedding included, that is kept.
    pub fn density(&self) -> f64 {
        let (kept, all) = self.sums();
        (kept + self.embedding_cells) as f64 / (all + self.embedding_cells).max(1) as f64
    }

    /// Part of the cells of all prunable matrices that is kept.
    pub fn prunable_density(&self) -> f64 {
        let (kept, all) = self.sums();
        kept as f64 / all.max(1) as f64
    }

    /// Pages of the tape: norms, masks, and the cells that are kept. An embedding that is not the head is not on the tape.
    pub fn tape_pages(&self, layout: &Layout) -> u64 {
        let shape = layout.shape();
        let norms = 2 * shape.n_layers as u64 + u64::from(shape.final_norm);
        let norm = shape.d_model * if shape.norm == Norm::Layer { 2 } else { 1 };
        let mut pages = norms * norm.div_ceil(FLOATS_PER_PAGE as u32) as u64;
        if shape.tied_embeddings {
            pages += MatrixDims { outputs: shape.vocab, inputs: shape.d_model }.dense_pages() as u64;
        }
        for (m, mask) in self.matrices.iter().enumerate() {
            let mut cells = vec![0; mask.dims.groups() as usize];
            // A block may reach over several groups: its cells are counted one by one.
            for cell in self.kept_cells(m) {
                cells[self.group(m, cell)] += 1;
            }
            pages += cells.iter().map(|c| 1 + u64::div_ceil(*c, CELLS_PER_PAGE as u64)).sum::<u64>();
        }
        pages
    }

    /// Row and column of every kept 4×4 cell of a matrix.
    fn kept_cells(&self, matrix: usize) -> impl Iterator<Item = (usize, usize)> {
        let m = &self.matrices[matrix];
        let [high, wide] = self.block.map(|n| n / 4);
        let (rows, columns) = (m.dims.row_blocks() as usize, m.dims.padded_inputs() as usize / 4);
        let cells = (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)));
        cells.filter(move |(row, column)| m.keep[row / high * m.columns + column / wide])
    }

    /// The group of the tile that a cell belongs to.
    fn group(&self, matrix: usize, (row, column): (usize, usize)) -> usize {
        let tile = row * self.matrices[matrix].dims.segments() as usize + column * 4 / TILE_INPUTS;
        tile / TILES_PER_GROUP
    }

    fn sums(&self) -> (u64, u64) {
        self.cells_kept().iter().fold((0, 0), |(k, a), (k1, a1)| (k + k1, a + a1))
    }
}

/// Blocks that are kept or pruned together.
struct Unit {
    matrix: usize,
    score: f32, // per cell
    cells: u64,
    blocks: Vec<usize>,
}

impl Unit {
    /// Decides between equal scores.
    fn place(&self) -> (usize, usize) {
        (self.matrix, self.blocks[0])
    }
}

#[cfg(test)]
mod tests {
    use pageformer_card::{Shape, Tensor};

    use super::*;
    use crate::tests::small_shape;

    fn setup(block: [usize; 2]) -> (Layout, Vec<f32>, Masks) {
        let layout = Layout::new(small_shape()).unwrap();
        let weights = layout.initial_weights(1);
        let masks = Masks::dense(&layout, block);
        (layout, weights, masks)
    }

    #[test]
    fn chosen_blocks_are_the_largest_and_as_many_as_asked() {
        for block in [[4, 4], [8, 4], [4, 16]] {
            let (layout, mut weights, mut masks) = setup(block);
            let scores = masks.block_sums(&layout, |i| weights[i] * weights[i]);
            masks.choose(&scores, 0.5, Scope::Global);
            assert!(masks.density() <= 0.5 && masks.density() > 0.4, "{}", masks.density());
            masks.apply(&layout, &mut weights);
            // What is left is what the masks say, and the embedding is whole.
            assert_eq!(Masks::of_weights(&layout, &weights, block), masks);
            assert!(weights[layout.embedding.clone()].iter().all(|w| *w != 0.0));
            let per_cell = |m: usize, b: usize| scores[m][b] / masks.cells(m, b) as f32;
            for (m, mask) in masks.matrices().iter().enumerate() {
                let scores = |kept: bool| {
                    let blocks = mask.keep.iter().enumerate().filter(move |(_, k)| **k == kept);
                    blocks.map(move |(b, _)| per_cell(m, b))
                };
                // Within a matrix of one group, or with large blocks, no pruned block beats a kept one of the same size.
                let (least, most) =
                    (scores(true).fold(f32::MAX, f32::min), scores(false).fold(0.0, f32::max));
                assert!(block != [4, 4] || least >= most);
            }
        }
    }

    #[test]
    fn cells_are_kept_by_the_page() {
        let shape = Shape { d_model: 64, d_ff: 176, n_heads: 8, n_kv_heads: 4, head_dim: 8, ..small_shape() };
        let layout = Layout::new(shape).unwrap();
        let weights = layout.initial_weights(1);
        for density in [0.9, 0.75, 0.5, 0.3] {
            let mut masks = Masks::dense(&layout, [4, 4]);
            let scores = masks.block_sums(&layout, |i| weights[i] * weights[i]);
            masks.choose(&scores, density, Scope::Global);
            assert!((masks.density() - density).abs() < 0.005, "{density}: {}", masks.density());
            for m in masks.matrices() {
                // 64 inputs: a group is 32 row-blocks of 16 cells. Full pages, but for the last of a group that is whole.
                for group in m.keep.chunks(32 * m.columns) {
                    let kept = group.iter().filter(|k| **k).count();
                    assert!(kept % 32 == 0 || kept == group.len() || m.columns != 16, "{kept}");
                }
            }
        }
    }

    #[test]
    fn the_tape_is_as_long_as_the_format_says() {
        let shape = Shape { d_model: 64, d_ff: 300, n_heads: 8, n_kv_heads: 4, head_dim: 8, ..small_shape() };
        for shape in [shape, Shape { norm: Norm::Layer, tied_embeddings: false, ..shape }] {
            let layout = Layout::new(shape).unwrap();
            let tape = shape.iter_tensors().filter(|t| shape.tied_embeddings || *t != Tensor::Embedding);
            let expected: u32 = tape.map(|t| shape.kind(t).dense_pages()).sum();
            for block in [[4, 4], [8, 12]] {
                let mut masks = Masks::dense(&layout, block);
                assert_eq!(masks.tape_pages(&layout), expected as u64);
                let dense = expected as f64;
                let scores = masks.block_sums(&layout, |i| (i * 7919 % 1000) as f32);
                masks.choose(&scores, 0.5, Scope::Global);
                let share = masks.tape_pages(&layout) as f64 / dense;
                assert!(share < 0.62 && share > 0.45, "{share}");
            }
        }
    }

    #[test]
    fn each_matrix_has_its_density_in_matrix_scope() {
        let (layout, weights, mut masks) = setup([8, 4]);
        // Matrices with tiny weights lose everything in global scope.
        let scores = masks.block_sums(&layout, |i| if i < layout.len() / 2 { 0.0 } else { weights[i].abs() });
        masks.choose(&scores, 0.5, Scope::Matrix);
        let share = masks.prunable_density();
        for (kept, all) in masks.cells_kept() {
            assert!((kept as f64 - all as f64 * share).abs() < 3.0, "{kept} of {all}, {share}");
        }
        masks.choose(&scores, 0.5, Scope::Global);
        assert!(masks.cells_kept().iter().any(|(kept, all)| kept == all));
        assert!(masks.cells_kept().iter().any(|(kept, _)| *kept == 0));
        masks.choose(&scores, 1.0, Scope::Global);
        assert_eq!(masks.density(), 1.0);
        // Less than the embedding.
        masks.choose(&scores, 0.01, Scope::Global);
        assert_eq!(masks.prunable_density(), 0.0);
    }

    #[test]
    fn edges_count_as_the_cells_they_have() {
        // 20 outputs, 12 inputs in blocks of 16×8: 2×2 blocks of 8, 4, 2 and 1 cells.
        let (layout, _, masks) = setup([16, 8]);
        let w1 = layout.views().iter().position(|v| v.name.ends_with("up_proj.weight")).unwrap();
        let m = masks.matrices().iter().position(|m| m.view == w1).unwrap();
        assert_eq!((0..4).map(|b| masks.cells(m, b)).collect::<Vec<_>>(), [8, 4, 2, 1]);
    }
}
