//! Building the firmware.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

/// The processor in the emulated board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Processor {
    /// The one that the board has: Cortex-M3.
    #[default]
    M3,
    /// A Cortex-M4 in its place, with DSP extension and floating-point unit.
    M4,
}

impl Processor {
    /// The target that the firmware is built for.
    pub fn target(self) -> &'static str {
        match self {
            Self::M3 => "thumbv7m-none-eabi",
            Self::M4 => "thumbv7em-none-eabihf",
        }
    }

    /// Its name for QEMU.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::M3 => "cortex-m3",
            Self::M4 => "cortex-m4",
        }
    }
}

/// A program for the emulated board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The firmware.
    Firmware,
    /// Checks and measures the kernel for matrices; wants no card.
    Kernels,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Firmware => "pageformer-qemu-cortex-m3",
            Self::Kernels => "kernels",
        }
    }
}

/// How to build for a bare-metal target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain in use has the target: `rustup target add` was run.
    Installed,
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`: `core` is built along; with this linker.
    Debian(PathBuf),
}

impl Toolchain {
    /// Looks for one that builds for `target`.
    ///
    /// # Errors
    /// Says what to install.
    pub fn find(target: &str) -> Result<Self> {
        let directory = Command::new("rustc")
            .args(["--print", "target-libdir", "--target", target])
            .current_dir(root())
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
        // The directory of a target that is not installed is printed, too.
        if directory.is_some_and(|dir| dir.is_dir()) {
            return Ok(Self::Installed);
        }
        let linker =
            (14..40).rev().map(|n| PathBuf::from(format!("/usr/bin/ld.lld-{n}"))).find(|p| p.exists());
        let sysroot = Command::new("/usr/bin/rustc").args(["--print", "sysroot"]).output();
        let sources = sysroot.ok().map(|output| {
            let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            sysroot.join("lib/rustlib/src/rust/library/core")
        });
        match (linker, sources) {
            (Some(linker), Some(sources)) if sources.exists() => Ok(Self::Debian(linker)),
            _ => bail!(
                "no Rust toolchain here builds for {target}: run `rustup target add {target}`, or on Debian \
                 `apt-get install rustc-web cargo-web rust-web-src lld-22`"
            ),
        }
    }

    /// A `cargo` that builds for `target`; give it the command and `--target`'s options behind [`Self::options`].
    pub fn cargo(&self, target: &str) -> Command {
        let mut command = match self {
            Self::Installed => Command::new("cargo"),
            Self::Debian(linker) => {
                let mut command = Command::new("/usr/bin/cargo");
                let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
                // Building `core` is unstable.
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc").env(variable, linker);
                command.env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        // What a cargo that runs this program has set for its own build is not meant for another.
        for variable in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(variable);
        }
        command
    }

    /// Options of `cargo build`.
    pub fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Installed => &[],
            Self::Debian(_) => &["-Zbuild-std=core"],
        }
    }
}

/// Builds a program for the emulated board and returns its ELF file.
///
/// # Errors
/// If there is no toolchain for it, or it does not build; then cargo has said why.
pub fn build(program: Program, processor: Processor) -> Result<PathBuf> {
    let target = processor.target();
    let toolchain = Toolchain::find(target)?;
    let dir = root().join("firmware/qemu-cortex-m3");
    let target_dir = target_dir(&dir);
    let status = toolchain
        .cargo(target)
        .args(["build", "--release", "--quiet", "--locked", "--target", target, "--bin", program.name()])
        .args(toolchain.options())
        .args(["--config", &without_the_folder(target)])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&dir)
        .status()
        .context("cargo cannot be run")?;
    if !status.success() {
        bail!("the firmware does not build; in {}", dir.display());
    }
    Ok(target_dir.join(target).join("release").join(program.name()))
}

/// A setting for cargo that leaves the folder of this clone out of the messages of panics, which are in the
/// firmware: it is to have one size wherever it is built.
fn without_the_folder(target: &str) -> String {
    let remap = format!("--remap-path-prefix={}/=", root().display());
    // A string of TOML is written as one of Rust.
    format!("target.{target}.rustflags=[{remap:?}]")
}

/// Where the firmware is built: its own folder, or one beside the rest if that is elsewhere.
fn target_dir(firmware: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir).join("firmware"),
        None => firmware.join("target"),
    }
}
