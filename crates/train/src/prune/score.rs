//! What makes a block worth keeping.

use serde::{Deserialize, Serialize};

use super::Masks;
use crate::params::Layout;

/// The importance of a weight; a block's is the sum over its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `w²`.
    Magnitude,
    /// `|w| · ‖x‖`, x being the weight's inputs over a calibration text (Sun et al. 2023).
    Wanda,
    /// `w² · E[g²]`, g being the loss's gradient: the loss's increase to second order, with the diagonal of the empirical Fisher
    /// information for the Hessian (LeCun et al. 1990).
    #[default]
    Fisher,
    /// `−Σ w · g` over the steps so far: weights that training moves away from zero (Sanh et al. 2020).
    Movement,
}

/// What the methods judge by; each slice is (weights), and may be empty where the method does not need it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The weights.
    pub weights: &'a [f32],
    /// Root of the mean square of each weight's input.
    pub inputs: &'a [f32],
    /// Mean square of each weight's gradient.
    pub squared_gradients: &'a [f32],
    /// `−Σ w · g`.
    pub movement: &'a [f32],
}

impl Masks {
    /// The score of each block.
    pub fn scores(&self, layout: &Layout, method: Method, evidence: Evidence) -> Vec<Vec<f32>> {
        let Evidence { weights: w, inputs: x, squared_gradients: g2, movement } = evidence;
        match method {
            Method::Magnitude => self.block_sums(layout, |i| w[i] * w[i]),
            Method::Wanda => self.block_sums(layout, |i| w[i].abs() * x[i]),
            Method::Fisher => self.block_sums(layout, |i| w[i] * w[i] * g2[i]),
            Method::Movement => self.block_sums(layout, |i| movement[i]),
        }
    }
}
