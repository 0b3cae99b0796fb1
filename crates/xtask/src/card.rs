//! Cards as images.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pageformer_card::{Layout, PageFile};
use pageformer_image::{FileSource, Options, write_image};
use pageformer_sim::open;
use pageformer_vram::Arena;

use crate::root;

/// Memory for the tables of the largest card, in words of 8 bytes.
const TABLES: usize = 8 << 20;

/// The image of a card: `card` itself if it is one, otherwise written to `out` from the card's folder.
///
/// # Errors
/// If there is no card.
pub fn image(card: &Path, out: &Path) -> Result<PathBuf> {
    if !card.is_dir() {
        if !card.exists() {
            bail!("{}: no such file or folder", card.display());
        }
        return Ok(card.to_owned());
    }
    let files = files(card)?.into_iter().map(|name| {
        let path = card.join(&name);
        (name, FileSource::Path(path))
    });
    write_image(&files.collect::<Vec<_>>(), out, &Options::default(), &mut |_, _| {})?;
    Ok(out.to_owned())
}

/// The names of a card's files in the order in which the device reads them.
///
/// # Errors
/// If the folder is not a card.
pub fn files(dir: &Path) -> Result<Vec<String>> {
    let mut memory = vec![0; TABLES];
    let opened = open(dir, &mut Arena::new(&mut memory))?;
    let mut names: Vec<String> = ["index.json", "pages.crc", "tokenizer.bin"].map(String::from).into();
    match opened.card.page_files() {
        None => names.push("weights.pages".into()),
        Some(pages) => {
            // A mask file holds all masks of its matrix: it goes before the first cells.
            let mut seen = HashSet::new();
            names.extend(pages.map(PageFile::to_string).filter(|name| seen.insert(name.clone())));
        }
    }
    Ok(names)
}

/// A card to try things with, in `dir`: the checkpoint `stories260K`, if the test data is there.
///
/// # Errors
/// If it cannot be written.
pub fn stories(dir: &Path, layout: Layout) -> Result<Option<PathBuf>> {
    let data = root().join("../shared/data");
    let (checkpoint, tokenizer) = (data.join("stories260K.bin"), data.join("tok512.bin"));
    if !checkpoint.exists() {
        return Ok(None);
    }
    let (model, tokenizer) = pageformer_import::llama2c(&checkpoint, &tokenizer)?;
    let card =
        pageformer_toolchain::export(&model, &tokenizer, layout, (4, 4), "stories260K", "stories260K.bin")?;
    let dir = dir.join(match layout {
        Layout::Packed => "stories260K-packed",
        Layout::Files => "stories260K-files",
    });
    pageformer_toolchain::write_card(&card, &dir, &mut |_, _| {})
        .with_context(|| dir.display().to_string())?;
    Ok(Some(dir))
}
