//! The whole model: gradients against finite differences, logits against the reference, bits against the number of threads.

use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::Reference;

use crate::compute::Batch;
use crate::network::{Dropout, Objective, Packed, Workspace};
use crate::ops::check::check_gradient;
use crate::rng::Rng;
use crate::{Arithmetic, Compute, Distillation, Example, Layout, Network};

/// A shape with every dimension different, GQA, and nothing a multiple of a vector.
pub(crate) fn small_shape() -> Shape {
    Shape {
        n_layers: 2,
        d_model: 12,
        d_ff: 20,
        vocab: 29,
        max_seq: 16,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 4,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: Mlp::SwiGlu,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    }
}

/// The shape, and the ones that differ in each choice.
fn all_kinds() -> Vec<Shape> {
    let base = small_shape();
    vec![
        base,
        Shape { norm: Norm::Layer, mlp: Mlp::Gelu, n_kv_heads: 1, final_norm: false, ..base },
        Shape { norm: Norm::Layer, tied_embeddings: false, n_kv_heads: 6, ..base },
    ]
}

pub(crate) fn random_examples(count: usize, vocab: u32, longest: usize) -> Vec<Example> {
    let mut rng = Rng::new(5, 5);
    (0..count)
        .map(|i| {
            let n = 2 + rng.below(longest - 1);
            let tokens = (0..=n).map(|_| rng.below(vocab as usize) as u32).collect();
            let scored = (0..n).map(|j| (i + j) % 3 != 0 || j == n - 1).collect();
            Example::masked(tokens, scored).unwrap()
        })
        .collect()
}

/// Weights whose norms are not the identity.
pub(crate) fn random_weights(layout: &Layout) -> Vec<f32> {
    let mut weights = layout.initial_weights(3);
    let mut rng = Rng::new(4, 4);
    weights.iter_mut().for_each(|w| *w = *w * 2.0 + 0.1 * rng.normal());
    weights
}

#[test]
fn gradients_of_the_whole_model() {
    for shape in all_kinds() {
        let layout = Layout::new(shape).unwrap();
        let network = Network::new(layout.clone(), Arithmetic::F32);
        let weights = random_weights(&layout);
        let examples = random_examples(3, shape.vocab, 7);
        let packed = Packed::new(&examples);
        let dropout = Some(Dropout { rate: 0.2, seed: 1, batch: 9 });
        for dropout in [None, dropout] {
            let objective = Objective { token_weight: 0.5, teacher: None, dropout };
            let mut ws = Workspace::default();
            let mut grads = vec![0.0; layout.len()];
            let sums = network.gradient(&mut grads, &weights, &packed, objective, &mut ws);
            if dropout.is_none() {
                assert!((network.evaluate(&weights, &packed, &mut ws).nll - sums.nll).abs() < 1e-6);
            }
            for view in layout.views() {
                let mut part = weights[view.range.clone()].to_vec();
                check_gradient(&view.name, &mut part, &grads[view.range.clone()], 2e-2, |part| {
                    let mut all = weights.clone();
                    all[view.range.clone()].copy_from_slice(part);
                    let mut unused = vec![0.0; layout.len()];
                    0.5 * network.gradient(&mut unused, &all, &packed, objective, &mut ws).nll
                });
            }
        }
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    for shape in all_kinds() {
        let layout = Layout::new(shape).unwrap();
        let network = Network::new(layout.clone(), Arithmetic::F32);
        let weights = random_weights(&layout);
        let model = layout.model(&weights).unwrap();
        assert_eq!(layout.weights_of(&model).unwrap(), weights);
        let tokens: Vec<u32> = (0..16).map(|i| i * 7 % 29).collect();
        let logits = network.sequence_logits(&weights, &tokens);
        let expected = Reference::new(&model).unwrap().logits_all(&tokens).unwrap();
        assert_eq!(expected.len(), 16);
        for (row, expected) in logits.chunks(29).zip(&expected) {
            let error = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-4, "{error}");
        }
        // Two sequences in one pass see nothing of each other.
        let both = [tokens, vec![3, 1, 4, 1, 5]].map(|t| Example::all(t).unwrap());
        let mut ws = Workspace::default();
        let mut nll = |examples: &[Example]| network.evaluate(&weights, &Packed::new(examples), &mut ws).nll;
        assert!((nll(&both) - nll(&both[..1]) - nll(&both[1..])).abs() < 1e-4);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let shape = small_shape();
    let layout = Layout::new(shape).unwrap();
    let network = Network::new(layout.clone(), Arithmetic::Int8);
    let teacher_network = Network::new(layout.clone(), Arithmetic::F32);
    let (weights, teacher_weights) = (random_weights(&layout), layout.initial_weights(9));
    let examples = random_examples(40, shape.vocab, 14);
    let refs: Vec<_> = examples.iter().collect();
    let run = |threads| {
        let mut compute = Compute::new(threads);
        let batch = Batch {
            examples: &refs,
            teacher: Some(crate::network::Teacher {
                network: &teacher_network,
                weights: &teacher_weights,
                distillation: Distillation { weight: 0.5, temperature: 2.0 },
            }),
            dropout: Some(Dropout { rate: 0.1, seed: 2, batch: 3 }),
        };
        let loss = compute.gradient(&network, &weights, batch);
        let eval = compute.evaluate(&network, &weights, &examples);
        (loss, eval, compute.total().to_vec())
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
    assert!(one.0.gradient_norm > 0.0);
}

#[test]
fn shards_add_up_to_the_gradient_of_one_batch() {
    let shape = small_shape();
    let layout = Layout::new(shape).unwrap();
    let network = Network::new(layout.clone(), Arithmetic::F32);
    let weights = random_weights(&layout);
    let examples = random_examples(20, shape.vocab, 14);
    let refs: Vec<_> = examples.iter().collect();
    let mut compute = Compute::new(2);
    let batch = Batch { examples: &refs, teacher: None, dropout: None };
    // Twice: nothing of the first batch may be left in the second.
    compute.gradient(&network, &weights, batch);
    let loss = compute.gradient(&network, &weights, batch);
    let mut grads = vec![0.0; layout.len()];
    let token_weight = 1.0 / loss.sums.tokens as f32;
    let objective = Objective { token_weight, teacher: None, dropout: None };
    let packed = Packed::new(&examples);
    network.gradient(&mut grads, &weights, &packed, objective, &mut Workspace::default());
    let difference = grads.iter().zip(compute.total()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-6, "{difference}");
    let norm = grads.iter().map(|g| g * g).sum::<f32>().sqrt();
    assert!((norm / loss.gradient_norm - 1.0).abs() < 1e-4);
}
