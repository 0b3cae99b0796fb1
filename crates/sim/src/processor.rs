//! A processor by a virtual clock.
//!
//! What a step computes is counted in three kinds of work, at the kernel's functions; a [`Processor`] says what each takes. With a kernel
//! within, everything is computed as well; without one, nothing is, so that the time of a step comes at the price of its reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use pageformer_card::{MatrixDims, Page};
use pageformer_engine::kernels::{Compute, GroupProduct, Head, Kernel, PORTABLE, Scratch};

use crate::Clock;

/// What a processor takes for a piece of work, in cycles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processor {
    /// Cycles a second.
    pub hz: f64,
    /// A multiplication of two 8-bit integers, and adding it.
    pub mac: f64,
    /// An addition or a multiplication in f32; the others as multiples of it, see [`Work::floats`].
    pub float: f64,
    /// An output of a tile: its two scales, and adding it to those of the tiles before.
    pub output: f64,
    /// Checking a page.
    pub page: f64,
    /// Waiting for a byte of the weights or the KV cache, if they lie in external memory.
    pub byte: f64,
}

impl Processor {
    /// Time of some work.
    pub fn time(&self, work: &Work) -> Duration {
        let cycles = work.macs * self.mac
            + work.floats * self.float
            + work.outputs * self.output
            + work.bytes * self.byte;
        Duration::from_nanos((cycles / self.hz * 1e9) as u64)
    }

    /// Time that checking a page takes.
    pub fn page_time(&self) -> Duration {
        Duration::from_nanos((self.page / self.hz * 1e9) as u64)
    }
}

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Products of 8-bit integers.
    pub macs: f64,
    /// Additions and multiplications in f32. A division or a root counts as 2, a conversion as 0.4, a comparison as 0.3: about what they
    /// take without a floating-point unit.
    pub floats: f64,
    /// Outputs of tiles.
    pub outputs: f64,
    /// Bytes of weights and of the KV cache that this reads.
    pub bytes: f64,
}

impl Work {
    /// What came since then.
    pub fn since(&self, then: &Self) -> Self {
        Self {
            macs: self.macs - then.macs,
            floats: self.floats - then.floats,
            outputs: self.outputs - then.outputs,
            bytes: self.bytes - then.bytes,
        }
    }
}

/// What each function of the kernel does for one element, in the units of [`Work::floats`], counted in its source.
mod floats {
    /// `eˣ`: clamped, reduced, a polynomial of degree 7, scaled.
    pub const EXP: f64 = 23.0;
    /// A channel of a quantization: times the inverse scale, rounded.
    pub const QUANTIZE: f64 = 2.0;
    /// Its scale: two divisions.
    pub const SCALE: f64 = 4.0;
    /// A channel of a norm: squared and summed, then scaled.
    pub const NORM: f64 = 5.0;
    /// A channel of a rotation.
    pub const ROTATE: f64 = 3.0;
    /// A channel of SwiGLU: a product with a quotient of an exponential.
    pub const SWIGLU: f64 = EXP + 4.0;
    /// A channel of GELU: a cubic polynomial, an exponential, a quotient.
    pub const GELU: f64 = EXP + 8.0;
    /// A position that attention looks at: two scales, a maximum, an exponential, a sum, two more products, rounding.
    pub const SCORE: f64 = EXP + 8.0;
    /// Sine and cosine of one angle, in f64.
    pub const ANGLE: f64 = 80.0;
    /// A comparison.
    pub const COMPARE: f64 = 0.3;
}

/// A kernel that lets time pass, and counts.
#[derive(Debug)]
pub struct Virtual {
    processor: Processor,
    clock: Clock,
    within: Option<Kernel>,
    layers: f64,
    /// Tiles of the group that comes next.
    tiles: AtomicU64,
    /// Work so far: products, tenths of floats, outputs, bytes.
    done: [AtomicU64; 4],
    /// Nanoseconds that they took.
    busy: AtomicU64,
}

impl Virtual {
    /// A kernel for a model of `layers` layers. What `within` computes is not timed; without it nothing is computed, and the logits
    /// mean nothing. It lives as long as the program, as kernels do.
    pub fn new(
        processor: Processor,
        clock: Clock,
        layers: u32,
        within: Option<Kernel>,
    ) -> (Kernel, &'static Self) {
        let this = Self {
            processor,
            clock,
            within,
            layers: layers.into(),
            tiles: AtomicU64::new(0),
            done: Default::default(),
            busy: AtomicU64::new(0),
        };
        let this: &Self = Box::leak(Box::new(this));
        (Kernel::new("virtual", this), this)
    }

    /// Work so far.
    pub fn work(&self) -> Work {
        let [macs, floats, outputs, bytes] = [0, 1, 2, 3].map(|kind| self.done[kind].load(Relaxed) as f64);
        Work { macs, floats: floats / 10.0, outputs, bytes }
    }

    /// Time that it took.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Relaxed))
    }

    fn does(&self, work: Work) {
        let amounts = [work.macs, work.floats * 10.0, work.outputs, work.bytes];
        for (sum, amount) in self.done.iter().zip(amounts) {
            sum.fetch_add(amount.round() as u64, Relaxed);
        }
        let time = self.processor.time(&work);
        self.busy.fetch_add(time.as_nanos() as u64, Relaxed);
        self.clock.pass(time);
    }

    /// So many elements, with so many floats each.
    fn each(&self, elements: usize, floats: f64) {
        self.does(Work { floats: elements as f64 * floats, ..Work::default() });
    }

    /// What the kernel within answers, or `instead`.
    fn within<R>(&self, instead: R, work: impl FnOnce(&dyn Compute) -> R) -> R {
        self.within.map_or(instead, |kernel| work(kernel.compute()))
    }
}

impl Compute for Virtual {
    fn multiply(&self, product: &mut GroupProduct<'_>, cells: &[u8]) {
        let batch = product.batch() as f64;
        let tiles = self.tiles.swap(0, Relaxed) as f64 * batch;
        let bytes = cells.len() as f64;
        self.does(Work { macs: bytes * batch, outputs: tiles * 4.0, bytes, ..Work::default() });
        self.within((), |k| k.multiply(product, cells));
    }

    /// Always counted, since it says which pages come next.
    fn kept_cells(&self, dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
        self.tiles.store(dims.tiles_in_group(group).into(), Relaxed);
        self.within.unwrap_or(PORTABLE).compute().kept_cells(dims, group, mask_page)
    }

    fn attend(&self, head: &Head<'_>, q: &[f32], out: &mut [f32], scratch: &mut Scratch<'_>) -> Option<()> {
        let (places, queries) = (head.key_scales.len() as f64, (q.len() / head.width.max(1)) as f64);
        let ends = head.width as f64 * (floats::QUANTIZE + 2.0) + 2.0 * floats::SCALE;
        let bytes = queries * 2.0 * places * head.channels as f64;
        let floats = queries * (places * floats::SCORE + ends);
        self.does(Work { macs: bytes, floats, bytes, ..Work::default() });
        self.within(Some(()), |k| k.attend(head, q, out, scratch))
    }

    fn quantize_head(&self, x: &[f32], out: &mut [i8]) -> Option<u16> {
        self.each(x.len(), floats::QUANTIZE);
        self.each(1, floats::SCALE);
        self.within(Some(0), |k| k.quantize_head(x, out))
    }

    fn quantize(&self, x: &[f32], out: &mut [i8], scales: &mut [f32]) -> Option<()> {
        self.each(x.len(), floats::QUANTIZE);
        self.each(x.len().div_ceil(256), floats::SCALE);
        self.within(Some(()), |k| k.quantize(x, out, scales))
    }

    fn normalize(&self, x: &[f32], centred: bool, eps: f32, h: &mut [f32]) {
        self.each(x.len(), floats::NORM + f64::from(u8::from(centred)));
        self.within((), |k| k.normalize(x, centred, eps, h));
    }

    fn scale_by(&self, h: &mut [f32], gain: &[u8]) {
        self.each(h.len(), 1.0);
        self.within((), |k| k.scale_by(h, gain));
    }

    fn shift_by(&self, h: &mut [f32], bias: &[u8]) {
        self.each(h.len(), 1.0);
        self.within((), |k| k.shift_by(h, bias));
    }

    /// The angles are computed once a position, outside of kernels: each of the two rotations of a layer is charged its share.
    fn rotate(&self, heads: &mut [f32], angles: &[f32]) {
        self.each(heads.len(), floats::ROTATE);
        self.each(angles.len() / 2, floats::ANGLE / (2.0 * self.layers));
        self.within((), |k| k.rotate(heads, angles));
    }

    fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        self.each(gate.len(), floats::SWIGLU);
        self.within((), |k| k.swiglu(gate, up));
    }

    fn gelu(&self, up: &mut [f32]) {
        self.each(up.len(), floats::GELU);
        self.within((), |k| k.gelu(up));
    }

    fn add(&self, x: &mut [f32], h: &[f32]) {
        self.each(x.len(), 1.0);
        self.within((), |k| k.add(x, h));
    }

    /// The logits: looked through here, and once more by whoever chooses among them.
    fn all_finite(&self, values: &[f32]) -> bool {
        self.each(values.len(), 3.0 * floats::COMPARE);
        self.within(true, |k| k.all_finite(values))
    }

    fn argmax(&self, values: &[f32]) -> usize {
        self.within(0, |k| k.argmax(values))
    }
}
