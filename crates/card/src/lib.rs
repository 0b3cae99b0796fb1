//! The card format.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod shape;

pub use shape::{Mlp, Norm, Shape, ShapeError};
