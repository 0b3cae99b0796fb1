//! The two orders of a head's channels under RoPE.

use pageformer_model::Matrix;

/// Reorders the rows of Wq or Wk, so that a rotation that was over channels `2i` and `2i + 1` of each head
/// (the order of the paper, Su et al. 2021) is over channels `i` and `i + head_dim / 2` (Hugging Face's).
///
/// Queries and keys are reordered alike, so their products stay the same.
pub(crate) fn pairs_to_halves(w: &mut Matrix, head_dim: usize) {
    let paired = w.data.clone(); // (heads · head_dim, cols)
    let head = head_dim * w.cols;
    for (out, paired) in w.data.chunks_exact_mut(head).zip(paired.chunks_exact(head)) {
        for (row, out) in out.chunks_exact_mut(w.cols).enumerate() {
            let (half, i) = (row / (head_dim / 2), row % (head_dim / 2));
            let from = (2 * i + half) * w.cols;
            out.copy_from_slice(&paired[from..from + w.cols]);
        }
    }
}
