//! `pageformer export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pageformer_card::{Layout, PAGE_BYTES};
use pageformer_model::Model;
use pageformer_toolchain::{export, prune_by_magnitude, write_card};

use super::drafts::{PAGES as DRAFT_PAGES, write_drafts};
use crate::card::CardArg;
use crate::ui::{Progress, bytes, parse_block};

/// Quantizes a model folder to int8 and writes it as a card: a folder with the files to copy to the root of
/// an SD card.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer export model/ -o card/\n  \
    pageformer export model/ -o card/ --layout files       # a file a page, to look at and to diff\n  \
    pageformer export model/ -o card/ --density 0.5 --block 8x8\n  \
    pageformer export model/ -o card/ --drafts stories.txt --separator '<|endoftext|>'\n\n\
    Pruning here is one-shot, by magnitude: it costs much quality. Cells that are zero already,\n\
    because the model was pruned before, are left out at any density.")]
pub struct Export {
    /// The model folder: config.json, model.safetensors, tokenizer.json
    model: PathBuf,
    /// The card to write; a card that is there is replaced
    #[arg(short, long)]
    output: PathBuf,
    /// packed: one file, fast. files: one file a page
    #[arg(long, value_enum, default_value = "packed")]
    layout: LayoutArg,
    /// Share of all weights (the embedding, which is never pruned, included) that is kept
    #[arg(long, default_value_t = 1.0)]
    density: f64,
    /// Blocks that are pruned together: outputs x inputs, multiples of 4
    #[arg(long, value_name = "RxC", default_value = "4x4", value_parser = parse_block)]
    block: (u32, u32),
    /// Texts that the model was trained on, to make drafts.bin from: see `pageformer drafts`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    drafts: Vec<PathBuf>,
    /// What stands between these texts; without it, a file is one
    #[arg(long, default_value = "", hide_default_value = true, requires = "drafts")]
    separator: String,
    /// The model's name, for people [default: the model folder's]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutArg {
    Packed,
    Files,
}

impl Export {
    pub fn run(self) -> Result<()> {
        // Before anything is written.
        for text in &self.drafts {
            text.metadata().with_context(|| text.display().to_string())?;
        }
        let (mut model, tokenizer) = Model::load(&self.model)?;
        if self.density != 1.0 {
            let density = prune_by_magnitude(&mut model, self.density, self.block)?;
            println!(
                "pruned: {:.1} % of all cells kept, {:.1} % of those that may be pruned",
                100.0 * density.cells,
                100.0 * density.prunable
            );
        }
        let layout = match self.layout {
            LayoutArg::Packed => Layout::Packed,
            LayoutArg::Files => Layout::Files,
        };
        let folder = self.model.canonicalize().ok();
        let folder =
            folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let name = self.name.or(folder).unwrap_or_else(|| "model".into());
        // What a serial terminal shows, and what the card has room for.
        let name: String = name.chars().filter(char::is_ascii).take(48).collect();
        let card = export(&model, &tokenizer, layout, self.block, &name, "pageformer export")?;
        let mut progress = Progress::new("writing");
        write_card(&card, &self.output, &mut |done, all| progress.set(done, all))?;
        drop(progress);
        let (tape, all) =
            (u64::from(card.manifest.tape_pages), card.files.iter().map(|f| f.bytes.len() as u64).sum());
        println!(
            "{}: {} files, {}; the tape has {tape} pages ({}), density {:.3}",
            self.output.display(),
            card.files.len(),
            bytes(all),
            bytes(tape * PAGE_BYTES as u64),
            card.manifest.density
        );
        if !self.drafts.is_empty() {
            let card = CardArg { path: Some(self.output.clone()) };
            write_drafts(&card, &self.drafts, &self.separator, DRAFT_PAGES)?;
        } else {
            println!(
                "tip: `pageformer drafts {} --data TEXTS`, with what the model was trained on, lets boards that wait for their card say several tokens a pass",
                self.output.display()
            );
        }
        match model.chat {
            Some(_) => println!("next: pageformer chat {}", self.output.display()),
            None => println!("next: pageformer run {} --prompt 'Once upon a time'", self.output.display()),
        }
        Ok(())
    }
}
