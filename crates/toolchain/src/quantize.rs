//! f32 to int8, with a scale for every tile and output.

use pageformer_card::matrix::TILE_INPUTS;
use pageformer_card::writer::QuantizedMatrix;
use pageformer_card::{MatrixDims, bf16};
use pageformer_model::Matrix;

/// Quantizes a matrix: symmetric int8, `w ≈ q · scale`, `q ∈ [−127, 127]`. The scale of 256 inputs of an output
/// is their largest magnitude ÷ 127, rounded up to bf16 so that nothing clips. `dense` keeps cells of zeros.
pub fn quantize(matrix: &Matrix, dense: bool) -> QuantizedMatrix {
    let dims = MatrixDims { outputs: matrix.rows as u32, inputs: matrix.cols as u32 };
    let (rows, cols) = (dims.padded_outputs() as usize, dims.padded_inputs() as usize);
    let segments = dims.segments() as usize;
    let mut values = vec![0; rows * cols];
    let mut scales = vec![0; rows * segments];
    for row in 0..matrix.rows {
        for (segment, weights) in matrix.row(row).chunks(TILE_INPUTS).enumerate() {
            let most = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
            let scale = bf16::round_up(most / 127.0);
            scales[row * segments + segment] = scale;
            let scale = bf16::to_f32(scale);
            if scale > 0.0 {
                let from = row * cols + segment * TILE_INPUTS;
                for (q, w) in values[from..].iter_mut().zip(weights) {
                    *q = (w / scale).round().clamp(-127.0, 127.0) as i8;
                }
            }
        }
    }
    QuantizedMatrix { dims, values, scales, dense }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_weight_is_within_half_a_step(
            (rows, cols, data) in (1usize..9, 1usize..600).prop_flat_map(|(rows, cols)| {
                (Just(rows), Just(cols), proptest::collection::vec(-3f32..3.0, rows * cols))
            })
        ) {
            let matrix = Matrix { rows, cols, data };
            let quantized = quantize(&matrix, false);
            let (padded, segments) = (quantized.dims.padded_inputs() as usize, quantized.dims.segments() as usize);
            for row in 0..rows {
                for (col, w) in matrix.row(row).iter().enumerate() {
                    let scale = bf16::to_f32(quantized.scales[row * segments + col / 256]);
                    let back = f32::from(quantized.values[row * padded + col]) * scale;
                    prop_assert!((back - w).abs() <= scale * 0.5001);
                    prop_assert!(quantized.values[row * padded + col] != -128);
                }
            }
        }
    }
}
