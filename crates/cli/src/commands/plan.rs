//! `pageformer plan`.

mod chart;
mod target;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_engine::{PlanError, Request, Speculation};
use pageformer_sim::boards::{BOARDS, BUSES, Board, Bus};
use pageformer_sim::{Phase, Prediction, Setup, TYPICAL, predict};
use pageformer_vram::Arena;
use serde_json::{Value, json};

use crate::card::CardArg;
use crate::place::Place;
use crate::session::{advise, buffer, memory_table};
use crate::ui::{Table, bytes, parse_bytes};

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
    pageformer plan --board list")]
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
    /// Say what would reach so many tokens a second
    #[arg(long, value_name = "TOKENS")]
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
    request: Option<Request>,
}

impl Asked<'_> {
    fn predict(&self, ram: usize, setup: &Setup<'_>) -> Result<Prediction> {
        let mut memory = buffer(ram);
        let mut arena = Arena::new(&mut memory);
        let opened = self.card.open(&mut arena)?;
        predict(opened, arena, ram / 8 * 8, self.request.as_ref(), setup).map_err(|error| match error {
            pageformer_engine::Error::Plan(error) => advise(error),
            error => anyhow::Error::from(error).context(self.card.name()),
        })
    }

    /// Tokens a second with so much RAM; none if that is too little.
    fn speed(&self, ram: usize, setup: &Setup<'_>) -> Option<f64> {
        Some(self.predict(ram, setup).ok()?.decode.tokens_per_s())
    }
}

impl Plan {
    pub fn run(self) -> Result<()> {
        if self.place.board.as_deref() == Some("list") {
            list(self.json);
            return Ok(());
        }
        if self.target.is_some_and(|target| !(target > 0.0 && target.is_finite())) {
            bail!("--target takes tokens a second, such as 10");
        }
        let setup = self.place.setup_of(self.place.board.as_deref().unwrap_or(DEFAULT_BOARD))?;
        let ram = self.ram.unwrap_or(setup.board.ram);
        let request = (self.context.is_some() || self.batch.is_some()).then(|| Request {
            context: self.context,
            batch: self.batch,
            speculation: Speculation::Auto,
            ..Request::default()
        });
        let asked = Asked { card: &self.card, request };
        let prediction = asked.predict(ram, &setup)?;
        // What is compared should differ in RAM alone.
        let context = Some(prediction.plan.context);
        let fixed =
            Request { context, batch: self.batch, speculation: Speculation::Auto, ..Request::default() };
        let asked = Asked { card: &self.card, request: Some(fixed) };
        let curve = chart::curve(&asked, &prediction, &setup)?;
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
            println!("{:#}", self.object(&prediction, &setup, ram, &curve, &answers));
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
        if setup.pages_ahead() > 0 {
            println!("reads ahead: up to {} pages, in the second core's own memory", setup.pages_ahead());
        }
        println!("\n{}", speeds(&prediction));
        print!("{}", chart::text(&curve, ram));
        for answer in &answers {
            println!("\n{answer}");
        }
        Ok(())
    }

    fn object(
        &self,
        prediction: &Prediction,
        setup: &Setup<'_>,
        ram: usize,
        curve: &[(usize, f64)],
        answers: &[String],
    ) -> Value {
        let plan = &prediction.plan;
        let parts: serde_json::Map<_, _> = plan
            .parts()
            .map(|(part, bytes)| (part.to_string().to_lowercase().replace(' ', "_"), json!(bytes)))
            .collect();
        json!({
            "predicted": true,
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
            "decode_tokens_per_s_over_ram": curve,
            "target": answers,
        })
    }
}

fn phase(phase: &Phase) -> Value {
    let n = f64::from(phase.tokens);
    json!({
        "tokens_per_s": phase.tokens_per_s(),
        "bytes_per_token": phase.pages_per_token() * 512.0,
        "reads_per_token": phase.stats.commands as f64 / n,
        "reading_ms_per_token": phase.reading.as_secs_f64() * 1e3 / n,
        "computing_ms_per_token": phase.computing.as_secs_f64() * 1e3 / n,
        "int8_products_per_token": phase.work.macs / n,
        "f32_operations_per_token": phase.work.floats / n,
        "limited_by": limit(phase),
    })
}

fn limit(phase: &Phase) -> &'static str {
    if phase.waits_for_card() { "card" } else { "processor" }
}

fn pinned(prediction: &Prediction) -> String {
    let pinning = &prediction.plan.pinning;
    format!(
        "{} positions, {} of them a pass when a prompt is read; {} of {} tape pages pinned ({:.1} %), runs of {} pages",
        prediction.plan.context,
        prediction.plan.batch,
        pinning.pinned,
        pinning.tape,
        100.0 * f64::from(pinning.pinned) / f64::from(pinning.tape.max(1)),
        pinning.ring,
    )
}

/// Both phases side by side.
fn speeds(prediction: &Prediction) -> Table {
    let mut table = Table::new([
        "predicted".to_string(),
        format!("prompt of {}", prediction.prefill.tokens),
        format!("{} tokens after it", prediction.decode.tokens),
    ]);
    let phases = [&prediction.prefill, &prediction.decode];
    let mut row = |name: &str, value: &dyn Fn(&Phase) -> String| {
        table.row([name.to_string(), value(phases[0]), value(phases[1])]);
    };
    let ms = |time: std::time::Duration, phase: &Phase| {
        format!("{:.2}", time.as_secs_f64() * 1e3 / f64::from(phase.tokens))
    };
    row("tokens/s", &|phase| format!("{:.2}", phase.tokens_per_s()));
    row("limited by", &|phase| limit(phase).to_string());
    row("read per token", &|phase| bytes((phase.pages_per_token() * 512.0) as u64));
    row("reads per token", &|phase| format!("{:.1}", phase.stats.commands as f64 / f64::from(phase.tokens)));
    row("ms per token reading", &|phase| ms(phase.reading, phase));
    row("ms per token computing", &|phase| ms(phase.computing, phase));
    row("ms per token in all", &|phase| ms(phase.time, phase));
    table
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
