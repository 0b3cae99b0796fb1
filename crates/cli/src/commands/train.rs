//! `pageformer train`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use pageformer_model::{Token, Tokenizer};
use pageformer_train::data::Frame;
use pageformer_train::recipe::{DataKind, TokenizerKind};
use pageformer_train::{Layout, Recipe, Trainer, tokenizer::END_OF_TEXT};

use crate::training::{Sets, checkpoint, ready, run, save};

/// Trains a model on your own text, on this PC's processor, and writes a model folder.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer train --data diary.txt -o model/ --preset sketch --steps 2000\n  \
    pageformer train --data faq.jsonl -o model/ --preset chat\n  \
    pageformer train --recipe recipe.toml -o model/\n  \
    pageformer train --recipe recipe.toml -o model/ --resume      # after Ctrl-C or a crash\n\n\
    Data: plain text with a separator between documents, or chats: JSON Lines with\n  \
    {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]}\n\
    or a plain file with a line for the question, one for the answer, and a blank line (--preset chat).\n\n\
    Presets: sketch (2 layers, 64 wide, ASCII, 64 positions), chat (2 layers, 128 wide, 1536 tokens,\n\
    192 positions), stories (5 layers, 64 wide, 512 tokens, 512 positions). Options that are not given are the preset's or the recipe's.\n\
    The same recipe gives the same weights, for any --threads.")]
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
    /// Replace a model that is there
    #[arg(long)]
    force: bool,
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
        if let Some(steps) = self.steps {
            train.steps = steps;
            // A short run must not be over before it has warmed up.
            train.warmup = train.warmup.min(steps / 4);
        }
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
        ready(&self.output)?;
        if self.output.join("model.safetensors").exists() && !self.force && !self.resume {
            bail!(
                "{}: a model is there already; give another -o, or --force to replace it",
                self.output.display()
            );
        }
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
        println!("{}", save(&model, &tokenizer, &recipe, &trainer, &self.output)?);
        // The run is over, its state is of no more use.
        let _ = fs::remove_file(&checkpoint);
        println!("next: pageformer export {} -o card/", self.output.display());
        Ok(())
    }
}

/// The tokens and the template that a recipe's sequences need.
fn frame(recipe: &Recipe, tokenizer: &Tokenizer) -> Frame {
    let end =
        tokenizer.tokens().iter().position(|t| *t == Token::Control(END_OF_TEXT.into())).map(|id| id as u32);
    let seq_len = recipe.data.seq_len.unwrap_or(recipe.model.max_seq as usize);
    Frame { bos: end, end, chat: recipe.data.chat(), seq_len }
}
