//! The int8 engine on a real checkpoint, held against the f32 reference and independent numbers.
#![allow(missing_docs)]

mod common;

use common::*;
use pageformer_engine::{Request, kernels};
use pageformer_model::Sample;

#[test]
fn greedy_text_begins_as_the_reference() {
    let (Some((model, tokenizer)), Some(golden)) = (stories(), golden()) else { return };
    let files = packed(&model, &tokenizer);
    let mut memory = memory(64 << 10);
    let request = Request { context: Some(128), ..Request::default() };
    let mut session = session(in_memory(&files), &mut memory, &request, kernels::best()).unwrap();
    let mut text = Vec::new();
    let reply = session.reply("", "", 100, &mut |bytes| {
        text.extend_from_slice(bytes);
        true
    });
    println!("{:?} {}", reply, String::from_utf8_lossy(&text));
    let want = golden["greedy_text"].as_str().unwrap();
    println!("{want}");
    println!("{:?}", session.engine().plan());
    println!("{:?}", session.engine().vram().stats());
    for (part, bytes) in session.engine().plan().parts() { println!("{part:20} {bytes}"); }
}

#[test]
fn nll_is_within_the_budget() {
    let (Some((model, tokenizer)), Some(golden)) = (stories(), golden()) else { return };
    let Some(path) = data("tinystories_gpt4_a.txt") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let files = packed(&model, &tokenizer);
    let mut memory = memory(2 << 20);
    let request = Request { all_logits: true, ..Request::default() };
    let mut session = session(in_memory(&files), &mut memory, &request, kernels::best()).unwrap();
    let batch = session.engine().plan().batch as usize;
    let (mut nll, mut tokens) = (0.0, 0);
    for document in pageformer_model::documents(&text, "<|endoftext|>").into_iter().take(20) {
        let ids: Vec<u16> = Sample::new(document, &tokenizer, model.bos, 512).ids.iter().map(|id| *id as u16).collect();
        let engine = session.engine_mut();
        engine.truncate(0);
        let mut next = ids.iter().skip(1);
        for chunk in ids.chunks(batch) {
            for (row, want) in engine.step_all(chunk).unwrap().zip(&mut next) {
                nll += pageformer_model::log_softmax(row, u32::from(*want)).abs();
                tokens += 1;
            }
        }
    }
    let reference: f64 = golden["nll_first20_gpt4_a"].as_array().unwrap().iter().map(|d| d[1].as_f64().unwrap()).sum();
    println!("{tokens} {} {} {}", nll / tokens as f64, reference / tokens as f64, (nll - reference) / tokens as f64);
    assert!((nll - reference).abs() / (tokens as f64) < 0.005);
}
