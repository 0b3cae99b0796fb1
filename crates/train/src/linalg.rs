//! Matrix products: thin names over `ndarray`, whose products of f32 are those of the `matrixmultiply` crate.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// A dense row-major matrix.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
}

/// A dense row-major matrix to write to.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
}

/// A dense row-major matrix.
pub(crate) fn mat(data: &[f32], rows: usize, cols: usize) -> Mat<'_> {
    Mat { data, rows, cols }
}

/// A dense row-major matrix to write to.
pub(crate) fn mat_mut(data: &mut [f32], rows: usize, cols: usize) -> MatMut<'_> {
    MatMut { data, rows, cols }
}

impl<'a> Mat<'a> {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn view(self) -> ArrayView2<'a, f32> {
        ArrayView2::from_shape((self.rows, self.cols), self.data).expect("a slice as long as its matrix")
    }
}

/// `c = beta·c + alpha · a · b`
fn product(c: MatMut, beta: f32, alpha: f32, a: ArrayView2<f32>, b: ArrayView2<f32>) {
    let mut c = ArrayViewMut2::from_shape((c.rows, c.cols), c.data).expect("a slice as long as its matrix");
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
    fn products_add_to_what_is_there() {
        let a: Vec<f32> = (0..6).map(|v| v as f32).collect();
        let b: Vec<f32> = (0..12).map(|v| (v * v % 7) as f32).collect();
        let mut nt = vec![1.0; 2 * 4];
        matmul_nt(mat_mut(&mut nt, 2, 4), 1.0, 2.0, mat(&a, 2, 3), mat(&b, 4, 3));
        let mut nn = vec![1.0; 2 * 4];
        matmul_nn(mat_mut(&mut nn, 2, 4), 0.0, 1.0, mat(&a, 2, 3), mat(&b, 3, 4));
        let mut tn = vec![1.0; 2 * 4];
        matmul_tn(mat_mut(&mut tn, 2, 4), 1.0, 1.0, mat(&a, 3, 2), mat(&b, 3, 4));
        for (i, j) in (0..8).map(|at| (at / 4, at % 4)) {
            let sum = |f: &dyn Fn(usize) -> f32| (0..3).map(f).sum::<f32>();
            assert_eq!(nt[i * 4 + j], 1.0 + 2.0 * sum(&|k| a[i * 3 + k] * b[j * 3 + k]));
            assert_eq!(nn[i * 4 + j], sum(&|k| a[i * 3 + k] * b[k * 4 + j]));
            assert_eq!(tn[i * 4 + j], 1.0 + sum(&|k| a[k * 2 + i] * b[k * 4 + j]));
        }
    }
}
