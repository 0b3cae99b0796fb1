//! From a card and some RAM to a session: what `run`, `chat` and `eval` share.

use std::ops::{Deref, DerefMut};
use std::sync::{Once, OnceLock};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_engine::{
    Engine, Error, MAX_BATCH, Needs, Plan, PlanError, Request, Sampler, Session, Speculated, Speculation,
    kernels::{self, Team},
};
use pageformer_sim::{Clock, HostCard, Opened, PassWork, Setup, Threads, Timed, Virtual, work_of_pass};
use pageformer_vram::Arena;

use crate::card::CardArg;
use crate::ui::{Table, bytes, parse_bytes, parse_count};

/// A session over a card of this PC.
pub type HostSession<'m> = Session<'m, HostCard<'m>>;

/// Options of everything that generates text.
#[derive(Args, Clone)]
pub struct Generate {
    /// RAM for everything, as on a board: 65536, 96K, 2M [default: 256K; 48K for the default model]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub ram: Option<usize>,
    /// Positions: prompt and reply together [default: the model's own]
    #[arg(long, value_name = "POSITIONS")]
    pub context: Option<u32>,
    /// Tokens of a reply at most
    #[arg(long, value_name = "TOKENS", default_value_t = 80)]
    pub max_tokens: u32,
    /// 0 always takes the most likely token; 1 samples as the model predicts
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Sample among the K most likely tokens only; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Sample among the most likely tokens that together have probability P only
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Seed of the random numbers: the same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub tuning: Tuning,
    /// Keep metadata of the pages if it is a small part of the RAM, as a board does.
    #[arg(skip)]
    pub page_metadata: bool,
}

/// Options that change how fast the text comes, never which.
#[derive(Args, Clone)]
pub struct Tuning {
    /// Positions of one pass over the tape when a prompt is read, 1 to 32 [default: as the RAM allows]
    #[arg(long, value_name = "POSITIONS")]
    pub batch: Option<u32>,
    /// Kernel: auto, portable, or one that this processor has, such as avx2
    #[arg(long, default_value = "auto")]
    pub kernel: String,
    /// Tokens that are guessed ahead and checked in one pass: auto, off, or a number
    #[arg(long, value_name = "GUESSES", default_value = "auto", value_parser = parse_speculation)]
    pub speculate: Speculation,
    #[command(flatten)]
    pub threads: ThreadsArg,
}

/// How many threads compute.
#[derive(Args, Clone, Copy)]
pub struct ThreadsArg {
    /// Threads that share large matrices which are in RAM, at most one for each core of this PC
    #[arg(long, value_name = "THREADS", default_value_t = 1, value_parser = parse_count)]
    threads: usize,
}

impl ThreadsArg {
    /// Nobody helps.
    pub const ONE: Self = Self { threads: 1 };

    /// As many as were asked for and this PC has cores.
    pub fn count(self) -> usize {
        self.threads.min(thread::available_parallelism().map_or(1, usize::from))
    }

    /// The threads that help; none if there is only one. They are started once, and stay as long as the program runs.
    pub fn team(self) -> Result<Option<&'static dyn Team>> {
        static TEAM: OnceLock<Threads> = OnceLock::new();
        static FEWER: Once = Once::new();
        if self.count() < self.threads {
            let (asked, used) = (self.threads, self.count());
            FEWER.call_once(|| eprintln!("--threads {asked}: this PC has {used} cores, so {used} are used"));
        }
        if self.count() == 1 {
            return Ok(None);
        }
        if TEAM.get().is_none() {
            let threads = Threads::new(self.count()).context("--threads: no thread can be started")?;
            let _ = TEAM.set(threads);
        }
        Ok(TEAM.get().map(|team| team as &dyn Team))
    }
}

pub fn parse_speculation(text: &str) -> Result<Speculation, String> {
    match text {
        "auto" => Ok(Speculation::Auto),
        "off" => Ok(Speculation::Off),
        n => match n.parse() {
            Ok(n @ 1..MAX_BATCH) => Ok(Speculation::Fixed(n)),
            _ => Err(format!("`{text}` is not possible: auto, off, or 1 to {}", MAX_BATCH - 1)),
        },
    }
}

impl Tuning {
    fn kernel(&self) -> Result<kernels::Kernel> {
        if self.kernel == "auto" {
            return Ok(kernels::best());
        }
        let names: Vec<&str> = kernels::available().map(|k| k.name).collect();
        match kernels::available().find(|k| k.name == self.kernel) {
            Some(kernel) => Ok(kernel),
            None => {
                bail!("no kernel `{}` on this processor; there are auto, {}", self.kernel, names.join(", "))
            }
        }
    }
}

impl Generate {
    /// Checks what clap cannot.
    pub fn check(&self) -> Result<()> {
        if self.ram == Some(0) {
            bail!("--ram 0 is no memory; give what a board has, such as --ram 64K");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            bail!("--temperature {} is not possible: 0 or more, such as 0.8", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            bail!("--top-p {} is not possible: above 0, at most 1", self.top_p);
        }
        if self.max_tokens == 0 {
            bail!("--max-tokens 0 is no reply; give 1 or more");
        }
        Ok(())
    }

    /// The sampler.
    pub fn sampler(&self) -> Sampler {
        Sampler::new(self.temperature, self.top_k, self.top_p, self.seed)
    }

    /// What is asked of the memory plan.
    pub fn request(&self) -> Request {
        Request {
            context: self.context,
            batch: self.tuning.batch,
            page_metadata: self.page_metadata,
            speculation: self.tuning.speculate,
            ..Request::default()
        }
    }
}

/// Memory for an engine, whose end is that of a line of the processor's cache.
pub struct Buffer {
    words: Words,
    from: usize,
    to: usize,
}

/// Words of 8 bytes.
enum Words {
    Vec(Vec<u64>),
    /// The system is asked for huge pages (2 MiB where others have 4 KiB): of a large head, row-blocks that lie anywhere are read, and to look up an
    /// address takes as long as to read what is there.
    #[cfg(target_os = "linux")]
    Map(memmap2::MmapMut),
}

impl Words {
    /// So many zeros.
    fn zeros(len: usize) -> Self {
        #[cfg(target_os = "linux")]
        {
            /// Smaller models lie in the near caches.
            const LEAST: usize = 4 << 20;
            if len * 8 >= LEAST
                && let Ok(map) = memmap2::MmapMut::map_anon(len * 8)
            {
                // Where there are none, nothing changes.
                let _ = map.advise(memmap2::Advice::HugePage);
                return Self::Map(map);
            }
        }
        Self::Vec(vec![0; len])
    }
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::Vec(words) => words,
            #[cfg(target_os = "linux")]
            Self::Map(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Vec(words) => words,
            #[cfg(target_os = "linux")]
            Self::Map(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// A buffer of `bytes` bytes, rounded down to whole words.
pub fn buffer(bytes: usize) -> Buffer {
    const LINE: usize = 64;
    let (len, more) = (bytes / 8, LINE / 8);
    let words = Words::zeros(len + more);
    // Pages are cut from the end. Vector instructions take half as long again for what lies in two lines.
    let past = (words.as_ptr().addr() + len * 8) % LINE;
    let from = (LINE - past) % LINE / 8;
    Buffer { words, from, to: from + len }
}

impl Deref for Buffer {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.words[self.from..self.to]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.words[self.from..self.to]
    }
}

/// Opens a card in `memory`.
pub fn start<'m>(
    card: &CardArg,
    memory: &'m mut [u64],
    request: &Request,
    tuning: &Tuning,
) -> Result<HostSession<'m>> {
    let ram = memory.len() * 8;
    let mut arena = Arena::new(memory);
    let name = card.name();
    let Opened { card, manifest, table } = card.open(&mut arena)?;
    let needs = Needs::new(&manifest, &table);
    let page_metadata = request.page_metadata && needs.affords_metadata(ram);
    let plan = Plan::new(&needs, ram, &Request { page_metadata, ..*request }).map_err(advise)?;
    let in_card = || name.clone();
    let mut engine =
        Engine::start(card, &manifest, table, &plan, &mut arena, tuning.kernel()?).with_context(in_card)?;
    engine.share_with(tuning.threads.team()?);
    engine.prepack();
    Session::start(engine, &manifest, &mut arena).with_context(in_card)
}

/// A session over a card of this PC by the clock of a board.
pub type BoardSession<'m> = Session<'m, Timed<HostCard<'m>>>;

/// Opens a card in `memory` as on a board: with its memory plan, and by a clock that runs as its does. With nothing `asked` for, the plan
/// is what the board's firmware would choose.
pub fn start_on_board<'m>(
    card: &CardArg,
    memory: &'m mut [u64],
    asked: &Request,
    tuning: &Tuning,
    setup: &Setup<'_>,
    clock: &Clock,
) -> Result<BoardSession<'m>> {
    let ram = memory.len() * 8;
    let mut arena = Arena::new(memory);
    let name = card.name();
    let (work, tape) = work(card)?;
    let asked = setup.request(asked, setup.pace(&work, tape));
    let Opened { card, manifest, table } = card.open(&mut arena)?;
    let needs = Needs::new(&manifest, &table);
    let plan = match asked {
        Request { context: None, batch: None, .. } => Plan::for_board(&needs, ram, &asked),
        asked => {
            let page_metadata = asked.page_metadata && needs.affords_metadata(ram);
            Plan::new(&needs, ram, &Request { page_metadata, ..asked })
        }
    };
    let plan = plan.map_err(advise)?;
    let in_card = || name.clone();
    let (layers, kernel) = (manifest.shape.n_layers, tuning.kernel()?);
    let (kernel, _) = Virtual::new(setup.board.processor(), clock.clone(), layers, Some(kernel));
    let card = setup.card(card, clock);
    let engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel).with_context(in_card)?;
    Session::start(engine, &manifest, &mut arena).with_context(in_card)
}

/// Work of a pass of a card's model, and the pages of its tape: what its pace on a board follows from.
pub fn work(card: &CardArg) -> Result<(PassWork, u32)> {
    // Not a board's memory: nothing but the work is of interest.
    let mut memory = buffer(64 << 20);
    let mut arena = Arena::new(&mut memory);
    let opened = card.open(&mut arena)?;
    let tape = opened.manifest.tape_pages;
    Ok((work_of_pass(opened, arena).with_context(|| card.name())?, tape))
}

/// What the user can do about a plan that is not possible.
pub fn advise(error: PlanError) -> anyhow::Error {
    let advice = match error {
        PlanError::TooSmall { fitting_context: 0, needed, .. } => {
            format!("; give --ram {}K or more; a smaller --context needs less", needed.div_ceil(1024))
        }
        PlanError::TooSmall { needed, fitting_context, .. } => {
            format!("; give --context {fitting_context}, or --ram {}K", needed.div_ceil(1024))
        }
        PlanError::Context { .. } => "; change --context".into(),
        PlanError::Batch(_) => "; change --batch".into(),
        _ => String::new(),
    };
    anyhow::anyhow!("{error}{advice}")
}

/// RAM by part, as a table.
pub fn memory_table(plan: &Plan) -> Table {
    let mut table = Table::new(["RAM", "bytes"]);
    for (part, size) in plan.parts().filter(|(_, size)| *size > 0) {
        table.row([part.to_string(), size.to_string()]);
    }
    table.row(["total".to_string(), format!("{} ({})", plan.total(), bytes(plan.total() as u64))]);
    table
}

/// What a reply took, measured between two moments.
pub struct Account {
    passes: u64,
    stats: pageformer_vram::Stats,
    speculated: Speculated,
    started: std::time::Instant,
    first_token: Option<std::time::Instant>,
}

/// What a reply took.
pub struct Costs {
    /// Tokens of the reply.
    pub tokens: u32,
    /// Tokens that were read before it.
    pub prompt_tokens: u32,
    /// Passes over the tape.
    pub passes: u64,
    /// Tape pages streamed, all passes.
    pub pages_read: u64,
    /// Everything else that was read.
    pub stats: pageformer_vram::Stats,
    /// What came of guesses.
    pub speculated: Speculated,
    /// Seconds until the first token, and from there to the last.
    pub seconds: (f64, f64),
    /// Pages of the tape, and those that stay in RAM.
    pub tape: (u32, u32),
}

impl Account {
    /// Begins counting.
    pub fn begin(session: &mut HostSession<'_>) -> Self {
        let engine = session.engine();
        let (passes, stats) = (engine.passes(), *engine.vram().stats());
        Self {
            passes,
            stats,
            speculated: *session.speculated(),
            started: std::time::Instant::now(),
            first_token: None,
        }
    }

    /// Text came, unless it is empty: then the prompt is still being read.
    pub fn heard(&mut self, text: &[u8]) {
        if !text.is_empty() {
            self.first_token.get_or_insert_with(std::time::Instant::now);
        }
    }

    /// Ends counting.
    pub fn end(self, session: &HostSession<'_>, reply: &pageformer_engine::Reply) -> Costs {
        let engine = session.engine();
        let stats = engine.vram().stats().since(&self.stats);
        let first = self.first_token.unwrap_or_else(std::time::Instant::now);
        let pinning = engine.vram().pinning();
        Costs {
            tokens: reply.tokens,
            prompt_tokens: reply.prompt_tokens,
            passes: engine.passes() - self.passes,
            pages_read: stats.streamed,
            stats,
            speculated: session.speculated().since(&self.speculated),
            seconds: ((first - self.started).as_secs_f64(), first.elapsed().as_secs_f64()),
            tape: (pinning.tape, pinning.pinned),
        }
    }
}

impl Costs {
    /// Tokens a second while the reply came; over the whole time if it was a single token.
    pub fn tokens_per_s(&self) -> f64 {
        match self.tokens {
            0 => 0.0,
            1 => 1.0 / (self.seconds.0 + self.seconds.1).max(1e-9),
            n => f64::from(n - 1) / self.seconds.1.max(1e-9),
        }
    }

    /// Pages read for each token of the reply.
    pub fn pages_per_token(&self) -> f64 {
        self.pages_read as f64 / f64::from(self.tokens.max(1))
    }

    /// Share of the tape that is in RAM.
    pub fn hit_rate(&self) -> f64 {
        f64::from(self.tape.1) / f64::from(self.tape.0)
    }

    /// Tokens of a pass; 1 where nothing is guessed ahead.
    pub fn tokens_per_pass(&self) -> f64 {
        self.speculated.tokens as f64 / self.speculated.passes.max(1) as f64
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let guessed = match self.speculated.drafted {
            0 => String::new(),
            _ => format!(", {:.2} tokens per pass", self.tokens_per_pass()),
        };
        format!(
            "{} tokens, {:.0} tokens/s on this PC, {:.1} pages read per token, hit rate {:.1} %{guessed}",
            self.tokens,
            self.tokens_per_s(),
            self.pages_per_token(),
            100.0 * self.hit_rate()
        )
    }
}

/// The engine's error in the terms of the command line.
pub fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::ContextFull { context, used } => anyhow::anyhow!(
            "the prompt does not fit: a context of {context} positions, {used} in use; shorten it, or give --context (the \
             model's own is the most) and --ram for it"
        ),
        error => error.into(),
    }
}
