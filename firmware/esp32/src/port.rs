//! The serial port: a UART, or the chip's own USB.

use core::convert::Infallible;

use embedded_io::{ErrorType, Read, ReadReady, Write};
use esp_hal::Blocking;
use esp_hal::gpio::AnyPin;
use esp_hal::peripherals::{UART0, USB_DEVICE};
use esp_hal::time::{Duration, Instant};
use esp_hal::uart::{Config, Uart};
use esp_hal::usb::usb_serial_jtag::UsbSerialJtag;
use pageformer_esp32_boards::{Board, Console};

/// How long USB's buffer may stay full before what is written is dropped: then no program on the PC reads.
const PATIENCE: Duration = Duration::from_millis(50);

/// The port that a person is at.
pub enum Port {
    /// UART0.
    Uart(Uart<'static, Blocking>),
    /// USB-Serial-JTAG.
    Usb(Usb),
}

/// USB-Serial-JTAG, with a byte of look-ahead, and without waiting for a PC that does not read.
pub struct Usb {
    port: UsbSerialJtag<'static, Blocking>,
    next: Option<u8>,
    /// Nobody reads, as far as is known.
    deaf: bool,
}

impl Port {
    /// The board's console: 115200 baud, if it is a UART.
    pub fn new(uart: UART0<'static>, usb: USB_DEVICE<'static>, board: &Board) -> Option<Self> {
        match board.console {
            Console::Uart { tx, rx } => {
                // SAFETY: the table's test asserts that no pin is there twice.
                let [tx, rx] = [tx, rx].map(|pin| unsafe { AnyPin::steal(pin) });
                let uart = Uart::new(uart, Config::default().with_baudrate(115_200)).ok()?;
                Some(Self::Uart(uart.with_tx(tx).with_rx(rx)))
            }
            Console::Usb => Some(Self::Usb(Usb { port: UsbSerialJtag::new(usb), next: None, deaf: false })),
        }
    }
}

impl Usb {
    /// Waits for room, but not for ever.
    fn write_byte(&mut self, byte: u8) {
        if self.port.write_byte_nb(byte).is_ok() {
            self.deaf = false;
            return;
        }
        let _ = self.port.flush_tx_nb();
        let started = Instant::now();
        while !self.deaf {
            if self.port.write_byte_nb(byte).is_ok() {
                return;
            }
            self.deaf = started.elapsed() > PATIENCE;
        }
    }
}

impl ErrorType for Port {
    type Error = Infallible;
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(match self {
            Self::Uart(uart) => uart.read_ready().unwrap_or(false),
            Self::Usb(usb) => {
                usb.next = usb.next.or_else(|| usb.port.read_byte().ok());
                usb.next.is_some()
            }
        })
    }
}

impl Read for Port {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let Some(byte) = buf.first_mut() else { return Ok(0) };
        loop {
            match self {
                Self::Uart(uart) => {
                    let mut one = [0];
                    // A byte with a wrong stop bit, or one too many, is lost; the next one is as good.
                    if let Ok(1) = uart.read(&mut one) {
                        *byte = one[0];
                        return Ok(1);
                    }
                }
                Self::Usb(usb) => {
                    if let Some(next) = usb.next.take().or_else(|| usb.port.read_byte().ok()) {
                        *byte = next;
                        return Ok(1);
                    }
                }
            }
        }
    }
}

impl Write for Port {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        match self {
            Self::Uart(uart) => Ok(uart.write(buf).unwrap_or(buf.len())),
            Self::Usb(usb) => {
                buf.iter().for_each(|byte| usb.write_byte(*byte));
                Ok(buf.len())
            }
        }
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        match self {
            Self::Uart(uart) => {
                let _ = uart.flush();
            }
            Self::Usb(usb) => {
                let _ = usb.port.flush_tx_nb();
            }
        }
        Ok(())
    }
}
