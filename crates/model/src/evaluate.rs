//! How well a model predicts a text, whichever way the model is run.

use crate::Tokenizer;

/// Something that can tell how likely a model finds a text.
pub trait Scorer {
    /// Why it could not.
    type Error;

    /// `Σ −ln p(ids[i] | ids[..i])` over `i = 1..`, in nats. The first token is given, not scored.
    ///
    /// Each call is about a text of its own.
    ///
    /// # Errors
    /// If the model cannot be run on these tokens.
    fn score(&mut self, ids: &[u32]) -> Result<f64, Self::Error>;
}

/// A document, ready to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its tokens, BOS first where the model has one, cut at the context.
    pub ids: Vec<u32>,
    /// Number of bytes of the text that the scored tokens (all but the first) stand for.
    pub bytes: usize,
}

impl Sample {
    /// Encodes a document. Without a BOS the document's own first token is not scored, since nothing predicts
    /// it.
    ///
    /// `context` is the number of positions, BOS included.
    pub fn new(text: &str, tokenizer: &Tokenizer, bos: Option<u32>, context: usize) -> Self {
        let mut ids: Vec<u32> = bos.into_iter().collect();
        ids.extend(tokenizer.encode(text));
        ids.truncate(context);
        let own = &ids[ids.len().min(usize::from(bos.is_some()))..];
        let unscored = if bos.is_some() { &[] } else { &own[..own.len().min(1)] };
        let bytes = tokenizer.decode(own).len() - tokenizer.decode(unscored).len();
        Sample { ids, bytes }
    }
}

/// The documents of a text: what stands between separators, without white space around it. Empty ones are
/// skipped.
///
/// An empty separator makes the whole text one document.
pub fn documents<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let parts = if separator.is_empty() { vec![text] } else { text.split(separator).collect() };
    parts.into_iter().map(str::trim).filter(|d| !d.is_empty()).collect()
}

/// What a model made of some documents. The means of nothing are NaN.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Score {
    /// Number of documents.
    pub documents: usize,
    /// Number of tokens scored.
    pub tokens: usize,
    /// Sum of `−ln p` over them, in nats.
    pub nll: f64,
    /// Number of bytes of text that they stand for.
    pub bytes: usize,
}

impl Score {
    /// Mean of `−ln p`, in nats per token.
    pub fn nll_per_token(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Bits per byte of text: comparable between models with different tokenizers.
    pub fn bits_per_byte(&self) -> f64 {
        self.nll / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// `exp` of the mean of `−ln p`.
    pub fn perplexity(&self) -> f64 {
        self.nll_per_token().exp()
    }
}

/// Scores documents one after another; `progress` is told the sums after each.
///
/// # Errors
/// The scorer's.
pub fn evaluate<S: Scorer>(
    samples: &[Sample],
    scorer: &mut S,
    mut progress: impl FnMut(&Score),
) -> Result<Score, S::Error> {
    let mut total = Score::default();
    for sample in samples {
        total.nll += scorer.score(&sample.ids)?;
        total.documents += 1;
        total.tokens += sample.ids.len().saturating_sub(1);
        total.bytes += sample.bytes;
        progress(&total);
    }
    Ok(total)
}
