//! `pageformer verify`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pageformer_card::drafts::{DraftTable, is_whole};
use pageformer_card::meta::MetaLayout;
use pageformer_card::page::{checksum, f32_at, u32_at};
use pageformer_card::sums::SumLayout;
use pageformer_card::tensor::group_cells;
use pageformer_card::tokenizer::TokenizerHeader;
use pageformer_card::{CELLS_PER_PAGE, PAGE_BYTES, Page, Tensor, TensorKind, TileRecord};
use pageformer_sim::{HostCard, Opened};
use pageformer_vram::{Arena, Card, CardFile, read_meta};
use serde_json::json;

use crate::card::{CardArg, file_name, torn};
use crate::session::buffer;
use crate::ui::Progress;

/// Checks every checksum, shape and offset of a card, and says which pages of which tensors are bad. The exit
/// code is 1 if any is.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  pageformer verify card/\n  pageformer verify /dev/sdX      # a whole card, read only"
)]
pub struct Verify {
    #[command(flatten)]
    card: CardArg,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// A finding.
struct Problem {
    place: String,
    what: String,
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let mut memory = buffer(64 << 20);
        let mut opened = self.card.open(&mut Arena::new(&mut memory))?;
        let mut check = Check { problems: Vec::new(), checked: 0 };
        check.card(&mut opened);
        if self.json {
            let problems: Vec<_> =
                check.problems.iter().map(|p| json!({ "place": p.place, "problem": p.what })).collect();
            println!(
                "{:#}",
                json!({ "ok": problems.is_empty(), "pages": check.checked, "problems": problems })
            );
        } else {
            for problem in &check.problems {
                println!("{}: {}", problem.place, problem.what);
            }
            match check.problems.len() {
                0 => println!(
                    "{}: good; {} pages checked, every checksum, shape and offset is right",
                    self.card.name(),
                    check.checked
                ),
                n => println!(
                    "{}: {n} problem{}; export the card again, or copy its files again",
                    self.card.name(),
                    if n == 1 { "" } else { "s" }
                ),
            }
        }
        Ok(if check.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

struct Check {
    problems: Vec<Problem>,
    checked: u64,
}

impl Check {
    fn problem(&mut self, place: impl ToString, what: impl ToString) {
        self.problems.push(Problem { place: place.to_string(), what: what.to_string() });
    }

    fn card(&mut self, opened: &mut Opened<'_>) {
        let torn = torn(opened);
        let Opened { card, manifest, table } = opened;
        let sums = SumLayout { weights_pages: table.pages(), tokenizer_pages: manifest.tokenizer_pages };
        let page_of_weights = |number: u32| {
            table.locate(number).map_or(format!("weights, page {number}"), |(tensor, page)| {
                format!("{tensor}, page {page} (page {number} of the weights)")
            })
        };
        for (file, found, expected) in torn {
            let cut = match file {
                CardFile::Weights if found < expected => {
                    format!("; missing from {} on", page_of_weights((found / PAGE_BYTES as u64) as u32))
                }
                _ => String::new(),
            };
            let what = format!("{found} bytes where index.json asks for {expected}{cut}");
            self.problem(file_name(file, manifest.layout), what);
        }
        let Some(known) = self.read_all(card, CardFile::Sums, sums.pages()) else { return };
        // Where the file of checksums is cut off, there is none to compare with.
        let sum = |number: u32| {
            let (page, at) = SumLayout::place(number);
            known.get(page as usize).map(|page| u32_at(page, at))
        };

        let index_pages = card.bytes(CardFile::Index).div_ceil(PAGE_BYTES as u64) as u32;
        if let Some(index) = self.read_all(card, CardFile::Index, index_pages) {
            let bytes = &index.as_flattened()[..card.bytes(CardFile::Index) as usize];
            if sum(sums.of_index()).is_some_and(|sum| sum != checksum(bytes)) {
                self.problem("index.json", "the checksum is wrong: changed after the export");
            }
        }
        if let Some(pages) = self.read_all(card, CardFile::Tokenizer, sums.tokenizer_pages) {
            for (number, page) in (0..).zip(&pages) {
                if sum(sums.of_tokenizer(number)).is_some_and(|sum| sum != checksum(page)) {
                    self.problem(format!("tokenizer.bin, page {number}"), "the checksum is wrong");
                }
            }
            let header =
                pages.first().map(|p| TokenizerHeader::read(p, sums.tokenizer_pages, manifest.shape.vocab));
            if let Some(Err(error)) = header {
                self.problem("tokenizer.bin", error);
            }
        }
        self.metadata(card, sums.weights_pages);
        self.drafts(card, manifest.shape.vocab);
        let Some(weights) = self.read_all(card, CardFile::Weights, sums.weights_pages) else { return };
        for (number, page) in (0..).zip(&weights) {
            if sum(sums.of_weights(number)).is_some_and(|sum| sum != checksum(page)) {
                self.problem(page_of_weights(number), "the checksum is wrong");
            }
        }
        for tensor in table.shape().iter_tensors() {
            let range = table.pages_of(tensor);
            if let Some(pages) = weights.get(range.start as usize..range.end as usize) {
                self.tensor(tensor, table.shape().kind(tensor), pages);
            }
        }
    }

    /// Whether `pages.meta`, which a card need not have, is one of this card and has a slot that is whole.
    fn metadata(&mut self, card: &mut HostCard<'_>, weights_pages: u32) {
        let (layout, found) = (MetaLayout { records: weights_pages }, card.bytes(CardFile::Meta));
        if found == 0 {
            return;
        }
        if !layout.is_size(found) {
            let expected = u64::from(layout.pages()) * PAGE_BYTES as u64;
            let what = format!("{found} bytes where {weights_pages} pages of weights ask for {expected}");
            return self.problem("pages.meta", what);
        }
        self.checked += u64::from(layout.pages());
        if read_meta(card, &mut vec![0; weights_pages as usize], &mut [0; PAGE_BYTES]).is_none() {
            self.problem("pages.meta", "neither of its two slots is whole");
        }
    }

    /// The table of drafts, if there is one.
    fn drafts(&mut self, card: &mut HostCard<'_>, vocab: u32) {
        let found = card.bytes(CardFile::Drafts);
        let pages = (found / PAGE_BYTES as u64) as u32;
        if found == 0 {
            return;
        }
        if !found.is_multiple_of(PAGE_BYTES as u64) {
            self.problem(CardFile::Drafts, format!("{found} bytes are not whole pages"));
        }
        let Some(all) = self.read_all(card, CardFile::Drafts, pages) else { return };
        for (number, page) in (0..).zip(&all) {
            if !is_whole(page) {
                self.problem(format!("drafts.bin, page {number}"), "the checksum is wrong");
            } else if let Err(error) = DraftTable::read(page, pages, vocab) {
                self.problem(format!("drafts.bin, page {number}"), error);
            }
        }
    }

    /// Reads `pages` pages of a file, or as many as it has; one that cannot be read is a problem, and then there is no file.
    fn read_all(&mut self, card: &mut HostCard<'_>, file: CardFile, pages: u32) -> Option<Vec<Page>> {
        const RUN: usize = 64;
        let mut progress = Progress::new("reading");
        // Only the index ends within a page.
        let whole = match file {
            CardFile::Index => pages,
            _ => pages.min((card.bytes(file) / PAGE_BYTES as u64) as u32),
        };
        let mut all = vec![[0; PAGE_BYTES]; whole as usize];
        for (number, run) in all.chunks_mut(RUN).enumerate() {
            let first = (number * RUN) as u32;
            if let Err(error) = card.read(file, first, run) {
                // Which of them it is, if it is one.
                let bad = (first..).zip(&mut *run).find_map(|(number, page)| {
                    card.read(file, number, std::slice::from_mut(page)).err().map(|error| (number, error))
                });
                let (number, error) = bad.unwrap_or((first, error));
                self.problem(format!("{file}, page {number}"), error);
                return None;
            }
            self.checked += run.len() as u64;
            progress.set(u64::from(first), u64::from(pages));
        }
        Some(all)
    }

    /// Whether the pages of a tensor have its shape and finite numbers.
    fn tensor(&mut self, tensor: Tensor, kind: TensorKind, pages: &[Page]) {
        match kind {
            TensorKind::Vector { len } => {
                let value = |i: usize| f32_at(&pages[i / 128], i % 128);
                if let Some(bad) = (0..len as usize).find(|i| !value(*i).is_finite()) {
                    self.problem(tensor, format!("value {bad} is not a finite number"));
                }
            }
            TensorKind::Matrix { dims, prunable } => {
                let mut page = 0;
                for group in 0..dims.groups() {
                    let Some(mask_page) = pages.get(page) else {
                        return self.problem(tensor, "ends before its last mask page");
                    };
                    match group_cells(&dims, group, mask_page) {
                        Err(record) => {
                            let what = format!("record {record} keeps cells beyond the matrix's width");
                            return self.problem(format!("{tensor}, page {page}"), what);
                        }
                        Ok(cells)
                            if !prunable
                                && cells.div_ceil(CELLS_PER_PAGE as u32) != dims.dense_cell_pages(group) =>
                        {
                            return self.problem(
                                format!("{tensor}, page {page}"),
                                "cells are missing, but it is never pruned",
                            );
                        }
                        Ok(cells) => {
                            for record in 0..dims.tiles_in_group(group) as usize {
                                let scales = TileRecord::read(mask_page, record).scales_f32();
                                if !scales.iter().all(|s| s.is_finite() && *s >= 0.0) {
                                    let what =
                                        format!("record {record} has a scale that is negative or not finite");
                                    self.problem(format!("{tensor}, page {page}"), what);
                                }
                            }
                            page += 1 + cells.div_ceil(CELLS_PER_PAGE as u32) as usize;
                        }
                    }
                }
                if page != pages.len() {
                    let what = format!("its masks ask for {page} pages, index.json for {}", pages.len());
                    self.problem(tensor, what);
                }
            }
        }
    }
}
