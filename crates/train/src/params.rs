//! All weights of a model in one flat buffer, with a name for each part.
//!
//! Optimizer, checkpoints, masks and the sum of the gradients are then loops over one slice. The order is that of
//! [`pageformer_model::tensor_specs`], in which matrices that read the same input follow each other: Wq, Wk and Wv are one
//! matrix to the forward pass, and so are the gate and W1.

use std::ops::Range;

use pageformer_card::{Mlp, Shape};
use pageformer_model::{Model, tensor_specs};

use crate::{Error, rng::Rng};

/// What a tensor is to the optimizer, to pruning and to quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The embedding, which is the head, too, when tied. Quantized, never pruned.
    Embedding,
    /// A matrix of a layer, or a separate head. Quantized, and pruned when pruning is asked for.
    Matrix,
    /// Gain or bias of a norm. Neither decayed nor quantized.
    Norm,
}

/// One tensor of the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Hugging Face's name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Outputs of a matrix, 1 for a vector.
    pub rows: usize,
    /// Inputs of a matrix, length of a vector.
    pub cols: usize,
    /// Place in the flat buffer; row-major.
    pub range: Range<usize>,
}

/// Places of a norm's gain and bias.
#[derive(Clone, Debug)]
pub(crate) struct NormPlace {
    pub gain: Range<usize>,
    pub bias: Option<Range<usize>>,
}

/// Places of a layer's weights.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlace {
    pub ln1: NormPlace,
    /// Wq, Wk, Wv. (q_dim + 2·kv_dim, d_model)
    pub qkv: Range<usize>,
    /// (d_model, q_dim)
    pub wo: Range<usize>,
    pub ln2: NormPlace,
    /// The gate, if there is one, and W1. (d_ff or 2·d_ff, d_model)
    pub hidden: Range<usize>,
    /// (d_model, d_ff)
    pub w2: Range<usize>,
}

/// Where each tensor of a shape lies in the flat buffer.
#[derive(Clone, Debug)]
pub struct Layout {
    shape: Shape,
    views: Vec<View>,
    pub(crate) embedding: Range<usize>,
    pub(crate) layers: Vec<LayerPlace>,
    pub(crate) final_norm: Option<NormPlace>,
    /// The embedding's place when tied.
    pub(crate) head: Range<usize>,
}

impl Layout {
    /// The layout of a model of this shape.
    ///
    /// # Errors
    /// If the shape is not one.
    pub fn new(shape: Shape) -> Result<Self, Error> {
        shape.check()?;
        let mut views = Vec::new();
        let mut at = 0;
        for spec in tensor_specs(&shape) {
            let (rows, cols) = match spec.dims[..] {
                [rows, cols] => (rows, cols),
                _ => (1, spec.dims.iter().product()),
            };
            let role = match () {
                _ if spec.dims.len() < 2 => Role::Norm,
                _ if spec.name == "model.embed_tokens.weight" => Role::Embedding,
                _ => Role::Matrix,
            };
            let range = at..at + rows * cols;
            at = range.end;
            views.push(View { name: spec.name, role, rows, cols, range });
        }
        let find = |name: &str| views.iter().find(|v| v.name == name).map(|v| v.range.clone());
        let must = |name: &str| find(name).expect("a tensor that every shape has");
        let norm = |name: &str| NormPlace {
            gain: must(&format!("{name}.weight")),
            bias: find(&format!("{name}.bias")),
        };
        // Matrices with one input are one place: from the first's start to the last's end.
        let joined = |names: &[String]| {
            let places: Vec<_> = names.iter().map(|name| must(name)).collect();
            assert!(places.windows(2).all(|p| p[0].end == p[1].start), "{names:?} must be neighbours");
            places[0].start..places[places.len() - 1].end
        };
        let layers = (0..shape.n_layers).map(|l| {
            let part = |name: &str| format!("model.layers.{l}.{name}.weight");
            let up = part("mlp.up_proj");
            LayerPlace {
                ln1: norm(&format!("model.layers.{l}.input_layernorm")),
                qkv: joined(&["q_proj", "k_proj", "v_proj"].map(|m| part(&format!("self_attn.{m}")))),
                wo: must(&part("self_attn.o_proj")),
                ln2: norm(&format!("model.layers.{l}.post_attention_layernorm")),
                hidden: match shape.mlp {
                    Mlp::Gelu => must(&up),
                    Mlp::SwiGlu => joined(&[part("mlp.gate_proj"), up]),
                },
                w2: must(&part("mlp.down_proj")),
            }
        });
        let layers = layers.collect();
        let embedding = must("model.embed_tokens.weight");
        let head = find("lm_head.weight").unwrap_or(embedding.clone());
        let final_norm = shape.final_norm.then(|| norm("model.norm"));
        Ok(Layout { shape, views, embedding, layers, final_norm, head })
    }

    /// The shape this is the layout of.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Every tensor, in the buffer's order.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Number of weights in the buffer.
    pub fn len(&self) -> usize {
        self.views.last().map_or(0, |v| v.range.end)
    }

    /// Whether there is no weight at all; never, for a shape that passed its check.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Random weights to begin training with.
    ///
    /// Matrices and embedding are normal with standard deviation `1/√(3·in)` (for the embedding, `in` is the width); those that write to the
    /// residual stream are smaller by `√(2·layers)`, so that its size does not grow with depth (Radford et al. 2019). Gains are 1, biases 0.
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, 0);
        let mut weights = vec![0.0; self.len()];
        let depth = (2.0 * self.shape.n_layers as f32).sqrt();
        for view in &self.views {
            let part = &mut weights[view.range.clone()];
            if view.role == Role::Norm {
                part.fill(if view.name.ends_with(".bias") { 0.0 } else { 1.0 });
                continue;
            }
            let residual = view.name.ends_with("o_proj.weight") || view.name.ends_with("down_proj.weight");
            let deviation = 1.0 / (3.0 * view.cols as f32).sqrt() / if residual { depth } else { 1.0 };
            part.iter_mut().for_each(|w| *w = rng.normal() * deviation);
        }
        weights
    }

    /// The flat buffer of a model.
    ///
    /// # Errors
    /// If the model is not one of this layout's shape.
    pub fn weights_of(&self, model: &Model) -> Result<Vec<f32>, Error> {
        model.check()?;
        if model.shape != self.shape {
            return Err(Error::ShapeDiffers { found: Box::new(model.shape), expected: Box::new(self.shape) });
        }
        let mut weights = vec![0.0; self.len()];
        for (view, tensor) in self.views.iter().zip(model.tensors()) {
            weights[view.range.clone()].copy_from_slice(tensor.data);
        }
        Ok(weights)
    }

    /// The model of a flat buffer. Its special tokens and chat template are left to the caller.
    ///
    /// # Errors
    /// If the shape is not one, or a weight is not finite.
    pub fn model(&self, weights: &[f32]) -> Result<Model, Error> {
        let mut model = Model::zeros(self.shape)?;
        for (view, tensor) in self.views.iter().zip(model.tensors_mut()) {
            tensor.data.copy_from_slice(&weights[view.range.clone()]);
        }
        model.check()?;
        Ok(model)
    }
}
