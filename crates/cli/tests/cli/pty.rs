//! Pseudo-terminals, and programs that run at them.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::support::PATIENCE;

/// A program that another test starts must not keep the terminal open.
#[cfg(target_os = "linux")]
const NOT_INHERITED: OpenptFlags = OpenptFlags::CLOEXEC;
#[cfg(not(target_os = "linux"))]
const NOT_INHERITED: OpenptFlags = OpenptFlags::empty();

/// Both ends of a pseudo-terminal.
pub struct Pty {
    pub master: File,
    /// The end that programs open; it stays open here, or the master would report an error while nobody has it open.
    pub slave: File,
    pub path: PathBuf,
}

impl Pty {
    pub fn new() -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | NOT_INHERITED).unwrap();
        rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
        let slave = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self { master: File::from(master), slave, path }
    }
}

/// A program, running, with what it has printed so far.
pub struct Running {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What has not been waited for yet.
    pub printed: String,
}

impl Running {
    /// A program whose output comes through `output`.
    pub fn new(child: Child, output: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        gather(output, sender);
        Self { child, output: receiver, printed: String::new() }
    }

    /// Waits for a text, and drops everything up to its end.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.printed.find(text) {
                return self.printed.drain(..at + text.len()).collect();
            }
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.printed += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("no {text:?} after {:?}", self.printed),
            }
        }
    }

    /// Its exit code, when it has ended.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends what comes from a file, until its end.
fn gather(mut file: impl Read + Send + 'static, sender: Sender<Vec<u8>>) {
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = file.read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// A person at a terminal: keys in, the screen out.
pub struct Person {
    pub running: Running,
    terminal: Pty,
}

impl Person {
    /// Runs a command at a terminal of its own.
    pub fn sits_down(command: &mut Command) -> Self {
        let terminal = Pty::new();
        let end = || Stdio::from(terminal.slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { running: Running::new(child, terminal.master.try_clone().unwrap()), terminal }
    }

    pub fn types(&mut self, keys: &str) {
        self.terminal.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether keys come one by one.
    pub fn terminal_is_raw(&self) -> bool {
        !tcgetattr(&self.terminal.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }
}
