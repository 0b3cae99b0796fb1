//! Clock, idling, and what `/memory` says.

use core::fmt;

use embedded_hal::delay::DelayNs;
use esp_hal::time::{Duration, Instant};
use pageformer_console::Host;

use crate::{bus, stack};

/// The board, seen from the console.
pub struct Chip {
    /// Name of the board.
    pub board: &'static str,
    /// Bytes of the buffer.
    pub buffer: usize,
    /// Bytes of PSRAM.
    pub psram: usize,
}

impl Host for Chip {
    fn ticks(&mut self) -> Option<u64> {
        Some(Instant::now().duration_since_epoch().as_micros())
    }

    fn ticks_per_second(&self) -> u32 {
        1_000_000
    }

    /// There is nothing to sleep for: power is not what this is about, and a byte must not be missed.
    fn idle(&mut self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(10) {
            core::hint::spin_loop();
        }
    }

    fn memory(&mut self, out: &mut dyn fmt::Write) -> fmt::Result {
        let stack::Usage { bytes, used } = stack::usage();
        writeln!(
            out,
            "{}: {} B of RAM and {} B of PSRAM for the model",
            self.board, self.buffer, self.psram
        )?;
        writeln!(out, "stack: at most {used} B of {bytes} B in use so far")?;
        writeln!(out, "card: {} kHz", bus::clock() / 1000)
    }
}

/// Busy waiting.
#[cfg_attr(feature = "sdhost", allow(dead_code))]
pub struct Delay;

impl DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        esp_hal::delay::Delay::new().delay_nanos(ns);
    }
}
