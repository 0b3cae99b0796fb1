//! What the card must be able to do, and the one buffer through which it is read.

use crate::{Error, SECTOR_BYTES};
use core::fmt;

/// A card, an image of one, or anything else that is read in sectors of 512 bytes.
pub trait BlockDevice {
    /// Number of sectors; [`u32::MAX`] if unknown.
    fn sectors(&self) -> u32;

    /// Reads the run of sectors that starts at `first_sector` and fills `buf`, whose length is a multiple of 512 and not 0.
    ///
    /// # Errors
    /// [`DeviceError`] if one of the sectors could not be read; `buf` then holds anything.
    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError>;

    /// As [`Self::read`], for sectors whose contents have a checksum that the caller will compare: a device that would
    /// compute another one for the way from the card need not. `buf` may then hold anything without an error, too.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_unverified(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.read(first_sector, buf)
    }

    /// Sectors that the device can have read before they are asked for, into memory of its own. 0: none, it reads only while it
    /// is waited for. This and the next four methods are for devices with a reader that works by itself: a second core, or DMA.
    fn read_ahead(&self) -> u32 {
        0
    }

    /// Announces a [`Self::read`] of this one sector, to be waited for later: the device reads it before runs that have not begun to be read. Two of
    /// them are remembered at least; other reads leave them alone. A hint.
    fn begin_sector(&mut self, sector: u32) {
        let _ = sector;
    }

    /// Whether a sector that was announced by [`Self::begin_sector`] has been read.
    fn has_arrived(&mut self, sector: u32) -> bool {
        let _ = sector;
        true
    }

    /// Announces a [`Self::finish_read`] of `sectors` sectors: the device begins now, behind what was announced before. A hint, which
    /// may be ignored when there is no room; errors are for `finish_read` to report.
    fn begin_read(&mut self, first_sector: u32, sectors: u32) {
        let _ = (first_sector, sectors);
    }

    /// As [`Self::read_unverified`], of what was announced: the oldest run that was begun and neither finished nor dropped. If that is
    /// another one, it is dropped, and so on; what was not begun at all is read now. [`Self::read`] may come in between: of one sector, it leaves
    /// alone what was begun, and had better come before what has not begun to be read; of several, it may drop that.
    ///
    /// # Errors
    /// As [`Self::read`], also for what went wrong earlier.
    fn finish_read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.read_unverified(first_sector, buf)
    }

    /// Overwrites the run of sectors that starts at `first_sector` with `bytes`, whose length is a multiple of 512 and not 0. They are
    /// on the card when this returns. Nothing in this crate calls it.
    ///
    /// # Errors
    /// [`DeviceError`] if one of the sectors could not be written: that one may hold anything then, the others are old or new.
    /// The default says that the device can only be read.
    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let _ = (first_sector, bytes);
        Err(DeviceError::ReadOnly)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for &mut D {
    fn sectors(&self) -> u32 {
        (**self).sectors()
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read(first_sector, buf)
    }

    fn read_unverified(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read_unverified(first_sector, buf)
    }

    fn read_ahead(&self) -> u32 {
        (**self).read_ahead()
    }

    fn begin_sector(&mut self, sector: u32) {
        (**self).begin_sector(sector);
    }

    fn has_arrived(&mut self, sector: u32) -> bool {
        (**self).has_arrived(sector)
    }

    fn begin_read(&mut self, first_sector: u32, sectors: u32) {
        (**self).begin_read(first_sector, sectors);
    }

    fn finish_read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        (**self).finish_read(first_sector, buf)
    }

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        (**self).write(first_sector, bytes)
    }
}

/// Why a device could not read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// The transfer failed: bus error, checksum, timeout.
    Io,
    /// There is no card (any more).
    Removed,
    /// There is no such sector.
    OutOfRange,
    /// The device cannot be written.
    ReadOnly,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the card did not answer or its answer was damaged; check contacts, wiring and clock",
            Self::Removed => "there is no card; put it back",
            Self::OutOfRange => "the card has no such sector",
            Self::ReadOnly => "the card can only be read",
        })
    }
}

impl core::error::Error for DeviceError {}

/// A card image in memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceDevice<'a>(
    /// The image. An incomplete sector at the end does not count.
    pub &'a [u8],
);

impl BlockDevice for SliceDevice<'_> {
    fn sectors(&self) -> u32 {
        u32::try_from(self.0.len() / SECTOR_BYTES).unwrap_or(u32::MAX)
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let whole = self.0.len() / SECTOR_BYTES * SECTOR_BYTES;
        let run = usize::try_from(first_sector)
            .ok()
            .and_then(|first| first.checked_mul(SECTOR_BYTES))
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .filter(|run| run.end <= whole)
            .and_then(|run| self.0.get(run));
        buf.copy_from_slice(run.ok_or(DeviceError::OutOfRange)?);
        Ok(())
    }
}

/// The sectors that were read last: the only memory that this crate uses.
///
/// The cache knows which sectors it holds, so the same one may serve any number of cursors of one device in any
/// order: nothing is read twice while it is there, and nothing stale is used as long as nobody writes to
/// the sectors of the file system. From 1,024 bytes on, directory and FAT have a half each and do not drive each other
/// out; what is more than a sector in either half reads ahead.
#[derive(Debug)]
pub struct SectorCache<'b> {
    /// Sectors of the FAT, and all others if there is no room for a second window.
    fat: Window<'b>,
    others: Option<Window<'b>>,
}

impl<'b> SectorCache<'b> {
    /// An empty cache in `buf`: 512 bytes do, 1,024 save most reads.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`] below 512 bytes.
    pub fn new(buf: &'b mut [u8]) -> Result<Self, Error> {
        let sectors = buf.len() / SECTOR_BYTES;
        if sectors == 0 {
            return Err(Error::BufferTooSmall { bytes: buf.len() });
        }
        if sectors == 1 {
            return Ok(Self { fat: Window::new(buf), others: None });
        }
        let (fat, others) = buf.split_at_mut(sectors / 2 * SECTOR_BYTES);
        Ok(Self { fat: Window::new(fat), others: Some(Window::new(others)) })
    }

    /// Forgets everything, as after a change of cards.
    pub fn clear(&mut self) {
        self.fat.held = 0;
        if let Some(others) = &mut self.others {
            others.held = 0;
        }
    }

    /// A sector of a FAT that ends before sector `end`.
    pub(crate) fn fat_sector<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        sector: u32,
        end: u32,
    ) -> Result<&[u8], Error> {
        self.fat.get(device, sector, end)
    }

    /// A sector of anything else that ends before sector `end`.
    pub(crate) fn sector<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        sector: u32,
        end: u32,
    ) -> Result<&[u8], Error> {
        self.others.as_mut().unwrap_or(&mut self.fat).get(device, sector, end)
    }
}

/// A run of sectors in memory.
#[derive(Debug)]
struct Window<'b> {
    buf: &'b mut [u8],
    /// First sector held.
    first: u32,
    /// Number of sectors held.
    held: u32,
}

impl<'b> Window<'b> {
    fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, first: 0, held: 0 }
    }

    /// The 512 bytes of `sector`, reading it and what follows, but nothing from sector `end` on, when it is not here.
    fn get<D: BlockDevice + ?Sized>(
        &mut self,
        device: &mut D,
        sector: u32,
        end: u32,
    ) -> Result<&[u8], Error> {
        let at = match sector.checked_sub(self.first).filter(|at| *at < self.held) {
            Some(at) => at as usize,
            None => {
                self.fill(device, sector, end)?;
                0
            }
        };
        let start = at.saturating_mul(SECTOR_BYTES);
        self.buf
            .get(start..start.saturating_add(SECTOR_BYTES))
            .ok_or(Error::Device { sector, error: DeviceError::OutOfRange })
    }

    fn fill<D: BlockDevice + ?Sized>(&mut self, device: &mut D, sector: u32, end: u32) -> Result<(), Error> {
        self.held = 0;
        let room = u32::try_from(self.buf.len() / SECTOR_BYTES).unwrap_or(u32::MAX);
        let mut sectors = end.saturating_sub(sector).min(room);
        loop {
            let bytes = (sectors as usize).saturating_mul(SECTOR_BYTES);
            let Some(run) = self.buf.get_mut(..bytes).filter(|run| !run.is_empty()) else {
                return Err(Error::Device { sector, error: DeviceError::OutOfRange });
            };
            match device.read(sector, run) {
                Ok(()) => {
                    (self.first, self.held) = (sector, sectors);
                    return Ok(());
                }
                // A bad sector further on must not hide a good one: try again with only what was asked for.
                Err(_) if sectors > 1 => sectors = 1,
                Err(error) => return Err(Error::Device { sector, error }),
            }
        }
    }
}
