//! Cards of the Arduino sketch that Pageformer grew from.
//!
//! `index.json` maps each tensor to the list of its page files, `NAME_shape` to `[rows, cols]`, and
//! `NAME.mask` to the file of its mask where it has one. A tensor's pages of 512 bytes, joined, are its `i8`
//! values, row-major `[out, in]`, then one f32 scale, then zeros; `w = q · scale`. A mask has one bit per 4×4
//! block, row-major, least significant bit first, 1 = kept. The norms are files of their own, `decN_ln1.bin`
//! and `decN_ln2.bin`: f32 gains, then biases.
//!
//! The models have LayerNorm (eps 1e-5), GELU, RoPE over adjacent channels (base 10000), keys and values
//! shared by the heads, no final norm, and a tied head. What else the index holds is not known to us and
//! ignored, except the number of positions.

use std::fs;
use std::path::{Component, Path, PathBuf};

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::{Layer, Matrix, Model, NormWeights, Tokenizer};
use serde_json::{Map, Value};

use crate::{Error, llama2c::read, rope};

/// Bytes of a page.
const PAGE: usize = 512;
/// Number of positions where the index names none: the sketch's own.
const DEFAULT_POSITIONS: u32 = 64;

/// Reads a card of the original sketch. The number of heads is not on the card.
///
/// # Errors
/// If a file is missing or has the wrong length, or a tensor has a shape that does not fit the others or the
/// number of heads. The error names the file and the tensor.
pub fn sketch(dir: &Path, heads: u32) -> Result<(Model, Tokenizer), Error> {
    let path = dir.join("index.json");
    let index =
        serde_json::from_slice(&read(&path)?).map_err(|source| Error::Json { path: path.clone(), source })?;
    let card = Card { dir, path, index };
    let shape = card.shape(heads)?;
    let tokenizer = match shape.vocab {
        128 => Tokenizer::ascii(),
        256 => Tokenizer::bytes(),
        other => {
            let problem = format!("has {other} rows; the vocabulary must be ASCII (128) or bytes (256)");
            return Err(card.tensor_error("emb_weight", problem));
        }
    };
    let (d, ff) = (shape.d_model as usize, shape.d_ff as usize);
    let (q, kv) = (shape.q_dim() as usize, shape.kv_dim() as usize);
    let embedding = card.matrix("emb_weight", [shape.vocab as usize, d])?;
    let layers = (0..shape.n_layers)
        .map(|n| {
            let head_dim = shape.head_dim as usize;
            let mut wq = card.matrix(&format!("dec{n}_Wq"), [q, d])?;
            let mut wk = card.matrix(&format!("dec{n}_Wk_shared"), [kv, d])?;
            rope::pairs_to_halves(&mut wq, head_dim);
            rope::pairs_to_halves(&mut wk, head_dim);
            Ok(Layer {
                ln1: card.norm(&format!("dec{n}_ln1"), d)?,
                wq,
                wk,
                wv: card.matrix(&format!("dec{n}_Wv_shared"), [kv, d])?,
                wo: card.matrix(&format!("dec{n}_Wo"), [d, q])?,
                ln2: card.norm(&format!("dec{n}_ln2"), d)?,
                w_gate: None,
                w1: card.matrix(&format!("dec{n}_W1"), [ff, d])?,
                w2: card.matrix(&format!("dec{n}_W2"), [d, ff])?,
            })
        })
        .collect::<Result<_, Error>>()?;
    let model = Model {
        shape,
        embedding,
        layers,
        final_norm: None,
        head: None,
        bos: None,
        eos: Vec::new(),
        chat: None,
    };
    model.check().map_err(|source| Error::Model { path: dir.into(), source })?;
    Ok((model, tokenizer))
}

/// A card's folder and what its index says.
struct Card<'a> {
    dir: &'a Path,
    /// Of the index.
    path: PathBuf,
    index: Map<String, Value>,
}

impl Card<'_> {
    fn tensor_error(&self, tensor: &str, problem: impl Into<String>) -> Error {
        Error::Tensor { path: self.path.clone(), tensor: tensor.into(), problem: problem.into() }
    }

    /// The shape of the model, from the shapes of the embedding and of layer 0.
    fn shape(&self, heads: u32) -> Result<Shape, Error> {
        let [vocab, d_model] = self.dims("emb_weight")?;
        let [q_dim, _] = self.dims("dec0_Wq")?;
        let [kv_dim, _] = self.dims("dec0_Wk_shared")?;
        let [d_ff, _] = self.dims("dec0_W1")?;
        if heads == 0 || !q_dim.is_multiple_of(heads) {
            let problem =
                format!("its {q_dim} rows cannot be shared by {heads} heads; give the right number of heads");
            return Err(self.tensor_error("dec0_Wq", problem));
        }
        let head_dim = q_dim / heads;
        if !kv_dim.is_multiple_of(head_dim) {
            let problem = format!(
                "its {kv_dim} rows are no multiple of a head's {head_dim}; give the right number of heads"
            );
            return Err(self.tensor_error("dec0_Wk_shared", problem));
        }
        let shape = Shape {
            n_layers: self.layers(),
            d_model,
            d_ff,
            vocab,
            max_seq: self.positions()?,
            n_heads: heads,
            n_kv_heads: kv_dim / head_dim,
            head_dim,
            norm: Norm::Layer,
            norm_eps: 1e-5,
            mlp: Mlp::Gelu,
            rope_theta: 10_000.0,
            tied_embeddings: true,
            final_norm: false,
        };
        shape.check().map_err(|source| Error::Shape { path: self.path.clone(), source })?;
        Ok(shape)
    }

    /// One more than the largest N of the keys `decN_…`, so that a gap between layers is a missing tensor and
    /// not the end.
    fn layers(&self) -> u32 {
        let number = |key: &String| key.strip_prefix("dec")?.split_once('_')?.0.parse::<u32>().ok();
        self.index.keys().filter_map(number).max().map_or(0, |n| n.saturating_add(1))
    }

    fn positions(&self) -> Result<u32, Error> {
        let keys = ["max_seq", "seq", "seq_len", "max_seq_len"];
        let Some((key, value)) = keys.iter().find_map(|&k| Some((k, self.index.get(k)?))) else {
            return Ok(DEFAULT_POSITIONS);
        };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| Error::Format {
            path: self.path.clone(),
            problem: format!("`{key}`: {value} is not a number of positions"),
        })
    }

    /// `NAME_shape`
    fn dims(&self, tensor: &str) -> Result<[u32; 2], Error> {
        let key = format!("{tensor}_shape");
        let missing = || self.tensor_error(tensor, format!("`{key}` is missing"));
        let value = self.index.get(&key).ok_or_else(missing)?;
        let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
        match value.as_array().map(|a| a.iter().map(number).collect::<Vec<_>>()).as_deref() {
            Some([Some(rows), Some(cols)]) => Ok([*rows, *cols]),
            _ => Err(self.tensor_error(tensor, format!("`{key}` is {value}, not [rows, cols]"))),
        }
    }

    /// The weights of a tensor, zero where the mask says that they were pruned.
    fn matrix(&self, tensor: &str, expected: [usize; 2]) -> Result<Matrix, Error> {
        let [rows, cols] = self.dims(tensor)?.map(|n| n as usize);
        if [rows, cols] != expected {
            let problem =
                format!("is {rows} x {cols}, the other tensors demand {} x {}", expected[0], expected[1]);
            return Err(self.tensor_error(tensor, problem));
        }
        let Some(value) = self.index.get(tensor) else {
            return Err(self.tensor_error(tensor, "missing"));
        };
        let files = self.files(tensor, value)?;
        let length = rows * cols + 4;
        if files.len() != length.div_ceil(PAGE) {
            let problem = format!(
                "{} pages, {rows} x {cols} values and a scale need {}",
                files.len(),
                length.div_ceil(PAGE)
            );
            return Err(self.tensor_error(tensor, problem));
        }
        let mut bytes = Vec::with_capacity(files.len() * PAGE);
        for file in &files {
            bytes.extend(self.read(tensor, file, PAGE)?);
        }
        let (values, rest) = bytes.split_at(rows * cols);
        let scale = rest.first_chunk().map_or(f32::NAN, |b| f32::from_le_bytes(*b));
        if !scale.is_finite() {
            return Err(self.tensor_error(tensor, format!("its scale is {scale}, not a finite number")));
        }
        let mut data: Vec<f32> = values.iter().map(|&q| f32::from(q as i8) * scale).collect();
        if let Some(value) = self.index.get(&format!("{tensor}.mask")) {
            self.apply_mask(tensor, value, &mut data, [rows, cols])?;
        }
        Ok(Matrix { rows, cols, data })
    }

    fn apply_mask(
        &self,
        tensor: &str,
        value: &Value,
        data: &mut [f32],
        [rows, cols]: [usize; 2],
    ) -> Result<(), Error> {
        let [file] = &self.files(tensor, value)?[..] else {
            return Err(self.tensor_error(tensor, format!("`{tensor}.mask` is {value}, not one file")));
        };
        let blocks_per_row = cols.div_ceil(4);
        let blocks = rows.div_ceil(4) * blocks_per_row;
        let mask = self.read(tensor, file, blocks.div_ceil(8))?;
        for (i, w) in data.iter_mut().enumerate() {
            let block = i / cols / 4 * blocks_per_row + i % cols / 4;
            if mask[block / 8] >> (block % 8) & 1 == 0 {
                *w = 0.0;
            }
        }
        Ok(())
    }

    /// Gains, then biases, in a file of their own.
    fn norm(&self, name: &str, d_model: usize) -> Result<NormWeights, Error> {
        let file = format!("{name}.bin");
        let bytes = self.read(name, &file, 2 * 4 * d_model)?;
        let (values, _) = bytes.as_chunks();
        let mut values = values.iter().map(|b| f32::from_le_bytes(*b));
        let gain = values.by_ref().take(d_model).collect();
        Ok(NormWeights { gain, bias: Some(values.take(d_model).collect()) })
    }

    /// The file names of an entry: a list, or a single one.
    fn files(&self, tensor: &str, value: &Value) -> Result<Vec<String>, Error> {
        let list = match value {
            Value::Array(list) => &list[..],
            single => std::slice::from_ref(single),
        };
        let name = |v: &Value| {
            let name =
                v.as_str().ok_or_else(|| self.tensor_error(tensor, format!("{v} is not a file's name")))?;
            // The card must not reach out of its folder. The sketch's own index may write the card's root as
            // a slash.
            let name = name.strip_prefix('/').unwrap_or(name);
            let mut parts = Path::new(name).components();
            match (parts.next(), parts.next()) {
                (Some(Component::Normal(_)), None) => Ok(name.to_owned()),
                _ => Err(self.tensor_error(tensor, format!("{v} is not the name of a file on the card"))),
            }
        };
        list.iter().map(name).collect()
    }

    /// Reads a file of so many bytes. The sketch may or may not have padded it to whole pages.
    fn read(&self, tensor: &str, file: &str, length: usize) -> Result<Vec<u8>, Error> {
        let path = self.dir.join(file);
        let wrong = |problem: String| Error::Tensor { path: path.clone(), tensor: tensor.into(), problem };
        let io = |e: std::io::Error| wrong(format!("cannot be read: {e}"));
        let fits = |n: u64| n == length as u64 || n == length.next_multiple_of(PAGE) as u64;
        let found = fs::metadata(&path).map_err(io)?.len();
        // Looked at before the file is read, since it could be anything, and after, since it may have changed.
        let bytes = if fits(found) { fs::read(&path).map_err(io)? } else { Vec::new() };
        if !fits(bytes.len() as u64) {
            return Err(wrong(format!("{found} bytes instead of {length}; copy the card again")));
        }
        Ok(bytes)
    }
}
