//! Templates: one line that stands for many ways to ask.
//!
//! - `{hello|hi|hey}`: exactly one of the alternatives; an alternative may be empty;
//! - `[please]`, `[now|today]`: one of them or nothing, the same as `{please|}`;
//! - `<country>`: a column of the family, or a list; `<country:Cap>` with its first letter in upper case.
//!
//! Groups nest. The six characters `{}[]<>` and `|` have no other meaning and cannot be escaped.

use std::collections::BTreeMap;

/// A parsed template. Its expansions are numbered from 0 to [`Template::count`]` - 1`; the last group turns fastest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Choice(Vec<Template>),
    Slot { name: String, cap: bool },
}

/// What the slots of a template stand for.
pub type Slots = BTreeMap<String, Template>;

impl Template {
    /// Reads a template. The error is a sentence that says what is wrong and at which character (from 1).
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { chars: text.chars().collect(), at: 0 };
        let template = parser.sequence()?;
        match parser.peek() {
            None => Ok(template),
            Some('|') => Err(format!("`|` outside of a group at character {}", parser.at + 1)),
            Some(c) => Err(format!("`{c}` without its opening bracket at character {}", parser.at + 1)),
        }
    }

    /// A template of one choice among whole texts.
    pub fn one_of(texts: Vec<Template>) -> Self {
        Template { nodes: vec![Node::Choice(texts)] }
    }

    /// Names of the slots, in order of appearance, with repeats.
    pub fn slots(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for node in &self.nodes {
            match node {
                Node::Text(_) => {}
                Node::Slot { name, .. } => names.push(name.as_str()),
                Node::Choice(options) => names.extend(options.iter().flat_map(Template::slots)),
            }
        }
        names
    }

    /// The same template with its slots filled in. The error names a slot that has no value.
    pub fn fill(&self, slots: &Slots) -> Result<Self, String> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            nodes.push(match node {
                Node::Text(text) => Node::Text(text.clone()),
                Node::Choice(options) => {
                    Node::Choice(options.iter().map(|o| o.fill(slots)).collect::<Result<_, _>>()?)
                }
                Node::Slot { name, cap } => {
                    let value = slots.get(name).ok_or_else(|| {
                        let known: Vec<_> = slots.keys().map(String::as_str).collect();
                        format!("unknown slot <{name}>; known here: {}", known.join(", "))
                    })?;
                    let options = match cap {
                        false => vec![value.clone()],
                        true => {
                            (0..value.count()).map(|i| Template::text(capitalise(&value.nth(i)))).collect()
                        }
                    };
                    Node::Choice(options)
                }
            });
        }
        Ok(Template { nodes })
    }

    /// Number of expansions (at most `u64::MAX`). A slot that is not filled in counts as one.
    pub fn count(&self) -> u64 {
        self.nodes.iter().fold(1, |n, node| match node {
            Node::Choice(options) => {
                n.saturating_mul(options.iter().fold(0, |sum: u64, o| sum.saturating_add(o.count())))
            }
            _ => n,
        })
    }

    /// Expansion `index`, not tidied: spaces may be doubled.
    pub fn nth(&self, index: u64) -> String {
        let mut parts = Vec::with_capacity(self.nodes.len());
        let mut rest = index;
        for node in self.nodes.iter().rev() {
            parts.push(match node {
                Node::Text(text) => text.clone(),
                Node::Slot { name, .. } => format!("<{name}>"),
                Node::Choice(options) => {
                    let total = options.iter().fold(0, |sum: u64, o| sum.saturating_add(o.count())).max(1);
                    let mut within = rest % total;
                    rest /= total;
                    let mut text = String::new();
                    for option in options {
                        if within < option.count() {
                            text = option.nth(within);
                            break;
                        }
                        within -= option.count();
                    }
                    text
                }
            });
        }
        parts.reverse();
        parts.concat()
    }

    fn text(text: String) -> Self {
        Template { nodes: vec![Node::Text(text)] }
    }
}

/// The text with its first letter in upper case.
pub fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Nodes up to the end, or up to a character that only the caller can judge.
    fn sequence(&mut self) -> Result<Template, String> {
        let mut nodes = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let node = match c {
                '{' => self.group('}')?,
                '[' => self.group(']')?,
                '<' => self.slot()?,
                '}' | ']' | '>' | '|' => break,
                _ => {
                    text.push(c);
                    self.at += 1;
                    continue;
                }
            };
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            nodes.push(node);
        }
        if !text.is_empty() {
            nodes.push(Node::Text(text));
        }
        Ok(Template { nodes })
    }

    fn group(&mut self, close: char) -> Result<Node, String> {
        let opened = self.at + 1;
        self.at += 1;
        let mut options = Vec::new();
        loop {
            options.push(self.sequence()?);
            match self.peek() {
                Some('|') => self.at += 1,
                Some(c) if c == close => break,
                Some(c) => return Err(format!("`{c}` at character {} where `{close}` was due", self.at + 1)),
                None => return Err(format!("the group opened at character {opened} has no `{close}`")),
            }
        }
        self.at += 1;
        if close == ']' {
            options.push(Template::default());
        } else if options.len() == 1 {
            return Err(format!(
                "the group at character {opened} has one alternative; `[...]` makes it optional"
            ));
        }
        Ok(Node::Choice(options))
    }

    fn slot(&mut self) -> Result<Node, String> {
        let opened = self.at + 1;
        self.at += 1;
        let mut name = String::new();
        loop {
            match self.peek() {
                Some('>') => break,
                Some(c) if c.is_ascii_lowercase() || c == '_' || c == ':' || c == 'C' => name.push(c),
                Some(c) => {
                    return Err(format!("`{c}` at character {} does not belong in a slot", self.at + 1));
                }
                None => return Err(format!("the slot opened at character {opened} has no `>`")),
            }
            self.at += 1;
        }
        self.at += 1;
        let (name, cap) = match name.strip_suffix(":Cap") {
            Some(stem) => (stem.to_owned(), true),
            None => (name, false),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("the slot at character {opened} is not <name> or <name:Cap>"));
        }
        Ok(Node::Slot { name, cap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let template = Template::parse(text).unwrap();
        (0..template.count()).map(|i| template.nth(i)).collect()
    }

    #[test]
    fn groups_expand_in_order() {
        assert_eq!(all("a {b|c} [d]"), ["a b d", "a b ", "a c d", "a c "]);
        assert_eq!(all("{x|{y|z}!}"), ["x", "y!", "z!"]);
        assert_eq!(all("plain"), ["plain"]);
        assert_eq!(all("[p|q]"), ["p", "q", ""]);
    }

    #[test]
    fn slots_are_filled_and_capitalised() {
        let slots = Slots::from([("pet".to_owned(), Template::parse("{cat|dog}").unwrap())]);
        let filled = Template::parse("<pet:Cap>, my <pet>").unwrap().fill(&slots).unwrap();
        assert_eq!(filled.count(), 4);
        assert_eq!(filled.nth(0), "Cat, my cat");
        assert_eq!(filled.nth(3), "Dog, my dog");
        let error = Template::parse("<car>").unwrap().fill(&slots).unwrap_err();
        assert!(error.contains("<car>") && error.contains("pet"), "{error}");
    }

    #[test]
    fn mistakes_are_located() {
        for (text, place) in [
            ("a {b|c", "character 3"),
            ("a b}", "character 4"),
            ("a|b", "character 2"),
            ("{a|b]", "character 5"),
            ("<Name>", "character 2"),
            ("<x", "character 1"),
            ("{only}", "character 1"),
            ("<>", "character 1"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
