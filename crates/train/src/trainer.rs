//! The training loop.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use pageformer_model::Model;

use crate::batches::Batches;
use crate::compute::Batch;
use crate::curve::Curve;
use crate::network::{Arithmetic, Dropout, Network, Teacher};
use crate::prune::{Evidence, Masks, Method};
use crate::recipe::{PruneRecipe, TrainRecipe};
use crate::rng::Rng;
use crate::{Compute, Distillation, Error, Example, Layout, LossSums, Moments, effective_weights};

/// Sequences from which Wanda's input norms are taken.
const CALIBRATION: usize = 32;
/// Streams of random numbers: one a step, far from those of dropout and of epochs.
const HOLES: u64 = 1 << 61;

/// What a step did, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done, this one included.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Mean negative log-likelihood of the step's scored tokens before it, in nats.
    pub loss: f64,
    /// Mean divergence from the teacher, in nats; 0 without one.
    pub divergence: f64,
    /// Mean negative log-likelihood of the held-out data after the step, in nats per token, where it was measured.
    pub validation: Option<f64>,
    /// Learning rate.
    pub lr: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Density: part of the cells of all matrices that is kept.
    pub density: f64,
    /// Tokens that went through the network per second, since the run began or was resumed.
    pub tokens_per_s: f64,
    /// Time since then.
    pub elapsed: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The observer stopped it. It can be resumed from its checkpoint.
    Stopped,
}

/// What pruning needs between steps.
#[derive(Clone, Debug)]
pub(crate) struct Pruning {
    pub recipe: PruneRecipe,
    pub masks: Masks,
    pub movement: Vec<f32>, // (weights), only for `Method::Movement`
}

#[derive(Debug)]
struct OwnTeacher {
    network: Network,
    weights: Vec<f32>,
    distillation: Distillation,
}

/// A model in training.
///
/// ```no_run
/// # use pageformer_train::*;
/// # fn f(layout: Layout, train: Vec<Example>, held_out: Vec<Example>) -> Result<(), Error> {
/// let recipe = Recipe::preset("stories")?;
/// let weights = layout.initial_weights(recipe.train.seed);
/// let mut trainer = Trainer::new(layout, weights, train, held_out, recipe.train)?;
/// trainer.run(Some("run.checkpoint".as_ref()), |progress| {
///     println!("{} {:.3}", progress.step, progress.loss);
///     std::ops::ControlFlow::Continue(())
/// })?;
/// let model = trainer.model()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Trainer {
    pub(crate) recipe: TrainRecipe,
    pub(crate) network: Network,
    pub(crate) weights: Vec<f32>,
    pub(crate) moments: Moments,
    pub(crate) pruning: Option<Pruning>,
    pub(crate) batches: Batches,
    pub(crate) step: usize,
    pub(crate) curve: Curve,
    effective: Vec<f32>,
    teacher: Option<OwnTeacher>,
    compute: Compute,
    train: Vec<Example>,
    held_out: Vec<Example>,
}

impl Trainer {
    /// Begins a run from `weights`, with sequences to train on and sequences to measure the loss on (there may be none).
    ///
    /// # Errors
    /// If there is nothing to train on, or a token is outside the vocabulary.
    pub fn new(
        layout: Layout,
        weights: Vec<f32>,
        train: Vec<Example>,
        held_out: Vec<Example>,
        recipe: TrainRecipe,
    ) -> Result<Self, Error> {
        if train.is_empty() {
            return Err(Error::TooLittleData("nothing to train on: add data, or hold less of it out".into()));
        }
        let shape = *layout.shape();
        for example in train.iter().chain(&held_out) {
            if example.largest_token() >= shape.vocab {
                return Err(Error::TooLittleData(format!(
                    "token {} in the data, and the model has {}: use the model's own tokenizer",
                    example.largest_token(),
                    shape.vocab
                )));
            }
            if example.inputs().len() > shape.max_seq as usize {
                return Err(Error::TooLittleData(format!(
                    "a sequence of {} tokens, and the model has {} positions: lower `data.seq_len`",
                    example.inputs().len(),
                    shape.max_seq
                )));
            }
        }
        let arithmetic = if recipe.int8 { Arithmetic::Int8 } else { Arithmetic::F32 };
        Ok(Trainer {
            network: Network::new(layout, arithmetic),
            moments: Moments::zeros(weights.len()),
            weights,
            effective: vec![],
            pruning: None,
            teacher: None,
            batches: Batches::new(recipe.seed),
            compute: Compute::new(recipe.threads),
            recipe,
            train,
            held_out,
            step: 0,
            curve: Curve::default(),
        })
    }

    /// Prunes during the run.
    #[must_use]
    pub fn with_pruning(mut self, recipe: PruneRecipe) -> Self {
        let movement = match recipe.method {
            Method::Movement => vec![0.0; self.weights.len()],
            _ => vec![],
        };
        let masks = Masks::dense(self.layout(), recipe.block);
        self.pruning = Some(Pruning { recipe, masks, movement });
        self
    }

    /// Learns from the predictions of a model with the same vocabulary, too.
    ///
    /// # Errors
    /// If its vocabulary is another, or it has fewer positions than the data needs.
    pub fn with_teacher(mut self, model: &Model, distillation: Distillation) -> Result<Self, Error> {
        let own = *self.layout().shape();
        let longest = self.train.iter().map(|e| e.inputs().len()).max().unwrap_or(0);
        if model.shape.vocab != own.vocab || (model.shape.max_seq as usize) < longest {
            return Err(Error::ShapeDiffers { found: Box::new(model.shape), expected: Box::new(own) });
        }
        let layout = Layout::new(model.shape)?;
        let weights = layout.weights_of(model)?;
        let network = Network::new(layout, Arithmetic::F32);
        self.teacher = Some(OwnTeacher { network, weights, distillation });
        Ok(self)
    }

    /// Where the weights lie.
    pub fn layout(&self) -> &Layout {
        self.network.layout()
    }

    /// The weights as they are trained: dense, not rounded.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Which blocks are kept; none without pruning.
    pub fn masks(&self) -> Option<&Masks> {
        self.pruning.as_ref().map(|p| &p.masks)
    }

    /// Steps done.
    pub fn step_number(&self) -> usize {
        self.step
    }

    /// The losses so far.
    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// Number of weights trained on, of scored tokens in the data, and of held-out scored tokens.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let scored = |examples: &[Example]| examples.iter().map(Example::scored_tokens).sum();
        (self.weights.len(), scored(&self.train), scored(&self.held_out))
    }

    /// The model as it is now: pruned blocks are zeros, nothing is rounded. Special tokens and chat template are left to the caller.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn model(&self) -> Result<Model, Error> {
        let mut weights = self.weights.clone();
        if let Some(masks) = self.masks() {
            masks.apply(self.layout(), &mut weights);
        }
        self.layout().model(&weights)
    }

    /// Loss of the held-out data with the weights as they are now, in the run's arithmetic.
    pub fn validate(&mut self) -> LossSums {
        self.prepare_weights();
        self.compute.evaluate(&self.network, &self.effective, &self.held_out)
    }

    /// Sets the weights that the forward pass uses.
    fn prepare_weights(&mut self) {
        let masks = self.pruning.as_ref().map(|p| &p.masks);
        let arithmetic = self.network.arithmetic();
        effective_weights(self.network.layout(), &self.weights, masks, arithmetic, &mut self.effective);
    }

    /// Chooses the masks again, where it is time to; returns whether they are final.
    fn prune(&mut self) -> bool {
        let Some(mut pruning) = self.pruning.take() else { return false };
        let recipe = &pruning.recipe;
        let (density, is_final) = recipe.schedule(self.step, self.recipe.steps);
        let first_final =
            is_final && (self.step == 0 || !recipe.schedule(self.step - 1, self.recipe.steps).1);
        let due = if is_final { first_final } else { self.step.is_multiple_of(recipe.every) };
        if due && density < 1.0 {
            let mut inputs = vec![];
            if recipe.method == Method::Wanda {
                self.prepare_weights();
                let calibration = &self.train[..self.train.len().min(CALIBRATION)];
                inputs = self.compute.input_rms(&self.network, &self.effective, calibration);
            }
            let evidence = Evidence {
                weights: &self.weights,
                inputs: &inputs,
                squared_gradients: &self.moments.square,
                movement: &pruning.movement,
            };
            let scores = pruning.masks.scores(self.layout(), pruning.recipe.method, evidence);
            pruning.masks.choose(&scores, density, pruning.recipe.scope);
        }
        self.pruning = Some(pruning);
        is_final
    }

    /// One step of the optimizer. Loss and gradient are those of the weights before it.
    ///
    /// # Errors
    /// If the loss is not finite any more.
    pub fn step(&mut self) -> Result<(LossSums, f32), Error> {
        let masks_are_final = self.prune();
        self.prepare_weights();
        let whole = self.batches.next(&self.train, self.recipe.batch_tokens);
        let mut rng = Rng::new(self.recipe.seed, HOLES + self.step as u64);
        let holes: Vec<Example> = match self.recipe.holes {
            0.0 => vec![],
            rate => whole.iter().map(|e| e.with_holes(rate, &mut rng)).collect(),
        };
        let examples = if holes.is_empty() { whole } else { holes.iter().collect() };
        let dropout = (self.recipe.dropout > 0.0).then_some(Dropout {
            rate: self.recipe.dropout,
            seed: self.recipe.seed,
            batch: self.step as u64,
        });
        let teacher = self.teacher.as_ref().map(|t| Teacher {
            network: &t.network,
            weights: &t.weights,
            distillation: t.distillation,
        });
        let batch = Batch { examples: &examples, teacher, dropout };
        let loss = self.compute.gradient(&self.network, &self.effective, batch);
        if !(loss.sums.nll.is_finite() && loss.gradient_norm.is_finite()) {
            return Err(Error::Diverged { step: self.step, loss: loss.sums.nll / loss.sums.tokens as f64 });
        }

        let mut gradient = std::mem::take(self.compute.total_mut());
        if let Some(pruning) = &mut self.pruning {
            for ((m, w), g) in pruning.movement.iter_mut().zip(&self.weights).zip(&gradient) {
                *m -= w * g;
            }
            if masks_are_final || !pruning.recipe.regrow {
                pruning.masks.apply(self.network.layout(), &mut gradient);
            }
        }
        let clip = match self.recipe.clip {
            clip if clip > 0.0 && loss.gradient_norm > clip => clip / loss.gradient_norm,
            _ => 1.0,
        };
        let lr = self.recipe.learning_rate(self.step);
        let layout = self.network.layout();
        let step = (self.step + 1, lr, clip);
        self.recipe.adamw().step(
            &self.compute,
            layout,
            &mut self.weights,
            &mut self.moments,
            &gradient,
            step,
        );
        *self.compute.total_mut() = gradient;
        if let Some(pruning) = self.pruning.as_ref().filter(|_| masks_are_final) {
            pruning.masks.apply(self.network.layout(), &mut self.weights);
        }
        self.step += 1;
        Ok((loss.sums, loss.gradient_norm))
    }

    /// Runs until the last step, or until `observer` breaks. With a `checkpoint`, the run's state is written there at the recipe's intervals and
    /// at the end, whichever it is.
    ///
    /// # Errors
    /// If the loss is not finite any more, or a checkpoint cannot be written.
    pub fn run(
        &mut self,
        checkpoint: Option<&Path>,
        mut observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        let begin = Instant::now();
        let mut tokens = 0;
        while self.step < self.recipe.steps {
            let first = self.batches.tokens();
            let (sums, gradient_norm) = self.step()?;
            tokens += self.batches.tokens() - first;
            let is_last = self.step == self.recipe.steps;
            let every = |steps: usize| is_last || (steps > 0 && self.step.is_multiple_of(steps));
            let (validate, save) = (every(self.recipe.validate_every), every(self.recipe.checkpoint_every));
            let loss = sums.nll / sums.tokens as f64;
            self.curve.train(self.step, loss);
            let validation = (validate && !self.held_out.is_empty()).then(|| {
                let held_out = self.validate();
                held_out.nll / held_out.tokens as f64
            });
            if let Some(loss) = validation {
                self.curve.held_out(self.step, loss);
            }
            let elapsed = begin.elapsed();
            let flow = observer(&Progress {
                step: self.step,
                steps: self.recipe.steps,
                loss,
                divergence: sums.divergence / sums.tokens as f64,
                validation,
                lr: self.recipe.learning_rate(self.step - 1),
                gradient_norm,
                density: self.masks().map_or(1.0, Masks::density),
                tokens_per_s: tokens as f64 / elapsed.as_secs_f64(),
                elapsed,
            });
            if let Some(path) = checkpoint.filter(|_| save || flow.is_break()) {
                self.save_checkpoint(path)?;
            }
            if flow.is_break() {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;
    use crate::rng::Rng;
    use crate::tests::small_shape;

    /// Sequences in which each token is followed by one of two: there is something to learn, and a loss that cannot be passed.
    fn examples(count: usize, seed: u64) -> Vec<Example> {
        let mut rng = Rng::new(seed, 0);
        let sequence = |rng: &mut Rng| {
            let mut token = rng.below(29) as u32;
            (0..14)
                .map(|_| {
                    token = (token * 5 + rng.below(2) as u32) % 29;
                    token
                })
                .collect()
        };
        (0..count).filter_map(|_| Example::all(sequence(&mut rng))).collect()
    }

    /// A run with everything that a run can have.
    fn trainer(threads: usize, steps: usize) -> Trainer {
        let toml = format!(
            "[train]\nsteps = {steps}\nbatch_tokens = 130\nlr = 0.01\nwarmup = 5\nfinal_lr = 0.0\ndropout = 0.02\nholes = 0.1\nint8 = true\nthreads = {threads}\n\
             validate_every = 10\ncheckpoint_every = 20\n[prune]\ndensity = 0.6\nmethod = \"movement\"\nevery = 5\nend = 0.5\n\
             [distill]\nweight = 0.3\ntemperature = 2.0\n"
        );
        let recipe = Recipe::parse("test", &toml).unwrap();
        let layout = Layout::new(small_shape()).unwrap();
        let teacher = layout.model(&layout.initial_weights(8)).unwrap();
        let weights = layout.initial_weights(1);
        Trainer::new(layout, weights, examples(50, 1), examples(10, 2), recipe.train)
            .unwrap()
            .with_pruning(recipe.prune.unwrap())
            .with_teacher(&teacher, (&recipe.distill.unwrap()).into())
            .unwrap()
    }

    fn go_on(_: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn resuming_changes_no_bit_and_neither_do_threads() {
        let mut whole = trainer(1, 60);
        assert_eq!(whole.run(None, go_on).unwrap(), Outcome::Finished);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        for stop in [7, 33] {
            let mut first = trainer(2, 60);
            let stopped = first.run(Some(&path), |p| match p.step == stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
            assert_eq!(stopped.unwrap(), Outcome::Stopped);
            let mut second = trainer(3, 60);
            second.resume(&path).unwrap();
            assert_eq!(second.step_number(), stop);
            second.run(Some(&path), go_on).unwrap();
            assert_eq!(second.weights(), whole.weights());
            assert_eq!(second.moments, whole.moments);
            assert_eq!(second.masks(), whole.masks());
        }
        assert!(!dir.path().join("checkpoint.unfinished").exists());

        // Another recipe, a damaged file, something else.
        let error = trainer(1, 61).resume(&path).unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(&path, bytes).unwrap();
        let error = trainer(1, 60).resume(&path).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn pruned_blocks_are_zeros_and_the_density_is_reached() {
        let mut trainer = trainer(2, 40);
        let mut densities = vec![];
        let run = trainer.run(None, |p| {
            densities.push(p.density);
            ControlFlow::Continue(())
        });
        run.unwrap();
        assert!(densities.windows(2).all(|d| d[1] <= d[0] + 1e-9));
        assert!(densities[39] <= 0.6 && densities[39] > 0.5 && densities[0] == 1.0);
        let model = trainer.model().unwrap();
        let weights = trainer.layout().weights_of(&model).unwrap();
        assert_eq!(Masks::of_weights(trainer.layout(), &weights, [4, 4]), *trainer.masks().unwrap());
        assert_eq!(weights, trainer.weights());
    }

    #[test]
    fn learns_what_can_be_learnt() {
        let mut recipe = Recipe::preset("stories").unwrap().train;
        (recipe.steps, recipe.batch_tokens, recipe.lr, recipe.warmup) = (250, 400, 0.02, 10);
        let layout = Layout::new(small_shape()).unwrap();
        let weights = layout.initial_weights(1);
        let mut trainer = Trainer::new(layout, weights, examples(400, 1), examples(40, 2), recipe).unwrap();
        let before = trainer.validate();
        let mut last = None;
        trainer
            .run(None, |p| {
                last = p.validation.or(last);
                ControlFlow::Continue(())
            })
            .unwrap();
        // Each token but the first is one of two: ln 2.
        assert!(before.nll / before.tokens as f64 > 3.0);
        let loss = last.unwrap();
        assert!(loss < 0.75 && loss > 0.65, "{loss}");
        assert!(trainer.curve().svg("test").contains("held out"));
    }

    #[test]
    fn what_cannot_be_trained_is_an_error() {
        let recipe = Recipe::preset("stories").unwrap().train;
        let new = |train: Vec<Example>, recipe: TrainRecipe| {
            let layout = Layout::new(small_shape()).unwrap();
            let weights = layout.initial_weights(1);
            Trainer::new(layout, weights, train, vec![], recipe)
        };
        assert!(new(vec![], recipe.clone()).unwrap_err().to_string().contains("nothing to train on"));
        let unknown = Example::all(vec![1, 29]).unwrap();
        assert!(new(vec![unknown], recipe.clone()).unwrap_err().to_string().contains("token 29"));
        let long = Example::all(vec![1; 18]).unwrap();
        assert!(new(vec![long], recipe.clone()).unwrap_err().to_string().contains("17 tokens"));
        let mut wild = new(examples(4, 1), TrainRecipe { lr: 1e30, warmup: 0, clip: 0.0, ..recipe }).unwrap();
        let error = wild.run(None, go_on).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
    }
}
