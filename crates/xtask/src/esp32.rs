//! Building the firmware of ESP32 boards.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use pageformer_esp32_boards::{BOARDS, Board, Chip};

use crate::firmware::Toolchain;
use crate::root;

/// What is built.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The board.
    pub board: &'a Board,
    /// Reads the card over the SD bus, four bits wide, instead of SPI.
    pub sdhost: bool,
    /// Where cargo builds.
    pub target_dir: PathBuf,
}

/// The chip of this name.
///
/// # Errors
/// Names those that there are.
pub fn chip(name: &str) -> Result<Chip> {
    Chip::ALL
        .into_iter()
        .find(|chip| chip.name() == name)
        .with_context(|| format!("{name}: no such chip; there are {}", Chip::ALL.map(Chip::name).join(", ")))
}

/// The board of this name, or the default one of `chip`.
///
/// # Errors
/// Names those that there are.
pub fn board(chip: Chip, id: Option<&str>) -> Result<&'static Board> {
    let found = match id {
        Some(id) => Board::find(id).filter(|board| board.chip == chip),
        None => Board::default_of(chip),
    };
    found.with_context(|| {
        let boards = BOARDS.iter().filter(|board| board.chip == chip).map(|board| board.id);
        format!(
            "{}: no such board with an {}; there are {}. A new one is a row of firmware/esp32-boards/src/lib.rs",
            id.unwrap_or_default(),
            chip.name(),
            boards.collect::<Vec<_>>().join(", ")
        )
    })
}

/// Where cargo builds unless told otherwise.
pub fn default_target_dir() -> PathBuf {
    root().join("firmware/esp32/target")
}

/// Builds the firmware and returns its ELF file, which `espflash flash` takes.
///
/// # Errors
/// If there is no toolchain for it, or it does not build; then cargo has said why.
pub fn build(options: &Options<'_>) -> Result<PathBuf> {
    let chip = options.board.chip;
    let mut command = cargo(chip)?;
    if options.sdhost && options.board.sdhost.is_none() {
        bail!("{}: its card is connected for SPI only", options.board.id);
    }
    let features = if options.sdhost { format!("{},sdhost", chip.name()) } else { chip.name().into() };
    let status = command
        .args(["--release", "--quiet", "--locked", "--features", &features, "--target", chip.target()])
        .arg("--target-dir")
        .arg(&options.target_dir)
        .current_dir(root().join("firmware/esp32"))
        .env("PAGEFORMER_BOARD", options.board.id)
        .status()
        .context("cargo cannot be run")?;
    if !status.success() {
        bail!("the firmware does not build");
    }
    Ok(options.target_dir.join(chip.target()).join("release/pageformer-esp32"))
}

/// `cargo build` for a chip.
fn cargo(chip: Chip) -> Result<Command> {
    if chip == Chip::Esp32S3 {
        // Xtensa is not among the processors that the Rust project's own compiler builds for.
        let installed = Command::new("rustup")
            .args(["run", "esp", "rustc", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !installed {
            bail!(
                "the ESP32-S3 needs Espressif's Rust toolchain: `cargo install espup`, `espup install`, then \
                 `. ~/export-esp.sh` in this shell (docs/boards.md)"
            );
        }
        let mut command = Command::new("rustup");
        command.args(["run", "esp", "cargo", "build", "-Zbuild-std=core"]);
        for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(variable);
        }
        return Ok(command);
    }
    let toolchain = Toolchain::find(chip.target())?;
    let mut command = toolchain.cargo(chip.target());
    command.arg("build").args(toolchain.options());
    Ok(command)
}

/// Turns an ELF file into the image of an app, for address 0x10000 of the flash, with Espressif's `esptool`.
///
/// # Errors
/// If `esptool` is not installed, or does not like the file.
pub fn image(esptool: &Path, chip: Chip, elf: &Path, image: &Path) -> Result<()> {
    let status = Command::new(esptool)
        .args(["--chip", chip.name(), "elf2image", "--flash-mode", "dio", "--flash-size", "4MB", "--output"])
        .args([image, elf])
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("{} cannot be run; `pip install esptool`", esptool.display()))?;
    if !status.success() {
        bail!("esptool makes no image of {}", elf.display());
    }
    Ok(())
}
