//! Tidying a text, and the two keys by which questions are compared.

/// Makes one text of an expanded template: single spaces, none before a comma or full stop, "an" before a vowel.
pub fn tidy(raw: &str) -> String {
    let words: Vec<&str> = raw.split_whitespace().collect();
    let mut text = String::with_capacity(raw.len());
    for (i, word) in words.iter().enumerate() {
        if !text.is_empty() && !matches!(*word, "," | "." | "!" | "?") {
            text.push(' ');
        }
        text.push_str(word);
        let article = *word == "a" || (*word == "A" && i == 0);
        if article && words.get(i + 1).is_some_and(|next| takes_an(next)) {
            text.push('n');
        }
    }
    text
}

/// Whether the word wants "an" before it, as far as the spelling shows: "an owl", but "a unicorn", "a USB cable".
fn takes_an(word: &str) -> bool {
    let lower = word.to_lowercase();
    lower.len() > 1
        && lower.starts_with(['a', 'e', 'i', 'o', 'u'])
        && !["uni", "use", "usb", "one", "once", "eu"].iter().any(|start| lower.starts_with(start))
}

/// The words of a text in lower case, without punctuation; `+ - * /` between numbers become words, because a sum
/// without its sign is another sum.
fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.to_lowercase().chars().filter(|c| *c != '\'').collect();
    let mut spaced = String::with_capacity(text.len());
    let mut after_digit = false;
    for (i, &c) in chars.iter().enumerate() {
        let next = chars[i + 1..].iter().find(|c| **c != ' ');
        let sign = after_digit && next.is_some_and(char::is_ascii_digit);
        match c {
            '+' => spaced.push_str(" plus "),
            '-' if sign => spaced.push_str(" minus "),
            '*' => spaced.push_str(" times "),
            '/' if sign => spaced.push_str(" over "),
            c if c.is_ascii_alphanumeric() => spaced.push(c),
            _ => spaced.push(' '),
        }
        if c != ' ' {
            after_digit = c.is_ascii_digit();
        }
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// The words of a text, short forms written out and in one spelling.
pub fn vocabulary(text: &str) -> Vec<String> {
    let mut list = Vec::new();
    for word in words(text) {
        match SHORT.iter().find(|(short, _)| *short == word) {
            Some((_, long)) => list.extend(long.split(' ').map(str::to_owned)),
            None => list.push(word),
        }
    }
    list
}

/// The normal form: lower case, no punctuation, no spaces. Two questions with the same normal form are the same.
pub fn normal(text: &str) -> String {
    words(text).concat()
}

/// What may stand before a question without making it another one.
const OPENERS: [&str; 14] = [
    "please",
    "page",
    "pageformer",
    "hi",
    "hey",
    "hello",
    "ok",
    "okay",
    "so",
    "well",
    "um",
    "oh",
    "now",
    "and",
];
/// Those of them that may stand before a greeting or an "ok", too.
const BARE_OPENERS: usize = 3;
/// What may stand behind it.
const CLOSERS: [&str; 5] = ["please", "page", "pageformer", "thanks", "now"];
/// Those of them that may stand behind a greeting or an "ok", too.
const BARE_CLOSERS: usize = 3;

/// What may carry a question that begins with a question word.
const CARRIERS: [&str; 5] = ["can you tell me", "tell me", "do you know", "i want to know", "question"];
/// Question words.
pub const QUESTION_WORDS: [&str; 7] = ["what", "who", "where", "when", "why", "how", "which"];

/// The core: a stricter key than [`normal`], the same for all dresses of one wording. Short forms are written out,
/// British and American spellings are one, and openers such as "hey", carriers such as "tell me" (before a question
/// word) and closers such as "please" are dropped; in `bare` questions, where a "hey" is the message itself, only the model's name and "please".
/// Held-out questions are kept apart from training questions by their cores.
pub fn core(text: &str, bare: bool) -> String {
    let openers = if bare { &OPENERS[..BARE_OPENERS] } else { &OPENERS[..] };
    let closers = if bare { &CLOSERS[..BARE_CLOSERS] } else { &CLOSERS[..] };
    let mut list = vocabulary(text);
    let one_of = |word: Option<&String>, list: &[&str]| word.is_some_and(|w| list.contains(&w.as_str()));
    while list.len() > 1 && one_of(list.first(), openers) {
        list.remove(0);
    }
    if !bare {
        for carrier in CARRIERS {
            let words: Vec<&str> = carrier.split(' ').collect();
            let carried = list.get(words.len()).is_some_and(|w| QUESTION_WORDS.contains(&w.as_str()));
            if carried && list.iter().zip(&words).all(|(a, b)| a == b) {
                list.drain(..words.len());
            }
        }
    }
    while list.len() > 1 && one_of(list.last(), closers) {
        list.pop();
    }
    list.concat()
}

/// Short forms and second spellings, without apostrophes, and what they stand for.
const SHORT: [(&str, &str); 36] = [
    ("whats", "what is"),
    ("whos", "who is"),
    ("wheres", "where is"),
    ("hows", "how is"),
    ("whens", "when is"),
    ("thats", "that is"),
    ("its", "it is"),
    ("theres", "there is"),
    ("im", "i am"),
    ("ill", "i will"),
    ("ive", "i have"),
    ("id", "i would"),
    ("youre", "you are"),
    ("dont", "do not"),
    ("doesnt", "does not"),
    ("didnt", "did not"),
    ("cant", "can not"),
    ("cannot", "can not"),
    ("isnt", "is not"),
    ("arent", "are not"),
    ("wont", "will not"),
    ("lets", "let us"),
    ("u", "you"),
    ("r", "are"),
    ("ur", "your"),
    ("pls", "please"),
    ("thx", "thanks"),
    ("color", "colour"),
    ("colors", "colours"),
    ("favorite", "favourite"),
    ("license", "licence"),
    ("gray", "grey"),
    ("quantisation", "quantization"),
    ("quantised", "quantized"),
    ("alright", "all right"),
    ("goodbye", "good bye"),
];

/// Words that open a question.
const ASKING: [&str; 28] = [
    "what", "who", "whom", "whose", "where", "when", "why", "how", "which", "can", "could", "do", "does",
    "did", "is", "are", "am", "was", "were", "will", "would", "shall", "should", "may", "must", "has",
    "aren't", "don't",
];

/// Words that open an order or a statement: a question word behind them asks nothing ("tell me what it is").
const TELLING: [&str; 12] =
    ["tell", "say", "explain", "describe", "define", "name", "show", "i", "that", "you", "count", "teach"];

/// Whether the text asks something and so ends in a question mark: a part of it between commas begins with a
/// question word or a verb, or has a question word in it ("Rome is in which country").
pub fn asks(text: &str) -> bool {
    text.split(", ").any(|part| {
        let lower = part.to_lowercase();
        let mut words = lower.split(' ').skip_while(|w| matches!(*w, "and" | "but" | "so"));
        let Some(first) = words.next() else { return false };
        let inside = |w: &str| matches!(w, "what" | "which" | "where" | "whom" | "how");
        ASKING.contains(&first) || !TELLING.contains(&first) && words.any(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_and_spaces_are_tidied() {
        assert_eq!(tidy(" what  does a owl say "), "what does an owl say");
        assert_eq!(tidy("A ant , a unicorn and a USB cable"), "An ant, a unicorn and a USB cable");
        assert_eq!(tidy("is A a vowel"), "is A a vowel");
    }

    #[test]
    fn normal_form_ignores_dress_but_not_signs() {
        assert_eq!(normal("What's your name?"), normal("whats  your NAME"));
        assert_ne!(normal("what is 3 + 4"), normal("what is 3 - 4"));
        assert_ne!(normal("3*4"), normal("34"));
        assert_eq!(normal("Wi-Fi"), "wifi");
        assert_eq!(normal("3 - 4?"), "3minus4");
    }

    #[test]
    fn core_sees_through_openers_and_short_forms() {
        assert_eq!(
            core("Hey, what's ur favorite color, please?", false),
            core("what is your favourite colour", false)
        );
        assert_ne!(core("ok, thanks", true), core("thanks", true));
        assert_eq!(core("hello Page", true), core("hello", true));
        assert_eq!(core("hello", false), "hello");
        assert_eq!(core("please tell me, where is Oslo?", false), core("wheres oslo", false));
        assert_ne!(core("tell me a joke", false), core("a joke", false));
    }

    #[test]
    fn questions_are_told_from_statements() {
        for text in ["what is this", "and what about Italy", "in which month is it", "your home, where is it"]
        {
            assert!(asks(text), "{text}");
        }
        for text in ["tell me a joke", "for me it is fine", "hello there"] {
            assert!(!asks(text), "{text}");
        }
    }
}
