//! Which questions are trained on and which are held out.
//!
//! The unit of the split is the core (see [`crate::text::core`]): all dresses of one wording go to the same side.
//! Held out are
//!
//! - wordings written by hand for that purpose,
//! - fresh wordings, written by hand when everything else was finished, and
//! - combinations: expansions of the training templates, drawn by lot, of which every part is seen in training, but
//!   never in this combination (for families: never this wording with this member).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::generate::Kind;
use crate::rng::Rng;
use crate::source::{Ask, Leaf, MAX_QUESTION};
use crate::text::{core, normal, tidy, vocabulary};

/// Expansions of one template that are looked at; of larger templates a sample is drawn.
const MAX_EXPANSIONS: u64 = 1500;

/// One wording: the undressed question.
#[derive(Clone, Debug)]
pub struct Wording {
    /// The text in its natural case, without an end mark.
    pub text: String,
    /// Its core.
    pub core: String,
    /// Which template it came from, by its line in the source.
    pub line: usize,
}

/// The wordings of one leaf, split.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// To be trained on.
    pub train: Vec<Wording>,
    /// Held out, written by hand.
    pub wordings: Vec<Wording>,
    /// Held out, written by hand last of all.
    pub fresh: Vec<Wording>,
    /// Held out, drawn by lot.
    pub combinations: Vec<Wording>,
}

impl Split {
    /// Everything held out, with where it comes from.
    pub fn held(&self) -> impl Iterator<Item = (Kind, &Wording)> {
        let kinds = [
            (Kind::Wording, &self.wordings),
            (Kind::Fresh, &self.fresh),
            (Kind::Combination, &self.combinations),
        ];
        kinds.into_iter().flat_map(|(kind, list)| list.iter().map(move |wording| (kind, wording)))
    }
}

/// Splits every leaf.
///
/// # Errors
/// Questions of two leaves, questions that are too long or not ASCII, and leaves that are left without questions.
pub fn split(leaves: &[Leaf], seed: u64) -> Result<Vec<Split>> {
    let mut splits = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        splits.push(draw(leaf, &mut Rng::new(seed, &format!("split {}", leaf.id)))?);
    }
    conflicts(leaves, &splits)?;

    // Held-out wins: whatever is held out anywhere is trained on nowhere.
    let held: HashSet<String> = splits
        .iter()
        .flat_map(|s| s.wordings.iter().chain(&s.combinations))
        .map(|w| w.core.clone())
        .collect();
    let mut empty = Vec::new();
    for (leaf, split) in leaves.iter().zip(&mut splits) {
        split.train.retain(|w| !held.contains(&w.core));
        if split.train.len() < 2 {
            empty.push(format!("  {}: {}: too few ways to ask are left to train on", leaf.file, leaf.id));
        }
    }
    for (leaf, group) in leaves.iter().map(|leaf| (leaf, &leaf.group)) {
        let of_group = || leaves.iter().zip(&splits).filter(|(l, _)| l.group == *group);
        if of_group().all(|(_, s)| s.held().next().is_none()) {
            empty.push(format!("  {}: {group}: nothing is held out", leaf.file));
        }
    }
    empty.dedup();
    match empty.is_empty() {
        true => Ok(splits),
        false => Err(Error::HeldOut(empty)),
    }
}

/// All wordings of a leaf (samples of large templates).
fn draw(leaf: &Leaf, rng: &mut Rng) -> Result<Split> {
    let mut split = Split::default();
    let mut cores = HashSet::new();
    // Hand-written first, so that a core that is on both sides is held out.
    for ask in &leaf.fresh {
        split.fresh.extend(expand(leaf, ask, rng)?.into_iter().filter(|w| cores.insert(w.core.clone())));
    }
    let mut by_hand: Vec<Vec<Wording>> = Vec::new();
    for ask in &leaf.held {
        let list = expand(leaf, ask, rng)?;
        by_hand.push(list.into_iter().filter(|w| cores.insert(w.core.clone())).collect());
    }
    // In training several spellings of one core may stand side by side.
    let mut texts = HashSet::new();
    let mut by_template: Vec<Vec<Wording>> = Vec::new();
    for ask in &leaf.asks {
        let list = expand(leaf, ask, rng)?;
        by_template.push(
            list.into_iter().filter(|w| !cores.contains(&w.core) && texts.insert(w.text.clone())).collect(),
        );
    }

    let total: usize = by_template.iter().map(Vec::len).sum();
    let (hand, lot) = held_counts(leaf, total);
    split.wordings = pick_by_hand(leaf, by_hand, hand, rng);
    draw_lots(leaf, &mut by_template, lot, &mut split.combinations, rng);
    split.train = by_template.concat();
    Ok(split)
}

/// Moves some wordings out of the templates, each of whose words stays in another wording of the same leaf (or, for
/// members of families, in the same wording of other members), and no template's last two.
fn draw_lots(leaf: &Leaf, templates: &mut [Vec<Wording>], lot: usize, out: &mut Vec<Wording>, rng: &mut Rng) {
    for _ in 0..40 {
        let left: usize = templates.iter().map(Vec::len).sum();
        if out.len() == lot || left <= 4 {
            return;
        }
        // A member's wording stays with the other members even when it is the only one of its template.
        let spare = if leaf.member.is_some() { 0 } else { 2 };
        let rich: Vec<usize> = (0..templates.len()).filter(|&t| templates[t].len() > spare).collect();
        let Some(&from) = rng.pick(&rich) else { return };
        let at = rng.index(templates[from].len());
        let wording = templates[from].remove(at);
        let others = templates.iter().flatten().filter(|w| w.core != wording.core);
        let words: HashSet<String> = others.flat_map(|w| vocabulary(&w.text)).collect();
        if leaf.member.is_some() || vocabulary(&wording.text).iter().all(|w| words.contains(w)) {
            templates.iter_mut().for_each(|list| list.retain(|w| w.core != wording.core));
            out.push(wording);
        } else {
            templates[from].insert(at, wording);
        }
    }
}

/// How many wordings by hand and by lot are held out.
fn held_counts(leaf: &Leaf, total: usize) -> (usize, usize) {
    match (leaf.member, leaf.traits.heldout_count) {
        (_, Some(count)) => (count.div_ceil(2), count / 2),
        // Members take turns: by hand, by lot; in light families every other member has neither.
        (Some(i), None) if leaf.traits.light => (usize::from(i % 4 == 1), usize::from(i % 4 == 3)),
        (Some(i), None) => (i % 2, (i + 1) % 2),
        (None, None) => (leaf.held.len(), usize::from(total >= 20)),
    }
}

/// The hand-written held-out wordings in use: one of each template in turn. Members of a family begin at different
/// templates; what is not used is not trained on either.
fn pick_by_hand(leaf: &Leaf, mut by_hand: Vec<Vec<Wording>>, count: usize, rng: &mut Rng) -> Vec<Wording> {
    let mut picked = Vec::new();
    let n = by_hand.len();
    let first = leaf.member.map_or(0, |i| i / if leaf.traits.light { 4 } else { 2 });
    for i in 0..count.max(n) * 4 {
        if picked.len() == count || n == 0 {
            break;
        }
        let list = &mut by_hand[(first + i) % n];
        if !list.is_empty() {
            picked.push(list.remove(rng.index(list.len())));
        }
    }
    picked
}

/// The wordings of one template.
fn expand(leaf: &Leaf, ask: &Ask, rng: &mut Rng) -> Result<Vec<Wording>> {
    let count = ask.template.count();
    let indices: Vec<u64> = match count <= MAX_EXPANSIONS {
        true => (0..count).collect(),
        false => (0..MAX_EXPANSIONS).map(|_| rng.below(count)).collect(),
    };
    let mut wordings = Vec::new();
    for index in indices {
        let text = tidy(&ask.template.nth(index));
        let core = core(&text, leaf.traits.bare);
        let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
        // Room for an opener and an end mark.
        if core.is_empty() || !printable || text.len() + 20 > MAX_QUESTION {
            let message =
                format!("the question {text:?} is not 1 to {} printable ASCII characters", MAX_QUESTION - 20);
            return Err(Error::Source {
                file: leaf.file.clone(),
                line: ask.line,
                intent: leaf.group.clone(),
                message,
            });
        }
        wordings.push(Wording { text, core, line: ask.line });
    }
    Ok(wordings)
}

/// A question may belong to one leaf only. What is asked after another turn is compared within that place.
fn conflicts(leaves: &[Leaf], splits: &[Split]) -> Result<()> {
    let mut owners: HashMap<(String, String), (usize, usize)> = HashMap::new();
    let mut found: BTreeMap<String, ()> = BTreeMap::new();
    for (i, (leaf, split)) in leaves.iter().zip(splits).enumerate() {
        let place = format!("{:?}", leaf.traits.after);
        for wording in split.train.iter().chain(split.held().map(|(_, w)| w)) {
            for key in [wording.core.clone(), normal(&wording.text)] {
                let &mut (owner, line) = owners.entry((place.clone(), key)).or_insert((i, wording.line));
                // A recalled name is asked for after each name; the first turn tells the members apart.
                let same = owner == i || leaf.traits.same_member && leaves[owner].group == leaf.group;
                if !same {
                    let other = &leaves[owner];
                    let text = format!(
                        "  {:?}: {}:{}: {} and {}:{}: {}",
                        wording.text, other.file, line, other.id, leaf.file, wording.line, leaf.id
                    );
                    found.insert(text, ());
                }
            }
        }
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Conflicts(found.into_keys().collect())),
    }
}
