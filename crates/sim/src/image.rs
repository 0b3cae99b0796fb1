//! An image file as a block device.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

/// A file whose bytes are the sectors of a device; also a device file such as `/dev/sdb`.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    sectors: u32,
}

impl FileDevice {
    /// Opens an image.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, sectors: u32::try_from(bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX) })
    }
}

impl BlockDevice for FileDevice {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let end = u64::from(first_sector) + (buf.len() / SECTOR_BYTES) as u64;
        if end > u64::from(self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        let at = u64::from(first_sector) * SECTOR_BYTES as u64;
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(buf));
        read.map_err(|_| DeviceError::Io)
    }
}
