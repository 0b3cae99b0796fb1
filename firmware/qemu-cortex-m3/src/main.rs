//! Firmware for QEMU's `lm3s6965evb`: a Cortex-M3 with 64 KiB of SRAM and an SD card on SPI.
//!
//! | | |
//! |---|---|
//! | console | UART0, 115200 baud |
//! | card | SSI0, chip select PD0 |
//! | clock | SysTick at 50 MHz |
//! | memory | one buffer of [`BUFFER_BYTES`]; what is left of the SRAM is the stack |
//!
//! `cargo xtask emulate` builds and runs it.
#![no_std]
#![no_main]

mod board;
mod registers;
mod spi;
mod uart;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, entry, exception};
use pageformer_console::{Console, Settings, Terminal};
use pageformer_firmware::{SdSlot, run};

use board::{Board, Delay};
use spi::CardSpi;
use uart::Uart;

/// Bytes of the buffer that the model works in.
const BUFFER_BYTES: usize = 52 * 1024;

#[entry]
fn main() -> ! {
    static mut MEMORY: [u64; BUFFER_BYTES / 8] = [0; BUFFER_BYTES / 8];

    let Some(mut core) = cortex_m::Peripherals::take() else { halt() };
    let board = Board::new(&mut core.SYST);
    let mut console = Console::new(Uart::new(), board, Settings::default());
    let mut slot = SdSlot::new(CardSpi::new(), Delay, &[]);
    run(&mut slot, MEMORY, &mut console);
    halt()
}

/// There is nothing left to do.
fn halt() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

/// Says what happened. No content of a card leads here.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    let _ = writeln!(Terminal::new(Uart::new()), "\npanic: {info}");
    halt()
}

/// The same for what the processor itself finds wrong.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    let _ = writeln!(Terminal::new(Uart::new()), "\nhard fault at {:#010x}", frame.pc());
    halt()
}
