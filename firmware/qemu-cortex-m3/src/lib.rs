//! QEMU's `lm3s6965evb` for the programs that run on it: a Cortex-M3 with 64 KiB of SRAM and an SD card on SPI.
//!
//! | | |
//! |---|---|
//! | console | UART0, 115200 baud |
//! | card | SSI0, chip select PD0 |
//! | clock | SysTick at 50 MHz |
#![no_std]

pub mod board;
mod registers;
pub mod spi;
pub mod uart;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, exception};
use pageformer_console::Terminal;

use uart::Uart;

/// There is nothing left to do.
pub fn halt() -> ! {
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
