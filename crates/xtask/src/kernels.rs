//! The program that checks and measures the kernel for matrices, in the emulator.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::emulator::{Emulator, Options, instructions};
use crate::firmware::Processor;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which kernel agreed with which, and on how much.
    pub agreement: String,
    /// What it counted.
    pub tiles: Vec<Tiles>,
}

/// Instructions for a group of 32 tiles at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Inputs of the matrix.
    pub inputs: u32,
    /// With all of its cells.
    pub all: u64,
    /// With half of them.
    pub half: u64,
}

/// Runs it.
///
/// # Errors
/// If QEMU cannot be run, or the kernel has other results than the one in plain Rust.
pub fn run(program: &Path, processor: Processor) -> Result<Report> {
    let options = Options { processor, counted: true, ..Options::default() };
    let said = Emulator::start(program, &options)?.until_prompt()?;
    let said = String::from_utf8_lossy(&said);
    parse(&said).with_context(|| format!("the program says: {said}"))
}

fn parse(said: &str) -> Result<Report> {
    let mut lines = said.lines();
    let agreement =
        lines.find(|line| line.contains(" agrees with ")).context("the kernels differ")?.to_owned();
    let hertz = lines
        .find_map(|line| line.strip_prefix("ticks of ")?.split(' ').next()?.parse().ok())
        .context("the program has no clock")?;
    let mut tiles = Vec::new();
    for line in lines {
        let Some((inputs, counts)) = line.split_once(" inputs: ") else { continue };
        let (all, half) = counts.split_once(" and ").context("one number instead of two")?;
        let count = |ticks: &str| Ok::<_, anyhow::Error>(instructions(ticks.trim().parse()?, hertz));
        let found = Tiles { inputs: inputs.parse()?, all: count(all)?, half: count(half)? };
        if found.all == 0 || found.half == 0 {
            bail!("the kernels differ for {inputs} inputs");
        }
        tiles.push(found);
    }
    Ok(Report { agreement, tiles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_understood() {
        let said = "5 random groups: `a` agrees with `b`\r\n\r\nticks of 50000000 Hz for 32 tiles\r\n\
            256 inputs: 1600 and 800\r\n64 inputs: 160 and 80\r\n\r\n> ";
        let report = parse(said).unwrap();
        assert_eq!(report.agreement, "5 random groups: `a` agrees with `b`");
        let tiles = [Tiles { inputs: 256, all: 1000, half: 500 }, Tiles { inputs: 64, all: 100, half: 50 }];
        assert_eq!(report.tiles, tiles);
        assert!(parse(&said.replace("agrees with", "differs from")).is_err());
        assert!(parse(&said.replace("and 80\r", "and 0\r")).is_err());
    }
}
