//! `pageformer flash`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Parser;

/// Writes the firmware to a board with an ESP32 chip, through espflash. It writes what has been built before, and builds
/// nothing itself.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    cargo xtask firmware --chip esp32c3                 # builds the firmware, once\n  \
    pageformer flash --chip esp32c3\n  \
    pageformer flash --chip esp32s3 --port /dev/ttyACM0\n  \
    pageformer monitor                                  # and talks to the board\n\n\
    espflash is a program of the esp-rs project: cargo install espflash --locked.\n\n\
    A chip that does not answer: hold BOOT, press RESET, let BOOT go, and try again.\n\n\
    The model is not in the firmware but on the SD card: pageformer image writes that.")]
pub struct Flash {
    /// The board's chip
    #[arg(long, value_name = "esp32s3|esp32c3|esp32c6", value_parser = Chip::parse)]
    chip: Chip,
    /// The board's serial port [default: espflash looks for it]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// The firmware, an ELF file [default: what `cargo xtask firmware` has built in this clone]
    #[arg(long, value_name = "ELF")]
    firmware: Option<PathBuf>,
    /// Print espflash's command line instead of running it
    #[arg(long)]
    dry_run: bool,
}

/// A chip that there is firmware for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Chip {
    Esp32S3,
    Esp32C3,
    Esp32C6,
}

/// Beginnings of what chips and boards with Cortex-M processors are called.
const CORTEX_M: [&str; 8] = ["cortex", "thumb", "stm32", "nrf", "rp2", "pico", "lm3s", "sam"];

impl Chip {
    fn parse(name: &str) -> Result<Self, String> {
        let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        match plain.as_str() {
            "esp32s3" => Ok(Self::Esp32S3),
            "esp32c3" => Ok(Self::Esp32C3),
            "esp32c6" => Ok(Self::Esp32C6),
            "qemu" => Err("the emulated board is not flashed: `cargo xtask emulate` runs it".into()),
            other if CORTEX_M.iter().any(|start| other.starts_with(start)) => Err(
                "boards with a Cortex-M processor are flashed with another program, probe-rs: `probe-rs run --chip CHIP \
                 ELF`; a firmware for such a board is to be written first (docs/porting.md), since the one in this \
                 project is for an emulator"
                    .into(),
            ),
            _ => Err("there is firmware for esp32s3, esp32c3 and esp32c6".into()),
        }
    }

    /// As espflash and `cargo xtask firmware` call it.
    fn name(self) -> &'static str {
        match self {
            Self::Esp32S3 => "esp32s3",
            Self::Esp32C3 => "esp32c3",
            Self::Esp32C6 => "esp32c6",
        }
    }

    /// Where its firmware is built, in the clone.
    fn elf(self) -> PathBuf {
        let target = match self {
            Self::Esp32S3 => "xtensa-esp32s3-none-elf",
            Self::Esp32C3 => "riscv32imc-unknown-none-elf",
            Self::Esp32C6 => "riscv32imac-unknown-none-elf",
        };
        Path::new("firmware/esp32/target").join(target).join("release/pageformer-esp32")
    }
}

impl Flash {
    pub fn run(self) -> Result<()> {
        let chip = self.chip.name();
        let firmware = self.find_firmware()?;
        let mut espflash = Command::new("espflash");
        espflash.args(["flash", "--chip", chip]);
        if let Some(port) = &self.port {
            espflash.args(["--port", port]);
        }
        espflash.arg(&firmware);
        if self.dry_run {
            println!("{}", line(&espflash));
            return Ok(());
        }
        match espflash.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!(
                "espflash has not written the firmware ({status}). If the chip did not answer: hold BOOT, press RESET, let \
                 BOOT go, and try again"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "espflash is not installed: `cargo install espflash --locked` (on Debian, after `apt-get install \
                 pkg-config libudev-dev`), or a ready program from its releases with `cargo binstall espflash`. On a \
                 board that has Espressif's bootloader already, Python's esptool does it, too: `pip install esptool`, \
                 `cargo xtask firmware --chip {chip} --image {chip}.bin`, `esptool --chip {chip} write-flash 0x10000 \
                 {chip}.bin`"
            ),
            Err(error) => bail!("espflash cannot be run: {error}"),
        }
    }

    /// The firmware that is named, or that of the clone in or above the working directory.
    fn find_firmware(&self) -> Result<PathBuf> {
        let build = format!("`cargo xtask firmware --chip {}` builds it", self.chip.name());
        if let Some(path) = &self.firmware {
            if !path.is_file() {
                bail!("{}: no such file; {build}, in a clone of Pageformer", path.display());
            }
            return Ok(path.clone());
        }
        let here = std::env::current_dir()?;
        let Some(clone) = here.ancestors().find(|dir| dir.join("firmware/esp32").is_dir()) else {
            bail!(
                "{} is not in a clone of Pageformer, where the firmware is: name its file with --firmware; {build}",
                here.display()
            );
        };
        let elf = clone.join(self.chip.elf());
        if !elf.is_file() {
            bail!(
                "the firmware for {} has not been built yet: {build}, as {}",
                self.chip.name(),
                elf.display()
            );
        }
        Ok(elf)
    }
}

/// A command as one types it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_alphanumeric() || "-_./:=+,@".contains(c);
        if word.chars().all(plain) { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
