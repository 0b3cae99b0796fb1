//! The chip's registers that are used, by the names of the LM3S6965 data sheet.

use core::ptr::{read_volatile, write_volatile};

/// A 32-bit register.
#[derive(Clone, Copy)]
pub struct Register(usize);

impl Register {
    /// Reads it.
    pub fn read(self) -> u32 {
        // SAFETY: all registers are constants of this module, aligned addresses of peripherals of this chip.
        unsafe { read_volatile(self.0 as *const u32) }
    }

    /// Writes it.
    pub fn write(self, value: u32) {
        // SAFETY: as above; no register of this module makes the chip touch memory.
        unsafe { write_volatile(self.0 as *mut u32, value) }
    }
}

/// Run-mode clock configuration.
pub const RCC: Register = Register(0x400F_E060);
/// Run-mode clock gating: UART and SSI.
pub const RCGC1: Register = Register(0x400F_E104);
/// Run-mode clock gating: GPIO ports.
pub const RCGC2: Register = Register(0x400F_E108);

/// Port A, alternate function.
pub const GPIOA_AFSEL: Register = Register(0x4000_4420);
/// Port A, digital enable.
pub const GPIOA_DEN: Register = Register(0x4000_451C);
/// Port D, data of pin 0 alone (the address is a mask).
pub const GPIOD_DATA0: Register = Register(0x4000_7004);
/// Port D, direction.
pub const GPIOD_DIR: Register = Register(0x4000_7400);
/// Port D, digital enable.
pub const GPIOD_DEN: Register = Register(0x4000_751C);

/// UART data.
pub const UART_DR: Register = Register(0x4000_C000);
/// UART flags.
pub const UART_FR: Register = Register(0x4000_C018);
/// UART baud rate, integer.
pub const UART_IBRD: Register = Register(0x4000_C024);
/// UART baud rate, 64ths.
pub const UART_FBRD: Register = Register(0x4000_C028);
/// UART line control.
pub const UART_LCRH: Register = Register(0x4000_C02C);
/// UART control.
pub const UART_CTL: Register = Register(0x4000_C030);

/// SSI control 0.
pub const SSI_CR0: Register = Register(0x4000_8000);
/// SSI control 1.
pub const SSI_CR1: Register = Register(0x4000_8004);
/// SSI data.
pub const SSI_DR: Register = Register(0x4000_8008);
/// SSI status.
pub const SSI_SR: Register = Register(0x4000_800C);
/// SSI clock prescale.
pub const SSI_CPSR: Register = Register(0x4000_8010);
