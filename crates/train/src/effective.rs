//! The weights as the forward pass sees them: pruned, and rounded as the card stores them.

use crate::network::Arithmetic;
use crate::ops::quant;
use crate::params::{Layout, Role};
use crate::prune::Masks;

/// Sets `effective` to `weights` without the pruned blocks and, for [`Arithmetic::Int8`], with every matrix and the embedding rounded to
/// int8. In that order: a pruned weight does not widen its tile's scale.
pub fn effective_weights(
    layout: &Layout,
    weights: &[f32],
    masks: Option<&Masks>,
    arithmetic: Arithmetic,
    effective: &mut Vec<f32>,
) {
    effective.clear();
    effective.extend_from_slice(weights);
    if let Some(masks) = masks {
        masks.apply(layout, effective);
    }
    if arithmetic == Arithmetic::Int8 {
        for view in layout.views().iter().filter(|v| v.role != Role::Norm) {
            quant::weights(&mut effective[view.range.clone()], view.cols);
        }
    }
}
