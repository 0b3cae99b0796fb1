//! Boards and the ways to their cards, as data: each figure with where it is from.
//!
//! None of these boards has been measured by this project. What follows from the figures is a prediction.

use std::time::Duration;

use crate::{Processor, Timing};

/// A way to read pages.
#[derive(Clone, Copy, Debug)]
pub struct Bus {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Microseconds of a page in a long run.
    pub page_us: f64,
    /// Microseconds of a read command, however many pages it reads.
    pub command_us: f64,
    /// Where both are from.
    pub source: &'static str,
}

/// What a card takes to find the first block of a read, in microseconds. It depends on the card much more than on the bus: single-block
/// reads of an SD card on ESP32-S3 hosts stay below 1 MB/s on any bus, and newer cards take about half of it.
const FIRST_BLOCK: f64 = 600.0;

/// The buses.
pub const BUSES: [Bus; 6] = [
    Bus {
        name: "spi-20",
        about: "SD card on SPI, 20 MHz",
        page_us: 292.0,
        command_us: FIRST_BLOCK,
        source: "page: 1.67 MiB/s raw reads on an ESP32-S3 (atomic14/esp32-sdcard-msc); command: 0.6 ms until the first block after CMD17 or \
                 CMD18 (cqr113.github.io, 2018/07/29, Toshiba 4 GB)",
    },
    Bus {
        name: "spi-40",
        about: "SD card on SPI, 40 MHz",
        page_us: 189.0,
        command_us: FIRST_BLOCK,
        source: "derived from spi-20: the 205 us that 512 bytes take on the wire halve, the 87 us between blocks stay; others see 325 us for a \
                 sector with a command each (r/esp32, 1jmjdo3)",
    },
    Bus {
        name: "sdmmc-1",
        about: "SD card on SDHOST, 1 bit, 40 MHz",
        page_us: 140.0,
        command_us: FIRST_BLOCK,
        source: "page: 3.66 MB/s in reads of 4 KB on an ESP32-S3 (espressif/arduino-esp32 issue 12027), their commands included; command: as spi-20",
    },
    Bus {
        name: "sdmmc-4",
        about: "SD card on SDHOST, 4 bits, 40 MHz",
        page_us: 58.0,
        command_us: FIRST_BLOCK,
        source: "page: 8.39 MiB/s raw reads on an ESP32-S3 (atomic14/esp32-sdcard-msc); command: as spi-20",
    },
    Bus {
        name: "spi-polled",
        about: "SD card on the SPI port of the emulated board, polled by the processor",
        page_us: M3_PAGE * M3_CYCLES / 50.0,
        command_us: FIRST_BLOCK + M3_READ * M3_CYCLES / 50.0,
        source: "instructions counted in QEMU (the bytes on the wire come meanwhile), and 0.6 ms until the first block as for spi-20",
    },
    Bus {
        name: "flash",
        about: "the chip's flash, mapped into memory",
        page_us: 20.5,
        command_us: 0.0,
        source: "page: about 20.3 us for 512 bytes in any order on an ESP32-S3 (slvDev/esp32-ai, RESULTS.md, as others quote it)",
    },
];

/// The bus of that name.
pub fn bus(name: &str) -> Option<&'static Bus> {
    BUSES.iter().find(|bus| bus.name == name)
}

impl Bus {
    /// Its times, for files in pieces of `piece` pages (`None`: in one).
    pub fn timing(&self, piece: Option<u32>) -> Timing {
        Timing { command: us(self.command_us), page: us(self.page_us), piece }
    }
}

fn us(n: f64) -> Duration {
    Duration::from_nanos((n * 1e3) as u64)
}

/// A board.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Bytes for the model: the one buffer.
    pub ram: usize,
    /// Bytes a second at which that memory is read, if it is external; internal memory is as fast as the processor.
    pub external: Option<f64>,
    /// MHz.
    pub clock: f64,
    /// CoreMark a MHz of one core, which is what cycles of integer code are scaled with.
    pub coremark: f64,
    /// What computes f32.
    pub f32: Float,
    /// Pages that a reader of its own (the second core) holds; 0 without one.
    pub read_ahead: u32,
    /// Whether its firmware guesses tokens ahead.
    pub guesses: bool,
    /// Names of its buses, the usual one first.
    pub buses: &'static [&'static str],
    /// Where the figures are from.
    pub source: &'static str,
}

/// What computes f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// A floating-point unit.
    Unit,
    /// The firmware's functions, which are for Arm.
    Firmware,
    /// The compiler's functions.
    Compiler,
}

const KIB: usize = 1024;

/// The boards.
pub const BOARDS: [Board; 6] = [
    Board {
        name: "esp32s3",
        about: "ESP32-S3, internal RAM alone; the second core reads",
        // 320 KiB are free of the 512; 51 pages of them are the reader's, 16 KiB the stacks'.
        ram: 280 * KIB,
        external: None,
        clock: 240.0,
        coremark: 2.56,
        f32: Float::Unit,
        read_ahead: 48,
        guesses: true,
        buses: &["spi-20", "spi-40", "sdmmc-1", "sdmmc-4", "flash"],
        source: "Espressif's data sheet: 512 KiB SRAM, 240 MHz, 613.86 CoreMark on one core; about 320 KiB usable (others' measurement)",
    },
    Board {
        name: "esp32s3-psram",
        about: "ESP32-S3 with 8 MB of octal PSRAM for everything; the second core reads",
        ram: 7 * 1024 * KIB,
        external: Some(58e6),
        clock: 240.0,
        coremark: 2.56,
        f32: Float::Unit,
        read_ahead: 48,
        guesses: true,
        buses: &["spi-20", "spi-40", "sdmmc-1", "sdmmc-4", "flash"],
        source: "as esp32s3; octal PSRAM reads 58 to 84 MB/s (others' measurements; slvDev/esp32-ai has 60.7), the lower of them",
    },
    Board {
        name: "esp32c3",
        about: "ESP32-C3: one RISC-V core, no floating-point unit",
        // 400 KiB, of which 16 are the cache's; the rest is code in RAM, stack, reserves of the ROM.
        ram: 256 * KIB,
        external: None,
        clock: 160.0,
        coremark: 2.55,
        f32: Float::Compiler,
        read_ahead: 0,
        guesses: true,
        buses: &["spi-20", "spi-40"],
        source: "Espressif's data sheet: 400 KiB SRAM, 160 MHz; 409 CoreMark (example of espressif/coremark)",
    },
    Board {
        name: "esp32c6",
        about: "ESP32-C6: one RISC-V core, no floating-point unit",
        ram: 320 * KIB,
        external: None,
        clock: 160.0,
        coremark: 2.76,
        f32: Float::Compiler,
        read_ahead: 0,
        guesses: true,
        buses: &["spi-20", "spi-40"],
        source: "Espressif's data sheet: 512 KiB SRAM, 160 MHz; 441.32 CoreMark (jschwefel/esp32-feature-matrix)",
    },
    Board {
        name: "rp2040",
        about: "RP2040: Cortex-M0+, no floating-point unit; the second core reads",
        // 264 KiB, less a reader's 67 pages and the stacks. No firmware is built for it; that of `firmware/app` would have 51.
        ram: 208 * KIB,
        external: None,
        clock: 125.0,
        coremark: 2.46,
        f32: Float::Firmware,
        read_ahead: 64,
        guesses: true,
        buses: &["spi-20"],
        source: "data sheet: 264 KiB SRAM, 125 MHz; Cortex-M0+: 2.46 CoreMark/MHz (Arm, Atmel SAM D21)",
    },
    Board {
        name: "lm3s6965",
        about: "Cortex-M3 with 64 KiB, the board that QEMU emulates",
        // The firmware's BUFFER_BYTES.
        ram: 52 * KIB,
        external: None,
        clock: 50.0,
        coremark: M3_COREMARK,
        f32: Float::Firmware,
        read_ahead: 0,
        guesses: false,
        buses: &["spi-polled"],
        source: "the firmware's buffer; instructions counted in QEMU",
    },
];

/// The board of that name.
pub fn board(name: &str) -> Option<&'static Board> {
    BOARDS.iter().find(|board| board.name == name)
}

/// CoreMark a MHz of the Cortex-M3 (Arm: 3.32 to 3.34).
const M3_COREMARK: f64 = 3.32;
/// Cycles of an instruction on the Cortex-M3: an assumption. Most take one; loads two unless they follow each other, taken branches two to four.
const M3_CYCLES: f64 = 1.3;
/// Instructions of a Cortex-M3 for each kind of work. `mac` and `page` are counted in the firmware's inner loops (37 for a cell of 16 products, 13 for 4 bytes of
/// CRC-32 and what goes around them). `float` and `output`, and [`M3_PAGE`] and [`M3_READ`], are then fitted to the instructions per token of 18 models, counted in
/// QEMU; docs/performance.md has the errors. f32 is the firmware's own, which it has for Arm alone: elsewhere, [`PLAIN_FLOAT`].
const M3: Processor = Processor { hz: 50e6, mac: 2.3, float: 49.0, output: 20.0, page: 1_930.0, byte: 0.0 };
/// Instructions of an f32 operation with the compiler's own functions: counted on the same Cortex-M3, in a firmware without ours. Those of a RISC-V without
/// a floating-point unit are the same source, but not the same instructions: for these it is a stand-in.
const PLAIN_FLOAT: f64 = 62.0;
/// Instructions of a page through the emulated board's SPI port, which the processor polls; the bus's own checksum is left out.
const M3_PAGE: f64 = 2_800.0;
/// Instructions of a read command there.
const M3_READ: f64 = 3_300.0;
/// Instructions of a tile's output in the plain Rust that processors without a floating-point unit run: counted in what is compiled for the Cortex-M3.
const PLAIN_OUTPUT: f64 = 60.0;
/// Cycles of an f32 operation with a floating-point unit, loads and stores included: an assumption.
const FPU_CYCLES: f64 = 4.0;

impl Board {
    /// The processor by the virtual clock.
    pub fn processor(&self) -> Processor {
        let hz = self.clock * 1e6;
        let cycles = M3_CYCLES * M3_COREMARK / self.coremark;
        // Checking a page also copies it if it was read ahead: 512 bytes in words.
        let copy = if self.read_ahead > 0 { 128.0 * 2.0 } else { 0.0 };
        Processor {
            hz,
            mac: M3.mac * cycles,
            float: match self.f32 {
                Float::Unit => FPU_CYCLES,
                Float::Firmware => M3.float * cycles,
                Float::Compiler => PLAIN_FLOAT * cycles,
            },
            output: match self.f32 {
                // Two scales, a conversion, a sum.
                Float::Unit => FPU_CYCLES * 3.4,
                Float::Firmware => M3.output * cycles,
                Float::Compiler => PLAIN_OUTPUT * cycles,
            },
            page: (M3.page + copy) * cycles,
            byte: self.external.map_or(0.0, |bytes| hz / bytes),
        }
    }
}
