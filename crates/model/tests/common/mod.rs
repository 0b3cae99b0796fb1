//! Small models of every kind, with weights that any language can compute.

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::Model;

/// Two layers of width 12, a vocabulary of 10.
pub fn shape(heads: [u32; 3], norm: Norm, mlp: Mlp) -> Shape {
    let [n_heads, n_kv_heads, head_dim] = heads;
    Shape {
        n_layers: 2,
        d_model: 12,
        d_ff: 20,
        vocab: 10,
        max_seq: 16,
        n_heads,
        n_kv_heads,
        head_dim,
        norm,
        norm_eps: 1e-5,
        mlp,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    }
}

/// A Llama: RMSNorm, SwiGLU, final norm, head of its own.
pub fn llama() -> Shape {
    Shape { tied_embeddings: false, ..shape([3, 1, 4], Norm::Rms, Mlp::SwiGlu) }
}

/// The sketch's kind: LayerNorm, GELU, no final norm, one KV head.
pub fn sketch() -> Shape {
    Shape { final_norm: false, ..shape([3, 1, 6], Norm::Layer, Mlp::Gelu) }
}

/// The model of this shape whose value `i` of tensor `t` is a sine of `1.7 t + 0.37 i`.
pub fn model(shape: Shape) -> Model {
    let mut model = Model::zeros(shape).unwrap();
    for (t, tensor) in model.tensors_mut().enumerate() {
        for (i, w) in tensor.data.iter_mut().enumerate() {
            let sine = (1.7 * t as f64 + 0.37 * i as f64).sin();
            *w = match (tensor.dims.len(), tensor.name.ends_with("bias")) {
                (2, _) => 0.5 * sine,
                (_, true) => 0.1 * sine,
                (_, false) => 1.0 + 0.1 * sine,
            } as f32;
        }
    }
    model
}
