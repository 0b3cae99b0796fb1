//! SD cards on SPI.

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::SpiDevice;
use embedded_sdmmc::embedded_sdmmc_types::sdcard::CardType;
use embedded_sdmmc::sdcard::spi::AcquireOpts;
use embedded_sdmmc::{Block, BlockDevice as _, BlockIdx, SdCard};
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

use crate::CardSlot;
use crate::spaced::Spaced;

/// R1 of a card that has just been reset.
const IDLE: u8 = 0x01;

/// Looks for an answer of the card that are not preceded by a pause: so many for each sector, and for a command.
const EAGER_LOOKS: u32 = 4;

/// A slot for an SD card on an SPI bus. Several sectors are read with one command.
///
/// When a read fails, the card is reset and read once more: what remains an error is one of the card itself, or
/// there is none any more.
///
/// Every command has a CRC-7 that the card checks. The CRC-16 of the sectors that come back is checked unless the caller
/// compares a checksum of the contents ([`BlockDevice::read_unverified`]): it takes a processor longer than the transfer.
pub struct SdSlot<SPI: SpiDevice, DELAY: DelayNs> {
    spi: Spaced<SPI>,
    delay: DELAY,
    /// The kind of the card that has been made ready.
    ready: Option<CardType>,
    sectors: u32,
}

impl<SPI: SpiDevice, DELAY: DelayNs> SdSlot<SPI, DELAY> {
    /// A slot. The bus should run at 400 kHz or less until [`CardSlot::acquire`] has been successful.
    pub fn new(spi: SPI, delay: DELAY) -> Self {
        Self { spi: Spaced(spi), delay, ready: None, sectors: 0 }
    }

    /// The bus, to change its clock.
    pub fn spi<T>(&mut self, change: impl FnOnce(&mut SPI) -> T) -> T {
        change(&mut self.spi.0)
    }

    /// The driver for what is to be read or written next: `sectors` of them.
    #[allow(unsafe_code)]
    fn driver(&mut self, use_crc: bool, sectors: usize) -> SdCard<&mut Spaced<SPI>, Eager<'_, DELAY>> {
        let delay = Eager { delay: &mut self.delay, looks: EAGER_LOOKS * (1 + sectors as u32) };
        let card =
            SdCard::new_with_options(&mut self.spi, delay, AcquireOpts { use_crc, acquire_retries: 20 });
        if let Some(kind) = self.ready {
            // SAFETY: the card was made ready and found to be of this kind, and nothing has reset it since.
            unsafe { card.mark_card_as_init(kind) };
        }
        card
    }

    /// Makes the card ready unless it is. `use_crc` here tells the card to check what it is sent, for good.
    fn make_ready(&mut self) -> bool {
        if self.ready.is_none() {
            self.ready = self.driver(true, 1).get_card_type();
        }
        self.ready.is_some()
    }

    /// The driver waits until the card is done with it, and asks how it went.
    fn write_block(&mut self, number: u32, block: &Block) -> bool {
        let blocks = core::slice::from_ref(block);
        self.make_ready() && self.driver(true, 1).write(blocks, BlockIdx(number)).is_ok()
    }

    fn read_blocks(&mut self, first: u32, buf: &mut [u8], use_crc: bool) -> Result<(), DeviceError> {
        let blocks = blocks(buf);
        let end = first.checked_add(blocks.len() as u32);
        if blocks.is_empty() || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        if self.make_ready() && self.driver(use_crc, blocks.len()).read(blocks, BlockIdx(first)).is_ok() {
            return Ok(());
        }
        if !self.present() {
            return Err(DeviceError::Removed);
        }
        match self.make_ready() && self.driver(true, blocks.len()).read(blocks, BlockIdx(first)).is_ok() {
            true => Ok(()),
            false => Err(DeviceError::Io),
        }
    }
}

impl<SPI: SpiDevice, DELAY: DelayNs> CardSlot for SdSlot<SPI, DELAY> {
    fn acquire(&mut self) -> bool {
        self.ready = None;
        self.sectors = 0;
        if self.make_ready() {
            self.sectors = self.driver(true, 1).num_blocks().map_or(0, |blocks| blocks.0);
        }
        self.sectors > 0
    }

    /// Sends GO_IDLE_STATE and looks for its answer in the next 16 bytes; the driver would wait for seconds.
    fn present(&mut self) -> bool {
        self.ready = None;
        let mut answer = [0xFF; 16];
        // In one transaction: the card must stay selected until it has answered.
        let mut operations = [
            embedded_hal::spi::Operation::Write(&[0x40, 0, 0, 0, 0, 0x95]),
            embedded_hal::spi::Operation::TransferInPlace(&mut answer),
        ];
        let sent = self.spi.transaction(&mut operations);
        sent.is_ok() && answer.into_iter().find(|byte| byte & 0x80 == 0) == Some(IDLE)
    }
}

impl<SPI: SpiDevice, DELAY: DelayNs> BlockDevice for SdSlot<SPI, DELAY> {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.read_blocks(first_sector, buf, true)
    }

    fn read_unverified(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.read_blocks(first_sector, buf, false)
    }

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let end = first_sector.checked_add((bytes.len() / SECTOR_BYTES) as u32);
        if bytes.len() < SECTOR_BYTES || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        let mut block = Block::new();
        for (number, sector) in (first_sector..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            block.contents.copy_from_slice(sector);
            if self.write_block(number, &block) {
                continue;
            }
            if !self.present() {
                return Err(DeviceError::Removed);
            }
            if !self.write_block(number, &block) {
                return Err(DeviceError::Io);
            }
        }
        Ok(())
    }
}

/// A delay that begins after some looks. The driver waits for 10 µs after each look for an answer, in which a card that
/// is ready would have sent a dozen bytes; between the sectors of a run it mostly is.
struct Eager<'a, DELAY> {
    delay: &'a mut DELAY,
    /// Looks that are left.
    looks: u32,
}

impl<DELAY: DelayNs> DelayNs for Eager<'_, DELAY> {
    fn delay_ns(&mut self, ns: u32) {
        match self.looks.checked_sub(1) {
            Some(left) => self.looks = left,
            None => self.delay.delay_ns(ns),
        }
    }
}

const _: () = assert!(
    size_of::<Block>() == SECTOR_BYTES
        && align_of::<Block>() == 1
        && core::mem::offset_of!(Block, contents) == 0
);

/// Bytes as blocks, as many as are whole.
#[allow(unsafe_code)]
fn blocks(buf: &mut [u8]) -> &mut [Block] {
    let len = buf.len() / SECTOR_BYTES;
    // SAFETY: a `Block` is an array of 512 bytes and nothing else, which the assertion above checks: any bytes are valid
    // for it, whatever their alignment, and those of `len` blocks are in `buf`, which is lent for as long.
    unsafe { core::slice::from_raw_parts_mut(buf.as_mut_ptr().cast(), len) }
}
