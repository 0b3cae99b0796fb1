//! Cards to be put in.

use std::path::{Path, PathBuf};

use pageformer_card::{Layout, Mlp, Norm, Shape};
use pageformer_fat32::FatKind;
use pageformer_image::{FileSource, write_image};
use pageformer_model::{Model, Tokenizer};
use pageformer_toolchain::{export, fill_randomly, write_card};
use tempfile::TempDir;
use xtask::card;

/// A card in a folder, and a place for its image.
pub struct TestCard {
    pub dir: TempDir,
    pub folder: PathBuf,
}

impl TestCard {
    /// Its files, to be spoiled.
    pub fn files(&self) -> Vec<(String, FileSource)> {
        let read = |name: String| {
            let bytes = std::fs::read(self.folder.join(&name)).unwrap();
            (name, FileSource::Bytes(bytes))
        };
        card::files(&self.folder).unwrap().into_iter().map(read).collect()
    }

    /// An image of it.
    pub fn image(&self) -> PathBuf {
        image(self.dir.path(), &self.files(), FatKind::Fat32)
    }
}

pub fn image(dir: &Path, files: &[(String, FileSource)], kind: FatKind) -> PathBuf {
    let image = dir.join("card.img");
    let options = pageformer_image::Options { kind, ..Default::default() };
    write_image(files, &image, &options, &mut |_, _| {}).unwrap();
    image
}

/// The default model.
pub fn chat(layout: Layout) -> TestCard {
    let dir = tempfile::tempdir().unwrap();
    let packed = card::default_card();
    let folder = match layout {
        Layout::Packed => packed,
        Layout::Files => card::page_by_page(&packed, &dir.path().join("card")).unwrap(),
    };
    TestCard { dir, folder }
}

/// `stories260K`, if the test data is here.
pub fn stories(layout: Layout) -> Option<TestCard> {
    let dir = tempfile::tempdir().unwrap();
    let folder = card::stories(dir.path(), layout).unwrap();
    if folder.is_none() {
        eprintln!("skipped: the test data is not here");
    }
    Some(TestCard { folder: folder?, dir })
}

/// The shape of the sketch that this project started from, with random weights.
pub fn sketch(layout: Layout) -> TestCard {
    random("sketch", SKETCH, layout)
}

/// The same so wide that one layer's activations are more than the board's RAM.
pub fn too_wide() -> TestCard {
    random("wide", Shape { n_layers: 1, d_ff: 16_384, ..SKETCH }, Layout::Packed)
}

const SKETCH: Shape = Shape {
    n_layers: 2,
    d_model: 64,
    d_ff: 256,
    vocab: 128,
    max_seq: 64,
    n_heads: 4,
    n_kv_heads: 1,
    head_dim: 16,
    norm: Norm::Layer,
    norm_eps: 1e-5,
    mlp: Mlp::Gelu,
    rope_theta: 10_000.0,
    tied_embeddings: true,
    final_norm: false,
};

/// Random weights.
fn random(name: &str, shape: Shape, layout: Layout) -> TestCard {
    let mut model = Model::zeros(shape).unwrap();
    fill_randomly(&mut model);
    let card = export(&model, &Tokenizer::ascii(), layout, (4, 4), name, "random weights").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("card");
    write_card(&card, &folder, &mut |_, _| {}).unwrap();
    TestCard { dir, folder }
}
