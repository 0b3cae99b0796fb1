//! What is trained is what runs: the int8 arithmetic that training simulates, against the engine itself.

use pageformer_card::{Manifest, Mlp, Norm, PAGE_BYTES, Shape, TensorTable};
use pageformer_engine::{Engine, Needs, Plan, PlanError, Request, kernels};
use pageformer_model::{Model, Reference, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::export;
use pageformer_train::prune::{Masks, Scope};
use pageformer_train::rng::Rng;
use pageformer_train::{Arithmetic, Layout, Network, effective_weights};
use pageformer_vram::{Arena, read_manifest, read_tensors};

/// A card's manifest and tensors, and what it needs.
fn describe<'m>(card: &mut MemoryCard, arena: &mut Arena<'m>) -> (Manifest, TensorTable<'m>, Needs) {
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(card, &mut page).unwrap();
    let entries = arena.take(TensorTable::entries(&manifest.shape)).unwrap();
    let table = read_tensors(card, &mut page, &manifest, entries).unwrap();
    let needs = Needs::new(&manifest, &table);
    (manifest, table, needs)
}

/// Logits after each token, from the engine on the model's card.
fn engine_logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let files = export(model, &Tokenizer::ascii(), pageformer_card::Layout::Packed, (4, 4), "", "").unwrap();
    let mut card = MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())));
    let request = Request { batch: Some(4), all_logits: true, ..Request::default() };
    let mut tables = vec![0u64; 2048];
    let (_, _, needs) = describe(&mut card, &mut Arena::new(&mut tables));
    let Err(PlanError::TooSmall { needed, .. }) = Plan::new(&needs, 0, &request) else {
        panic!("a plan without memory");
    };
    let mut memory = vec![0u64; needed / 8 + 512];
    let ram = memory.len() * 8;
    let mut arena = Arena::new(&mut memory);
    let (manifest, table, needs) = describe(&mut card, &mut arena);
    let plan = Plan::new(&needs, ram, &request).unwrap();
    let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernels::best()).unwrap();
    let tokens: Vec<u16> = tokens.iter().map(|t| *t as u16).collect();
    let steps = tokens.chunks(4).flat_map(|step| {
        let logits: Vec<f32> = engine.step_all(step).unwrap().flatten().copied().collect();
        logits
    });
    steps.collect()
}

/// Root mean square of the differences, in standard deviations of `b`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = b.iter().map(|x| *x as f64).sum::<f64>() / b.len() as f64;
    let variance: f64 = b.iter().map(|x| (*x as f64 - mean).powi(2)).sum();
    let error: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    (error / variance).sqrt()
}

#[test]
fn simulated_int8_is_the_engines() {
    let llama = Shape {
        n_layers: 2,
        d_model: 20,
        d_ff: 300,
        vocab: 128,
        max_seq: 64,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 6,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: Mlp::SwiGlu,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    };
    let sketch = Shape { norm: Norm::Layer, mlp: Mlp::Gelu, n_kv_heads: 1, final_norm: false, ..llama };
    let separate = Shape { tied_embeddings: false, ..llama };
    for shape in [llama, sketch, separate] {
        let layout = Layout::new(shape).unwrap();
        let mut rng = Rng::new(7, 7);
        let mut weights = layout.initial_weights(5);
        weights.iter_mut().for_each(|w| *w = *w * 1.7 + 0.02 * rng.normal());
        for density in [1.0, 0.6] {
            let mut masks = Masks::dense(&layout, [4, 4]);
            let scores = masks.block_sums(&layout, |i| weights[i] * weights[i]);
            masks.choose(&scores, density, Scope::Global);
            let mut pruned = vec![];
            effective_weights(&layout, &weights, Some(&masks), Arithmetic::F32, &mut pruned);
            let model = layout.model(&pruned).unwrap();

            let mut rounded = vec![];
            effective_weights(&layout, &weights, Some(&masks), Arithmetic::Int8, &mut rounded);
            let tokens: Vec<u32> = (0..30).map(|_| rng.below(128) as u32).collect();
            let simulated = Network::new(layout.clone(), Arithmetic::Int8).sequence_logits(&rounded, &tokens);
            let engine = engine_logits(&model, &tokens);
            let reference = Reference::new(&model).unwrap().logits_all(&tokens).unwrap().concat();
            let (near, far) = (distance(&simulated, &engine), distance(&reference, &engine));
            // Not the same bits: sums in another order now and then end on the other side of a rounding.
            assert!(
                near < 0.3 * far,
                "{near:.5} from the engine, whose distance to f32 is {far:.5}: {shape:?}"
            );
        }
    }
}
