//! SD cards on SPI.

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::SpiDevice;
use embedded_sdmmc::sdcard::spi::AcquireOpts;
use embedded_sdmmc::{Block, BlockDevice as _, BlockIdx, SdCard};
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

use crate::CardSlot;
use crate::spaced::Spaced;

/// R1 of a card that has just been reset.
const IDLE: u8 = 0x01;

/// A slot for an SD card on an SPI bus. Several sectors are read with one command.
///
/// When a read fails, the card is reset and read once more: what remains an error is one of the card itself, or
/// there is none any more.
pub struct SdSlot<SPI: SpiDevice, DELAY: DelayNs> {
    card: SdCard<Spaced<SPI>, DELAY>,
    sectors: u32,
}

impl<SPI: SpiDevice, DELAY: DelayNs> SdSlot<SPI, DELAY> {
    /// A slot. The bus should run at 400 kHz or less until [`CardSlot::acquire`] has been successful.
    pub fn new(spi: SPI, delay: DELAY) -> Self {
        let options = AcquireOpts { use_crc: true, acquire_retries: 20 };
        Self { card: SdCard::new_with_options(Spaced(spi), delay, options), sectors: 0 }
    }

    /// The bus, to change its clock.
    pub fn spi<T>(&self, change: impl FnOnce(&mut SPI) -> T) -> T {
        self.card.spi(|spaced| change(&mut spaced.0))
    }
}

impl<SPI: SpiDevice, DELAY: DelayNs> CardSlot for SdSlot<SPI, DELAY> {
    fn acquire(&mut self) -> bool {
        self.card.mark_card_uninit();
        self.sectors = self.card.num_blocks().map_or(0, |blocks| blocks.0);
        self.sectors > 0
    }

    /// Sends GO_IDLE_STATE and looks for its answer in the next 16 bytes; the driver would wait for seconds.
    fn present(&mut self) -> bool {
        self.card.mark_card_uninit();
        self.card.spi(|spi| {
            let mut answer = [0xFF; 16];
            // In one transaction: the card must stay selected until it has answered.
            let mut operations = [
                embedded_hal::spi::Operation::Write(&[0x40, 0, 0, 0, 0, 0x95]),
                embedded_hal::spi::Operation::TransferInPlace(&mut answer),
            ];
            let sent = spi.transaction(&mut operations);
            sent.is_ok() && answer.into_iter().find(|byte| byte & 0x80 == 0) == Some(IDLE)
        })
    }
}

impl<SPI: SpiDevice, DELAY: DelayNs> BlockDevice for SdSlot<SPI, DELAY> {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let blocks = blocks(buf);
        let end = first_sector.checked_add(blocks.len() as u32);
        if blocks.is_empty() || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        if self.card.read(blocks, BlockIdx(first_sector)).is_ok() {
            return Ok(());
        }
        if !self.present() {
            return Err(DeviceError::Removed);
        }
        self.card.read(blocks, BlockIdx(first_sector)).map_err(|_| DeviceError::Io)
    }

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let end = first_sector.checked_add((bytes.len() / SECTOR_BYTES) as u32);
        if bytes.len() < SECTOR_BYTES || end.is_none_or(|end| end > self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        let mut block = Block::new();
        for (number, sector) in (first_sector..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            block.contents.copy_from_slice(sector);
            // The driver waits until the card is done with it, and asks how it went.
            let blocks = core::slice::from_ref(&block);
            if self.card.write(blocks, BlockIdx(number)).is_err() {
                if !self.present() {
                    return Err(DeviceError::Removed);
                }
                self.card.write(blocks, BlockIdx(number)).map_err(|_| DeviceError::Io)?;
            }
        }
        Ok(())
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
