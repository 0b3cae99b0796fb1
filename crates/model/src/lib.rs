//! A model on the PC: a folder with its weights, configuration and tokenizer, and the forward pass in f32
//! that every other way to run it is measured against.
//!
//! | file of the folder | read and written by |
//! |---|---|
//! | `model.safetensors` | [`Model::load`], [`Model::save`]: weights under Hugging Face's names, f32 |
//! | `config.json` | the same: [`pageformer_card::Shape`] in Hugging Face's keys |
//! | `tokenizer.json` | [`Tokenizer`]: four kinds of byte pair encoding in Hugging Face's form |
//!
//! [`Reference`] runs a model, [`evaluate()`] tells how well it predicts a text.
//!
//! ```no_run
//! use pageformer_model::{Model, Reference, argmax};
//!
//! let (model, tokenizer) = Model::load("model/".as_ref())?;
//! let mut reference = Reference::new(&model)?;
//! let mut next = model.bos.unwrap_or(0);
//! for _ in 0..80 {
//!     next = argmax(reference.step(next)?);
//!     print!("{}", String::from_utf8_lossy(tokenizer.piece(next)));
//! }
//! # Ok::<(), pageformer_model::Error>(())
//! ```

mod config;
mod error;
mod evaluate;
mod folder;
mod reference;
mod tokenizer;
mod weights;

pub use error::Error;
pub use evaluate::{Sample, Score, Scorer, documents, evaluate};
pub use folder::{CONFIG, TOKENIZER, WEIGHTS};
pub use reference::{Reference, argmax, log_softmax};
pub use tokenizer::{Kind, Merge, Token, Tokenizer};
pub use weights::{
    ChatTemplate, Layer, Matrix, Model, NormWeights, Tensor, TensorMut, TensorSpec, tensor_specs,
};
