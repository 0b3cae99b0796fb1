//! Reading the hand-written sources: `*.toml` files of intents, families and lists.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};
use crate::tables;
use crate::template::{Slots, Template};
use crate::text::tidy;

/// Longest question, in characters.
pub const MAX_QUESTION: usize = 100;
/// Longest answer, in characters.
pub const MAX_ANSWER: usize = 100;

/// One way to ask: a template without slots, and where it stands.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The template.
    pub template: Template,
    /// Line of the source file, from 1.
    pub line: usize,
}

/// The smallest unit that is judged: a plain intent, or one member of a family.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The id that goes into the data: the intent's, or `family_member`.
    pub id: String,
    /// The intent or family.
    pub group: String,
    /// Which member of its family, from 0; `None` for a plain intent.
    pub member: Option<usize>,
    /// The family whose members these are (its own, or the one named by `members_of`).
    pub members_of: String,
    /// The source file's name.
    pub file: String,
    /// Accepted answers, the most usual first.
    pub answers: Vec<String>,
    /// Ways to ask that may be trained on.
    pub asks: Vec<Ask>,
    /// Ways to ask that are never trained on.
    pub held: Vec<Ask>,
    /// Ways to ask, written last, that are never trained on either.
    pub fresh: Vec<Ask>,
    /// How the group is treated.
    pub traits: Traits,
}

/// Switches of an intent or family, as written in the source.
#[derive(Clone, Debug, Default)]
pub struct Traits {
    /// No openers ("hey, ...") and closers ("..., please").
    pub bare: bool,
    /// No typing errors either.
    pub exact: bool,
    /// Asked often as the second thing in a conversation.
    pub reaction: bool,
    /// Held-out questions may hold words that no training question has.
    pub new_words: bool,
    /// Fewer questions per member than usual, for families of many members that are much alike.
    pub light: bool,
    /// End mark of a sentence that asks nothing.
    pub end: String,
    /// Only asked in the second turn, after one of these groups.
    pub after: Vec<String>,
    /// After the same member of that group (otherwise after another member).
    pub same_member: bool,
    /// Never asked after one of these groups.
    pub not_after: Vec<String>,
    /// Training questions wanted, instead of the usual number.
    pub size: Option<usize>,
    /// Held-out questions wanted, instead of the usual number.
    pub heldout_count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    lists: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    fresh: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    intent: Vec<Raw>,
    #[serde(default)]
    family: Vec<Raw>,
}

/// An intent, or a family if it has columns or `members_of`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: Spanned<String>,
    answers: Vec<Spanned<String>>,
    ask: Vec<Spanned<String>>,
    heldout: Vec<Spanned<String>>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    members: Vec<Vec<Spanned<String>>>,
    table: Option<String>,
    members_of: Option<String>,
    key_columns: Option<usize>,
    #[serde(default)]
    bare: bool,
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    reaction: bool,
    #[serde(default)]
    new_words: bool,
    #[serde(default)]
    light: bool,
    end: Option<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    same_member: bool,
    #[serde(default)]
    not_after: Vec<String>,
    size: Option<usize>,
    heldout_count: Option<usize>,
}

/// The members of a family: a key each, and what its columns stand for.
type Members = Vec<(String, Slots)>;

/// One source file, with what is needed to say where something is.
struct Source {
    name: String,
    text: String,
    file: File,
}

impl Source {
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn error(&self, at: usize, intent: &str, message: impl Into<String>) -> Error {
        let message = message.into();
        Error::Source { file: self.name.clone(), line: self.line(at), intent: intent.to_owned(), message }
    }

    fn template(&self, raw: &Spanned<String>, intent: &str) -> Result<Template> {
        Template::parse(raw.get_ref()).map_err(|message| self.error(raw.span().start, intent, message))
    }

    fn fill(&self, raw: &Spanned<String>, intent: &str, slots: &Slots) -> Result<Template> {
        let template = self.template(raw, intent)?;
        template.fill(slots).map_err(|message| self.error(raw.span().start, intent, message))
    }

    fn asks(&self, raw: &[Spanned<String>], intent: &str, slots: &Slots) -> Result<Vec<Ask>> {
        raw.iter()
            .map(|r| Ok(Ask { template: self.fill(r, intent, slots)?, line: self.line(r.span().start) }))
            .collect()
    }

    fn answers(&self, raw: &Raw, slots: &Slots) -> Result<Vec<String>> {
        let id = raw.id.get_ref();
        let mut answers = Vec::new();
        for answer in &raw.answers {
            let text = tidy(&self.fill(answer, id, slots)?.nth(0));
            if text.len() > MAX_ANSWER || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) || text.is_empty()
            {
                let message =
                    format!("the answer {text:?} is not 1 to {MAX_ANSWER} printable ASCII characters");
                return Err(self.error(answer.span().start, id, message));
            }
            answers.push(text);
        }
        match answers.is_empty() {
            true => Err(self.error(raw.id.span().start, id, "has no answers")),
            false => Ok(answers),
        }
    }
}

/// Reads every `*.toml` file of a folder, in order of name, into leaves in order of appearance.
pub fn load(folder: &Path) -> Result<Vec<Leaf>> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Error::NoSources { path: folder.to_owned() });
    }
    let mut texts = Vec::new();
    for path in paths {
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        texts.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text));
    }
    parse(texts)
}

/// The same from texts in memory: pairs of a file's name and its content.
pub fn parse(texts: Vec<(String, String)>) -> Result<Vec<Leaf>> {
    let mut sources = Vec::new();
    for (name, text) in texts {
        let file = toml::from_str(&text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
            Error::Toml { file: name.clone(), line, message: e.message().to_owned() }
        })?;
        sources.push(Source { name, text, file });
    }

    let mut lists = Slots::new();
    for source in &sources {
        for (name, values) in &source.file.lists {
            let id = format!("list {name}");
            let templates = values.iter().map(|v| source.template(v, &id)).collect::<Result<Vec<_>>>()?;
            lists.insert(name.clone(), Template::one_of(templates));
        }
    }

    let mut families = BTreeMap::new();
    for source in &sources {
        for raw in source.file.family.iter().filter(|raw| raw.members_of.is_none()) {
            families.insert(raw.id.get_ref().clone(), members(source, raw)?);
        }
    }

    let mut leaves = Vec::new();
    for source in &sources {
        for raw in &source.file.intent {
            leaves.push(leaf(source, raw, None, &lists)?);
        }
        for raw in &source.file.family {
            let family = raw.members_of.as_ref().unwrap_or(raw.id.get_ref());
            let members = families.get(family).ok_or_else(|| {
                source.error(
                    raw.id.span().start,
                    raw.id.get_ref(),
                    format!("no family {family} with members"),
                )
            })?;
            for (i, (key, slots)) in members.iter().enumerate() {
                let mut slots = slots.clone();
                slots.extend(
                    lists
                        .iter()
                        .filter(|(n, _)| !slots.contains_key(*n))
                        .map(|(n, t)| (n.clone(), t.clone()))
                        .collect::<Vec<_>>(),
                );
                leaves.push(leaf(source, raw, Some((i, key)), &slots)?);
            }
        }
    }
    for source in &sources {
        for (id, asks) in &source.file.fresh {
            let at = asks.first().map_or(0, |ask| ask.span().start);
            let leaf = leaves.iter_mut().find(|leaf| leaf.id == *id);
            let leaf =
                leaf.ok_or_else(|| source.error(at, id, "there is no intent or member with this id"))?;
            leaf.fresh = source.asks(asks, id, &lists)?;
        }
    }
    check_references(&sources, &leaves)?;
    Ok(leaves)
}

/// The members of a family from its `members` or its `table`.
fn members(source: &Source, raw: &Raw) -> Result<Members> {
    let id = raw.id.get_ref();
    let at = raw.id.span().start;
    let mut rows = Vec::new();
    match &raw.table {
        Some(table) => {
            let cells = tables::rows(table)
                .ok_or_else(|| source.error(at, id, format!("there is no table {table:?}")))?;
            for row in cells {
                let templates = row.iter().map(|c| Template::parse(c)).collect::<std::result::Result<_, _>>();
                rows.push((at, templates.map_err(|message| source.error(at, id, message))?));
            }
        }
        None => {
            for row in &raw.members {
                let at = row.first().map_or(at, |c| c.span().start);
                rows.push((at, row.iter().map(|c| source.template(c, id)).collect::<Result<Vec<_>>>()?));
            }
        }
    }
    if rows.is_empty() {
        return Err(source.error(at, id, "a family needs `members` rows, a `table`, or `members_of`"));
    }
    let mut members = Members::new();
    for (at, row) in rows {
        if row.len() != raw.columns.len() {
            let message =
                format!("this row has {} cells, the family has {} columns", row.len(), raw.columns.len());
            return Err(source.error(at, id, message));
        }
        let key_columns = raw.key_columns.unwrap_or(1);
        let key = row.iter().take(key_columns).map(|t| slug(&t.nth(0))).collect::<Vec<_>>().join("_");
        if members.iter().any(|(other, _)| *other == key) {
            return Err(source.error(at, id, format!("two members have the key {key:?}; set `key_columns`")));
        }
        members.push((key, raw.columns.iter().cloned().zip(row).collect()));
    }
    Ok(members)
}

/// `the United Kingdom` becomes `the_united_kingdom`.
fn slug(text: &str) -> String {
    let lower = text.to_lowercase();
    let parts: Vec<&str> =
        lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    parts.join("_")
}

fn leaf(source: &Source, raw: &Raw, member: Option<(usize, &String)>, slots: &Slots) -> Result<Leaf> {
    let group = raw.id.get_ref().clone();
    let id = member.map_or_else(|| group.clone(), |(_, key)| format!("{group}_{key}"));
    if raw.ask.is_empty() || raw.heldout.is_empty() {
        return Err(source.error(
            raw.id.span().start,
            &group,
            "needs at least one `ask` and one `heldout` template",
        ));
    }
    Ok(Leaf {
        id,
        member: member.map(|(i, _)| i),
        members_of: raw.members_of.clone().unwrap_or_else(|| group.clone()),
        file: source.name.clone(),
        answers: source.answers(raw, slots)?,
        asks: source.asks(&raw.ask, &group, slots)?,
        held: source.asks(&raw.heldout, &group, slots)?,
        fresh: Vec::new(),
        traits: Traits {
            bare: raw.bare,
            exact: raw.exact,
            reaction: raw.reaction,
            new_words: raw.new_words,
            light: raw.light,
            end: raw.end.clone().unwrap_or_else(|| ".".to_owned()),
            after: raw.after.clone(),
            same_member: raw.same_member,
            not_after: raw.not_after.clone(),
            size: raw.size,
            heldout_count: raw.heldout_count,
        },
        group,
    })
}

/// Ids are unique, and `after` and `not_after` name groups that exist.
fn check_references(sources: &[Source], leaves: &[Leaf]) -> Result<()> {
    let mut ids = BTreeMap::new();
    for leaf in leaves {
        if let Some(other) = ids.insert(&leaf.id, leaf) {
            let message = format!("the id {} is already taken in {} by {}", leaf.id, other.file, other.group);
            return Err(at_group(sources, leaf, message));
        }
        for name in leaf.traits.after.iter().chain(&leaf.traits.not_after) {
            if !leaves.iter().any(|l| l.group == *name) {
                return Err(at_group(sources, leaf, format!("there is no intent or family {name:?}")));
            }
        }
    }
    Ok(())
}

/// An error at the line where the leaf's intent or family begins.
fn at_group(sources: &[Source], leaf: &Leaf, message: String) -> Error {
    let found = sources.iter().filter(|s| s.name == leaf.file).find_map(|s| {
        let raws = s.file.intent.iter().chain(&s.file.family);
        raws.rev().find(|raw| *raw.id.get_ref() == leaf.group).map(|raw| s.line(raw.id.span().start))
    });
    Error::Source { file: leaf.file.clone(), line: found.unwrap_or(1), intent: leaf.group.clone(), message }
}
