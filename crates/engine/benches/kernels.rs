//! A matrix of 128 outputs, group by group, and attention, by every kernel that this processor has: `cargo bench -p pageformer-engine --features prepack`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pageformer_card::matrix::TileRecord;
use pageformer_card::{MatrixDims, Page};
use pageformer_engine::kernels::{GroupProduct, Head, Input, Scratch, available};

/// Mask page and cells of each group; every cell is kept with a probability of `percent`.
fn groups(dims: &MatrixDims, percent: u32) -> Vec<(Page, Vec<u8>)> {
    let mut state = 1u64;
    let mut bits = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..dims.groups())
        .map(|group| {
            let (mut page, mut cells) = ([0; 512], Vec::new());
            for tile in 0..dims.tiles_in_group(group) {
                let kept = (0..64).fold(0, |mask, cell| mask | u64::from(bits() % 100 < percent) << cell);
                let mask = kept & dims.full_mask((group * 32 + tile) % dims.segments());
                TileRecord { scales: [0x3F80; 4], mask }.write(&mut page, tile as usize);
                cells.extend((0..mask.count_ones() * 16).map(|_| bits() as u8));
            }
            (page, cells)
        })
        .collect()
}

fn multiply(c: &mut Criterion) {
    let mut group = c.benchmark_group("multiply");
    for inputs in [64, 288, 768] {
        let dims = MatrixDims { outputs: 128, inputs };
        group.throughput(Throughput::Elements(dims.cells() * 16));
        for percent in [100, 50] {
            let groups = groups(&dims, percent);
            for batch in [1, 16] {
                let x: Vec<i8> = (0..inputs as usize * batch).map(|i| (i * 37 % 255) as u8 as i8).collect();
                let x: Vec<i8> = x.into_iter().map(|x| x.max(-127)).collect();
                let scales = vec![1.0; dims.segments() as usize * batch];
                let outputs = dims.padded_outputs() as usize;
                let mut y = vec![0.0; outputs * batch];
                for kernel in available() {
                    let name = format!("{inputs} inputs, {percent} %, {batch} positions");
                    group.bench_function(BenchmarkId::new(kernel.name, name), |bencher| {
                        bencher.iter(|| {
                            for (number, (masks, cells)) in (0..).zip(&groups) {
                                let input = Input { values: &x, scales: &scales, batch };
                                GroupProduct::new(&dims, number, masks, input, (&mut y, outputs))
                                    .feed(kernel, cells);
                            }
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

/// The same matrices, packed anew for the kernel.
#[cfg(feature = "prepack")]
fn multiply_prepacked(c: &mut Criterion) {
    let mut group = c.benchmark_group("multiply prepacked");
    for inputs in [64, 288, 768] {
        let dims = MatrixDims { outputs: 128, inputs };
        group.throughput(Throughput::Elements(dims.cells() * 16));
        for percent in [100, 50] {
            let mut pages: Vec<Page> = Vec::new();
            for (masks, mut cells) in groups(&dims, percent) {
                cells.iter_mut().filter(|w| **w == 0x80).for_each(|w| *w = 0x81);
                cells.resize(cells.len().next_multiple_of(512), 0);
                pages.push(masks);
                pages.extend_from_slice(cells.as_chunks().0);
            }
            for batch in [1, 16] {
                let x: Vec<i8> =
                    (0..inputs as usize * batch).map(|i| ((i * 37 % 255) as u8 as i8).max(-127)).collect();
                let scales = vec![1.0; dims.segments() as usize * batch];
                let outputs = dims.padded_outputs() as usize;
                let mut y = vec![0.0; outputs * batch];
                for kernel in available() {
                    let Some(packed) = kernel.prepack(&[(dims, &pages)], false) else { continue };
                    let name = format!("{inputs} inputs, {percent} %, {batch} positions");
                    group.bench_function(BenchmarkId::new(kernel.name, name), |bencher| {
                        bencher.iter(|| {
                            let input = Input { values: &x, scales: &scales, batch };
                            kernel.compute().multiply_prepacked(
                                &packed,
                                0..packed.parts(),
                                input,
                                &mut y,
                                outputs,
                            )
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

#[cfg(not(feature = "prepack"))]
fn multiply_prepacked(_: &mut Criterion) {}

/// Attention of a query, and of two at once where the feature `prepack` is on.
fn attend(c: &mut Criterion) {
    let mut group = c.benchmark_group("attend");
    let byte = |i: usize| ((i * 37 % 255) as u8 as i8).max(-127);
    for channels in [8, 32, 64] {
        for seen in [8, 128, 512] {
            let keys: Vec<i8> = (0..seen * channels).map(byte).collect();
            let scales: Vec<u16> = (0..seen).map(|i| 0x3C00 + (i * 7 % 128) as u16).collect();
            let head = Head {
                keys: &keys,
                key_scales: &scales,
                values: &keys,
                value_scales: &scales,
                seen,
                channels,
                width: channels,
            };
            for queries in 1..=if cfg!(feature = "prepack") { 2 } else { 1 } {
                let q: Vec<f32> = (0..queries * channels).map(|i| f32::from(byte(i)) / 64.0).collect();
                let (mut query, mut weights) = (vec![0; q.len()], vec![0; queries * seen]);
                let (mut scores, mut out) = (vec![0.0; queries * seen], vec![0.0; q.len()]);
                group.throughput(Throughput::Elements((queries * seen) as u64));
                for kernel in available() {
                    let name = format!("{channels} channels, {seen} positions, {queries} at once");
                    group.bench_function(BenchmarkId::new(kernel.name, name), |bencher| {
                        bencher.iter(|| {
                            let mut scratch =
                                Scratch { query: &mut query, scores: &mut scores, weights: &mut weights };
                            kernel.compute().attend(&head, &q, &mut out, &mut scratch)
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

criterion_group!(benches, multiply, multiply_prepacked, attend);
criterion_main!(benches);
