//! What a model would do on a board: predicted.
//!
//! The engine itself runs, over the card itself, with the board's memory plan; only nothing is computed, and time is the virtual clock's. So
//! every page, command, batch and wait is the one that the board would see, and the figures are as good as those of [`crate::boards`].

use std::time::Duration;

use pageformer_card::Manifest;
use pageformer_engine::{Engine, Error, Needs, Plan, Request};
use pageformer_vram::{Arena, CardFile, Stats};

use crate::boards::{Board, Bus};
use crate::{Clock, Opened, Timed, Virtual, Work};

/// Tokens of a typical prompt, and of what is decoded after it.
pub const TYPICAL: u32 = 32;

/// A prediction.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The memory plan.
    pub plan: Plan,
    /// Reading a prompt of [`TYPICAL`] tokens.
    pub prefill: Phase,
    /// Saying as many behind it.
    pub decode: Phase,
}

/// Some tokens, and what they take.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Tokens.
    pub tokens: u32,
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
        f64::from(self.tokens) / self.time.as_secs_f64().max(1e-12)
    }

    /// Pages read for each token, checksums and rows included.
    pub fn pages_per_token(&self) -> f64 {
        let Stats { streamed, embedding, tokenizer, sums, .. } = self.stats;
        (streamed + embedding + tokenizer + sums) as f64 / f64::from(self.tokens)
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

    /// A card by this board's clock.
    pub fn card<C>(&self, card: C, clock: &Clock) -> Timed<C> {
        Timed::new(card, self.bus.timing(self.piece), clock.clone())
            .with_read_ahead(self.pages_ahead())
            .with_check(self.board.processor().page_time())
    }
}

/// Predicts. `opened` and `arena` are a card that was opened in `ram` bytes, and what is left of them. Without a `request`, the plan is the
/// one that a board makes by itself.
///
/// # Errors
/// If the model does not fit, or a page is bad.
pub fn predict<'m>(
    opened: Opened<'m>,
    mut arena: Arena<'m>,
    ram: usize,
    request: Option<&Request>,
    setup: &Setup<'_>,
) -> Result<Prediction, Error> {
    let Opened { card, manifest, table } = opened;
    let (clock, needs) = (Clock::default(), Needs::new(&manifest, &table));
    let plan = match request {
        Some(request) => Plan::new(&needs, ram, &Request { read_ahead: setup.pages_ahead(), ..*request })?,
        None => Plan::for_board(&needs, ram, setup.pages_ahead(), 0)?,
    };
    let (kernel, counter) =
        Virtual::new(setup.board.processor(), clock.clone(), manifest.shape.n_layers, None);
    let card = setup.card(card, &clock);
    let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel)?;
    let prompt = TYPICAL.min(plan.context / 2).max(1);
    let tokens: Vec<u16> = (0..prompt).map(|at| token(&manifest, at)).collect();
    let mut phase = |work: &mut dyn FnMut(&mut Engine<'m, _>) -> Result<(), Error>| {
        engine.vram_mut().reset_stats();
        let card = engine.vram().card();
        let (begin, started, read) = (engine.position(), clock.now(), card.busy());
        let (checked, computed, done) = (card.checking(), counter.busy(), counter.work());
        work(&mut engine)?;
        let card = engine.vram().card();
        Ok::<_, Error>(Phase {
            tokens: engine.position() - begin,
            time: clock.now() - started,
            reading: card.busy() - read,
            computing: card.checking() - checked + counter.busy() - computed,
            stats: *engine.vram().stats(),
            work: counter.work().since(&done),
        })
    };
    let prefill = phase(&mut |engine| {
        tokens.chunks(plan.batch as usize).try_for_each(|batch| engine.step(batch).map(|_| ()))
    })?;
    let decode = phase(&mut |engine| {
        for at in prompt..(prompt + TYPICAL).min(plan.context) {
            engine.step(&[token(&manifest, at)])?;
            // The text of the token that was chosen.
            let page = at.wrapping_mul(0x9E37_79B1) % needs.tokenizer_pages.max(1);
            engine.vram_mut().page(CardFile::Tokenizer, page).map_err(|fault| Error::Page(fault, None))?;
        }
        Ok(())
    })?;
    Ok(Prediction { plan, prefill, decode })
}

/// Some token: which one it is makes a difference only for the page that its row lies in.
fn token(manifest: &Manifest, at: u32) -> u16 {
    (at.wrapping_mul(7919) % manifest.shape.vocab) as u16
}
