//! The reference path on models other than Llamas. The expected logits were computed in f64 with the layers
//! of JAX and Flax (`flax.linen.LayerNorm`, `RMSNorm`, `jax.nn.gelu`, `silu`, `dot_product_attention`) and
//! the rotation of Hugging Face's Llama.

mod common;

use common::model;
use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::{Error, Reference, Sample, Scorer, Tokenizer, documents, log_softmax};

const TOKENS: [u32; 6] = [3, 1, 4, 1, 5, 9];

fn check(shape: Shape, first: [f32; 10], last: [f32; 10]) {
    let model = model(shape);
    let logits = Reference::new(&model).unwrap().logits_all(&TOKENS).unwrap();
    for (ours, expected) in [(&logits[0], first), (&logits[5], last)] {
        for (o, e) in ours.iter().zip(expected) {
            assert!((o - e).abs() < 2e-5, "{ours:?}\n{expected:?}");
        }
    }
}

#[test]
fn layernorm_gelu_one_kv_head_no_final_norm() {
    check(
        common::sketch(),
        [
            1.551457, -0.716509, -1.165928, 1.343855, 0.442845, -1.582135, 0.408449, 1.362363, -1.14149,
            -0.748165,
        ],
        [
            -2.606948, 3.916393, 0.499670, -4.185248, 1.752271, 3.242411, -3.496902, -1.360846, 4.229127,
            -0.914705,
        ],
    );
}

#[test]
fn rmsnorm_gelu_grouped_heads_and_a_head_of_its_own() {
    let shape = common::shape([4, 2, 4], Norm::Rms, Mlp::Gelu);
    check(
        Shape { tied_embeddings: false, rope_theta: 500.0, ..shape },
        [
            -0.706469, -3.256781, 2.458833, 1.933766, -3.499327, -0.050896, 3.526713, -1.846709, -2.533061,
            3.209663,
        ],
        [
            0.844948, 2.367652, -2.118902, -1.227543, 2.779401, -0.267959, -2.635221, 1.685883, 1.728105,
            -2.615718,
        ],
    );
}

#[test]
fn layernorm_swiglu_and_a_final_norm() {
    check(
        common::shape([2, 2, 6], Norm::Layer, Mlp::SwiGlu),
        [
            -0.200496, -1.217232, 0.855447, 0.756945, -1.262734, -0.077511, 1.30444, -0.624364, -0.968490,
            1.145476,
        ],
        [
            0.275375, -0.665342, 0.082624, 0.620885, -0.416701, -0.396672, 0.630137, 0.057617, -0.661139,
            0.298119,
        ],
    );
}

#[test]
fn a_step_beyond_the_last_position_or_vocabulary_is_an_error() {
    let model = model(common::llama());
    let mut reference = Reference::new(&model).unwrap();
    assert!(matches!(reference.step(10), Err(Error::TokenOutOfRange { id: 10, vocab: 10, .. })));
    for _ in 0..16 {
        reference.step(0).unwrap();
    }
    assert!(matches!(reference.step(0), Err(Error::ContextFull { max_seq: 16 })));
    reference.reset();
    assert!(reference.step(0).is_ok());
}

#[test]
fn a_score_is_the_sum_of_the_steps() {
    let model = model(common::llama());
    let mut reference = Reference::new(&model).unwrap();
    let logits = reference.logits_all(&TOKENS).unwrap();
    let sum: f64 = (1..6).map(|i| -log_softmax(&logits[i - 1], TOKENS[i])).sum();
    // The text before is forgotten.
    assert_eq!(reference.score(&TOKENS).unwrap(), sum);
    assert_eq!(reference.score(&[]).unwrap(), 0.0);
    let all: f64 = (0..10).map(|t| log_softmax(&logits[0], t).exp()).sum();
    assert!((all - 1.0).abs() < 1e-9);
}

#[test]
fn documents_are_split_stripped_and_never_empty() {
    assert_eq!(documents(" a b \n<x>\n\n<x> c", "<x>"), ["a b", "c"]);
    assert_eq!(documents(" a <x> b ", ""), ["a <x> b"]);
    assert!(documents("", "<x>").is_empty());
}

#[test]
fn samples_count_the_bytes_of_the_scored_tokens_alone() {
    let tokenizer = Tokenizer::bytes();
    let with_bos = Sample::new("hello", &tokenizer, Some(0), 4);
    assert_eq!(with_bos, Sample { ids: vec![0, 104, 101, 108], bytes: 3 });
    let without = Sample::new("hello", &tokenizer, None, 4);
    assert_eq!(without, Sample { ids: vec![104, 101, 108, 108], bytes: 3 });
    assert_eq!(Sample::new("", &tokenizer, None, 4), Sample { ids: vec![], bytes: 0 });
    assert_eq!(Sample::new("hello", &tokenizer, Some(0), 0), Sample { ids: vec![], bytes: 0 });
}
