//! Block pruning: which blocks of which matrices are kept.
//!
//! A block is R×C weights of one matrix, R and C multiples of 4; at the right and lower edge it may be smaller. The embedding is never
//! pruned, a separate head may be. *Density* is the part of the 4×4 cells of all prunable matrices that is kept.

mod score;

use pageformer_card::MatrixDims;
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
        Masks { block, matrices: matrices.collect() }
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

    /// Keeps the blocks with the largest scores until `density` is reached. `scores` has the form of [`Masks::block_sums`]; a score is
    /// per cell, so that smaller blocks at the edges compete fairly.
    pub fn choose(&mut self, scores: &[Vec<f32>], density: f64, scope: Scope) {
        let groups: Vec<Vec<usize>> = match scope {
            Scope::Global => vec![(0..self.matrices.len()).collect()],
            Scope::Matrix => (0..self.matrices.len()).map(|m| vec![m]).collect(),
        };
        for group in groups {
            let mut blocks: Vec<(f32, usize, usize)> = vec![];
            for &m in &group {
                let cells = (0..scores[m].len()).map(|b| self.cells(m, b) as f32);
                blocks.extend(scores[m].iter().zip(cells).enumerate().map(|(b, (s, c))| (s / c, m, b)));
            }
            // Equal scores: the earlier block stays.
            blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let total: u64 = group.iter().map(|&m| self.matrices[m].dims.cells()).sum();
            let mut left = (total as f64 * density).round() as u64;
            for (_, m, b) in blocks {
                let cells = self.cells(m, b);
                self.matrices[m].keep[b] = cells <= left;
                left -= cells.min(left);
            }
        }
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

    /// Part of the cells of all prunable matrices that is kept.
    pub fn density(&self) -> f64 {
        let (kept, all) = self.cells_kept().iter().fold((0, 0), |(k, a), (k1, a1)| (k + k1, a + a1));
        if all == 0 { 1.0 } else { kept as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
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
            assert!((masks.density() - 0.5).abs() < 0.02, "{}", masks.density());
            masks.apply(&layout, &mut weights);
            // What is left is what the masks say, and the embedding is whole.
            assert_eq!(Masks::of_weights(&layout, &weights, block), masks);
            assert!(weights[layout.embedding.clone()].iter().all(|w| *w != 0.0));
            let after = masks.block_sums(&layout, |i| weights[i] * weights[i]);
            let per_cell = |m: usize, b: usize| scores[m][b] / masks.cells(m, b) as f32;
            let (mut least_kept, mut most_pruned) = (f32::MAX, 0.0f32);
            for (m, mask) in masks.matrices().iter().enumerate() {
                for (b, &keep) in mask.keep.iter().enumerate() {
                    assert_eq!(keep, after[m][b] != 0.0);
                    match keep {
                        true => least_kept = least_kept.min(per_cell(m, b)),
                        false => most_pruned = most_pruned.max(per_cell(m, b)),
                    }
                }
            }
            if block == [4, 4] {
                assert!(least_kept >= most_pruned);
            }
        }
    }

    #[test]
    fn each_matrix_has_its_density_in_matrix_scope() {
        let (layout, weights, mut masks) = setup([4, 4]);
        // A matrix with tiny weights would lose everything in global scope.
        let scores = masks.block_sums(&layout, |i| if i < layout.len() / 2 { 0.0 } else { weights[i].abs() });
        masks.choose(&scores, 0.5, Scope::Matrix);
        for (kept, all) in masks.cells_kept() {
            assert_eq!(kept, (all as f64 * 0.5).round() as u64);
        }
        masks.choose(&scores, 0.5, Scope::Global);
        assert!(masks.cells_kept().iter().any(|(kept, all)| kept == all));
        masks.choose(&scores, 1.0, Scope::Global);
        assert_eq!(masks.density(), 1.0);
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
