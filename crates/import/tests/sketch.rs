//! Cards of the original sketch, made here from the description of the format, whole and broken.

use std::fs;
use std::path::Path;

use pageformer_card::{Mlp, Norm};
use pageformer_import::sketch;
use pageformer_model::{Model, Reference, Tokenizer};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const D: usize = 16;
const FF: usize = 24;
const HEADS: usize = 4;
const HEAD_DIM: usize = D / HEADS;

/// Value `i` of tensor number `t`.
fn q(t: usize, i: usize) -> i8 {
    ((t * 31 + i * 7) % 255) as i8
}

fn scale(t: usize) -> f32 {
    0.001 * (t + 1) as f32
}

/// A card of two layers, and its index.
struct Card {
    dir: TempDir,
    index: Map<String, Value>,
}

impl Card {
    fn new() -> Self {
        let mut card = Card { dir: tempfile::tempdir().unwrap(), index: Map::new() };
        card.index.insert("seq".into(), json!(48));
        card.index.insert("author".into(), json!({"of": ["unknown", 1]}));
        let mut t = 0;
        let mut tensor = |card: &mut Card, name: String, rows: usize, cols: usize| {
            card.tensor(&name, t, rows, cols);
            t += 1;
        };
        tensor(&mut card, "emb_weight".into(), 128, D);
        for n in 0..2 {
            tensor(&mut card, format!("dec{n}_Wq"), D, D);
            tensor(&mut card, format!("dec{n}_Wk_shared"), HEAD_DIM, D);
            tensor(&mut card, format!("dec{n}_Wv_shared"), HEAD_DIM, D);
            tensor(&mut card, format!("dec{n}_Wo"), D, D);
            tensor(&mut card, format!("dec{n}_W1"), FF, D);
            tensor(&mut card, format!("dec{n}_W2"), D, FF);
            for ln in ["ln1", "ln2"] {
                let values = (0..2 * D).map(|i| 1.0 - (i + n) as f32 / 100.0);
                card.write(
                    &format!("dec{n}_{ln}.bin"),
                    &values.flat_map(f32::to_le_bytes).collect::<Vec<_>>(),
                );
            }
        }
        card.write_index();
        card
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.path().join(file), bytes).unwrap();
    }

    fn write_index(&self) {
        self.write("index.json", Value::from(self.index.clone()).to_string().as_bytes());
    }

    fn tensor(&mut self, name: &str, t: usize, rows: usize, cols: usize) {
        let mut bytes: Vec<u8> = (0..rows * cols).map(|i| q(t, i) as u8).collect();
        bytes.extend(scale(t).to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let mut files = Vec::new();
        for (i, page) in bytes.chunks(512).enumerate() {
            let file = format!("{name}_{i:04}.bin");
            self.write(&file, page);
            files.push(file);
        }
        self.index.insert(name.into(), json!(files));
        self.index.insert(format!("{name}_shape"), json!([rows, cols]));
    }

    fn import(&self) -> Result<(Model, Tokenizer), String> {
        sketch(self.path(), HEADS as u32).map_err(|e| e.to_string())
    }

    /// Asserts that the card, once changed, is refused with a message of these parts.
    fn refused(change: impl FnOnce(&mut Card), parts: &[&str]) {
        let mut card = Card::new();
        change(&mut card);
        card.write_index();
        let error = card.import().unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\n{parts:?}");
    }
}

#[test]
fn the_shape_is_found() {
    let (model, tokenizer) = Card::new().import().unwrap();
    let s = model.shape;
    assert_eq!((s.n_layers, s.d_model, s.d_ff, s.vocab, s.max_seq), (2, 16, 24, 128, 48));
    assert_eq!((s.n_heads, s.n_kv_heads, s.head_dim), (4, 1, 4));
    assert_eq!((s.norm, s.mlp, s.tied_embeddings, s.final_norm), (Norm::Layer, Mlp::Gelu, true, false));
    assert_eq!((s.norm_eps, s.rope_theta), (1e-5, 10_000.0));
    assert_eq!(tokenizer, Tokenizer::ascii());
    assert_eq!((model.bos, model.eos), (None, vec![]));

    let mut card = Card::new();
    card.index.shift_remove("seq");
    card.write_index();
    assert_eq!(card.import().unwrap().0.shape.max_seq, 64);
}

#[test]
fn weights_are_found() {
    let (model, _) = Card::new().import().unwrap();
    let is_tensor = |data: &[f32], t: usize| {
        for (i, w) in data.iter().enumerate() {
            assert_eq!(*w, f32::from(q(t, i)) * scale(t), "value {i} of tensor {t}");
        }
    };
    is_tensor(&model.embedding.data, 0);
    let last = &model.layers[1];
    is_tensor(&last.wv.data, 9);
    is_tensor(&last.wo.data, 10);
    is_tensor(&last.w1.data, 11);
    is_tensor(&last.w2.data, 12);
    assert_eq!(last.ln2.gain[3], 1.0 - 4.0 / 100.0);
    assert_eq!(last.ln2.bias.as_ref().unwrap()[3], 1.0 - 20.0 / 100.0);
    // Rows of a head of four: pairs (0, 1), (2, 3) to halves (0, 2), (1, 3).
    for (row, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(last.wq.row(row)[5], f32::from(q(7, from * D + 5)) * scale(7));
    }
    assert_eq!(last.wk.row(1)[0], f32::from(q(8, 2 * D)) * scale(8));
}

/// The first layer's attention over two tokens by the paper's own rotation of adjacent channels, against the
/// imported model.
#[test]
fn rotation_is_over_adjacent_channels() {
    // With both W2 and the other layer's Wo zero, only layer 0's attention is left.
    let card = Card::new();
    for name in ["dec0_W2", "dec1_W2", "dec1_Wo"] {
        for file in card.index[name].as_array().unwrap().clone() {
            card.write(file.as_str().unwrap(), &[0; 512]);
        }
    }
    let (model, _) = card.import().unwrap();
    let tokens = [65u32, 7, 65];
    let ours = Reference::new(&model).unwrap().logits_all(&tokens).unwrap().pop().unwrap();

    let tensor = |t: usize, rows: usize, cols: usize| {
        move |x: &[f64]| -> Vec<f64> {
            let w = |r: usize, c: usize| f64::from(f32::from(q(t, r * cols + c)) * scale(t));
            (0..rows).map(|r| (0..cols).map(|c| w(r, c) * x[c]).sum()).collect()
        }
    };
    let embed = |id: u32| -> Vec<f64> {
        (0..D).map(|i| f64::from(f32::from(q(0, id as usize * D + i)) * scale(0))).collect()
    };
    let norm = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / D as f64;
        let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / D as f64;
        let gain = |i: usize| f64::from(1.0 - i as f32 / 100.0);
        (0..D).map(|i| (x[i] - mean) / (var + 1e-5).sqrt() * gain(i) + gain(i + D)).collect()
    };
    let rotate = |mut x: Vec<f64>, position: usize| {
        for (i, v) in x.chunks_mut(2).enumerate() {
            let pair = i % (HEAD_DIM / 2);
            let angle = position as f64 / 10_000f64.powf(2.0 * pair as f64 / HEAD_DIM as f64);
            (v[0], v[1]) = (v[0] * angle.cos() - v[1] * angle.sin(), v[0] * angle.sin() + v[1] * angle.cos());
        }
        x
    };
    let normed: Vec<_> = tokens.iter().map(|&id| norm(&embed(id))).collect();
    let keys: Vec<_> = (0..3).map(|p| rotate(tensor(2, HEAD_DIM, D)(&normed[p]), p)).collect();
    let values: Vec<_> = (0..3).map(|p| tensor(3, HEAD_DIM, D)(&normed[p])).collect();
    let query = rotate(tensor(1, D, D)(&normed[2]), 2);
    let mut heads = Vec::new();
    for q in query.chunks(HEAD_DIM) {
        let score = |k: &Vec<f64>| (q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / 2.0).exp();
        let weights: Vec<f64> = keys.iter().map(score).collect();
        let sum: f64 = weights.iter().sum();
        heads.extend((0..HEAD_DIM).map(|c| (0..3).map(|p| weights[p] / sum * values[p][c]).sum::<f64>()));
    }
    let delta = tensor(4, D, D)(&heads);
    let x: Vec<f64> = embed(65).iter().zip(delta).map(|(x, d)| x + d).collect();
    let expected = tensor(0, 128, D)(&x);
    for (ours, expected) in ours.iter().zip(expected) {
        assert!((f64::from(*ours) - expected).abs() < 1e-4, "{ours} and {expected}");
    }
}

#[test]
fn masked_blocks_are_zero() {
    let mut card = Card::new();
    // W1 is 24 x 16: 6 x 4 blocks. Keep all but block (0, 1) and block (5, 3).
    card.index.insert("dec0_W1.mask".into(), json!("dec0_W1.mask"));
    card.write("dec0_W1.mask", &[0b1111_1101, 0xFF, 0b0111_1111]);
    card.write_index();
    let (model, _) = card.import().unwrap();
    for r in 0..FF {
        for c in 0..D {
            let pruned = (r / 4 == 0 && c / 4 == 1) || (r / 4 == 5 && c / 4 == 3);
            let whole = f32::from(q(5, r * D + c)) * scale(5);
            assert_eq!(model.layers[0].w1.row(r)[c], if pruned { 0.0 } else { whole }, "({r}, {c})");
        }
    }
    // A mask in a whole page says the same.
    let mut page = [0; 512];
    page[..3].copy_from_slice(&[0b1111_1101, 0xFF, 0b0111_1111]);
    card.write("dec0_W1.mask", &page);
    assert_eq!(card.import().unwrap().0, model);
}

#[test]
fn files_that_are_missing_or_of_the_wrong_length_are_named() {
    let remove = |file: &'static str| move |c: &mut Card| fs::remove_file(c.path().join(file)).unwrap();
    Card::refused(remove("dec1_W2_0000.bin"), &["dec1_W2_0000.bin", "`dec1_W2`", "cannot be read"]);
    Card::refused(remove("dec0_ln2.bin"), &["dec0_ln2.bin", "`dec0_ln2`"]);
    Card::refused(
        |c| c.write("emb_weight_0003.bin", &[0; 511]),
        &["emb_weight_0003.bin", "`emb_weight`", "511 bytes instead of 512"],
    );
    Card::refused(|c| c.write("dec1_ln1.bin", &[0; 64]), &["dec1_ln1.bin", "64 bytes instead of 128"]);
    Card::refused(
        |c| {
            c.index.insert("dec0_Wo.mask".into(), json!("m.mask"));
            c.write("m.mask", &[0xFF; 3]);
        },
        &["m.mask", "`dec0_Wo`", "3 bytes instead of 2"],
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(sketch(empty.path(), 4).unwrap_err().to_string().contains("index.json"));
}

#[test]
fn an_index_that_does_not_fit_is_refused() {
    let set = |key: &'static str, value: Value| move |c: &mut Card| drop(c.index.insert(key.into(), value));
    let unset = |key: &'static str| move |c: &mut Card| drop(c.index.shift_remove(key));
    Card::refused(unset("emb_weight_shape"), &["index.json", "`emb_weight_shape` is missing"]);
    Card::refused(unset("dec1_Wo"), &["tensor `dec1_Wo`: missing"]);
    // A gap between layers is not their end.
    Card::refused(set("dec3_W1", json!([])), &["tensor `dec2_Wq`", "is missing"]);
    Card::refused(set("dec4000000000_W1", json!([])), &["`n_layers` must be 1 to 256"]);
    Card::refused(
        set("dec0_Wo_shape", json!([16, 20])),
        &["`dec0_Wo`: is 16 x 20, the other tensors demand 16 x 16"],
    );
    Card::refused(set("dec0_Wo_shape", json!([16])), &["`dec0_Wo_shape` is [16], not [rows, cols]"]);
    Card::refused(set("dec0_Wo_shape", json!([-1, 16])), &["not [rows, cols]"]);
    Card::refused(set("dec0_Wq_shape", json!([18, 16])), &["18 rows cannot be shared by 4 heads"]);
    Card::refused(set("dec0_Wk_shared_shape", json!([3, 16])), &["3 rows are no multiple of a head's 4"]);
    Card::refused(set("dec0_Wk_shared_shape", json!([12, 16])), &["`n_kv_heads` must be a divisor"]);
    Card::refused(set("emb_weight_shape", json!([4294967295u32, 4294967295u32])), &["must be 1 to 65536"]);
    Card::refused(set("emb_weight_shape", json!([100, 16])), &["has 100 rows; the vocabulary must be ASCII"]);
    Card::refused(
        set("emb_weight", json!([])),
        &["`emb_weight`: 0 pages, 128 x 16 values and a scale need 5"],
    );
    Card::refused(set("dec0_W1", json!([1])), &["1 is not a file's name"]);
    Card::refused(set("dec0_W1", json!(["../secret"])), &["is not the name of a file on the card"]);
    Card::refused(set("dec0_W1", json!(["a/b"])), &["is not the name of a file on the card"]);
    Card::refused(set("dec0_W1.mask", json!(["a", "b"])), &["not one file"]);
    Card::refused(set("seq", json!("many")), &["`seq`: \"many\" is not a number of positions"]);
    Card::refused(set("seq", json!(0)), &["`max_seq` must be"]);
    Card::refused(
        |c| c.write("dec0_Wv_shared_0000.bin", &[0xFF; 512]),
        &["`dec0_Wv_shared`: its scale is NaN"],
    );

    let card = Card::new();
    assert!(sketch(card.path(), 0).unwrap_err().to_string().contains("0 heads"));
    assert!(sketch(card.path(), 3).unwrap_err().to_string().contains("3 heads"));
    card.write("index.json", b"[1, 2]");
    assert!(card.import().unwrap_err().contains("not valid JSON"));
}
