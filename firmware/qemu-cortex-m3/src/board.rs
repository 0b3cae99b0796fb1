//! The board: its clock, and how deep the stack has been.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::{SYST, syst::SystClkSource};
use cortex_m_rt::exception;
use embedded_hal::delay::DelayNs;
use pageformer_console::Host;

use crate::registers::*;

/// System clock, in Hz.
pub const CLOCK: u32 = 50_000_000;
/// Ticks of the system clock between two interrupts: 10 ms.
const RELOAD: u32 = CLOCK / 100;

/// Interrupts of the timer so far.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// The clock, and what `/memory` says.
pub struct Board {
    /// The highest number of interrupts that was seen, to notice that the count has wrapped around.
    interrupts: u64,
}

impl Board {
    /// Runs the chip at 50 MHz from its PLL, supplies the peripherals and starts the timer.
    pub fn new(timer: &mut SYST) -> Self {
        // PLL at 200 MHz (crystal 8 MHz), divided by 4; main oscillator.
        RCC.write(0x01C0_0380 | 1 << 22);
        // SSI0, UART0.
        RCGC1.write(1 << 4 | 1);
        // Ports A and D.
        RCGC2.write(1 << 3 | 1);
        GPIOA_AFSEL.write(0b11_1111);
        GPIOA_DEN.write(0b11_1111);
        GPIOD_DIR.write(1);
        GPIOD_DEN.write(1);
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD - 1);
        timer.clear_current();
        timer.enable_counter();
        timer.enable_interrupt();
        Self { interrupts: 0 }
    }
}

impl Host for Board {
    fn ticks(&mut self) -> Option<u64> {
        loop {
            let interrupts = INTERRUPTS.load(Ordering::Relaxed);
            let left = SYST::get_current();
            // Read again if the timer started over in between.
            if INTERRUPTS.load(Ordering::Relaxed) == interrupts {
                // 2³² interrupts of 10 ms take more than a year.
                let passed = interrupts.wrapping_sub(self.interrupts as u32);
                self.interrupts += u64::from(passed);
                return Some(self.interrupts * u64::from(RELOAD) + u64::from(RELOAD - 1 - left));
            }
        }
    }

    fn ticks_per_second(&self) -> u32 {
        CLOCK
    }

    fn idle(&mut self) {
        cortex_m::asm::wfi();
    }

    fn memory(&mut self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Usage { flash, statics, stack, stack_used } = Usage::now();
        writeln!(out, "flash: {flash} B; RAM: {statics} B of static variables, the buffer included")?;
        writeln!(out, "stack: at most {stack_used} B of {stack} B in use so far")
    }
}

/// What the program takes.
struct Usage {
    flash: usize,
    statics: usize,
    stack: usize,
    stack_used: usize,
}

impl Usage {
    fn now() -> Self {
        unsafe extern "C" {
            static _ram_start: u32;
            static _stack_start: u32;
            static _stack_end: u32;
            static __sdata: u32;
            static __edata: u32;
            static __sidata: u32;
        }
        // Only the addresses of these symbols of the linker are used.
        let [ram, top, end, data, data_end, data_image] = [
            &raw const _ram_start,
            &raw const _stack_start,
            &raw const _stack_end,
            &raw const __sdata,
            &raw const __edata,
            &raw const __sidata,
        ]
        .map(|symbol| symbol as usize);
        // The stack grows down from `top`; the words from `end` up that still have their paint were never used.
        let untouched = (end..top)
            .step_by(4)
            .take_while(|word| {
                // SAFETY: an aligned word of RAM between the end of the static variables and the top of the
                // stack. What lies there changes under nobody's feet: this is the only thread, and words below its
                // stack pointer are not in use.
                let word = unsafe { core::ptr::read_volatile(*word as *const u32) };
                word == cortex_m_rt::STACK_PAINT_VALUE
            })
            .count()
            * 4;
        Self {
            flash: data_image + (data_end - data),
            statics: end - ram,
            stack: top - end,
            stack_used: top - end - untouched,
        }
    }
}

/// Busy waiting.
pub struct Delay;

impl DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        cortex_m::asm::delay(ns.div_ceil(1_000_000_000 / CLOCK));
    }
}
