//! ESP32 boards as a table: one row says where a board's card and console are, and how fast it is. The firmware takes its pins from here,
//! the tests hold every row against what the chips allow, and `docs/boards.md` prints the same rows.
//!
//! No hardware in here, and nothing that runs on a board alone.
#![no_std]

mod chip;
mod pace;

pub use chip::Chip;

/// Pins of a card on SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// Clock.
    pub sck: u8,
    /// To the card (its pin CMD, or DI).
    pub mosi: u8,
    /// From the card (its pin DAT0, or DO).
    pub miso: u8,
    /// Chip select (its pin DAT3, or CS), active low.
    pub cs: u8,
}

/// Pins of a card on the SD bus, four bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdHost {
    /// Clock.
    pub clk: u8,
    /// Commands and answers.
    pub cmd: u8,
    /// DAT0 to DAT3.
    pub dat: [u8; 4],
}

/// Where a person talks to the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// UART0, 115200 baud, 8N1.
    Uart {
        /// To the PC.
        tx: u8,
        /// From the PC.
        rx: u8,
    },
    /// The chip's own USB-Serial-JTAG.
    Usb,
}

/// A board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Its name for commands.
    pub id: &'static str,
    /// Its maker's name for it.
    pub name: &'static str,
    /// Its chip.
    pub chip: Chip,
    /// How the card is connected.
    pub spi: Spi,
    /// How it is connected for the SD bus, where its other lines are connected, too.
    pub sdhost: Option<SdHost>,
    /// The console.
    pub console: Console,
    /// The fastest SPI clock that is tried, in Hz: 40 MHz where the slot is on the board, 20 MHz over wires.
    pub clock: u32,
    /// Whether there is PSRAM on (some kinds of) the board. It is looked for at start anyway.
    pub psram: bool,
}

/// All boards; the first of a chip is that chip's default.
pub const BOARDS: &[Board] = &[
    Board {
        id: "esp32-s3-devkitc-1",
        name: "ESP32-S3-DevKitC-1 and an SD breakout",
        chip: Chip::Esp32S3,
        spi: Spi { sck: 12, mosi: 11, miso: 13, cs: 10 },
        sdhost: Some(SdHost { clk: 12, cmd: 11, dat: [13, 14, 9, 10] }),
        console: Console::Uart { tx: 43, rx: 44 },
        clock: 20_000_000,
        psram: true,
    },
    Board {
        id: "esp32-s3-usb-otg",
        name: "ESP32-S3-USB-OTG",
        chip: Chip::Esp32S3,
        spi: Spi { sck: 36, mosi: 35, miso: 37, cs: 34 },
        sdhost: Some(SdHost { clk: 36, cmd: 35, dat: [37, 38, 33, 34] }),
        console: Console::Uart { tx: 43, rx: 44 },
        clock: 40_000_000,
        psram: false,
    },
    Board {
        id: "xiao-esp32s3-sense",
        name: "Seeed XIAO ESP32S3 Sense",
        chip: Chip::Esp32S3,
        spi: Spi { sck: 7, mosi: 9, miso: 8, cs: 21 },
        sdhost: None,
        console: Console::Usb,
        clock: 40_000_000,
        psram: true,
    },
    Board {
        id: "esp32-c3-devkitm-1",
        name: "ESP32-C3-DevKitM-1 and an SD breakout",
        chip: Chip::Esp32C3,
        spi: Spi { sck: 6, mosi: 7, miso: 5, cs: 10 },
        sdhost: None,
        console: Console::Uart { tx: 21, rx: 20 },
        clock: 20_000_000,
        psram: false,
    },
    Board {
        id: "xiao-esp32c3",
        name: "Seeed XIAO ESP32C3 and an SD breakout",
        chip: Chip::Esp32C3,
        spi: Spi { sck: 4, mosi: 6, miso: 5, cs: 3 },
        sdhost: None,
        console: Console::Usb,
        clock: 20_000_000,
        psram: false,
    },
    Board {
        id: "esp32-c6-devkitc-1",
        name: "ESP32-C6-DevKitC-1 and an SD breakout",
        chip: Chip::Esp32C6,
        spi: Spi { sck: 6, mosi: 7, miso: 2, cs: 3 },
        sdhost: None,
        console: Console::Uart { tx: 16, rx: 17 },
        clock: 20_000_000,
        psram: false,
    },
];

impl Board {
    /// The board of this name.
    pub const fn find(id: &str) -> Option<&'static Board> {
        let mut at = 0;
        while at < BOARDS.len() {
            if same(BOARDS[at].id, id) {
                return Some(&BOARDS[at]);
            }
            at += 1;
        }
        None
    }

    /// The board that is meant where only a chip is named.
    pub const fn default_of(chip: Chip) -> Option<&'static Board> {
        let mut at = 0;
        while at < BOARDS.len() {
            if BOARDS[at].chip as u8 == chip as u8 {
                return Some(&BOARDS[at]);
            }
            at += 1;
        }
        None
    }
}

/// Whether two texts are equal, when the program is compiled.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
