//! UART0 on PA0 and PA1, 115200 baud, 8 bits, no parity.

use core::convert::Infallible;

use embedded_io::{ErrorType, Read, ReadReady, Write};

use crate::registers::*;

/// Receive FIFO empty.
const RXFE: u32 = 1 << 4;
/// Transmit FIFO full.
const TXFF: u32 = 1 << 5;

/// The UART.
pub struct Uart;

impl Uart {
    /// Sets the UART up; the system clock is 50 MHz.
    pub fn new() -> Self {
        UART_CTL.write(0);
        // 50 MHz / (16 · 115200) = 27 + 8/64
        UART_IBRD.write(27);
        UART_FBRD.write(8);
        // 8 bits, FIFOs on.
        UART_LCRH.write(0b111 << 4);
        // Receive, transmit, on.
        UART_CTL.write(1 << 9 | 1 << 8 | 1);
        Self
    }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let Some(byte) = buf.first_mut() else { return Ok(0) };
        while UART_FR.read() & RXFE != 0 {}
        *byte = UART_DR.read() as u8;
        Ok(1)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(UART_FR.read() & RXFE == 0)
    }
}

impl Write for Uart {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        for byte in buf {
            while UART_FR.read() & TXFF != 0 {}
            UART_DR.write(u32::from(*byte));
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
