//! Models of random weights, to measure shapes that nobody has trained.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use pageformer_card::{Layout, Mlp, Norm, PAGE_BYTES, Shape};
use pageformer_model::Model;
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{export, fill_randomly, numbered, prune_matrices_by_magnitude};

use crate::ui::{Spinner, bytes};

/// The dimensions of a Llama.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dimensions {
    pub d_model: u32,
    pub d_ff: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub vocab: u32,
}

impl FromStr for Dimensions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        let wrong = |what: String| {
            format!(
                "{what}; the numbers are width, MLP width, layers, heads, KV heads, vocabulary, such as 288,768,6,6,6,32000"
            )
        };
        let Ok(&[d_model, d_ff, layers, heads, kv_heads, vocab]) = numbers.as_deref() else {
            return Err(wrong("six numbers are needed".into()));
        };
        if heads == 0 || d_model % heads != 0 || d_model / heads % 2 != 0 {
            return Err(wrong(format!("{heads} heads do not share a width of {d_model} in even parts")));
        }
        if vocab < 256 {
            return Err(wrong(format!("a vocabulary of {vocab} is not possible: 256 or more")));
        }
        let dimensions = Self { d_model, d_ff, layers, heads, kv_heads, vocab };
        dimensions.shape(true).check().map_err(|error| wrong(error.to_string()))?;
        Ok(dimensions)
    }
}

impl Dimensions {
    /// Makes sure that this PC has the memory for such a model before any of it is taken: who runs out of it is ended without a word.
    fn fits(self, tied_embeddings: bool, available: u64) -> Result<()> {
        let needed = self.bytes(tied_embeddings);
        if needed <= available {
            return Ok(());
        }
        let layer = (needed - Self { layers: 0, ..self }.bytes(tied_embeddings)) / u64::from(self.layers);
        let others = needed - u64::from(self.layers) * layer;
        let advice = match available.saturating_sub(others) / layer {
            0 => "give a smaller width, MLP width or vocabulary".into(),
            fit => format!("at most {fit} layers fit: give so many, or smaller ones"),
        };
        bail!(
            "{self}: about {} of memory are needed, for the weights in f32 and their pages twice, and {} are available; {advice}",
            bytes(needed),
            bytes(available)
        )
    }

    /// Bytes that making a model of these takes, all of its cells kept: the weights in f32, their pages by tensor, and as a file. Measuring it
    /// takes less: two cards, the RAM that holds its tape, and the matrices packed anew.
    fn bytes(self, tied_embeddings: bool) -> u64 {
        let shape = self.shape(tied_embeddings);
        let pages: u64 = shape.iter_tensors().map(|tensor| u64::from(shape.kind(tensor).dense_pages())).sum();
        4 * shape.parameters() + 2 * pages * PAGE_BYTES as u64
    }

    /// The shape of a Llama that has these, whose head may be the embedding.
    fn shape(self, tied_embeddings: bool) -> Shape {
        let Self { d_model, d_ff, layers, heads, kv_heads, vocab } = self;
        Shape {
            n_layers: layers,
            d_model,
            d_ff,
            vocab,
            max_seq: POSITIONS,
            n_heads: heads,
            n_kv_heads: kv_heads,
            head_dim: d_model / heads,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            mlp: Mlp::SwiGlu,
            rope_theta: 10_000.0,
            tied_embeddings,
            final_norm: true,
        }
    }
}

impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { d_model, d_ff, layers, heads, kv_heads, vocab } = self;
        write!(f, "random {d_model},{d_ff},{layers},{heads},{kv_heads},{vocab}")
    }
}

/// Positions of a random model.
const POSITIONS: u32 = 1024;

/// Bytes of memory that programs can have, where the system says so: Linux.
fn available_memory() -> Option<u64> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// A card of random weights in memory. If some of the cells are pruned, the head is one of its own, so that every matrix that a pass
/// reads is of that density: an embedding is never pruned.
pub fn card(dimensions: Dimensions, density: f64) -> Result<MemoryCard> {
    /// So many weights take about half a second.
    const MANY: u64 = 16_000_000;
    ensure!(density > 0.0 && density <= 1.0, "a density of {density} is not possible: above 0, at most 1");
    let shape = dimensions.shape(density == 1.0);
    dimensions.fits(shape.tied_embeddings, available_memory().unwrap_or(u64::MAX))?;
    let _spinner = (shape.parameters() > MANY).then(|| {
        Spinner::new(format!("making {:.0} million random weights", shape.parameters() as f64 / 1e6))
    });
    let mut model = Model::zeros(shape).context("these dimensions")?;
    fill_randomly(&mut model);
    if density < 1.0 {
        prune_matrices_by_magnitude(&mut model, density, (4, 4))?;
    }
    let tokenizer = numbered(dimensions.vocab)?;
    let files = export(&model, &tokenizer, Layout::Packed, (4, 4), "bench", "random numbers")?;
    drop(model);
    Ok(MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_layers_fit_as_is_said() {
        let wide: Dimensions = "1024,4096,256,16,16,32000".parse().unwrap();
        let available = 8 << 30;
        let error = wide.fits(true, available).unwrap_err().to_string();
        let fit = error.split("at most ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let fit: u32 = fit.parse().unwrap();
        assert!((1..256).contains(&fit), "{error}");
        assert!(Dimensions { layers: fit, ..wide }.fits(true, available).is_ok());
        assert!(Dimensions { layers: fit + 1, ..wide }.fits(true, available).is_err());
        // A head of its own takes more; where not even a layer fits, that is said.
        assert!(
            Dimensions { layers: fit, ..wide }.bytes(false) > Dimensions { layers: fit, ..wide }.bytes(true)
        );
        let error = wide.fits(true, 100 << 20).unwrap_err().to_string();
        assert!(error.contains("smaller width") && error.contains("100.0 MB are available"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_says_how_much_memory_there_is() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
