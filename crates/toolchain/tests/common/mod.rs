//! What the tests of cards and engine share.
#![allow(dead_code, missing_docs)]

use std::path::PathBuf;

use pageformer_card::{Layout, Manifest, PAGE_BYTES, TensorTable};
use pageformer_engine::{Engine, Error, Needs, Plan, Request, Session, kernels};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{CardFiles, export};
use pageformer_vram::{Arena, Card, read_manifest, read_tensors};

/// A file of the shared data, if it is there.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

pub fn stories() -> Option<(Model, Tokenizer)> {
    let (model, tokenizer) = (data("stories260K.bin")?, data("tok512.bin")?);
    Some(pageformer_import::llama2c(&model, &tokenizer).unwrap())
}

pub fn golden() -> Option<serde_json::Value> {
    Some(serde_json::from_slice(&std::fs::read(data("golden_stories260K.json")?).unwrap()).unwrap())
}

pub fn packed(model: &Model, tokenizer: &Tokenizer) -> CardFiles {
    export(model, tokenizer, Layout::Packed, (4, 4), "test", "test").unwrap()
}

pub fn in_memory(files: &CardFiles) -> MemoryCard {
    MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())))
}

/// Reads the manifest and the table of a card.
pub fn describe<'m, C: Card>(card: &mut C, arena: &mut Arena<'m>) -> (Manifest, TensorTable<'m>) {
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(card, &mut page).unwrap();
    let entries = arena.take(TensorTable::entries(&manifest.shape)).unwrap();
    let table = read_tensors(card, &mut page, &manifest, entries).unwrap();
    (manifest, table)
}

/// A session over a card in exactly `ram` bytes.
pub fn session<'m, C: Card>(
    mut card: C,
    memory: &'m mut [u64],
    request: &Request,
    kernel: kernels::Kernel,
) -> Result<Session<'m, C>, Error> {
    let ram = memory.len() * 8;
    let mut arena = Arena::new(memory);
    let (manifest, table) = describe(&mut card, &mut arena);
    let plan = Plan::new(&Needs::new(&manifest, &table), ram, request)?;
    assert!(plan.total() <= ram);
    let engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel)?;
    let session = Session::start(engine, &manifest, &mut arena)?;
    assert_eq!(arena.left(), ram - plan.total(), "the plan is exact");
    Ok(session)
}

pub fn memory(bytes: usize) -> Vec<u64> {
    vec![0x5A5A_5A5A_5A5A_5A5A; bytes / 8]
}
