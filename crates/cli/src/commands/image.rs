//! `pageformer image`.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_card::PageFile;
use pageformer_image::{FileSource, Options, write_image};
use pageformer_sim::open;
use pageformer_vram::{Arena, Card, CardFile};

use crate::card::DEFAULT_FILES;
use crate::session::buffer;
use crate::ui::{Progress, bytes};

/// Writes a card's folder as an SD card image: a partition table and a FAT32 volume, every file in one piece.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer image card/ -o card.img\n  \
    sudo dd if=card.img of=/dev/sdX bs=1M conv=fsync    # onto a real card: mind the X\n\n\
    Such an image is also what QEMU takes, and what `pageformer run` and `chat` mount as a board would.")]
pub struct Image {
    /// The card's folder [default: the chat model that ships with this program]
    #[arg(value_name = "CARD")]
    card: Option<PathBuf>,
    /// The image to write
    #[arg(short, long)]
    output: PathBuf,
}

impl Image {
    pub fn run(self) -> Result<()> {
        let files = match &self.card {
            Some(dir) if dir.is_dir() => files(dir)?,
            Some(other) => {
                bail!("{}: not a folder; give the folder that `pageformer export` wrote", other.display())
            }
            None => {
                DEFAULT_FILES.map(|(name, bytes)| (name.into(), FileSource::Bytes(bytes.to_vec()))).into()
            }
        };
        let mut progress = Progress::new("writing");
        let report =
            write_image(&files, &self.output, &Options::default(), &mut |done, all| progress.set(done, all))?;
        drop(progress);
        println!(
            "{}: {}, FAT32 with clusters of {} B; {} files, {}",
            self.output.display(),
            bytes(report.image_bytes),
            report.cluster_bytes,
            report.files,
            bytes(report.file_bytes)
        );
        println!("next: pageformer run {}, or write it to a card with dd", self.output.display());
        Ok(())
    }
}

/// The files of a card in the order in which the device reads them: pages in tape order, so that neighbours on
/// the tape are neighbours on the card.
fn files(dir: &std::path::Path) -> Result<Vec<(String, FileSource)>> {
    // Opening checks that the files belong together. The tables of the largest card take a few MB.
    let mut memory = buffer(64 << 20);
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
    let source = |name: String| {
        let path = dir.join(&name);
        fs::metadata(&path).with_context(|| path.display().to_string())?;
        Ok((name, FileSource::Path(path)))
    };
    names.into_iter().map(source).collect()
}
