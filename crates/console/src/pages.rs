//! The page debugger: what is known of single pages.

use core::fmt::{self, Write};

use pageformer_engine::Engine;
use pageformer_vram::Card;

use crate::report::Grouped;

/// What `H` prints.
pub(crate) const HELP: &str = "\
S    all pages: how many, loaded, in RAM, bad
P n  page n of the weights: tensor, checksum, loads, retries, writes, tag, in RAM or not
R    forget what is known of the pages
H    this
Q    back to the chat (or Ctrl-C)
";

/// A key of the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKey {
    Status,
    Page(u32),
    Reset,
    Help,
    Quit,
    Unknown,
}

impl PageKey {
    /// Parses a line; upper and lower case are the same.
    pub fn parse(line: &str) -> Self {
        let mut rest = line.chars();
        let key = rest.next().map(|c| c.to_ascii_uppercase());
        let rest = rest.as_str().trim();
        match (key, rest) {
            (Some('S'), "") => Self::Status,
            (Some('P'), number) => number.parse().map_or(Self::Unknown, Self::Page),
            (Some('R'), "") => Self::Reset,
            (Some('H' | '?'), "") => Self::Help,
            (Some('Q'), "") | (None, _) => Self::Quit,
            _ => Self::Unknown,
        }
    }
}

/// What `S` prints.
pub(crate) fn status<C: Card>(engine: &Engine<'_, C>, out: &mut dyn Write) -> fmt::Result {
    let (vram, pages) = (engine.vram(), engine.table().pages());
    let pinning = vram.pinning();
    writeln!(out, "{pages} pages, {} of them on the tape, {} in RAM for good", pinning.tape, pinning.pinned)?;
    if vram.meta(0).is_none() {
        return writeln!(out, "too little RAM to keep more about them (4 B a page)");
    }
    let (mut loaded, mut loads, mut retries, mut bad) = (0u32, 0u64, 0u64, 0u32);
    for meta in (0..pages).filter_map(|page| vram.meta(page)) {
        loaded += u32::from(meta.loads > 0);
        loads += u64::from(meta.loads);
        retries += u64::from(meta.retries);
        bad += u32::from(meta.bad());
    }
    writeln!(out, "{loaded} loaded, {} loads, {retries} retries, {bad} bad", Grouped(loads))
}

/// What `P n` prints.
pub(crate) fn page<C: Card>(engine: &Engine<'_, C>, page: u32, out: &mut dyn Write) -> fmt::Result {
    let (vram, pages) = (engine.vram(), engine.table().pages());
    let Some((tensor, within)) = engine.table().locate(page) else {
        return writeln!(out, "there is no page {page}: they are numbered 0 to {}", pages.saturating_sub(1));
    };
    let of = engine.table().pages_of(tensor).len();
    writeln!(out, "page {page}: {tensor}, page {within} of {of}")?;
    writeln!(out, "in RAM:   {}", if vram.resident(page) { "yes, for good" } else { "while it streams by" })?;
    let Some(meta) = vram.meta(page) else {
        return writeln!(out, "too little RAM to keep more about it");
    };
    let sum = match (meta.bad(), meta.checked()) {
        (true, _) => "wrong when it was last read",
        (_, true) => "right",
        _ => "not read yet",
    };
    writeln!(out, "checksum: {sum}")?;
    writeln!(out, "loads:    {}{}", meta.loads, if meta.loads == u16::MAX { " or more" } else { "" })?;
    writeln!(out, "retries:  {}", meta.retries)?;
    // Weights are read, never written.
    writeln!(out, "writes:   0")?;
    writeln!(out, "tag:      {}", meta.tag())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_either_case() {
        let keys = [
            ("S", PageKey::Status),
            ("p 12", PageKey::Page(12)),
            ("P12", PageKey::Page(12)),
            ("P", PageKey::Unknown),
            ("P -1", PageKey::Unknown),
            ("r", PageKey::Reset),
            ("H", PageKey::Help),
            ("", PageKey::Quit),
            ("status", PageKey::Unknown),
        ];
        for (line, key) in keys {
            assert_eq!(PageKey::parse(line), key, "{line}");
        }
    }
}
