//! A model's folder: what is written can be read, by us and by rule of Hugging Face's keys; what cannot be
//! run is refused.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::model;
use pageformer_card::{Mlp, Norm, Shape};
use pageformer_model::{ChatTemplate, Error, Model, Tokenizer};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a small model and a vocabulary of 128.
fn saved(shape: Shape) -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let mut model = model(Shape { vocab: 128, ..shape });
    model.bos = Some(1);
    model.eos = vec![1, 2];
    model.chat = Some(ChatTemplate { user: "Q: {}\nA:".into(), stop: "\nQ:".into() });
    model.save(&Tokenizer::ascii(), dir.path()).unwrap();
    (dir, model)
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

/// Changes keys of `config.json`.
fn edit(dir: &Path, changes: &[(&str, Value)]) {
    let mut config = config(dir);
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// A tensor: type, dimensions, bytes.
type Raw = (Dtype, Vec<usize>, Vec<u8>);

/// Writes the model's tensors as `change` leaves them.
fn rewrite(dir: &Path, model: &Model, change: impl Fn(&mut HashMap<String, Raw>)) {
    let bytes = |data: &[f32]| data.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors =
        model.tensors().map(|t| (t.name.clone(), (Dtype::F32, t.dims.clone(), bytes(t.data)))).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, dims, bytes))| (name, TensorView::new(*dtype, dims.clone(), bytes).unwrap()));
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn message(dir: &Path) -> String {
    Model::load(dir).unwrap_err().to_string()
}

#[test]
fn every_kind_of_model_survives_the_folder() {
    for norm in [Norm::Rms, Norm::Layer] {
        for mlp in [Mlp::Gelu, Mlp::SwiGlu] {
            for (tied_embeddings, final_norm) in [(true, true), (true, false), (false, true)] {
                for heads in [[3, 1, 4], [4, 2, 4], [5, 5, 2]] {
                    let shape = Shape { tied_embeddings, final_norm, ..common::shape(heads, norm, mlp) };
                    let (dir, model) = saved(shape);
                    let (again, tokenizer) = Model::load(dir.path()).unwrap();
                    assert_eq!(again, model);
                    assert_eq!(tokenizer, Tokenizer::ascii());
                    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "temporary files remain");
                }
            }
        }
    }
}

#[test]
fn a_llama_has_hugging_faces_keys() {
    let (dir, _) = saved(common::llama());
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "max_position_embeddings": 16, "vocab_size": 128, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": [1, 2],
        "attention_bias": false, "mlp_bias": false, "torch_dtype": "float32",
        "pageformer_chat": {"user": "Q: {}\nA:", "stop": "\nQ:"},
    });
    assert_eq!(config(dir.path()), expected);
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let names = metadata.tensors();
    assert_eq!(names["model.layers.1.mlp.gate_proj.weight"].shape, [20, 12]);
    assert_eq!(names["model.layers.0.self_attn.k_proj.weight"].shape, [4, 12]);
    assert!(names.contains_key("lm_head.weight") && names.contains_key("model.norm.weight"));
}

#[test]
fn the_others_of_the_family_say_what_they_are() {
    let (dir, _) = saved(common::sketch());
    let config = config(dir.path());
    for (key, value) in [
        ("model_type", json!("pageformer")),
        ("norm_type", json!("layernorm")),
        ("layer_norm_eps", json!(1e-5)),
        ("mlp_type", json!("gelu")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("final_norm", json!(false)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
}

#[test]
fn absent_keys_have_llamas_defaults() {
    let (dir, model) = saved(Shape { max_seq: 2048, norm_eps: 1e-6, ..common::llama() });
    let mut config = config(dir.path());
    for key in [
        "head_dim",
        "hidden_act",
        "rms_norm_eps",
        "rope_theta",
        "max_position_embeddings",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pageformer_chat",
    ] {
        config.as_object_mut().unwrap().shift_remove(key);
    }
    // transformers 5 writes the base here.
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500.0});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let (again, _) = Model::load(dir.path()).unwrap();
    assert_eq!(again.shape, Shape { rope_theta: 500.0, ..model.shape });
    assert_eq!((again.bos, again.eos, again.chat), (Some(1), vec![2], None));
}

#[test]
fn half_precision_weights_are_read() {
    let (dir, model) = saved(common::llama());
    // The upper half of an f32 is a bf16.
    rewrite(dir.path(), &model, |tensors| {
        for (dtype, _, bytes) in tensors.values_mut() {
            *dtype = Dtype::BF16;
            *bytes = bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
        }
    });
    let (bf16, _) = Model::load(dir.path()).unwrap();
    for (a, b) in model.tensors().zip(bf16.tensors()) {
        assert!(a.data.iter().zip(b.data).all(|(a, b)| f32::from_bits(a.to_bits() & 0xFFFF_0000) == *b));
    }
    // 1.0, -2.0, 65504 and the least subnormal, by the standard's table.
    rewrite(dir.path(), &model, |tensors| {
        let (dtype, dims, bytes) = tensors.get_mut("model.norm.weight").unwrap();
        *dtype = Dtype::F16;
        let halves = [0x3C00u16, 0xC000, 0x7BFF, 0x0001];
        *bytes = halves.iter().cycle().take(dims[0]).flat_map(|h| h.to_le_bytes()).collect();
    });
    let (f16, _) = Model::load(dir.path()).unwrap();
    assert_eq!(f16.final_norm.unwrap().gain[..4], [1.0, -2.0, 65504.0, 2.0f32.powi(-24)]);
}

#[test]
fn tensors_that_say_nothing_new_are_let_through() {
    let (dir, model) = saved(common::shape([3, 1, 4], Norm::Rms, Mlp::SwiGlu));
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let head = |t: &mut HashMap<String, Raw>| {
        t.insert(name.into(), (Dtype::F32, vec![1], vec![0; 4]));
        t.insert("lm_head.weight".into(), t["model.embed_tokens.weight"].clone());
    };
    rewrite(dir.path(), &model, head);
    assert_eq!(Model::load(dir.path()).unwrap().0, model);
    rewrite(dir.path(), &model, |t| {
        head(t);
        t.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    });
    let message = message(dir.path());
    assert!(message.contains("`lm_head.weight`: differs from the embedding"), "{message}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let (dir, model) = saved(common::llama());
    let case = |change: &dyn Fn(&mut HashMap<String, Raw>), expected: &str| {
        rewrite(dir.path(), &model, change);
        let message = message(dir.path());
        assert!(message.contains("model.safetensors") && message.contains(expected), "{message}");
    };
    let q = "model.layers.1.self_attn.q_proj.weight";
    case(&|t| drop(t.remove(q)), "`model.layers.1.self_attn.q_proj.weight`: missing");
    case(
        &|t| t.get_mut(q).unwrap().1 = vec![6, 24],
        "q_proj.weight`: is [6, 24], config.json demands [12, 12]",
    );
    case(
        &|t| {
            let bias = (Dtype::F32, vec![12], vec![0; 48]);
            t.insert("model.layers.0.self_attn.q_proj.bias".into(), bias);
        },
        "`model.layers.0.self_attn.q_proj.bias`: not part of such a model (1 such tensors)",
    );
    case(
        &|t| t.get_mut(q).unwrap().2[8..12].copy_from_slice(&f32::NAN.to_le_bytes()),
        "q_proj.weight`: value 2 is NaN",
    );
    case(&|t| t.get_mut(q).unwrap().0 = Dtype::I32, "q_proj.weight`: is I32; only");
}

#[test]
fn settings_that_cannot_be_run_are_named() {
    for (key, value, expected) in [
        ("model_type", json!("qwen2"), "`qwen2` cannot be run"),
        ("attention_bias", json!(true), "biases in attention"),
        ("mlp_bias", json!(true), "biases in the MLP"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "scaled or partial RoPE"),
        ("rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1e4}), "scaled or partial RoPE"),
        ("rope_interleaved", json!(true), "adjacent pairs"),
        ("sliding_window", json!(4096), "sliding window"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "full_attention"),
        ("quantization_config", json!({"bits": 4}), "quantized"),
        ("partial_rotary_factor", json!(0.5), "it must be 1"),
        ("hidden_act", json!("gelu"), "`gelu` cannot be run, only `silu`"),
        ("hidden_size", json!(null), "missing"),
        ("hidden_size", json!(-1), "-1 is not a whole number"),
        ("hidden_size", json!(1u64 << 40), "not a whole number"),
        ("hidden_size", json!(1 << 20), "must be 1 to 65536"),
        ("num_attention_heads", json!(0), "must be 1 to 1024"),
        ("num_key_value_heads", json!(2), "a divisor of"),
        ("rms_norm_eps", json!("small"), "is not a number"),
        ("tie_word_embeddings", json!(1), "is not true or false"),
        ("bos_token_id", json!(128), "outside the vocabulary of 128"),
        ("eos_token_id", json!([2, "x"]), "a list of token ids"),
        ("pageformer_chat", json!({"user": "no place", "stop": ""}), "one {} for the message"),
    ] {
        let (dir, _) = saved(common::llama());
        edit(dir.path(), &[(key, value.clone())]);
        let message = message(dir.path());
        let named = message.contains("config.json") && message.contains(&format!("`{key}`"));
        assert!(named && message.contains(expected), "{key} = {value}: {message}");
    }
}

#[test]
fn harmless_settings_are_let_through() {
    let (dir, model) = saved(common::llama());
    edit(
        dir.path(),
        &[
            ("sliding_window", json!(4096)),
            ("use_sliding_window", json!(false)),
            ("rope_scaling", json!({"rope_type": "default"})),
            ("layer_types", json!(["full_attention", "full_attention"])),
            ("rope_interleaved", json!(false)),
            ("pretraining_tp", json!(1)),
        ],
    );
    assert_eq!(Model::load(dir.path()).unwrap().0, model);
}

#[test]
fn damaged_and_missing_files_are_named() {
    let (dir, _) = saved(common::llama());
    let weights = dir.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        assert!(matches!(Model::load(dir.path()), Err(Error::Safetensors { .. })), "{length} bytes");
    }
    fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(matches!(Model::load(dir.path()), Err(Error::Json { .. })));
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(message(dir.path()).contains("no tokenizer.json there"));
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let (dir, model) = saved(common::llama());
    assert!(model.save(&Tokenizer::bytes(), dir.path()).is_err());
    fs::write(dir.path().join("tokenizer.json"), Tokenizer::bytes().to_json(None)).unwrap();
    assert!(message(dir.path()).contains("256 tokens, but the model knows 128"));
}

#[test]
fn a_model_that_does_not_fit_itself_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let good = model(Shape { vocab: 128, ..common::llama() });
    let refused = |change: &dyn Fn(&mut Model), expected: &str| {
        let mut model = good.clone();
        change(&mut model);
        let error = model.save(&Tokenizer::ascii(), dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&|m| m.layers[1].wq.data[5] = f32::INFINITY, "q_proj.weight`: value 5 is inf");
    refused(&|m| drop(m.layers.pop()), "1 layers, the shape says 2");
    refused(&|m| m.head = None, "tensors where the shape demands");
    refused(&|m| (m.layers[0].w2.rows, m.layers[0].w2.cols) = (20, 12), "down_proj.weight`: [20, 12]");
    refused(&|m| m.eos = vec![128], "eos: token 128 is outside");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_save_leaves_the_earlier_model() {
    let (dir, earlier) = saved(common::llama());
    // A folder where the last of the temporary files should be.
    let blocker = dir.path().join(format!("tokenizer.json.{}.tmp", std::process::id()));
    fs::create_dir(&blocker).unwrap();
    let mut later = earlier.clone();
    later.embedding.data[0] = 1.0;
    assert!(matches!(later.save(&Tokenizer::ascii(), dir.path()), Err(Error::Io { .. })));
    assert_eq!(Model::load(dir.path()).unwrap().0, earlier);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "temporary files remain");

    fs::remove_dir(blocker).unwrap();
    later.save(&Tokenizer::ascii(), dir.path()).unwrap();
    assert_eq!(Model::load(dir.path()).unwrap().0, later);
}
