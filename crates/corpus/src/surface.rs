//! Dressing a question the way people type: letter case, punctuation, short forms, openers, closers, and slips of
//! the finger.

use crate::rng::Rng;
use crate::template::capitalise;
use crate::text::{QUESTION_WORDS, asks};

/// Small words that a question is understood without.
const SMALL: [&str; 16] = [
    "a", "an", "the", "is", "are", "do", "does", "did", "of", "to", "that", "can", "please", "me", "it",
    "some",
];
/// Words that may stand anywhere.
const FILLERS: [&str; 14] = [
    "really", "actually", "just", "exactly", "please", "now", "then", "again", "well", "maybe", "there",
    "uh", "simply", "also",
];
/// What may stand around a whole question or statement.
const BEFORE: [&str; 14] = [
    "I wonder",
    "I ask you",
    "my question is",
    "I would like to know",
    "can you say",
    "could you tell me",
    "tell me",
    "do you know",
    "one thing",
    "I think",
    "you know",
    "by the way",
    "listen",
    "and",
];
const BEHIND: [&str; 10] = [
    "do you know",
    "tell me",
    "can you say",
    "I want to know",
    "that is my question",
    "you know",
    "I think",
    "my friend",
    "right",
    "or not",
];

/// The question in rough words: as people type it in a hurry, or speak it. Small words are left out, fillers put in,
/// a part moved to the front. What stays is the words that matter, and so it teaches to listen to those.
pub fn roughen(question: &str, rng: &mut Rng) -> String {
    let mut words: Vec<&str> = question.split(' ').collect();
    match rng.below(10) {
        0..3 => {
            for _ in 0..1 + rng.below(3) {
                let small: Vec<usize> = (0..words.len()).filter(|&i| SMALL.contains(&words[i])).collect();
                if let Some(&at) = rng.pick(&small).filter(|_| words.len() > 2) {
                    words.remove(at);
                }
            }
        }
        3..5 => {
            for _ in 0..1 + rng.below(2) {
                let filler = rng.pick(&FILLERS).copied().unwrap_or_default();
                words.insert(rng.index(words.len() + 1), filler);
            }
        }
        5 => words.insert(0, rng.pick(&BEFORE).copied().unwrap_or_default()),
        6 => words.push(rng.pick(&BEHIND).copied().unwrap_or_default()),
        _ if words.len() > 2 => {
            let by = 1 + rng.index(words.len() - 1);
            words.rotate_left(by);
        }
        _ => {}
    }
    words.join(" ")
}

/// What may be done to a question.
#[derive(Clone, Copy, Debug)]
pub struct Dress<'a> {
    /// End mark of a sentence that asks nothing.
    pub end: &'a str,
    /// Whether openers ("hey, ...") and closers ("..., please") may be added.
    pub extras: bool,
    /// Whether slips of the finger may be made.
    pub slips: bool,
    /// In how many of 100 questions the words may be rough.
    pub rough: u64,
}

/// In how many of 100 questions each thing is done.
const CONTRACT: u64 = 25;
const CHAT_SPELLING: u64 = 5;
const OPENER: u64 = 14;
const CLOSER: u64 = 7;
const CARRIER: u64 = 8;
const SLIP: u64 = 14;

const OPENERS: [&str; 14] = [
    "hi, ",
    "hey, ",
    "hello, ",
    "hey ",
    "hi ",
    "ok, ",
    "so, ",
    "well, ",
    "um, ",
    "please ",
    "Page, ",
    "Pageformer, ",
    "hey Page, ",
    "hello Pageformer, ",
];
const CLOSERS: [&str; 4] = [" please", ", please", ", Page", " pls"];

/// Openers of questions that begin with a question word.
const CARRIERS: [&str; 7] = [
    "tell me, ",
    "tell me ",
    "can you tell me ",
    "do you know ",
    "I want to know, ",
    "please tell me ",
    "question: ",
];

const CONTRACTIONS: [(&str, &str); 22] = [
    ("what is ", "what's "),
    ("who is ", "who's "),
    ("where is ", "where's "),
    ("how is ", "how's "),
    ("when is ", "when's "),
    ("that is ", "that's "),
    ("it is ", "it's "),
    ("there is ", "there's "),
    ("I am ", "I'm "),
    ("I will ", "I'll "),
    ("I have ", "I've "),
    ("I would ", "I'd "),
    ("you are ", "you're "),
    ("do not ", "don't "),
    ("does not ", "doesn't "),
    ("did not ", "didn't "),
    ("cannot ", "can't "),
    ("can not ", "can't "),
    ("is not ", "isn't "),
    ("are not ", "aren't "),
    ("will not ", "won't "),
    ("let us ", "let's "),
];
const CHAT: [(&str, &str); 5] =
    [("you ", "u "), ("are ", "r "), ("your ", "ur "), ("please", "pls"), ("thanks", "thx")];

/// The question as somebody might type it.
pub fn dress(question: &str, how: Dress, rng: &mut Rng) -> String {
    let asking = asks(question);
    // The order of numbers matters.
    let ordered = question.contains(|c: char| c.is_ascii_digit());
    let mut text =
        if !ordered && rng.chance(how.rough) { roughen(question, rng) } else { question.to_owned() };
    if rng.chance(CONTRACT) {
        for (long, short) in CONTRACTIONS {
            text = replace_word(&text, long, short);
        }
    }
    if how.extras && rng.chance(OPENER) {
        let opener = rng.pick(&OPENERS).copied().unwrap_or_default();
        text = format!("{opener}{text}");
    } else if how.extras && rng.chance(CARRIER) && wh_question(question) {
        let carrier = rng.pick(&CARRIERS).copied().unwrap_or_default();
        text = format!("{carrier}{text}");
    } else if how.extras && rng.chance(CLOSER) {
        text.push_str(rng.pick(&CLOSERS).copied().unwrap_or_default());
    }
    if how.slips && rng.chance(SLIP) {
        text = Some(slip(&text, rng)).filter(|slipped| decent(slipped)).unwrap_or(text);
    }
    let end = match (asking, text.ends_with('=')) {
        (_, true) => "",
        (true, _) => "?",
        (false, _) => how.end,
    };
    match rng.below(100) {
        0..30 => capitalise(&text) + end,
        30..52 => text.to_lowercase() + end,
        52..66 => capitalise(&text),
        _ => {
            let mut sloppy = text.to_lowercase();
            if rng.chance(60) {
                sloppy.retain(|c| c != '\'');
            }
            if rng.chance(50) {
                sloppy.retain(|c| c != ',');
            }
            if how.slips && rng.chance(CHAT_SPELLING) {
                for (long, short) in CHAT {
                    sloppy = replace_word(&sloppy, long, short);
                }
            }
            sloppy
        }
    }
}

/// Whether the question begins with a question word.
fn wh_question(question: &str) -> bool {
    question.split(' ').next().is_some_and(|first| QUESTION_WORDS.contains(&first))
}

/// Replaces the first `from` that begins a word, and ends one.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let bytes = text.as_bytes();
    let letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let found = text.match_indices(from).find(|(at, _)| {
        let end = at + from.len();
        // "where is it" does not become "where's it".
        (*at == 0 || bytes.get(at - 1) == Some(&b' '))
            && (from.ends_with(' ') || !letter(end))
            && &text[end..] != "it"
    });
    match found {
        Some((at, _)) => format!("{}{to}{}", &text[..at], &text[at + from.len()..]),
        None => text.to_owned(),
    }
}

/// Whether no slip made a rude word ("count" without its o).
fn decent(text: &str) -> bool {
    let lower = text.to_lowercase();
    ["cunt", "shit", "nigg", "fuck", "dick", "penis", "slut", "whor", "rape"]
        .iter()
        .all(|word| !lower.contains(word))
}

/// One slip of the finger in a word of four letters or more: two neighbours swapped, a letter dropped or doubled.
/// First letters stay. Texts without such a word stay as they are.
fn slip(text: &str, rng: &mut Rng) -> String {
    let mut words: Vec<Vec<char>> = text.split(' ').map(|w| w.chars().collect()).collect();
    let long: Vec<usize> = (0..words.len())
        .filter(|&i| words[i].iter().filter(|c| c.is_ascii_alphabetic()).count() >= 4)
        .filter(|&i| words[i].iter().all(|c| !c.is_ascii_digit()))
        .collect();
    if let Some(&i) = rng.pick(&long) {
        let word = &mut words[i];
        let letters = word.iter().take_while(|c| c.is_ascii_alphabetic()).count();
        if letters >= 4 {
            let at = 1 + rng.index(letters - 2);
            match rng.below(3) {
                0 => word.swap(at, at + 1),
                1 => drop(word.remove(at)),
                _ => word.insert(at, word[at]),
            }
        }
    }
    words.iter().map(|w| w.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::core;

    #[test]
    fn dress_without_slips_keeps_the_core() {
        let how = Dress { end: ".", extras: true, slips: false, rough: 0 };
        for question in
            ["what is your favourite colour", "tell me a joke", "where is Paris", "I do not know that"]
        {
            for seed in 0..300 {
                let dressed = dress(question, how, &mut Rng::new(seed, "dress"));
                assert_eq!(core(&dressed, false), core(question, false), "{dressed}");
            }
        }
    }

    #[test]
    fn ends_fit() {
        let how = Dress { end: "!", extras: false, slips: false, rough: 0 };
        let forms = |question: &str| {
            (0..200)
                .map(|s| dress(question, how, &mut Rng::new(s, "end")))
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert!(forms("what is new").contains("What's new?"));
        assert!(
            forms("where is it").contains("Where is it?") && !forms("where is it").contains("Where's it?")
        );
        assert!(forms("good morning").contains("Good morning!"));
        assert!(forms("good morning").iter().all(|f| !f.contains('?')));
    }

    #[test]
    fn a_slip_changes_one_long_word() {
        let text = "the opposite of 12345 is a cat";
        for seed in 0..200 {
            let slipped = slip(text, &mut Rng::new(seed, "slip"));
            let changed: Vec<_> = text.split(' ').zip(slipped.split(' ')).filter(|(a, b)| a != b).collect();
            assert!(changed.is_empty() || changed.len() == 1 && changed[0].0 == "opposite", "{slipped}");
        }
        assert_eq!(slip("a b 12", &mut Rng::new(0, "slip")), "a b 12");
    }
}
