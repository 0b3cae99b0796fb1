//! Cards as images.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pageformer_card::tensor::group_cells;
use pageformer_card::writer::{meta_pages, sum_pages, to_pages};
use pageformer_card::{CELLS_PER_PAGE, Layout, PageFile, TensorKind};
use pageformer_image::{FileSource, Options, write_image};
use pageformer_sim::open;
use pageformer_vram::{Arena, Card, CardFile};

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
    // Cards of before there was one do without.
    if dir.join("pages.meta").exists() {
        names.push("pages.meta".into());
    }
    if opened.card.bytes(CardFile::Drafts) > 0 {
        names.push("drafts.bin".into());
    }
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

/// The default model's card, in the layout `packed`.
pub fn default_card() -> PathBuf {
    root().join("models/chat/card")
}

/// Writes the pages of a packed card to `dir`, each to a file of its own: the layout `files`.
///
/// # Errors
/// If it is no card, or cannot be written.
pub fn page_by_page(packed: &Path, dir: &Path) -> Result<PathBuf> {
    let mut memory = vec![0; TABLES];
    let opened = open(packed, &mut Arena::new(&mut memory))?;
    if opened.manifest.layout != Layout::Packed {
        bail!("{}: its layout is not `packed`", packed.display());
    }
    let read = |name: &str| {
        let path = packed.join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    };
    let index = String::from_utf8(read("index.json")?)?;
    let index = index.replacen("\"layout\": \"packed\"", "\"layout\": \"files\"", 1);
    let (weights, tokenizer) = (to_pages(&read("weights.pages")?), to_pages(&read("tokenizer.bin")?));
    fs::create_dir_all(dir)?;
    fs::write(dir.join("index.json"), &index)?;
    fs::write(dir.join("tokenizer.bin"), tokenizer.concat())?;
    fs::write(dir.join("pages.meta"), meta_pages(weights.len() as u32).concat())?;
    if let Ok(drafts) = read("drafts.bin") {
        fs::write(dir.join("drafts.bin"), drafts)?;
    }
    fs::write(dir.join("pages.crc"), sum_pages(&weights, &tokenizer, index.as_bytes()).concat())?;
    let shape = &opened.manifest.shape;
    for tensor in shape.iter_tensors() {
        let range = opened.table.pages_of(tensor);
        let mut pages =
            weights.get(range.start as usize..range.end as usize).context("too few pages")?.iter();
        let TensorKind::Matrix { dims, .. } = shape.kind(tensor) else {
            fs::write(dir.join(PageFile::Vector(tensor).to_string()), pages.as_slice().concat())?;
            continue;
        };
        let (mut masks, mut number) = (Vec::new(), 0);
        for group in 0..dims.groups() {
            let mask_page = pages.next().context("too few pages")?;
            masks.extend_from_slice(mask_page);
            let Ok(cells) = group_cells(&dims, group, mask_page) else { bail!("{tensor}: damaged masks") };
            for page in pages.by_ref().take(cells.div_ceil(CELLS_PER_PAGE as u32) as usize) {
                fs::write(dir.join(PageFile::Cells(tensor, number).to_string()), page)?;
                number += 1;
            }
        }
        fs::write(dir.join(PageFile::Masks(tensor).to_string()), masks)?;
    }
    Ok(dir.to_owned())
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
