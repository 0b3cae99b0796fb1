//! A conversation: text in, text out.

use pageformer_card::Manifest;
use pageformer_vram::{Arena, Card, Vram};

use crate::error::Error;
use crate::forward::Engine;
use crate::outgoing::Outgoing;
use crate::pace::Costs;
use crate::plan::Needs;
use crate::sampler::Sampler;
use crate::speculation::{Drafter, Speculated, Speculation};
use crate::tokenizer::Tokenizer;

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The model said that it is done, or the stop text came.
    End,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    Context,
    /// The receiver of the text wanted no more.
    Interrupted,
}

/// What a reply took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Tokens that the prompt became (with the one to begin with, and one left over from the turn before).
    pub prompt_tokens: u32,
    /// Tokens of the reply, without the one that ended it.
    pub tokens: u32,
    /// Why it ended.
    pub stop: Stop,
}

/// A fingerprint of logits: FNV-1a over their 32-bit words, 64 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Digest {
    /// Takes in more logits.
    pub fn update(&mut self, logits: &[f32]) {
        for logit in logits {
            self.0 = (self.0 ^ u64::from(logit.to_bits())).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

/// An engine that speaks.
pub struct Session<'m, C> {
    engine: Engine<'m, C>,
    tokenizer: Tokenizer,
    manifest: Manifest,
    /// Chooses tokens; may be changed between replies.
    pub sampler: Sampler,
    /// The sequence `(context)`; the first `engine.position()` are in the KV cache.
    tokens: &'m mut [u16],
    /// Length of the sequence; one more than the position when the last token was said but not yet read.
    len: usize,
    digest: Option<Digest>,
    /// The token that most likely brings the stop text: it is said before the next pass begins, which it makes needless.
    stop_token: Option<u16>,
    /// Whether tokens are guessed ahead, as far as the plan has memory for it; may be changed between replies.
    pub speculation: Speculation,
    drafter: Drafter,
}

impl<'m, C: Card> Session<'m, C> {
    /// A session over a started engine; `arena` is what is left after it.
    ///
    /// # Errors
    /// If the tokenizer is damaged or the memory is too small.
    pub fn start(
        mut engine: Engine<'m, C>,
        manifest: &Manifest,
        arena: &mut Arena<'m>,
    ) -> Result<Self, Error> {
        let tokens = arena.take(engine.plan().context as usize)?;
        let tokenizer = Tokenizer::open(engine.vram_mut(), manifest.tokenizer_pages, manifest.shape.vocab)?;
        let costs = Costs::of(engine.plan(), &Needs::new(manifest, engine.table()));
        let drafter = Drafter::open(engine.vram_mut(), costs, manifest.shape.vocab);
        let mut stop_token = None;
        if engine.reads_ahead()
            && let Some(chat) = &manifest.chat
        {
            let (vram, scratch) = engine.vram_and_scratch();
            let mut last = |token| {
                stop_token = Some(token);
                Ok(())
            };
            // A stop text that is no token's is learned when it comes.
            let _ = tokenizer.encode(vram, chat.stop.as_str(), scratch, &mut last);
        }
        engine.vram_mut().reset_stats();
        Ok(Self {
            speculation: engine.plan().speculation,
            drafter,
            engine,
            tokenizer,
            manifest: *manifest,
            sampler: Sampler::GREEDY,
            tokens,
            len: 0,
            digest: None,
            stop_token,
        })
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.engine.truncate(0);
        self.len = 0;
    }

    /// Whether nothing has been said since the start or [`Self::reset`].
    pub fn is_fresh(&self) -> bool {
        self.len == 0
    }

    /// Whether a digest is kept of the logits that every token is chosen from, from now on. It takes time, most of it where greedy decoding could do
    /// without most of the logits.
    pub fn keep_digest(&mut self, keep: bool) {
        self.digest = keep.then(Digest::default);
    }

    /// Digest of the logits that every token since [`Self::keep_digest`] was chosen from.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What came of tokens that were guessed ahead, since the start.
    pub fn speculated(&self) -> &Speculated {
        &self.drafter.counts
    }

    /// Where guesses may come from: the text so far, the card's table. Both, unless something else is said.
    pub fn guess_from(&mut self, text: bool, table: bool) {
        (self.drafter.from_text, self.drafter.from_table) = (text, table);
    }

    /// Whether the card has a table of drafts that is used.
    pub fn has_drafts(&self) -> bool {
        self.drafter.has_table()
    }

    /// Why the card's table of drafts is not used, if it has one that is damaged. It only costs time.
    pub fn drafts_fault(&self) -> Option<&Error> {
        self.drafter.fault()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine<'m, C> {
        &self.engine
    }

    /// The engine, to be driven directly. The conversation should be reset afterwards.
    pub fn engine_mut(&mut self) -> &mut Engine<'m, C> {
        &mut self.engine
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Encodes `text` behind the sequence.
    fn append(&mut self, text: &str) -> Result<(), Error> {
        let context = self.engine.plan().context;
        let used = self.len as u32;
        let full = Error::ContextFull { context, used };
        let (tokens, mut len) = (&mut *self.tokens, self.len);
        let mut push = |token| match tokens.get_mut(len) {
            Some(slot) => {
                *slot = token;
                len += 1;
                Ok(())
            }
            None => Err(full),
        };
        if used == 0
            && let Some(bos) = self.manifest.bos
        {
            push(bos)?;
        }
        let (vram, scratch) = self.engine.vram_and_scratch();
        self.tokenizer.encode(vram, text, scratch, &mut push)?;
        self.len = len;
        Ok(())
    }

    /// Encodes `text` into `out`, as a sequence of its own.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str, out: &mut dyn FnMut(u16) -> Result<(), Error>) -> Result<(), Error> {
        let (vram, scratch) = self.engine.vram_and_scratch();
        self.tokenizer.encode(vram, text, scratch, out)
    }

    /// The bytes of `token`, in parts.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode(&mut self, token: u16, out: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.tokenizer.decode(self.engine.vram_mut(), token, out)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// One pass for `token`, whatever the conversation, and the look-up of its text, as if it had just been chosen: for whoever wants to know what a token
    /// takes. The conversation should be reset afterwards.
    ///
    /// # Errors
    /// As [`Engine::step`] and [`Tokenizer::decode`].
    pub fn pass(&mut self, token: u16) -> Result<(), Error> {
        let said = &mut |_: &[u8]| true;
        let (tokenizer, mut text) = (self.tokenizer, Outgoing::new("", false, said));
        if !self.engine.reads_ahead() {
            self.engine.forward(&[token], 1, &[], None)?;
            return text.say(&tokenizer, self.engine.vram_mut(), token);
        }
        text.say_later(token);
        self.engine.forward(&[token], 1, &[], Some(&mut |vram| text.go_on(&tokenizer, vram)))?;
        text.fault().map_or(Ok(()), Err)
    }

    /// Appends `prompt` to the conversation and replies. `said` receives the text in pieces, which need not be
    /// whole characters, and answers whether it wants more; while the prompt is read, it is asked with empty pieces. If it
    /// wants no more by then, the prompt is forgotten. Text from `stop` on is not said; an empty `stop` never comes.
    ///
    /// # Errors
    /// If the prompt does not fit, or a page is bad: then the conversation, the sampler and the digest are as before
    /// the call, but what was said has been said (and was right). The same call again says the same.
    pub fn reply(
        &mut self,
        prompt: &str,
        stop: &str,
        max_tokens: u32,
        said: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Reply, Error> {
        let before = (self.engine.position(), self.len, self.sampler, self.digest);
        let result = self.try_reply(prompt, stop, max_tokens, said);
        if matches!(result, Err(_) | Ok(Reply { tokens: 0, stop: Stop::Interrupted, .. })) {
            self.engine.truncate(before.0);
            (self.len, self.sampler, self.digest) = (before.1, before.2, before.3);
        }
        result
    }

    fn try_reply(
        &mut self,
        prompt: &str,
        stop: &str,
        max_tokens: u32,
        said: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Reply, Error> {
        let first_unread = self.engine.position() as usize;
        self.append(prompt)?;
        let prompt_tokens = (self.len - first_unread) as u32;
        if prompt_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        let mut reply = Reply { prompt_tokens, tokens: 0, stop: Stop::MaxTokens };
        let strip = self.tokenizer.strips_first_space() && self.len == 1 && self.manifest.bos.is_some();
        let mut text = Outgoing::new(stop, strip, said);
        // The rows of logits that the last pass left to choose from, and how many tokens are read in the end: what comes behind
        // was guessed and not chosen.
        let (mut row, mut rows, mut read) = (0, 0, u32::MAX);
        while reply.tokens < max_tokens {
            if row == rows {
                self.engine.truncate(read);
                (row, rows) = (0, self.read_on((max_tokens - reply.tokens - 1) as usize, &mut text)?);
                if let Some(stop) = text.ended() {
                    (reply.stop, rows) = (stop, 0);
                    break;
                }
            }
            let token = match self.engine.best() {
                Some(best) => best,
                None => {
                    let logits = self.engine.logits(row);
                    if let Some(digest) = &mut self.digest {
                        digest.update(logits);
                    }
                    self.sampler.choose(logits)
                }
            };
            read = self.len as u32;
            // The next row is of the token that was guessed here.
            row += 1;
            let right = row < rows && self.tokens.get(self.len) == Some(&token);
            if !right {
                self.drafter.judge(rows - 1, row, row - 1);
                row = rows;
            }
            if self.manifest.eos.contains(&Some(token)) {
                reply.stop = Stop::End;
                break;
            }
            reply.tokens += 1;
            let room = match self.tokens.get_mut(self.len) {
                Some(slot) => {
                    *slot = token;
                    self.len += 1;
                    true
                }
                None => false,
            };
            let passes_on = row == rows && room && reply.tokens < max_tokens;
            if self.engine.reads_ahead() && passes_on && self.stop_token != Some(token) {
                text.say_later(token);
                continue;
            }
            text.say(&self.tokenizer, self.engine.vram_mut(), token)?;
            if let Some(stop) = text.ended() {
                reply.stop = stop;
                break;
            }
            if !room {
                reply.stop = Stop::Context;
                break;
            }
        }
        if row < rows {
            self.drafter.judge(rows - 1, row, row);
        }
        self.engine.truncate(read);
        if self.engine.reads_ahead() && text.ended() == Some(Stop::End) {
            self.stop_token = self.tokens.get(..self.len).and_then(<[u16]>::last).copied();
        }
        text.flush();
        Ok(reply)
    }

    /// Passes over the tape until every token of the sequence has been read, the last of them with up to `most` guesses behind it.
    /// Says how many rows of logits there are then: one, and one for each guess. What `text` has to say later is said during the last pass; if it wants no
    /// more then, or between two passes, that may be fewer.
    fn read_on(&mut self, most: usize, text: &mut Outgoing<'_>) -> Result<usize, Error> {
        let (batch, rows) = (self.engine.plan().batch as usize, self.engine.plan().logits_rows as usize);
        loop {
            let from = self.engine.position() as usize;
            let to = (from + batch).min(self.len);
            if to < self.len {
                let (now, next) = self.tokens.get(from..self.len).unwrap_or(&[]).split_at(to - from);
                self.engine.forward(now, 0, next, None)?;
                if !text.ask() {
                    return Ok(0);
                }
                continue;
            }
            let most = most.min(batch.saturating_sub(to - from)).min(rows.saturating_sub(1));
            let (how, vram) = (self.speculation, self.engine.vram_mut());
            let drafts = match cfg!(feature = "speculation") {
                true => self.drafter.draft(vram, how, self.tokens, (to - from, to), most),
                false => 0,
            };
            let (tokenizer, ahead) = (self.tokenizer, self.engine.reads_ahead());
            let only_best = self.digest.is_none() && self.sampler.is_greedy();
            let mut pass = |drafts| {
                self.engine.ask_for_best(only_best && drafts == 0);
                let tokens = self.tokens.get(from..to + drafts).unwrap_or(&[]);
                let mut go_on = |vram: &mut Vram<'m, C>| text.go_on(&tokenizer, vram);
                self.engine.forward(tokens, drafts + 1, &[], if ahead { Some(&mut go_on) } else { None })
            };
            let mut read = pass(drafts);
            if drafts > 0 && read.is_err() {
                // What goes wrong with a guess alone would not have gone wrong without it.
                read = pass(0);
            }
            return if ahead { text.fault().map_or(read, Err) } else { read };
        }
    }
}
