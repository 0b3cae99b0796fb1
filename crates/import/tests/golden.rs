//! stories260K, imported and run by the reference path, against numbers that an independent implementation in
//! f64 computed.

use std::path::{Path, PathBuf};

use pageformer_model::{Model, Reference, Sample, Scorer, Token, Tokenizer, argmax, documents, evaluate};
use serde_json::Value;

/// The real data beside the project, or none where there is none.
fn data() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.is_dir() {
        println!("skipped: no test data in ../shared/data");
        return None;
    }
    Some(dir)
}

fn stories(dir: &Path) -> (Model, Tokenizer) {
    pageformer_import::llama2c(&dir.join("stories260K.bin"), &dir.join("tok512.bin")).unwrap()
}

fn golden(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("golden_stories260K.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn logits_are_the_golden_ones() {
    let Some(dir) = data() else { return };
    let (golden, (model, _)) = (golden(&dir), stories(&dir));
    let logits = Reference::new(&model).unwrap().logits_all(&ids(&golden["greedy_ids"])).unwrap();

    let expected = golden["logits_pos0"].as_array().unwrap();
    assert_eq!(logits[0].len(), expected.len());
    for (id, (ours, golden)) in logits[0].iter().zip(expected).enumerate() {
        let golden = golden.as_f64().unwrap();
        assert!((f64::from(*ours) - golden).abs() < 1e-3, "position 0, token {id}: {ours} and {golden}");
    }
    let positions = golden["top5_logits"].as_object().unwrap();
    assert_eq!(positions.len(), 7);
    for (position, top) in positions {
        let ours = &logits[position.parse::<usize>().unwrap()];
        let mut by_logit: Vec<u32> = (0..ours.len() as u32).collect();
        by_logit.sort_by(|&a, &b| ours[b as usize].total_cmp(&ours[a as usize]));
        for (place, pair) in top.as_array().unwrap().iter().enumerate() {
            let (id, golden) = (pair[0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap());
            assert_eq!(by_logit[place], id, "place {place} at position {position}");
            let ours = f64::from(ours[id as usize]);
            assert!((ours - golden).abs() < 1e-3, "position {position}, token {id}: {ours} and {golden}");
        }
    }
}

#[test]
fn greedy_text_is_the_golden_one() {
    let Some(dir) = data() else { return };
    let (golden, (model, tokenizer)) = (golden(&dir), stories(&dir));
    let expected = ids(&golden["greedy_ids"]);
    let mut reference = Reference::new(&model).unwrap();
    let mut ours = vec![model.bos.unwrap()];
    while ours.len() < expected.len() {
        let next = argmax(reference.step(*ours.last().unwrap()).unwrap());
        assert!(!model.eos.contains(&next));
        ours.push(next);
    }
    assert_eq!(ours, expected);
    assert_eq!(String::from_utf8(tokenizer.decode(&ours)).unwrap(), golden["greedy_text"]);
}

#[test]
fn tokenizer_cases_are_the_golden_ones() {
    let Some(dir) = data() else { return };
    let (golden, (_, tokenizer)) = (golden(&dir), stories(&dir));
    let cases = golden["encode_with_bos"].as_object().unwrap();
    assert_eq!(cases.len(), 7);
    for (text, expected) in cases {
        let ours = [vec![1], tokenizer.encode(text)].concat();
        assert_eq!(ours, ids(expected), "{text:?}");
        assert_eq!(tokenizer.decode(&ours), text.as_bytes());
    }
}

#[test]
fn nll_of_twenty_stories_is_the_golden_one() {
    let Some(dir) = data() else { return };
    let (golden, (model, tokenizer)) = (golden(&dir), stories(&dir));
    let text = std::fs::read_to_string(dir.join("tinystories_gpt4_a.txt")).unwrap();
    let expected = golden["nll_first20_gpt4_a"].as_array().unwrap();

    let samples: Vec<Sample> = documents(&text, "<|endoftext|>")
        .iter()
        .take(expected.len())
        .map(|d| Sample::new(d, &tokenizer, model.bos, 512))
        .collect();
    let mut reference = Reference::new(&model).unwrap();
    for (i, (sample, golden)) in samples.iter().zip(expected).enumerate() {
        let tokens = sample.ids.len() - 1;
        assert_eq!(tokens as u64, golden[0].as_u64().unwrap(), "story {i}");
        let apart = (reference.score(&sample.ids).unwrap() - golden[1].as_f64().unwrap()) / tokens as f64;
        assert!(apart.abs() < 1e-3, "story {i}: {apart} nats per token apart");
    }

    let mut seen = 0;
    let score = evaluate(&samples, &mut reference, |s| seen = s.documents).unwrap();
    let sum = |part: usize| expected.iter().map(|g| g[part].as_f64().unwrap()).sum::<f64>();
    assert_eq!((score.documents, seen, score.tokens), (20, 20, sum(0) as usize));
    let golden = sum(1) / sum(0);
    println!("{} nats per token, golden {golden}", score.nll_per_token());
    assert!((score.nll_per_token() - golden).abs() < 1e-3);
    // Sixteen stories fit whole; of the others, only the part that was scored counts.
    let whole: usize = documents(&text, "<|endoftext|>")[..20].iter().map(|d| d.len()).sum();
    assert!(score.bytes < whole && score.bytes > whole * 3 / 4, "{} of {whole}", score.bytes);
}

#[test]
fn a_saved_model_is_the_same_model() {
    let Some(dir) = data() else { return };
    let (model, tokenizer) = stories(&dir);
    let folder = tempfile::tempdir().unwrap();
    model.save(&tokenizer, folder.path()).unwrap();
    let (again, tokenizer_again) = Model::load(folder.path()).unwrap();
    assert!(again == model);
    assert_eq!(tokenizer_again, tokenizer);
}

#[test]
fn q8_0_weights_are_close_to_the_f32_ones() {
    let Some(dir) = data() else { return };
    let (exact, _) = stories(&dir);
    let (quantized, _) =
        pageformer_import::llama2c(&dir.join("stories260K_q80_gs4.bin"), &dir.join("tok512.bin")).unwrap();
    assert_eq!(quantized.shape, exact.shape);
    for (exact, quantized) in exact.tensors().zip(quantized.tensors()) {
        let groups = exact.data.chunks(4).zip(quantized.data.chunks(4));
        for (i, (exact_group, quantized_group)) in groups.enumerate() {
            // A scale is the largest of four weights / 127, and rounding errs by half of one. Norms are f32.
            let largest = exact_group.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let bound = if exact.dims.len() == 1 { 0.0 } else { largest / 127.0 / 2.0 * 1.001 };
            for (e, q) in exact_group.iter().zip(quantized_group) {
                assert!((e - q).abs() <= bound, "{}, group {i}: {e} and {q}", exact.name);
            }
        }
    }
}

#[test]
fn tok512_is_what_an_exporter_expects() {
    let Some(dir) = data() else { return };
    let (_, tokenizer) = stories(&dir);
    assert_eq!(tokenizer.vocab_size(), 512);
    assert!(tokenizer.dummy_prefix());
    assert!(!tokenizer.space_inside());
    assert_eq!(tokenizer.tokens()[1], Token::Control("<s>".into()));
    assert_eq!(tokenizer.piece(13), b"\n");
    assert_eq!(tokenizer.byte_id(b'\n'), Some(13));
    assert_eq!(tokenizer.piece(tokenizer.char_id('e').unwrap()), b"e");
    assert!(tokenizer.merges().is_sorted_by_key(|m| m.rank));
}
