//! The port, with lines.

use core::fmt;

use embedded_io::{Read, ReadReady, Write};

/// Ctrl-C.
pub(crate) const INTERRUPT: u8 = 0x03;

/// The port is closed or broken: nobody is there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the port is closed")
    }
}

impl core::error::Error for Closed {}

impl From<fmt::Error> for Closed {
    fn from(_: fmt::Error) -> Self {
        Self
    }
}

/// A port that text is written to: `\n` goes out as CR LF, as terminals on a serial line want it.
#[derive(Debug)]
pub struct Terminal<P> {
    port: P,
}

impl<P: Read + ReadReady + Write> Terminal<P> {
    /// Over a port.
    pub fn new(port: P) -> Self {
        Self { port }
    }

    /// The port.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Writes text in parts, which need not be whole characters.
    ///
    /// # Errors
    /// If the port is closed.
    pub fn write(&mut self, text: &[u8]) -> Result<(), Closed> {
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                self.port.write_all(b"\r\n").map_err(|_| Closed)?;
            }
            self.port.write_all(line).map_err(|_| Closed)?;
        }
        Ok(())
    }

    /// Sends what a buffer holds back.
    ///
    /// # Errors
    /// If the port is closed.
    pub fn flush(&mut self) -> Result<(), Closed> {
        self.port.flush().map_err(|_| Closed)
    }

    /// The next byte that was typed, if there is one.
    ///
    /// # Errors
    /// If the port is closed.
    pub fn poll(&mut self) -> Result<Option<u8>, Closed> {
        if !self.port.read_ready().map_err(|_| Closed)? {
            return Ok(None);
        }
        let mut byte = [0];
        match self.port.read(&mut byte) {
            Ok(1) => Ok(Some(byte[0])),
            _ => Err(Closed),
        }
    }

    /// Whether Ctrl-C was typed. Everything else that was typed is dropped.
    ///
    /// # Errors
    /// If the port is closed.
    pub fn interrupted(&mut self) -> Result<bool, Closed> {
        while let Some(byte) = self.poll()? {
            if byte == INTERRUPT {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<P: Read + ReadReady + Write> fmt::Write for Terminal<P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
