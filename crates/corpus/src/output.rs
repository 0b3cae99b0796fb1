//! The files: JSON Lines of conversations, and the list of intents.

use serde::Serialize;

use crate::generate::{Corpus, Kind};
use crate::talk::Item;

/// A finished file.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name inside the corpus folder.
    pub name: &'static str,
    /// Its content.
    pub text: String,
}

#[derive(Serialize)]
struct Line<'a> {
    messages: Vec<Message<'a>>,
    intent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Intent<'a> {
    id: &'a str,
    group: &'a str,
    answers: &'a [String],
}

/// The three files of a corpus.
///
/// - `train.jsonl`, `heldout.jsonl`: a conversation a line, `{"messages": [{"role", "content"}, ...], "intent"}`; held-out
///   lines have a `kind`, too (see [`Kind`]). `intent` is that of the last question.
/// - `intents.json`: a list of `{"id", "group", "answers"}`. A reply is right if it is one of the `answers`.
pub fn files(corpus: &Corpus) -> serde_json::Result<[File; 3]> {
    Ok([
        File { name: "train.jsonl", text: lines(corpus, &corpus.train)? },
        File { name: "heldout.jsonl", text: lines(corpus, &corpus.heldout)? },
        File { name: "intents.json", text: intents(corpus)? },
    ])
}

fn lines(corpus: &Corpus, items: &[Item]) -> serde_json::Result<String> {
    let mut text = String::new();
    for item in items {
        let messages = item.turns.iter().flat_map(|turn| {
            [
                Message { role: "user", content: &turn.question },
                Message { role: "assistant", content: &turn.answer },
            ]
        });
        let kind = (item.kind != Kind::Train).then(|| item.kind.name());
        let intent = item.turns.last().map_or("", |turn| &corpus.leaves[turn.leaf].id);
        let line = Line { messages: messages.collect(), intent, kind };
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

/// One intent a line, so that changes are readable.
fn intents(corpus: &Corpus) -> serde_json::Result<String> {
    let mut rows = Vec::new();
    for leaf in &corpus.leaves {
        rows.push(serde_json::to_string(&Intent {
            id: &leaf.id,
            group: &leaf.group,
            answers: &leaf.answers,
        })?);
    }
    Ok(format!("[\n{}\n]\n", rows.join(",\n")))
}
