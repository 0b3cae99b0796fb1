//! What a model would do on a board: predicted.
//!
//! The engine itself runs, over the card itself, with the board's memory plan; only time is the virtual clock's. So
//! every page, command, batch, wait and right guess is the one that the board would see, and the figures are as good as those of [`crate::boards`].

use std::time::Duration;

use pageformer_card::{Manifest, TensorTable};
use pageformer_engine::{
    Engine, Error, Needs, Pace, Plan, Request, Session, Speculated, Speculation, kernels,
};
use pageformer_vram::{Arena, Card, Stats};

use crate::boards::{Board, Bus};
use crate::{Clock, Opened, Processor, Timed, Virtual, Work};

/// Tokens of a typical prompt, and of what is decoded after it.
pub const TYPICAL: u32 = 32;
/// Tokens of a reply to a prompt at most.
pub const REPLY: u32 = 2 * TYPICAL;

/// A prediction.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The memory plan.
    pub plan: Plan,
    /// Reading a prompt of [`TYPICAL`] tokens.
    pub prefill: Phase,
    /// Replying with a pass for each token: to the prompts, or [`TYPICAL`] tokens behind that prompt.
    pub decode: Phase,
    /// The same replies with tokens guessed ahead, if the plan has memory for that.
    pub guessed: Option<Phase>,
    /// Whether the card has a table to guess from, or what is wrong with it.
    pub drafts: Result<bool, String>,
}

impl Prediction {
    /// Replying as the board does.
    pub fn reply(&self) -> &Phase {
        self.guessed.as_ref().unwrap_or(&self.decode)
    }
}

/// Some tokens, and what they take.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Tokens.
    pub tokens: u64,
    /// Passes over the tape.
    pub passes: u64,
    /// Tokens that were guessed and read.
    pub drafted: u64,
    /// All the time.
    pub time: Duration,
    /// Time that the card reads.
    pub reading: Duration,
    /// Time that the processor computes, checks pages included.
    pub computing: Duration,
    /// What was read.
    pub stats: Stats,
    /// What was computed.
    pub work: Work,
}

impl Phase {
    /// Tokens a second.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64().max(1e-12)
    }

    /// Tokens of a pass.
    pub fn tokens_per_pass(&self) -> f64 {
        self.tokens as f64 / self.passes.max(1) as f64
    }

    /// Pages read for each token, with all that is looked up.
    pub fn pages_per_token(&self) -> f64 {
        let Stats { streamed, embedding, tokenizer, drafts, sums, .. } = self.stats;
        (streamed + embedding + tokenizer + drafts + sums) as f64 / self.tokens as f64
    }

    /// Time in which the card reads and the processor computes.
    pub fn both(&self) -> Duration {
        (self.reading + self.computing).saturating_sub(self.time)
    }

    /// Whether the card is what takes the time.
    pub fn waits_for_card(&self) -> bool {
        self.reading > self.computing
    }
}

/// What a board and its bus are, and how they are used.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The board.
    pub board: &'a Board,
    /// The bus of its card.
    pub bus: &'a Bus,
    /// Pages of the pieces that the card's files lie in; `None`: in one piece.
    pub piece: Option<u32>,
    /// Whether the board's reader reads ahead, if it has one.
    pub read_ahead: bool,
}

impl Setup<'_> {
    /// Pages that are read ahead.
    pub fn pages_ahead(&self) -> u32 {
        if self.read_ahead { self.board.read_ahead } else { 0 }
    }

    /// What reading and computing take here, in nanoseconds, for a model with a tape of so many pages and such `work`.
    pub fn pace(&self, work: &PassWork, tape: u32) -> Pace {
        let (processor, timing) = (self.board.processor(), self.bus.timing(self.piece));
        let share = |work: &Work| processor.time(work) / tape.max(1);
        let ns = |time: Duration| u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
        Pace {
            command: ns(timing.command),
            page: ns(timing.page),
            check: ns(processor.page_time()),
            fetch: ns(share(&work.once)),
            compute: ns(share(&work.position)),
            logits: ns(share(&work.logits)),
        }
    }

    /// What is asked of the memory plan here: guesses only if the board's firmware makes them, as many as pay with this pace.
    pub fn request(&self, asked: &Request, pace: Pace) -> Request {
        let speculation = match asked.speculation {
            Speculation::Auto if !self.board.guesses => Speculation::Off,
            asked => asked,
        };
        Request { pace, speculation, read_ahead: self.pages_ahead(), ..*asked }
    }

    /// A card by this board's clock.
    pub fn card<C>(&self, card: C, clock: &Clock) -> Timed<C> {
        Timed::new(card, self.bus.timing(self.piece), clock.clone())
            .with_read_ahead(self.pages_ahead())
            .with_check(self.board.processor().page_time())
    }
}

/// Work of a pass over the tape.
#[derive(Clone, Copy, Debug)]
pub struct PassWork {
    /// Whatever the number of positions.
    pub once: Work,
    /// For each position, up to the last layer's keys and values; what is behind them for the last position is in `once`.
    pub position: Work,
    /// For each position more that has logits: what is behind them.
    pub logits: Work,
}

/// Work of a pass, for [`Setup::pace`]: of a card that was opened in some memory, and what is left of that, which is not the board's.
///
/// # Errors
/// If a page is bad.
pub fn work_of_pass<'m>(opened: Opened<'m>, mut arena: Arena<'m>) -> Result<PassWork, Error> {
    let Opened { card, manifest, table } = opened;
    let needs = Needs::new(&manifest, &table);
    let context = (4 * TYPICAL).min(manifest.shape.max_seq);
    let request = Request { context: Some(context), ..Request::default() };
    // Two positions at once at least, or it cannot be told what they share.
    let request = Request { batch: Some(16.min(context)), all_logits: true, ..request };
    let plan = Plan::new(&needs, arena.left() + TensorTable::entries(&manifest.shape) * 4, &request)?;
    let idle = Processor { hz: 1e9, mac: 0.0, float: 0.0, output: 0.0, page: 0.0, byte: 0.0 };
    let (kernel, counter) = Virtual::new(idle, Clock::default(), manifest.shape.n_layers, None);
    let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel)?;
    let tokens: Vec<u16> = (0..context).map(|at| token(&manifest, at)).collect();
    let mut work = |at: usize, tokens: &[u16], all: bool| {
        engine.truncate(at as u32);
        let before = counter.work();
        match all {
            true => engine.step_all(tokens).map(|_| ())?,
            false => engine.step(tokens).map(|_| ())?,
        }
        Ok::<_, Error>(counter.work().since(&before))
    };
    // In the middle of the context, as far as there is one.
    let middle = (context as usize / 2).min(context.saturating_sub(3) as usize);
    let (before, rest) = tokens.split_at(middle);
    for (number, batch) in before.chunks(plan.batch as usize).enumerate() {
        work(number * plan.batch as usize, batch, false)?;
    }
    let (Some(one), Some(two)) = (rest.get(..1), rest.get(1..3)) else {
        let position = work(middle, rest, false)?;
        return Ok(PassWork { once: Work::default(), position, logits: Work::default() });
    };
    let (with_one, with_two) = (work(middle, one, false)?, work(middle + 1, two, false)?);
    let position = with_two.since(&with_one);
    let logits = work(middle + 1, two, true)?.since(&with_two);
    Ok(PassWork { once: with_one.since(&position), position, logits })
}

/// What everything that is counted shows at one moment.
#[derive(Clone, Copy)]
struct Moment {
    time: Duration,
    reading: Duration,
    computing: Duration,
    stats: Stats,
    work: Work,
    speculated: Speculated,
}

impl Moment {
    fn of<C: Card>(session: &Session<'_, Timed<C>>, clock: &Clock, counter: &Virtual) -> Self {
        let vram = session.engine().vram();
        Self {
            time: clock.now(),
            reading: vram.card().busy(),
            computing: vram.card().checking() + counter.busy(),
            stats: *vram.stats(),
            work: counter.work(),
            speculated: *session.speculated(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            time: self.time.saturating_sub(before.time),
            reading: self.reading.saturating_sub(before.reading),
            computing: self.computing.saturating_sub(before.computing),
            stats: self.stats.since(&before.stats),
            work: self.work.since(&before.work),
            speculated: self.speculated.since(&before.speculated),
        }
    }

    fn phase(&self, tokens: u64, passes: u64) -> Phase {
        let Self { time, reading, computing, stats, work, speculated } = *self;
        Phase { tokens, passes, drafted: speculated.drafted, time, reading, computing, stats, work }
    }
}

/// Predicts. `request` is [`Setup::request`]'s; `opened` and `arena` are a card that was opened in `ram` bytes, and what is left of them; the plan is [`Plan::for_board`]'s if the
/// `request` names neither context nor batch; metadata of pages are kept where they take little. With `prompts`, the model replies to them, so that it is seen what guesses bring; without, tokens
/// are made up and nothing is computed.
///
/// # Errors
/// If the model does not fit, or a page is bad.
pub fn predict<'m>(
    opened: Opened<'m>,
    mut arena: Arena<'m>,
    ram: usize,
    request: &Request,
    setup: &Setup<'_>,
    prompts: &[String],
) -> Result<Prediction, Error> {
    let Opened { card, manifest, table } = opened;
    let (clock, needs) = (Clock::default(), Needs::new(&manifest, &table));
    let plan = match *request {
        Request { context: None, batch: None, .. } => Plan::for_board(&needs, ram, request)?,
        _ => {
            let page_metadata = request.page_metadata && needs.affords_metadata(ram);
            Plan::new(&needs, ram, &Request { page_metadata, ..*request })?
        }
    };
    let within = (!prompts.is_empty()).then(kernels::best);
    let (kernel, counter) =
        Virtual::new(setup.board.processor(), clock.clone(), manifest.shape.n_layers, within);
    let engine = Engine::start(setup.card(card, &clock), &manifest, table, &plan, &mut arena, kernel)?;
    let mut session = Session::start(engine, &manifest, &mut arena)?;
    let start = Moment::of(&session, &clock, counter);

    let prompt = TYPICAL.min(plan.context / 2).max(1);
    let tokens: Vec<u16> = (0..prompt).map(|at| token(&manifest, at)).collect();
    let last = (prompt as usize - 1) / plan.batch as usize * plan.batch as usize;
    for from in (0..last).step_by(plan.batch as usize) {
        let (now, next) = tokens[from..].split_at(plan.batch as usize);
        session.engine_mut().read(now, next)?;
    }
    session.engine_mut().step(&tokens[last..])?;
    let read = Moment::of(&session, &clock, counter);
    let said = (prompt + TYPICAL).min(plan.context) - prompt;
    for at in prompt..prompt + said {
        session.pass(token(&manifest, at))?;
    }
    let decode = Moment::of(&session, &clock, counter).since(&read);

    let mut replies = |how| -> Result<Option<Phase>, Error> {
        session.speculation = how;
        let mut said = |most| -> Result<Moment, Error> {
            let before = Moment::of(&session, &clock, counter);
            for prompt in prompts {
                session.reset();
                let stop = manifest.chat.map(|chat| chat.stop).unwrap_or_default();
                match session.reply(prompt, stop.as_str(), most, &mut |_| true) {
                    Ok(_) | Err(Error::ContextFull { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Moment::of(&session, &clock, counter).since(&before))
        };
        // The first token comes with the prompt: what follows it is what a reply takes. Both begin with the same pages in
        // memory, those of the tokenizer included.
        said(1)?;
        let (first, whole) = (said(1)?, said(REPLY)?);
        let rest = whole.since(&first);
        let Speculated { tokens, passes, .. } = rest.speculated;
        Ok((tokens > 0).then(|| rest.phase(tokens, passes)))
    };
    let plain = replies(Speculation::Off)?;
    let guessed = if plan.logits_rows > 1 { replies(request.speculation)? } else { None };
    Ok(Prediction {
        plan,
        prefill: read.since(&start).phase(prompt.into(), prompt.div_ceil(plan.batch).into()),
        decode: plain.unwrap_or_else(|| decode.phase(said.into(), said.into())),
        guessed,
        drafts: session.drafts_fault().map_or(Ok(session.has_drafts()), |fault| Err(fault.to_string())),
    })
}

/// Some token: which one it is makes a difference only for the page that its row lies in.
fn token(manifest: &Manifest, at: u32) -> u16 {
    (at.wrapping_mul(7919) % manifest.shape.vocab) as u16
}
