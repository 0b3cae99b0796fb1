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

mod presets;
mod tables;

use std::path::Path;

use pageformer_card::Shape;
use pageformer_model::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::{Error, tokenizer};

use presets::{chat, sketch, stories};
pub use tables::{
    DataKind, DataRecipe, DistillRecipe, MlpRecipe, ModelRecipe, NormRecipe, PruneRecipe, TokenizerKind,
    TokenizerRecipe, TrainRecipe,
};

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
        let shape = self.model.shape(vocab);
        shape.check()?;
        Ok(shape)
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

#[cfg(test)]
mod tests {
    use pageformer_card::Norm;

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
