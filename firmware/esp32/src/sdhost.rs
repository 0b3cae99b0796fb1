//! The card on the SD bus, four bits wide (ESP32-S3).
//!
//! The protocol is that of the crate `sdio`, over the HAL's host controller; here are the retries, the clock that goes down, and a buffer
//! that the controller's DMA can reach.

use core::sync::atomic::Ordering;

use aligned::{A4, Aligned};
use block_device_driver::BlockDevice as _;
use embassy_futures::block_on;
use esp_hal::Async;
use esp_hal::gpio::AnyPin;
use esp_hal::peripherals::SDHOST;
use esp_hal::sdmmc::{Config, ConfigError, SdHostController, Slot, SlotConfig};
use pageformer_esp32_boards::SdHost;
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};
use pageformer_firmware::{CardSlot, Pace, Paced};
use sdio::BlockDevice as SdCard;

use crate::bus::CLOCK;

/// Clocks of the card in Hz.
pub const CLOCKS: [u32; 4] = [40_000_000, 20_000_000, 10_000_000, 4_000_000];
/// Sectors that are read with one command at most.
const RUN: usize = 16;

/// Memory of sectors that the controller's DMA can write to.
pub type Buffer = [Aligned<A4, [u8; SECTOR_BYTES]>; RUN];

/// A slot on the SD bus.
pub struct SdHostSlot {
    card: SdCard<sdio::sd::Card, Slot<'static, 1, Async>, Delay, SECTOR_BYTES>,
    pace: Pace,
    sectors: u32,
    buffer: &'static mut Buffer,
}

impl SdHostSlot {
    /// Sets the controller up for the pins of a board. `place` is where it stays.
    ///
    /// # Errors
    /// If the HAL does not take the configuration.
    pub fn new(
        sdhost: SDHOST<'static>,
        place: &'static mut Option<SdHostController<'static>>,
        buffer: &'static mut Buffer,
        pins: &SdHost,
    ) -> Result<Self, ConfigError> {
        // SAFETY: the table's test asserts that no pin is there twice, and the card's are used here only.
        let pin = |number: u8| unsafe { AnyPin::steal(number) };
        let controller = place.insert(SdHostController::new(sdhost, Config::default())?);
        let slot = controller
            .slot::<1>(SlotConfig::default())?
            .with_clk(pin(pins.clk))
            .with_cmd(pin(pins.cmd))
            .with_data0(pin(pins.dat[0]))
            .with_data1(pin(pins.dat[1]))
            .with_data2(pin(pins.dat[2]))
            .with_data3(pin(pins.dat[3]))
            .into_async();
        let card = SdCard::new_uninit_sd_card(slot, Delay);
        Ok(Self { card, pace: Pace::new(&CLOCKS), sectors: 0, buffer })
    }
}

impl Paced for SdHostSlot {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn answers(&mut self) -> bool {
        self.restart()
    }

    fn restart(&mut self) -> bool {
        let hertz = self.pace.hertz().unwrap_or(CLOCKS[0]);
        if block_on(self.card.reacquire(hertz)).is_err() {
            return false;
        }
        CLOCK.store(self.card.freq(), Ordering::Relaxed);
        let bytes = block_on(self.card.size()).unwrap_or(0);
        let sectors = u32::try_from(bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX);
        if self.sectors == 0 {
            self.sectors = sectors;
        }
        // A card of another size is another card.
        sectors > 0 && sectors == self.sectors
    }

    /// The controller looks at every CRC.
    fn attempt(&mut self, first_sector: u32, buf: &mut [u8], _: bool) -> bool {
        (first_sector..).step_by(RUN).zip(buf.chunks_mut(RUN * SECTOR_BYTES)).all(|(first, piece)| {
            let sectors = &mut self.buffer[..piece.len() / SECTOR_BYTES];
            if block_on(self.card.read(first, sectors)).is_err() {
                return false;
            }
            for (into, sector) in piece.chunks_exact_mut(SECTOR_BYTES).zip(sectors) {
                into.copy_from_slice(&sector[..]);
            }
            true
        })
    }
}

impl CardSlot for SdHostSlot {
    fn acquire(&mut self) -> bool {
        self.pace.restart();
        self.sectors = 0;
        self.restart()
    }

    fn present(&mut self) -> bool {
        self.restart()
    }
}

impl BlockDevice for SdHostSlot {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let sectors = buf.len() / SECTOR_BYTES;
        let end = first_sector.checked_add(sectors as u32);
        if sectors == 0 || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        self.persist(first_sector, buf, true)
    }

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let end = first_sector.checked_add((bytes.len() / SECTOR_BYTES) as u32);
        if bytes.len() < SECTOR_BYTES || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        for (number, sector) in (first_sector..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            self.buffer[0].copy_from_slice(sector);
            if block_on(self.card.write(number, &self.buffer[..1])).is_err()
                && (!self.restart() || block_on(self.card.write(number, &self.buffer[..1])).is_err())
            {
                return Err(DeviceError::Io);
            }
        }
        Ok(())
    }
}

/// Busy waiting, in the form that `sdio` wants it.
pub struct Delay;

impl embedded_hal_async::delay::DelayNs for Delay {
    async fn delay_ns(&mut self, ns: u32) {
        esp_hal::delay::Delay::new().delay_nanos(ns);
    }
}
