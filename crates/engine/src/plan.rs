//! The memory plan: what the one buffer holds.

mod request;

use pageformer_card::matrix::TILE_INPUTS;
use pageformer_card::{Layout, Mlp, Page, Shape, TensorTable};
use pageformer_vram::{Arena, FAVOURS, Pinning};

pub use request::{Needs, Part, PlanError, Request};

use crate::attention;
use crate::pace::{Costs, Pace};
use crate::speculation::Speculation;

/// Most positions of one step.
pub const MAX_BATCH: u32 = 32;
/// Positions of a step that the plan chooses at most when it is left to it: wider ones gain little more.
const AUTO_BATCH: u32 = 16;
/// Tokens of a typical prompt, and of the reply to it.
const TURN: u32 = 32;

/// Lengths of the buffers that a step of `batch` positions works in; see `Activations` for what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActivationLens {
    pub x: usize,
    pub h: usize,
    pub wide: usize,
    pub quantized: usize,
    pub scales: usize,
    pub scores: usize,
    pub weights: usize,
    pub frequencies: usize,
    pub rope: usize,
    pub coming: usize,
    pub coming_scales: usize,
    pub coming_tokens: usize,
}

impl ActivationLens {
    /// `logits_rows` rows of logits share the memory of `wide`, which is free when the head is computed.
    /// A card that reads ahead looks up the rows of a prompt's next batch while one is computed.
    pub fn new(shape: &Shape, context: u32, batch: u32, logits_rows: u32, reads_ahead: bool) -> Self {
        let pad = |n: u32| n.next_multiple_of(4) as usize;
        let (d, q, kv, ff) = (pad(shape.d_model), pad(shape.q_dim()), pad(shape.kv_dim()), pad(shape.d_ff));
        let hidden = match shape.mlp {
            Mlp::Gelu => ff,
            Mlp::SwiGlu => 2 * ff,
        };
        let batch = batch as usize;
        let coming = if reads_ahead { batch } else { 0 };
        Self {
            x: batch * d,
            h: batch * d.max(q),
            wide: (batch * hidden.max(q + 2 * kv)).max(logits_rows as usize * pad(shape.vocab)),
            quantized: batch * d.max(q).max(ff),
            scales: batch * d.max(q).max(ff).div_ceil(TILE_INPUTS),
            scores: (context as usize).next_multiple_of(attention::BLOCK),
            weights: (context as usize).next_multiple_of(attention::BLOCK),
            frequencies: shape.head_dim as usize / 2,
            rope: batch * shape.head_dim as usize,
            coming: coming * d,
            coming_scales: coming * d.div_ceil(TILE_INPUTS),
            coming_tokens: coming,
        }
    }

    fn bytes(&self) -> usize {
        let Self { x, h, wide, scales, scores, frequencies, rope, coming_scales, .. } = *self;
        let floats = [x, h, wide, scales, scores, frequencies, rope, coming_scales];
        floats.into_iter().map(Arena::bytes::<f32>).sum::<usize>()
            + Arena::bytes::<i8>(self.coming)
            + Arena::bytes::<u16>(self.coming_tokens)
            + Arena::bytes::<i8>(self.quantized)
            + Arena::bytes::<i16>(self.weights)
            + size_of::<Page>()
    }
}

/// Lengths of the KV cache's buffers: values, then scales, of K and of V alike.
pub(crate) fn kv_lens(shape: &Shape, context: u32) -> (usize, usize) {
    let places = (context as usize).next_multiple_of(attention::BLOCK);
    let channels = (shape.head_dim as usize).next_multiple_of(attention::CHANNELS);
    let scales = (shape.n_layers as usize * shape.n_kv_heads as usize).saturating_mul(places);
    (scales.saturating_mul(channels), scales)
}

/// What goes where in a buffer of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Positions.
    pub context: u32,
    /// Positions of one step at most.
    pub batch: u32,
    /// Positions of a step whose logits are kept.
    pub logits_rows: u32,
    /// Whether tokens are guessed ahead.
    pub speculation: Speculation,
    /// What reading and computing take beside each other.
    pub pace: Pace,
    /// Whether the card reads while something is computed.
    pub reads_ahead: bool,
    /// Whether metadata of every page is kept.
    pub page_metadata: bool,
    /// Which pages stay in memory.
    pub pinning: Pinning,
    /// Whether the pinned pages are in the memory apart.
    pub pinned_apart: bool,
    /// Frames for pages that are read out of order.
    pub side_pages: u32,
    /// Frames of checksums.
    pub sum_pages: u32,
    /// Bytes of the parts, in the order of [`Plan::parts`].
    bytes: [usize; 11],
}

impl Plan {
    /// Plans for a buffer of `budget` bytes.
    ///
    /// Memory that is left after the parts that must be goes to a batch, as wide as makes a typical turn read least, to
    /// checksums that stay (each page saves a read per pass, like any other, and a command), and to page frames; what is left
    /// when all pages are pinned goes to the tokenizer's.
    ///
    /// # Errors
    /// If the request is impossible or does not fit.
    pub fn new(needs: &Needs, budget: usize, request: &Request) -> Result<Self, PlanError> {
        let most = needs.shape.max_seq;
        let context = request.context.unwrap_or(most);
        if context == 0 || context > most {
            return Err(PlanError::Context { asked: context, most });
        }
        if let Some(batch) = request.batch
            && (batch == 0 || batch > MAX_BATCH)
        {
            return Err(PlanError::Batch(batch));
        }
        let batch = request.batch.unwrap_or(1);
        let rows = |batch| if request.all_logits { batch } else { 1 };
        let least = Self::fixed(needs, context, batch, rows(batch), request);
        let needed = least.total();
        if needed > budget {
            let fits = |context| Self::fixed(needs, context, batch, rows(batch), request).total() <= budget;
            let (mut fitting, mut too_many) = (0, context);
            while too_many - fitting > 1 {
                let middle = fitting + (too_many - fitting) / 2;
                *(if fits(middle) { &mut fitting } else { &mut too_many }) = middle;
            }
            return Err(PlanError::TooSmall {
                given: budget,
                needed,
                largest: least.parts().max_by_key(|(_, bytes)| *bytes).unwrap_or((Part::KvCache, 0)),
                context,
                fitting_context: fitting,
            });
        }
        let mut plan = least;
        if cfg!(feature = "speculation") && plan.speculation != Speculation::Off && !request.all_logits {
            return Ok(Self::speculative(needs, budget, context, request).unwrap_or(plan));
        }
        plan.spread(needs, budget, request);
        if request.batch.is_none() {
            // A batch longer than the context would never be filled.
            for batch in 2..=AUTO_BATCH.min(context) {
                let mut wider = Self::fixed(needs, context, batch, rows(batch), request);
                if wider.total() > budget {
                    break;
                }
                wider.spread(needs, budget, request);
                if wider.turn(needs) <= plan.turn(needs) {
                    plan = wider;
                }
            }
        }
        Ok(plan)
    }

    /// What a typical turn takes, in the unit of the pace: a prompt of [`TURN`] tokens in batches, of which the last alone has logits, and as many
    /// tokens of a reply.
    #[inline(never)]
    fn turn(&self, needs: &Needs) -> u64 {
        let guesses = cfg!(feature = "speculation") && self.speculation != Speculation::Off;
        Costs::of(self, needs).turn(TURN, self.batch, if guesses { self.logits_rows } else { 1 })
    }

    /// The plan of a board, where nobody says what is wanted: all positions that the model has if they fit; otherwise three quarters of
    /// those that would fit, in whole eights, since without memory for pages and for a batch every token would take longer. Metadata of
    /// pages is kept where it takes little. The rest is what `request` says.
    ///
    /// # Errors
    /// If not even one position fits.
    // Not inlined: what it needs of the stack is free again when the engine starts.
    #[inline(never)]
    pub fn for_board(needs: &Needs, bytes: usize, request: &Request) -> Result<Self, PlanError> {
        let all = Request { page_metadata: needs.affords_metadata(bytes), ..*request };
        match Self::new(needs, bytes, &all) {
            Err(PlanError::TooSmall { fitting_context, .. }) if fitting_context > 0 => {
                let fewer = fitting_context - fitting_context / 4;
                let context = if fewer >= 16 { fewer / 8 * 8 } else { fitting_context };
                Self::new(needs, bytes, &Request { context: Some(context), ..all })
            }
            result => result,
        }
    }

    /// The plan with which tokens come fastest, of every batch and every number of rows of logits, which are what guesses need.
    /// `None` if not even the smallest fits.
    fn speculative(needs: &Needs, budget: usize, context: u32, request: &Request) -> Option<Self> {
        let batches = match request.batch {
            Some(batch) => batch..=batch,
            None => 1..=AUTO_BATCH.min(context),
        };
        let wanted = match request.speculation {
            Speculation::Fixed(n) => n.saturating_add(1),
            _ => 1,
        };
        let rows = batches.flat_map(|batch| (1..=batch).map(move |rows| (batch, rows)));
        let plans = rows.filter_map(|(batch, rows)| {
            let mut plan = Self::fixed(needs, context, batch, rows, request);
            (plan.total() <= budget).then(|| {
                plan.spread(needs, budget, request);
                plan
            })
        });
        // Where everything stays in memory, all batches cost the same for a token; then the last, the widest.
        plans.rev().min_by_key(|plan| (wanted.abs_diff(plan.logits_rows.min(wanted)), plan.turn(needs)))
    }

    /// The smallest plan: one frame of each kind.
    fn fixed(needs: &Needs, context: u32, batch: u32, logits_rows: u32, request: &Request) -> Self {
        let shape = &needs.shape;
        let (kv_values, kv_scales) = kv_lens(shape, context);
        let ahead = request.read_ahead > 0;
        let activations = ActivationLens::new(shape, context, batch, 0, ahead).bytes();
        let with_logits = ActivationLens::new(shape, context, batch, logits_rows, ahead).bytes();
        let pages = needs.weights_pages as usize;
        let locations = if needs.layout == Layout::Files { pages } else { 0 };
        let metadata = if request.page_metadata { pages } else { 0 };
        let mut plan = Self {
            context,
            batch,
            logits_rows,
            speculation: if cfg!(feature = "speculation") { request.speculation } else { Speculation::Off },
            pace: request.pace,
            reads_ahead: ahead,
            page_metadata: request.page_metadata,
            pinning: Pinning { tape: needs.tape_pages, ring: 1, ..Pinning::default() },
            pinned_apart: false,
            side_pages: 1,
            sum_pages: 1,
            bytes: [0; 11],
        };
        plan.bytes = [
            Arena::bytes::<u32>(TensorTable::entries(shape)),
            Arena::bytes::<u32>(locations),
            Arena::bytes::<u32>(metadata),
            Arena::bytes::<i8>(kv_values).saturating_add(Arena::bytes::<u16>(kv_scales)).saturating_mul(2),
            activations,
            with_logits - activations,
            Arena::bytes::<u16>(context as usize),
            0,
            0,
            0,
            0,
        ];
        plan.count_frames();
        plan
    }

    fn count_frames(&mut self) {
        let frames = [self.sum_pages, self.side_pages, self.pinning.ring, self.pinning.pinned];
        for (bytes, frames) in self.bytes[7..].iter_mut().zip(frames) {
            *bytes = frames as usize * size_of::<Page>();
        }
        // The tags of the side pages.
        self.bytes[8] += Arena::bytes::<u32>(self.side_pages as usize);
    }

    /// Gives what is left of the budget to frames.
    fn spread(&mut self, needs: &Needs, budget: usize, request: &Request) {
        let spare = |plan: &Self| ((budget - plan.total()) / size_of::<Page>()) as u32;
        // One frame of the ring is in the plan already.
        let all_sums = needs.sums().pages();
        if spare(self) + 1 < needs.tape_pages && spare(self) + 1 > 2 * all_sums {
            self.sum_pages = all_sums;
            self.count_frames();
        }
        let (frames, apart) = (spare(self) + 1, (request.memory_apart / size_of::<Page>()) as u32);
        let reads = self.pace.reads().ahead(request.read_ahead);
        if let Some(pinning) = Pinning::new(needs.tape_pages, frames, &reads) {
            self.pinning = pinning;
        }
        // Memory of the fast kind is preferred unless the slow kind holds more.
        if self.pinning.pinned < apart.min(needs.tape_pages)
            && let Some(pinning) = Pinning::apart(needs.tape_pages, apart, frames, &reads)
        {
            self.pinning = pinning;
            self.pinned_apart = true;
        }
        self.favour_prompts(needs);
        self.count_frames();
        if self.pinning.ring == 0 {
            let frame = size_of::<Page>() + 8;
            let more = ((budget - self.total()) / frame) as u32;
            self.side_pages += more.min(needs.tokenizer_pages);
            self.count_frames();
        }
    }

    /// Pins more of the pages that each pass over a prompt reads, as far as that makes a typical turn shorter: the head and what is in front of it are read once a prompt,
    /// and rows of an embedding that is the head are looked up more often then.
    fn favour_prompts(&mut self, needs: &Needs) {
        let even = self.pinning;
        let (mut best, mut least) = (even, self.turn(needs));
        for steps in 1..=FAVOURS {
            self.pinning = even.favour(needs.prompts_end, steps);
            let turn = self.turn(needs);
            if turn < least {
                (best, least) = (self.pinning, turn);
            }
        }
        self.pinning = best;
    }

    /// Every part and its bytes; parts that are not needed have none.
    pub fn parts(&self) -> impl Iterator<Item = (Part, usize)> {
        [
            Part::TensorTable,
            Part::PageLocations,
            Part::PageMetadata,
            Part::KvCache,
            Part::Activations,
            Part::Logits,
            Part::Tokens,
            Part::Checksums,
            Part::SidePages,
            Part::Ring,
            Part::PinnedPages,
        ]
        .into_iter()
        .zip(self.bytes)
    }

    /// Bytes of all parts but those that are in the memory apart.
    pub fn total(&self) -> usize {
        let all = self.bytes.iter().fold(0usize, |sum, bytes| sum.saturating_add(*bytes));
        all.saturating_sub(self.total_apart())
    }

    /// Bytes of the parts in the memory apart.
    pub fn total_apart(&self) -> usize {
        if self.pinned_apart { self.bytes.last().copied().unwrap_or(0) } else { 0 }
    }
}
