//! `cargo xtask`: chores of the project.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use xtask::emulator::{Emulator, Options, instructions};
use xtask::firmware::{Processor, Program};
use xtask::matrices::{self, Token};
use xtask::profile::Histogram;
use xtask::{card, emulator, esp32, firmware};

/// Chores of the project.
#[derive(Parser)]
enum Xtask {
    /// Build the firmware for QEMU's Cortex-M3 board and talk to it
    Emulate(Emulate),
    /// Build the firmware of an ESP32 board
    Firmware(Firmware),
}

/// Builds the firmware and prints where it is: `espflash flash --monitor FILE` brings it to the board.
#[derive(Args)]
struct Firmware {
    /// The chip: esp32s3, esp32c3 or esp32c6
    #[arg(long)]
    chip: String,
    /// The board, one of docs/boards.md [default: the chip's first]
    #[arg(long)]
    board: Option<String>,
    /// Read the card over the SD bus, four bits wide (ESP32-S3)
    #[arg(long)]
    sdhost: bool,
    /// Also write the image of the app, for address 0x10000 of the flash, with `esptool`
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where to build [default: firmware/esp32/target]
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
}

/// Builds a card image and the firmware, and connects this terminal with the board's serial port. Ctrl-A X ends it.
#[derive(Args)]
struct Emulate {
    /// The card: a folder or an image [default: the default model's]
    #[arg(long)]
    card: Option<PathBuf>,
    /// The processor in the board
    #[arg(long, value_enum, default_value_t)]
    cpu: Processor,
    /// Type the lines of a file (`-`: the standard input) one by one, each when the prompt comes, and print the transcript
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Count the instructions of a token, the same in every run, and end
    #[arg(long, conflicts_with = "script")]
    bench: bool,
    /// Count the instructions of a token function by function, and end
    #[arg(long, conflicts_with_all = ["script", "bench"])]
    profile: bool,
    /// Check the kernel for matrices and count its instructions, without a card, and end
    #[arg(long, conflicts_with_all = ["card", "script", "bench", "profile"])]
    kernels: bool,
    /// Count what the matrices of a token take, pages included: of the card given, or of random models whole and pruned to
    /// one half; and end
    #[arg(long, conflicts_with_all = ["script", "bench", "profile", "kernels"])]
    matrices: bool,
}

fn main() -> Result<()> {
    match Xtask::parse() {
        Xtask::Emulate(emulate) => emulate.run(),
        Xtask::Firmware(firmware) => firmware.run(),
    }
}

impl Emulate {
    fn run(self) -> Result<()> {
        if self.kernels {
            return kernels(self.cpu);
        }
        if self.matrices {
            return matrices(self.cpu, self.card.as_deref());
        }
        let dir = tempfile::tempdir()?;
        let card = self.card.unwrap_or_else(card::default_card);
        let image = card::image(&card, &dir.path().join("card.img"))?;
        eprintln!("building the firmware ...");
        let firmware = firmware::build(Program::Firmware, self.cpu)?;
        let options = Options {
            image: Some(&image),
            processor: self.cpu,
            counted: self.bench || self.profile,
            logged: self.profile,
            ..Options::default()
        };
        match (&self.script, self.bench) {
            (Some(script), _) => transcript(&firmware, &options, script),
            _ if self.profile => profile(&firmware, &options),
            (None, true) => bench(&firmware, &options),
            (None, false) => {
                eprintln!("Ctrl-A X ends QEMU");
                emulator::interactive(&firmware, &options)
            }
        }
    }
}

impl Firmware {
    fn run(self) -> Result<()> {
        let chip = esp32::chip(&self.chip)?;
        let board = esp32::board(chip, self.board.as_deref())?;
        let target_dir =
            self.target_dir.map_or_else(|| Ok(esp32::default_target_dir()), std::path::absolute)?;
        eprintln!("building the firmware for {} ...", board.name);
        let elf = esp32::build(&esp32::Options { board, sdhost: self.sdhost, target_dir })?;
        println!("{}", elf.display());
        if let Some(image) = self.image {
            esp32::image(Path::new("esptool"), chip, &elf, &image)?;
            println!("{}", image.display());
        }
        Ok(())
    }
}

/// Types the lines of a file.
fn transcript(firmware: &Path, options: &Options<'_>, script: &Path) -> Result<()> {
    let lines: Vec<String> = match script.to_str() {
        Some("-") => std::io::stdin().lock().lines().collect::<Result<_, _>>()?,
        _ => std::fs::read_to_string(script)
            .with_context(|| script.display().to_string())?
            .lines()
            .map(String::from)
            .collect(),
    };
    let mut out = std::io::stdout().lock();
    let mut emulator = Emulator::start(firmware, options)?;
    out.write_all(&emulator.until_prompt()?)?;
    for line in lines {
        emulator.send(line.as_bytes())?;
        emulator.send(b"\r")?;
        out.write_all(&emulator.until_prompt()?)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}

/// Prints what a token takes.
fn bench(firmware: &Path, options: &Options<'_>) -> Result<()> {
    let mut emulator = Emulator::start(firmware, options)?;
    emulator.until_prompt()?;
    let said = emulator.line("/bench")?;
    print!("{said}");
    match ticks(&said) {
        Some((ticks, hertz)) => println!("{} instructions per token", instructions(ticks, hertz)),
        None => bail!("the firmware has no clock"),
    }
    println!("\n{}", emulator.line("/memory")?);
    Ok(())
}

/// Prints what the kernel for matrices takes.
fn kernels(processor: Processor) -> Result<()> {
    eprintln!("building the program ...");
    let program = firmware::build(Program::Kernels, processor)?;
    let report = xtask::kernels::run(&program, processor)?;
    println!("{}", report.agreement);
    println!("instructions for 32 tiles: inputs, all cells, half of them, ratio");
    for xtask::kernels::Tiles { inputs, all, half } in report.tiles {
        println!("{inputs:>6} {all:>8} {half:>8} {:>6.2}", all as f64 / half as f64);
    }
    Ok(())
}

/// Prints what the matrices of a token take: of one card, or of random ones.
fn matrices(processor: Processor, card: Option<&Path>) -> Result<()> {
    eprintln!("building the firmware ...");
    let firmware = firmware::build(Program::Firmware, processor)?;
    let count = |card: &Path| matrices::count(&firmware, processor, card);
    println!("a token of                tape  in RAM  runs     pages  products  matrices      rest");
    let row = |name: &str, token: &Token| {
        let Token { pages, products, rest, tape, pinned, run } = token;
        println!(
            "{name:<24} {tape:>5} {pinned:>7} {run:>5} {pages:>9} {products:>9} {:>9} {rest:>9}",
            token.matrices()
        );
    };
    if let Some(card) = card {
        row("the card", &count(card)?);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    for shape in matrices::SHAPES {
        let [whole, half] = [1.0, 0.5].map(|share| count(&matrices::random_card(shape, share, dir.path())?));
        let (whole, half) = (whole?, half?);
        let name = format!("{} wide, MLP of {}", shape.d_model, shape.d_ff);
        row(&name, &whole);
        row("  half of each matrix", &half);
        let ratio = |all: u64, less: u64| all as f64 / less as f64;
        println!(
            "{:<44} {:>9.2} {:>9.2} {:>9.2}",
            "  ratio",
            ratio(whole.pages, half.pages),
            ratio(whole.products, half.products),
            ratio(whole.matrices(), half.matrices())
        );
    }
    Ok(())
}

/// Prints where the instructions of a token go: those of `/bench`'s first.
fn profile(firmware: &Path, options: &Options<'_>) -> Result<()> {
    let mut emulator = Emulator::start(firmware, options)?;
    emulator.until_prompt()?;
    let (ticks, hertz) = ticks(&emulator.line("/bench")?).context("the firmware has no clock")?;
    let histogram =
        emulator.traced("/bench", |addresses| Histogram::new(addresses, instructions(ticks, hertz)))?;
    let all = histogram.instructions();
    println!("instructions  share  function");
    for (name, count) in histogram.functions(firmware)? {
        let share = count as f64 * 100.0 / all as f64;
        if share >= 0.1 {
            println!("{count:>12} {share:>5.1}%  {name}");
        }
    }
    println!("{all:>12} 100.0%");
    Ok(())
}

/// `N ticks of M Hz per token`.
fn ticks(said: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "ticks")?;
    let number = |word: &str| word.replace(',', "").parse().ok();
    Some((number(words.get(at.checked_sub(1)?)?)?, number(words.get(at + 2)?)?))
}
