//! From a card to a session.

use core::fmt;

use pageformer_engine::{
    Engine, Error, Needs, Pace, Plan, PlanError, Request, Session, Speculation, kernels,
};
use pageformer_mount::{FatCard, MountError, Mounted, mount};
use pageformer_vram::{Arena, Card};

use crate::CardSlot;

/// A session over the card in a slot.
pub type Booted<'m, S> = Session<'m, FatCard<'m, &'m mut S>>;

/// Why there is no session. Each says what to check.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum BootError {
    /// The slot is empty.
    NoCard,
    /// The card is none of ours, or damaged.
    Mount(MountError),
    /// The model does not fit the memory.
    Plan(PlanError),
    /// A page is damaged, or the files do not belong together.
    Engine(Error),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCard => f.write_str("no card: put one in, or check its contacts and wiring"),
            Self::Mount(e) => write!(f, "{e}"),
            Self::Plan(e) => {
                write!(f, "{e}; take a smaller model, or export this one with fewer positions (max_seq)")
            }
            Self::Engine(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for BootError {}

impl From<MountError> for BootError {
    fn from(e: MountError) -> Self {
        Self::Mount(e)
    }
}

impl From<PlanError> for BootError {
    fn from(e: PlanError) -> Self {
        Self::Plan(e)
    }
}

impl From<Error> for BootError {
    fn from(e: Error) -> Self {
        Self::Engine(e)
    }
}

/// What a board gives a model: its memory, and how fast it is.
#[derive(Debug)]
pub struct Memory<'m> {
    /// Where everything is.
    pub main: &'m mut [u64],
    /// More of a slower kind, such as PSRAM, for pinned pages alone. Mostly there is none.
    pub apart: &'m mut [u64],
    /// What reading and computing take: how the memory is divided follows from it.
    pub pace: Pace,
}

impl<'m> From<&'m mut [u64]> for Memory<'m> {
    fn from(main: &'m mut [u64]) -> Self {
        Self { main, apart: &mut [], pace: Pace::default() }
    }
}

impl<'m, const N: usize> From<&'m mut [u64; N]> for Memory<'m> {
    fn from(main: &'m mut [u64; N]) -> Self {
        Self { main, apart: &mut [], pace: Pace::default() }
    }
}

/// Starts a session over the card in `slot`, with everything it needs in `memory`.
///
/// # Errors
/// If there is no card, it is not one of ours, or it does not fit.
// Not inlined, here and below: the stack of what is done before the conversation begins is free again by then.
#[inline(never)]
pub fn boot<'m, S: CardSlot>(slot: &'m mut S, memory: Memory<'m>) -> Result<Booted<'m, S>, BootError> {
    if !slot.acquire() {
        return Err(BootError::NoCard);
    }
    let bytes = [&*memory.main, &*memory.apart].map(size_of_val::<[u64]>);
    let mut arena = Arena::with_memory_apart(memory.main, memory.apart);
    let mounted = mount(slot, &mut arena)?;
    start(mounted, arena, bytes, memory.pace)
}

/// The second half of [`boot`]; `arena` is what is left of `bytes` bytes, and of those that are apart.
#[inline(never)]
fn start<'m, S: CardSlot>(
    mounted: Mounted<'m, &'m mut S>,
    mut arena: Arena<'m>,
    [bytes, memory_apart]: [usize; 2],
    pace: Pace,
) -> Result<Booted<'m, S>, BootError> {
    let Mounted { card, manifest, table } = mounted;
    let (read_ahead, speculation) = (card.read_ahead(), Speculation::Auto);
    let request = Request { read_ahead, memory_apart, speculation, pace, ..Request::default() };
    let plan = Plan::for_board(&Needs::new(&manifest, &table), bytes, &request)?;
    let engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernels::best())?;
    Ok(Session::start(engine, &manifest, &mut arena)?)
}
