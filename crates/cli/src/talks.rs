//! Texts and chats to learn from, or to be asked: what `drafts` and `plan` share.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use pageformer_card::Manifest;
use pageformer_toolchain::Document;
use pageformer_train::Error;
use pageformer_train::data::{Chat, read_chats, read_documents};

use crate::session::HostSession;

/// Words of a text that is to be continued.
const FIRST_WORDS: usize = 8;

/// Something to learn from, or to be asked.
pub enum Talk {
    Chat(Chat),
    Text(String),
}

/// The chats of files for a model that chats, else their texts.
pub fn talks(manifest: &Manifest, files: &[PathBuf], separator: &str) -> Result<Vec<Talk>> {
    if manifest.chat.is_none() {
        let texts = read_documents(files, separator)?;
        if texts.iter().any(|text| text.starts_with("{\"messages\"")) {
            let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            bail!(
                "{}: chats, but this model was not trained to chat; give texts such as it was trained on",
                names.join(", ")
            );
        }
        return Ok(texts.into_iter().map(Talk::Text).collect());
    }
    let mut all = Vec::new();
    for file in files {
        let chats = read_chats(file).map_err(|error| match error {
            Error::Data { .. } => anyhow!(
                "{error}; this model chats, so the file has to hold chats: JSON Lines, or a line with a question and one with its answer, \
                 and a blank line after each chat"
            ),
            error => error.into(),
        })?;
        all.extend(chats.into_iter().map(Talk::Chat));
    }
    Ok(all)
}

impl Talk {
    /// As tokens, with what the model would say.
    pub fn document(&self, session: &mut HostSession<'_>) -> Result<Document> {
        let manifest = *session.manifest();
        let mut document = Document { tokens: manifest.bos.into_iter().collect(), said: Vec::new() };
        let mut add = |text: &str, said: bool| -> Result<()> {
            let from = document.tokens.len();
            session.encode(text, &mut |token| {
                document.tokens.push(token);
                Ok(())
            })?;
            if said {
                document.said.push(from..document.tokens.len());
            }
            Ok(())
        };
        match self {
            Talk::Text(text) => add(text, true)?,
            Talk::Chat(chat) => {
                let Some(template) = &manifest.chat else { bail!("this card has no chat template") };
                for turn in &chat.turns {
                    add(&template.user.as_str().replacen("{}", &turn.question, 1), false)?;
                    add(&format!("{}{}", turn.answer, template.stop.as_str()), true)?;
                }
            }
        }
        Ok(document)
    }

    /// What is asked, one after the other.
    pub fn prompts(&self, manifest: &Manifest) -> Vec<String> {
        match (self, &manifest.chat) {
            (Talk::Chat(chat), Some(template)) => chat
                .turns
                .iter()
                .map(|turn| template.user.as_str().replacen("{}", &turn.question, 1))
                .collect(),
            (Talk::Chat(_), None) => Vec::new(),
            (Talk::Text(text), _) => {
                let end = text.match_indices(' ').nth(FIRST_WORDS - 1).map_or(text.len(), |(at, _)| at);
                vec![text[..end].to_string()]
            }
        }
    }
}

/// What is said to a model where nothing else is named: to one that chats, and to one that continues texts.
const USUAL: (&[&str], &[&str]) = (
    &[
        "hello",
        "who are you",
        "what can you do",
        "how are you today",
        "what does a cow say",
        "what is the capital of Spain",
        "what do bees make",
        "tell me a joke",
        "how many legs does a spider have",
        "thank you",
    ],
    &["Once upon a time", "The", "One day, a", "In the beginning"],
);

/// Prompts where no texts are named.
pub fn usual(manifest: &Manifest) -> Vec<String> {
    match &manifest.chat {
        Some(template) => USUAL.0.iter().map(|text| template.user.as_str().replacen("{}", text, 1)).collect(),
        None => USUAL.1.iter().map(|text| text.to_string()).collect(),
    }
}
