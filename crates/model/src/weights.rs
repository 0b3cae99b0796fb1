//! The weights of a model in memory: plain f32, in the shapes in which the forward pass uses them.

use pageformer_card::{Mlp, Norm, Shape};

use crate::Error;

/// A weight matrix for `y = W · x`: `rows` outputs, `cols` inputs.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Matrix {
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
    /// The weights, row-major: `data[out * cols + in]`.
    pub data: Vec<f32>, // (rows, cols)
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// The weights of output `row`: (cols).
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }
}

/// The weights of an RMSNorm (a gain) or a LayerNorm (a gain and a bias).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NormWeights {
    /// Factor per channel.
    pub gain: Vec<f32>, // (d_model)
    /// Added per channel, LayerNorm only.
    pub bias: Option<Vec<f32>>, // (d_model)
}

impl NormWeights {
    /// The norm that changes nothing but the scale: gains of one and, for LayerNorm, biases of zero.
    pub fn identity(norm: Norm, d_model: usize) -> Self {
        let bias = match norm {
            Norm::Rms => None,
            Norm::Layer => Some(vec![0.0; d_model]),
        };
        NormWeights { gain: vec![1.0; d_model], bias }
    }
}

/// The weights of one decoder layer.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Layer {
    /// The norm before attention.
    pub ln1: NormWeights,
    /// Queries.
    pub wq: Matrix, // (n_heads · head_dim, d_model)
    /// Keys.
    pub wk: Matrix, // (n_kv_heads · head_dim, d_model)
    /// Values.
    pub wv: Matrix, // (n_kv_heads · head_dim, d_model)
    /// From the heads' outputs back to the residual stream.
    pub wo: Matrix, // (d_model, n_heads · head_dim)
    /// The norm before the MLP.
    pub ln2: NormWeights,
    /// The gate of SwiGLU; none for GELU.
    pub w_gate: Option<Matrix>, // (d_ff, d_model)
    /// Into the MLP's hidden layer.
    pub w1: Matrix, // (d_ff, d_model)
    /// Out of the MLP's hidden layer.
    pub w2: Matrix, // (d_model, d_ff)
}

/// How a model that answers was taught to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The text before the reply, with `{}` where the user's message goes, such as `"Q: {}\nA:"`.
    pub user: String,
    /// The reply ends where this text begins; empty when only an end token ends it.
    pub stop: String,
}

/// A model in memory.
///
/// Row `i` and row `i + head_dim / 2` of each head in `wq` and `wk` are the two coordinates of one rotation
/// (RoPE), as in Hugging Face's Llama tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Every size, and every choice that changes what the forward pass computes.
    pub shape: Shape,
    /// One row per token.
    pub embedding: Matrix, // (vocab, d_model)
    /// The layers, first to last.
    pub layers: Vec<Layer>, // (n_layers)
    /// The norm between the last layer and the head, where the model has one.
    pub final_norm: Option<NormWeights>,
    /// From the residual stream to logits; none when the head is the embedding.
    pub head: Option<Matrix>, // (vocab, d_model)
    /// The token that begins a document, where the model was trained with one.
    pub bos: Option<u32>,
    /// The tokens that end a reply.
    pub eos: Vec<u32>,
    /// How to ask the model, where it was trained to answer.
    pub chat: Option<ChatTemplate>,
}

/// Name and dimensions of a tensor in `model.safetensors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face's name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]` of a matrix, `[d_model]` of a norm's gain or bias.
    pub dims: Vec<usize>,
}

/// A named view of one of a model's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Hugging Face's name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]` of a matrix, `[d_model]` of a norm's gain or bias.
    pub dims: Vec<usize>,
    /// The values, row-major.
    pub data: &'a [f32],
}

/// A named view of one of a model's tensors that may be written to.
#[derive(Debug, PartialEq)]
pub struct TensorMut<'a> {
    /// Hugging Face's name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]` of a matrix, `[d_model]` of a norm's gain or bias.
    pub dims: Vec<usize>,
    /// The values, row-major.
    pub data: &'a mut [f32],
}

/// The tensors that a model of this shape consists of, in the order of [`Model::tensors`].
pub fn tensor_specs(shape: &Shape) -> Vec<TensorSpec> {
    let (d, ff, vocab) = (shape.d_model as usize, shape.d_ff as usize, shape.vocab as usize);
    let (q, kv) = (shape.q_dim() as usize, shape.kv_dim() as usize);
    let mut specs = Vec::new();
    let mut add = |name: String, dims: &[usize]| specs.push(TensorSpec { name, dims: dims.to_vec() });

    add("model.embed_tokens.weight".into(), &[vocab, d]);
    for layer in 0..shape.n_layers {
        let mut add = |part: &str, dims: &[usize]| add(format!("model.layers.{layer}.{part}"), dims);
        add("input_layernorm.weight", &[d]);
        if shape.norm == Norm::Layer {
            add("input_layernorm.bias", &[d]);
        }
        add("self_attn.q_proj.weight", &[q, d]);
        add("self_attn.k_proj.weight", &[kv, d]);
        add("self_attn.v_proj.weight", &[kv, d]);
        add("self_attn.o_proj.weight", &[d, q]);
        add("post_attention_layernorm.weight", &[d]);
        if shape.norm == Norm::Layer {
            add("post_attention_layernorm.bias", &[d]);
        }
        if shape.mlp == Mlp::SwiGlu {
            add("mlp.gate_proj.weight", &[ff, d]);
        }
        add("mlp.up_proj.weight", &[ff, d]);
        add("mlp.down_proj.weight", &[d, ff]);
    }
    if shape.final_norm {
        add("model.norm.weight".into(), &[d]);
        if shape.norm == Norm::Layer {
            add("model.norm.bias".into(), &[d]);
        }
    }
    if !shape.tied_embeddings {
        add("lm_head.weight".into(), &[vocab, d]);
    }
    specs
}

impl Model {
    /// A model of this shape whose matrices are zero and whose norms are the identity: for a trainer or an
    /// importer to fill.
    ///
    /// # Errors
    /// If the shape is not one (see [`Shape::check`]).
    pub fn zeros(shape: Shape) -> Result<Self, Error> {
        shape.check()?;
        let (d, ff, vocab) = (shape.d_model as usize, shape.d_ff as usize, shape.vocab as usize);
        let (q, kv) = (shape.q_dim() as usize, shape.kv_dim() as usize);
        let layer = || Layer {
            ln1: NormWeights::identity(shape.norm, d),
            wq: Matrix::zeros(q, d),
            wk: Matrix::zeros(kv, d),
            wv: Matrix::zeros(kv, d),
            wo: Matrix::zeros(d, q),
            ln2: NormWeights::identity(shape.norm, d),
            w_gate: (shape.mlp == Mlp::SwiGlu).then(|| Matrix::zeros(ff, d)),
            w1: Matrix::zeros(ff, d),
            w2: Matrix::zeros(d, ff),
        };
        Ok(Model {
            embedding: Matrix::zeros(vocab, d),
            layers: (0..shape.n_layers).map(|_| layer()).collect(),
            final_norm: shape.final_norm.then(|| NormWeights::identity(shape.norm, d)),
            head: (!shape.tied_embeddings).then(|| Matrix::zeros(vocab, d)),
            bos: None,
            eos: Vec::new(),
            chat: None,
            shape,
        })
    }

    /// The matrix that turns the residual stream into logits: the head, or the embedding when tied. (vocab,
    /// d_model)
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Every tensor under its name, in the order in which a token meets them.
    ///
    /// The names and dimensions are those that [`Model::shape`] demands; a model that passes [`Model::check`]
    /// has exactly them.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        let specs = tensor_specs(&self.shape).into_iter();
        specs.zip(self.buffers()).map(|(s, data)| Tensor { name: s.name, dims: s.dims, data })
    }

    /// [`Model::tensors`], to write to.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = TensorMut<'_>> {
        let specs = tensor_specs(&self.shape).into_iter();
        specs.zip(self.buffers_mut()).map(|(s, data)| TensorMut { name: s.name, dims: s.dims, data })
    }

    /// Checks that the shape is one, that every tensor has the dimensions it demands and only finite values,
    /// and that `bos` and `eos` are tokens.
    ///
    /// # Errors
    /// Names the key or the tensor.
    pub fn check(&self) -> Result<(), Error> {
        self.shape.check()?;
        let wrong = |tensor: &str, problem: String| {
            Err(Error::Tensor { tensor: tensor.into(), file: "the model".into(), problem })
        };
        if self.layers.len() != self.shape.n_layers as usize {
            let problem = format!("{} layers, the shape says {}", self.layers.len(), self.shape.n_layers);
            return wrong("model.layers", problem);
        }
        let specs = tensor_specs(&self.shape);
        let (buffers, dims) = (self.buffers(), self.dims());
        if buffers.len() != specs.len() {
            let problem = format!(
                "{} tensors where the shape demands {}: a bias, gate, final norm or head too many or too few",
                buffers.len(),
                specs.len()
            );
            return wrong("model", problem);
        }
        for ((spec, data), dims) in specs.iter().zip(buffers).zip(dims) {
            if dims != spec.dims || data.len() != spec.dims.iter().product::<usize>() {
                let problem =
                    format!("{dims:?} with {} values, the shape demands {:?}", data.len(), spec.dims);
                return wrong(&spec.name, problem);
            }
            if let Some(at) = data.iter().position(|v| !v.is_finite()) {
                return wrong(&spec.name, format!("value {at} is {}, not a finite number", data[at]));
            }
        }
        for (key, id) in self.bos.iter().map(|&b| ("bos", b)).chain(self.eos.iter().map(|&e| ("eos", e))) {
            if id >= self.shape.vocab {
                return Err(Error::TokenOutOfRange { what: key.into(), id, vocab: self.shape.vocab });
            }
        }
        Ok(())
    }

    /// The values of every tensor, in the order of [`tensor_specs`].
    fn buffers(&self) -> Vec<&[f32]> {
        fn norm<'a>(out: &mut Vec<&'a [f32]>, norm: &'a NormWeights) {
            out.push(&norm.gain);
            out.extend(norm.bias.as_deref());
        }
        let mut out: Vec<&[f32]> = vec![&self.embedding.data];
        for l in &self.layers {
            norm(&mut out, &l.ln1);
            out.extend([&l.wq, &l.wk, &l.wv, &l.wo].map(|m| &m.data[..]));
            norm(&mut out, &l.ln2);
            out.extend(l.w_gate.as_ref().map(|m| &m.data[..]));
            out.extend([&l.w1, &l.w2].map(|m| &m.data[..]));
        }
        if let Some(n) = &self.final_norm {
            norm(&mut out, n);
        }
        out.extend(self.head.as_ref().map(|m| &m.data[..]));
        out
    }

    /// [`Model::buffers`], to write to.
    fn buffers_mut(&mut self) -> Vec<&mut [f32]> {
        fn norm<'a>(out: &mut Vec<&'a mut [f32]>, norm: &'a mut NormWeights) {
            out.push(&mut norm.gain);
            out.extend(norm.bias.as_deref_mut());
        }
        let mut out: Vec<&mut [f32]> = vec![&mut self.embedding.data];
        for l in &mut self.layers {
            norm(&mut out, &mut l.ln1);
            out.extend([&mut l.wq, &mut l.wk, &mut l.wv, &mut l.wo].map(|m| &mut m.data[..]));
            norm(&mut out, &mut l.ln2);
            out.extend(l.w_gate.as_mut().map(|m| &mut m.data[..]));
            out.extend([&mut l.w1, &mut l.w2].map(|m| &mut m.data[..]));
        }
        if let Some(n) = &mut self.final_norm {
            norm(&mut out, n);
        }
        out.extend(self.head.as_mut().map(|m| &mut m.data[..]));
        out
    }

    /// The dimensions that every tensor has (not those that it should have), in the order of
    /// [`tensor_specs`].
    fn dims(&self) -> Vec<Vec<usize>> {
        fn norm(out: &mut Vec<Vec<usize>>, norm: &NormWeights) {
            out.push(vec![norm.gain.len()]);
            out.extend(norm.bias.as_ref().map(|b| vec![b.len()]));
        }
        let matrix = |m: &Matrix| vec![m.rows, m.cols];
        let mut out = vec![matrix(&self.embedding)];
        for l in &self.layers {
            norm(&mut out, &l.ln1);
            out.extend([&l.wq, &l.wk, &l.wv, &l.wo].map(matrix));
            norm(&mut out, &l.ln2);
            out.extend(l.w_gate.as_ref().map(matrix));
            out.extend([&l.w1, &l.w2].map(matrix));
        }
        if let Some(n) = &self.final_norm {
            norm(&mut out, n);
        }
        out.extend(self.head.as_ref().map(matrix));
        out
    }
}
