//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! One safetensors file: `weights`, `moments.mean` and `moments.square`, with pruning `masks` (u8) and `movement`, and in its metadata the
//! step, the place in the data, the losses so far and the recipe. There is no state of a random number generator: see [`crate::rng`].

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::curve::Curve;
use crate::recipe::{PruneRecipe, TrainRecipe};
use crate::{Error, Trainer};

/// The metadata's key for [`State`], as JSON.
const STATE: &str = "pageformer.run";

/// What is not a tensor.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    step: usize,
    epoch: u64,
    cursor: usize,
    train: TrainRecipe,
    prune: Option<PruneRecipe>,
    /// Numbers of weights, of scored tokens and of held-out scored tokens: a run must go on with the data it began with.
    sizes: (usize, usize, usize),
    curve: Curve,
}

impl State {
    fn of(trainer: &Trainer) -> Self {
        let (epoch, cursor) = trainer.batches.position();
        State {
            step: trainer.step,
            epoch,
            cursor,
            train: trainer.recipe.clone(),
            prune: trainer.pruning.as_ref().map(|p| p.recipe.clone()),
            sizes: trainer.sizes(),
            curve: trainer.curve.clone(),
        }
    }

    /// What may differ when a run goes on is made equal.
    fn comparable(&self) -> impl PartialEq + use<> {
        let train = TrainRecipe { threads: 1, validate_every: 0, checkpoint_every: 0, ..self.train.clone() };
        (train, self.prune.clone(), self.sizes)
    }
}

impl Trainer {
    /// The name that a checkpoint at `path` has until it is whole.
    pub fn unfinished_checkpoint(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".unfinished");
        name.into()
    }

    /// Writes the run's state, first under another name, so that a crash leaves the older checkpoint whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_checkpoint(&self, path: &Path) -> Result<(), Error> {
        let wrong = |problem: String| Error::Checkpoint { path: path.into(), problem };
        let io = |source| Error::Io { path: path.into(), source };
        let floats = [
            ("weights", &self.weights[..]),
            ("moments.mean", &self.moments.mean),
            ("moments.square", &self.moments.square),
            ("movement", self.pruning.as_ref().map_or(&[], |p| &p.movement)),
        ];
        let mut buffers: Vec<(&str, Dtype, Vec<u8>)> = floats
            .iter()
            .filter(|(_, data)| !data.is_empty())
            .map(|(name, data)| (*name, Dtype::F32, data.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        if let Some(pruning) = &self.pruning {
            let keep = pruning.masks.matrices().iter().flat_map(|m| &m.keep);
            buffers.push(("masks", Dtype::U8, keep.map(|k| u8::from(*k)).collect()));
        }
        let views = buffers.iter().map(|(name, dtype, bytes)| {
            let length = bytes.len() / if *dtype == Dtype::F32 { 4 } else { 1 };
            TensorView::new(*dtype, vec![length], bytes).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let state = serde_json::to_string(&State::of(self)).map_err(|e| wrong(e.to_string()))?;
        let metadata = HashMap::from([(STATE.to_owned(), state)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| wrong(e.to_string()))?;

        let unfinished = Self::unfinished_checkpoint(path);
        let mut file = fs::File::create(&unfinished).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&unfinished, path).map_err(io)
    }

    /// Goes to where a checkpoint was written. The trainer must have been made with the recipe, data and shape of that run; only threads and
    /// intervals may differ.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is of another run.
    pub fn resume(&mut self, path: &Path) -> Result<(), Error> {
        let wrong = |problem: &str| Error::Checkpoint { path: path.into(), problem: problem.into() };
        let damaged =
            |e: &dyn std::fmt::Display| wrong(&format!("damaged ({e}); start the run again without it"));
        let bytes = fs::read(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
        let state = header.metadata().as_ref().and_then(|m| m.get(STATE));
        let state =
            state.ok_or_else(|| wrong("not a checkpoint of a run; a model is continued as a model"))?;
        let state: State = serde_json::from_str(state).map_err(|e| damaged(&e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
        if state.comparable() != State::of(self).comparable() {
            return Err(wrong(
                "of a run with another recipe, shape or data; use the same ones, or begin a new run",
            ));
        }

        let floats = |name: &str, length: usize| -> Result<Vec<f32>, Error> {
            let view = tensors.tensor(name).map_err(|e| damaged(&e))?;
            if view.dtype() != Dtype::F32 || view.shape() != [length] {
                return Err(damaged(&format!("tensor `{name}` is {:?} {:?}", view.dtype(), view.shape())));
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok(values.collect())
        };
        let n = self.weights.len();
        let (weights, mean, square) =
            (floats("weights", n)?, floats("moments.mean", n)?, floats("moments.square", n)?);
        if let Some(pruning) = &mut self.pruning {
            let movement = pruning.movement.len();
            if movement > 0 {
                pruning.movement = floats("movement", movement)?;
            }
            let view = tensors.tensor("masks").map_err(|e| damaged(&e))?;
            let mut keep = view.data().iter().map(|k| *k != 0);
            let blocks = pruning.masks.matrices_mut().iter_mut().flat_map(|m| &mut m.keep);
            for block in blocks {
                *block = keep.next().ok_or_else(|| damaged(&"masks too short"))?;
            }
        }
        self.weights = weights;
        (self.moments.mean, self.moments.square) = (mean, square);
        self.step = state.step;
        self.batches.seek((state.epoch, state.cursor));
        self.curve = state.curve;
        Ok(())
    }
}
