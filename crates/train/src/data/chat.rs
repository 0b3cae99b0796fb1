//! Chats: JSON Lines, or a plain file as one writes it by hand.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the user says.
    pub question: String,
    /// What the model should reply.
    pub answer: String,
    /// Line in the file, from 1.
    pub line: usize,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Its turns; at least one.
    pub turns: Vec<Turn>,
}

/// Reads a file of chats; see [`parse_chats`].
///
/// # Errors
/// If it cannot be read, or is not in one of the two forms; with file and line.
pub fn read_chats(path: &PathBuf) -> Result<Vec<Chat>, Error> {
    parse_chats(&super::text::read(path)?, path)
}

/// The chats of a text in one of two forms.
///
/// A text that begins with `{` is JSON Lines: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}, …]}` a line;
/// other keys are ignored. A `system` message goes before the first question. Anything else is plain text: a line with a question, a line
/// with its answer, perhaps further pairs, and a blank line after each chat.
///
/// # Errors
/// With `path` and the line of whatever fits neither form.
pub fn parse_chats(text: &str, path: &Path) -> Result<Vec<Chat>, Error> {
    let parse = if text.trim_start().starts_with('{') { json_lines } else { plain };
    let wrong = |(line, problem)| Error::Data { path: path.into(), line, problem };
    let chats = parse(text).map_err(wrong)?;
    match chats.is_empty() {
        true => Err(wrong((1, "no chat in this file".into()))),
        false => Ok(chats),
    }
}

/// Line and problem.
type Wrong = (usize, String);

fn plain(text: &str) -> Result<Vec<Chat>, Wrong> {
    let mut chats: Vec<Chat> = vec![];
    let mut turns = vec![];
    let mut question: Option<(usize, &str)> = None;
    // A blank line behind the last ends the last chat, too.
    for (line, content) in (1..).zip(text.lines().chain([""])) {
        match (content.trim(), question.take()) {
            ("", Some((line, _))) => {
                return Err((line, "a question without an answer: write the answer in the next line".into()));
            }
            ("", None) if turns.is_empty() => {}
            ("", None) => chats.push(Chat { turns: std::mem::take(&mut turns) }),
            (content, None) => question = Some((line, content)),
            (answer, Some((line, question))) => {
                turns.push(Turn { question: question.into(), answer: answer.into(), line });
            }
        }
    }
    Ok(chats)
}

#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: Role,
    content: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

fn json_lines(text: &str) -> Result<Vec<Chat>, Wrong> {
    let lines = (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty());
    lines.map(|(line, json)| chat(line, json).map_err(|problem| (line, problem))).collect()
}

fn chat(line: usize, json: &str) -> Result<Chat, String> {
    let Line { messages } = serde_json::from_str(json).map_err(|e| {
        // The parser counts lines, too, but it saw one only.
        let problem = e.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        format!(
            "{problem} at column {}; a line must be {{\"messages\": [{{\"role\": …, \"content\": …}}, …]}}",
            e.column()
        )
    })?;
    let mut turns = vec![];
    let mut system = String::new();
    let mut question: Option<String> = None;
    for (i, Message { role, content }) in messages.into_iter().enumerate() {
        let content = content.trim();
        match (role, question.take()) {
            (Role::System, None) if i == 0 => system = format!("{content}\n"),
            (Role::User, None) => question = Some(std::mem::take(&mut system) + content),
            (Role::Assistant, Some(question)) => {
                turns.push(Turn { question, answer: content.into(), line });
            }
            _ => {
                return Err(format!(
                    "message {}: user and assistant must take turns, after at most one system message",
                    i + 1
                ));
            }
        }
    }
    match (turns.is_empty(), question) {
        (_, Some(_)) => Err("the last question has no answer".into()),
        (true, None) => Err("no question and answer".into()),
        (false, None) => Ok(Chat { turns }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Chat>, String> {
        parse_chats(text, Path::new("f")).map_err(|e| e.to_string())
    }

    fn turn(question: &str, answer: &str, line: usize) -> Turn {
        Turn { question: question.into(), answer: answer.into(), line }
    }

    #[test]
    fn plain_files() {
        let chats = parse("\n\nHow are you? \nFine.\n\n\nA\nB\nC\nD").unwrap();
        assert_eq!(chats[0].turns, [turn("How are you?", "Fine.", 3)]);
        assert_eq!(chats[1].turns, [turn("A", "B", 7), turn("C", "D", 9)]);
        let error = parse("A\nB\n\nC\n\nD\nE\n").unwrap_err();
        assert!(error.starts_with("f:4: a question without an answer"), "{error}");
        assert!(parse("\n").unwrap_err().starts_with("f:1: no chat"));
        assert_eq!(parse("A\r\nB\r\n").unwrap()[0].turns, [turn("A", "B", 1)]);
    }

    #[test]
    fn json() {
        let text = r#"{"id": 7, "messages":[{"role":"system","content":"S"},{"role":"user","content":"Q"},{"role":"assistant","content":"A","x":1}]}

            {"messages":[{"role":"user","content":"1"},{"role":"assistant","content":"2"},{"role":"user","content":"3"},{"role":"assistant","content":"4"}]}"#;
        let chats = parse(text).unwrap();
        assert_eq!(chats[0].turns, [turn("S\nQ", "A", 1)]);
        assert_eq!(chats[1].turns, [turn("1", "2", 3), turn("3", "4", 3)]);
        let good = r#"{"messages":[{"role":"user","content":"1"},{"role":"assistant","content":"2"}]}"#;
        for (bad, says) in [
            ("{\"messages\":[", "f:2: EOF while parsing"),
            ("{}", "f:2: missing field `messages`"),
            (r#"{"messages":[{"role":"tool","content":"1"}]}"#, "f:2: unknown variant `tool`"),
            (r#"{"messages":[{"role":"user","content":"1"}]}"#, "f:2: the last question has no answer"),
            (r#"{"messages":[{"role":"assistant","content":"1"}]}"#, "f:2: message 1: user and assistant"),
            (r#"{"messages":[]}"#, "f:2: no question"),
        ] {
            let error = parse(&format!("{good}\n{bad}\n")).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
