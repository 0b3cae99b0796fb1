//! From a tokenizer to `tokenizer.json`.

use serde_json::{Map, Value, json};

use super::{Kind, Token, Tokenizer, name, normalizer, sentencepiece_decoder};

/// The whole file.
pub(super) fn file(tokenizer: &Tokenizer, bos: Option<u32>) -> Value {
    let names: Vec<String> = tokenizer.tokens.iter().map(|t| name(tokenizer.kind, t)).collect();
    let vocab: Map<String, Value> = names.iter().cloned().zip((0..).map(|id: u32| json!(id))).collect();
    let merges: Vec<String> = tokenizer
        .merges
        .iter()
        .map(|m| format!("{} {}", names[m.left as usize], names[m.right as usize]))
        .collect();
    let controls = || {
        tokenizer.tokens.iter().enumerate().filter_map(|(id, token)| match token {
            Token::Control(name) => Some((id, name.as_str())),
            _ => None,
        })
    };
    let added: Vec<Value> = controls()
        .map(|(id, name)| {
            json!({
                "id": id,
                "content": name,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    let (normalizer, pre_tokenizer, decoder) = match tokenizer.kind {
        Kind::Ascii => (Value::Null, Value::Null, json!({"type": "Fuse"})),
        Kind::Bytes => (
            Value::Null,
            Value::Null,
            json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
        ),
        Kind::SentencePiece => {
            (normalizer(tokenizer.dummy_prefix), Value::Null, sentencepiece_decoder(tokenizer.dummy_prefix))
        }
        Kind::ByteLevel => {
            let byte_level = json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": false,
            });
            (Value::Null, byte_level.clone(), byte_level)
        }
    };
    let unknown = match tokenizer.kind {
        Kind::Ascii => Some("?"),
        Kind::SentencePiece => controls().map(|(_, name)| name).find(|&name| name == "<unk>"),
        Kind::Bytes | Kind::ByteLevel => None,
    };
    let mut model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": matches!(tokenizer.kind, Kind::Bytes | Kind::SentencePiece),
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    let ranks = tokenizer.merges.iter().map(|m| m.rank);
    if !ranks.clone().eq(0..merges.len() as u32) {
        model["pageformer_ranks"] = ranks.collect();
    }
    let post_processor = controls()
        .find(|&(id, _)| bos.is_some_and(|bos| bos as usize == id))
        .map(|(id, name)| begin_with(id, name));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    })
}

/// The post-processor that puts a control token before a text.
fn begin_with(id: usize, name: &str) -> Value {
    let token = json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    let mut special = Map::new();
    special.insert(name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}));
    json!({
        "type": "TemplateProcessing",
        "single": [token, text("A", 0)],
        "pair": [token, text("A", 0), text("B", 1)],
        "special_tokens": special,
    })
}
