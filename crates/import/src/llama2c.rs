//! Checkpoints of llama2.c.
//!
//! Version 0 has no magic number: seven `i32` (dim, hidden dim, layers, heads, KV heads, vocabulary,
//! positions; a negative vocabulary means that the head is separate) and then f32 tensors, each for all
//! layers: embedding, attention norms, Wq, Wk, Wv, Wo, MLP norms, gate, down, up, final norm, two tables of
//! RoPE that nobody needs, and the head if separate.
//!
//! Version 2 (Q8_0) begins with a magic number, the version, the seven numbers, a byte that says whether the
//! head is the embedding, and the group size, in 256 bytes. Then the norms in f32 (attention, MLP, final),
//! then the matrices in the order above, each one of each layer as its `i8` values followed by an f32 scale
//! per group of values.
//!
//! All little-endian.

use std::fs;
use std::path::Path;

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::{Layer, Matrix, Model, Tokenizer};

use crate::{Error, llama2c_tokenizer, rope};

/// The `u32` that versions from 1 on begin with.
const MAGIC: u32 = 0x616b_3432;
/// Bytes before the tensors in version 2.
const V2_HEADER: u64 = 256;
/// Bytes before the tensors in version 0.
const V0_HEADER: u64 = 28;

/// Reads a llama2.c checkpoint (version 0, or version 2 with Q8_0 weights) and its tokenizer.
///
/// The result is a Llama: RMSNorm with eps 1e-5, SwiGLU, RoPE with base 10000, a final norm. Generation ends
/// at BOS and at EOS, as in llama2.c.
///
/// # Errors
/// If a file cannot be read, is not what its header says, has another length than its header demands, or the
/// two files do not belong together.
pub fn llama2c(checkpoint: &Path, tokenizer: &Path) -> Result<(Model, Tokenizer), Error> {
    let header = Header::read(checkpoint)?;
    let wrong = |source| Error::Model { path: checkpoint.into(), source };
    let tokenizer = llama2c_tokenizer::read(tokenizer, header.shape.vocab)?;

    let bytes = read(checkpoint)?;
    let mut source = Source { path: checkpoint, bytes: &bytes[..], group: header.group };
    source.take(header.length)?;
    let mut model = Model::zeros(header.shape).map_err(wrong)?;
    match header.group {
        None => fill_v0(&mut model, &mut source)?,
        Some(_) => fill_v2(&mut model, &mut source)?,
    }
    for layer in &mut model.layers {
        rope::pairs_to_halves(&mut layer.wq, header.shape.head_dim as usize);
        rope::pairs_to_halves(&mut layer.wk, header.shape.head_dim as usize);
    }
    model.bos = Some(llama2c_tokenizer::BOS);
    model.eos = vec![llama2c_tokenizer::BOS, llama2c_tokenizer::EOS];
    model.check().map_err(wrong)?;
    Ok((model, tokenizer))
}

/// What a header says, after it was found to agree with the file's length.
struct Header {
    shape: Shape,
    /// Values per scale; none when the weights are f32.
    group: Option<usize>,
    /// Number of bytes of the header.
    length: usize,
}

impl Header {
    fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.into(), source };
        let file = fs::File::open(path).map_err(io)?;
        let file_length = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(&file, V2_HEADER), &mut head).map_err(io)?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let int = |at: usize| {
            let bytes = head.get(at..).and_then(|rest| rest.first_chunk());
            let bytes =
                bytes.ok_or_else(|| wrong(format!("only {file_length} bytes, too short for a header")))?;
            Ok(i32::from_le_bytes(*bytes))
        };

        let header = if int(0)? as u32 == MAGIC {
            match int(4)? {
                2 => {}
                version => {
                    return Err(wrong(format!(
                        "a llama2.c checkpoint of version {version}; only 0 and 2 can be read, export it \
                         again with `--version 0`"
                    )));
                }
            }
            let numbers = numbers(|i| int(8 + 4 * i))?;
            let group = int(37)?;
            let shared = match head[36] {
                0 => false,
                1 => true,
                other => return Err(wrong(format!("the byte for a shared head is {other}, not 0 or 1"))),
            };
            let group = usize::try_from(group).ok().filter(|&g| g > 0);
            let group = group.ok_or_else(|| wrong("the group size is not positive".into()))?;
            let shape = shape(path, numbers, shared)?;
            Header { shape, group: Some(group), length: V2_HEADER as usize }
        } else {
            let mut numbers = numbers(|i| int(4 * i))?;
            let shared = numbers[5] > 0;
            numbers[5] = i64::from(int(20)?).abs();
            Header { shape: shape(path, numbers, shared)?, group: None, length: V0_HEADER as usize }
        };
        let expected = header.file_length().map_err(wrong)?;
        if expected != file_length {
            return Err(wrong(format!(
                "{file_length} bytes, but a llama2.c checkpoint with this header has {expected}; it is \
                 truncated or something else"
            )));
        }
        Ok(header)
    }

    /// The number of bytes that a file with this header has. Cannot overflow for a shape that was checked.
    fn file_length(&self) -> Result<u64, String> {
        let s = &self.shape;
        let norms = (2 * u64::from(s.n_layers) + 1) * u64::from(s.d_model);
        let Some(group) = self.group else {
            let rope_tables = u64::from(s.max_seq) * u64::from(s.head_dim);
            return Ok(V0_HEADER + 4 * (norms + s.parameters() + rope_tables));
        };
        // No scale may span two tensors.
        let (d, ff) = (s.d_model as usize, s.d_ff as usize);
        let (q, kv, vocab) = (s.q_dim() as usize, s.kv_dim() as usize, s.vocab as usize);
        if [vocab * d, q * d, kv * d, ff * d].iter().any(|n| !n.is_multiple_of(group)) {
            return Err(format!("groups of {group} do not divide every tensor"));
        }
        Ok(V2_HEADER + 4 * norms + s.parameters() + 4 * (s.parameters() / group as u64))
    }
}

fn numbers(int: impl Fn(usize) -> Result<i32, Error>) -> Result<[i64; 7], Error> {
    let mut numbers = [0; 7];
    for (i, number) in numbers.iter_mut().enumerate() {
        *number = i64::from(int(i)?);
    }
    Ok(numbers)
}

/// The shape that the seven numbers of a header make. Negative ones become 0, which no number of a shape may
/// be.
fn shape(path: &Path, numbers: [i64; 7], shared: bool) -> Result<Shape, Error> {
    let [d_model, d_ff, n_layers, n_heads, n_kv_heads, vocab, max_seq] =
        numbers.map(|n| u32::try_from(n).unwrap_or(0));
    let wrong = |problem: String| Error::Format { path: path.into(), problem };
    if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
        return Err(wrong(format!(
            "{n_heads} heads of a width of {d_model}; this is no llama2.c checkpoint"
        )));
    }
    let shape = Shape {
        n_layers,
        d_model,
        d_ff,
        vocab,
        max_seq,
        n_heads,
        n_kv_heads,
        head_dim: d_model / n_heads,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: Mlp::SwiGlu,
        rope_theta: 10_000.0,
        tied_embeddings: shared,
        final_norm: true,
    };
    shape.check().map_err(|source| Error::Shape { path: path.into(), source })?;
    Ok(shape)
}

/// What of the file has not been read yet.
struct Source<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    group: Option<usize>,
}

impl<'a> Source<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        // The file may have become shorter since its length was checked.
        let problem = || Error::Format { path: self.path.into(), problem: "ends too soon".into() };
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or_else(problem)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn floats(&mut self, out: &mut [f32]) -> Result<(), Error> {
        let (values, _) = self.take(4 * out.len())?.as_chunks();
        out.iter_mut().zip(values).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
        Ok(())
    }

    /// A matrix: f32, or `i8` values followed by a scale per group.
    fn matrix(&mut self, out: &mut Matrix) -> Result<(), Error> {
        let Some(group) = self.group else { return self.floats(&mut out.data) };
        let values = self.take(out.data.len())?;
        let mut scales = vec![0.0; out.data.len() / group];
        self.floats(&mut scales)?;
        let groups = out.data.chunks_exact_mut(group).zip(values.chunks_exact(group));
        for ((out, values), scale) in groups.zip(scales) {
            out.iter_mut().zip(values).for_each(|(out, &q)| *out = f32::from(q as i8) * scale);
        }
        Ok(())
    }
}

fn fill_v0(model: &mut Model, source: &mut Source<'_>) -> Result<(), Error> {
    source.matrix(&mut model.embedding)?;
    each(model, |l| source.floats(&mut l.ln1.gain))?;
    each(model, |l| source.matrix(&mut l.wq))?;
    each(model, |l| source.matrix(&mut l.wk))?;
    each(model, |l| source.matrix(&mut l.wv))?;
    each(model, |l| source.matrix(&mut l.wo))?;
    each(model, |l| source.floats(&mut l.ln2.gain))?;
    each(model, |l| l.w_gate.as_mut().map_or(Ok(()), |w| source.matrix(w)))?;
    each(model, |l| source.matrix(&mut l.w2))?;
    each(model, |l| source.matrix(&mut l.w1))?;
    model.final_norm.as_mut().map_or(Ok(()), |n| source.floats(&mut n.gain))?;
    source.take(4 * model.shape.max_seq as usize * model.shape.head_dim as usize)?; // RoPE's tables
    model.head.as_mut().map_or(Ok(()), |head| source.matrix(head))
}

fn fill_v2(model: &mut Model, source: &mut Source<'_>) -> Result<(), Error> {
    each(model, |l| source.floats(&mut l.ln1.gain))?;
    each(model, |l| source.floats(&mut l.ln2.gain))?;
    model.final_norm.as_mut().map_or(Ok(()), |n| source.floats(&mut n.gain))?;
    source.matrix(&mut model.embedding)?;
    each(model, |l| source.matrix(&mut l.wq))?;
    each(model, |l| source.matrix(&mut l.wk))?;
    each(model, |l| source.matrix(&mut l.wv))?;
    each(model, |l| source.matrix(&mut l.wo))?;
    each(model, |l| l.w_gate.as_mut().map_or(Ok(()), |w| source.matrix(w)))?;
    each(model, |l| source.matrix(&mut l.w2))?;
    each(model, |l| source.matrix(&mut l.w1))?;
    model.head.as_mut().map_or(Ok(()), |head| source.matrix(head))
}

fn each(model: &mut Model, fill: impl FnMut(&mut Layer) -> Result<(), Error>) -> Result<(), Error> {
    model.layers.iter_mut().try_for_each(fill)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.into(), source })
}
