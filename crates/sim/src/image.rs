//! An image file as a block device.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

/// A file whose bytes are the sectors of a device; also a device file such as `/dev/sdb`.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
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
        let path = path.to_owned();
        Ok(Self { file, path, sectors: u32::try_from(bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX) })
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

    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let end = u64::from(first_sector) + (bytes.len() / SECTOR_BYTES) as u64;
        if end > u64::from(self.sectors) {
            return Err(DeviceError::OutOfRange);
        }
        // Opened for this alone: whoever only reads needs no permission to write.
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&self.path)?;
            file.seek(SeekFrom::Start(u64::from(first_sector) * SECTOR_BYTES as u64))?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DeviceError::ReadOnly,
            _ => DeviceError::Io,
        })
    }
}
