//! What makes a block worth keeping.

use serde::{Deserialize, Serialize};

use super::Masks;
use crate::params::Layout;
use crate::recipe::PruneRecipe;
use crate::{Arithmetic, Compute, Error, Example, Network};

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

impl Masks {
    /// Prunes weights as they are, in one shot: the masks, to be [applied](Masks::apply). The methods that look at data take it from
    /// `calibration`; a few dozen sequences do.
    ///
    /// # Errors
    /// For [`Method::Movement`], which needs training to judge by.
    pub fn one_shot(
        layout: &Layout,
        weights: &[f32],
        recipe: &PruneRecipe,
        calibration: &[Example],
        compute: &mut Compute,
    ) -> Result<Masks, Error> {
        let network = Network::new(layout.clone(), Arithmetic::F32);
        let (mut inputs, mut squared_gradients) = (vec![], vec![]);
        match recipe.method {
            Method::Magnitude => {}
            Method::Wanda => inputs = compute.input_rms(&network, weights, calibration),
            Method::Fisher => squared_gradients = compute.squared_gradients(&network, weights, calibration),
            Method::Movement => {
                return Err(Error::Recipe {
                    file: "recipe".into(),
                    key: "prune.method".into(),
                    problem:
                        "`movement` judges by training; prune in one shot by `magnitude`, `wanda` or `fisher`"
                            .into(),
                });
            }
        }
        let evidence =
            Evidence { weights, inputs: &inputs, squared_gradients: &squared_gradients, movement: &[] };
        let mut masks = Masks::dense(layout, recipe.block);
        let scores = masks.scores(layout, recipe.method, evidence);
        masks.choose(&scores, recipe.density, recipe.scope);
        Ok(masks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{random_examples, random_weights, small_shape};
    use crate::{Recipe, effective_weights};

    #[test]
    fn wandas_inputs_are_those_of_each_matrix() {
        let layout = Layout::new(small_shape()).unwrap();
        let weights = random_weights(&layout);
        let network = Network::new(layout.clone(), Arithmetic::F32);
        let examples = random_examples(9, 29, 14);
        let inputs = Compute::new(2).input_rms(&network, &weights, &examples);
        for view in layout.views() {
            let part = &inputs[view.range.clone()];
            match view.role {
                crate::Role::Matrix => {
                    assert!(part.iter().all(|x| *x > 0.0), "{}", view.name);
                    assert_eq!(part[..view.cols], part[part.len() - view.cols..], "the same for every row");
                }
                _ => assert!(part.iter().all(|x| *x == 0.0)),
            }
        }
        // The first norm's output times its gain: the mean square of x̂ is 1, up to the norm's epsilon.
        let q = layout.views().iter().find(|v| v.name.ends_with("0.self_attn.q_proj.weight")).unwrap();
        let gain = &weights[layout.layers[0].ln1.gain.clone()];
        let squares = inputs[q.range.clone()][..12].iter().zip(gain).map(|(x, g)| (x / g) * (x / g));
        assert!((squares.sum::<f32>() / 12.0 - 1.0).abs() < 1e-3);
    }

    /// Fisher's diagonal predicts what pruning one block costs better than chance: the worst blocks by score cost less than the best.
    #[test]
    fn blocks_with_small_fisher_scores_cost_less() {
        let layout = Layout::new(small_shape()).unwrap();
        let weights = random_weights(&layout);
        let network = Network::new(layout.clone(), Arithmetic::F32);
        let examples = random_examples(30, 29, 14);
        let mut compute = Compute::new(2);
        let base = compute.evaluate(&network, &weights, &examples).nll;
        let cost = |keep_worst: bool, method: &str, compute: &mut Compute| {
            let toml = format!("[prune]\ndensity = 0.8\nblock = [8, 4]\nmethod = \"{method}\"");
            let recipe = Recipe::parse("r", &toml).unwrap().prune.unwrap();
            let mut masks = Masks::one_shot(&layout, &weights, &recipe, &examples, compute).unwrap();
            assert!(masks.density() <= 0.8 && masks.density() > 0.75);
            if keep_worst {
                let squares = compute.squared_gradients(&network, &weights, &examples);
                let evidence =
                    Evidence { weights: &weights, squared_gradients: &squares, ..Evidence::default() };
                let mut scores = masks.scores(&layout, Method::Fisher, evidence);
                scores.iter_mut().flatten().for_each(|s| *s = -*s);
                masks.choose(&scores, 0.8, Default::default());
            }
            let mut pruned = vec![];
            effective_weights(&layout, &weights, Some(&masks), Arithmetic::F32, &mut pruned);
            (compute.evaluate(&network, &pruned, &examples).nll - base).abs()
        };
        let (best, worst) = (cost(false, "fisher", &mut compute), cost(true, "fisher", &mut compute));
        assert!(best < 0.5 * worst, "{best} {worst}");
        cost(false, "wanda", &mut compute);
        cost(false, "magnitude", &mut compute);
        let recipe = Recipe::parse("r", "[prune]\ndensity = 0.8\nmethod = \"movement\"").unwrap();
        let one_shot = Masks::one_shot(&layout, &weights, &recipe.prune.unwrap(), &[], &mut compute);
        assert!(one_shot.unwrap_err().to_string().contains("prune.method"));
    }
}
