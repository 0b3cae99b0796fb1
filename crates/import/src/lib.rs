//! Models of other projects, read into a [`pageformer_model::Model`].
//!
//! - [`llama2c()`]: checkpoints of Karpathy's llama2.c, f32 and Q8_0, with their tokenizer.
//! - [`sketch()`]: cards of the Arduino sketch that Pageformer grew from.
//!
//! Files are not trusted: every size is checked against the header or index, and against the file's length,
//! before anything is allocated for it.

mod error;
mod llama2c;
mod llama2c_tokenizer;
mod rope;
mod sketch;

pub use error::Error;
pub use llama2c::llama2c;
pub use sketch::sketch;
