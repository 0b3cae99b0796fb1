//! `pageformer compress`.

use std::fs;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use pageformer_model::{Model, Tokenizer};
use pageformer_train::curve::{Line, chart};
use pageformer_train::data::Frame;
use pageformer_train::prune::{Masks, Method, Scope};
use pageformer_train::recipe::{DataKind, ModelRecipe, PruneRecipe, TrainRecipe};
use pageformer_train::{Compute, Example, Layout, Recipe, Trainer};
use serde_json::json;

use crate::measure::{Row, in_f32, in_int8};
use crate::training::{Sets, checkpoint, ready, run, save};
use crate::ui::{Table, parse_block};

/// Prunes a model to a density, trains it on while it is pruned (with the engine's int8 arithmetic simulated, so
/// that what is trained is what runs), and measures what each step costs on text that was not trained on.
#[derive(Args)]
#[command(group(ArgGroup::new("densities").args(["density", "sweep"]).required(true)), after_help = "Examples:\n  \
    pageformer compress model/ -o small/ --density 0.5 --finetune stories.txt --steps 1500\n  \
    pageformer compress model/ -o small/ --density 0.5 --data stories.txt --method wanda  # one-shot\n  \
    pageformer compress model/ -o curve/ --sweep 1,0.75,0.5,0.35,0.25 --finetune stories.txt \\\n      \
    --hold-out 300\n  \
    pageformer compress model/ -o curve/ --sweep 1,0.75,0.5,0.35,0.25 --finetune stories.txt \\\n      \
    --hold-out 300 --resume                         # after Ctrl-C or a crash; what is done stays\n\n\
    Density is the share of the 4x4 cells of all matrices that is kept; the embedding counts, but is\n\
    never pruned.\n\
    At density 1 nothing is pruned: fine-tuned so, the dense model shows what the text alone is worth.\n\
    The int8 rows of the table are measured with the engine itself, on a card in memory.")]
pub struct Compress {
    /// The model folder
    model: PathBuf,
    /// The model folder to write; with --sweep, a folder of them
    #[arg(short, long)]
    output: PathBuf,
    /// Share of the cells that is kept
    #[arg(long)]
    density: Option<f64>,
    /// Several densities: makes the whole curve, as table, curve.json and curve.svg
    #[arg(long, value_delimiter = ',')]
    sweep: Vec<f64>,
    /// Blocks that are pruned together: outputs x inputs, multiples of 4 [default: the recipe's, 4x4]
    #[arg(long, value_name = "RxC", value_parser = parse_block)]
    block: Option<(u32, u32)>,
    /// What makes a block worth keeping [default: the recipe's, fisher]
    #[arg(long, value_enum)]
    method: Option<MethodArg>,
    /// Whether blocks compete with all others or within their matrix [default: the recipe's, global]
    #[arg(long, value_enum)]
    scope: Option<ScopeArg>,
    /// Text or chats to calibrate and to measure on (the part held out)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// What stands between documents of text [default: the recipe's, <|endoftext|>]
    #[arg(long)]
    separator: Option<String>,
    /// Documents or chats that are only measured on: a number, or a part below 1 [default: the recipe's, 0.05]
    #[arg(long)]
    hold_out: Option<f64>,
    /// Prune gradually while training on, on these files or those of --data; without it, one-shot
    #[arg(long, value_name = "FILE", num_args = 0..)]
    finetune: Option<Vec<PathBuf>>,
    /// Steps of the fine-tuning [default: the recipe's, 2400]
    #[arg(long)]
    steps: Option<usize>,
    /// A TOML file with the tables train, prune and distill of the fine-tuning, and data if it is not given here
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Continue a fine-tuning or a sweep that was stopped
    #[arg(long)]
    resume: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// The fine-tuning without a recipe of its own.
const FINETUNE: &str = include_str!("finetune.toml");

#[derive(Clone, Copy, ValueEnum)]
enum MethodArg {
    Magnitude,
    Wanda,
    Fisher,
    Movement,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArg {
    Global,
    Matrix,
}

/// What is compressed, and what on.
struct Job {
    model: Model,
    tokenizer: Tokenizer,
    train: Vec<Example>,
    held_out: Vec<Example>,
    recipe: Recipe,
    prune: PruneRecipe,
}

impl Compress {
    pub fn run(self) -> Result<()> {
        let densities = match self.density {
            Some(density) => vec![density],
            None => self.sweep.clone(),
        };
        if let Some(bad) = densities.iter().find(|d| !(**d > 0.0 && **d <= 1.0)) {
            bail!("a density of {bad} is not possible: above 0, at most 1");
        }
        let job = self.job()?;
        let mut rows = vec![
            in_f32("dense f32", &job.model, &job.tokenizer, 1.0, &job.held_out)?,
            in_int8("dense int8", &job.model, &job.tokenizer, 1.0, &job.held_out)?,
        ];
        for density in &densities {
            let output = match self.sweep.is_empty() {
                true => self.output.clone(),
                false => self.output.join(format!("{density}")),
            };
            let Some(new) = self.point(&job, *density, &output)? else { return Ok(()) };
            rows.extend(new);
        }
        if !self.sweep.is_empty() {
            write_curve(&rows, &self.output)?;
        }
        if self.json {
            println!("{:#}", json!({ "rows": rows }));
        } else {
            print!("{}", table(&rows));
        }
        Ok(())
    }

    /// Reads everything.
    fn job(&self) -> Result<Job> {
        let (model, tokenizer) = Model::load(&self.model)?;
        let mut recipe = match &self.recipe {
            Some(path) => Recipe::load(path)?,
            None => Recipe::parse("finetune.toml", FINETUNE)?,
        };
        let files: Vec<&PathBuf> = self.data.iter().chain(self.finetune.iter().flatten()).collect();
        if !files.is_empty() {
            recipe.data.files = files.into_iter().map(absolute).collect::<Result<_, _>>()?;
        }
        if let Some(separator) = &self.separator {
            recipe.data.separator.clone_from(separator);
        }
        recipe.data.hold_out = self.hold_out.unwrap_or(recipe.data.hold_out);
        recipe.model = ModelRecipe::of(&model.shape);
        recipe.data.kind = if model.chat.is_some() { DataKind::Chat } else { DataKind::Text };
        if let Some(chat) = &model.chat {
            (recipe.data.user, recipe.data.stop) = (chat.user.clone(), chat.stop.clone());
        }
        if let Some(steps) = self.steps {
            recipe.train.steps = steps;
        }
        let Some(mut prune) = recipe.prune.clone() else {
            bail!("the recipe has no [prune] table; it needs at least `density`, which --density replaces");
        };
        if let Some((rows, cols)) = self.block {
            prune.block = [rows as usize, cols as usize];
        }
        if let Some(method) = self.method {
            prune.method = match method {
                MethodArg::Magnitude => Method::Magnitude,
                MethodArg::Wanda => Method::Wanda,
                MethodArg::Fisher => Method::Fisher,
                MethodArg::Movement => Method::Movement,
            };
        }
        if let Some(scope) = self.scope {
            prune.scope = match scope {
                ScopeArg::Global => Scope::Global,
                ScopeArg::Matrix => Scope::Matrix,
            };
        }
        let seq_len = recipe.data.seq_len.unwrap_or(model.shape.max_seq as usize);
        let frame = Frame::of(&model, seq_len);
        let (train, held_out) = Sets::read(&recipe)?.examples(&recipe, &frame, &tokenizer)?;
        if held_out.is_empty() {
            bail!("nothing to measure on; give --hold-out a number of documents, or a part such as 0.05");
        }
        Ok(Job { model, tokenizer, train, held_out, recipe, prune })
    }

    /// One density: the rows of the table, or nothing if the user stopped.
    fn point(&self, job: &Job, density: f64, output: &Path) -> Result<Option<Vec<Row>>> {
        let one_shot = job.one_shot(density)?;
        let mut rows = vec![in_int8(
            &format!("one-shot {}", name(job.one_shot_method())),
            &one_shot,
            &job.tokenizer,
            density,
            &job.held_out,
        )?];
        if self.finetune.is_none() {
            one_shot.save(&job.tokenizer, output)?;
            return Ok(Some(rows));
        }
        let done = Recipe { prune: Some(PruneRecipe { density, ..job.prune.clone() }), ..job.recipe.clone() };
        let state = checkpoint(output);
        let tuned = match self.resume && !state.exists() && is_made_by(&done, output) {
            true => {
                eprintln!("{}: trained before", output.display());
                Some(Model::load(output)?.0)
            }
            false => self.fine_tune(job, &done, output)?,
        };
        let Some(tuned) = tuned else { return Ok(None) };
        rows.push(in_int8("fine-tuned", &tuned, &job.tokenizer, density, &job.held_out)?);
        Ok(Some(rows))
    }

    /// Trains the model on as `recipe` says and writes it; nothing if the user stopped.
    fn fine_tune(&self, job: &Job, recipe: &Recipe, output: &Path) -> Result<Option<Model>> {
        let layout = Layout::new(job.model.shape)?;
        let weights = layout.weights_of(&job.model)?;
        let (train, held_out) = (job.train.clone(), job.held_out.clone());
        let mut trainer = Trainer::new(layout, weights, train, held_out, recipe.train.clone())?;
        if let Some(prune) = &recipe.prune {
            trainer = trainer.with_pruning(prune.clone());
        }
        if let Some(distill) = &recipe.distill {
            trainer = trainer.with_teacher(&job.model, distill.into())?;
        }
        let state = checkpoint(output);
        ready(output)?;
        if !run(&mut trainer, &state, self.resume && state.exists())? {
            return Ok(None);
        }
        let mut model = trainer.model()?;
        (model.bos, model.eos) = (job.model.bos, job.model.eos.clone());
        model.chat.clone_from(&job.model.chat);
        eprintln!("{}", save(&model, &job.tokenizer, recipe, &trainer, output)?);
        let _ = fs::remove_file(&state);
        Ok(Some(model))
    }
}

/// Whether the model in a folder was made by a recipe like this.
fn is_made_by(recipe: &Recipe, folder: &Path) -> bool {
    let what_counts = |r: &Recipe| {
        let train = TrainRecipe { threads: 1, validate_every: 0, checkpoint_every: 0, ..r.train.clone() };
        (
            train,
            r.prune.clone(),
            r.distill.clone(),
            r.data.files.clone(),
            r.data.hold_out,
            r.data.separator.clone(),
        )
    };
    let made = Recipe::load(&folder.join("recipe.toml"));
    made.is_ok_and(|made| what_counts(&made) == what_counts(recipe))
}

impl Job {
    /// Movement is judged by training; without it, Fisher stands for it.
    fn one_shot_method(&self) -> Method {
        match self.prune.method {
            Method::Movement => Method::Fisher,
            method => method,
        }
    }

    /// The model pruned at once.
    fn one_shot(&self, density: f64) -> Result<Model> {
        let layout = Layout::new(self.model.shape)?;
        let mut weights = layout.weights_of(&self.model)?;
        let calibration = &self.train[..self.train.len().min(64)];
        let recipe = PruneRecipe { density, method: self.one_shot_method(), ..self.prune.clone() };
        let mut compute = Compute::new(self.recipe.train.threads);
        let masks = Masks::one_shot(&layout, &weights, &recipe, calibration, &mut compute)?;
        masks.apply(&layout, &mut weights);
        let mut model = layout.model(&weights)?;
        (model.bos, model.eos) = (self.model.bos, self.model.eos.clone());
        model.chat.clone_from(&self.model.chat);
        Ok(model)
    }
}

fn name(method: Method) -> &'static str {
    match method {
        Method::Magnitude => "magnitude",
        Method::Wanda => "Wanda",
        Method::Fisher => "Fisher",
        Method::Movement => "movement",
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(["model", "density", "NLL/token", "over f32", "bits/byte", "tape bytes", "pages/token"]);
    let base = rows.first().map_or(0.0, |r| r.nll_per_token);
    for r in rows {
        table.row([
            r.model.clone(),
            format!("{:.3}", r.density),
            format!("{:.4}", r.nll_per_token),
            format!("{:+.4}", r.nll_per_token - base),
            format!("{:.4}", r.bits_per_byte),
            r.tape_bytes.map_or("-".into(), |n| n.to_string()),
            r.pages_per_token.map_or("-".into(), |n| n.to_string()),
        ]);
    }
    table
}

/// `curve.json` and `curve.svg`: NLL over density.
fn write_curve(rows: &[Row], output: &Path) -> Result<()> {
    let points = |wanted: &str| {
        let mut points: Vec<(f64, f64)> = rows
            .iter()
            .filter(|r| r.model.starts_with(wanted))
            .map(|r| (r.density, r.nll_per_token))
            .collect();
        if points.iter().all(|p| p.0 < 1.0) {
            points.extend(rows.iter().filter(|r| r.model == "dense int8").map(|r| (1.0, r.nll_per_token)));
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let (one_shot, tuned) = (points("one-shot"), points("fine-tuned"));
    let dense = rows.iter().filter(|r| r.model == "dense f32");
    let least = rows.iter().map(|r| r.density).fold(1.0, f64::min);
    let dense = dense.flat_map(|r| [least, 1.0].map(|density| (density, r.nll_per_token))).collect();
    let mut lines = vec![Line::new("dense f32", "#888", dense)];
    // Where there is something to be seen besides it, one-shot pruning is off the scale.
    let scales = tuned.len() < 2;
    lines.push(Line { dots: true, scales, ..Line::new("one-shot", "#c66", one_shot) });
    if !scales {
        lines.push(Line { dots: true, ..Line::new("fine-tuned", "#48c", tuned) });
    }
    let svg = chart("What pruning costs", "density", "nats per token", &lines);
    let json = serde_json::to_string_pretty(&json!({ "rows": rows }))?;
    for (file, text) in [("curve.svg", svg), ("curve.json", json)] {
        let path = output.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
