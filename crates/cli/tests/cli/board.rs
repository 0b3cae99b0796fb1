//! A board whose serial port is a pseudo-terminal: the boot sequence, console and engine that run on microcontrollers, over a
//! card image, in the memory of a small one.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use embedded_io::{ErrorType, Read, ReadReady, Write};
use pageformer_console::{Console, Host, Settings};
use pageformer_fat32::{BlockDevice, DeviceError};
use pageformer_firmware::{CardSlot, run};
use pageformer_sim::FileDevice;
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::pty::Pty;
use crate::support::wait_for;

/// What a chip's own loader prints before the firmware runs; the second line is as odd as a port's first bytes are.
pub const BOOT_NOISE: &[u8] = b"ESP-ROM:esp32c3-api1-20210207\r\n\xFF\x00\x80> \x1B[0m\r\n";

/// What a test does to a running board.
#[derive(Default)]
struct Controls {
    /// The firmware ends, wherever it is.
    stop: AtomicBool,
    /// When so many more bytes have been printed, the board stands still until a key comes; 0 is never.
    stand_still_after: AtomicUsize,
    standing: AtomicBool,
}

/// A board, running.
pub struct Board {
    controls: Arc<Controls>,
    thread: Option<JoinHandle<Port>>,
    image: PathBuf,
    slave: File,
}

impl Board {
    /// Puts a card's image in, plugs the board in as `name`, and switches it on.
    pub fn plug_in(image: &Path, name: &Path) -> Self {
        let pty = Pty::new();
        let mut termios = tcgetattr(&pty.slave).unwrap();
        termios.make_raw();
        tcsetattr(&pty.slave, OptionalActions::Now, &termios).unwrap();
        rustix::fs::fcntl_setfl(&pty.master, OFlags::NONBLOCK).unwrap();
        let controls = Arc::new(Controls::default());
        let port = Port { file: pty.master, controls: controls.clone(), typed: VecDeque::new() };
        let mut board = Self { controls, thread: None, image: image.to_owned(), slave: pty.slave };
        board.start(port);
        let _ = fs::remove_file(name);
        symlink(pty.path, name).unwrap();
        board
    }

    fn start(&mut self, port: Port) {
        let image = self.image.clone();
        self.thread = Some(thread::spawn(move || firmware(&image, port)));
    }

    /// When so many more bytes have been printed, the board stands still until a key comes.
    pub fn stand_still_after(&self, bytes: usize) {
        self.controls.stand_still_after.store(bytes, Ordering::SeqCst);
    }

    pub fn wait_until_it_stands(&self) {
        wait_for("the board to stand still", || self.controls.standing.load(Ordering::SeqCst));
    }

    fn stop(&mut self) -> Port {
        self.controls.stop.store(true, Ordering::SeqCst);
        let port = self.thread.take().unwrap().join().unwrap();
        self.controls.stop.store(false, Ordering::SeqCst);
        self.controls.stand_still_after.store(0, Ordering::SeqCst);
        self.controls.standing.store(false, Ordering::SeqCst);
        port
    }

    /// Presses the reset button.
    pub fn reset(&mut self) {
        let port = self.stop();
        self.start(port);
    }

    /// Pulls the cable.
    pub fn unplug(mut self) {
        drop(self.stop());
    }

    /// Whether the port's settings are those of a serial line: no echo, no lines, no signals.
    pub fn line_is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.stop());
        }
    }
}

/// What is in the flash of a board with 64 KiB of RAM.
fn firmware(image: &Path, mut port: Port) -> Port {
    let mut memory = vec![0u64; (52 << 10) / 8];
    let _ = port.file.write_all(BOOT_NOISE);
    let mut console = Console::new(port, Sleepy, Settings::default());
    run(&mut Slot(FileDevice::open(image).unwrap()), &mut memory[..], &mut console);
    let port = console.terminal().port_mut();
    Port { file: port.file.try_clone().unwrap(), controls: port.controls.clone(), typed: VecDeque::new() }
}

struct Slot(FileDevice);

impl BlockDevice for Slot {
    fn sectors(&self) -> u32 {
        self.0.sectors()
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(first_sector, buf)
    }
}

impl CardSlot for Slot {
    fn acquire(&mut self) -> bool {
        true
    }

    fn present(&mut self) -> bool {
        true
    }
}

struct Sleepy;

impl Host for Sleepy {
    fn idle(&mut self) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The UART.
struct Port {
    file: File,
    controls: Arc<Controls>,
    typed: VecDeque<u8>,
}

impl Port {
    fn check(&self) -> io::Result<()> {
        match self.controls.stop.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl ErrorType for Port {
    type Error = io::Error;
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> io::Result<bool> {
        loop {
            self.check()?;
            let mut bytes = [0; 64];
            if let Ok(n) = self.file.read(&mut bytes) {
                self.typed.extend(&bytes[..n]);
            }
            let standing = self.controls.standing.load(Ordering::SeqCst);
            if !self.typed.is_empty() || !standing {
                self.controls.standing.store(false, Ordering::SeqCst);
                return Ok(!self.typed.is_empty());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Read for Port {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !self.read_ready()? {
            thread::sleep(Duration::from_millis(1));
        }
        buf[0] = self.typed.pop_front().unwrap();
        Ok(1)
    }
}

impl Write for Port {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            self.check()?;
            match self.file.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1))
                }
                Ok(n) => {
                    let left = self.controls.stand_still_after.load(Ordering::SeqCst);
                    self.controls.stand_still_after.store(left.saturating_sub(n), Ordering::SeqCst);
                    if left > 0 && left <= n {
                        self.controls.standing.store(true, Ordering::SeqCst);
                    }
                    return Ok(n);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
