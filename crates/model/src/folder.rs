//! A model's folder: `model.safetensors`, `config.json` and `tokenizer.json`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};

use crate::{Error, Model, Tensor, Tokenizer, config, tensor_specs};

/// The weights.
pub const WEIGHTS: &str = "model.safetensors";
/// The shape and the special tokens.
pub const CONFIG: &str = "config.json";
/// The tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

impl Model {
    /// Reads a model and its tokenizer from a folder. Weights may be f32, f16 or bf16.
    ///
    /// # Errors
    /// If a file is missing or damaged, if the model is one that cannot be run, or if tensors are missing,
    /// too many, of the wrong shape or not finite. The error names the file and the key or tensor.
    pub fn load(dir: &Path) -> Result<(Model, Tokenizer), Error> {
        for file in [CONFIG, TOKENIZER, WEIGHTS] {
            if !dir.join(file).is_file() {
                return Err(Error::NotAModel { dir: dir.into(), missing: file });
            }
        }
        let path = dir.join(CONFIG);
        let config = config::read(&path, &read(&path)?)?;
        let tokenizer = Tokenizer::load(&dir.join(TOKENIZER))?;
        check_vocabulary(&tokenizer, config.shape.vocab, &dir.join(TOKENIZER))?;

        let path = dir.join(WEIGHTS);
        let bytes = read(&path)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|source| Error::Safetensors { path: path.clone(), source })?;
        let mut found: HashMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
        let wrong = |tensor: &str, problem: String| Error::Tensor {
            file: path.display().to_string(),
            tensor: tensor.into(),
            problem,
        };

        // Names and dimensions are checked before anything is allocated that only the configuration speaks
        // of.
        for spec in tensor_specs(&config.shape) {
            let view = found
                .get(&spec.name)
                .ok_or_else(|| wrong(&spec.name, "missing; config.json demands it".into()))?;
            if view.shape() != spec.dims {
                let problem = format!("is {:?}, config.json demands {:?}", view.shape(), spec.dims);
                return Err(wrong(&spec.name, problem));
            }
        }
        let mut model = Model::zeros(config.shape)?;
        for tensor in model.tensors_mut() {
            if let Some(view) = found.remove(&tensor.name) {
                fill(tensor.data, &view).map_err(|problem| wrong(&tensor.name, problem))?;
            }
        }
        let left: BTreeSet<_> =
            found.iter().filter(|(n, v)| !is_redundant(&model, n, v)).map(|(n, _)| n).collect();
        if let Some(name) = left.first() {
            let problem = match name.as_str() {
                "lm_head.weight" => {
                    "differs from the embedding although `tie_word_embeddings` is true in config.json".into()
                }
                _ => format!(
                    "not part of such a model ({} such tensors); what it is for cannot be run",
                    left.len()
                ),
            };
            return Err(wrong(name, problem));
        }
        (model.bos, model.eos, model.chat) = (config.bos, config.eos, config.chat);
        model.check().map_err(|e| match e {
            Error::Tensor { tensor, problem, .. } => wrong(&tensor, problem),
            other => other,
        })?;
        Ok((model, tokenizer))
    }

    /// Writes a model and its tokenizer to a folder, which is made where there is none. Weights are written
    /// as f32.
    ///
    /// Each file is written under another name first and renamed when all three are complete, so that a full
    /// disk leaves an earlier model as it was.
    ///
    /// # Errors
    /// If the model does not pass [`Model::check`], has fewer tokens than the tokenizer, or a file cannot be
    /// written.
    pub fn save(&self, tokenizer: &Tokenizer, dir: &Path) -> Result<(), Error> {
        self.check()?;
        check_vocabulary(tokenizer, self.shape.vocab, &dir.join(TOKENIZER))?;
        let weights = dir.join(WEIGHTS);
        // `transformers` demands to be told the framework whose conventions the tensors follow.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors = self.tensors().map(|t| (t.name.clone(), t));
        let tensors = safetensors::serialize(tensors, Some(metadata))
            .map_err(|source| Error::Safetensors { path: weights.clone(), source })?;

        let config = config::write(self);
        let tokenizer = tokenizer.to_json(self.bos);
        fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.into(), source })?;
        replace_all(&[
            (weights, &tensors),
            (dir.join(CONFIG), config.as_bytes()),
            (dir.join(TOKENIZER), tokenizer.as_bytes()),
        ])
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.data.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.data)
    }
}

/// Converts a tensor of the file, whose number of values is known to be right.
fn fill(out: &mut [f32], view: &TensorView<'_>) -> Result<(), String> {
    fn convert<const N: usize>(out: &mut [f32], bytes: &[u8], value: impl Fn([u8; N]) -> f32) {
        let (values, _) = bytes.as_chunks::<N>();
        out.iter_mut().zip(values).for_each(|(out, bytes)| *out = value(*bytes));
    }
    match view.dtype() {
        Dtype::F32 => convert(out, view.data(), f32::from_le_bytes),
        Dtype::F16 => convert(out, view.data(), |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(out, view.data(), |b| half::bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("is {other:?}; only F32, F16 and BF16 can be read")),
    }
    Ok(())
}

/// Whether a tensor that the shape does not demand says nothing new: the frequencies of RoPE that older files
/// repeat in every layer, or a head that is the embedding once more.
fn is_redundant(model: &Model, name: &str, view: &TensorView<'_>) -> bool {
    if name.ends_with(".rotary_emb.inv_freq") {
        return true;
    }
    let embedding = &model.embedding;
    if name != "lm_head.weight" || view.shape() != [embedding.rows, embedding.cols] {
        return false;
    }
    let mut head = vec![0.0; embedding.data.len()];
    fill(&mut head, view).is_ok() && head == embedding.data
}

/// A model may have more rows in its embedding than there are tokens (some are padded), never fewer.
fn check_vocabulary(tokenizer: &Tokenizer, vocab: u32, path: &Path) -> Result<(), Error> {
    if tokenizer.vocab_size() <= vocab {
        return Ok(());
    }
    let problem = format!(
        "{} tokens, but the model knows {vocab}; they do not belong together",
        tokenizer.vocab_size()
    );
    Err(Error::Tokenizer { file: path.display().to_string(), problem })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.into(), source })
}

/// Writes all files under temporary names, then renames them. What was written is removed when one fails.
fn replace_all(files: &[(PathBuf, &[u8])]) -> Result<(), Error> {
    let temporary = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        PathBuf::from(name)
    };
    let write = |path: &Path, bytes: &[u8]| {
        let mut file = fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    let all = || {
        for (path, bytes) in files {
            write(&temporary(path), bytes).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        for (path, _) in files {
            fs::rename(temporary(path), path).map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        Ok(())
    };
    all().inspect_err(|_| {
        for (path, _) in files {
            // What is not there need not be removed, and the first error is the one to tell.
            let _ = fs::remove_file(temporary(path));
        }
    })
}
