//! The operations of a decoder, each with its gradient, over rows of packed tokens.
//!
//! All matrices are row-major with one row per token: `x: [f32] // (n, d)`. A backward function takes the gradient of its output and
//! *adds* to the gradients of weights and of the residual stream, but *sets* the gradient of anything that has one reader only.

pub(crate) mod attention;
pub(crate) mod dropout;
pub(crate) mod loss;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod quant;
pub(crate) mod rope;

#[cfg(test)]
pub(crate) mod check;
