//! The firmware: one buffer of [`BUFFER_BYTES`] for the model; what is left of the SRAM is the stack.
//!
//! `cargo xtask emulate` builds and runs it.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use pageformer_console::{Console, Settings};
use pageformer_engine::Pace;
use pageformer_firmware::{Memory, SdSlot, run};
use pageformer_qemu_cortex_m3::board::{Board, Delay};
use pageformer_qemu_cortex_m3::halt;
use pageformer_qemu_cortex_m3::spi::CardSpi;
use pageformer_qemu_cortex_m3::uart::Uart;

/// Bytes of the buffer that the model works in.
const BUFFER_BYTES: usize = 52 * 1024;

/// What reading takes here, in nanoseconds, which the length of runs follows from: the figures of `pageformer plan --board lm3s6965`. Nothing is guessed
/// ahead, so that what computing takes makes no difference.
const PACE: Pace = Pace { command: 685_800, page: 72_800, check: 0, fetch: 0, compute: 0, logits: 0 };

#[entry]
fn main() -> ! {
    static mut MEMORY: [u64; BUFFER_BYTES / 8] = [0; BUFFER_BYTES / 8];

    let Some(mut core) = cortex_m::Peripherals::take() else { halt() };
    let board = Board::new(&mut core.SYST);
    let mut console = Console::new(Uart::new(), board, Settings::default());
    let mut slot = SdSlot::new(CardSpi::new(), Delay, &[]);
    run(&mut slot, Memory { main: MEMORY, apart: &mut [], pace: PACE }, &mut console);
    halt()
}
