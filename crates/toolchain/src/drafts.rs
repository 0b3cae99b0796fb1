//! `drafts.bin`, learned from texts: which token follows which.

use std::collections::HashMap;
use std::ops::Range;

use pageformer_card::Page;
use pageformer_card::drafts::{DraftTable, MAX_CONTEXT, draft_pages};

/// A text as tokens, and the parts of it that a model would say: a chat's answers, or all of a story.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// All tokens.
    pub tokens: Vec<u16>,
    /// What is to be guessed.
    pub said: Vec<Range<usize>>,
}

impl Document {
    /// The places that are to be guessed and have `context` tokens before them: those, and the token.
    fn places(&self, context: usize) -> impl Iterator<Item = (&[u16], u16)> {
        let at = self.said.iter().cloned().flatten();
        at.filter_map(move |at| Some((self.tokens.get(at.checked_sub(context)?..at)?, *self.tokens.get(at)?)))
    }
}

/// A table and what it is worth.
#[derive(Clone, Debug)]
pub struct Drafts {
    /// `drafts.bin`.
    pub pages: Vec<Page>,
    /// Tokens of its contexts.
    pub context: usize,
    /// Entries that found room.
    pub kept: usize,
    /// Entries that there might have been.
    pub contexts: usize,
    /// Share of the tokens of texts that a table of the others guesses right.
    pub right: f64,
}

/// One document in so many is kept out, to find the length of contexts that guesses best.
const HELD_OUT: usize = 8;

/// Makes a table of `pages` pages for a vocabulary of `vocab` tokens. The length of its contexts is the one that guesses most tokens
/// right of documents that the table was not made from.
pub fn drafts(documents: &[Document], vocab: u32, pages: u32) -> Drafts {
    let (mut learned, mut held) = (Vec::new(), Vec::new());
    for (number, document) in documents.iter().enumerate() {
        (if number % HELD_OUT == HELD_OUT - 1 { &mut held } else { &mut learned }).push(document);
    }
    let said: usize = held.iter().flat_map(|document| &document.said).map(|said| said.len()).sum();
    let measured = (1..=MAX_CONTEXT).map(|context| {
        let table = DraftTable { pages, context, vocab };
        let (pages, ..) = learn(&table, &learned);
        let guess = |before: &[u16]| {
            let place = table.place(before);
            table.find(&pages[place.page as usize], place)
        };
        let places = held.iter().flat_map(|document| document.places(context));
        let right = places.filter(|(before, token)| guess(before) == Some(*token)).count();
        (context, right as f64 / said.max(1) as f64)
    });
    let (context, right) = measured.fold((1, 0.0), |best, this| if this.1 > best.1 { this } else { best });
    let all: Vec<&Document> = documents.iter().collect();
    let (pages, kept, contexts) = learn(&DraftTable { pages, context, vocab }, &all);
    Drafts { pages, context, kept, contexts, right }
}

/// The most frequent token behind each context; what it would have guessed right most often comes first. Also entries kept, and all.
fn learn(table: &DraftTable, documents: &[&Document]) -> (Vec<Page>, usize, usize) {
    let mut counts: HashMap<&[u16], HashMap<u16, u32>> = HashMap::new();
    for (context, token) in documents.iter().flat_map(|document| document.places(table.context)) {
        *counts.entry(context).or_default().entry(token).or_default() += 1;
    }
    let most = |counts: HashMap<u16, u32>| {
        counts.into_iter().map(|(token, count)| (count, std::cmp::Reverse(token))).max().unwrap_or_default()
    };
    let mut entries: Vec<_> = counts.into_iter().map(|(context, tokens)| (most(tokens), context)).collect();
    // Among equals the smaller tokens go first, so that the same texts give the same table.
    entries.sort_by(|a, b| b.0.0.cmp(&a.0.0).then(a.1.cmp(b.1)));
    let best = entries.iter().map(|((_, token), context)| (*context, token.0));
    let (pages, kept) = draft_pages(table, best);
    (pages, kept, entries.len())
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "what is said is a list of ranges, here of one")]
mod tests {
    use super::*;

    fn document(tokens: &[u16]) -> Document {
        Document { tokens: tokens.to_vec(), said: vec![1..tokens.len()] }
    }

    #[test]
    fn the_most_frequent_token_is_guessed_and_the_best_context_chosen() {
        // What follows 1 depends on the token before it.
        let mut documents: Vec<Document> = (0..64)
            .map(|n| match n % 3 {
                0 => document(&[9, 5, 1, 7, 2]),
                1 => document(&[9, 6, 1, 8, 2]),
                _ => document(&[n % 40, 4, 3]),
            })
            .collect();
        documents.iter_mut().for_each(|document| document.said = vec![2..document.tokens.len()]);
        let drafts = drafts(&documents, 64, 1);
        assert_eq!(drafts.context, 2);
        let table = DraftTable::read(&drafts.pages[0], 1, 64).unwrap();
        let guess = |context: &[u16]| table.find(&drafts.pages[0], table.place(context));
        assert_eq!((guess(&[5, 1]), guess(&[6, 1])), (Some(7), Some(8)));
        assert!(drafts.right > 0.5 && drafts.right <= 1.0);
        assert!(drafts.kept <= drafts.contexts);
    }

    #[test]
    fn only_what_is_said_is_learned() {
        let mut one = document(&[1, 2, 3, 4, 5]);
        one.said = vec![4..5];
        let drafts = drafts(&vec![one; 20], 64, 1);
        assert_eq!((drafts.contexts, drafts.right), (1, 1.0));
    }

    #[test]
    fn nothing_to_learn_from_is_an_empty_table() {
        for documents in [vec![], vec![Document::default()], vec![document(&[3])]] {
            let drafts = drafts(&documents, 64, 2);
            assert_eq!((drafts.kept, drafts.contexts, drafts.pages.len()), (0, 0, 2));
        }
    }

    #[test]
    fn what_is_worth_most_is_kept() {
        // More contexts than a page has room for; low tokens come more often.
        let documents: Vec<Document> = (0..4000u16)
            .map(|n| (n % 1000).min(n / 7 % 1000))
            .map(|n| document(&[n, (n * 7) % 1000]))
            .collect();
        let drafts = drafts(&documents, 1000, 1);
        assert!(drafts.kept < drafts.contexts && drafts.kept > 150, "{} of {}", drafts.kept, drafts.contexts);
        let table = DraftTable::read(&drafts.pages[0], 1, 1000).unwrap();
        let kept = |from: u16| {
            (from..from + 100)
                .filter(|n| table.find(&drafts.pages[0], table.place(&[*n])) == Some((n * 7) % 1000))
                .count()
        };
        assert!(kept(0) > 90 && kept(400) < 60, "{} of the frequent, {} of the others", kept(0), kept(400));
    }
}
