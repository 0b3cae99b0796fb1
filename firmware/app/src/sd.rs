//! SD cards on SPI.

use core::ops::Range;

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::{Operation, SpiDevice};
use embedded_sdmmc::embedded_sdmmc_types::sdcard::CardType;
use embedded_sdmmc::sdcard::spi::AcquireOpts;
use embedded_sdmmc::{Block, BlockDevice as _, BlockIdx, SdCard};
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

use crate::CardSlot;
use crate::clock::{Pace, Paced, START_CLOCK};
use crate::spaced::Spaced;

/// R1 of a card that has just been reset.
const IDLE: u8 = 0x01;
/// Bytes of clocks that a card wants before it is addressed for the first time: 74 clocks.
const WAKE: usize = 10;

/// Looks for an answer of the card that are not preceded by a pause: so many for each sector, and for a command.
const EAGER_LOOKS: u32 = 4;

/// The bus of a card, and its chip select. What is not implemented does nothing: then every transaction has to select
/// the card by itself, which most cards can live with.
pub trait CardBus: SpiDevice {
    /// Clocks the bus at `hertz` or slower.
    fn set_clock(&mut self, hertz: u32) {
        let _ = hertz;
    }

    /// Selects the card until [`release`](Self::release): a card expects to stay selected from a command to the end of its
    /// data, which are many transactions.
    fn select(&mut self) {}

    /// Ends the selection, then sends `bytes` bytes of ones: clocks that the card needs to let go of the bus, or to wake.
    fn release(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

/// A slot for an SD card on an SPI bus. Several sectors are read with one command.
///
/// What happens when a read fails is said at [`Paced::persist`].
///
/// Every command has a CRC-7 that the card checks. The CRC-16 of the sectors that come back is checked unless the caller
/// compares a checksum of the contents ([`BlockDevice::read_unverified`]): it takes a processor longer than the transfer.
pub struct SdSlot<SPI: CardBus, DELAY: DelayNs> {
    spi: Spaced<SPI>,
    delay: DELAY,
    /// The kind of the card that has been made ready.
    ready: Option<CardType>,
    /// 0 until there is a card.
    sectors: u32,
    pace: Pace,
    /// What was read last, and before that, without looking at its CRC.
    unverified: [Range<u32>; 2],
}

impl<SPI: CardBus, DELAY: DelayNs> SdSlot<SPI, DELAY> {
    /// A slot whose bus may run at `clocks`, in Hz, fastest first; none if it has a clock of its own.
    pub fn new(spi: SPI, delay: DELAY, clocks: &'static [u32]) -> Self {
        Self {
            spi: Spaced(spi),
            delay,
            ready: None,
            sectors: 0,
            pace: Pace::new(clocks),
            unverified: [0..0, 0..0],
        }
    }

    /// The clock in Hz; `None` if it cannot be changed.
    pub fn hertz(&self) -> Option<u32> {
        self.pace.hertz()
    }

    /// The bus.
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

    /// Does something while the card is selected.
    fn selected<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        self.spi.0.select();
        let result = act(self);
        self.spi.0.release(1);
        result
    }

    /// Clocks the bus as [`Pace`] says.
    fn clock(&mut self) {
        if let Some(hertz) = self.pace.hertz() {
            self.spi.0.set_clock(hertz);
        }
    }

    /// The driver waits until the card is done with it, and asks how it went.
    fn write_block(&mut self, number: u32, block: &Block) -> bool {
        let blocks = core::slice::from_ref(block);
        self.selected(|slot| slot.driver(true, 1).write(blocks, BlockIdx(number)).is_ok())
    }

    fn is_there(&self, first: u32, bytes: usize) -> Result<u32, DeviceError> {
        let end = first.checked_add((bytes / SECTOR_BYTES) as u32).ok_or(DeviceError::OutOfRange)?;
        if bytes < SECTOR_BYTES || end > self.sectors { Err(DeviceError::OutOfRange) } else { Ok(end) }
    }
}

impl<SPI: CardBus, DELAY: DelayNs> Paced for SdSlot<SPI, DELAY> {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn answers(&mut self) -> bool {
        self.present()
    }

    fn restart(&mut self) -> bool {
        self.spi.0.set_clock(START_CLOCK);
        self.spi.0.release(WAKE);
        self.ready = None;
        // CRC here tells the card to check what it is sent, for good.
        let sectors = self.selected(|slot| {
            slot.ready = slot.driver(true, 1).get_card_type();
            if slot.ready.is_some() {
                slot.driver(true, 1).num_blocks().map_or(0, |blocks| blocks.0)
            } else {
                0
            }
        });
        self.clock();
        if self.sectors == 0 {
            self.sectors = sectors;
        }
        // A card of another size is another card.
        sectors > 0 && sectors == self.sectors
    }

    fn attempt(&mut self, first_sector: u32, buf: &mut [u8], verify: bool) -> bool {
        let blocks = blocks(buf);
        self.ready.is_some()
            && self.selected(|slot| {
                slot.driver(verify, blocks.len()).read(blocks, BlockIdx(first_sector)).is_ok()
            })
    }
}

impl<SPI: CardBus, DELAY: DelayNs> CardSlot for SdSlot<SPI, DELAY> {
    fn acquire(&mut self) -> bool {
        self.pace.restart();
        self.sectors = 0;
        self.restart()
    }

    /// Sends GO_IDLE_STATE and looks for its answer in the next 16 bytes; the driver would wait for seconds.
    fn present(&mut self) -> bool {
        self.ready = None;
        self.spi.0.set_clock(START_CLOCK);
        self.spi.0.release(WAKE);
        // A card that was broken off in the middle of its data may still send some instead of its first answer.
        self.selected(|slot| go_idle(&mut slot.spi) || go_idle(&mut slot.spi))
    }
}

impl<SPI: CardBus, DELAY: DelayNs> BlockDevice for SdSlot<SPI, DELAY> {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.is_there(first_sector, buf.len())?;
        self.persist(first_sector, buf, true)
    }

    /// A sector of what was read before is asked for again because the checksum of its contents is wrong. Then the card's own is
    /// looked at, too, and the clock may go down.
    fn read_unverified(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let run = first_sector..self.is_there(first_sector, buf.len())?;
        let again = run.len() == 1 && self.unverified.iter().any(|before| before.contains(&first_sector));
        if again {
            self.pace.bad();
            self.clock();
        } else {
            self.unverified.rotate_left(1);
            self.unverified[1] = run;
        }
        self.persist(first_sector, buf, again)
    }

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.is_there(first_sector, bytes.len())?;
        let mut block = Block::new();
        for (number, sector) in (first_sector..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            block.contents.copy_from_slice(sector);
            if self.write_block(number, &block) {
                continue;
            }
            if !self.present() {
                return Err(DeviceError::Removed);
            }
            if !self.restart() || !self.write_block(number, &block) {
                return Err(DeviceError::Io);
            }
        }
        Ok(())
    }
}

/// Resets the card; whether it answers.
fn go_idle<SPI: SpiDevice>(spi: &mut SPI) -> bool {
    let mut answer = [0xFF; 16];
    // In one transaction: the card must stay selected until it has answered.
    let mut operations =
        [Operation::Write(&[0x40, 0, 0, 0, 0, 0x95]), Operation::TransferInPlace(&mut answer)];
    spi.transaction(&mut operations).is_ok() && answer.into_iter().find(|byte| byte & 0x80 == 0) == Some(IDLE)
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
