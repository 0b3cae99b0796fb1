//! `pageformer eval --chat`: are the answers right?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::session::{HostSession, explain};
use crate::ui::{Progress, Table, bar};

/// Tokens of an answer at most.
const MAX_TOKENS: u32 = 80;

/// A line of a set of questions.
#[derive(Deserialize)]
struct Question {
    messages: Vec<Message>,
    intent: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// What is right for an intent.
#[derive(Deserialize)]
struct Intent {
    id: String,
    group: String,
    answers: Vec<String>,
}

/// Right answers, questions.
#[derive(Clone, Copy, Default)]
struct Count {
    right: usize,
    all: usize,
}

impl Count {
    fn share(&self) -> f64 {
        self.right as f64 / self.all.max(1) as f64
    }

    fn text(&self) -> String {
        if self.all == 0 { "-".into() } else { format!("{:.1} %", 100.0 * self.share()) }
    }
}

/// A wrong answer.
struct Wrong {
    set: &'static str,
    intent: String,
    question: String,
    answer: String,
}

/// Asks every question of `corpus` (a folder with `intents.json`, `heldout.jsonl` and `train.jsonl`), greedily and each in a fresh
/// conversation, and counts the answers that are one of the asked intent's. Of the training questions, `sample` are asked, evenly
/// spread.
pub fn eval_chat(
    session: &mut HostSession<'_>,
    corpus: &Path,
    sample: Option<usize>,
    show_wrong: bool,
    as_json: bool,
) -> Result<()> {
    let Some(chat) = session.manifest().chat else {
        bail!("this card has no chat template; train it on chats first");
    };
    let path = corpus.join("intents.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let intents: Vec<Intent> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let intents: BTreeMap<&str, &Intent> = intents.iter().map(|i| (i.id.as_str(), i)).collect();

    let mut groups: BTreeMap<&str, [Count; 2]> = BTreeMap::new();
    let mut wrong = Vec::new();
    let sets = [("held out", "heldout.jsonl", None), ("training", "train.jsonl", sample)];
    for (number, (set, file, most)) in sets.into_iter().enumerate() {
        let questions = questions(&corpus.join(file))?;
        let asked = most.unwrap_or(questions.len()).min(questions.len());
        let mut progress = Progress::new("asking");
        for i in 0..asked {
            let question = &questions[i * questions.len() / asked];
            let Some(intent) = intents.get(question.intent.as_str()) else {
                bail!("{file}: the intent `{}` is not in intents.json", question.intent);
            };
            let answer = ask(session, question, chat.user.as_str(), chat.stop.as_str())?;
            let right = intent.answers.contains(&answer);
            let count = &mut groups.entry(&intent.group).or_default()[number];
            count.all += 1;
            count.right += usize::from(right);
            if !right {
                let asked = question.messages.iter().filter(|m| m.role == "user").map(|m| m.content.as_str());
                let question = asked.collect::<Vec<_>>().join(" / ");
                wrong.push(Wrong { set, intent: intent.id.clone(), question, answer });
            }
            progress.set(i as u64 + 1, asked as u64);
        }
    }
    let total = |set: usize| {
        groups.values().fold(Count::default(), |sum, counts| Count {
            right: sum.right + counts[set].right,
            all: sum.all + counts[set].all,
        })
    };
    if as_json {
        let count = |c: Count| json!({ "right": c.right, "asked": c.all, "share": c.share() });
        let by_group: serde_json::Map<_, _> = groups
            .iter()
            .map(|(group, c)| {
                (group.to_string(), json!({ "held_out": count(c[0]), "training": count(c[1]) }))
            })
            .collect();
        let wrong: Vec<_> = wrong
            .iter()
            .filter(|_| show_wrong)
            .map(|w| json!({ "set": w.set, "intent": w.intent, "question": w.question, "answer": w.answer }))
            .collect();
        let object = json!({
            "held_out": count(total(0)), "training": count(total(1)), "intents": intents.len(), "by_intent": by_group,
            "wrong": wrong,
        });
        println!("{object:#}");
        return Ok(());
    }
    let mut table = Table::new(["intent", "held out", "asked", "training", "asked", ""]);
    for (group, [held, trained]) in &groups {
        table.row([
            group.to_string(),
            held.text(),
            held.all.to_string(),
            trained.text(),
            trained.all.to_string(),
            format!("{:<12}", bar(held.share(), 12)),
        ]);
    }
    let (held, trained) = (total(0), total(1));
    table.row([
        "all".into(),
        held.text(),
        held.all.to_string(),
        trained.text(),
        trained.all.to_string(),
        String::new(),
    ]);
    print!("{table}");
    if show_wrong {
        println!();
        for w in &wrong {
            println!("{} · {}: {}\n    {}", w.set, w.intent, w.question, w.answer);
        }
    }
    Ok(())
}

fn questions(path: &Path) -> Result<Vec<Question>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{number}", path.display()))
        })
        .collect()
}

/// The answer to the last of a conversation's questions; to those before it, too, the model gives its own answers.
fn ask(session: &mut HostSession<'_>, question: &Question, user: &str, stop: &str) -> Result<String> {
    session.reset();
    let mut answer = Vec::new();
    for message in question.messages.iter().filter(|m| m.role == "user") {
        answer.clear();
        let prompt = user.replacen("{}", &message.content, 1);
        let reply = session.reply(&prompt, stop, MAX_TOKENS, &mut |text| {
            answer.extend_from_slice(text);
            true
        });
        reply.map_err(explain)?;
    }
    Ok(String::from_utf8_lossy(&answer).trim().to_string())
}
