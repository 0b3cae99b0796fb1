//! `pageformer bench`.

mod curves;
mod parts;
mod random;
mod yardstick;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_engine::kernels::{self, Kernel, Team};
use pageformer_engine::{Engine, Needs, Plan, Request};
use pageformer_sim::{HostCard, MemoryCard, Opened, open_memory};
use pageformer_vram::{Arena, Card, CardFile};
use serde_json::json;

use crate::card::CardArg;
use crate::session::{ThreadsArg, advise, buffer, explain};
use crate::ui::{Progress, Table, bytes, parse_bytes, parse_count};
use parts::{Measured, MeasuredTeam, Parts, Where};
use random::Dimensions;
use yardstick::Yardstick;

/// Measures how fast this PC decodes and reads prompts with the model of a card, and where the time goes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer bench card/\n  \
    pageformer bench card/ --kernel portable\n  \
    pageformer bench card/ --no-prepack\n  \
    pageformer bench card/ --ram 128K --context 128 --json\n  \
    pageformer bench --random 288,768,6,6,6,32000 --density 0.5\n  \
    pageformer bench --random 288,768,6,6,6,32000 --threads 2\n  \
    pageformer bench card/ --yardstick /tmp/yardstick\n  \
    pageformer bench --curves docs/curves\n\n\
    Greedy; the tokens themselves do not matter. Every position's step counts with the fastest of the\n\
    runs, so that other programs disturb little. Parts are measured in runs of their own, by a\n\
    stop-watch that makes steps slower, and each counts with its fastest whole run: they add up to\n\
    more than a token takes. Shares are of their sum. What matrices add is measured without\n\
    it, too: what a token takes longer than one for which nothing is multiplied and all products are 0.\n\
    With --density, both are measured of the same shape with nothing pruned as well, in turn. Of a large\n\
    head with nothing pruned, greedy decoding computes half; --logits makes both compute all.")]
pub struct Bench {
    #[command(flatten)]
    card: CardArg,
    /// Instead of a card, random weights: width, MLP width, layers, heads, KV heads, vocabulary. What does not fit this PC's
    /// memory is refused
    #[arg(long, value_name = "D,FF,LAYERS,HEADS,KV,VOCAB", conflicts_with = "path")]
    random: Option<Dimensions>,
    /// Kept share of the cells of every matrix of a random model
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1.0,
        requires = "random",
        conflicts_with = "path",
        allow_negative_numbers = true
    )]
    density: f64,
    /// Tokens of a run, at most the context [default: 256, or the context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = parse_count)]
    tokens: Option<usize>,
    /// Compute all logits of every token, as it takes at a temperature, and not only what greedy decoding needs of a large head
    #[arg(long)]
    logits: bool,
    /// Runs
    #[arg(long, value_name = "RUNS", default_value_t = 9, value_parser = parse_count)]
    runs: usize,
    /// RAM: where it does not hold the whole tape, pages are streamed [default: enough for everything]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    ram: Option<usize>,
    /// Positions [default: the model's own]
    #[arg(long, value_name = "POSITIONS")]
    context: Option<u32>,
    /// Positions of one pass over the tape when a prompt is read, 1 to 32 [default: as the RAM allows]
    #[arg(long, value_name = "POSITIONS")]
    batch: Option<u32>,
    /// Kernel: auto, portable, or one that this processor has, such as avx2
    #[arg(long, default_value = "auto")]
    kernel: String,
    /// Multiply from the card's pages, as a board does, and not from matrices packed anew for this PC's registers
    #[arg(long)]
    no_prepack: bool,
    #[command(flatten)]
    threads: ThreadsArg,
    /// Run this program in turn with the engine, and compare: benches/yardstick/forward.c says how to build it
    #[arg(long, value_name = "PROGRAM")]
    yardstick: Option<PathBuf>,
    /// Measure how cost grows with depth, width, context, RAM and density, with random models; draw it into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["path", "random", "yardstick", "json", "threads"])]
    curves: Option<PathBuf>,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let kernel = match self.kernel.as_str() {
            "auto" => kernels::best(),
            name => kernels::available().find(|k| k.name == name).with_context(|| {
                let names: Vec<&str> = kernels::available().map(|k| k.name).collect();
                format!("no kernel `{name}` on this processor; there are auto, {}", names.join(", "))
            })?,
        };
        if let Some(folder) = &self.curves {
            return curves::draw(folder, kernel, self.runs);
        }
        let source = match self.random {
            Some(dimensions) => Source::Random(dimensions, random::card(dimensions, self.density)?),
            None => Source::Card(self.card.clone()),
        };
        // What is pruned is measured beside the same shape with nothing missing.
        let whole = self.random.filter(|_| self.density < 1.0).map(Source::whole).transpose()?;
        let request = Request { context: self.context, batch: self.batch, ..Request::default() };
        let memory_for = |source: &Source| anyhow::Ok(buffer(self.ram.map_or_else(|| source.ample(), Ok)?));
        let mut memory = memory_for(&source)?;
        let mut whole_memory = whole.as_ref().map(memory_for).transpose()?;
        let mut engine = source.start(&mut memory, &request, kernel)?;
        let (plan, shape) = (*engine.plan(), *engine.shape());
        let tokens = self.tokens(plan.context, shape.max_seq)?;
        let what = Decoding { tokens, logits: self.logits };
        let started = Instant::now();
        let packed_bytes = if self.no_prepack { 0 } else { engine.prepack() };
        let packing = started.elapsed().as_secs_f64() * 1e3; // milliseconds
        let unpacked = (packed_bytes == 0).then(|| self.why_unpacked(&plan, kernel));
        let yardstick = self.yardstick.as_ref().map(|program| Yardstick::new(program, &shape)).transpose()?;

        let team = self.threads.team()?;
        let (mut alone, mut together, mut other) = (Speed::default(), Speed::default(), Fastest::default());
        let of_prompt = tokens.div_ceil(plan.batch as usize);
        let of_parts = tokens * Where::runs(packed_bytes > 0) + of_prompt;
        let (teams, models) = (1 + usize::from(team.is_some()), 1 + usize::from(whole.is_some()));
        let steps = self.runs * ((tokens + of_prompt) * teams + of_parts * models);
        let mut progress = Progress::new("measuring");
        let tick = &mut || progress.step(steps as u64);
        for _ in 0..self.runs {
            engine.share_with(None);
            if yardstick.is_some() {
                // The yardstick has been in the caches, and warms up by a run of its own, too.
                decode_once(&mut engine, what, &mut || {})?;
            }
            alone.measure(&mut engine, what, tick)?;
            if team.is_some() {
                engine.share_with(team);
                together.measure(&mut engine, what, tick)?;
            }
            if let Some(yardstick) = &yardstick {
                other.take(yardstick.run(tokens)?);
            }
        }
        let pages = engine.vram().pinning().streamed();
        drop(engine);
        let measured = team.map(MeasuredTeam);
        let start_measured = |source: &Source, memory| {
            let mut engine = source.start(memory, &request, Measured::of(kernel))?;
            let packed = !self.no_prepack && engine.prepack() > 0;
            engine.share_with(measured.as_ref().map(|team| team as &dyn Team));
            anyhow::Ok((engine, packed))
        };
        let (mut engine, packed) = start_measured(&source, &mut memory)?;
        let mut beside = whole
            .as_ref()
            .zip(whole_memory.as_deref_mut())
            .map(|(whole, memory)| start_measured(whole, memory))
            .transpose()?;
        let (mut there, mut there_whole) = (Where::new(tokens), Where::new(tokens));
        for _ in 0..self.runs {
            there.take(&mut engine, what, packed, tick)?;
            if let Some((whole, packed)) = &mut beside {
                there_whole.take(whole, what, *packed, tick)?;
            }
        }
        let whole_streams = beside.as_ref().map_or(0, |(whole, _)| whole.vram().pinning().streamed());
        let whole = beside.map(|_| there_whole);
        drop(progress);

        let alone = alone.per_second(tokens);
        let [decode, prefill] = if team.is_some() { together.per_second(tokens) } else { alone };
        let other = yardstick.map(|_| other.per_second(tokens));
        if self.json {
            let mut object = json!({
                "model": source.id(),
                "density": self.random.map(|_| self.density),
                "kernel": kernel.name,
                "tokens": tokens,
                "runs": self.runs,
                "threads": self.threads.count(),
                "batch": plan.batch,
                "context": plan.context,
                "pages_streamed_per_pass": pages,
                "prepacked_bytes": packed_bytes,
                "prepack_ms": packing,
                "not_prepacked": unpacked,
                "decode_tokens_per_s": decode,
                "prefill_tokens_per_s": prefill,
                "decode_us_per_token": there.parts.json(),
                "prefill_us_per_token": there.prefill.json(),
                "matrices_add_us_per_token": there.matrices_add(),
                "us_per_token_without_matrices": there.with_and_without_matrices().map(|[_, without]| without),
            });
            if let Some(whole) = &whole {
                object["whole"] = json!({
                    "pages_streamed_per_pass": whole_streams,
                    "decode_us_per_token": whole.parts.json(),
                    "prefill_us_per_token": whole.prefill.json(),
                    "matrices_add_us_per_token": whole.matrices_add(),
                });
            }
            if team.is_some() {
                object["one_thread"] =
                    json!({ "decode_tokens_per_s": alone[0], "prefill_tokens_per_s": alone[1] });
            }
            if let Some(other) = other {
                object["yardstick_tokens_per_s"] = json!(other);
            }
            println!("{object:#}");
            return Ok(());
        }
        println!(
            "{}{}: kernel {}, {tokens} tokens, {}",
            source.name(),
            if self.density < 1.0 { format!(", density {}", self.density) } else { String::new() },
            kernel.name,
            if self.runs == 1 { "one run".into() } else { format!("the fastest of {} runs", self.runs) }
        );
        println!("  decode     {decode:.0} tokens/s");
        println!("  prefill    {prefill:.0} tokens/s, {} positions a pass", plan.batch);
        match unpacked {
            None => println!("  prepacked  {} in {packing:.1} ms", bytes(packed_bytes as u64)),
            Some(why) => println!("  prepacked  nothing: {why}"),
        }
        if team.is_some() {
            let [by_decode, by_prefill] = [decode / alone[0], prefill / alone[1]];
            println!(
                "  one thread {:.0} tokens/s, prefill {:.0}; {} are {by_decode:.2} and {by_prefill:.2} times as fast",
                alone[0],
                alone[1],
                self.threads.count()
            );
        }
        if let Some(other) = other {
            println!("  yardstick  {other:.0} tokens/s; decode is {:.2} times as fast", decode / other);
        }
        println!();
        let parts = &there.parts;
        let mut table = Table::new(["us/token", "decode", "share", "prefill", "of it"]);
        let mut row = |name: &str, [decode, prefill]: [f64; 2]| {
            let share = |us: f64, of: &Parts| format!("{:.1} %", 100.0 * us / of.total());
            table.row([
                name.replace('_', " "),
                format!("{decode:.2}"),
                share(decode, parts),
                format!("{prefill:.2}"),
                share(prefill, &there.prefill),
            ]);
        };
        for ((name, decode), (_, prefill)) in parts.named().zip(there.prefill.named()) {
            row(name, [decode, prefill]);
        }
        row("all", [parts.total(), there.prefill.total()]);
        print!("{table}");
        println!(
            "\nwithout the stop-watch that measures parts, in runs of their own, a token of a reply takes {:.2} us",
            1e6 / decode
        );
        if let Some([with, without]) = there.with_and_without_matrices() {
            println!(
                "matrices add {:.2} us to it: in runs in turn it takes {with:.2} us, and {without:.2} us with all products 0",
                with - without
            );
        }
        if let Some(whole) = &whole {
            let [us, of_prompts] = [whole.parts.matrices, whole.prefill.matrices];
            println!(
                "whole matrices, in runs in turn, take {us:.2} us: {:.2} times as long by the stop-watch; in prompts {of_prompts:.2} us: {:.2} times",
                us / parts.matrices.max(1e-9),
                of_prompts / there.prefill.matrices.max(1e-9)
            );
            if let Some((whole, pruned)) = whole.matrices_add().zip(there.matrices_add()) {
                println!("they add {whole:.2} us, {:.2} times as much", whole / pruned);
            }
            if whole_streams > pages {
                println!(
                    "(of the whole model {whole_streams} pages are streamed, of the pruned one {pages}: with more --ram, both are in memory)"
                );
            }
        }
        Ok(())
    }

    /// Tokens of a run.
    fn tokens(&self, context: u32, most: u32) -> Result<usize> {
        let fit = context as usize;
        match self.tokens {
            Some(tokens) if tokens > fit => {
                let longer = match self.context {
                    Some(_) if context < most => format!(", or a longer --context, {most} at most"),
                    _ => String::new(),
                };
                bail!(
                    "--tokens {tokens} are more than the context of {context} positions; give --tokens {context} or less{longer}"
                )
            }
            tokens => Ok(tokens.unwrap_or(256).min(fit)),
        }
    }

    /// Why no matrix was packed anew.
    fn why_unpacked(&self, plan: &Plan, kernel: Kernel) -> String {
        let (tape, streamed) = (plan.pinning.tape, plan.pinning.streamed());
        if self.no_prepack {
            "--no-prepack".into()
        } else if streamed > 0 {
            format!(
                "{streamed} of {tape} pages are streamed, and only a tape that is wholly in RAM is packed; give more --ram"
            )
        } else {
            format!("kernel {} multiplies from pages", kernel.name)
        }
    }
}

/// What is measured.
enum Source {
    Card(CardArg),
    Random(Dimensions, MemoryCard),
}

impl Source {
    /// Random weights of which nothing is pruned.
    fn whole(dimensions: Dimensions) -> Result<Self> {
        Ok(Self::Random(dimensions, random::card(dimensions, 1.0)?))
    }

    fn name(&self) -> String {
        match self {
            Self::Card(card) => card.name(),
            Self::Random(dimensions, _) => dimensions.to_string(),
        }
    }

    /// The same for programs.
    fn id(&self) -> String {
        match self {
            Self::Card(card) => card.id(),
            Self::Random(..) => self.name(),
        }
    }

    /// RAM for everything.
    fn ample(&self) -> Result<usize> {
        /// Whatever is no weights; of it, only what is written to takes memory.
        const REST: usize = 256 << 20;
        let weights = match self {
            Self::Random(_, card) => card.bytes(CardFile::Weights),
            Self::Card(card) => card.open(&mut Arena::new(&mut buffer(REST)))?.card.bytes(CardFile::Weights),
        };
        Ok(REST + weights as usize)
    }

    fn start<'m>(
        &self,
        memory: &'m mut [u64],
        request: &Request,
        kernel: Kernel,
    ) -> Result<Engine<'m, HostCard<'m>>> {
        let ram = memory.len() * 8;
        let mut arena = Arena::new(memory);
        let Opened { card, manifest, table } = match self {
            Self::Card(card) => card.open(&mut arena)?,
            Self::Random(_, card) => open_memory(card.clone(), &mut arena)?,
        };
        let plan = Plan::new(&Needs::new(&manifest, &table), ram, request).map_err(advise)?;
        Engine::start(card, &manifest, table, &plan, &mut arena, kernel).with_context(|| self.name())
    }
}

/// How fast an engine is.
#[derive(Default)]
struct Speed {
    decode: Fastest,
    prefill: Fastest,
}

impl Speed {
    /// One more run of each.
    fn measure(
        &mut self,
        engine: &mut Engine<'_, HostCard<'_>>,
        what: Decoding,
        tick: &mut dyn FnMut(),
    ) -> Result<()> {
        self.decode.take(decode_once(engine, what, tick)?);
        self.prefill.take(prefill_once(engine, what, tick)?);
        Ok(())
    }

    /// Tokens a second: decode, prefill.
    fn per_second(&self, tokens: usize) -> [f64; 2] {
        [self.decode.per_second(tokens), self.prefill.per_second(tokens)]
    }
}

/// The fastest that every step of a run has been in some runs: another program that gets in between makes single steps slow, and not
/// the same ones each time.
#[derive(Default)]
struct Fastest(Vec<Duration>);

impl Fastest {
    fn take(&mut self, run: Vec<Duration>) {
        if self.0.is_empty() {
            self.0 = run;
        } else {
            self.0.iter_mut().zip(run).for_each(|(best, time)| *best = time.min(*best));
        }
    }

    fn seconds(&self) -> f64 {
        self.0.iter().sum::<Duration>().as_secs_f64()
    }

    fn per_second(&self, tokens: usize) -> f64 {
        tokens as f64 / self.seconds()
    }
}

/// What is decoded.
#[derive(Clone, Copy)]
struct Decoding {
    tokens: usize,
    /// Whether all logits of each are computed.
    logits: bool,
}

impl Decoding {
    /// The token behind `tokens`.
    fn next(self, engine: &mut Engine<'_, HostCard<'_>>, tokens: &[u16]) -> Result<u16> {
        let compute = engine.kernel().compute();
        match self.logits {
            true => engine.step(tokens).map(|logits| compute.argmax(logits) as u16),
            false => engine.most_likely(tokens),
        }
        .map_err(explain)
    }
}

/// Times of steps that each take the token that the one before chose. `tick` is called after each, and not timed.
fn decode_once(
    engine: &mut Engine<'_, HostCard<'_>>,
    what: Decoding,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Duration>> {
    engine.truncate(0);
    let mut token = 1;
    let mut steps = Vec::with_capacity(what.tokens);
    for _ in 0..what.tokens {
        let started = Instant::now();
        token = what.next(engine, &[token])?;
        steps.push(started.elapsed());
        tick();
    }
    Ok(steps)
}

/// Times of the passes over a prompt. `tick` is called after each, and not timed.
fn prefill_once(
    engine: &mut Engine<'_, HostCard<'_>>,
    what: Decoding,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Duration>> {
    engine.truncate(0);
    let vocab = engine.shape().vocab as usize;
    let prompt: Vec<u16> = (0..what.tokens).map(|i| (i * 7919 % vocab) as u16).collect();
    let batch = engine.plan().batch as usize;
    let last = prompt.len().div_ceil(batch);
    let passes = prompt.chunks(batch).zip(1..).map(|(part, number)| {
        let started = Instant::now();
        // As every prompt is read: the first token of the reply comes with the last of them.
        match number == last {
            true => what.next(engine, part).map(|_| ())?,
            false => engine.read(part, &[]).map_err(explain)?,
        }
        let time = started.elapsed();
        tick();
        Ok(time)
    });
    passes.collect()
}
