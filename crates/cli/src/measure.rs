//! What a model costs and how well it predicts: the numbers of a compression table.

use anyhow::Result;
use pageformer_card::{Layout, PAGE_BYTES, TensorTable};
use pageformer_engine::{Engine, Needs, Plan, Request, kernels};
use pageformer_model::{Model, Tokenizer, log_softmax};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::export;
use pageformer_train::{Arithmetic, Compute, Example, Layout as Weights, Network, effective_weights};
use pageformer_vram::{Arena, read_manifest, read_tensors};
use serde::Serialize;

use crate::session::buffer;
use crate::ui::Progress;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub model: String,
    /// Kept cells ÷ all cells of all matrices, as it was asked for.
    pub density: f64,
    /// Mean of −ln p over the held-out tokens.
    pub nll_per_token: f64,
    /// The same in bits for each byte of text.
    pub bits_per_byte: f64,
    /// Bytes of the tape; none for f32, which has none.
    pub tape_bytes: Option<u64>,
    /// Pages that a pass over the tape reads when nothing is pinned.
    pub pages_per_token: Option<u32>,
}

/// Bytes that the scored tokens stand for.
fn bytes(tokenizer: &Tokenizer, examples: &[Example]) -> usize {
    examples.iter().flat_map(Example::targets).map(|(_, token)| tokenizer.piece(token).len()).sum()
}

fn row(model: String, density: f64, nll: f64, tokenizer: &Tokenizer, examples: &[Example]) -> Row {
    let tokens: usize = examples.iter().map(Example::scored_tokens).sum();
    Row {
        model,
        density,
        nll_per_token: nll / tokens as f64,
        bits_per_byte: nll / std::f64::consts::LN_2 / bytes(tokenizer, examples) as f64,
        tape_bytes: None,
        pages_per_token: None,
    }
}

/// Measures a model in f32.
pub fn in_f32(
    name: &str,
    model: &Model,
    tokenizer: &Tokenizer,
    density: f64,
    examples: &[Example],
) -> Result<Row> {
    let layout = Weights::new(model.shape)?;
    let weights = layout.weights_of(model)?;
    let network = Network::new(layout.clone(), Arithmetic::F32);
    let mut effective = Vec::new();
    effective_weights(&layout, &weights, None, Arithmetic::F32, &mut effective);
    let sums = Compute::new(2).evaluate(&network, &effective, examples);
    Ok(row(name.into(), density, sums.nll, tokenizer, examples))
}

/// Measures a model as a card, with the int8 engine itself.
pub fn in_int8(
    name: &str,
    model: &Model,
    tokenizer: &Tokenizer,
    density: f64,
    examples: &[Example],
) -> Result<Row> {
    let files = export(model, tokenizer, Layout::Packed, (4, 4), "measured", "")?;
    let mut card = MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())));
    let longest = examples.iter().map(|e| e.inputs().len()).max().unwrap_or(1);
    let mut memory = buffer(2 * files.files.iter().map(|f| f.bytes.len()).sum::<usize>() + (256 << 20));
    let ram = memory.len() * 8;
    let mut arena = Arena::new(&mut memory);
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(&mut card, &mut page)?;
    let entries =
        arena.take(TensorTable::entries(&manifest.shape)).map_err(pageformer_engine::Error::from)?;
    let table = read_tensors(&mut card, &mut page, &manifest, entries)?;
    let request =
        Request { context: Some(longest as u32), batch: Some(16), all_logits: true, ..Request::default() };
    let plan = Plan::new(&Needs::new(&manifest, &table), ram, &request)?;
    let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernels::best())?;
    engine.prepack();
    let mut progress = Progress::new("measuring");
    let mut nll = 0.0;
    for (number, example) in examples.iter().enumerate() {
        engine.truncate(0);
        let ids: Vec<u16> = example.inputs().iter().map(|id| *id as u16).collect();
        let mut targets = example.targets().peekable();
        let mut position = 0;
        for chunk in ids.chunks(16) {
            for logits in engine.step_all(chunk)? {
                if let Some((_, token)) = targets.next_if(|(at, _)| *at == position) {
                    nll -= log_softmax(logits, token);
                }
                position += 1;
            }
        }
        progress.set(number as u64, examples.len() as u64);
    }
    let mut row = row(name.into(), density, nll, tokenizer, examples);
    row.tape_bytes = Some(u64::from(manifest.tape_pages) * PAGE_BYTES as u64);
    row.pages_per_token = Some(manifest.tape_pages);
    Ok(row)
}
