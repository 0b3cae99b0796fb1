//! Matrix products: thin names over `ndarray`, whose products of f32 are those of the `matrixmultiply` crate.
//!
//! A matrix is a slice with a number of rows, a number of columns and the distance of two rows, so that the keys of one
//! head inside the rows of all heads are a matrix, too.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

/// A matrix inside a slice: `rows` × `cols`, the rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A matrix inside a slice, to write to.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A dense row-major matrix.
pub(crate) fn mat(data: &[f32], rows: usize, cols: usize) -> Mat<'_> {
    Mat { data, rows, cols, stride: cols }
}

/// A matrix whose rows are `stride` apart.
pub(crate) fn strided(data: &[f32], rows: usize, cols: usize, stride: usize) -> Mat<'_> {
    Mat { data, rows, cols, stride }
}

/// A dense row-major matrix to write to.
pub(crate) fn mat_mut(data: &mut [f32], rows: usize, cols: usize) -> MatMut<'_> {
    MatMut { data, rows, cols, stride: cols }
}

/// A matrix to write to whose rows are `stride` apart.
pub(crate) fn strided_mut(data: &mut [f32], rows: usize, cols: usize, stride: usize) -> MatMut<'_> {
    MatMut { data, rows, cols, stride }
}

impl<'a> Mat<'a> {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn view(self) -> ArrayView2<'a, f32> {
        ArrayView2::from_shape((self.rows, self.cols).strides((self.stride, 1)), self.data)
            .expect("a slice as long as its matrix")
    }
}

/// `c = beta·c + alpha · a · b`
fn product(c: MatMut, beta: f32, alpha: f32, a: ArrayView2<f32>, b: ArrayView2<f32>) {
    let mut c = ArrayViewMut2::from_shape((c.rows, c.cols).strides((c.stride, 1)), c.data)
        .expect("a slice as long as its matrix");
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

/// `c = beta·c + alpha · a · bᵀ`: what a layer with weights `b` (out, in) makes of rows `a` (n, in).
pub(crate) fn matmul_nt(c: MatMut, beta: f32, alpha: f32, a: Mat, b: Mat) {
    product(c, beta, alpha, a.view(), b.view().reversed_axes());
}

/// `c = beta·c + alpha · a · b`: the gradient of a layer's input from that of its output `a` (n, out).
pub(crate) fn matmul_nn(c: MatMut, beta: f32, alpha: f32, a: Mat, b: Mat) {
    product(c, beta, alpha, a.view(), b.view());
}

/// `c = beta·c + alpha · aᵀ · b`: the gradient of a layer's weights from that of its output `a` (n, out) and its input `b` (n, in).
pub(crate) fn matmul_tn(c: MatMut, beta: f32, alpha: f32, a: Mat, b: Mat) {
    product(c, beta, alpha, a.view().reversed_axes(), b.view());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_parts_of_larger_matrices() {
        // a: 2×3 inside rows of 5, b: 4×3 inside rows of 4.
        let a: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let b: Vec<f32> = (0..16).map(|v| (v * v % 7) as f32).collect();
        let mut c = vec![1.0; 2 * 6];
        matmul_nt(strided_mut(&mut c, 2, 4, 6), 1.0, 2.0, strided(&a, 2, 3, 5), strided(&b, 4, 3, 4));
        for i in 0..2 {
            for j in 0..6 {
                let dot: f32 = (0..3).map(|k| if j < 4 { a[i * 5 + k] * b[j * 4 + k] } else { 0.0 }).sum();
                assert_eq!(c[i * 6 + j], 1.0 + 2.0 * dot);
            }
        }
    }
}
