//! Prunes `stories260K` on stories, as a recipe says, and tells what each step costs on the last 300 stories.
//!
//! ```text
//! cargo run --release -p pageformer-train --example compress_stories RECIPE.toml [OUT_DIR]
//! ```
//!
//! Without a `[prune]` table it is a plain fine-tuning. The teacher of `[distill]` is the original model.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pageformer_train::data::{Frame, HoldOut, read_documents};
use pageformer_train::prune::Masks;
use pageformer_train::{Arithmetic, Compute, Layout, Network, Recipe, Trainer, effective_weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let recipe = Recipe::load(Path::new(&args.next().ok_or("name a recipe")?))?;
    let out = args.next().map(PathBuf::from);

    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let (base, tokenizer) =
        pageformer_import::llama2c(&data.join("stories260K.bin"), &data.join("tok512.bin"))?;
    let stories = read_documents(&[data.join("tinystories_gpt4_a.txt")], "<|endoftext|>")?;
    let (train, held_out) = HoldOut::Last(300).split(stories);
    let frame = Frame::of(&base, recipe.data.seq_len.unwrap_or(512));
    let train = frame.documents(&train, &tokenizer, recipe.data.packing());
    let held_out = Frame { seq_len: 512, ..frame }.held_out_documents(&held_out, &tokenizer);

    let layout = Layout::new(base.shape)?;
    let weights = layout.weights_of(&base)?;
    let compute = Compute::new(2);
    for arithmetic in [Arithmetic::F32, Arithmetic::Int8] {
        let network = Network::new(layout.clone(), arithmetic);
        let mut effective = vec![];
        effective_weights(&layout, &weights, None, arithmetic, &mut effective);
        let sums = compute.evaluate(&network, &effective, &held_out);
        println!(
            "dense {arithmetic:?}: {:.4} nats/token over {} tokens",
            sums.nll / sums.tokens as f64,
            sums.tokens
        );
    }

    let mut trainer = Trainer::new(layout, weights, train, held_out, recipe.train.clone())?;
    if let Some(prune) = recipe.prune {
        trainer = trainer.with_pruning(prune);
    }
    if let Some(distill) = &recipe.distill {
        trainer = trainer.with_teacher(&base, distill.into())?;
    }
    println!("{:?} (weights, scored tokens, held-out tokens)", trainer.sizes());
    let mut smooth = 0.0;
    let begin = cpu_seconds();
    trainer.run(None, |p| {
        smooth += (p.loss - smooth) * f64::max(0.02, 1.0 / p.step as f64);
        if p.validation.is_some() || p.step % 100 == 0 {
            print!(
                "step {:6} {:6.0} s {:6.0} CPU s  {:6.0} tokens/s  lr {:.5}  density {:.3}  |g| {:.2}  loss {smooth:.4}",
                p.step,
                p.elapsed.as_secs_f64(),
                cpu_seconds() - begin,
                p.tokens_per_s,
                p.lr,
                p.density,
                p.gradient_norm
            );
            if p.divergence > 0.0 {
                print!("  divergence {:.4}", p.divergence);
            }
            if let Some(validation) = p.validation {
                print!("  held out {validation:.4}");
            }
            println!();
            let _ = std::io::stdout().flush();
        }
        ControlFlow::Continue(())
    })?;
    if let Some(masks) = trainer.masks() {
        for (mask, (kept, all)) in masks.matrices().iter().zip(masks.cells_kept()) {
            print!(
                "{} {:.2}  ",
                trainer.layout().views()[mask.view].name.trim_start_matches("model.layers."),
                kept as f64 / all as f64
            );
        }
        println!();
        let dense = Masks::dense(trainer.layout(), masks.block()).tape_pages(trainer.layout());
        let pages = masks.tape_pages(trainer.layout());
        println!(
            "density {:.4}, of the prunable matrices {:.4}; tape {pages} pages, {:.3} of the dense {dense}",
            masks.density(),
            masks.prunable_density(),
            pages as f64 / dense as f64
        );
    }
    if let Some(out) = out {
        let mut model = trainer.model()?;
        (model.bos, model.eos) = (base.bos, base.eos.clone());
        model.save(&tokenizer, &out)?;
        std::fs::write(out.join("loss.svg"), trainer.curve().svg("stories"))?;
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
