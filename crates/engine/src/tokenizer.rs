//! The tokenizer of the device: a vocabulary on the card, looked up page by page.

use pageformer_card::page::u32_at;
use pageformer_card::tokenizer::{
    ENTRIES_PER_PAGE, Entry, NO_TOKEN, Section, TokenizerError, TokenizerHeader, TokenizerKind, byte_token,
    find, hash_page, pair_key,
};
use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{Card, CardFile, Vram};

use crate::error::Error;

/// A vocabulary on a card.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer {
    header: TokenizerHeader,
}

/// A token of a word that is being merged, and what it could become with the one behind it.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Field {
    Token = 0,
    /// Token that it and the next merge to, or [`NO_TOKEN`].
    Merged = 1,
    /// Rank of that merge.
    Rank = 2,
}

type Symbol = [u16; 4];

impl Tokenizer {
    /// The tokenizer of a card with a model of `vocab` tokens.
    ///
    /// # Errors
    /// If the header cannot be read or is wrong.
    pub fn open<C: Card>(vram: &mut Vram<'_, C>, pages: u32, vocab: u32) -> Result<Self, Error> {
        Ok(Self { header: TokenizerHeader::read(page(vram, 0)?, pages, vocab)? })
    }

    /// Encodes `text`, without a token to begin with, and hands out the tokens in order. `scratch` is memory
    /// for the longest word: 8 bytes a character.
    ///
    /// Merging is the usual BPE: of all adjacent pairs that merge, the one of the lowest rank, leftmost first,
    /// until none does. Where no token crosses the start of a word, that is done word by word.
    ///
    /// # Errors
    /// If a page is bad, a word does not fit `scratch`, a character has no token, or `out` fails.
    pub fn encode<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        text: &str,
        scratch: &mut [f32],
        out: &mut dyn FnMut(u16) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.header.kind == TokenizerKind::Plain {
            return self.encode_plain(text, out);
        }
        let symbols: &mut [Symbol] = {
            let even = scratch.len() & !1;
            bytemuck::try_cast_slice_mut(scratch.get_mut(..even).unwrap_or(&mut [])).unwrap_or(&mut [])
        };
        let mut word = Word { symbols, len: 0 };
        if self.header.space_prefix && !text.is_empty() {
            self.push(vram, ' ', &mut word)?;
        }
        for c in text.chars() {
            if c == ' ' && self.header.words && word.len > 0 {
                self.merge(vram, &mut word, out)?;
            }
            self.push(vram, c, &mut word)?;
        }
        self.merge(vram, &mut word, out)
    }

    fn encode_plain(&self, text: &str, out: &mut dyn FnMut(u16) -> Result<(), Error>) -> Result<(), Error> {
        if self.header.vocab >= 256 {
            return text.bytes().try_for_each(|byte| out(u16::from(byte)));
        }
        for c in text.chars() {
            let token = if c.is_ascii() { c as u16 } else { u16::from(b'?') };
            if u32::from(token) >= self.header.vocab {
                return Err(Error::Character(c));
            }
            out(token)?;
        }
        Ok(())
    }

    /// Appends the first tokens of a character.
    fn push<C: Card>(&self, vram: &mut Vram<'_, C>, c: char, word: &mut Word<'_>) -> Result<(), Error> {
        if self.header.kind == TokenizerKind::Characters
            && let Some((token, _)) = self.look_up(vram, self.header.characters, c as u32)?
        {
            return word.push(token);
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            let token = byte_token(page(vram, self.header.bytes.first)?, byte);
            if token == NO_TOKEN {
                return Err(Error::Character(c));
            }
            if u32::from(token) >= self.header.vocab {
                return Err(TokenizerError::Table("bytes").into());
            }
            word.push(token)?;
        }
        Ok(())
    }

    /// Merges the word, hands its tokens out and empties it.
    fn merge<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        word: &mut Word<'_>,
        out: &mut dyn FnMut(u16) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for at in 0..word.len {
            self.pair(vram, word, at)?;
        }
        while let Some(at) = word.best() {
            word.join(at);
            if let Some(before) = at.checked_sub(1) {
                self.pair(vram, word, before)?;
            }
            self.pair(vram, word, at)?;
        }
        let tokens = word.symbols.iter().take(word.len);
        tokens.map(|symbol| symbol[Field::Token as usize]).try_for_each(out)?;
        word.len = 0;
        Ok(())
    }

    /// Finds out what the symbols at `at` and behind it merge to.
    fn pair<C: Card>(&self, vram: &mut Vram<'_, C>, word: &mut Word<'_>, at: usize) -> Result<(), Error> {
        let token = |at: usize| word.symbols.get(at).map(|s| s[Field::Token as usize]);
        let found = match (token(at), token(at + 1)) {
            (Some(left), Some(right)) if at + 1 < word.len => {
                self.look_up(vram, self.header.merges, pair_key(left, right))?
            }
            _ => None,
        };
        let (merged, rank) = found.unwrap_or((NO_TOKEN, u16::MAX));
        if let Some(symbol) = word.symbols.get_mut(at) {
            symbol[Field::Merged as usize] = merged;
            symbol[Field::Rank as usize] = rank;
        }
        Ok(())
    }

    fn look_up<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        section: Section,
        key: u32,
    ) -> Result<Option<(u16, u16)>, Error> {
        let start = hash_page(key, section.pages);
        for probe in 0..section.pages {
            let at = section.first + (start + probe) % section.pages;
            match find(page(vram, at)?, key) {
                Entry::Found(token, rank) => {
                    return match u32::from(token) < self.header.vocab {
                        true => Ok(Some((token, rank))),
                        false => Err(TokenizerError::Table("merges").into()),
                    };
                }
                Entry::Absent => return Ok(None),
                Entry::Next => {}
            }
        }
        Ok(None)
    }

    /// The bytes of `token`, in parts: not always whole characters.
    ///
    /// # Errors
    /// If a page is bad, the token is none, or its place is not in the file.
    pub fn decode<C: Card>(
        &self,
        vram: &mut Vram<'_, C>,
        token: u16,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        if u32::from(token) >= self.header.vocab {
            return Err(Error::Token(token));
        }
        if self.header.kind == TokenizerKind::Plain {
            out(&[token as u8]);
            return Ok(());
        }
        let (mut offset, mut left) = self.place(vram, token)?;
        while left > 0 {
            let within = offset as usize % PAGE_BYTES;
            let n = (left as usize).min(PAGE_BYTES - within);
            let bytes = page(vram, self.header.text.first + offset / PAGE_BYTES as u32)?;
            out(bytes.get(within..within + n).unwrap_or(&[]));
            offset += n as u32;
            left -= n as u32;
        }
        Ok(())
    }

    /// Lets the card begin with the page that says where the text of `token` is, which [`Self::decode`] will ask for.
    pub(crate) fn begin_place<C: Card>(&self, vram: &mut Vram<'_, C>, token: u16) {
        if self.header.kind != TokenizerKind::Plain {
            vram.begin_page(
                CardFile::Tokenizer,
                self.header.pieces.first + u32::from(token) / ENTRIES_PER_PAGE,
            );
        }
    }

    /// Takes that page, and lets the card begin with the one that the text begins in.
    pub(crate) fn begin_text<C: Card>(&self, vram: &mut Vram<'_, C>, token: u16) -> Result<(), Error> {
        if self.header.kind != TokenizerKind::Plain {
            let (offset, _) = self.place(vram, token)?;
            vram.begin_page(CardFile::Tokenizer, self.header.text.first + offset / PAGE_BYTES as u32);
        }
        Ok(())
    }

    /// Offset and length of the text of `token`.
    #[inline]
    fn place<C: Card>(&self, vram: &mut Vram<'_, C>, token: u16) -> Result<(u32, u32), Error> {
        let entry = page(vram, self.header.pieces.first + u32::from(token) / ENTRIES_PER_PAGE)?;
        let at = (u32::from(token) % ENTRIES_PER_PAGE) as usize * 2;
        let (offset, bytes) = (u32_at(entry, at), u32_at(entry, at + 1));
        match u64::from(offset) + u64::from(bytes) <= u64::from(self.header.text.pages) * PAGE_BYTES as u64 {
            true => Ok((offset, bytes)),
            false => Err(TokenizerError::Table("pieces").into()),
        }
    }

    /// Whether the first piece after the beginning loses its leading space (SentencePiece's dummy prefix).
    pub fn strips_first_space(&self) -> bool {
        self.header.space_prefix
    }
}

/// The symbols of a word.
struct Word<'a> {
    symbols: &'a mut [Symbol],
    len: usize,
}

impl Word<'_> {
    fn push(&mut self, token: u16) -> Result<(), Error> {
        let most = self.symbols.len();
        let symbol = self.symbols.get_mut(self.len).ok_or(Error::Word { most })?;
        *symbol = [token, NO_TOKEN, u16::MAX, 0];
        self.len += 1;
        Ok(())
    }

    /// The leftmost of the pairs with the lowest rank.
    fn best(&self) -> Option<usize> {
        let mut best: Option<(usize, u16)> = None;
        for (at, symbol) in self.symbols.iter().take(self.len).enumerate() {
            let rank = symbol[Field::Rank as usize];
            if symbol[Field::Merged as usize] != NO_TOKEN && best.is_none_or(|(_, least)| rank < least) {
                best = Some((at, rank));
            }
        }
        best.map(|(at, _)| at)
    }

    /// Replaces the pair at `at` by what it merges to.
    fn join(&mut self, at: usize) {
        if let Some(symbol) = self.symbols.get_mut(at) {
            symbol[Field::Token as usize] = symbol[Field::Merged as usize];
        }
        if at + 2 <= self.len {
            self.symbols.copy_within(at + 2..self.len, at + 1);
            self.len -= 1;
        }
    }
}

fn page<'a, C: Card>(vram: &'a mut Vram<'_, C>, number: u32) -> Result<&'a Page, Error> {
    vram.page(CardFile::Tokenizer, number).map_err(|fault| Error::Page(fault, None))
}
