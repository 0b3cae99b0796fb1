//! `pageformer plan`.

mod chart;
mod target;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use pageformer_engine::{Part, PlanError, Request, Speculation};
use pageformer_sim::boards::{BOARDS, BUSES, Board, Bus};
use pageformer_sim::{PassWork, Phase, Prediction, Setup, TYPICAL, predict};
use pageformer_vram::Arena;
use serde_json::{Value, json};

use crate::card::CardArg;
use crate::place::{Place, within_board};
use crate::session::{advise, buffer, memory_table, parse_speculation, work};
use crate::talks::{Talk, talks, usual};
use crate::ui::{Table, bytes, parse_bytes, parse_count, parse_speed};

/// The board that is meant when none is named.
const DEFAULT_BOARD: &str = "esp32s3";

/// Predicts what a model would do on a board: the memory plan, and the speed with what limits it.
///
/// The engine itself runs over the card with the board's memory plan and a virtual clock, so that every page and command is the board's; what
/// each takes is from published measurements and from instructions counted on an emulated Cortex-M3. Nothing here was measured on a board.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer plan card/ --board esp32s3 --sd spi-20\n  \
    pageformer plan card/ --board rp2040 --context 128 --target 10\n  \
    pageformer plan card/ --board esp32s3 --sd sdmmc-4 --svg speed.svg\n  \
    pageformer plan --board list\n\n\
    Without --board it is an esp32s3.\n\
    Everything is predicted, nothing was measured on a board: the engine runs over the card with the\n\
    board's memory plan and by a virtual clock; what a page, a command and an instruction take there is\n\
    from the sources that `--board list` names.")]
pub struct Plan {
    #[command(flatten)]
    card: CardArg,
    #[command(flatten)]
    place: Place,
    /// RAM for the model [default: the board's]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    ram: Option<usize>,
    /// Positions [default: as the board's firmware chooses]
    #[arg(long, value_name = "POSITIONS")]
    context: Option<u32>,
    /// Positions of one pass over the tape when a prompt is read, 1 to 32 [default: as the plan chooses]
    #[arg(long, value_name = "POSITIONS")]
    batch: Option<u32>,
    /// Tokens that are guessed ahead and checked in one pass: auto (if the board's firmware does), off, or a number
    #[arg(long, value_name = "GUESSES", default_value = "auto", value_parser = parse_speculation)]
    speculate: Speculation,
    /// Chats or texts whose first questions or words are replied to [default: a few usual ones]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// What stands between texts; without it, a file is one
    #[arg(long, default_value = "", hide_default_value = true, requires = "text")]
    separator: String,
    /// Reply to the first N of them only
    #[arg(long, value_name = "N", requires = "text", default_value_t = 20, value_parser = parse_count)]
    documents: usize,
    /// Say what would reach so many tokens a second
    #[arg(long, value_name = "TOKENS", value_parser = parse_speed, allow_negative_numbers = true)]
    target: Option<f64>,
    /// Draw tokens a second over RAM into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// A card whose speed is asked for.
struct Asked<'a> {
    card: &'a CardArg,
    request: Request,
    /// Work of a pass, and the pages of the tape.
    work: (PassWork, u32),
    /// What the model replies to.
    prompts: Vec<String>,
}

impl Asked<'_> {
    /// What is asked of the memory plan with this board and bus.
    fn request(&self, setup: &Setup<'_>) -> Request {
        setup.request(&self.request, setup.pace(&self.work.0, self.work.1))
    }

    fn predict(&self, ram: usize, setup: &Setup<'_>) -> Result<Prediction> {
        let mut memory = buffer(ram);
        let mut arena = Arena::new(&mut memory);
        let opened = self.card.open(&mut arena)?;
        let request = self.request(setup);
        predict(opened, arena, ram / 8 * 8, &request, setup, &self.prompts).map_err(|error| match error {
            pageformer_engine::Error::Plan(error) => advise(error),
            error => anyhow::Error::from(error).context(self.card.name()),
        })
    }

    /// Tokens a second with so much RAM; none if that is too little.
    fn speed(&self, ram: usize, setup: &Setup<'_>) -> Option<f64> {
        Some(self.predict(ram, setup).ok()?.reply().tokens_per_s())
    }
}

impl Plan {
    pub fn run(self) -> Result<()> {
        if self.place.board.as_deref() == Some("list") {
            list(self.json);
            return Ok(());
        }
        let setup = self.place.setup_of(self.place.board.as_deref().unwrap_or(DEFAULT_BOARD))?;
        let ram = self.ram.unwrap_or(setup.board.ram);
        within_board(ram, &setup)?;
        let request = Request {
            context: self.context,
            batch: self.batch,
            speculation: self.speculate,
            ..Request::default()
        };
        let (prompts, replies) = self.prompts()?;
        let mut asked = Asked { card: &self.card, request, work: work(&self.card)?, prompts };
        let prediction = asked.predict(ram, &setup)?;
        let tips = self.tips(&asked, &prediction, &setup, ram);
        // What is compared should differ in RAM alone.
        asked.request.context = Some(prediction.plan.context);
        asked.request.page_metadata = prediction.plan.page_metadata;
        let curve = chart::curve(&asked, &prediction, &setup, ram)?;
        if let Some(file) = &self.svg {
            let title =
                format!("{} on {}, {} (predicted)", self.card.name(), setup.board.name, setup.bus.name);
            fs::write(file, chart::svg(&curve, ram, &title)).with_context(|| file.display().to_string())?;
        }
        let answers = match self.target {
            Some(target) => target::answers(&asked, &prediction, ram, &setup, &curve, target)?,
            None => Vec::new(),
        };
        if self.json {
            println!("{:#}", self.object(&prediction, &setup, (ram, &replies), &curve, (&answers, &tips)));
            return Ok(());
        }
        println!(
            "{} on {} ({}), {}: predicted, not measured\n",
            self.card.name(),
            setup.board.name,
            setup.board.about,
            setup.bus.about
        );
        print!("{}", memory_table(&prediction.plan));
        println!("\n{}", pinned(&prediction));
        if setup.pages_ahead() > 0 && prediction.plan.pinning.ring > 0 {
            println!("reads ahead: up to {} pages, in the second core's own memory", setup.pages_ahead());
        }
        println!("\n{}", speeds(&prediction));
        println!("{}", guesses(&prediction, &replies));
        for tip in &tips {
            println!("tip: {tip}");
        }
        print!("\n{}", chart::text(&curve, ram, setup.board.ram));
        for answer in &answers {
            println!("\n{answer}");
        }
        Ok(())
    }

    /// What would make replies faster, by what there is already.
    fn tips(&self, asked: &Asked<'_>, prediction: &Prediction, setup: &Setup<'_>, ram: usize) -> Vec<String> {
        let (mut tips, plan) = (Vec::new(), &prediction.plan);
        let guesses_pay = prediction.guessed.is_some() && prediction.decode.waits_for_card();
        match (&prediction.drafts, &self.card.path) {
            (Err(fault), _) => tips.push(format!(
                "nothing is guessed from the card's table: {fault}, or make the table alone anew: `pageformer drafts`"
            )),
            (Ok(false), Some(card)) if guesses_pay && card.is_dir() => tips.push(format!(
                "this card has no table to guess from; `pageformer drafts {} --data TEXTS [--separator TEXT]`, with what the model was \
                 trained on, makes more tokens come of a pass",
                card.display()
            )),
            _ => {}
        }
        let kv_cache = plan.parts().find(|(part, _)| *part == Part::KvCache).map_or(0, |(_, bytes)| bytes);
        // Room for the prompts and replies of a prediction.
        let (context, now) = (4 * TYPICAL, prediction.reply().tokens_per_s());
        if self.context.is_none() && kv_cache > ram / 2 && plan.context >= 2 * context {
            let request = Request { context: Some(context), ..asked.request };
            let shorter = Asked { request, prompts: asked.prompts.clone(), ..*asked };
            // Shorter conversations are not worth less than this.
            if let Some(speed) = shorter.speed(ram, setup).filter(|speed| *speed > 1.2 * now) {
                tips.push(format!(
                    "the KV cache of {} positions takes {} of {}; with --context {context}, where conversations end sooner, pages have more: \
                     {speed:.2} tokens/s instead of {now:.2}",
                    plan.context,
                    bytes(kv_cache as u64),
                    bytes(ram as u64)
                ));
            }
        }
        tips
    }

    /// What the model replies to, and what to call it.
    fn prompts(&self) -> Result<(Vec<String>, String)> {
        let mut memory = buffer(1 << 20);
        let manifest = self.card.open(&mut Arena::new(&mut memory))?.manifest;
        let Some(file) = &self.text else {
            let prompts = usual(&manifest);
            let replies = format!("{} usual prompts; --text FILE takes others", prompts.len());
            return Ok((prompts, replies));
        };
        let talks = talks(&manifest, std::slice::from_ref(file), &self.separator)?;
        let first = |talk: &Talk| talk.prompts(&manifest).into_iter().next();
        let prompts: Vec<_> = talks.iter().filter_map(first).take(self.documents).collect();
        let replies = format!("{} prompts of {}", prompts.len(), file.display());
        Ok((prompts, replies))
    }

    fn object(
        &self,
        prediction: &Prediction,
        setup: &Setup<'_>,
        (ram, replies): (usize, &str),
        curve: &[(usize, f64)],
        (answers, tips): (&[String], &[String]),
    ) -> Value {
        let plan = &prediction.plan;
        let parts: serde_json::Map<_, _> = plan
            .parts()
            .map(|(part, bytes)| (part.to_string().to_lowercase().replace(' ', "_"), json!(bytes)))
            .collect();
        json!({
            "predicted": true,
            "model": self.card.id(),
            "board": setup.board.name,
            "sd": setup.bus.name,
            "ram": ram,
            "ram_bytes": parts,
            "context": plan.context,
            "batch": plan.batch,
            "tape_pages": plan.pinning.tape,
            "pinned_pages": plan.pinning.pinned,
            "pages_read_ahead": setup.pages_ahead(),
            "prefill": phase(&prediction.prefill),
            "decode": phase(&prediction.decode),
            "decode_with_guesses": prediction.guessed.as_ref().map(phase),
            "replies_to": replies,
            "decode_tokens_per_s_over_ram": curve,
            "target": answers,
            "tips": tips,
        })
    }
}

fn phase(phase: &Phase) -> Value {
    let n = phase.tokens as f64;
    json!({
        "tokens_per_s": phase.tokens_per_s(),
        "tokens": phase.tokens,
        "tokens_per_pass": phase.tokens_per_pass(),
        "bytes_per_token": phase.pages_per_token() * 512.0,
        "reads_per_token": phase.stats.commands as f64 / n,
        "reading_ms_per_token": phase.reading.as_secs_f64() * 1e3 / n,
        "computing_ms_per_token": phase.computing.as_secs_f64() * 1e3 / n,
        "int8_products_per_token": phase.work.macs / n,
        "f32_operations_per_token": phase.work.floats / n,
        "tile_outputs_per_token": phase.work.outputs / n,
        "limited_by": limit(phase),
    })
}

fn limit(phase: &Phase) -> &'static str {
    if phase.waits_for_card() { "card" } else { "processor" }
}

fn pinned(prediction: &Prediction) -> String {
    let pinning = &prediction.plan.pinning;
    let pages = match pinning.ring {
        0 => format!("all {} tape pages pinned, so that no pass reads any", pinning.tape),
        ring => format!(
            "{} of {} tape pages pinned ({:.1} %), runs of {ring} pages",
            pinning.pinned,
            pinning.tape,
            100.0 * f64::from(pinning.pinned) / f64::from(pinning.tape.max(1)),
        ),
    };
    format!(
        "{} positions, {} of them a pass when a prompt is read; {pages}",
        prediction.plan.context, prediction.plan.batch
    )
}

/// All phases side by side.
fn speeds(prediction: &Prediction) -> Table {
    let guesses = prediction.guessed.iter().map(|_| "with guesses".to_string());
    let heads = [
        "predicted".to_string(),
        format!("prompt of {}", prediction.prefill.tokens),
        format!("{} tokens of replies", prediction.decode.tokens),
    ];
    let mut table = Table::new(heads.into_iter().chain(guesses));
    let phases: Vec<&Phase> =
        [&prediction.prefill, &prediction.decode].into_iter().chain(&prediction.guessed).collect();
    let mut row = |name: &str, value: &dyn Fn(&Phase) -> String| {
        table.row([name.to_string()].into_iter().chain(phases.iter().map(|phase| value(phase))));
    };
    let per_token = |amount: f64, phase: &Phase| amount / phase.tokens.max(1) as f64;
    let ms = |time: std::time::Duration, phase: &Phase| {
        format!("{:.2}", per_token(time.as_secs_f64() * 1e3, phase))
    };
    row("tokens/s", &|phase| format!("{:.2}", phase.tokens_per_s()));
    row("tokens per pass", &|phase| format!("{:.2}", phase.tokens_per_pass()));
    row("limited by", &|phase| limit(phase).to_string());
    row("read per token", &|phase| bytes((phase.pages_per_token() * 512.0) as u64));
    row("reads per token", &|phase| format!("{:.1}", per_token(phase.stats.commands as f64, phase)));
    row("ms per token reading", &|phase| ms(phase.reading, phase));
    row("+ computing", &|phase| ms(phase.computing, phase));
    if phases.iter().any(|phase| !phase.both().is_zero()) {
        row("- both at once", &|phase| ms(phase.both(), phase));
    }
    row("= ms per token in all", &|phase| ms(phase.time, phase));
    table
}

/// What the replies are to, and what guesses bring.
fn guesses(prediction: &Prediction, replies: &str) -> String {
    let plan = &prediction.plan;
    let guesses = match (&prediction.guessed, plan.speculation) {
        (Some(guessed), _) => format!(
            "up to {} {} a pass make them {:.2} times as fast, by {:.2} tokens a pass",
            plan.logits_rows - 1,
            if plan.logits_rows == 2 { "guess" } else { "guesses" },
            prediction.decode.time.as_secs_f64() / guessed.time.as_secs_f64().max(1e-12),
            guessed.tokens_per_pass()
        ),
        (None, Speculation::Off) => "nothing is guessed ahead".to_string(),
        (None, _) => "nothing is guessed ahead: it would not pay".to_string(),
    };
    format!("replies to {replies}; {guesses}")
}

fn list(json: bool) {
    if json {
        let boards: Vec<_> = BOARDS
            .iter()
            .map(|b| json!({"name": b.name, "about": b.about, "ram": b.ram, "buses": b.buses, "source": b.source}))
            .collect();
        let buses: Vec<_> = BUSES
            .iter()
            .map(|b| json!({"name": b.name, "about": b.about, "page_us": b.page_us, "command_us": b.command_us, "source": b.source}))
            .collect();
        println!("{:#}", json!({"boards": boards, "buses": buses, "typical_prompt": TYPICAL}));
        return;
    }
    for Board { name, about, ram, clock, buses, source, .. } in &BOARDS {
        println!("{name:14} {about}");
        println!("{:14} {} for the model, {clock} MHz; {}", "", bytes(*ram as u64), buses.join(", "));
        println!("{:14} {source}\n", "");
    }
    for Bus { name, about, page_us, command_us, source } in &BUSES {
        println!("{name:14} {about}: {page_us:.1} us a page, {command_us:.0} us a read");
        println!("{:14} {source}\n", "");
    }
}

/// The RAM that the smallest plan needs, if `error` says so.
fn needed(error: &PlanError) -> Option<usize> {
    match error {
        PlanError::TooSmall { needed, .. } => Some(*needed),
        _ => None,
    }
}
