//! QEMU, with a person or a script at its serial port.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::firmware::Processor;
use crate::profile::Addresses;

/// QEMU's program for Arm.
pub const QEMU: &str = "qemu-system-arm";
/// What the firmware prints when it waits for a line.
pub const PROMPT: &[u8] = b"\r\n> ";
/// The prompt of the page debugger.
pub const PAGES_PROMPT: &[u8] = b"\r\npages> ";

/// Instructions that the emulator counts in 2^shift ns of its own time, one each, with [`Options::counted`].
const SHIFT: u32 = 5;

/// Instructions in so many ticks of a clock of `hertz`, when instructions are counted.
pub fn instructions(ticks: u64, hertz: u64) -> u64 {
    ((u128::from(ticks) * 1_000_000_000 / u128::from(hertz)) >> SHIFT) as u64
}

/// What may be chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The card's image; none if there is to be no card.
    pub image: Option<&'a Path>,
    /// The processor that the firmware was built for.
    pub processor: Processor,
    /// Time is a count of instructions: the same in every run.
    pub counted: bool,
    /// A socket for QEMU's monitor, to pull the card out.
    pub monitor: Option<&'a Path>,
    /// A file for the commands that the card is sent, a line each.
    pub trace: Option<&'a Path>,
    /// What the firmware writes to the card changes the image.
    pub keep_writes: bool,
    /// One instruction is executed at a time, and where can be logged: [`Emulator::traced`].
    pub logged: bool,
}

impl Options<'_> {
    fn command(&self, firmware: &Path, serial: &str) -> Command {
        let mut command = Command::new(QEMU);
        command
            .args(["-M", "lm3s6965evb", "-cpu", self.processor.cpu(), "-display", "none", "-serial", serial])
            .arg("-kernel")
            .arg(firmware);
        match self.monitor {
            _ if self.logged => {}
            Some(path) => {
                command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", path.display()));
            }
            None if serial == "stdio" => {
                command.args(["-monitor", "none"]);
            }
            None => {}
        }
        if let Some(image) = self.image {
            // A comma in a path is doubled.
            let path = image.display().to_string().replace(',', ",,");
            let snapshot = if self.keep_writes { "off" } else { "on" };
            command.arg("-drive").arg(format!("file={path},if=sd,format=raw,snapshot={snapshot}"));
        }
        if let Some(trace) = self.trace {
            command.args(["-trace", "sdcard_normal_command", "-D"]).arg(trace);
        }
        if self.logged {
            // Newer versions have another name for the option.
            command.args(if version() < Some((8, 1)) {
                ["-singlestep", "-d", "nochain"].as_slice()
            } else {
                ["-accel", "tcg,one-insn-per-tb=on", "-d", "nochain"].as_slice()
            });
        }
        if self.counted {
            command.args(["-icount", &format!("shift={SHIFT},sleep=off")]);
        }
        command
    }
}

/// QEMU's version, major and minor: the second and third number of `QEMU emulator version 7.2.22 (…)`.
fn version() -> Option<(u32, u32)> {
    let output = Command::new(QEMU).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_once("version ")?.1.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Whether QEMU is installed.
pub fn installed() -> bool {
    Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Connects this terminal with the firmware until QEMU ends (Ctrl-A X does).
///
/// # Errors
/// If QEMU cannot be run.
pub fn interactive(firmware: &Path, options: &Options<'_>) -> Result<()> {
    // With the monitor on the same terminal, Ctrl-A X ends QEMU and Ctrl-C goes to the firmware.
    let mut command = options.command(firmware, "mon:stdio");
    let status = command.status().with_context(missing)?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// A running firmware that lines are typed to.
pub struct Emulator {
    child: Child,
    stdin: ChildStdin,
    output: Receiver<Vec<u8>>,
    timeout: Duration,
}

impl Emulator {
    /// Starts the firmware.
    ///
    /// # Errors
    /// If QEMU cannot be run.
    pub fn start(firmware: &Path, options: &Options<'_>) -> Result<Self> {
        let mut child = options
            .command(firmware, if options.logged { "mon:stdio" } else { "stdio" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The log; otherwise, QEMU only warns of the board's timers that have no period yet.
            .stderr(if options.logged { Stdio::piped() } else { Stdio::null() })
            .spawn()
            .with_context(missing)?;
        let (Some(stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("QEMU has no pipes");
        };
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            output,
            // Long enough for any machine, whatever else it does: only what hangs is to be noticed.
            timeout: Duration::from_secs(1800),
        })
    }

    /// Everything that is printed up to the next prompt, which is included.
    ///
    /// # Errors
    /// If none comes for half an hour: with what did.
    pub fn until_prompt(&mut self) -> Result<Vec<u8>> {
        self.until(&[PROMPT, PAGES_PROMPT])
    }

    /// Everything that is printed up to one of `ends`, which is included.
    ///
    /// # Errors
    /// If none comes for half an hour: with what did.
    pub fn until(&mut self, ends: &[&[u8]]) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let deadline = Instant::now() + self.timeout;
        while !ends.iter().any(|end| all.ends_with(end)) {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => all.extend(bytes),
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => "the firmware prints nothing more",
                        RecvTimeoutError::Disconnected => "QEMU has ended",
                    };
                    bail!("{why}, after: {}", String::from_utf8_lossy(&all));
                }
            }
        }
        Ok(all)
    }

    /// Waits until anything more is printed, and drops it.
    ///
    /// # Errors
    /// If nothing comes for half an hour.
    pub fn more(&mut self) -> Result<()> {
        self.output.recv_timeout(self.timeout).context("the firmware prints nothing more")?;
        Ok(())
    }

    /// Types bytes.
    ///
    /// # Errors
    /// If QEMU has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdin.write_all(bytes).and_then(|()| self.stdin.flush()).context("QEMU has ended")
    }

    /// Types a line and returns what comes up to the next prompt, without the line's echo and the prompt.
    ///
    /// # Errors
    /// If no prompt comes.
    pub fn line_bytes(&mut self, line: &str) -> Result<Vec<u8>> {
        self.send(line.as_bytes())?;
        self.send(b"\r")?;
        let all = self.until_prompt()?;
        let echo = format!("{line}\r\n");
        let said = all.strip_prefix(echo.as_bytes()).unwrap_or(&all);
        let said = [PAGES_PROMPT, PROMPT].iter().find_map(|end| said.strip_suffix(*end)).unwrap_or(said);
        Ok(said.to_vec())
    }

    /// Types a line, gives `read` the addresses of the instructions from then on, and ends.
    ///
    /// # Errors
    /// If QEMU has ended, [`Options::logged`] was not set, or `read` says so.
    pub fn traced<T>(
        mut self,
        line: &str,
        read: impl FnOnce(Addresses<ChildStderr>) -> Result<T>,
    ) -> Result<T> {
        let log = self.child.stderr.take().context("the emulator does not log")?;
        // Ctrl-A C switches the terminal to QEMU's monitor and back.
        self.send(b"\x01clog exec,nochain\n\x01c")?;
        self.send(line.as_bytes())?;
        self.send(b"\r")?;
        read(Addresses::new(log))
    }

    /// The same as text with lines that end in LF.
    ///
    /// # Errors
    /// If no prompt comes.
    pub fn line(&mut self, line: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.line_bytes(line)?).replace("\r\n", "\n"))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn missing() -> String {
    format!("{QEMU} cannot be run; on Debian: apt-get install --no-install-recommends qemu-system-arm")
}
