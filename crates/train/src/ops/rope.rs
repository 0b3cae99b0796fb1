//! Rotary position embedding (Su et al. 2021): channel `i` of a head turns with channel `i + head_dim / 2`.

use crate::vector::vectorized;

/// Cosines and sines of every position, expanded to a head's width.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    half: usize,
    /// (positions, head_dim / 2)
    cos: Vec<f32>,
    /// (positions, head_dim / 2)
    sin: Vec<f32>,
}

/// Which way to turn.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Turn {
    /// Forward pass.
    Forward,
    /// Gradient: the transpose of a rotation is the rotation back.
    Back,
}

impl RopeTable {
    /// Angles `position · theta^(−2i / head_dim)`.
    pub(crate) fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let angle =
            |p: usize, i: usize| p as f64 * libm::pow(theta as f64, -2.0 * i as f64 / head_dim as f64);
        let table = |f: fn(f64) -> f64| {
            (0..positions * half).map(|at| f(angle(at / half, at % half)) as f32).collect()
        };
        RopeTable { half, cos: table(libm::cos), sin: table(libm::sin) }
    }

    /// Turns the first `heads` heads of each row of `x`; row `i` is at position `i`.
    pub(crate) fn apply(&self, x: &mut [f32], row: usize, heads: usize, turn: Turn) {
        fast_apply(x, row, heads, self, turn);
    }
}

vectorized! {
    fn fast_apply<'a>(x: &'a mut [f32], row: usize, heads: usize, table: &'a RopeTable, turn: Turn) = apply_rows;
}

#[inline(always)]
fn apply_rows(x: &mut [f32], row: usize, heads: usize, table: &RopeTable, turn: Turn) {
    let half = table.half;
    let sign = if turn == Turn::Back { -1.0 } else { 1.0 };
    let angles = table.cos.chunks_exact(half).zip(table.sin.chunks_exact(half));
    for (x, (cos, sin)) in x.chunks_exact_mut(row).zip(angles) {
        for head in x[..heads * 2 * half].chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b, sin) = (*low, *high, sin * sign);
                *low = a * cos - b * sin;
                *high = a * sin + b * cos;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::random;

    #[test]
    fn turning_back_undoes_turning() {
        let table = RopeTable::new(9, 6, 10_000.0);
        // 9 rows of 2 heads and 5 more channels that must stay.
        let x = random(1, 9 * 17);
        let mut y = x.clone();
        table.apply(&mut y, 17, 2, Turn::Forward);
        for (p, (x, y)) in x.chunks(17).zip(y.chunks(17)).enumerate() {
            assert_eq!(x[12..], y[12..]);
            // Pair (1, 4) of the first head turns by p · 10000^(−2/6).
            let angle = p as f32 * 10_000f32.powf(-1.0 / 3.0);
            assert!((y[1] - (x[1] * angle.cos() - x[4] * angle.sin())).abs() < 1e-5);
        }
        table.apply(&mut y, 17, 2, Turn::Back);
        assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
