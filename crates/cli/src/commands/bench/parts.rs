//! Where the time of a step goes: a kernel with a stop-watch, and a team with one.

use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use pageformer_card::{MatrixDims, Page};
use pageformer_engine::Engine;
use pageformer_engine::kernels::{
    self, Compute, GroupProduct, Head, Input, Kernel, Packing, Prepacked, Scratch, Screen, Screened, Team,
    Work,
};
use pageformer_sim::HostCard;

use super::{Decoding, Fastest, decode_once, prefill_once};

/// Microseconds a token.
pub struct Parts {
    pub matrices: f64,
    attention: f64,
    norms_and_activations: f64,
    sampling: f64,
    /// Paging, rows of the embedding, rotary angles, and what leads from one part to the next.
    paging_and_rest: f64,
}

impl Parts {
    /// More than anything takes.
    const MOST: Self = Self {
        matrices: f64::INFINITY,
        attention: f64::INFINITY,
        norms_and_activations: f64::INFINITY,
        sampling: f64::INFINITY,
        paging_and_rest: f64::INFINITY,
    };

    /// The least of each part.
    fn least(&self, other: &Self) -> Self {
        Self {
            matrices: self.matrices.min(other.matrices),
            attention: self.attention.min(other.attention),
            norms_and_activations: self.norms_and_activations.min(other.norms_and_activations),
            sampling: self.sampling.min(other.sampling),
            paging_and_rest: self.paging_and_rest.min(other.paging_and_rest),
        }
    }

    /// Each part by its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            ("matrices", self.matrices),
            ("attention", self.attention),
            ("norms_quantization_activation", self.norms_and_activations),
            ("sampling", self.sampling),
            ("paging_and_rest", self.paging_and_rest),
        ]
        .into_iter()
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        self.named().map(|(name, us)| (name.to_owned(), us.into())).collect::<serde_json::Map<_, _>>().into()
    }

    /// All parts.
    pub fn total(&self) -> f64 {
        self.named().map(|(_, us)| us).sum()
    }
}

/// Where the time of a token goes: the fastest of some runs, which an engine makes that has the measuring kernel.
pub struct Where {
    tokens: usize,
    pub parts: Parts,
    /// Of a token of a prompt.
    pub prefill: Parts,
    with_matrices: Fastest,
    without: Fastest,
}

impl Where {
    pub fn new(tokens: usize) -> Self {
        let (with_matrices, without) = Default::default();
        Self { tokens, parts: Parts::MOST, prefill: Parts::MOST, with_matrices, without }
    }

    /// How many runs [`Self::take`] makes, beside the one over a prompt.
    pub const fn runs(packed: bool) -> usize {
        if packed { 3 } else { 1 }
    }

    /// One more run with the stop-watch, one over a prompt, and two without it if matrices are `packed`, of which one leaves them out.
    pub fn take(
        &mut self,
        engine: &mut Engine<'_, HostCard<'_>>,
        what: Decoding,
        packed: bool,
        tick: &mut dyn FnMut(),
    ) -> Result<()> {
        self.parts = self.parts.least(&parts(what.tokens, || decode_once(engine, what, tick))?);
        self.prefill = self.prefill.least(&parts(what.tokens, || prefill_once(engine, what, tick))?);
        if packed {
            self.with_matrices.take(without_stop_watch(engine, what, false, tick)?);
            self.without.take(without_stop_watch(engine, what, true, tick)?);
        }
        Ok(())
    }

    /// What a token takes with matrices and with all of their products 0, microseconds, if that was measured.
    pub fn with_and_without_matrices(&self) -> Option<[f64; 2]> {
        let [with, without] =
            [&self.with_matrices, &self.without].map(|runs| runs.seconds() * 1e6 / self.tokens as f64);
        (with > 0.0).then_some([with, without])
    }

    /// What matrices add to a token, microseconds.
    pub fn matrices_add(&self) -> Option<f64> {
        self.with_and_without_matrices().map(|[with, without]| with - without)
    }
}

/// Where the time of a run of so many tokens goes, by the measuring kernel. What measuring itself takes is left out.
fn parts(tokens: usize, run: impl FnOnce() -> Result<Vec<Duration>>) -> Result<Parts> {
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
    let passes = run()?;
    let total = passes.iter().sum::<Duration>();
    let per_token = |seconds: f64| (seconds * 1e6 / tokens as f64).max(0.0);
    let kinds = [MATRICES, ATTENTION, OTHERS, SAMPLING];
    let spent = SPENT.with(|spent| kinds.map(|kind| spent[kind].get()));
    // A stop-watch takes one reading of the clock within what it measures, and one outside.
    let within = |(time, calls): (Duration, u64)| time.as_secs_f64() - calls as f64 * clock;
    let outside = |(time, calls): (Duration, u64)| time.as_secs_f64() + calls as f64 * clock;
    let known = spent.map(outside).iter().sum::<f64>() + passes.len() as f64 * clock;
    let [matrices, attention, norms_and_activations, sampling] = spent.map(|kind| per_token(within(kind)));
    let paging_and_rest = per_token(total.as_secs_f64() - known);
    Ok(Parts { matrices, attention, norms_and_activations, sampling, paging_and_rest })
}

/// Steps by the measuring kernel, in which no stop-watch runs, so that parts overlap as they do otherwise. With matrices, which are packed anew, or as if all of
/// their products were 0.
fn without_stop_watch(
    engine: &mut Engine<'_, HostCard<'_>>,
    what: Decoding,
    without_matrices: bool,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Duration>> {
    RUNNING.set(true);
    LEFT_OUT.store(without_matrices, Ordering::Relaxed);
    let taken = decode_once(engine, what, tick);
    LEFT_OUT.store(false, Ordering::Relaxed);
    RUNNING.set(false);
    taken
}

const MATRICES: usize = 0;
const ATTENTION: usize = 1;
const OTHERS: usize = 2;
const SAMPLING: usize = 3;

thread_local! {
    /// Time spent in each, and calls.
    static SPENT: [Cell<(Duration, u64)>; 4] = const { [const { Cell::new((Duration::ZERO, 0)) }; 4] };
    /// Whether a stop-watch is running, or none shall.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether matrices that are packed anew are left out.
static LEFT_OUT: AtomicBool = AtomicBool::new(false);

/// Leaves out `len` outputs if so it shall be: they are 0 instead.
fn left_out(y: &mut [f32], len: usize) -> bool {
    let left_out = LEFT_OUT.load(Ordering::Relaxed);
    if left_out && let Some(y) = y.get_mut(..len) {
        y.fill(0.0);
    }
    left_out
}

/// The kernel that is measured.
static INNER: OnceLock<Kernel> = OnceLock::new();

/// A kernel that does what another does, with a stop-watch.
pub struct Measured;

impl Measured {
    /// `kernel`, measured. The first that is asked for is it for good.
    pub fn of(kernel: Kernel) -> Kernel {
        INNER.get_or_init(|| kernel);
        Kernel::new(kernel.name, &Measured)
    }
}

/// A team that does what another does, with a stop-watch: what all do together counts with the time that this thread takes for it.
pub struct MeasuredTeam(pub &'static dyn Team);

impl Team for MeasuredTeam {
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn run(&self, work: &Work<'_>) -> bool {
        timed(MATRICES, |_| self.0.run(work))
    }

    fn pause(&self, round: u32) {
        self.0.pause(round);
    }
}

fn timed<R>(kind: usize, work: impl FnOnce(&dyn Compute) -> R) -> R {
    let compute = INNER.get().copied().unwrap_or(kernels::PORTABLE).compute();
    if RUNNING.get() {
        return work(compute);
    }
    RUNNING.set(true);
    let started = Instant::now();
    let result = work(compute);
    let time = started.elapsed();
    RUNNING.set(false);
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

    fn packing(&self) -> Option<Packing> {
        INNER.get()?.compute().packing()
    }

    fn multiply_prepacked(
        &self,
        matrix: &Prepacked,
        parts: Range<usize>,
        x: Input<'_>,
        y: &mut [f32],
        y_stride: usize,
    ) -> bool {
        let len = matrix.outputs(parts.clone()).len() + (x.batch - 1) * y_stride;
        left_out(y, len) || timed(MATRICES, |k| k.multiply_prepacked(matrix, parts, x, y, y_stride))
    }

    fn screen(&self, screen: &Screen, bundles: Range<usize>, x: &Screened<'_>, bounds: &mut [f32]) -> bool {
        left_out(bounds, bounds.len()) || timed(MATRICES, |k| k.screen(screen, bundles, x, bounds))
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

    fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        timed(OTHERS, |k| k.swiglu(gate, up));
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
        timed(SAMPLING, |k| k.argmax(values))
    }
}
