//! From split wordings to conversations.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::source::{Leaf, MAX_QUESTION};
use crate::split::{Split, Wording, split};
use crate::surface::{Dress, dress};
use crate::talk::{self, Item, Question, Turn};
use crate::text::{core, normal, vocabulary};

/// Share of training questions in rough words, in percent.
const ROUGH: u64 = 45;
/// What may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides what is held out, how questions are dressed, and their order.
    pub seed: u64,
    /// How many times the usual number of training questions are made. The held-out questions stay the same.
    pub scale: usize,
}

impl Default for Options {
    /// The options of the committed files.
    fn default() -> Self {
        Options { seed: 1, scale: 1 }
    }
}

/// Where an item comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A training item.
    Train,
    /// Held out: a wording written by hand.
    Wording,
    /// Held out: a wording written by hand when everything else was finished.
    Fresh,
    /// Held out: a new combination of known parts.
    Combination,
    /// Held out: one of the former after a turn about something else.
    Chain,
}

impl Kind {
    /// The word in the data.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Train => "train",
            Kind::Wording => "wording",
            Kind::Fresh => "fresh",
            Kind::Combination => "combination",
            Kind::Chain => "chain",
        }
    }
}

/// Everything that is generated.
#[derive(Debug)]
pub struct Corpus {
    /// The sources.
    pub leaves: Vec<Leaf>,
    /// To train on, in random order.
    pub train: Vec<Item>,
    /// Never trained on, in the order of the leaves.
    pub heldout: Vec<Item>,
}

/// Generates the corpus of these leaves.
///
/// # Errors
/// See [`split`]; and held-out questions that are found in training, or hold words that training lacks.
pub fn generate(leaves: Vec<Leaf>, options: Options) -> Result<Corpus> {
    let Options { seed, .. } = options;
    let splits = split(&leaves, seed)?;
    let mut maker = Maker::new(&leaves, &splits, options);
    let singles = maker.train_questions();
    let held = maker.held_questions();
    let train = talk::train(&leaves, &singles, seed);
    let heldout = talk::held(&leaves, &singles, &held, seed);
    let corpus = Corpus { train, heldout, leaves };
    check(&corpus)?;
    Ok(corpus)
}

struct Maker<'a> {
    leaves: &'a [Leaf],
    splits: &'a [Split],
    seed: u64,
    scale: usize,
    /// Whose each normal form is: no slip of the finger may turn a question into that of another leaf.
    owners: HashMap<String, usize>,
    /// Normal forms and cores of everything held out.
    held: HashSet<String>,
}

impl<'a> Maker<'a> {
    fn new(leaves: &'a [Leaf], splits: &'a [Split], options: Options) -> Self {
        let mut owners = HashMap::new();
        let mut held = HashSet::new();
        for (i, (leaf, split)) in leaves.iter().zip(splits).enumerate() {
            let out = || split.held().map(|(_, wording)| wording);
            if leaf.traits.after.is_empty() {
                for wording in split.train.iter().chain(out()) {
                    owners.insert(normal(&wording.text), i);
                    owners.insert(wording.core.clone(), i);
                }
            }
            held.extend(out().flat_map(|w| [normal(&w.text), w.core.clone()]));
        }
        Maker { leaves, splits, seed: options.seed, scale: options.scale, owners, held }
    }

    /// The dressed training questions of all leaves, leaf by leaf.
    fn train_questions(&mut self) -> Vec<Vec<Question>> {
        (0..self.leaves.len())
            .map(|leaf| {
                let mut rng = Rng::new(self.seed, &format!("train {}", self.leaves[leaf].id));
                let size = self.scale * train_size(&self.leaves[leaf], self.splits[leaf].train.len());
                let (order, new) = round_robin(&self.splits[leaf].train, &mut rng);
                let mut seen = HashSet::new();
                let mut questions = Vec::new();
                // Each wording once, then in other dresses, until there are enough or nothing new comes up.
                for round in 0..12 {
                    for (i, wording) in order.iter().enumerate() {
                        if questions.len() >= size && (round > 0 || i >= new) {
                            return questions;
                        }
                        // Every word is seen once as it is spelt.
                        let rough = round > 0 || i >= new;
                        let text = self.dressed(leaf, wording, rough, &mut rng);
                        if self.fits(leaf, &text) && seen.insert(text.clone()) {
                            questions.push(Question { text, leaf, kind: Kind::Train });
                        }
                    }
                }
                questions
            })
            .collect()
    }

    fn held_questions(&mut self) -> Vec<Question> {
        let mut questions = Vec::new();
        for (leaf, split) in self.splits.iter().enumerate() {
            let mut rng = Rng::new(self.seed, &format!("held {}", self.leaves[leaf].id));
            for (kind, wording) in split.held() {
                questions.push(Question { text: self.dressed(leaf, wording, false, &mut rng), leaf, kind });
            }
        }
        questions
    }

    fn dressed(&self, leaf: usize, wording: &Wording, rough: bool, rng: &mut Rng) -> String {
        let traits = &self.leaves[leaf].traits;
        let loose = rough && !traits.exact;
        let how = Dress {
            end: &traits.end,
            extras: rough && !traits.bare,
            slips: loose,
            rough: if loose && traits.after.is_empty() { ROUGH } else { 0 },
        };
        dress(&wording.text, how, rng)
    }

    /// Whether a dressed question may be trained on: short enough, not held out, not another leaf's.
    fn fits(&mut self, leaf: usize, text: &str) -> bool {
        let (normal, core) = (normal(text), core(text, self.leaves[leaf].traits.bare));
        if text.len() > MAX_QUESTION || self.held.contains(&normal) || self.held.contains(&core) {
            return false;
        }
        if !self.leaves[leaf].traits.after.is_empty() {
            return true;
        }
        let mine =
            |owners: &HashMap<String, usize>, key: &str| owners.get(key).is_none_or(|&owner| owner == leaf);
        let fits = mine(&self.owners, &normal) && mine(&self.owners, &core);
        if fits {
            self.owners.insert(normal, leaf);
        }
        fits
    }
}

/// How many training questions a leaf gets at scale 1: plain intents 50 to 90, or as many as their vocabulary takes,
/// more when they can be put in more ways; members of families fewer, because they share their wordings.
fn train_size(leaf: &Leaf, wordings: usize) -> usize {
    let members = if leaf.traits.light { 7 } else { 11 };
    let usual = match leaf.member {
        Some(_) => members,
        None => (35 + 2 * wordings.isqrt()).clamp(50, 90),
    };
    leaf.traits.size.unwrap_or(usual)
}

/// The wordings in random order, one of each template in turn; those that bring a new word before all others, so
/// that the leaf's whole vocabulary is trained on even when not all its wordings are. Also how many those are.
fn round_robin<'a>(wordings: &'a [Wording], rng: &mut Rng) -> (Vec<&'a Wording>, usize) {
    let mut by_line: BTreeMap<usize, Vec<&Wording>> = BTreeMap::new();
    for wording in wordings {
        by_line.entry(wording.line).or_default().push(wording);
    }
    let mut lists: Vec<Vec<&Wording>> = by_line.into_values().collect();
    for list in &mut lists {
        rng.shuffle(list);
    }
    rng.shuffle(&mut lists);
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn: Vec<&Wording> =
        (0..longest).flat_map(|i| lists.iter().filter_map(move |l| l.get(i).copied())).collect();
    let mut known = HashSet::new();
    let (mut order, rest): (Vec<_>, Vec<_>) = in_turn
        .into_iter()
        .partition(|w| vocabulary(&w.text).into_iter().filter(|word| known.insert(word.clone())).count() > 0);
    let count = order.len();
    order.extend(rest);
    (order, count)
}

/// The promises of the held-out set, checked on the finished data.
fn check(corpus: &Corpus) -> Result<()> {
    let mut trained = HashSet::new();
    let mut words = HashSet::new();
    for item in &corpus.train {
        for Turn { question, leaf, .. } in &item.turns {
            trained.insert(normal(question));
            trained.insert(core(question, corpus.leaves[*leaf].traits.bare));
            words.extend(vocabulary(question));
        }
    }
    let mut problems = Vec::new();
    for item in &corpus.heldout {
        let Some(Turn { question, leaf, .. }) = item.turns.last() else { continue };
        let leaf = &corpus.leaves[*leaf];
        for key in [normal(question), core(question, leaf.traits.bare)] {
            if trained.contains(&key) {
                problems.push(format!("  {question:?} ({}) is trained on", leaf.id));
            }
        }
        let new: Vec<_> = vocabulary(question).into_iter().filter(|w| !words.contains(w)).collect();
        if !new.is_empty() && !leaf.traits.new_words {
            problems.push(format!(
                "  {question:?} ({}) has words that are in no training question: {}",
                leaf.id,
                new.join(" ")
            ));
        }
    }
    problems.sort();
    problems.dedup();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::HeldOut(problems)),
    }
}
