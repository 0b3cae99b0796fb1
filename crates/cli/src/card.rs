//! The card of a command: a folder, an image, or the model that ships with the program.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use pageformer_card::sums::SumLayout;
use pageformer_card::{Layout, PAGE_BYTES};
use pageformer_sim::{MemoryCard, Opened, open, open_memory};
use pageformer_vram::{Arena, Card, CardFile};

/// The files of the default model's card, in the program itself so that it needs nothing else.
pub const DEFAULT_FILES: [(&str, &[u8]); 6] = [
    ("index.json", include_bytes!("../../../models/chat/card/index.json")),
    ("pages.crc", include_bytes!("../../../models/chat/card/pages.crc")),
    ("tokenizer.bin", include_bytes!("../../../models/chat/card/tokenizer.bin")),
    ("drafts.bin", include_bytes!("../../../models/chat/card/drafts.bin")),
    ("pages.meta", include_bytes!("../../../models/chat/card/pages.meta")),
    ("weights.pages", include_bytes!("../../../models/chat/card/weights.pages")),
];

/// RAM for the default model: a board with 64 KB of SRAM, with 16 KB of it left for the stack and the rest.
const DEFAULT_RAM: usize = 48 << 10;
/// RAM for other cards: what an ESP32-S3 can give.
const OTHER_RAM: usize = 256 << 10;

/// A card, named or not.
#[derive(Args, Clone, Default)]
pub struct CardArg {
    /// The card: a folder or an image [default: the chat model that ships with this program]
    #[arg(value_name = "CARD")]
    pub path: Option<PathBuf>,
}

impl CardArg {
    /// Opens the card.
    pub fn open<'m>(&self, arena: &mut Arena<'m>) -> Result<Opened<'m>> {
        Ok(match &self.path {
            Some(path) => open(path, arena)?,
            None => open_memory(MemoryCard::from_files(DEFAULT_FILES), arena)?,
        })
    }

    /// What to call it.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or("the default model".into(), |path| path.display().to_string())
    }

    /// What programs call it.
    pub fn id(&self) -> String {
        self.path.as_ref().map_or("default model".into(), |path| path.display().to_string())
    }

    /// RAM where none is given.
    pub fn default_ram(&self) -> usize {
        if self.path.is_some() { OTHER_RAM } else { DEFAULT_RAM }
    }
}

/// What a file of a card is called; in the layout `files`, the weights are many.
pub fn file_name(file: CardFile, layout: Layout) -> String {
    match (file, layout) {
        (CardFile::Weights, Layout::Packed) => "weights.pages".into(),
        (file, _) => file.to_string(),
    }
}

/// Files whose length is not what `index.json` asks for, with their bytes and those that it asks for.
pub fn torn(opened: &Opened<'_>) -> Vec<(CardFile, u64, u64)> {
    let Opened { card, manifest, table } = opened;
    let sums = SumLayout { weights_pages: table.pages(), tokenizer_pages: manifest.tokenizer_pages };
    let files = [
        (CardFile::Weights, sums.weights_pages),
        (CardFile::Sums, sums.pages()),
        (CardFile::Tokenizer, sums.tokenizer_pages),
    ];
    let lengths = files.map(|(file, pages)| (file, card.bytes(file), u64::from(pages) * PAGE_BYTES as u64));
    lengths.into_iter().filter(|(_, found, expected)| found != expected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageformer_card::writer::meta_pages;

    #[test]
    fn the_default_card_is_as_exported_and_small() {
        let mut memory = vec![0; 1 << 16];
        let opened = CardArg::default().open(&mut Arena::new(&mut memory)).unwrap();
        let [.., (name, meta), _] = DEFAULT_FILES;
        assert_eq!((name, meta), ("pages.meta", meta_pages(opened.table.pages()).as_flattened()));
        assert!(DEFAULT_FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 512 << 10);
    }
}
