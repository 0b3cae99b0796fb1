//! Where the instructions of a token go, function by function.
//!
//! QEMU executes one instruction at a time and writes down where; the addresses are counted and looked up in the
//! firmware's debug information, inlined functions included.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

/// How often each address was executed.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: HashMap<u64, u64>,
}

impl Histogram {
    /// Counts the first `most` of some addresses.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn new(addresses: impl Iterator<Item = Result<u64>>, most: u64) -> Result<Self> {
        let mut histogram = Self::default();
        for address in addresses.take(most as usize) {
            *histogram.counts.entry(address?).or_default() += 1;
        }
        Ok(histogram)
    }

    /// Instructions in all.
    pub fn instructions(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Instructions of each function of `elf`, the most first.
    ///
    /// # Errors
    /// If it has no debug information.
    pub fn functions(&self, elf: &Path) -> Result<Vec<(String, u64)>> {
        let loader = Loader::new(elf).map_err(|e| anyhow!("{}: {e}", elf.display()))?;
        let mut functions: HashMap<String, u64> = HashMap::new();
        for (address, count) in &self.counts {
            *functions.entry(function(&loader, *address)).or_default() += count;
        }
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(functions)
    }
}

/// The addresses of instructions, one after the other, in QEMU's `-d exec`:
/// `Trace 0: 0x7f58b4000100 [00000000/000004c1/00000104/00000001] function`, the address second.
pub struct Addresses<R> {
    log: BufReader<R>,
    line: Vec<u8>,
    before: Option<u64>,
}

impl<R: Read> Addresses<R> {
    /// Those of a log.
    pub fn new(log: R) -> Self {
        Self { log: BufReader::with_capacity(1 << 20, log), line: Vec::new(), before: None }
    }
}

impl<R: Read> Iterator for Addresses<R> {
    type Item = Result<u64>;

    fn next(&mut self) -> Option<Result<u64>> {
        loop {
            self.line.clear();
            match self.log.read_until(b'\n', &mut self.line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error.into())),
            }
            let here = address(&self.line);
            let is_new = here != self.before;
            self.before = here.or(self.before);
            // When time is counted, an access to a device is begun a second time, and written down twice.
            if let Some(address) = here.filter(|_| is_new) {
                return Some(Ok(address));
            }
        }
    }
}

/// The address of a line of the log.
fn address(line: &[u8]) -> Option<u64> {
    let fields = line.strip_prefix(b"Trace ")?.split(|byte| *byte == b'[').nth(1)?;
    let address = fields.split(|byte| *byte == b'/').nth(1)?;
    u64::from_str_radix(std::str::from_utf8(address).ok()?, 16).ok()
}

/// The innermost function at `address` that is not of `core`, behind its file. Of what the compiler adds, such as
/// arithmetic in software, the outermost.
fn function(loader: &Loader, address: u64) -> String {
    let mut frames = Vec::new();
    if let Ok(mut found) = loader.find_frames(address) {
        while let Ok(Some(frame)) = found.next() {
            let file = frame.location.and_then(|location| location.file).unwrap_or_default().to_owned();
            let name = frame.function.map(|name| name.demangle().map(|name| name.into_owned()));
            if let Some(Ok(name)) = name {
                frames.push((file, name.split('<').next().unwrap_or(&name).to_owned()));
            }
        }
    }
    let added = frames.last().filter(|(file, _)| file.contains("compiler-builtins"));
    let ours = frames.iter().find(|(file, _)| !file.contains("/library/"));
    match added.or(ours).or(frames.last()) {
        Some((file, name)) => format!("{name}  {}", short(file)),
        None => loader.find_symbol(address).unwrap_or("?").to_owned(),
    }
}

/// A path from the name of its crate on.
fn short(file: &str) -> &str {
    let crates = ["/crates/", "/firmware/", "/library/", "/registry/src/"];
    let from = crates.iter().find_map(|folder| Some(file.find(folder)? + folder.len())).unwrap_or(0);
    let rest = &file[from..];
    match file.contains("/registry/src/") {
        true => rest.split_once('/').map_or(rest, |(_, rest)| rest),
        false => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_lines_that_say_where() {
        let log = b"Trace 0: 0x7f58b4000100 [00000000/000004c0/00000104/00000001] step\nIN: step\n\
            Trace 0: 0x7f58b4000200 [00000000/000004c2/00000104/00000001] \n\
            Trace 0: 0x7f58b4000200 [00000000/000004c2/00000104/00000001] \n\
            Trace 0: 0x7f58b4000100 [00000000/000004c0/00000104/00000001] step\n";
        let histogram = Histogram::new(Addresses::new(&log[..]), 3).unwrap();
        assert_eq!(histogram.instructions(), 3);
        assert_eq!(histogram.counts[&0x4c0], 2);
        assert_eq!(histogram.counts[&0x4c2], 1);
    }
}
