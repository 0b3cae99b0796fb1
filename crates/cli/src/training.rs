//! A run of the trainer, from data files to a model folder: what `train` and `compress` share.

use std::fs;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf, absolute};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use pageformer_model::{Model, Tokenizer};
use pageformer_train::data::{Chat, Frame, read_chats, read_documents};
use pageformer_train::recipe::DataKind;
use pageformer_train::rng::Rng;
use pageformer_train::{Example, Outcome, Progress, Recipe, Trainer};

/// Fewer chats than this are joined in many ways, more in one.
const FEW_CHATS: usize = 200;

/// Where the state of a run is kept: beside the model that it will become.
pub fn checkpoint(output: &Path) -> PathBuf {
    let mut path = output.components().as_path().as_os_str().to_owned();
    path.push(".checkpoint");
    path.into()
}

/// Makes sure that a run can be kept before it begins: hours of training would be lost otherwise.
pub fn ready(output: &Path) -> Result<()> {
    let state = checkpoint(output);
    if output.exists() && !output.is_dir() {
        bail!("{} is there already and no folder; give another -o", output.display());
    }
    if let Some(parent) = state.parent() {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    if state.is_dir() {
        bail!("{} is a folder, and a run's state would go there; give another -o", state.display());
    }
    // Tried under the name that a state is written under first: who ends the program now must not find an empty state.
    let trial = Trainer::unfinished_checkpoint(&state);
    let cannot = || format!("{}: cannot be written; give another -o", state.display());
    fs::OpenOptions::new().append(true).create(true).open(&trial).with_context(cannot)?;
    fs::remove_file(&trial).with_context(cannot)
}

/// Writes a trained model with its recipe and loss curve; returns a line about it.
pub fn save(
    model: &Model,
    tokenizer: &Tokenizer,
    recipe: &Recipe,
    trainer: &Trainer,
    output: &Path,
) -> Result<String> {
    model.save(tokenizer, output)?;
    let mut recipe = recipe.clone();
    for file in &mut recipe.data.files {
        // So that the recipe can be run again from the folder where it lies.
        *file = absolute(&*file).with_context(|| file.display().to_string())?;
    }
    let name = output.file_name().map_or("loss".into(), |n| n.to_string_lossy());
    for (file, text) in [("recipe.toml", recipe.to_toml()?), ("loss.svg", trainer.curve().svg(&name))] {
        let path = output.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    let held_out = trainer
        .curve()
        .held_out_points()
        .last()
        .map_or(String::new(), |(_, loss)| format!("; {loss:.3} nats per token of what was held out"));
    let parameters = model.shape.parameters();
    Ok(format!("{}: {parameters} parameters{held_out}; recipe.toml, loss.svg", output.display()))
}

/// Data to train on, and to measure on.
pub enum Sets {
    /// Documents.
    Text(Vec<String>, Vec<String>),
    /// Chats, of each file.
    Chats(Vec<(PathBuf, Vec<Chat>, Vec<Chat>)>),
}

impl Sets {
    /// Reads a recipe's files and splits them.
    pub fn read(recipe: &Recipe) -> Result<Self> {
        let data = &recipe.data;
        if data.files.is_empty() {
            bail!("no data: give --data FILE, or a recipe with `data.files`");
        }
        Ok(match data.kind {
            DataKind::Text => {
                let documents = read_documents(&data.files, &data.separator)?;
                let piece = data.seq_len.unwrap_or(recipe.model.max_seq as usize);
                let (train, held_out) = data.hold_out().split_texts(documents, piece);
                Sets::Text(train, held_out)
            }
            DataKind::Chat => Sets::Chats(
                data.files
                    .iter()
                    .map(|path| {
                        let (train, held_out) = data.hold_out().split(read_chats(path)?);
                        Ok((path.clone(), train, held_out))
                    })
                    .collect::<Result<_>>()?,
            ),
        })
    }

    /// The texts that a tokenizer is trained on.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Sets::Text(train, _) => train.clone(),
            Sets::Chats(files) => {
                let chats = files.iter().flat_map(|(_, train, _)| train);
                chats.flat_map(|c| &c.turns).flat_map(|t| [t.question.clone(), t.answer.clone()]).collect()
            }
        }
    }

    /// Sequences to train on, and to measure on.
    pub fn examples(
        &self,
        recipe: &Recipe,
        frame: &Frame,
        tokenizer: &Tokenizer,
    ) -> Result<(Vec<Example>, Vec<Example>)> {
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        match self {
            Sets::Text(texts, held) => {
                train = frame.documents(texts, tokenizer, recipe.data.packing());
                held_out = frame.held_out_documents(held, tokenizer);
            }
            Sets::Chats(files) => {
                for (path, chats, held) in files {
                    train.extend(frame.chats(chats, tokenizer, path)?);
                    if recipe.data.join {
                        train.extend(frame.chats(&joined(chats, recipe.train.seed), tokenizer, path)?);
                    }
                    held_out.extend(frame.chats(held, tokenizer, path)?);
                }
            }
        }
        Ok((train, held_out))
    }
}

/// Turns of an hour's talk are about many things: chats in random order, as many as one as fit about two hundred
/// tokens (what does not fit is left out), so that a model knows all its positions and learns not
/// to be led astray by what was said before. Few chats are put together in many ways.
fn joined(chats: &[Chat], seed: u64) -> Vec<Chat> {
    let mut rng = Rng::new(seed, 77);
    let mut order: Vec<usize> = (0..chats.len()).collect();
    let turns = |group: &[usize]| group.iter().flat_map(|i| chats[*i].turns.clone()).collect();
    let mut joined = vec![];
    for _ in 0..if chats.len() < FEW_CHATS { 100 } else { 1 } {
        rng.shuffle(&mut order);
        joined.extend(order.chunks(6).map(|group| Chat { turns: turns(group) }));
    }
    joined
}

/// Runs a trainer with a progress bar until it is done or Ctrl-C; returns whether it is done.
pub fn run(trainer: &mut Trainer, checkpoint: &Path, resume: bool) -> Result<bool> {
    if resume {
        if !checkpoint.exists() {
            bail!("no run to continue: {} is not there; begin one without --resume", checkpoint.display());
        }
        trainer.resume(checkpoint)?;
        eprintln!("resumed at step {}", trainer.step_number());
    } else if checkpoint.exists() {
        bail!(
            "{} is of a run that was not finished: continue it with --resume, or remove it",
            checkpoint.display()
        );
    }
    let (weights, scored, held_out) = trainer.sizes();
    eprintln!("{weights} weights; {scored} tokens to learn, {held_out} held out");
    // A second Ctrl-C ends the program at once. The handler can be set only once for all runs.
    static STOP: AtomicBool = AtomicBool::new(false);
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let handler = || {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("Ctrl-C will end the program without a last checkpoint: {error}");
        }
    });
    let mut view = View::new();
    let outcome = trainer.run(Some(checkpoint), |progress| {
        view.show(progress);
        if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    view.bar.finish_and_clear();
    if outcome == Outcome::Stopped {
        eprintln!("stopped; continue with the same command and --resume");
        return Ok(false);
    }
    Ok(true)
}

/// Progress for people: a bar on a terminal, otherwise a line now and then.
struct View {
    bar: ProgressBar,
    lines: bool,
    /// Steps seen: fewer than were done, if the run was resumed.
    seen: usize,
    /// Mean of the last losses.
    loss: f64,
    validation: Option<f64>,
}

impl View {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: !std::io::stderr().is_terminal(), seen: 0, loss: 0.0, validation: None }
    }

    fn show(&mut self, p: &Progress) {
        self.seen += 1;
        self.loss += (p.loss - self.loss) * f64::max(0.05, 1.0 / self.seen as f64);
        self.validation = p.validation.or(self.validation);
        let held_out = self.validation.map_or(String::new(), |v| format!(", held out {v:.3}"));
        let density = if p.density < 1.0 { format!(", density {:.3}", p.density) } else { String::new() };
        let left = p.elapsed.mul_f64((p.steps - p.step) as f64 / self.seen as f64);
        let message = format!(
            "loss {:.3}{held_out}{density}, {:.0} tokens/s, {} left",
            self.loss,
            p.tokens_per_s,
            HumanDuration(left)
        );
        let tenth = p.step.is_multiple_of((p.steps / 10).max(1));
        if !self.lines {
            self.bar.set_length(p.steps as u64);
            self.bar.set_message(message);
            self.bar.set_position(p.step as u64);
        } else if p.validation.is_some() || (self.validation.is_none() && tenth) {
            eprintln!("step {}/{}: {message}", p.step, p.steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pageformer_train::data::Turn;

    use super::*;

    fn chats(count: usize) -> Vec<Chat> {
        let turn = |n: usize| Turn { question: format!("q{n}"), answer: "a".into(), line: 1 };
        (0..count).map(|n| Chat { turns: vec![turn(n)] }).collect()
    }

    #[test]
    fn few_chats_are_joined_in_many_ways_and_many_once() {
        let followers = |joined: &[Chat]| -> BTreeSet<(String, String)> {
            let pairs = joined.iter().flat_map(|c| c.turns.windows(2));
            pairs.map(|t| (t[0].question.clone(), t[1].question.clone())).collect()
        };
        // Of seven, each comes after each other one.
        assert_eq!(followers(&joined(&chats(7), 1)).len(), 7 * 6);
        let many = joined(&chats(600), 1);
        assert_eq!((many.len(), followers(&many).len()), (100, 500));
        assert_eq!(many, joined(&chats(600), 1));
        assert_ne!(many, joined(&chats(600), 2));
        assert!(joined(&[], 1).is_empty());
    }
}
