//! What every board runs: from a card in its slot to a prompt on its serial port.
//!
//! ```text
//! card ─► FAT volume ─► index.json ─► memory plan ─► pinned pages ─► every page once ─► console
//!   ▲         │             │             │               │                │               │
//!   └─────────┴─────────────┴───── a message that says what to check ──────┴───────────────┘
//! ```
//!
//! No hardware in here, and no allocator: a board brings a [`CardSlot`] (for SD cards on SPI there is [`SdSlot`]), a
//! port, a [`Host`](pageformer_console::Host) and one buffer, and calls [`run`]. `docs/porting.md` shows a whole board.
//!
//! A card that is missing, wrong or pulled out never ends the program: the console says what the matter is, and goes on
//! when another card is put in or `/card` is typed.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(test)]
extern crate std;

// A processor with two cores has this, one without cannot build the queues.
#[cfg(target_has_atomic = "ptr")]
mod ahead;
mod boot;
mod clock;
#[cfg(all(target_arch = "arm", target_os = "none"))]
mod fill;
pub mod float;
mod run;
mod sd;
mod slot;
mod spaced;

#[cfg(target_has_atomic = "ptr")]
pub use ahead::{Back, Front, Shared, divide};
pub use boot::{BootError, Booted, Memory, boot};
pub use clock::{CLOCKS, Pace, Paced, START_CLOCK, clocks_up_to};
pub use run::run;
pub use sd::{CardBus, SdSlot};
pub use slot::CardSlot;
