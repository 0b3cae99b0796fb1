//! `pageformer drafts`.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use pageformer_card::PAGE_BYTES;
use pageformer_engine::{Request, Sampler, Speculated, Speculation};
use pageformer_toolchain::drafts;

use crate::card::CardArg;
use crate::session::{HostSession, ThreadsArg, Tuning, buffer, explain, start};
use crate::talks::{Talk, talks};
use crate::ui::{Progress, Table, bytes, parse_bytes, parse_count};

/// Tokens of a reply at most.
const MAX_TOKENS: u32 = 80;
/// Pages of a table where none are given.
pub const PAGES: u32 = 16;

/// Adds drafts.bin to a card, a table of what often follows what: a device guesses from it and checks the guesses, several in one pass
/// over the tape. The text stays the same; it comes faster where the card is what is waited for.
#[derive(Args)]
#[command(group(ArgGroup::new("texts").args(["data", "measure"]).required(true)), after_help = "Examples:\n  \
    pageformer drafts card/ --data stories.txt --separator '<|endoftext|>'\n  \
    pageformer drafts models/chat/card --data corpora/chat/train.jsonl --pages 16\n  \
    pageformer drafts --measure corpora/chat/heldout.jsonl --ram 48K        # the default model\n\n\
    Data are what the model was trained on: chats (.jsonl or two lines a turn) for a model that chats,\n\
    else texts. No other file of the card changes. Measuring needs texts that the table was not made from.")]
pub struct DraftsArgs {
    #[command(flatten)]
    card: CardArg,
    /// The texts to learn from
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// What stands between texts; without it, a file is one
    #[arg(long, default_value = "", hide_default_value = true)]
    separator: String,
    /// Pages of the table
    #[arg(long, value_name = "PAGES", default_value_t = PAGES, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pages: u32,
    /// Say what guessing saves when the questions of this file are asked, or its texts continued
    #[arg(long, value_name = "FILE")]
    measure: Option<PathBuf>,
    /// RAM of a measurement, as on a board [default: 256K; 48K for the default model]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "measure")]
    ram: Option<usize>,
    /// Positions of a measurement [default: the model's own]
    #[arg(long, value_name = "POSITIONS", requires = "measure")]
    context: Option<u32>,
    /// Measure with the first N texts or chats only
    #[arg(long, value_name = "N", requires = "measure", value_parser = parse_count)]
    documents: Option<usize>,
    #[command(flatten)]
    tuning: Tuning,
}

impl DraftsArgs {
    pub fn run(self) -> Result<()> {
        match &self.measure {
            Some(file) => self.measure(file),
            None => self.write(),
        }
    }

    fn write(&self) -> Result<()> {
        let dir = match &self.card.path {
            Some(path) if path.is_dir() => path,
            Some(path) if path.is_file() => bail!(
                "{}: a table goes into the folder of a card; name that, and make an image of it afterwards, with `pageformer image`",
                path.display()
            ),
            Some(path) => bail!("{}: no such folder; make a card with `pageformer export`", path.display()),
            None => bail!(
                "the default model is part of this program; name the folder of a card that the table goes into: \
                 `pageformer drafts card/ --data FILE`"
            ),
        };
        write_drafts(&self.card, &self.data, &self.separator, self.pages)?;
        println!("next: pageformer drafts {} --measure TEXTS", dir.display());
        Ok(())
    }

    fn measure(&self, file: &PathBuf) -> Result<()> {
        let request = Request {
            context: self.context,
            batch: self.tuning.batch,
            speculation: self.tuning.speculate,
            ..Request::default()
        };
        if request.speculation == Speculation::Off {
            bail!("with --speculate off there is nothing to measure");
        }
        let mut memory = buffer(self.ram.unwrap_or(self.card.default_ram()));
        let mut session = start(&self.card, &mut memory, &request, &self.tuning)?;
        let talks = talks(session.manifest(), std::slice::from_ref(file), &self.separator)?;
        let talks = &talks[..self.documents.unwrap_or(usize::MAX).min(talks.len())];
        let plan = *session.engine().plan();
        println!(
            "{} of {} tape pages in RAM, {} positions a pass, {} of them with logits; {} chats or texts",
            plan.pinning.pinned,
            plan.pinning.tape,
            plan.batch,
            plan.logits_rows,
            talks.len()
        );
        let mut table = Table::new([
            "guesses",
            "temperature",
            "tokens",
            "passes",
            "tokens/pass",
            "mean of replies",
            "right",
            "pages/token",
        ]);
        for temperature in [0.0, 0.8] {
            let mut plain = None;
            for (name, how, from_text, from_table) in [
                ("none", Speculation::Off, false, false),
                ("text so far", request.speculation, true, false),
                ("table", request.speculation, false, true),
                ("both", request.speculation, true, true),
            ] {
                if from_table && !session.has_drafts() {
                    continue;
                }
                session.speculation = how;
                session.guess_from(from_text, from_table);
                let measured = ask_all(&mut session, talks, temperature)?;
                if *plain.get_or_insert(measured.said) != measured.said {
                    bail!(
                        "`{name}` at temperature {temperature} said something else: this must not happen; please report it"
                    );
                }
                table.row(measured.row(name, temperature));
            }
        }
        print!("{table}");
        match session.drafts_fault() {
            Some(fault) => println!("(nothing is guessed from the card's table: {fault})"),
            None if !session.has_drafts() => {
                println!("(the card has no table; `pageformer drafts CARD --data TEXTS` makes one)");
            }
            None => {}
        }
        Ok(())
    }
}

/// Learns a table from `files` and puts it into the folder of `card`.
pub fn write_drafts(card: &CardArg, files: &[PathBuf], separator: &str, pages: u32) -> Result<()> {
    let mut memory = buffer(256 << 20);
    let (speculate, threads) = (Speculation::Off, ThreadsArg::ONE);
    let tuning = Tuning { batch: None, kernel: "auto".into(), speculate, threads };
    let mut session = start(card, &mut memory, &Request::default(), &tuning)?;
    let talks = talks(session.manifest(), files, separator)?;
    let mut progress = Progress::new("reading");
    let mut documents = Vec::new();
    for (number, talk) in talks.iter().enumerate() {
        documents.push(talk.document(&mut session)?);
        progress.set(number as u64, talks.len() as u64);
    }
    drop(progress);
    let made = drafts(&documents, session.manifest().shape.vocab, pages);
    let path = card.path.clone().unwrap_or_default().join("drafts.bin");
    fs::write(&path, made.pages.as_flattened()).with_context(|| path.display().to_string())?;
    println!(
        "{}: {}; contexts of {} tokens, {} of {} kept; {:.1} % of the tokens of texts like these are guessed right",
        path.display(),
        bytes((made.pages.len() * PAGE_BYTES) as u64),
        made.context,
        made.kept,
        made.contexts,
        100.0 * made.right
    );
    // Of texts like these, a good table guesses a third or half.
    if made.right < 0.05 {
        let separator = match (separator.is_empty(), talks.len() == files.len()) {
            (true, true) => ", and each file is one text: --separator says what stands between texts",
            _ => "",
        };
        println!(
            "warning: hardly anything is guessed right; are they what the model was trained on{separator}?"
        );
    }
    Ok(())
}

/// What replies took.
struct Measured {
    counts: Speculated,
    /// Tokens a pass, the mean of all replies.
    mean: f64,
    pages: u64,
    /// A hash of all texts.
    said: u64,
}

impl Measured {
    fn row(&self, name: &str, temperature: f32) -> [String; 8] {
        let counts = &self.counts;
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        [
            name.into(),
            temperature.to_string(),
            counts.tokens.to_string(),
            counts.passes.to_string(),
            format!("{:.2}", share(counts.tokens, counts.passes)),
            format!("{:.2}", self.mean),
            format!("{:.0} % of {}", 100.0 * share(counts.accepted, counts.drafted), counts.drafted),
            format!("{:.0}", share(self.pages, counts.tokens)),
        ]
    }
}

/// Asks everything, each chat or text afresh.
fn ask_all(session: &mut HostSession<'_>, talks: &[Talk], temperature: f32) -> Result<Measured> {
    let stop = session.manifest().chat.map(|chat| chat.stop).unwrap_or_default();
    let (before, pages) = (*session.speculated(), session.engine().vram().stats().streamed);
    let (mut ratios, mut said) = (Vec::new(), DefaultHasher::new());
    let mut progress = Progress::new("asking");
    for (number, talk) in talks.iter().enumerate() {
        session.reset();
        session.sampler = Sampler::new(temperature, 0, 1.0, number as u64);
        for prompt in talk.prompts(session.manifest()) {
            let before = *session.speculated();
            let reply = session.reply(&prompt, stop.as_str(), MAX_TOKENS, &mut |text| {
                said.write(text);
                true
            });
            match reply {
                Ok(reply) => said.write_u32(reply.tokens),
                // The conversation is longer than this memory's context.
                Err(pageformer_engine::Error::ContextFull { .. }) => break,
                Err(error) => return Err(explain(error)),
            }
            let this = session.speculated().since(&before);
            ratios.push(this.tokens as f64 / this.passes.max(1) as f64);
        }
        progress.set(number as u64, talks.len() as u64);
    }
    Ok(Measured {
        counts: session.speculated().since(&before),
        mean: ratios.iter().sum::<f64>() / ratios.len().max(1) as f64,
        pages: session.engine().vram().stats().streamed - pages,
        said: said.finish(),
    })
}
