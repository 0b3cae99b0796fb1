//! A step of the engine, one position and a batch, with everything in RAM: `cargo bench -p pageformer-toolchain`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pageformer_card::{Layout, Mlp, Norm, PAGE_BYTES, Shape, TensorTable};
use pageformer_engine::{Engine, Needs, Plan, Request, kernels};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{export, prune_by_magnitude};
use pageformer_vram::{Arena, read_manifest, read_tensors};

/// The shape of stories260K, but for a vocabulary of bytes, with weights that are no numbers in particular.
fn card(density: f64) -> MemoryCard {
    let shape = Shape {
        n_layers: 5,
        d_model: 64,
        d_ff: 172,
        vocab: 256,
        max_seq: 512,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 8,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: Mlp::SwiGlu,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    };
    let mut model = Model::zeros(shape).unwrap();
    for tensor in model.tensors_mut() {
        for (i, weight) in (0u32..).zip(tensor.data.iter_mut()) {
            *weight = (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 - 0.5;
        }
    }
    if density < 1.0 {
        prune_by_magnitude(&mut model, density, (4, 4)).unwrap();
    }
    let files = export(&model, &Tokenizer::bytes(), Layout::Packed, (4, 4), "bench", "").unwrap();
    MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())))
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    for density in [1.0, 0.5] {
        let card = card(density);
        for kernel in kernels::available() {
            for batch in [1, 16] {
                let mut memory = vec![0u64; 1 << 18];
                let ram = memory.len() * 8;
                let mut arena = Arena::new(&mut memory);
                let (mut card, mut page) = (card.clone(), [0; PAGE_BYTES]);
                let manifest = read_manifest(&mut card, &mut page).unwrap();
                let entries = arena.take(TensorTable::entries(&manifest.shape)).unwrap();
                let table = read_tensors(&mut card, &mut page, &manifest, entries).unwrap();
                let request = Request { batch: Some(batch), ..Request::default() };
                let plan = Plan::new(&Needs::new(&manifest, &table), ram, &request).unwrap();
                let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel).unwrap();
                let tokens: Vec<u16> = (1..=batch as u16).collect();
                let name = format!("density {density}, {batch} positions behind 128");
                for chunk in [1u16; 128].chunks(batch as usize) {
                    engine.step(chunk).unwrap();
                }
                group.bench_function(BenchmarkId::new(kernel.name, name), |bencher| {
                    bencher.iter(|| {
                        engine.truncate(128);
                        engine.step(&tokens).map(|logits| logits[0]).unwrap()
                    });
                });
                if engine.prepack() > 0 {
                    let name = format!("density {density}, {batch} positions behind 128, prepacked");
                    group.bench_function(BenchmarkId::new(kernel.name, name), |bencher| {
                        bencher.iter(|| {
                            engine.truncate(128);
                            engine.step(&tokens).map(|logits| logits[0]).unwrap()
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
