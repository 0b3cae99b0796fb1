//! Text on its way out.

use pageformer_vram::{Card, Vram};

use crate::error::Error;
use crate::session::Stop;
use crate::tokenizer::Tokenizer;

/// Text on its way out: holds back what may be the beginning of the stop text. Where the card is read while something is computed, the text of a token that
/// was chosen is looked up during the pass that follows.
pub(crate) struct Outgoing<'a> {
    stop: &'a [u8],
    held: [u8; 32],
    len: usize,
    said: &'a mut dyn FnMut(&[u8]) -> bool,
    wants_more: bool,
    found: bool,
    /// The dummy space in front of a text is not part of it.
    strip: bool,
    /// The token that is looked up, and how many of the steps are done.
    later: Option<(u16, u32)>,
    fault: Option<Error>,
}

impl<'a> Outgoing<'a> {
    /// Text up to `stop` for `said`; `strip`: without the space that it may begin with.
    pub fn new(stop: &'a str, strip: bool, said: &'a mut dyn FnMut(&[u8]) -> bool) -> Self {
        Self {
            stop: stop.as_bytes(),
            held: [0; 32],
            len: 0,
            said,
            wants_more: true,
            found: false,
            strip,
            later: None,
            fault: None,
        }
    }

    /// Says the text of `token` now.
    #[inline]
    pub fn say<C: Card>(
        &mut self,
        tokenizer: &Tokenizer,
        vram: &mut Vram<'_, C>,
        token: u16,
    ) -> Result<(), Error> {
        tokenizer.decode(vram, token, &mut |bytes| {
            let bytes = match core::mem::take(&mut self.strip) {
                true => bytes.strip_prefix(b" ").unwrap_or(bytes),
                false => bytes,
            };
            self.take(bytes);
        })
    }

    /// Says the text of `token` while [`Self::go_on`] is called three times.
    pub fn say_later(&mut self, token: u16) {
        self.later = Some((token, 0));
    }

    /// The next step of what is said later. Each begins a read that the next one waits for. Whether more is wanted; if not, [`Self::fault`] or [`Self::ended`] says why.
    pub fn go_on<C: Card>(&mut self, tokenizer: &Tokenizer, vram: &mut Vram<'_, C>) -> bool {
        let Some((token, step)) = self.later else { return true };
        self.later = if step < 2 { Some((token, step + 1)) } else { None };
        let done = match step {
            0 => {
                tokenizer.begin_place(vram, token);
                Ok(())
            }
            1 => tokenizer.begin_text(vram, token),
            _ => self.say(tokenizer, vram, token),
        };
        self.fault = done.err();
        self.fault.is_none() && !self.found && self.wants_more
    }

    /// Asks whether more is wanted.
    pub fn ask(&mut self) -> bool {
        self.wants_more &= (self.said)(&[]);
        self.wants_more
    }

    /// What went wrong in [`Self::go_on`].
    pub fn fault(&mut self) -> Option<Error> {
        self.fault.take()
    }

    /// Why nothing more is to be said, if so.
    pub fn ended(&self) -> Option<Stop> {
        match self {
            Self { found: true, .. } => Some(Stop::End),
            Self { wants_more: false, .. } => Some(Stop::Interrupted),
            _ => None,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.stop.is_empty() || self.stop.len() > self.held.len() {
            self.wants_more &= (self.said)(bytes);
            return;
        }
        for byte in bytes {
            if self.found {
                return;
            }
            if let Some(slot) = self.held.get_mut(self.len) {
                *slot = *byte;
                self.len += 1;
            }
            // Let go of bytes from the front until what is held begins the stop text.
            while !self.stop.starts_with(self.held.get(..self.len).unwrap_or(&[])) {
                self.wants_more &= (self.said)(self.held.get(..1).unwrap_or(&[]));
                self.held.copy_within(1..self.len, 0);
                self.len -= 1;
            }
            self.found = self.len == self.stop.len();
        }
    }

    /// Says what is held, unless it is the stop text.
    pub fn flush(&mut self) {
        if !self.found && self.len > 0 {
            (self.said)(self.held.get(..self.len).unwrap_or(&[]));
        }
    }
}
