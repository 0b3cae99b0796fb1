//! SSI0 (a PL022) on PA2 to PA5, with the card's chip select on PD0.

use core::convert::Infallible;

use embedded_hal::spi::{ErrorType, Operation, SpiDevice};
use pageformer_firmware::CardBus;

use crate::registers::*;

/// Something is still being sent.
const BUSY: u32 = 1 << 4;
/// Entries of either FIFO.
const FIFO: usize = 8;
/// First byte of CMD58, READ_OCR.
const READ_OCR: u8 = 0x40 | 58;
/// Bit "idle" of R1.
const IDLE: u8 = 0x01;

/// The bus and the only device on it that is used.
pub struct CardSpi {
    /// CMD58 was sent and has not been answered.
    ocr_awaited: bool,
}

impl CardSpi {
    /// Sets the bus up: mode 0, 8 bits, 12.5 MHz. (A real card would want 400 kHz to begin with; the emulated one has no
    /// notion of time.)
    pub fn new() -> Self {
        GPIOD_DATA0.write(1);
        SSI_CR1.write(0);
        SSI_CPSR.write(4);
        SSI_CR0.write(0b111);
        SSI_CR1.write(1 << 1);
        Self { ocr_awaited: false }
    }

    /// Exchanges bytes, a FIFO full at a time.
    fn exchange(&mut self, len: usize, send: impl Fn(usize) -> u8, mut receive: impl FnMut(usize, u8)) {
        for start in (0..len).step_by(FIFO) {
            let burst = start..len.min(start + FIFO);
            for at in burst.clone() {
                SSI_DR.write(u32::from(send(at)));
            }
            wait();
            for at in burst {
                receive(at, SSI_DR.read() as u8);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A command has 6 bytes; what is longer is data.
        self.ocr_awaited = bytes.len() == 6 && bytes.first() == Some(&READ_OCR);
        self.exchange(bytes.len(), |at| bytes[at], |_, _| {});
    }

    /// The emulated card answers CMD58 with the bit "idle" of the state before ACMD41, also when it has long been ready:
    /// a driver takes that for an error. Cleared here.
    fn received(&mut self, bytes: &mut [u8]) {
        if self.ocr_awaited
            && let Some(answer) = bytes.iter_mut().find(|byte| **byte & 0x80 == 0)
        {
            *answer &= !IDLE;
            self.ocr_awaited = false;
        }
    }

    fn transfer(&mut self, read: &mut [u8], write: &[u8]) {
        let len = read.len().max(write.len());
        self.exchange(
            len,
            |at| write.get(at).copied().unwrap_or(0xFF),
            |at, byte| {
                if let Some(slot) = read.get_mut(at) {
                    *slot = byte;
                }
            },
        );
        self.received(read);
    }

    /// Sends 0xFF and reads, the way that data blocks come.
    fn read(&mut self, bytes: &mut [u8]) {
        let (bursts, rest) = bytes.as_chunks_mut();
        for burst in bursts {
            read_burst(burst);
        }
        self.exchange(rest.len(), |_| 0xFF, |at, byte| rest[at] = byte);
        self.received(bytes);
    }
}

/// A FIFO full of what is read: two instructions a byte to send and to receive, and one to keep it. (Frames of 16 bits
/// would halve that on the chip, but the emulated one moves a byte a frame.)
#[inline(always)]
fn read_burst(burst: &mut [u8; FIFO]) {
    let receive = || SSI_DR.read() as u8;
    let [a, b, c, d, e, f, g, h] = burst;
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    SSI_DR.write(0xFF);
    wait();
    *a = receive();
    *b = receive();
    *c = receive();
    *d = receive();
    *e = receive();
    *f = receive();
    *g = receive();
    *h = receive();
}

/// Until all has been sent.
#[inline(always)]
fn wait() {
    while SSI_SR.read() & BUSY != 0 {}
}

impl ErrorType for CardSpi {
    type Error = Infallible;
}

/// The emulated clock has no speed, and each transaction selects the card.
impl CardBus for CardSpi {}

impl SpiDevice for CardSpi {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), Infallible> {
        GPIOD_DATA0.write(0);
        for operation in operations {
            match operation {
                Operation::Read(bytes) => self.read(bytes),
                Operation::Write(bytes) => self.write(bytes),
                Operation::Transfer(read, write) => self.transfer(read, write),
                // Whoever transfers in place here sends 0xFF to read: the bytes need not be looked at.
                Operation::TransferInPlace(bytes) => self.read(bytes),
                Operation::DelayNs(_) => {}
            }
        }
        GPIOD_DATA0.write(1);
        Ok(())
    }
}
