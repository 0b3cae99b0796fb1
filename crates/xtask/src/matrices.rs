//! What the matrices of a token take in the firmware: the products, and the pages that are read and checked for them.
//!
//! Both are counted from call to return in a log of every instruction, whatever the functions in between are called.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use anyhow::{Context, Result, anyhow, bail, ensure};
use pageformer_card::{CELLS_PER_PAGE, Layout, Mlp, Norm, Shape};
use pageformer_model::Model;
use pageformer_toolchain::{
    Density, export, fill_randomly, numbered, prune_matrices_by_magnitude, write_card,
};

use crate::card;
use crate::emulator::{Emulator, Options};
use crate::firmware::Processor;

/// Instructions of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// Of the tape's pages: read over SPI, checked, found again. Those of norms are among them, one or two for a norm.
    pub pages: u64,
    /// Of matrices, without their pages: masks, products, sums, scales.
    pub products: u64,
    /// Of the rest: norms, quantization, attention, the choice of a token, the console.
    pub rest: u64,
    /// Pages of the tape, and how many of them stay in RAM.
    pub tape: u32,
    /// See `tape`.
    pub pinned: u32,
    /// Pages of a run, which is read by one command.
    pub run: u32,
}

impl Token {
    /// Of matrices.
    pub fn matrices(&self) -> u64 {
        self.pages + self.products
    }
}

/// A shape to be measured whole and pruned. The head is a matrix of its own, so that all that a pass reads can be pruned: an
/// embedding never is.
pub const fn shape(d_model: u32, d_ff: u32, n_layers: u32, n_kv_heads: u32, vocab: u32) -> Shape {
    Shape {
        n_layers,
        d_model,
        d_ff,
        vocab,
        max_seq: 256,
        n_heads: 8,
        n_kv_heads,
        head_dim: d_model / 8,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: Mlp::SwiGlu,
        rope_theta: 10_000.0,
        tied_embeddings: false,
        final_norm: true,
    }
}

/// Those that are printed: stories260K's, the default model's, and one of whole tiles.
pub const SHAPES: [Shape; 3] =
    [shape(64, 172, 5, 4, 512), shape(128, 640, 2, 1, 1536), shape(256, 768, 1, 1, 512)];

/// A card of random weights in `dir`, of which a share of every matrix but the embedding is kept.
///
/// # Errors
/// If it cannot be made or written.
pub fn random_card(shape: Shape, share: f64, dir: &Path) -> Result<PathBuf> {
    let mut model = Model::zeros(shape)?;
    fill_randomly(&mut model);
    if share < 1.0 {
        let Density { prunable, .. } = prune_matrices_by_magnitude(&mut model, share, (4, 4))?;
        // Groups keep whole pages.
        let page = f64::from(CELLS_PER_PAGE as u16 * 16) / shape.parameters() as f64;
        ensure!((share - page..share + page).contains(&prunable), "{prunable} of the matrices are left");
    }
    let tokenizer = numbered(shape.vocab)?;
    let card = export(&model, &tokenizer, Layout::Packed, (4, 4), "random", "random weights")?;
    let dir = dir.join(format!("{}-{share}", shape.d_model));
    write_card(&card, &dir, &mut |_, _| {})?;
    Ok(dir)
}

/// Counts the first token of `/bench` on the board with `card` in it.
///
/// # Errors
/// If QEMU cannot be run, or the firmware's symbols are not the expected ones.
pub fn count(firmware: &Path, processor: Processor, card: &Path) -> Result<Token> {
    let dir = tempfile::tempdir()?;
    let image = card::image(card, &dir.path().join("card.img"))?;
    let options =
        Options { image: Some(&image), processor, counted: true, logged: true, ..Options::default() };
    let mut emulator = Emulator::start(firmware, &options)?;
    emulator.until_prompt()?;
    let said = emulator.line("/memory")?;
    let [pinned, tape, run] = pages(&said).with_context(|| format!("the firmware says: {said}"))?;
    let loader = Loader::new(firmware).map_err(|e| anyhow!("{}: {e}", firmware.display()))?;
    let counted =
        emulator.traced("/bench", |addresses| count_token(addresses, |at| function(&loader, at)))?;
    Ok(Token { tape, pinned, run, ..counted })
}

/// `… N of M tape pages stay, runs of K`.
fn pages(said: &str) -> Option<[u32; 3]> {
    let (before, behind) = said.split_once(" tape pages stay, runs of ")?;
    let (before, tape) = before.rsplit_once(" of ")?;
    let number = |word: Option<&str>| word?.replace(',', "").parse().ok();
    let pinned = before.split_whitespace().next_back();
    Some([number(pinned)?, number(Some(tape))?, number(behind.split_whitespace().next())?])
}

/// Functions whose calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    /// `Engine::forward`, one pass.
    Forward,
    /// `Engine::multiply`, one matrix.
    Multiply,
    /// `Vram::pages`, some pages of the tape.
    Pages,
}

/// The function that `address` is in, by the names that Rust gives its symbols: each part behind its length.
fn function(loader: &Loader, address: u64) -> Option<Function> {
    // Bit 0 of a symbol's address stands for Thumb code.
    let name = loader.find_symbol(address | 1)?;
    let is = |kind: &str, method: &str| name.contains(kind) && name.contains(method);
    match () {
        () if is("6Engine", "E7forward") => Some(Function::Forward),
        () if is("6Engine", "E8multiply") => Some(Function::Multiply),
        () if is("4Vram", "E5pages") => Some(Function::Pages),
        () => None,
    }
}

/// Counts from the beginning of a pass to that of the next. A function is left where its caller goes on: behind the call,
/// which is of four bytes.
fn count_token(
    addresses: impl Iterator<Item = Result<u64>>,
    function: impl Fn(u64) -> Option<Function>,
) -> Result<Token> {
    let mut known = HashMap::new();
    let mut token = Token::default();
    let (mut begun, mut forward, mut multiply, mut pages) = (false, None, None, None);
    let mut before = 0;
    for address in addresses {
        let address = address?;
        for inside in [&mut pages, &mut multiply, &mut forward] {
            if *inside == Some(address) {
                *inside = None;
            }
        }
        let behind = Some(before + 4);
        match *known.entry(address).or_insert_with(|| function(address)) {
            Some(Function::Forward) if forward.is_none() => {
                if begun {
                    return Ok(token);
                }
                (begun, forward) = (true, behind);
            }
            Some(Function::Multiply) if multiply.is_none() => multiply = behind,
            Some(Function::Pages) if pages.is_none() => pages = behind,
            _ => {}
        }
        if begun {
            match (pages, multiply) {
                (Some(_), _) => token.pages += 1,
                (None, Some(_)) => token.products += 1,
                (None, None) => token.rest += 1,
            }
        }
        before = address;
    }
    bail!("the log ended before a second pass began")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_call_to_return() {
        // forward at 100 calls pages at 300 itself, then multiply at 200, which calls pages and something else at 400.
        let function = |address| match address {
            100..200 => Some(Function::Forward),
            200..300 => Some(Function::Multiply),
            300..400 => Some(Function::Pages),
            _ => None,
        };
        let pass = [100, 104, 300, 302, 108, 110, 200, 204, 300, 302, 208, 400, 402, 212, 114, 48];
        let counts = |log: &[u64]| count_token(log.iter().copied().map(Ok), function);
        let log: Vec<u64> = [40, 300, 44].iter().chain(&pass).chain(&[90]).chain(&pass).copied().collect();
        let token = counts(&log).unwrap();
        assert_eq!((token.pages, token.products, token.rest), (4, 6, 7));
        assert!(counts(&log[..20]).is_err());
    }

    #[test]
    fn the_plan_is_understood() {
        let said = "192 positions, 3 to a pass; 12 of 1,914 tape pages stay, runs of 16\nflash: 130604 B\n";
        assert_eq!(pages(said), Some([12, 1914, 16]));
        assert_eq!(pages("no card"), None);
    }
}
