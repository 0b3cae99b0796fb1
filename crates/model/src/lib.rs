//! A model on the PC.

mod error;
mod weights;

pub use error::Error;
pub use weights::{
    ChatTemplate, Layer, Matrix, Model, NormWeights, Tensor, TensorMut, TensorSpec, tensor_specs,
};
