//! From split wordings to conversations.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::source::{Leaf, MAX_QUESTION};
use crate::split::{Split, Wording, split};
use crate::surface::{Dress, dress};
use crate::text::{core, normal, vocabulary};

/// Longest conversation, in characters of all its turns: room for it and one more answer in 128 tokens.
pub const MAX_CONVERSATION: usize = 230;
/// Share of conversations of two or three turns in the training file, in percent of its single questions.
const CHAINS: usize = 10;
/// Held-out questions that are asked once more as the second turn of a conversation.
const HELD_CHAINS: usize = 100;

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

/// A conversation.
#[derive(Clone, Debug)]
pub struct Item {
    /// Questions and answers in turn. The last answer is the one that is judged.
    pub turns: Vec<(String, String)>,
    /// Leaf of the last question, as an index into [`Corpus::leaves`].
    pub leaf: usize,
    /// Where it comes from.
    pub kind: Kind,
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
    let mut train = maker.conversations(&singles);
    let heldout = maker.held_conversations(&singles, held);
    Rng::new(seed, "order").shuffle(&mut train);
    let corpus = Corpus { train, heldout, leaves };
    check(&corpus)?;
    Ok(corpus)
}

/// A dressed question of a leaf.
#[derive(Clone, Debug)]
struct Question {
    text: String,
    leaf: usize,
    kind: Kind,
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
        let how = Dress { end: &traits.end, extras: rough && !traits.bare, slips: rough && !traits.exact };
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

    /// An answer: the first of two in two cases of three.
    fn answer(&self, leaf: usize, rng: &mut Rng) -> String {
        let answers = &self.leaves[leaf].answers;
        let second = answers.len() > 1 && rng.chance(33);
        answers.get(usize::from(second)).cloned().unwrap_or_default()
    }

    fn turn(&self, question: &Question, rng: &mut Rng) -> (String, String) {
        (question.text.clone(), self.answer(question.leaf, rng))
    }

    /// All training items: single questions, those that need a turn before them, and chains of several questions.
    fn conversations(&self, questions: &[Vec<Question>]) -> Vec<Item> {
        let mut rng = Rng::new(self.seed, "conversations");
        let mut items = Vec::new();
        for question in questions.iter().flatten() {
            items.extend(self.item(questions, question, &mut rng));
        }
        let reactions: Vec<usize> =
            (0..self.leaves.len()).filter(|&l| self.leaves[l].traits.reaction).collect();
        let openings: Vec<usize> = (0..self.leaves.len()).filter(|&l| self.opens(l)).collect();
        let chains = items.len() * CHAINS / 100;
        for i in 0..chains {
            let turns = if i % 4 == 0 { 3 } else { 2 };
            let mut chain: Vec<&Question> = Vec::new();
            // Few intents may leave no question that may follow.
            for _ in 0..100 * turns {
                if chain.len() == turns {
                    break;
                }
                let last = chain.len() + 1 == turns;
                let leaf = rng.pick(if last && i % 3 == 0 { &reactions } else { &openings });
                let Some(question) = leaf.and_then(|&l| rng.pick(&questions[l])) else { break };
                if chain.iter().all(|earlier| self.may_follow(earlier.leaf, question.leaf)) {
                    chain.push(question);
                }
            }
            let turns: Vec<_> = chain.iter().map(|q| self.turn(q, &mut rng)).collect();
            if let (Some(last), true) = (chain.last(), length(&turns) <= MAX_CONVERSATION) {
                items.push(Item { turns, leaf: last.leaf, kind: Kind::Train });
            }
        }
        let mut seen = HashSet::new();
        items.retain(|item| seen.insert(item.turns.iter().map(|(q, _)| q.clone()).collect::<Vec<_>>()));
        items
    }

    /// The question as a conversation: alone, or after the turn that it needs.
    fn item(&self, questions: &[Vec<Question>], question: &Question, rng: &mut Rng) -> Option<Item> {
        let mut turns = Vec::new();
        if let Some(opening) = self.opening_for(question.leaf, rng) {
            turns.push(self.turn(rng.pick(&questions[opening])?, rng));
        }
        turns.push(self.turn(question, rng));
        (length(&turns) <= MAX_CONVERSATION).then_some(Item {
            turns,
            leaf: question.leaf,
            kind: question.kind,
        })
    }

    /// A leaf that may come before this one, if it needs one.
    fn opening_for(&self, leaf: usize, rng: &mut Rng) -> Option<usize> {
        let Leaf { traits, member, .. } = &self.leaves[leaf];
        let fits = |other: &Leaf| {
            traits.after.contains(&other.group) && {
                member.is_none() || (other.member == *member) == traits.same_member
            }
        };
        let before: Vec<usize> = (0..self.leaves.len()).filter(|&l| fits(&self.leaves[l])).collect();
        rng.pick(&before).copied()
    }

    fn opens(&self, leaf: usize) -> bool {
        self.leaves[leaf].traits.after.is_empty()
    }

    fn may_follow(&self, earlier: usize, later: usize) -> bool {
        earlier != later && !self.leaves[later].traits.not_after.contains(&self.leaves[earlier].group)
    }

    /// The held-out items, and some of them once more after another turn.
    fn held_conversations(&self, questions: &[Vec<Question>], held: Vec<Question>) -> Vec<Item> {
        let mut rng = Rng::new(self.seed, "held conversations");
        let mut items: Vec<Item> = held.iter().filter_map(|q| self.item(questions, q, &mut rng)).collect();
        let mut alone: Vec<&Question> = held.iter().filter(|q| self.opens(q.leaf)).collect();
        rng.shuffle(&mut alone);
        let openings: Vec<usize> = (0..self.leaves.len()).filter(|&l| self.opens(l)).collect();
        for question in alone.into_iter().take(HELD_CHAINS) {
            let first = rng.pick(&openings).filter(|&&l| self.may_follow(l, question.leaf));
            let Some(first) = first.and_then(|&l| rng.pick(&questions[l])) else { continue };
            let turns = vec![self.turn(first, &mut rng), self.turn(question, &mut rng)];
            if length(&turns) <= MAX_CONVERSATION {
                items.push(Item { turns, leaf: question.leaf, kind: Kind::Chain });
            }
        }
        items
    }
}

fn length(turns: &[(String, String)]) -> usize {
    turns.iter().map(|(q, a)| q.len() + a.len()).sum()
}

/// How many training questions a leaf gets at scale 1: plain intents 26 to 46, or as many as their
/// vocabulary takes, more when they can be put in more ways;
/// members of families fewer, because they share their wordings.
fn train_size(leaf: &Leaf, wordings: usize) -> usize {
    let members = if leaf.traits.light { 8 } else { 12 };
    let usual = match leaf.member {
        Some(_) => members,
        None => (18 + 3 * wordings.isqrt() / 2).clamp(26, 46),
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
        for (question, _) in &item.turns {
            trained.insert(normal(question));
            words.extend(vocabulary(question));
        }
        // The questions of earlier turns are all asked alone somewhere, too.
        if let Some((question, _)) = item.turns.last() {
            trained.insert(core(question, corpus.leaves[item.leaf].traits.bare));
        }
    }
    let mut problems = Vec::new();
    for item in &corpus.heldout {
        let Some((question, _)) = item.turns.last() else { continue };
        let leaf = &corpus.leaves[item.leaf];
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
