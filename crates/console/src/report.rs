//! Numbers for people.

use core::fmt::{self, Display, Formatter, Write};

use pageformer_card::{Layout, Manifest, Mlp, Norm};
use pageformer_engine::{Plan, Reply, Speculated, Stop};
use pageformer_vram::{Pinning, Stats};

/// `numerator / denominator` with one decimal, rounded: formatting an f32 would cost a board 20 KB of flash.
pub(crate) struct Ratio(pub u64, pub u64);

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(numerator, denominator) = *self;
        let denominator = denominator.max(1);
        let tenths = numerator.saturating_mul(10).saturating_add(denominator / 2) / denominator;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

/// A number with its thousands set apart.
pub(crate) struct Grouped(pub u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Grouped(self.0 / 1000), self.0 % 1000)
    }
}

/// What an answer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    pub reply: Reply,
    /// Passes over the tape.
    pub passes: u64,
    /// What was read.
    pub stats: Stats,
    /// What came of guesses.
    pub speculated: Speculated,
    pub pinning: Pinning,
    /// Ticks until the first token and from there to the end; ticks of a second.
    pub ticks: Option<(u64, u64, u32)>,
    /// Where it took that long.
    pub place: &'static str,
}

/// One line: tokens, speed, pages.
impl Display for Costs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tokens = u64::from(self.reply.tokens);
        write!(f, "{tokens} tokens")?;
        if let Some((first, rest, per_second)) = self.ticks
            && tokens > 0
        {
            // The first token comes after the prompt has been read: it is not counted if there are more.
            let (counted, ticks) = if tokens > 1 { (tokens - 1, rest) } else { (1, first) };
            write!(
                f,
                ", {} tokens/s{}",
                Ratio(counted.saturating_mul(u64::from(per_second)), ticks),
                self.place
            )?;
        }
        write!(
            f,
            ", {} pages read per token, hit rate {} %",
            Ratio(self.stats.streamed, tokens.max(1)),
            Ratio(100 * u64::from(self.pinning.pinned), u64::from(self.pinning.tape))
        )?;
        if self.speculated.drafted > 0 {
            write!(f, ", {} tokens per pass", Ratio(self.speculated.tokens, self.speculated.passes))?;
        }
        f.write_str(match self.reply.stop {
            Stop::MaxTokens => ", cut at /max",
            Stop::Context => ", the context is full",
            Stop::Interrupted => ", stopped",
            _ => "",
        })
    }
}

/// Everything that `/stats` prints.
pub(crate) fn details(costs: &Costs, out: &mut dyn Write) -> fmt::Result {
    let Costs { reply, passes, stats, speculated, pinning, ticks, .. } = costs;
    writeln!(out, "{costs}")?;
    writeln!(out, "prompt: {} tokens", reply.prompt_tokens)?;
    if let Some((first, rest, per_second)) = ticks {
        let ms = |ticks: u64| ticks.saturating_mul(1000) / u64::from((*per_second).max(1));
        writeln!(
            out,
            "time: {} ms to the first token, {} ms from there on",
            Grouped(ms(*first)),
            Grouped(ms(*rest))
        )?;
    }
    writeln!(out, "passes over the tape: {passes}")?;
    if speculated.drafted > 0 {
        writeln!(
            out,
            "guessed ahead: {} tokens, {} of them right: {} tokens from {} passes",
            speculated.drafted, speculated.accepted, speculated.tokens, speculated.passes
        )?;
    }
    writeln!(
        out,
        "pages per pass: {} of {}; with {} pages in RAM, one that gives a token reads {}",
        Ratio(stats.streamed, (*passes).max(1)),
        pinning.tape,
        pinning.pinned,
        pinning.streamed()
    )?;
    writeln!(
        out,
        "read besides: {} pages of embedding rows, {} of the tokenizer, {} of drafts, {} of checksums",
        stats.embedding, stats.tokenizer, stats.drafts, stats.sums
    )?;
    writeln!(out, "reads: {}, of them again: {}", stats.commands, stats.retries)
}

/// Everything that `/model` prints.
pub(crate) fn model(manifest: &Manifest, out: &mut dyn Write) -> fmt::Result {
    let shape = &manifest.shape;
    writeln!(out, "{}, from {}", manifest.name.as_str(), manifest.source.as_str())?;
    writeln!(out, "{} parameters, {} tokens in the vocabulary", Grouped(shape.parameters()), shape.vocab)?;
    writeln!(
        out,
        "{} layers, width {}, MLP {} ({}), {}",
        shape.n_layers,
        shape.d_model,
        shape.d_ff,
        match shape.mlp {
            Mlp::Gelu => "GELU",
            Mlp::SwiGlu => "SwiGLU",
        },
        match shape.norm {
            Norm::Rms => "RMSNorm",
            Norm::Layer => "LayerNorm",
        }
    )?;
    writeln!(
        out,
        "{} query heads, {} KV heads, {} channels each, up to {} positions",
        shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.max_seq
    )?;
    writeln!(
        out,
        "{} tape pages ({} KiB), {} % of the cells kept, layout {}",
        manifest.tape_pages,
        manifest.tape_pages / 2,
        Ratio((manifest.density * 100_000.0) as u64, 1000),
        layout(manifest.layout)
    )
}

pub(crate) fn layout(layout: Layout) -> &'static str {
    match layout {
        Layout::Packed => "packed",
        Layout::Files => "files",
    }
}

/// The memory plan, a line for each part that takes any.
pub(crate) fn memory(plan: &Plan, out: &mut dyn Write) -> fmt::Result {
    for (part, bytes) in plan.parts().filter(|(_, bytes)| *bytes > 0) {
        writeln!(out, "{part:<15}{bytes:>9} B")?;
    }
    writeln!(out, "{:<15}{:>9} B", "total", plan.total())?;
    writeln!(
        out,
        "{} positions, {} to a pass; {} of {} tape pages stay, runs of {}",
        plan.context, plan.batch, plan.pinning.pinned, plan.pinning.tape, plan.pinning.ring
    )
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn numbers_as_people_write_them() {
        for (ratio, text) in
            [(Ratio(1, 3), "0.3"), (Ratio(2, 3), "0.7"), (Ratio(199, 100), "2.0"), (Ratio(5, 0), "5.0")]
        {
            assert_eq!(ratio.to_string(), text);
        }
        for (number, text) in [(7, "7"), (1000, "1,000"), (25_012_345, "25,012,345")] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
