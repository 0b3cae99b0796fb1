//! The page debugger: what is known of single pages.

use core::fmt::{self, Write};

use pageformer_engine::Engine;
use pageformer_vram::{Card, Vram};

use crate::report::Grouped;

/// What `H` prints.
pub(crate) const HELP: &str = "\
S      all pages: how many, loaded, in RAM, bad
P n    page n of the weights: tensor, checksum, loads, retries, writes, tag, in RAM or not
T n t  give page n the tag t, 0 to 15
W      write what is known of the pages to pages.meta on the card
R      forget it, there too
H      this
Q      back to the chat (or Ctrl-C)
";

/// A key of the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKey {
    Status,
    Page(u32),
    Tag(u32, u8),
    Write,
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
        let rest = rest.as_str().trim_ascii();
        match (key, rest) {
            (Some('S'), "") => Self::Status,
            (Some('P'), number) => number.parse().map_or(Self::Unknown, Self::Page),
            (Some('T'), numbers) => {
                match numbers.split_once(' ').map(|(n, t)| (n.parse(), t.trim_ascii().parse())) {
                    Some((Ok(page), Ok(tag @ 0..16))) => Self::Tag(page, tag),
                    _ => Self::Unknown,
                }
            }
            (Some('W'), "") => Self::Write,
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
    let (mut loaded, mut loads, mut retries, mut bad, mut tagged) = (0u32, 0u64, 0u64, 0u32, 0u32);
    for meta in (0..pages).filter_map(|page| vram.meta(page)) {
        loaded += u32::from(meta.loads > 0);
        loads += u64::from(meta.loads);
        retries += u64::from(meta.retries);
        bad += u32::from(meta.bad());
        tagged += u32::from(meta.tag() > 0);
    }
    writeln!(
        out,
        "{loaded} loaded, {} loads, {retries} retries, {bad} bad, {tagged} tagged",
        Grouped(loads)
    )?;
    match vram.meta_writes() {
        Some(writes) => writeln!(out, "pages.meta: written {writes} times since the export"),
        None => writeln!(out, "that is kept in RAM only: the card has no sound pages.meta"),
    }
}

/// Writes what is known of the pages to the card, and says so.
pub(crate) fn save<C: Card>(vram: &mut Vram<'_, C>, out: &mut dyn Write) -> fmt::Result {
    match vram.save_meta() {
        Ok(writes) => writeln!(out, "written to pages.meta (write {writes} since the export)"),
        Err(error) => writeln!(out, "in RAM only: {error}"),
    }
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
    // Weights are read, never written; what is known of them is.
    writeln!(out, "writes:   0; of its record {}", vram.meta_writes().unwrap_or(0))?;
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
            ("t 7 15", PageKey::Tag(7, 15)),
            ("T 7 16", PageKey::Unknown),
            ("T 7", PageKey::Unknown),
            ("w", PageKey::Write),
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
