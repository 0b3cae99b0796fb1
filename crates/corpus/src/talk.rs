//! From questions to conversations: alone, after the turn they need, or in chains about different things.
//!
//! Chains matter because the second question of a chat comes with the first one before it: a model that has only
//! seen single questions answers the first well and the second badly.

use std::collections::HashSet;

use crate::generate::Kind;
use crate::rng::Rng;
use crate::source::Leaf;

/// Longest conversation, in characters of all its turns: room for it and one more answer in 128 tokens.
pub const MAX_CONVERSATION: usize = 230;
/// Share of training questions that are asked alone, in percent; the others are in chains of two or three. Of
/// reactions ("thanks", "why?") half as many.
const ALONE: u64 = 45;
/// Held-out questions that are asked once more as the second turn of a conversation.
const HELD_CHAINS: usize = 100;

/// A dressed question of a leaf.
#[derive(Clone, Debug)]
pub struct Question {
    /// The text.
    pub text: String,
    /// Its leaf, as an index.
    pub leaf: usize,
    /// Where it comes from.
    pub kind: Kind,
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What the user says.
    pub question: String,
    /// What the model should say.
    pub answer: String,
    /// Leaf of the question, as an index.
    pub leaf: usize,
}

/// A conversation. The answer of its last turn is the one that is judged.
#[derive(Clone, Debug)]
pub struct Item {
    /// Questions and answers in turn; at least one.
    pub turns: Vec<Turn>,
    /// Where the last question comes from.
    pub kind: Kind,
}

/// All training conversations, in random order. `questions` are in lists, one for each leaf.
pub fn train(leaves: &[Leaf], questions: &[Vec<Question>], seed: u64) -> Vec<Item> {
    let mut talk = Talk { leaves, questions, rng: Rng::new(seed, "conversations") };
    let mut items = Vec::new();
    let mut rest: Vec<&Question> = Vec::new();
    for question in questions.iter().flatten() {
        let traits = &leaves[question.leaf].traits;
        let alone = if traits.reaction { ALONE / 2 } else { ALONE };
        if !traits.after.is_empty() || talk.rng.chance(alone) {
            items.extend(talk.item(question));
        } else {
            rest.push(question);
        }
    }
    talk.rng.shuffle(&mut rest);
    while let Some(first) = rest.pop() {
        let wanted = if talk.rng.chance(30) { 3 } else { 2 };
        let mut chain = vec![first];
        // Those that do not go together wait for the next chain.
        for at in (rest.len().saturating_sub(20)..rest.len()).rev() {
            let fits =
                |next: &Question| chain.iter().all(|q| q.leaf != next.leaf && talk.get_on(q.leaf, next.leaf));
            if chain.len() < wanted && fits(rest[at]) {
                chain.push(rest.remove(at));
            }
        }
        chain.sort_by_key(|q| leaves[q.leaf].traits.reaction);
        let mut turns: Vec<Turn> = chain.into_iter().map(|q| talk.turn(q)).collect();
        while length(&turns) > MAX_CONVERSATION && turns.len() > 1 {
            items.extend(turns.pop().map(|turn| Item { turns: vec![turn], kind: Kind::Train }));
        }
        items.push(Item { turns, kind: Kind::Train });
    }
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(item.turns.iter().map(|t| t.question.clone()).collect::<Vec<_>>()));
    talk.rng.shuffle(&mut items);
    items
}

/// The held-out questions as conversations, and some of them once more after a training question.
pub fn held(leaves: &[Leaf], questions: &[Vec<Question>], held: &[Question], seed: u64) -> Vec<Item> {
    let mut talk = Talk { leaves, questions, rng: Rng::new(seed, "held conversations") };
    let mut items: Vec<Item> = held.iter().filter_map(|q| talk.item(q)).collect();
    let opens = |leaf: usize| leaves[leaf].traits.after.is_empty();
    let openings: Vec<usize> = (0..leaves.len()).filter(|&l| opens(l)).collect();
    let mut alone: Vec<&Question> = held.iter().filter(|q| opens(q.leaf)).collect();
    talk.rng.shuffle(&mut alone);
    for question in alone.into_iter().take(HELD_CHAINS) {
        let first = talk.rng.pick(&openings).filter(|&&l| talk.get_on(l, question.leaf));
        let Some(first) = first.and_then(|&l| talk.rng.pick(&questions[l])) else { continue };
        let turns = vec![talk.turn(first), talk.turn(question)];
        if length(&turns) <= MAX_CONVERSATION {
            items.push(Item { turns, kind: Kind::Chain });
        }
    }
    items
}

/// Characters of all turns.
fn length(turns: &[Turn]) -> usize {
    turns.iter().map(|t| t.question.len() + t.answer.len()).sum()
}

struct Talk<'a> {
    leaves: &'a [Leaf],
    questions: &'a [Vec<Question>],
    rng: Rng,
}

impl Talk<'_> {
    /// The question with an answer: the first of two in two cases of three.
    fn turn(&mut self, question: &Question) -> Turn {
        let answers = &self.leaves[question.leaf].answers;
        let second = answers.len() > 1 && self.rng.chance(33);
        let answer = answers.get(usize::from(second)).cloned().unwrap_or_default();
        Turn { question: question.text.clone(), answer, leaf: question.leaf }
    }

    /// The question as a conversation: alone, or after the turn that it needs.
    fn item(&mut self, question: &Question) -> Option<Item> {
        let mut turns = Vec::new();
        if let Some(opening) = self.opening_for(question.leaf) {
            let questions = self.questions;
            let first = self.rng.pick(&questions[opening])?;
            turns.push(self.turn(first));
        }
        turns.push(self.turn(question));
        (length(&turns) <= MAX_CONVERSATION).then_some(Item { turns, kind: question.kind })
    }

    /// A leaf that may come before this one, if it needs one.
    fn opening_for(&mut self, leaf: usize) -> Option<usize> {
        let Leaf { traits, member, .. } = &self.leaves[leaf];
        let fits = |other: &Leaf| {
            let member_fits = member.is_none() || (other.member == *member) == traits.same_member;
            traits.after.contains(&other.group) && member_fits
        };
        let before: Vec<usize> = (0..self.leaves.len()).filter(|&l| fits(&self.leaves[l])).collect();
        self.rng.pick(&before).copied()
    }

    /// Whether the one may be asked after the other, in both orders.
    fn get_on(&self, one: usize, other: usize) -> bool {
        let bars = |a: &Leaf, b: &Leaf| a.traits.not_after.contains(&b.group);
        !bars(&self.leaves[one], &self.leaves[other]) && !bars(&self.leaves[other], &self.leaves[one])
    }
}
