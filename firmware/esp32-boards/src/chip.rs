//! What the chips allow, by their data sheets.

use core::ops::RangeInclusive;

/// A chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Chip {
    /// ESP32-S3: two Xtensa cores, PSRAM, SD bus.
    Esp32S3,
    /// ESP32-C3: one RISC-V core.
    Esp32C3,
    /// ESP32-C6: one RISC-V core (and one for low power, which is not used).
    Esp32C6,
}

impl Chip {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Esp32S3, Self::Esp32C3, Self::Esp32C6];

    /// The name that `esptool`, `espflash` and cargo's features know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Esp32S3 => "esp32s3",
            Self::Esp32C3 => "esp32c3",
            Self::Esp32C6 => "esp32c6",
        }
    }

    /// Rust's target.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Esp32S3 => "xtensa-esp32s3-none-elf",
            Self::Esp32C3 => "riscv32imc-unknown-none-elf",
            Self::Esp32C6 => "riscv32imac-unknown-none-elf",
        }
    }

    /// The highest number of a pin.
    pub const fn last_pin(self) -> u8 {
        match self {
            Self::Esp32S3 => 48,
            Self::Esp32C3 => 21,
            Self::Esp32C6 => 30,
        }
    }

    /// Pins that the flash in (or beside) the chip takes, or that do not exist.
    pub const fn taken(self) -> RangeInclusive<u8> {
        match self {
            Self::Esp32S3 => 22..=32,
            Self::Esp32C3 => 11..=17,
            Self::Esp32C6 => 24..=30,
        }
    }

    /// Pins that say at reset how to boot: a card there could keep the board from starting.
    pub const fn strapping(self) -> &'static [u8] {
        match self {
            Self::Esp32S3 => &[0, 3, 45, 46],
            Self::Esp32C3 => &[2, 8, 9],
            Self::Esp32C6 => &[4, 5, 8, 9, 15],
        }
    }

    /// Pins of the chip's own USB.
    pub const fn usb(self) -> [u8; 2] {
        match self {
            Self::Esp32S3 => [19, 20],
            Self::Esp32C3 => [18, 19],
            Self::Esp32C6 => [12, 13],
        }
    }

    /// Pins that PSRAM takes where there is some of the octal kind.
    pub const fn octal_psram(self) -> Option<RangeInclusive<u8>> {
        match self {
            Self::Esp32S3 => Some(33..=37),
            _ => None,
        }
    }
}
