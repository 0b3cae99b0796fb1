//! The log: what the board printed, byte for byte, and when.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// A file that is appended to.
pub struct Log {
    file: File,
    path: PathBuf,
    /// The port, for the stamps.
    port: String,
    /// The last byte was a line feed, or there is none.
    at_line_start: bool,
}

impl Log {
    /// Opens a file, or makes it, and stamps it.
    pub fn open(path: &Path, port: &str, baud: u32) -> Result<Self> {
        let in_file = || path.display().to_string();
        let file = OpenOptions::new().append(true).create(true).open(path).with_context(in_file)?;
        let at_line_start = file.metadata().with_context(in_file)?.len() == 0;
        let mut log = Self { file, path: path.to_owned(), port: port.to_owned(), at_line_start };
        log.stamp(&format!("{baud} baud"))?;
        Ok(log)
    }

    /// A line with the time, the port and what is the matter with it.
    pub fn stamp(&mut self, what: &str) -> Result<()> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let line = format!("=== {time} {} {what}\n", self.port);
        // The end of a file that was there is not known; a blank line does no harm.
        let gap = if self.at_line_start { "" } else { "\n" };
        self.write(format!("{gap}{line}").as_bytes())
    }

    /// Appends what the board printed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
            self.file.write_all(bytes).with_context(|| self.path.display().to_string())?;
        }
        Ok(())
    }
}
