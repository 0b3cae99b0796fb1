//! `pageformer bench`.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_card::{MatrixDims, Page};
use pageformer_engine::kernels::{self, Compute, GroupProduct, Head, Kernel, Scratch};
use pageformer_engine::{Engine, Needs, Plan, Request, Sampler};
use pageformer_sim::{HostCard, Opened};
use pageformer_vram::Arena;
use serde_json::json;

use crate::card::CardArg;
use crate::session::{buffer, explain};
use crate::ui::{Table, parse_bytes};

/// Measures how fast this PC decodes and reads prompts with the model of a card, and where the time goes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer bench card/\n  \
    pageformer bench card/ --kernel portable\n  \
    pageformer bench card/ --ram 128K --context 128 --json\n\n\
    One thread; greedy; the tokens themselves do not matter. The speed is the median of the runs.")]
pub struct Bench {
    #[command(flatten)]
    card: CardArg,
    /// Tokens of a run [default: 256, or the context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    tokens: Option<u32>,
    /// Runs
    #[arg(long, value_name = "RUNS", default_value_t = 9)]
    runs: usize,
    /// RAM [default: enough for everything]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "256M")]
    ram: usize,
    /// Positions [default: the model's own]
    #[arg(long, value_name = "POSITIONS")]
    context: Option<u32>,
    /// Positions of one pass over the tape when a prompt is read, 1 to 32 [default: as the RAM allows]
    #[arg(long, value_name = "POSITIONS")]
    batch: Option<u32>,
    /// Kernel: auto, portable, or one that this processor has, such as avx2
    #[arg(long, default_value = "auto")]
    kernel: String,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        if self.runs == 0 || self.tokens == Some(0) {
            bail!("--runs and --tokens must be 1 or more");
        }
        let kernel = match self.kernel.as_str() {
            "auto" => kernels::best(),
            name => kernels::available().find(|k| k.name == name).with_context(|| {
                let names: Vec<&str> = kernels::available().map(|k| k.name).collect();
                format!("no kernel `{name}` on this processor; there are auto, {}", names.join(", "))
            })?,
        };
        let mut memory = buffer(self.ram);
        let mut engine = self.start(&mut memory, kernel)?;
        let plan = *engine.plan();
        let tokens = self.tokens.unwrap_or(256).min(plan.context) as usize;
        let (mut decode, mut prefill) = (Vec::new(), Vec::new());
        decode_once(&mut engine, tokens)?; // warms the caches up
        for _ in 0..self.runs {
            decode.push(tokens as f64 / decode_once(&mut engine, tokens)?.0.as_secs_f64());
            prefill.push(tokens as f64 / prefill_once(&mut engine, tokens)?.as_secs_f64());
        }
        let pages = engine.vram().stats().streamed / engine.passes().max(1);
        drop(engine);
        let mut engine = self.start(&mut memory, Measured::of(kernel))?;
        decode_once(&mut engine, tokens)?;
        let parts = (0..self.runs)
            .map(|_| parts(&mut engine, tokens))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .min_by(|a, b| a.total().total_cmp(&b.total()))
            .context("no run")?;

        let (decode, prefill) = (median(decode), median(prefill));
        if self.json {
            let parts: serde_json::Map<_, _> =
                parts.named().map(|(name, us)| (name.into(), json!(us))).collect();
            let object = json!({
                "kernel": kernel.name,
                "tokens": tokens,
                "runs": self.runs,
                "batch": plan.batch,
                "context": plan.context,
                "pages_streamed_per_pass": pages,
                "decode_tokens_per_s": decode,
                "prefill_tokens_per_s": prefill,
                "decode_us_per_token": parts,
            });
            println!("{object:#}");
            return Ok(());
        }
        println!(
            "{}: kernel {}, {tokens} tokens, median of {} runs",
            self.card.name(),
            kernel.name,
            self.runs
        );
        println!("  decode   {decode:.0} tokens/s");
        println!("  prefill  {prefill:.0} tokens/s, {} positions a pass\n", plan.batch);
        let mut table = Table::new(["decode", "us/token", "share"]);
        for (name, us) in parts.named() {
            table.row([
                name.replace('_', " "),
                format!("{us:.2}"),
                format!("{:.1} %", 100.0 * us / parts.total()),
            ]);
        }
        print!("{table}");
        Ok(())
    }

    fn start<'m>(&self, memory: &'m mut [u64], kernel: Kernel) -> Result<Engine<'m, HostCard<'m>>> {
        let ram = memory.len() * 8;
        let mut arena = Arena::new(memory);
        let Opened { card, manifest, table } = self.card.open(&mut arena)?;
        let request = Request { context: self.context, batch: self.batch, ..Request::default() };
        let plan = Plan::new(&Needs::new(&manifest, &table), ram, &request)?;
        Engine::start(card, &manifest, table, &plan, &mut arena, kernel).with_context(|| self.card.name())
    }
}

/// Time of `tokens` steps that each take the token that the one before chose, and of the choices among it.
fn decode_once(engine: &mut Engine<'_, HostCard<'_>>, tokens: usize) -> Result<(Duration, Duration)> {
    engine.truncate(0);
    let (mut token, mut choosing) = (1, Duration::ZERO);
    let started = Instant::now();
    for _ in 0..tokens {
        let logits = engine.step(&[token]).map_err(explain)?;
        let stepped = Instant::now();
        token = Sampler::GREEDY.clone().choose(logits);
        choosing += stepped.elapsed();
    }
    Ok((started.elapsed(), choosing))
}

/// Time of a prompt of `tokens` tokens.
fn prefill_once(engine: &mut Engine<'_, HostCard<'_>>, tokens: usize) -> Result<Duration> {
    engine.truncate(0);
    let vocab = engine.shape().vocab as usize;
    let prompt: Vec<u16> = (0..tokens).map(|i| (i * 7919 % vocab) as u16).collect();
    let batch = engine.plan().batch as usize;
    let started = Instant::now();
    for part in prompt.chunks(batch) {
        engine.step(part).map_err(explain)?;
    }
    Ok(started.elapsed())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Microseconds a token.
struct Parts {
    matrices: f64,
    attention: f64,
    norms_and_activations: f64,
    sampling: f64,
    /// Paging, rows of the embedding, rotary angles, and what leads from one part to the next.
    paging_and_rest: f64,
}

impl Parts {
    fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            ("matrices", self.matrices),
            ("attention", self.attention),
            ("norms_quantization_activation", self.norms_and_activations),
            ("sampling", self.sampling),
            ("paging_and_rest", self.paging_and_rest),
        ]
        .into_iter()
    }

    fn total(&self) -> f64 {
        self.named().map(|(_, us)| us).sum()
    }
}

/// Where the time of a run goes, by the measuring kernel. What measuring itself takes is left out.
fn parts(engine: &mut Engine<'_, HostCard<'_>>, tokens: usize) -> Result<Parts> {
    // The least of many: one that another program interrupts would be subtracted from every call.
    let clock = (0..100)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..100 {
                std::hint::black_box(Instant::now());
            }
            started.elapsed().as_secs_f64() / 100.0
        })
        .fold(f64::INFINITY, f64::min);
    SPENT.with(|spent| spent.iter().for_each(|kind| kind.set((Duration::ZERO, 0))));
    let (total, choosing) = decode_once(engine, tokens)?;
    let per_token = |seconds: f64| (seconds * 1e6 / tokens as f64).max(0.0);
    let [matrices, attention, others] = SPENT.with(|spent| {
        [0, 1, 2].map(|kind| {
            let (time, calls) = spent[kind].get();
            (time.as_secs_f64() - calls as f64 * clock, calls)
        })
    });
    let readings = 2.0 * (tokens as f64 + (matrices.1 + attention.1 + others.1) as f64);
    let known = matrices.0 + attention.0 + others.0 + choosing.as_secs_f64();
    Ok(Parts {
        matrices: per_token(matrices.0),
        attention: per_token(attention.0),
        norms_and_activations: per_token(others.0),
        sampling: per_token(choosing.as_secs_f64() - tokens as f64 * clock),
        paging_and_rest: per_token(total.as_secs_f64() - known - (readings / 2.0) * clock),
    })
}

const MATRICES: usize = 0;
const ATTENTION: usize = 1;
const OTHERS: usize = 2;

thread_local! {
    /// Time spent in matrices, attention and everything else, and calls.
    static SPENT: [Cell<(Duration, u64)>; 3] = const { [const { Cell::new((Duration::ZERO, 0)) }; 3] };
}

/// The kernel that is measured.
static INNER: OnceLock<Kernel> = OnceLock::new();

/// A kernel that does what another does, with a stop-watch.
struct Measured;

impl Measured {
    fn of(kernel: Kernel) -> Kernel {
        INNER.get_or_init(|| kernel);
        Kernel::new(kernel.name, &Measured)
    }
}

fn timed<R>(kind: usize, work: impl FnOnce(&dyn Compute) -> R) -> R {
    let compute = INNER.get().copied().unwrap_or(kernels::PORTABLE).compute();
    let started = Instant::now();
    let result = work(compute);
    let time = started.elapsed();
    SPENT.with(|spent| {
        let (before, calls) = spent[kind].get();
        spent[kind].set((before + time, calls + 1));
    });
    result
}

impl Compute for Measured {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        timed(MATRICES, |k| k.multiply(product, cells));
    }

    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        timed(MATRICES, |k| k.kept_cells(dims, group, mask_page))
    }

    fn attend(&self, head: &Head<'_>, q: &[f32], out: &mut [f32], scratch: &mut Scratch<'_>) -> Option<()> {
        timed(ATTENTION, |k| k.attend(head, q, out, scratch))
    }

    fn quantize_head(&self, x: &[f32], out: &mut [i8]) -> Option<u16> {
        timed(ATTENTION, |k| k.quantize_head(x, out))
    }

    fn rotate(&self, heads: &mut [f32], angles: &[f32]) {
        timed(ATTENTION, |k| k.rotate(heads, angles));
    }

    fn quantize(&self, x: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()> {
        timed(OTHERS, |k| k.quantize(x, out, scales))
    }

    fn normalize(&self, x: &[f32], centred: bool, eps: f32, h: &mut [f32]) {
        timed(OTHERS, |k| k.normalize(x, centred, eps, h));
    }

    fn scale_by(&self, h: &mut [f32], gain: &[u8]) {
        timed(OTHERS, |k| k.scale_by(h, gain));
    }

    fn shift_by(&self, h: &mut [f32], bias: &[u8]) {
        timed(OTHERS, |k| k.shift_by(h, bias));
    }

    fn swiglu(&self, up: &mut [f32], gate: &[f32]) {
        timed(OTHERS, |k| k.swiglu(up, gate));
    }

    fn gelu(&self, up: &mut [f32]) {
        timed(OTHERS, |k| k.gelu(up));
    }

    fn add(&self, x: &mut [f32], h: &[f32]) {
        timed(OTHERS, |k| k.add(x, h));
    }

    fn all_finite(&self, values: &[f32]) -> bool {
        timed(OTHERS, |k| k.all_finite(values))
    }

    fn argmax(&self, values: &[f32]) -> usize {
        timed(OTHERS, |k| k.argmax(values))
    }
}
