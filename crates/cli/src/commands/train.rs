//! `pageformer train`.

use std::fs;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use pageformer_model::{Model, Token, Tokenizer};
use pageformer_train::data::{Chat, Frame, read_chats, read_documents};
use pageformer_train::recipe::{DataKind, TokenizerKind};
use pageformer_train::rng::Rng;
use pageformer_train::{Example, Layout, Outcome, Progress, Recipe, Trainer, tokenizer::END_OF_TEXT};

/// Trains a model on your own text, on this PC's processor, and writes a model folder.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer train --data diary.txt -o model/ --preset sketch --steps 2000\n  \
    pageformer train --data faq.jsonl -o model/ --preset chat\n  \
    pageformer train --recipe recipe.toml -o model/\n  \
    pageformer train --recipe recipe.toml -o model/ --resume      # after Ctrl-C or a crash\n\n\
    Data: plain text with a separator between documents, or chats: JSON Lines with\n  \
    {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]}\n\
    or a plain file with a line for the question, one for the answer, and a blank line.\n\n\
    Presets: sketch (2 layers, 64 wide, ASCII, 64 positions), chat (4 layers, 96 wide, 128 positions),\n\
    stories (5 layers, 64 wide, 512 positions). The same recipe gives the same weights, for any --threads.")]
pub struct Train {
    /// Files to train on; instead of the recipe's
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// The model folder to write
    #[arg(short, long)]
    output: PathBuf,
    /// What to start from: sketch, chat, stories
    #[arg(long, default_value = "stories", conflicts_with = "recipe")]
    preset: String,
    /// A TOML file with every option of a run
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Continue a run that was stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    options: Options,
}

/// Single options, which win over the preset or the recipe.
#[derive(Args)]
struct Options {
    /// What the files hold [default: chat for .jsonl, else the preset's]
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// What stands between documents of text
    #[arg(long)]
    separator: Option<String>,
    /// Documents or chats that are not trained on: a number, or a part below 1
    #[arg(long)]
    hold_out: Option<f64>,
    /// Kind of tokenizer
    #[arg(long, value_enum)]
    tokenizer: Option<TokenizerArg>,
    /// Size of a BPE vocabulary
    #[arg(long)]
    vocab: Option<usize>,
    /// Layers
    #[arg(long)]
    layers: Option<u32>,
    /// Width
    #[arg(long)]
    d_model: Option<u32>,
    /// Width of the MLP
    #[arg(long)]
    d_ff: Option<u32>,
    /// Query heads
    #[arg(long)]
    heads: Option<u32>,
    /// Key/value heads: 1 is MQA
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Positions
    #[arg(long)]
    context: Option<u32>,
    /// Steps of the optimizer
    #[arg(long)]
    steps: Option<usize>,
    /// Tokens of a step
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Largest learning rate
    #[arg(long)]
    lr: Option<f32>,
    /// Part of the values that are dropped
    #[arg(long)]
    dropout: Option<f32>,
    /// Seed of everything random
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; the result is the same for any number
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Text,
    Chat,
}

#[derive(Clone, Copy, ValueEnum)]
enum TokenizerArg {
    Ascii,
    Bytes,
    Bpe,
}

impl Options {
    /// Puts what is given into the recipe.
    fn apply(self, recipe: &mut Recipe) {
        fn set<T>(slot: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *slot = value;
            }
        }
        let (model, data, train) = (&mut recipe.model, &mut recipe.data, &mut recipe.train);
        set(
            &mut data.kind,
            self.kind.map(|k| match k {
                KindArg::Text => DataKind::Text,
                KindArg::Chat => DataKind::Chat,
            }),
        );
        set(&mut data.separator, self.separator);
        set(&mut data.hold_out, self.hold_out);
        set(
            &mut recipe.tokenizer.kind,
            self.tokenizer.map(|t| match t {
                TokenizerArg::Ascii => TokenizerKind::Ascii,
                TokenizerArg::Bytes => TokenizerKind::Bytes,
                TokenizerArg::Bpe => TokenizerKind::Bpe,
            }),
        );
        if self.vocab.is_some() {
            recipe.tokenizer.vocab = self.vocab;
        }
        set(&mut model.n_layers, self.layers);
        set(&mut model.d_model, self.d_model);
        set(&mut model.d_ff, self.d_ff);
        set(&mut model.n_heads, self.heads);
        set(&mut model.n_kv_heads, self.kv_heads);
        set(&mut model.max_seq, self.context);
        set(&mut train.steps, self.steps);
        set(&mut train.batch_tokens, self.batch_tokens);
        set(&mut train.lr, self.lr);
        train.final_lr = train.final_lr.min(train.lr);
        set(&mut train.dropout, self.dropout);
        set(&mut train.seed, self.seed);
        set(&mut train.threads, self.threads);
    }
}

impl Train {
    pub fn run(self) -> Result<()> {
        let mut recipe = match &self.recipe {
            Some(path) => Recipe::load(path)?,
            None => Recipe::preset(&self.preset)?,
        };
        if !self.data.is_empty() {
            recipe.data.files = self.data;
            if recipe.data.files.iter().all(|f| f.extension().is_some_and(|e| e == "jsonl")) {
                recipe.data.kind = DataKind::Chat;
            }
        }
        self.options.apply(&mut recipe);
        recipe.check("options")?;
        let sets = Sets::read(&recipe)?;
        let tokenizer = recipe.tokenizer(&sets.texts())?;
        let frame = frame(&recipe, &tokenizer);
        let (train, held_out) = sets.examples(&recipe, &frame, &tokenizer)?;
        let layout = Layout::new(recipe.shape(tokenizer.vocab_size())?)?;
        let weights = layout.initial_weights(recipe.train.seed);
        let mut trainer = Trainer::new(layout, weights, train, held_out, recipe.train.clone())?;
        if let Some(prune) = recipe.prune.clone() {
            trainer = trainer.with_pruning(prune);
        }
        if recipe.distill.is_some() {
            bail!("`distill` needs a trained model to learn from: use it with `pageformer compress`");
        }
        let checkpoint = checkpoint(&self.output);
        let finished = run(&mut trainer, &checkpoint, self.resume)?;
        if !finished {
            return Ok(());
        }
        let mut model = trainer.model()?;
        (model.bos, model.eos, model.chat) = (frame.bos, frame.end.into_iter().collect(), frame.chat);
        save(&model, &tokenizer, &recipe, &trainer, &self.output)?;
        // The run is over, its state is of no more use.
        let _ = fs::remove_file(&checkpoint);
        println!("next: pageformer export {} -o card/", self.output.display());
        Ok(())
    }
}

/// Where the state of a run is kept: beside the model that it will become.
pub fn checkpoint(output: &Path) -> PathBuf {
    let mut path = output.components().as_path().as_os_str().to_owned();
    path.push(".checkpoint");
    path.into()
}

/// Writes a trained model with its recipe and loss curve.
pub fn save(
    model: &Model,
    tokenizer: &Tokenizer,
    recipe: &Recipe,
    trainer: &Trainer,
    output: &Path,
) -> Result<()> {
    model.save(tokenizer, output)?;
    let name = output.file_name().map_or("loss".into(), |n| n.to_string_lossy());
    for (file, text) in [("recipe.toml", recipe.to_toml()?), ("loss.svg", trainer.curve().svg(&name))] {
        let path = output.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{}: {} parameters; loss curve in loss.svg", output.display(), model.shape.parameters());
    Ok(())
}

/// The tokens and the template that a recipe's sequences need.
fn frame(recipe: &Recipe, tokenizer: &Tokenizer) -> Frame {
    let end =
        tokenizer.tokens().iter().position(|t| *t == Token::Control(END_OF_TEXT.into())).map(|id| id as u32);
    let seq_len = recipe.data.seq_len.unwrap_or(recipe.model.max_seq as usize);
    Frame { bos: end, end, chat: recipe.data.chat(), seq_len }
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
                let (train, held_out) = data.hold_out().split(read_documents(&data.files, &data.separator)?);
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
    fn texts(&self) -> Vec<String> {
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
/// to be led astray by what was said before.
fn joined(chats: &[Chat], seed: u64) -> Vec<Chat> {
    let mut rng = Rng::new(seed, 77);
    let mut order: Vec<usize> = (0..chats.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let turns = |group: &[usize]| group.iter().flat_map(|i| chats[*i].turns.clone()).collect();
    order.chunks(6).map(|group| Chat { turns: turns(group) }).collect()
}

/// Runs a trainer with a progress bar until it is done or Ctrl-C; returns whether it is done.
pub fn run(trainer: &mut Trainer, checkpoint: &Path, resume: bool) -> Result<bool> {
    if resume {
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
    /// Mean of the last losses.
    loss: f64,
    validation: Option<f64>,
}

impl View {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: !std::io::stderr().is_terminal(), loss: 0.0, validation: None }
    }

    fn show(&mut self, p: &Progress) {
        self.loss += (p.loss - self.loss) * f64::max(0.05, 1.0 / p.step as f64);
        self.validation = p.validation.or(self.validation);
        let held_out = self.validation.map_or(String::new(), |v| format!(", held out {v:.3}"));
        let density = if p.density < 1.0 { format!(", density {:.3}", p.density) } else { String::new() };
        let left = p.elapsed.mul_f64((p.steps - p.step) as f64 / p.step.max(1) as f64);
        let message = format!(
            "loss {:.3}{held_out}{density}, {:.0} tokens/s, {} left",
            self.loss,
            p.tokens_per_s,
            HumanDuration(left)
        );
        if !self.lines {
            self.bar.set_length(p.steps as u64);
            self.bar.set_message(message);
            self.bar.set_position(p.step as u64);
        } else if p.validation.is_some() {
            eprintln!("step {}/{}: {message}", p.step, p.steps);
        }
    }
}
