//! `config.json`: Hugging Face's keys, read into a [`Shape`] and written from one.
//!
//! A model with RMSNorm, SwiGLU and a final norm is a Llama, and its file is one that `transformers` accepts.
//! The others of the family have the `model_type` `pageformer` and further keys: `norm_type` (`rmsnorm`, or
//! `layernorm` with `layer_norm_eps`), `mlp_type` (`swiglu` or `gelu`) and `final_norm`. The chat template is
//! under `pageformer_chat` in both.
//!
//! What would change the result and cannot be computed is an error, not ignored.

use std::path::Path;

use pageformer_card::{Mlp, Norm, Shape};
use serde_json::{Map, Value, json};

use crate::{ChatTemplate, Error, Model};

/// What `config.json` says.
pub(crate) struct Config {
    pub shape: Shape,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub chat: Option<ChatTemplate>,
}

/// The keys of a `config.json`, and where it is.
struct Keys<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Keys<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_path_buf(), key: key.into(), problem: problem.into() }
    }

    /// The value of a key; none where it is absent or null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    fn count(&self, key: &str) -> Result<Option<u32>, Error> {
        let number = |v: &Value| {
            let n = v.as_u64().and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| self.error(key, format!("{v} is not a whole number from 0 to 4294967295")))
        };
        self.get(key).map(number).transpose()
    }

    fn real(&self, key: &str) -> Result<Option<f32>, Error> {
        let number = |v: &Value| v.as_f64().ok_or_else(|| self.error(key, format!("{v} is not a number")));
        Ok(self.get(key).map(number).transpose()?.map(|v| v as f32))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        let flag =
            |v: &Value| v.as_bool().ok_or_else(|| self.error(key, format!("{v} is not true or false")));
        self.get(key).map(flag).transpose()
    }

    fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        let text = |v| Value::as_str(v).ok_or_else(|| self.error(key, format!("{v} is not a string")));
        self.get(key).map(text).transpose()
    }

    /// A choice between strings.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice);
        let names = || choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        Ok(Some(found.ok_or_else(|| self.error(key, format!("`{text}` cannot be run, only {}", names())))?))
    }
}

/// Reads the contents of a `config.json`.
pub(crate) fn read(path: &Path, text: &[u8]) -> Result<Config, Error> {
    let map =
        serde_json::from_slice(text).map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
    let keys = Keys { path, map };

    let llama = match keys.required("model_type", keys.text("model_type")?)? {
        "llama" => true,
        "pageformer" => false,
        other => {
            let problem = format!("`{other}` cannot be run, only `llama` and `pageformer`");
            return Err(keys.error("model_type", problem));
        }
    };
    reject_unsupported(&keys)?;

    let mlp = if llama {
        keys.choice("hidden_act", &[("silu", ())])?;
        Mlp::SwiGlu
    } else {
        let mlp = keys.choice("mlp_type", &[("swiglu", Mlp::SwiGlu), ("gelu", Mlp::Gelu)])?;
        let mlp = keys.required("mlp_type", mlp)?;
        keys.choice("hidden_act", &[(activation(mlp), ())])?;
        mlp
    };
    let norm = if llama {
        Norm::Rms
    } else {
        let norm = keys.choice("norm_type", &[("rmsnorm", Norm::Rms), ("layernorm", Norm::Layer)])?;
        keys.required("norm_type", norm)?
    };
    let final_norm = if llama { true } else { keys.required("final_norm", keys.flag("final_norm")?)? };

    let d_model = keys.required("hidden_size", keys.count("hidden_size")?)?;
    let n_heads = keys.required("num_attention_heads", keys.count("num_attention_heads")?)?;
    let head_dim = match keys.count("head_dim")? {
        Some(head_dim) => head_dim,
        None => d_model.checked_div(n_heads).unwrap_or(0),
    };
    // Where a key may be absent, its default is LlamaConfig's.
    let shape = Shape {
        n_layers: keys.required("num_hidden_layers", keys.count("num_hidden_layers")?)?,
        d_model,
        d_ff: keys.required("intermediate_size", keys.count("intermediate_size")?)?,
        vocab: keys.required("vocab_size", keys.count("vocab_size")?)?,
        max_seq: keys.count("max_position_embeddings")?.unwrap_or(2048),
        n_heads,
        n_kv_heads: keys.count("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        norm,
        norm_eps: keys.real(eps_key(norm))?.unwrap_or(1e-6),
        mlp,
        rope_theta: rope_theta(&keys)?,
        tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        final_norm,
    };
    shape.check().map_err(|e| keys.error(hf_key(e.key, norm), format!("must be {}", e.must)))?;

    let bos = match keys.map.get("bos_token_id") {
        None if llama => Some(1),
        _ => keys.count("bos_token_id")?,
    };
    let eos = match keys.map.get("eos_token_id") {
        None if llama => vec![2],
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| keys.error("eos_token_id", "must be a token id or a list of token ids"))?,
        Some(_) => keys.count("eos_token_id")?.into_iter().collect(),
    };
    for (key, id) in
        bos.iter().map(|id| ("bos_token_id", id)).chain(eos.iter().map(|id| ("eos_token_id", id)))
    {
        if *id >= shape.vocab {
            let problem =
                format!("{id} is outside the vocabulary of {}; name a token of it, or null", shape.vocab);
            return Err(keys.error(key, problem));
        }
    }
    Ok(Config { shape, bos, eos, chat: chat(&keys)? })
}

/// Refuses every setting that would change the result and that the forward pass does not have.
fn reject_unsupported(keys: &Keys<'_>) -> Result<(), Error> {
    for (key, what) in [
        ("attention_bias", "biases in attention"),
        ("mlp_bias", "biases in the MLP"),
        ("use_bias", "biases"),
        ("rope_interleaved", "RoPE over adjacent pairs (permute the rows of q_proj and k_proj instead)"),
        ("use_sliding_window", "a sliding window"),
    ] {
        if keys.flag(key)?.unwrap_or(false) {
            return Err(keys.error(key, format!("{what} cannot be run; it must be false")));
        }
    }
    if keys.get("sliding_window").is_some() && keys.flag("use_sliding_window")? != Some(false) {
        return Err(keys.error("sliding_window", "a sliding window cannot be run; it must be null"));
    }
    if let Some(types) = keys.get("layer_types").and_then(Value::as_array)
        && types.iter().any(|t| t != "full_attention")
    {
        return Err(keys.error("layer_types", "only `full_attention` can be run"));
    }
    if keys.get("quantization_config").is_some() {
        return Err(keys.error(
            "quantization_config",
            "quantized weights cannot be read; use the model in f32, f16 or bf16",
        ));
    }
    if keys.real("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(keys
            .error("partial_rotary_factor", "RoPE over a part of the channels cannot be run; it must be 1"));
    }
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(key) else { continue };
        let kind = value.get("rope_type").or_else(|| value.get("type"));
        // `rope_parameters` is where transformers 5 puts `rope_theta`; without a type nothing is scaled.
        let plain = match kind.and_then(Value::as_str) {
            Some(kind) => kind == "default",
            None => key == "rope_parameters" && kind.is_none(),
        };
        let partial = value.get("partial_rotary_factor").is_some_and(|f| f.as_f64() != Some(1.0));
        if !plain || partial {
            return Err(keys.error(
                key,
                format!("{value}: scaled or partial RoPE cannot be run, only the plain one; it must be null"),
            ));
        }
    }
    Ok(())
}

fn rope_theta(keys: &Keys<'_>) -> Result<f32, Error> {
    if let Some(theta) = keys.real("rope_theta")? {
        return Ok(theta);
    }
    match keys.get("rope_parameters").and_then(|p| p.get("rope_theta")) {
        Some(v) => match v.as_f64() {
            Some(theta) => Ok(theta as f32),
            None => Err(keys.error("rope_parameters", format!("`rope_theta`: {v} is not a number"))),
        },
        None => Ok(10_000.0),
    }
}

fn chat(keys: &Keys<'_>) -> Result<Option<ChatTemplate>, Error> {
    let Some(value) = keys.get("pageformer_chat") else { return Ok(None) };
    let text = |part: &str| value.get(part).and_then(Value::as_str).map(str::to_owned);
    match (text("user"), text("stop")) {
        (Some(user), Some(stop)) if user.matches("{}").count() == 1 => Ok(Some(ChatTemplate { user, stop })),
        _ => Err(keys.error(
            "pageformer_chat",
            "must have the strings `user`, with one {} for the message, and `stop`",
        )),
    }
}

/// The contents of a `config.json` for this model.
pub(crate) fn write(model: &Model) -> String {
    let s = &model.shape;
    // `transformers` refuses a Llama whose width is no multiple of its heads, even where `head_dim` is given.
    let llama =
        s.norm == Norm::Rms && s.mlp == Mlp::SwiGlu && s.final_norm && s.d_model.is_multiple_of(s.n_heads);
    let eos = match model.eos[..] {
        [] => Value::Null,
        [id] => json!(id),
        _ => json!(model.eos),
    };
    let mut config = json!({
        "architectures": [if llama { "LlamaForCausalLM" } else { "PageformerForCausalLM" }],
        "model_type": if llama { "llama" } else { "pageformer" },
        "vocab_size": s.vocab,
        "hidden_size": s.d_model,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "num_key_value_heads": s.n_kv_heads,
        "head_dim": s.head_dim,
        "hidden_act": activation(s.mlp),
        "max_position_embeddings": s.max_seq,
        (eps_key(s.norm)): shortest(s.norm_eps),
        "rope_theta": shortest(s.rope_theta),
        "rope_scaling": null,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": s.tied_embeddings,
        "bos_token_id": model.bos,
        "eos_token_id": eos,
        "torch_dtype": "float32",
    });
    if !llama {
        config["norm_type"] = json!(match s.norm {
            Norm::Rms => "rmsnorm",
            Norm::Layer => "layernorm",
        });
        config["mlp_type"] = json!(match s.mlp {
            Mlp::Gelu => "gelu",
            Mlp::SwiGlu => "swiglu",
        });
        config["final_norm"] = json!(s.final_norm);
    }
    if let Some(chat) = &model.chat {
        config["pageformer_chat"] = json!({"user": chat.user, "stop": chat.stop});
    }
    format!("{config:#}\n")
}

/// Hugging Face's name for the activation in this MLP.
fn activation(mlp: Mlp) -> &'static str {
    match mlp {
        Mlp::Gelu => "gelu_pytorch_tanh",
        Mlp::SwiGlu => "silu",
    }
}

fn eps_key(norm: Norm) -> &'static str {
    match norm {
        Norm::Rms => "rms_norm_eps",
        Norm::Layer => "layer_norm_eps",
    }
}

/// The key of `config.json` for a key of a [`Shape`].
fn hf_key(key: &'static str, norm: Norm) -> &'static str {
    match key {
        "n_layers" => "num_hidden_layers",
        "d_model" => "hidden_size",
        "d_ff" => "intermediate_size",
        "vocab" => "vocab_size",
        "max_seq" => "max_position_embeddings",
        "n_heads" => "num_attention_heads",
        "n_kv_heads" => "num_key_value_heads",
        "eps" => eps_key(norm),
        "theta" => "rope_theta",
        other => other,
    }
}

/// The shortest decimal that reads back as this f32 (1e-5, not 9.999999747378752e-6).
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
