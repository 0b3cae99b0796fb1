//! `pageformer eval`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use pageformer_engine::Request;
use pageformer_model::{Model, Reference, Sample, Score, Scorer, documents, evaluate, log_softmax};
use serde_json::json;

use super::eval_chat::eval_chat;
use crate::card::CardArg;
use crate::session::{HostSession, Tuning, buffer, explain, start};
use crate::ui::{Progress, Table, parse_bytes, parse_count};

/// Measures how well a model predicts a text. A card is run by the int8 engine, a model folder by the f32
/// reference, so that the difference is what quantization costs.
#[derive(Args)]
#[command(group(ArgGroup::new("what").args(["text", "chat"]).required(true)), after_help = "Examples:\n  \
    pageformer eval card/ --text stories.txt --separator '<|endoftext|>' --documents 20\n  \
    pageformer eval model/ --text stories.txt --separator '<|endoftext|>' --documents 20\n  \
    pageformer eval card/ --chat corpora/chat --sample 1000 --wrong\n\n\
    Each document stands alone: begin token first, cut at the context. Bits per byte compare models with\n\
    different tokenizers.")]
pub struct Eval {
    /// A card (folder or image) or a model folder [default: the chat model that ships with this program]
    model: Option<PathBuf>,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A corpus of questions with right answers instead: a folder with intents.json, heldout.jsonl, train.jsonl
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["separator", "documents"])]
    chat: Option<PathBuf>,
    /// Ask only N of the training questions, evenly spread
    #[arg(long, value_name = "N", requires = "chat")]
    sample: Option<usize>,
    /// Show the wrong answers, too
    #[arg(long, requires = "chat")]
    wrong: bool,
    /// What stands between documents; without it, the whole text is one
    #[arg(long, default_value = "", hide_default_value = true)]
    separator: String,
    /// Only the first N documents
    #[arg(long, value_name = "N", value_parser = parse_count)]
    documents: Option<usize>,
    /// Positions at most [default: the model's own]
    #[arg(long, value_name = "POSITIONS")]
    context: Option<u32>,
    /// RAM for the int8 engine; the result is the same for any [default: enough for everything]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    ram: Option<usize>,
    #[command(flatten)]
    tuning: Tuning,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        if let Some(corpus) = &self.chat {
            let mut memory = buffer(self.ram.unwrap_or_else(|| self.enough()));
            let request = Request {
                context: self.context,
                batch: self.tuning.batch,
                speculation: self.tuning.speculate,
                ..Request::default()
            };
            let mut session = start(&self.card_arg(), &mut memory, &request, &self.tuning)?;
            return eval_chat(&mut session, corpus, self.sample, self.wrong, self.json);
        }
        let path = self.text.clone().unwrap_or_default();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let documents = documents(&text, &self.separator);
        let documents = &documents[..self.documents.unwrap_or(usize::MAX).min(documents.len())];
        if documents.is_empty() {
            bail!("{}: no document to score; check --separator and --documents", path.display());
        }
        let (score, engine) =
            if let Some(model) = self.model.as_ref().filter(|m| m.join("config.json").is_file()) {
                (self.reference(model, documents)?, "f32 reference")
            } else {
                (self.card(documents)?, "int8 engine")
            };
        if self.json {
            let object = json!({
                "engine": engine,
                "documents": score.documents,
                "tokens": score.tokens,
                "bytes": score.bytes,
                "nll_per_token": score.nll_per_token(),
                "bits_per_byte": score.bits_per_byte(),
                "perplexity": score.perplexity(),
            });
            println!("{object:#}");
            return Ok(());
        }
        let mut table = Table::new([engine, ""]);
        table.row(["documents".into(), score.documents.to_string()]);
        table.row(["tokens".into(), score.tokens.to_string()]);
        table.row(["NLL, nats per token".into(), format!("{:.4}", score.nll_per_token())]);
        table.row(["bits per byte".into(), format!("{:.4}", score.bits_per_byte())]);
        table.row(["perplexity".into(), format!("{:.3}", score.perplexity())]);
        print!("{table}");
        Ok(())
    }

    fn card_arg(&self) -> CardArg {
        CardArg { path: self.model.clone() }
    }

    /// RAM for everything on the card: twice its files and some, of which only what is used is ever touched.
    fn enough(&self) -> usize {
        self.model.as_deref().map_or(0, size_on_disk) + (256 << 20)
    }

    fn reference(&self, model: &Path, documents: &[&str]) -> Result<Score> {
        let (mut model, tokenizer) = Model::load(model)?;
        if let Some(context) = self.context {
            if context == 0 || context > model.shape.max_seq {
                bail!("--context {context} is not possible: this model has 1 to {}", model.shape.max_seq);
            }
            model.shape.max_seq = context;
        }
        let context = model.shape.max_seq as usize;
        let samples: Vec<Sample> =
            documents.iter().map(|text| Sample::new(text, &tokenizer, model.bos, context)).collect();
        let mut progress = Progress::new("scoring");
        let all = samples.len() as u64;
        let score =
            evaluate(&samples, &mut Reference::new(&model)?, |s| progress.set(s.documents as u64, all))?;
        Ok(score)
    }

    fn card(&self, documents: &[&str]) -> Result<Score> {
        let ram = self.ram.unwrap_or_else(|| self.enough());
        let mut memory = buffer(ram);
        let request = Request {
            context: self.context,
            batch: self.tuning.batch.or(self.ram.is_none().then_some(16)),
            all_logits: true,
            ..Request::default()
        };
        let mut session = start(&self.card_arg(), &mut memory, &request, &self.tuning)?;
        let samples = documents.iter().map(|text| sample(&mut session, text)).collect::<Result<Vec<_>>>()?;
        let mut progress = Progress::new("scoring");
        let all = samples.len() as u64;
        evaluate(&samples, &mut CardScorer(&mut session), |s| progress.set(s.documents as u64, all))
    }
}

/// Twice the bytes of a card's files, or of an image as far as a card can reach.
fn size_on_disk(path: &Path) -> usize {
    let own = fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 });
    let inside = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok());
    2 * (own.min(256 << 20) + inside.map(|m| m.len()).sum::<u64>()) as usize
}

/// A document as the card's own tokenizer encodes it.
fn sample(session: &mut HostSession<'_>, text: &str) -> Result<Sample> {
    let (bos, context) = (session.manifest().bos, session.engine().plan().context as usize);
    let mut ids: Vec<u32> = bos.into_iter().map(u32::from).collect();
    session
        .encode(text, &mut |token| {
            ids.push(u32::from(token));
            Ok(())
        })
        .map_err(explain)?;
    ids.truncate(context);
    let mut bytes = 0;
    for (place, id) in ids.iter().enumerate() {
        // The first token is given: BOS, or the text's own first.
        if place > 0 {
            session.decode(*id as u16, &mut |piece| bytes += piece.len())?;
        }
    }
    // The space that the tokenizer puts before a text is not the text's.
    if bos.is_some() && ids.len() > 1 && session.tokenizer().strips_first_space() {
        let mut first = Vec::new();
        session.decode(ids[1] as u16, &mut |piece| first.extend_from_slice(piece))?;
        bytes -= usize::from(first.starts_with(b" "));
    }
    Ok(Sample { ids, bytes })
}

/// Scores with the int8 engine.
struct CardScorer<'a, 'm>(&'a mut HostSession<'m>);

impl Scorer for CardScorer<'_, '_> {
    type Error = anyhow::Error;

    fn score(&mut self, ids: &[u32]) -> Result<f64> {
        self.0.reset();
        let engine = self.0.engine_mut();
        let batch = engine.plan().batch as usize;
        let ids: Vec<u16> = ids.iter().map(|id| *id as u16).collect();
        let mut wanted = ids.iter().skip(1);
        let mut nll = 0.0;
        for chunk in ids.chunks(batch) {
            // The last row has nothing to predict.
            for (logits, token) in engine.step_all(chunk).map_err(explain)?.zip(&mut wanted) {
                nll -= log_softmax(logits, u32::from(*token));
            }
        }
        Ok(nll)
    }
}
