//! From files to sequences of tokens.

mod chat;
mod text;

use std::path::Path;

use pageformer_model::{ChatTemplate, Model, Sample, Tokenizer};

use crate::{Error, Example};

pub use chat::{Chat, Turn, parse_chats, read_chats};
pub use text::read_documents;

/// What part of the data is kept out of training, to measure the loss on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldOut {
    /// The last so many documents or chats.
    Last(usize),
    /// A part of them (0 to 1), evenly spread: the right thing for data that is sorted by topic.
    Fraction(f64),
}

impl HoldOut {
    /// Splits items into those to train on and those held out, each in their order.
    pub fn split<T>(self, items: Vec<T>) -> (Vec<T>, Vec<T>) {
        let (total, mut held) = (items.len(), vec![]);
        let mut train = vec![];
        for (i, item) in items.into_iter().enumerate() {
            let out = match self {
                HoldOut::Last(n) => i + n >= total,
                // Whenever the count that is due passes a whole number.
                HoldOut::Fraction(f) => ((i + 1) as f64 * f).floor() > (i as f64 * f).floor(),
            };
            if out { held.push(item) } else { train.push(item) }
        }
        (train, held)
    }
}

impl HoldOut {
    /// The same for texts. Where a part of the documents is less than one (a single long text, say), the end of the last one is held out
    /// instead: that part of all text, in pieces of about `piece` bytes.
    pub fn split_texts(self, mut documents: Vec<String>, piece: usize) -> (Vec<String>, Vec<String>) {
        let all = documents.iter().map(String::len).sum::<usize>() as f64;
        match (self, &mut documents[..]) {
            (HoldOut::Fraction(part), [others @ .., last]) if ((others.len() + 1) as f64) < 1.0 / part => {
                let held = ((all * part) as usize).min(last.len() / 2);
                let tail = cut_tail(last, held);
                (documents, pieces(&tail, piece))
            }
            _ => self.split(documents),
        }
    }
}

/// Cuts about the last `held` bytes off a text, at the begin of a line if there is one.
fn cut_tail(text: &mut String, held: usize) -> String {
    let mut at = text.len() - held;
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at += text[at..].trim_end().find('\n').map_or(0, |end| end + 1);
    text.split_off(at)
}

/// A text in pieces of at least `size` bytes, cut at white space.
fn pieces(text: &str, size: usize) -> Vec<String> {
    let mut rest = text.trim();
    let mut pieces = vec![];
    while !rest.is_empty() {
        let space = rest.char_indices().find(|(at, c)| *at >= size && c.is_whitespace());
        let (piece, after) = rest.split_at(space.map_or(rest.len(), |(at, _)| at));
        pieces.push(piece.to_owned());
        rest = after.trim_start();
    }
    pieces
}

/// How documents become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Each document is cut into sequences of its own; nothing of another document is seen.
    Cut,
    /// All documents, joined, are cut into sequences of full length.
    Join,
}

/// The tokens that every sequence needs besides its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Begins a document or chat.
    pub bos: Option<u32>,
    /// Ends a document; a model that reads it has no more to say.
    pub end: Option<u32>,
    /// How a chat is rendered.
    pub chat: Option<ChatTemplate>,
    /// Most tokens that the model sees in a sequence; at most its positions.
    pub seq_len: usize,
}

impl Frame {
    /// The frame of a model that exists.
    pub fn of(model: &Model, seq_len: usize) -> Self {
        Frame {
            bos: model.bos,
            end: model.eos.first().copied().or(model.bos),
            chat: model.chat.clone(),
            seq_len: seq_len.min(model.shape.max_seq as usize),
        }
    }

    /// Sequences of documents to train on.
    pub fn documents(
        &self,
        documents: &[impl AsRef<str>],
        tokenizer: &Tokenizer,
        packing: Packing,
    ) -> Vec<Example> {
        let document = |text: &str| {
            let ids = self.bos.into_iter().chain(tokenizer.encode(text));
            ids.chain(self.end).collect::<Vec<u32>>()
        };
        // A sequence sees `seq_len` tokens and is asked for one more, which is the first that the next sequence sees.
        let cut = |ids: &[u32]| -> Vec<Example> {
            let firsts = (0..ids.len().saturating_sub(1)).step_by(self.seq_len.max(1));
            firsts
                .filter_map(|i| Example::all(ids[i..(i + self.seq_len + 1).min(ids.len())].to_vec()))
                .collect()
        };
        let all = documents.iter().map(|d| document(d.as_ref()));
        match packing {
            Packing::Cut => all.flat_map(|ids| cut(&ids)).collect(),
            Packing::Join => {
                let mut joined: Vec<u32> = vec![];
                for ids in all {
                    // One token, not two, between documents when their end is the next's begin.
                    let repeated =
                        joined.last().is_some() && joined.last() == ids.first() && self.bos.is_some();
                    joined.extend(&ids[usize::from(repeated)..]);
                }
                cut(&joined)
            }
        }
    }

    /// Sequences to measure the loss of documents on: each document's begin, up to `seq_len` tokens, as [`pageformer_model::evaluate()`]
    /// scores it.
    pub fn held_out_documents(&self, documents: &[impl AsRef<str>], tokenizer: &Tokenizer) -> Vec<Example> {
        let sample = |text: &str| Sample::new(text, tokenizer, self.bos, self.seq_len);
        documents.iter().filter_map(|d| Example::all(sample(d.as_ref()).ids)).collect()
    }

    /// Sequences of chats, of which only the answers and what ends them count. Turns that find no room any more are left out.
    ///
    /// # Errors
    /// If there is no chat template, a first turn is longer than a sequence, or an answer contains the text that ends it; with the
    /// place of the chat in `file`.
    pub fn chats(&self, chats: &[Chat], tokenizer: &Tokenizer, file: &Path) -> Result<Vec<Example>, Error> {
        let template = self.chat.as_ref().ok_or_else(|| {
            Error::TooLittleData(
                "training on chats needs a chat template (`data.user` and `data.stop` of the recipe)".into(),
            )
        })?;
        chats.iter().map(|c| self.chat(c, template, tokenizer, file)).collect()
    }

    fn chat(
        &self,
        chat: &Chat,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        file: &Path,
    ) -> Result<Example, Error> {
        let wrong = |line: usize, problem: String| Error::Data { path: file.into(), line, problem };
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let mut scored = vec![false; tokens.len()]; // of each token, cut to that of tokens[1..] below
        for (i, turn) in chat.turns.iter().enumerate() {
            if !template.stop.is_empty() && turn.answer.contains(&template.stop) {
                let problem = format!(
                    "the answer contains {:?}, which ends answers; write it in one line or change `data.stop`",
                    template.stop
                );
                return Err(wrong(turn.line, problem));
            }
            let question = tokenizer.encode(&template.user.replacen("{}", &turn.question, 1));
            let mut answer = tokenizer.encode(&format!("{}{}", turn.answer, template.stop));
            if template.stop.is_empty() {
                answer.extend(self.end);
            }
            let needed = tokens.len() + question.len() + answer.len();
            if needed > self.seq_len + 1 {
                if i > 0 {
                    break;
                }
                let problem = format!(
                    "{needed} tokens, and sequences have {}; shorten it or raise `data.seq_len`",
                    self.seq_len
                );
                return Err(wrong(turn.line, problem));
            }
            scored.resize(tokens.len() + question.len(), false);
            tokens.extend(question);
            scored.resize(tokens.len() + answer.len(), true);
            tokens.extend(answer);
        }
        if !scored.is_empty() {
            scored.remove(0);
        }
        let line = chat.turns.first().map_or(1, |t| t.line);
        Example::masked(tokens, scored).ok_or_else(|| wrong(line, "no answer to learn from".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seq_len: usize) -> Frame {
        let chat = ChatTemplate { user: "Q{}A".into(), stop: "\n".into() };
        Frame { bos: Some(0), end: Some(0), chat: Some(chat), seq_len }
    }

    fn text(example: &Example) -> String {
        example.inputs().iter().map(|&i| if i == 0 { '^' } else { char::from(i as u8) }).collect()
    }

    fn targets(example: &Example) -> String {
        example.targets().map(|(_, t)| if t == 0 { '$' } else { char::from(t as u8) }).collect()
    }

    #[test]
    fn documents_are_cut_or_joined() {
        let ascii = Tokenizer::ascii();
        let cut = frame(4).documents(&["abcdef", "xy", ""], &ascii, Packing::Cut);
        assert_eq!(cut.iter().map(text).collect::<Vec<_>>(), ["^abc", "def", "^xy", "^"]);
        assert_eq!(cut.iter().map(targets).collect::<Vec<_>>(), ["abcd", "ef$", "xy$", "$"]);
        let joined = frame(4).documents(&["abcdef", "xy"], &ascii, Packing::Join);
        assert_eq!(joined.iter().map(text).collect::<Vec<_>>(), ["^abc", "def^", "xy"]);
        assert_eq!(joined.iter().map(targets).collect::<String>(), "abcdef$xy$");
        let held = frame(4).held_out_documents(&["abcdef", "xy"], &ascii);
        assert_eq!(held.iter().map(targets).collect::<Vec<_>>(), ["abc", "xy"]);
    }

    #[test]
    fn only_answers_count() {
        let chats = parse_chats("hi\nyes\nwho\nme\n\nx\ny\n", Path::new("c.txt")).unwrap();
        let examples = frame(40).chats(&chats, &Tokenizer::ascii(), Path::new("c.txt")).unwrap();
        assert_eq!(text(&examples[0]), "^QhiAyes\nQwhoAme");
        assert_eq!(targets(&examples[0]), "yes\nme\n");
        assert_eq!(targets(&examples[1]), "y\n");
        // Only the first turn fits; then not even that.
        let short = frame(12).chats(&chats, &Tokenizer::ascii(), Path::new("c.txt")).unwrap();
        assert_eq!(targets(&short[0]), "yes\n");
        let error = frame(7).chats(&chats, &Tokenizer::ascii(), Path::new("c.txt")).unwrap_err();
        assert!(error.to_string().starts_with("c.txt:1: 9 tokens"), "{error}");
    }

    #[test]
    fn answers_must_not_contain_their_end() {
        let chat = Chat { turns: vec![Turn { question: "q".into(), answer: "a\nb".into(), line: 7 }] };
        let error = frame(40).chats(&[chat], &Tokenizer::ascii(), Path::new("c.jsonl")).unwrap_err();
        assert!(error.to_string().starts_with("c.jsonl:7: the answer contains \"\\n\""), "{error}");
    }

    #[test]
    fn hold_out() {
        let (train, held) = HoldOut::Last(3).split((0..10).collect());
        assert_eq!((train.len(), held), (7, vec![7, 8, 9]));
        let (train, held) = HoldOut::Fraction(0.2).split((0..10).collect());
        assert_eq!((train.len(), held), (8, vec![4, 9]));
        assert!(HoldOut::Last(20).split(vec![1, 2]).0.is_empty());
        assert!(HoldOut::Fraction(0.0).split(vec![1, 2]).1.is_empty());
    }

    #[test]
    fn of_a_single_text_the_end_is_held_out() {
        let lines: Vec<String> = (0..100).map(|n| format!("line é {n:03}")).collect();
        let text = lines.join("\n");
        for part in [0.05, 0.1, 0.5, 0.9] {
            let (train, held) = HoldOut::Fraction(part).split_texts(vec![text.clone()], 30);
            // Nothing is lost, nothing is in both, and lines stay whole at the cut.
            let words = |texts: &[String]| texts.join(" ").split_whitespace().map(str::to_owned).collect();
            let (train, held_words): (Vec<String>, Vec<String>) = (words(&train), words(&held));
            assert_eq!(train.len() % 3, 0);
            assert_eq!([&train[..], &held_words].concat(), words(std::slice::from_ref(&text)));
            let share = held_words.len() as f64 / 300.0;
            assert!((share - part.min(0.5)).abs() < 0.02, "{part}: {share}");
            assert!(held[..held.len() - 1].iter().all(|p| (30..45).contains(&p.len())), "{held:?}");
        }
        // Enough documents are held out whole; a number of them, or nothing, is taken at its word.
        let documents = || vec!["one two".to_owned(); 40];
        assert_eq!(HoldOut::Fraction(0.05).split_texts(documents(), 3).1, ["one two"; 2]);
        assert_eq!(HoldOut::Last(1).split_texts(vec![text.clone()], 3), (vec![], vec![text.clone()]));
        assert_eq!(HoldOut::Fraction(0.0).split_texts(vec![text.clone()], 3), (vec![text], vec![]));
        assert!(HoldOut::Fraction(0.5).split_texts(vec![], 3).0.is_empty());
        for short in ["", "a", "é", "\n\n", "ééé"] {
            let (train, held) = HoldOut::Fraction(0.4).split_texts(vec![short.into()], 0);
            assert_eq!(train.concat().trim().len() + held.concat().len(), short.trim().len(), "{short:?}");
        }
    }
}
