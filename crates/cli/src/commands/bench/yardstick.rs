//! Another program that runs a model of the same shape, for comparison: `benches/yardstick/forward.c`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pageformer_card::{Mlp, Norm, Shape};

/// What to do about a program that is none.
const HOW: &str = "benches/yardstick/forward.c is such a program, and says how it is run";

/// The program and the shape.
pub struct Yardstick {
    program: PathBuf,
    shape: [u32; 6],
}

impl Yardstick {
    /// # Errors
    /// If it cannot run models of this kind.
    pub fn new(program: &Path, shape: &Shape) -> Result<Self> {
        ensure!(
            shape.norm == Norm::Rms && shape.mlp == Mlp::SwiGlu && shape.tied_embeddings,
            "the yardstick is a Llama (RMSNorm, SwiGLU) whose head is its embedding; this model is none. A random one is, without --density"
        );
        ensure!(
            shape.head_dim * shape.n_heads == shape.d_model,
            "the yardstick has heads that share the width; this model's do not"
        );
        let shape = [shape.d_model, shape.d_ff, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.vocab];
        Ok(Self { program: program.into(), shape })
    }

    /// The times of `tokens` steps.
    pub fn run(&self, tokens: usize) -> Result<Vec<Duration>> {
        let program = self.program.display();
        let output = Command::new(&self.program)
            .args(self.shape.iter().map(u32::to_string))
            .arg(tokens.to_string())
            .output()
            .with_context(|| format!("{program} cannot be run"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let why = match errors.trim() {
            "" => "it does not say why",
            errors => errors,
        };
        ensure!(output.status.success(), "{program} failed ({}): {why}; {HOW}", output.status);
        let lines = String::from_utf8_lossy(&output.stdout);
        let times: Option<Vec<Duration>> =
            lines.lines().map(|line| line.trim().parse().ok().map(Duration::from_nanos)).collect();
        times.filter(|times| times.len() == tokens).with_context(|| {
            let found = match (lines.lines().count(), lines.lines().next().unwrap_or_default()) {
                (0, _) => "nothing".into(),
                (1, first) => format!("1 line, the first `{first}`,"),
                (n, first) => format!("{n} lines, the first `{first}`,"),
            };
            format!(
                "{program} printed {found} instead of the nanoseconds of {tokens} steps, one a line; {HOW}"
            )
        })
    }
}
