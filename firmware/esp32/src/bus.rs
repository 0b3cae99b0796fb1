//! The SPI bus that the card is on: DMA for blocks, the processor for a few bytes.

use core::sync::atomic::{AtomicU32, Ordering};

use embedded_hal::spi::{ErrorType, Operation, SpiDevice};
use esp_hal::Blocking;
use esp_hal::dma::DmaError;
use esp_hal::gpio::{AnyPin, Input, InputConfig, Level, Output, OutputConfig, Pull};
use esp_hal::peripherals::{DMA_CH0, SPI2};
use esp_hal::spi::master::{Config, Spi, SpiDma};
use esp_hal::spi::{Error, Mode};
use esp_hal::time::Rate;
use pageformer_esp32_boards::Board;
use pageformer_firmware::{CardBus, START_CLOCK};

/// Below so many bytes the processor moves them: setting up DMA takes longer. It is what the peripheral's FIFO holds.
const DMA_BYTES: usize = 64;

/// The clock in Hz that was set last, for `/memory`.
pub static CLOCK: AtomicU32 = AtomicU32::new(START_CLOCK);

/// The clock of the card's bus in Hz.
pub fn clock() -> u32 {
    CLOCK.load(Ordering::Relaxed)
}

/// SPI2 and the card's chip select.
pub struct CardSpi {
    spi: SpiDma<'static, Blocking>,
    cs: Output<'static>,
    /// Keeps its pull-up: without a card, nothing drives the line, and ones must be read.
    _miso: Input<'static>,
}

impl CardSpi {
    /// Sets the bus up: mode 0, at the clock that a card starts with.
    ///
    /// # Errors
    /// If the HAL does not take the configuration.
    pub fn new(spi: SPI2<'static>, dma: DMA_CH0<'static>, board: &Board) -> Result<Self, Error> {
        // SAFETY: the table's test asserts that no pin is there twice, and nothing else here takes pins by number.
        let [sck, mosi, miso, cs] = [board.spi.sck, board.spi.mosi, board.spi.miso, board.spi.cs]
            .map(|pin| unsafe { AnyPin::steal(pin) });
        let miso = Input::new(miso, InputConfig::default().with_pull(Pull::Up));
        let cs = Output::new(cs, Level::High, OutputConfig::default());
        let spi = Spi::new(spi, config(START_CLOCK))
            .map_err(|_| Error::Unsupported)?
            .with_sck(sck)
            .with_mosi(mosi)
            .with_miso(miso.peripheral_input())
            .with_dma(dma);
        Ok(Self { spi, cs, _miso: miso })
    }
}

fn config(hertz: u32) -> Config {
    Config::default()
        .with_frequency(Rate::from_hz(hertz))
        .with_mode(Mode::_0)
        .with_min_async_transfer_size(DMA_BYTES)
}

impl CardBus for CardSpi {
    fn set_clock(&mut self, hertz: u32) {
        // A clock that the bus cannot have leaves the one that it has.
        if self.spi.apply_config(&config(hertz)).is_ok() {
            CLOCK.store(hertz, Ordering::Relaxed);
        }
    }

    fn select(&mut self) {
        self.cs.set_low();
    }

    fn release(&mut self, bytes: usize) {
        self.cs.set_high();
        let ones = [0xFF; 16];
        // What comes back does not matter, and whether it went out the card's next answer tells.
        let _ = self.spi.write(&ones[..bytes.min(ones.len())]);
    }
}

impl ErrorType for CardSpi {
    type Error = Error;
}

/// Transactions leave the chip select as it is: see [`CardBus::select`].
impl SpiDevice for CardSpi {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), Error> {
        for operation in operations {
            match operation {
                // Ones have to be sent meanwhile, or a card could take what is sent for a command.
                Operation::Read(bytes) => {
                    bytes.fill(0xFF);
                    self.spi.transfer_in_place(bytes)?;
                }
                Operation::Write(bytes) => self.spi.write(bytes)?,
                Operation::Transfer(read, write) if read.len() == write.len() => {
                    self.spi.transfer(read, write)?;
                }
                Operation::Transfer(..) => return Err(Error::DmaError(DmaError::BufferTooSmall)),
                Operation::TransferInPlace(bytes) => self.spi.transfer_in_place(bytes)?,
                Operation::DelayNs(ns) => esp_hal::delay::Delay::new().delay_nanos(*ns),
            }
        }
        Ok(())
    }
}
