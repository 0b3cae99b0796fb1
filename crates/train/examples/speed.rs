//! CPU time of a training step (forward, backward, AdamW) per token, for models of growing width.
//!
//! ```text
//! cargo run --release -p pageformer-train --example speed [SEQ_LEN] [THREADS] [WIDTH]
//! ```

use std::time::Instant;

use pageformer_train::rng::Rng;
use pageformer_train::{Example, Layout, Recipe, Trainer};

fn main() -> Result<(), pageformer_train::Error> {
    let number = |at: usize, otherwise: usize| {
        std::env::args().nth(at).and_then(|a| a.parse().ok()).unwrap_or(otherwise)
    };
    let (seq_len, threads) = (number(1, 128), number(2, 1));
    println!(
        "sequences of {seq_len} tokens, {threads} thread(s), 5 layers, SwiGLU, RMSNorm, 8 heads, 4 KV heads, vocabulary 512\n"
    );
    println!("| d_model | parameters | wall µs/token | CPU µs/token | GFLOP/s per CPU (matrices) |");
    println!("|---|---|---|---|---|");
    let width = number(3, 0) as u32;
    for d_model in [64, 128, 256].into_iter().filter(|d| width == 0 || width == *d) {
        let mut recipe = Recipe::preset("stories")?;
        recipe.model.d_model = d_model;
        recipe.model.d_ff = d_model * 172 / 64;
        let layout = Layout::new(recipe.shape(512)?)?;
        let parameters = layout.shape().parameters();
        let mut rng = Rng::new(1, 1);
        let tokens = |rng: &mut Rng| (0..=seq_len).map(|_| rng.below(512) as u32).collect();
        let examples: Vec<_> = (0..64).filter_map(|_| Example::all(tokens(&mut rng))).collect();
        recipe.train.threads = threads;
        let weights = layout.initial_weights(1);
        let mut trainer = Trainer::new(layout, weights, examples, vec![], recipe.train.clone())?;
        trainer.step()?;
        let steps = 12_000_000_000 / (parameters as usize * 6 * recipe.train.batch_tokens) + 2;
        // The best of three: the machine may have other work.
        let (mut wall, mut cpu) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            let (begin, cpu_begin) = (Instant::now(), cpu_seconds());
            for _ in 0..steps {
                trainer.step()?;
            }
            let per_token = 1e6 / (steps * recipe.train.batch_tokens) as f64;
            wall = wall.min(begin.elapsed().as_secs_f64() * per_token);
            cpu = cpu.min((cpu_seconds() - cpu_begin) * per_token);
        }
        let gflops = parameters as f64 * 6.0 / cpu / 1e3;
        println!("| {d_model} | {parameters} | {wall:.1} | {cpu:.1} | {gflops:.1} |");
    }
    Ok(())
}

/// User and system time of this process so far, on Linux; NaN elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in parentheses, fields 14 and 15 of the line are ticks of 1/100 s.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    if ticks.len() == 2 { (ticks[0] + ticks[1]) / 100.0 } else { f64::NAN }
}
