//! A recipe: every option of a run, as TOML.
//!
//! ```
//! let recipe = pageformer_train::Recipe::parse(
//!     "recipe.toml",
//!     r#"
//!     preset = "sketch"
//!     [train]
//!     steps = 500
//!     "#,
//! )?;
//! assert_eq!((recipe.train.steps, recipe.model.d_model), (500, 64));
//! # Ok::<(), pageformer_train::Error>(())
//! ```

use std::path::{Path, PathBuf};

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::{ChatTemplate, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::data::{HoldOut, Packing};
use crate::prune::{Method, Scope};
use crate::{AdamW, Distillation, Error, tokenizer};

/// The names of the presets.
pub const PRESETS: [&str; 3] = ["sketch", "chat", "stories"];

/// Every option of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The preset that the other tables change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The shape.
    pub model: ModelRecipe,
    /// The tokenizer.
    pub tokenizer: TokenizerRecipe,
    /// What is trained on.
    pub data: DataRecipe,
    /// How.
    pub train: TrainRecipe,
    /// Pruning during training; none without this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneRecipe>,
    /// Learning from another model's predictions; none without this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillRecipe>,
}

/// The shape of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Layers.
    pub n_layers: u32,
    /// Width.
    pub d_model: u32,
    /// Width of the MLP.
    pub d_ff: u32,
    /// Positions.
    pub max_seq: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Channels of a head; `d_model / n_heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<u32>,
    /// Kind of norm.
    pub norm: NormRecipe,
    /// Kind of MLP.
    pub mlp: MlpRecipe,
    /// Added under the norm's root.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the head is the embedding.
    pub tied_embeddings: bool,
    /// Whether a norm stands before the head.
    pub final_norm: bool,
}

/// Kind of norm; see [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormRecipe {
    /// [`Norm::Rms`].
    RmsNorm,
    /// [`Norm::Layer`].
    LayerNorm,
}

/// Kind of MLP; see [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpRecipe {
    /// [`Mlp::Gelu`].
    Gelu,
    /// [`Mlp::SwiGlu`].
    SwiGlu,
}

/// The tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    /// Its kind.
    pub kind: TokenizerKind,
    /// Size of a trained vocabulary; the other kinds have theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
}

/// Kind of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// 128 tokens.
    Ascii,
    /// 256 tokens.
    Bytes,
    /// Trained on the data.
    Bpe,
}

/// What is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// The files; relative paths are relative to the recipe.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// What they hold.
    pub kind: DataKind,
    /// Between documents of text.
    pub separator: String,
    /// Whether documents are joined and cut into sequences of full length, or each cut on its own.
    pub join: bool,
    /// Tokens of a sequence; the model's positions when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Number of documents (1 or more: the last ones) or part of them (below 1, evenly spread) that are not trained on.
    pub hold_out: f64,
    /// Chat template: what stands before a reply, `{}` for the user's message.
    pub user: String,
    /// Chat template: what ends a reply.
    pub stop: String,
}

/// What data files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Documents.
    Text,
    /// Questions and answers.
    Chat,
}

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Tokens of a step, at least (whole sequences are taken until there are as many).
    pub batch_tokens: usize,
    /// Largest learning rate.
    pub lr: f32,
    /// Learning rate of the last step.
    pub final_lr: f32,
    /// Steps until the learning rate is the largest.
    pub warmup: usize,
    /// See [`AdamW`].
    pub weight_decay: f32,
    /// See [`AdamW`].
    pub beta1: f32,
    /// See [`AdamW`].
    pub beta2: f32,
    /// Largest norm of the gradient; larger ones are scaled down to it. 0 for none.
    pub clip: f32,
    /// Part of the values that are dropped from the embedding and from what each attention and MLP adds.
    pub dropout: f32,
    /// Part of the tokens that do not count, such as those of questions, that is left out, others each time: the model learns not to
    /// hang on single words.
    #[serde(default)]
    pub holes: f32,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; the result does not depend on it.
    pub threads: usize,
    /// Whether the forward pass simulates the engine's int8 arithmetic.
    pub int8: bool,
    /// Steps between measurements of the held-out loss; 0 for only one at the end.
    pub validate_every: usize,
    /// Steps between checkpoints; 0 for only one at the end.
    pub checkpoint_every: usize,
}

/// Pruning during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRecipe {
    /// Part of the cells of all matrices, the embedding included, that stays. The embedding is never pruned.
    pub density: f64,
    /// Rows and columns of a block that is kept or pruned as a whole: multiples of 4.
    #[serde(default = "four_by_four")]
    pub block: [usize; 2],
    /// What makes a block worth keeping.
    #[serde(default)]
    pub method: Method,
    /// Whether blocks compete with all others or with those of their matrix.
    #[serde(default)]
    pub scope: Scope,
    /// Part of the run at which pruning begins.
    #[serde(default)]
    pub begin: f64,
    /// Part of the run at which the density is reached and the blocks are final.
    #[serde(default = "default_end")]
    pub end: f64,
    /// Steps between choices.
    #[serde(default = "default_every")]
    pub every: usize,
    /// Whether pruned weights keep learning until the blocks are final (as if they were there), so that blocks can come back.
    #[serde(default = "yes")]
    pub regrow: bool,
}

fn four_by_four() -> [usize; 2] {
    [4, 4]
}

fn yes() -> bool {
    true
}

fn default_end() -> f64 {
    0.6
}

fn default_every() -> usize {
    10
}

/// Learning from another model's predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillRecipe {
    /// See [`Distillation`].
    pub weight: f32,
    /// See [`Distillation`].
    pub temperature: f32,
}

impl Recipe {
    /// A preset.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let mut recipe = match name {
            "sketch" => sketch(),
            "chat" => chat(),
            "stories" => stories(),
            _ => {
                let problem = format!("`{name}` is not a preset; there are {}", PRESETS.join(", "));
                return Err(wrong("recipe", "preset", problem));
            }
        };
        recipe.preset = Some(name.into());
        Ok(recipe)
    }

    /// Reads a recipe file.
    ///
    /// # Errors
    /// As [`Recipe::parse`], or if it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let mut recipe = Self::parse(&path.display().to_string(), &text)?;
        if let Some(dir) = path.parent() {
            recipe.data.files.iter_mut().for_each(|file| *file = dir.join(&file));
        }
        Ok(recipe)
    }

    /// The recipe of a TOML text: its preset (`stories` when it names none), changed by its other keys. `file` is for errors.
    ///
    /// # Errors
    /// If the text is not TOML, has an unknown key, or a value that cannot be; the error names the key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let toml = |problem: String| Error::Toml { file: file.into(), problem };
        let changes: toml::Table = text.parse().map_err(|e: toml::de::Error| toml(e.to_string()))?;
        let preset = match changes.get("preset") {
            None => "stories",
            Some(toml::Value::String(name)) => name,
            Some(_) => return Err(wrong(file, "preset", "must be a name in quotes".into())),
        };
        let base = toml::Table::try_from(Self::preset(preset)?).map_err(|e| toml(e.to_string()))?;
        let merged = merge(base, changes);
        let recipe: Recipe = merged.try_into().map_err(|e: toml::de::Error| toml(e.to_string()))?;
        recipe.check(file)?;
        Ok(recipe)
    }

    /// The recipe as TOML, complete, so that it does not change when a preset does.
    ///
    /// # Errors
    /// If a path in it is not UTF-8.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string_pretty(self)
            .map_err(|e| Error::Toml { file: "recipe".into(), problem: e.to_string() })
    }

    /// Checks every number that has bounds.
    ///
    /// # Errors
    /// Names the first key whose value cannot be. `file` is for errors.
    pub fn check(&self, file: &str) -> Result<(), Error> {
        let t = &self.train;
        let mut checks = vec![
            ("train.steps", t.steps > 0, "at least 1"),
            ("train.batch_tokens", t.batch_tokens > 0, "at least 1"),
            ("train.lr", t.lr > 0.0 && t.lr.is_finite(), "more than 0"),
            ("train.final_lr", (0.0..=t.lr).contains(&t.final_lr), "0 to `train.lr`"),
            ("train.weight_decay", t.weight_decay >= 0.0 && t.weight_decay.is_finite(), "0 or more"),
            ("train.beta1", (0.0..1.0).contains(&t.beta1), "0 or more and less than 1"),
            ("train.beta2", (0.0..1.0).contains(&t.beta2), "0 or more and less than 1"),
            ("train.clip", t.clip >= 0.0, "0 or more"),
            ("train.dropout", (0.0..1.0).contains(&t.dropout), "0 or more and less than 1"),
            ("train.holes", (0.0..1.0).contains(&t.holes), "0 or more and less than 1"),
            ("train.threads", t.threads > 0, "at least 1"),
            ("data.hold_out", self.data.hold_out >= 0.0, "0 or more"),
            ("data.seq_len", self.data.seq_len.is_none_or(|n| n > 1), "at least 2"),
            (
                "data.seq_len",
                self.data.seq_len.is_none_or(|n| n <= self.model.max_seq as usize),
                "at most `model.max_seq`",
            ),
            (
                "data.user",
                self.data.user.matches("{}").count() == 1,
                "a text with one `{}`, where the message goes",
            ),
        ];
        if let Some(p) = &self.prune {
            let block = p.block.iter().all(|n| *n > 0 && n.is_multiple_of(4));
            checks.extend([
                ("prune.density", p.density > 0.0 && p.density <= 1.0, "more than 0 and at most 1"),
                ("prune.block", block, "two multiples of 4"),
                ("prune.begin", (0.0..=1.0).contains(&p.begin), "0 to 1"),
                ("prune.end", (p.begin..=1.0).contains(&p.end), "`prune.begin` to 1"),
                ("prune.every", p.every > 0, "at least 1"),
            ]);
        }
        if let Some(d) = &self.distill {
            checks.extend([
                ("distill.weight", (0.0..=1.0).contains(&d.weight), "0 to 1"),
                ("distill.temperature", d.temperature > 0.0 && d.temperature.is_finite(), "more than 0"),
            ]);
        }
        match checks.iter().find(|(_, good, _)| !good) {
            Some((key, _, must)) => Err(wrong(file, key, format!("must be {must}"))),
            None => Ok(()),
        }
    }

    /// The tokenizer, trained on `texts` where its kind asks for it.
    ///
    /// # Errors
    /// If `tokenizer.vocab` cannot be.
    pub fn tokenizer(&self, texts: &[impl AsRef<str>]) -> Result<Tokenizer, Error> {
        match self.tokenizer.kind {
            TokenizerKind::Ascii => Ok(Tokenizer::ascii()),
            TokenizerKind::Bytes => Ok(Tokenizer::bytes()),
            TokenizerKind::Bpe => tokenizer::train_bpe(texts, self.tokenizer.vocab.unwrap_or(512)),
        }
    }

    /// The shape of the model with a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// If its numbers do not fit each other.
    pub fn shape(&self, vocab: u32) -> Result<Shape, Error> {
        let m = &self.model;
        let shape = Shape {
            n_layers: m.n_layers,
            d_model: m.d_model,
            d_ff: m.d_ff,
            vocab,
            max_seq: m.max_seq,
            n_heads: m.n_heads,
            n_kv_heads: m.n_kv_heads,
            head_dim: m.head_dim.unwrap_or(m.d_model / m.n_heads.max(1)),
            norm: match m.norm {
                NormRecipe::RmsNorm => Norm::Rms,
                NormRecipe::LayerNorm => Norm::Layer,
            },
            norm_eps: m.eps,
            mlp: match m.mlp {
                MlpRecipe::Gelu => Mlp::Gelu,
                MlpRecipe::SwiGlu => Mlp::SwiGlu,
            },
            rope_theta: m.rope_theta,
            tied_embeddings: m.tied_embeddings,
            final_norm: m.final_norm,
        };
        shape.check()?;
        Ok(shape)
    }
}

impl DataRecipe {
    /// What is held out.
    pub fn hold_out(&self) -> HoldOut {
        match self.hold_out < 1.0 {
            true => HoldOut::Fraction(self.hold_out),
            false => HoldOut::Last(self.hold_out as usize),
        }
    }

    /// How documents become sequences.
    pub fn packing(&self) -> Packing {
        if self.join { Packing::Join } else { Packing::Cut }
    }

    /// The chat template, of chats.
    pub fn chat(&self) -> Option<ChatTemplate> {
        let template = || ChatTemplate { user: self.user.clone(), stop: self.stop.clone() };
        (self.kind == DataKind::Chat).then(template)
    }
}

impl TrainRecipe {
    /// The optimizer.
    pub fn adamw(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, epsilon: 1e-8, weight_decay: self.weight_decay }
    }

    /// Learning rate of a step, from 0: a linear warm-up, then half a cosine down to the last.
    pub fn learning_rate(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.lr * (step + 1) as f32 / self.warmup as f32;
        }
        let part = (step - self.warmup) as f64 / (self.steps.saturating_sub(self.warmup + 1)).max(1) as f64;
        let cosine = 0.5 + 0.5 * libm::cos(std::f64::consts::PI * part.min(1.0));
        self.final_lr + (self.lr - self.final_lr) * cosine as f32
    }
}

impl PruneRecipe {
    /// Density at a step of a run of `steps`, and whether the blocks are final: 1 until `begin`, then the cubic curve of Zhu & Gupta (2017).
    pub fn schedule(&self, step: usize, steps: usize) -> (f64, bool) {
        let (begin, end) = (self.begin * steps as f64, self.end * steps as f64);
        if step as f64 >= end {
            return (self.density, true);
        }
        let left = 1.0 - (step as f64 - begin).max(0.0) / (end - begin);
        (self.density + (1.0 - self.density) * left.powi(3), false)
    }
}

impl From<&DistillRecipe> for Distillation {
    fn from(recipe: &DistillRecipe) -> Self {
        Distillation { weight: recipe.weight, temperature: recipe.temperature }
    }
}

fn wrong(file: &str, key: &str, problem: String) -> Error {
    Error::Recipe { file: file.into(), key: key.into(), problem }
}

/// `base` with the values of `changes`, table by table.
fn merge(mut base: toml::Table, changes: toml::Table) -> toml::Table {
    for (key, value) in changes {
        let value = match (base.remove(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(changes)) => {
                toml::Value::Table(merge(base, changes))
            }
            (_, value) => value,
        };
        base.insert(key, value);
    }
    base
}

fn stories() -> Recipe {
    Recipe {
        preset: None,
        model: ModelRecipe {
            n_layers: 5,
            d_model: 64,
            d_ff: 172,
            max_seq: 512,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: None,
            norm: NormRecipe::RmsNorm,
            mlp: MlpRecipe::SwiGlu,
            eps: 1e-5,
            rope_theta: 10_000.0,
            tied_embeddings: true,
            final_norm: true,
        },
        tokenizer: TokenizerRecipe { kind: TokenizerKind::Bpe, vocab: Some(512) },
        data: DataRecipe {
            files: vec![],
            kind: DataKind::Text,
            separator: "<|endoftext|>".into(),
            join: false,
            seq_len: None,
            hold_out: 0.05,
            user: "{}\n".into(),
            stop: "\n".into(),
        },
        train: TrainRecipe {
            steps: 4000,
            batch_tokens: 4096,
            lr: 4e-3,
            final_lr: 4e-4,
            warmup: 100,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            dropout: 0.0,
            holes: 0.0,
            seed: 1,
            threads: 2,
            int8: false,
            validate_every: 250,
            checkpoint_every: 250,
        },
        prune: None,
        distill: None,
    }
}

fn chat() -> Recipe {
    let base = stories();
    Recipe {
        model: ModelRecipe {
            n_layers: 4,
            d_model: 96,
            d_ff: 256,
            max_seq: 128,
            n_heads: 6,
            n_kv_heads: 2,
            ..base.model
        },
        data: DataRecipe { kind: DataKind::Chat, separator: String::new(), ..base.data },
        train: TrainRecipe { steps: 2000, dropout: 0.1, ..base.train },
        ..base
    }
}

/// The shape of the Arduino sketch that this project grew from.
fn sketch() -> Recipe {
    let base = stories();
    Recipe {
        model: ModelRecipe {
            n_layers: 2,
            d_model: 64,
            d_ff: 256,
            max_seq: 64,
            n_heads: 4,
            n_kv_heads: 1,
            norm: NormRecipe::LayerNorm,
            mlp: MlpRecipe::Gelu,
            final_norm: false,
            ..base.model
        },
        tokenizer: TokenizerRecipe { kind: TokenizerKind::Ascii, vocab: None },
        data: DataRecipe { separator: String::new(), join: true, ..base.data },
        train: TrainRecipe { steps: 3000, ..base.train },
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Recipe::parse("r.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn presets_are_complete_and_survive_toml() {
        for name in PRESETS {
            let recipe = Recipe::preset(name).unwrap();
            recipe.check(name).unwrap();
            recipe.shape(512).unwrap();
            assert_eq!(Recipe::parse("r", &recipe.to_toml().unwrap()).unwrap(), recipe);
        }
        let sketch = Recipe::preset("sketch").unwrap().shape(128).unwrap();
        assert_eq!((sketch.n_kv_heads, sketch.head_dim, sketch.norm), (1, 16, Norm::Layer));
        assert_eq!(sketch.parameters(), 2 * (2 * 64 * 64 + 2 * 64 * 16 + 2 * 64 * 256) + 128 * 64);
        assert!(Recipe::preset("x").unwrap_err().to_string().contains("sketch, chat, stories"));
    }

    #[test]
    fn tables_change_single_keys() {
        let r =
            Recipe::parse("r", "preset = \"chat\"\n[train]\nlr = 0.001\n[prune]\ndensity = 0.5\n").unwrap();
        let chat = Recipe::preset("chat").unwrap();
        assert_eq!((r.train.lr, r.train.steps, r.model), (0.001, chat.train.steps, chat.model));
        assert_eq!(r.prune.unwrap().block, [4, 4]);
    }

    #[test]
    fn errors_name_the_key() {
        for (text, key) in [
            ("[train]\nstepps = 3", "stepps"),
            ("[trian]\nsteps = 3", "trian"),
            ("[train]\nsteps = 0", "`train.steps`: must be at least 1"),
            ("[train]\nsteps = \"many\"", "steps"),
            ("[train]\nlr = 0.1\nfinal_lr = 0.2", "`train.final_lr`"),
            ("[prune]\ndensity = 1.5", "`prune.density`"),
            ("[prune]\ndensity = 0.5\nblock = [4, 6]", "`prune.block`"),
            ("[data]\nuser = \"Q\"", "`data.user`"),
            ("preset = \"big\"", "big"),
            ("[train", "r.toml"),
        ] {
            let error = error(text);
            assert!(error.contains(key), "{text:?}: {error}");
        }
    }

    #[test]
    fn density_falls_as_a_cube() {
        let r =
            Recipe::parse("r", "[prune]\ndensity = 0.5\nbegin = 0.1\nend = 0.6\n").unwrap().prune.unwrap();
        assert_eq!(r.schedule(100, 1000), (1.0, false));
        let (half, _) = r.schedule(350, 1000);
        assert!((half - (0.5 + 0.5 * 0.125)).abs() < 1e-9);
        assert_eq!((r.schedule(600, 1000), r.schedule(999, 1000)), ((0.5, true), (0.5, true)));
    }

    #[test]
    fn learning_rate_rises_and_falls() {
        let train = TrainRecipe { steps: 11, warmup: 2, lr: 1.0, final_lr: 0.1, ..stories().train };
        let rates: Vec<f32> = (0..11).map(|s| train.learning_rate(s)).collect();
        assert_eq!((rates[0], rates[1], rates[2]), (0.5, 1.0, 1.0));
        assert!((rates[6] - 0.55).abs() < 1e-6 && (rates[10] - 0.1).abs() < 1e-6);
        assert!(rates[2..].windows(2).all(|r| r[1] < r[0]));
    }
}
