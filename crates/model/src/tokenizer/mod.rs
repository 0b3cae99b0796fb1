//! Text to tokens and back, plainly.
//!
//! Every tokenizer here is byte pair encoding (Sennrich et al. 2016) over a start alphabet; the four
//! [`Kind`]s differ in that alphabet alone. This is the implementation that others are held equal to, so it
//! favours being seen to be right; it is still `O(n log n)`, so that whole files can be encoded.
//!
//! Text is only ever text: a control token such as `<s>` never comes out of [`Tokenizer::encode`], even where
//! the text spells its name. (Hugging Face's library would turn the spelling into the token; a user could
//! then forge the end of a document.)

mod bpe;
mod json;

use std::collections::HashMap;

use crate::Error;

/// Largest number of tokens: ids are `u16` on the card.
const MAX_TOKENS: usize = pageformer_card::shape::MAX_VOCAB as usize;

/// What the text is cut into before pairs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 128 tokens, each the ASCII character of its id; any other character becomes `?`. Nothing is merged.
    Ascii,
    /// 256 tokens, each the byte of its id. Nothing is merged.
    Bytes,
    /// Characters, as SentencePiece does it for Llama: a character that is not in the vocabulary becomes its
    /// UTF-8 bytes, one byte token each.
    SentencePiece,
    /// Bytes, as GPT-2 does it but without its regular expression: merges may cross words.
    ByteLevel,
}

/// A token of a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// Stands for this text: whole UTF-8 characters, except in [`Kind::ByteLevel`], where it may be any
    /// bytes. Never empty.
    Text(Vec<u8>),
    /// Stands for one byte of a character that the vocabulary lacks (written `<0x0A>` in `tokenizer.json`).
    /// Never merged.
    Byte(u8),
    /// Stands for no text, such as the begin of a document; its name, such as `<s>`.
    Control(String),
}

/// Two neighbouring tokens that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The token on the left.
    pub left: u32,
    /// The token on the right.
    pub right: u32,
    /// The token whose text is that of both.
    pub merged: u32,
    /// Of all pairs in the text that can be merged, the one of the lowest rank goes first; of equal ranks,
    /// the leftmost.
    pub rank: u32,
}

/// A tokenizer: a vocabulary and the merges that lead from its start alphabet to its longer tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    kind: Kind,
    tokens: Vec<Token>, // (vocab)
    merges: Vec<Merge>, // by rank
    /// Where a pair is in `merges`.
    pairs: HashMap<(u32, u32), usize>,
    /// Tokens of one character.
    chars: HashMap<char, u32>,
    /// Tokens of one byte: [`Token::Byte`], or the start alphabet of [`Kind::ByteLevel`].
    bytes: [Option<u32>; 256],
    dummy_prefix: bool,
}

/// Two tokenizers are equal when they have the same vocabulary, merges, kind and prefix.
impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.dummy_prefix == other.dummy_prefix
            && self.tokens == other.tokens
            && self.merges == other.merges
    }
}

impl Tokenizer {
    /// The tokenizer of 128 ASCII characters.
    pub fn ascii() -> Self {
        let tokens: Vec<Token> = (0..128u8).map(|c| Token::Text(vec![c])).collect();
        let chars = (0..128u32).map(|id| (char::from(id as u8), id)).collect();
        Tokenizer {
            kind: Kind::Ascii,
            tokens,
            merges: Vec::new(),
            pairs: HashMap::new(),
            chars,
            bytes: [None; 256],
            dummy_prefix: false,
        }
    }

    /// The tokenizer of 256 bytes.
    pub fn bytes() -> Self {
        Tokenizer {
            kind: Kind::Bytes,
            tokens: (0..=255).map(Token::Byte).collect(),
            merges: Vec::new(),
            pairs: HashMap::new(),
            chars: HashMap::new(),
            bytes: std::array::from_fn(|b| Some(b as u32)),
            dummy_prefix: false,
        }
    }

    /// A BPE over characters with byte fallback, as SentencePiece trains it.
    ///
    /// `dummy_prefix` puts a space before every text that is not empty.
    ///
    /// # Errors
    /// If one of the 256 byte tokens is missing, two tokens are the same, a text is not UTF-8 or empty, or a
    /// merge does not lead to the token of the joined text.
    pub fn sentencepiece(tokens: Vec<Token>, merges: Vec<Merge>, dummy_prefix: bool) -> Result<Self, Error> {
        Self::new(Kind::SentencePiece, tokens, merges, dummy_prefix)
    }

    /// A BPE over bytes, as GPT-2's but without its regular expression.
    ///
    /// # Errors
    /// If a token for one of the 256 bytes is missing, two tokens are the same, a text is empty, or a merge
    /// does not lead to the token of the joined text.
    pub fn byte_level(tokens: Vec<Token>, merges: Vec<Merge>) -> Result<Self, Error> {
        Self::new(Kind::ByteLevel, tokens, merges, false)
    }

    /// What [`Tokenizer::sentencepiece`] and [`Tokenizer::byte_level`] share: every check, and the look-up
    /// tables.
    fn new(
        kind: Kind,
        tokens: Vec<Token>,
        mut merges: Vec<Merge>,
        dummy_prefix: bool,
    ) -> Result<Self, Error> {
        if tokens.len() > MAX_TOKENS {
            return Err(broken(format!("{} tokens; at most {MAX_TOKENS} are possible", tokens.len())));
        }
        let (mut chars, mut bytes) = (HashMap::new(), [None; 256]);
        let mut names = HashMap::new();
        for (id, token) in (0u32..).zip(&tokens) {
            check(kind, token).map_err(|problem| broken(format!("token {id} {problem}")))?;
            match token {
                Token::Control(_) => {}
                Token::Byte(b) => bytes[usize::from(*b)] = Some(id),
                Token::Text(text) if kind == Kind::ByteLevel => {
                    if let [b] = text[..] {
                        bytes[usize::from(b)] = Some(id);
                    }
                }
                Token::Text(text) => {
                    let text = String::from_utf8_lossy(text);
                    let mut each = text.chars();
                    if let (Some(c), None) = (each.next(), each.next()) {
                        chars.insert(c, id);
                    }
                }
            }
            if let Some(earlier) = names.insert(json::name(kind, token), id) {
                return Err(broken(format!("tokens {earlier} and {id} are the same")));
            }
        }
        if let Some(b) = bytes.iter().position(Option::is_none) {
            let problem = format!(
                "no token for byte 0x{b:02X}: not every text could be encoded; train with all 256 bytes \
                 in the alphabet"
            );
            return Err(broken(problem));
        }
        merges.sort_by_key(|m| (m.rank, m.merged, m.left));
        let mut pairs = HashMap::new();
        for (i, m) in merges.iter().enumerate() {
            let text = |id: u32| match tokens.get(id as usize) {
                Some(Token::Text(text)) => Ok(&text[..]),
                _ => Err(broken(format!("the merge of {} and {}: token {id} is not text", m.left, m.right))),
            };
            if text(m.merged)? != [text(m.left)?, text(m.right)?].concat() {
                return Err(broken(format!(
                    "tokens {} and {} joined are not token {}",
                    m.left, m.right, m.merged
                )));
            }
            if pairs.insert((m.left, m.right), i).is_some() {
                return Err(broken(format!("two merges of tokens {} and {}", m.left, m.right)));
            }
        }
        Ok(Tokenizer { kind, tokens, merges, pairs, chars, bytes, dummy_prefix })
    }

    /// What the text is cut into before pairs are merged.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The vocabulary; a token's id is its place.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// The merges, by rank.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// The token of this one character, in the kinds that start from characters.
    pub fn char_id(&self, c: char) -> Option<u32> {
        self.chars.get(&c).copied()
    }

    /// Every token of one character, ordered by character. Empty in the kinds that start from bytes.
    pub fn chars(&self) -> Vec<(char, u32)> {
        let mut all: Vec<_> = self.chars.iter().map(|(&c, &id)| (c, id)).collect();
        all.sort_unstable();
        all
    }

    /// The token of one byte: of a byte of a character that has no token ([`Kind::SentencePiece`]) or of any
    /// byte ([`Kind::Bytes`], [`Kind::ByteLevel`]). None in [`Kind::Ascii`].
    pub fn byte_id(&self, byte: u8) -> Option<u32> {
        self.bytes[usize::from(byte)]
    }

    /// Whether a space is put before every text that is not empty.
    pub fn dummy_prefix(&self) -> bool {
        self.dummy_prefix
    }

    /// Whether a token has a space anywhere but at its start. Where none has, a text can be encoded word by
    /// word.
    pub fn space_inside(&self) -> bool {
        self.tokens.iter().any(|t| matches!(t, Token::Text(text) if text[1..].contains(&b' ')))
    }

    /// The bytes that a token prints when it continues a text: none for a control token or an id outside the
    /// vocabulary.
    ///
    /// Bytes and not text, because a character may be spread over several tokens.
    pub fn piece(&self, id: u32) -> &[u8] {
        match self.tokens.get(id as usize) {
            Some(Token::Text(text)) => text,
            Some(Token::Byte(b)) => std::slice::from_ref(b),
            Some(Token::Control(_)) | None => &[],
        }
    }

    /// The tokens of a text, without the token that begins a document.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() + 1);
        if self.kind == Kind::ByteLevel {
            ids.extend(text.bytes().filter_map(|b| self.byte_id(b)));
        } else {
            let prefix = (self.dummy_prefix && !text.is_empty()).then_some(' ');
            for c in prefix.into_iter().chain(text.chars()) {
                self.push_char(c, &mut ids);
            }
        }
        bpe::merge(&mut ids, |left, right| {
            self.pairs.get(&(left, right)).map(|&i| (self.merges[i].rank, self.merges[i].merged))
        });
        ids
    }

    /// Adds the token of a character; where it has none, its bytes; where those have none, `?`.
    fn push_char(&self, c: char, ids: &mut Vec<u32>) {
        match self.char_id(c) {
            Some(id) => ids.push(id),
            None if self.kind == Kind::Ascii => ids.push(u32::from(b'?')),
            None => ids.extend(c.encode_utf8(&mut [0; 4]).bytes().filter_map(|b| self.byte_id(b))),
        }
    }

    /// The text of a document's tokens, from its start.
    ///
    /// The inverse of [`Tokenizer::encode`]: the space that [`Tokenizer::dummy_prefix`] put before the text
    /// is taken away, that is, one space at the start of the first piece that is not a control token's, and
    /// of a piece directly after a control token (a further document; llama2.c does so after BOS). Nothing is
    /// taken away when there is no dummy prefix. For tokens that continue other text (a reply), join their
    /// [`Tokenizer::piece`]s instead.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut at_start = true;
        for &id in ids {
            let piece = self.piece(id);
            let strip = at_start && self.dummy_prefix;
            text.extend(piece.strip_prefix(b" ").filter(|_| strip).unwrap_or(piece));
            at_start = piece.is_empty();
        }
        text
    }
}

/// Whether a token can be in a vocabulary of this kind; if not, why.
fn check(kind: Kind, token: &Token) -> Result<(), &'static str> {
    match (token, kind) {
        (Token::Byte(_), Kind::ByteLevel) => Err("is for byte fallback, which byte-level BPE has not"),
        (Token::Text(text), _) if text.is_empty() => Err("is empty"),
        (Token::Text(text), Kind::SentencePiece) => match str::from_utf8(text) {
            Ok(text) if text.contains(json::SPACE) => Err("contains `\u{2581}`, which stands for a space"),
            Ok(_) => Ok(()),
            Err(_) => Err("is not UTF-8 text"),
        },
        _ => Ok(()),
    }
}

/// An error without a file name; whoever reads the file puts it in.
fn broken(problem: String) -> Error {
    Error::Tokenizer { file: "tokenizer".into(), problem }
}
