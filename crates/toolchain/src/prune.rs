//! One-shot pruning of blocks, by magnitude.

use pageformer_card::manifest::is_block;
use pageformer_card::matrix::TILES_PER_GROUP;
use pageformer_card::{CELLS_PER_PAGE, MatrixDims};
use pageformer_model::{Matrix, Model};

/// How much of a model is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Density {
    /// Kept cells ÷ all cells of all matrices, the embedding included, which is never pruned.
    pub cells: f64,
    /// The same without the embedding.
    pub prunable: f64,
}

/// Why a model cannot be pruned so.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// Not between 0 and 1.
    #[error(
        "a density of {0} is not possible: it is the share of the weights that is kept, above 0 and at most 1"
    )]
    Density(f64),
    /// Not a block.
    #[error("blocks of {0}x{1} are not possible: outputs and inputs are multiples of 4, at most 256")]
    Block(u32, u32),
    /// The embedding alone is more.
    #[error(
        "a density of {asked} is not possible: the embedding, which is never pruned, is {embedding:.3} of this model's weights; \
         give more than that"
    )]
    Embedding {
        /// What was asked for.
        asked: f64,
        /// Share of the embedding.
        embedding: f64,
    },
}

/// Sets the weakest blocks (by the mean magnitude of their cells) of every matrix but the embedding to zero, until at most
/// `density` of all cells is left.
///
/// 4×4 blocks are pruned so that every group keeps whole pages of cells: a page that is partly filled costs as
/// much as a full one. Larger blocks are pruned matrix by matrix.
///
/// # Errors
/// If the density or the block is impossible.
pub fn prune_by_magnitude(model: &mut Model, density: f64, block: (u32, u32)) -> Result<Density, PruneError> {
    if !(density > 0.0 && density <= 1.0) {
        return Err(PruneError::Density(density));
    }
    let embedding = cells(&model.embedding) as f64;
    let prunable: f64 = matrices(model).map(|m| cells(m) as f64).sum();
    let share = ((density * (embedding + prunable) - embedding) / prunable).min(1.0);
    if share <= 0.0 {
        return Err(PruneError::Embedding { asked: density, embedding: embedding / (embedding + prunable) });
    }
    prune_matrices_by_magnitude(model, share, block)
}

/// The same, until at most `share` of the cells of the matrices that are pruned is left, whatever the embedding is.
///
/// # Errors
/// If the share or the block is impossible.
pub fn prune_matrices_by_magnitude(
    model: &mut Model,
    share: f64,
    block: (u32, u32),
) -> Result<Density, PruneError> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(PruneError::Density(share));
    }
    if !is_block(block) {
        return Err(PruneError::Block(block.0, block.1));
    }
    // What the rounding of one group to whole pages leaves over goes to the next.
    let mut carry = 0.0;
    if share < 1.0 {
        for matrix in matrices(model) {
            match block {
                (4, 4) => prune_pages(matrix, share, &mut carry),
                _ => prune_blocks(matrix, share, block, &mut carry),
            }
        }
    }
    let embedding = cells(&model.embedding) as f64;
    let prunable: f64 = matrices(model).map(|m| cells(m) as f64).sum();
    let kept: f64 = matrices(model).map(|m| kept_cells(m) as f64).sum();
    Ok(Density { cells: (embedding + kept) / (embedding + prunable), prunable: kept / prunable })
}

/// Every matrix that may be pruned.
fn matrices(model: &mut Model) -> impl Iterator<Item = &mut Matrix> {
    let layers = model.layers.iter_mut().flat_map(|l| {
        [&mut l.wq, &mut l.wk, &mut l.wv, &mut l.wo, &mut l.w1, &mut l.w2]
            .into_iter()
            .chain(l.w_gate.as_mut())
    });
    layers.chain(model.head.as_mut())
}

fn dims(matrix: &Matrix) -> MatrixDims {
    MatrixDims { outputs: matrix.rows as u32, inputs: matrix.cols as u32 }
}

fn cells(matrix: &Matrix) -> u64 {
    dims(matrix).cells()
}

/// Top left corners of the blocks of a matrix.
fn corners(matrix: &Matrix, (rows, cols): (usize, usize)) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (height, width) = (matrix.rows, matrix.cols);
    (0..height).step_by(rows).flat_map(move |r| (0..width).step_by(cols).map(move |c| (r, c)))
}

/// Calls `f` with the weights of each row of the block at `corner`.
fn rows_of_block(
    matrix: &mut Matrix,
    (row, col): (usize, usize),
    (rows, cols): (usize, usize),
) -> impl Iterator<Item = &mut [f32]> {
    let (width, to) = (matrix.cols, (col + cols).min(matrix.cols));
    let last = (row + rows).min(matrix.rows);
    matrix.data[row * width..last * width].chunks_exact_mut(width).map(move |line| &mut line[col..to])
}

fn magnitude(matrix: &mut Matrix, corner: (usize, usize), block: (usize, usize)) -> f32 {
    rows_of_block(matrix, corner, block).flatten().map(|w| w.abs()).sum()
}

fn kept_cells(matrix: &mut Matrix) -> u64 {
    let corners: Vec<_> = corners(matrix, (4, 4)).collect();
    corners.into_iter().filter(|corner| magnitude(matrix, *corner, (4, 4)) > 0.0).count() as u64
}

/// Zeroes all but the strongest of the blocks at `corners`, so that at most `keep` cells are left. Returns how many
/// are.
fn keep_strongest(
    matrix: &mut Matrix,
    corners: &[(usize, usize)],
    block: (usize, usize),
    keep: usize,
) -> usize {
    // A block at the edge has fewer cells: what counts is how much each of them is worth.
    let mut ranked: Vec<_> = Vec::with_capacity(corners.len());
    for &corner in corners {
        let cells = cells_of_block(matrix, corner, block);
        ranked.push((magnitude(matrix, corner, block) / cells as f32, cells, corner));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut kept, mut full) = (0, false);
    for (_, cells, corner) in ranked {
        full |= kept + cells > keep;
        if full {
            rows_of_block(matrix, corner, block).for_each(|weights| weights.fill(0.0));
        } else {
            kept += cells;
        }
    }
    kept
}

fn cells_of_block(matrix: &Matrix, (row, col): (usize, usize), (rows, cols): (usize, usize)) -> usize {
    rows.min(matrix.rows - row).div_ceil(4) * cols.min(matrix.cols - col).div_ceil(4)
}

fn prune_pages(matrix: &mut Matrix, share: f64, carry: &mut f64) {
    let (block, segments) = ((4, 4), dims(matrix).segments() as usize);
    // The cells of each group, in the order of the tape.
    let mut groups = vec![Vec::new(); dims(matrix).groups() as usize];
    for (row, col) in corners(matrix, block) {
        let tile = row / 4 * segments + col / 256;
        groups[tile / TILES_PER_GROUP].push((row, col));
    }
    for corners in groups {
        let wanted = corners.len() as f64 * share + *carry;
        let pages = (wanted / CELLS_PER_PAGE as f64) as usize;
        *carry = wanted - keep_strongest(matrix, &corners, block, pages * CELLS_PER_PAGE) as f64;
    }
}

fn prune_blocks(matrix: &mut Matrix, share: f64, block: (u32, u32), carry: &mut f64) {
    let block = (block.0 as usize, block.1 as usize);
    let corners: Vec<_> = corners(matrix, block).collect();
    let wanted = cells(matrix) as f64 * share + *carry;
    *carry = wanted - keep_strongest(matrix, &corners, block, wanted as usize) as f64;
}
