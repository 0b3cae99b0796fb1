//! Small llama2.c files made by hand, whole and broken.

use std::fs;
use std::path::PathBuf;

use pageformer_import::{Error, llama2c};
use pageformer_model::{Model, Tokenizer};
use proptest::prelude::*;
use tempfile::TempDir;

/// Width 8, MLP 12, 2 layers, 2 heads, 1 KV head, 260 tokens, 3 positions.
const NUMBERS: [i32; 7] = [8, 12, 2, 2, 1, 260, 3];
/// Values of the tensors of a layer that are matrices: Wq, Wk, Wv, Wo, gate, down, up.
const MATRICES: [usize; 7] = [64, 32, 32, 64, 96, 96, 96];

struct Files {
    dir: TempDir,
}

impl Files {
    fn new(checkpoint: &[u8], tokenizer: &[u8]) -> Self {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        fs::write(files.checkpoint(), checkpoint).unwrap();
        fs::write(files.tokenizer(), tokenizer).unwrap();
        files
    }

    fn checkpoint(&self) -> PathBuf {
        self.dir.path().join("model.bin")
    }

    fn tokenizer(&self) -> PathBuf {
        self.dir.path().join("tok.bin")
    }

    fn import(&self) -> Result<(Model, Tokenizer), Error> {
        llama2c(&self.checkpoint(), &self.tokenizer())
    }
}

/// 260 tokens: the controls, the bytes, "a".
fn tokenizer() -> Vec<u8> {
    let mut texts = ["<unk>", "\n<s>\n", "\n</s>\n"].map(String::from).to_vec();
    texts.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    texts.push("a".into());
    let mut file = 6i32.to_le_bytes().to_vec();
    for text in texts {
        file.extend(0f32.to_le_bytes());
        file.extend((text.len() as i32).to_le_bytes());
        file.extend(text.as_bytes());
    }
    file
}

/// A version-0 file whose floats count upwards. A negative vocabulary in `numbers` adds a head.
fn version_0(numbers: [i32; 7]) -> Vec<u8> {
    let head = if numbers[5] < 0 { 260 * 8 } else { 0 };
    let layer: usize = MATRICES.iter().sum();
    let floats = 260 * 8 + 2 * (8 + layer + 8) + 8 + 3 * 4 + head;
    let mut file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    file.extend((0..floats).flat_map(|i| (i as f32).to_le_bytes()));
    file
}

/// A version-2 file: norms count upwards, values are their place modulo 100 - 50, scales their place.
fn version_2(shared: bool, group: i32) -> Vec<u8> {
    let mut file = 0x616b_3432u32.to_le_bytes().to_vec();
    file.extend(2i32.to_le_bytes());
    file.extend(NUMBERS.iter().flat_map(|n| n.to_le_bytes()));
    file.push(u8::from(shared));
    file.extend(group.to_le_bytes());
    file.resize(256, 0);
    file.extend((0..5 * 8).flat_map(|i| (i as f32).to_le_bytes()));
    let mut tensors = vec![260 * 8];
    tensors.extend(MATRICES.iter().flat_map(|&n| [n, n]));
    tensors.extend((!shared).then_some(260 * 8));
    for values in tensors {
        file.extend((0..values).map(|i| ((i % 100) as i8 - 50) as u8));
        let scales = values / usize::try_from(group).unwrap_or(1).max(1);
        file.extend((0..scales).flat_map(|i| (i as f32).to_le_bytes()));
    }
    file
}

fn message(checkpoint: &[u8], tokenizer: &[u8]) -> String {
    Files::new(checkpoint, tokenizer).import().unwrap_err().to_string()
}

#[test]
fn version_0_tensors_are_in_their_order() {
    let (model, tokenizer) = Files::new(&version_0(NUMBERS), &tokenizer()).import().unwrap();
    assert_eq!(tokenizer.encode("a\n"), [3 + 32, 259, 13]);
    assert_eq!((model.bos, &model.eos[..]), (Some(1), &[1, 2][..]));
    let first = |n: f32| move |data: &[f32]| assert_eq!(data[0], n, "{data:?}");
    let mut at = 260.0 * 8.0;
    let [l0, l1] = &model.layers[..] else { panic!() };
    let mut both = |a: &[f32], b: &[f32]| {
        first(at)(a);
        first(at + a.len() as f32)(b);
        at += 2.0 * a.len() as f32;
    };
    both(&l0.ln1.gain, &l1.ln1.gain);
    both(&l0.wq.data, &l1.wq.data);
    both(&l0.wk.data, &l1.wk.data);
    both(&l0.wv.data, &l1.wv.data);
    both(&l0.wo.data, &l1.wo.data);
    both(&l0.ln2.gain, &l1.ln2.gain);
    both(&l0.w_gate.as_ref().unwrap().data, &l1.w_gate.as_ref().unwrap().data);
    both(&l0.w2.data, &l1.w2.data);
    both(&l0.w1.data, &l1.w1.data);
    assert_eq!(model.final_norm.unwrap().gain[0], at);
    assert_eq!(model.head, None);
}

#[test]
fn query_and_key_rows_go_from_pairs_to_halves() {
    let (model, _) = Files::new(&version_0(NUMBERS), &tokenizer()).import().unwrap();
    let start = 260 * 8 + 2 * 8;
    // Two heads of four rows: 0 2 1 3, then 4 6 5 7.
    for (row, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(model.layers[0].wq.row(row)[0], (start + from * 8) as f32);
    }
    let start = start + 2 * 64;
    for (row, from) in [0, 2, 1, 3].into_iter().enumerate() {
        assert_eq!(model.layers[0].wk.row(row)[7], (start + from * 8 + 7) as f32);
    }
}

#[test]
fn a_negative_vocabulary_means_a_head_of_its_own() {
    let mut numbers = NUMBERS;
    numbers[5] = -260;
    let file = version_0(numbers);
    let (model, _) = Files::new(&file, &tokenizer()).import().unwrap();
    assert!(!model.shape.tied_embeddings);
    let head = model.head.unwrap();
    assert_eq!(head.data.len(), 260 * 8);
    assert_eq!(head.data.last().unwrap().to_le_bytes(), file[file.len() - 4..]);
}

#[test]
fn version_2_tensors_are_in_their_order() {
    for shared in [true, false] {
        let (model, _) = Files::new(&version_2(shared, 4), &tokenizer()).import().unwrap();
        assert_eq!(model.layers[1].ln1.gain[0], 8.0);
        assert_eq!(model.layers[0].ln2.gain[0], 16.0);
        assert_eq!(model.final_norm.as_ref().unwrap().gain[0], 32.0);
        // Value 5 of every tensor is in group 1.
        assert_eq!(model.embedding.data[5], -45.0);
        assert_eq!(model.layers[1].w2.data[5], -45.0);
        assert_eq!(model.layers[1].w2.data[95], (95 - 50) as f32 * 23.0);
        assert_eq!(model.head.is_none(), shared);
        if let Some(head) = &model.head {
            assert_eq!(head.data[5], -45.0);
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let tokenizer = tokenizer();
    for whole in [version_0(NUMBERS), version_2(true, 4)] {
        for length in (0..300).step_by(3).chain([whole.len() / 2, whole.len() - 4, whole.len() - 1]) {
            let error = message(&whole[..length], &tokenizer);
            assert!(error.contains("too short") || error.contains("truncated"), "{length}: {error}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(message(&longer, &tokenizer).contains("checkpoint with this header has"));
    }
    let whole = version_0(NUMBERS);
    for length in
        (0..40).chain((40..tokenizer.len() - 40).step_by(53)).chain(tokenizer.len() - 40..tokenizer.len())
    {
        assert!(matches!(Files::new(&whole, &tokenizer[..length]).import(), Err(Error::Format { .. })));
    }
}

#[test]
fn headers_that_make_no_model_are_errors() {
    let tokenizer = tokenizer();
    for (place, value, expected) in [
        (0, -8, "`d_model` must be 1 to 65536"),
        (0, 7, "2 heads of a width of 7"),
        (0, i32::MAX - 1, "`d_model` must be 1 to 65536"),
        (1, 0, "`d_ff`"),
        (1, i32::MAX, "`d_ff`"),
        (2, -1, "`n_layers`"),
        (2, 256, "checkpoint with this header has"),
        (3, 0, "0 heads"),
        (3, 8, "`head_dim` must be even"),
        (4, 3, "`n_kv_heads`"),
        (5, 0, "`vocab`"),
        (5, i32::MIN, "`vocab`"),
        (6, 0, "`max_seq`"),
        (6, 65_536, "checkpoint with this header has"),
    ] {
        let mut numbers = NUMBERS;
        numbers[place] = value;
        let mut file = version_0(NUMBERS);
        file[..28].copy_from_slice(&numbers.map(i32::to_le_bytes).concat());
        let error = message(&file, &tokenizer);
        assert!(error.contains("model.bin") && error.contains(expected), "{numbers:?}: {error}");
    }
    for (at, value, expected) in [
        (4, 1, "version 1; only 0 and 2"),
        (36, 2, "shared head is 2"),
        (37, 0, "group size is not positive"),
        (37, -1, "group size is not positive"),
        (37, 64, "groups of 64 do not divide"),
        (37, i32::MAX, "do not divide"),
    ] {
        let mut file = version_2(true, 4);
        file[at..at + if at == 36 { 1 } else { 4 }]
            .copy_from_slice(&i32::to_le_bytes(value)[..if at == 36 { 1 } else { 4 }]);
        let error = message(&file, &tokenizer);
        assert!(error.contains(expected), "{value} at {at}: {error}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let mut file = version_0(NUMBERS);
    file[28..32].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = message(&file, &tokenizer());
    assert!(error.contains("model.bin") && error.contains("embed_tokens.weight`: value 0 is NaN"), "{error}");
}

#[test]
fn tokenizers_that_are_none_are_errors() {
    let whole = version_0(NUMBERS);
    let entry = |score: f32, length: i32, text: &[u8]| {
        [&score.to_le_bytes()[..], &length.to_le_bytes(), text].concat()
    };
    // All tokens but the last, "a".
    let start = &tokenizer()[..tokenizer().len() - 9];
    for (last, expected) in [
        (entry(0.0, -1, b"a"), "token 259 has -1 bytes"),
        (entry(0.0, i32::MAX, b"a"), "ends within token 259"),
        (entry(f32::NAN, 1, b"a"), "the score of token 259 is NaN"),
        (entry(0.0, 1, &[0xFF]), "token 259 is not UTF-8"),
        (entry(0.0, 0, b""), "token 259 is empty"),
        (entry(0.0, 6, b"<0x00>"), "tokens 3 and 259 are the same"),
        ([entry(0.0, 1, b"a"), entry(0.0, 1, b"b")].concat(), "261 tokens, but the checkpoint has 260"),
        (vec![], "259 tokens, but the checkpoint has 260"),
    ] {
        let error = message(&whole, &[start, &last].concat());
        assert!(error.contains("tok.bin") && error.contains(expected), "{error}");
    }
    let mut bytes_elsewhere = tokenizer();
    let at = bytes_elsewhere.windows(6).position(|w| w == b"<0x41>").unwrap();
    bytes_elsewhere[at + 3] = b'X';
    assert!(message(&whole, &bytes_elsewhere).contains("token 68 is not <0x41>"));
}

#[test]
fn missing_files_are_named() {
    let files = Files::new(&version_0(NUMBERS), &tokenizer());
    fs::remove_file(files.tokenizer()).unwrap();
    assert!(files.import().unwrap_err().to_string().contains("tok.bin"));
    fs::remove_file(files.checkpoint()).unwrap();
    assert!(files.import().unwrap_err().to_string().contains("model.bin"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_header_is_a_model_or_an_error(header in prop::collection::vec(any::<u8>(), 41), magic: bool) {
        let mut file = header;
        if magic {
            file[..8].copy_from_slice(&version_2(true, 4)[..8]);
        }
        file.resize(1000, 0);
        prop_assert!(Files::new(&file, &tokenizer()).import().is_err());
    }
}
