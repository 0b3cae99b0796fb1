//! `cargo run -p pageformer-corpus -- --out corpora/chat`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pageformer_corpus::{Corpus, Error, Kind, Options, generate, load, output};

/// Generates train.jsonl, heldout.jsonl and intents.json from the templates in OUT/intents.
#[derive(Parser)]
#[command(version, after_help = "Example:\n  cargo run -p pageformer-corpus -- --out corpora/chat")]
struct Args {
    /// The folder of the corpus.
    #[arg(long, default_value = "corpora/chat")]
    out: PathBuf,
    /// The folder of the templates [default: OUT/intents].
    #[arg(long)]
    intents: Option<PathBuf>,
    /// Decides what is held out, how questions are dressed, and their order.
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,
    /// How many times the usual number of training questions to make; the held-out questions stay the same.
    #[arg(long, default_value_t = Options::default().scale)]
    scale: usize,
    /// Write nothing; fail if the files are not what the templates give.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let intents = args.intents.unwrap_or_else(|| args.out.join("intents"));
    let corpus = generate(load(&intents)?, Options { seed: args.seed, scale: args.scale })?;
    for file in output::files(&corpus)? {
        let path = args.out.join(file.name);
        let io = |source| Error::Io { path: path.clone(), source };
        if args.check {
            let found = std::fs::read_to_string(&path).map_err(io)?;
            if found != file.text {
                return Err(Error::Stale { path }.into());
            }
        } else {
            std::fs::write(&path, &file.text).map_err(io)?;
        }
        println!("{:<40} {:>9} bytes", path.display(), file.text.len());
    }
    summary(&corpus);
    Ok(())
}

fn summary(corpus: &Corpus) {
    let groups: BTreeSet<_> = corpus.leaves.iter().map(|l| &l.group).collect();
    let families: BTreeSet<_> =
        corpus.leaves.iter().filter(|l| l.member.is_some()).map(|l| &l.group).collect();
    let members = corpus.leaves.iter().filter(|l| l.member.is_some()).count();
    println!(
        "intents   {:>6}  ({} plain and {} families of {} members)",
        groups.len(),
        groups.len() - families.len(),
        families.len(),
        members
    );
    let turns = |n: usize| corpus.train.iter().filter(|i| i.turns.len() == n).count();
    println!(
        "training  {:>6}  ({} single questions, {} of two turns, {} of three)",
        corpus.train.len(),
        turns(1),
        turns(2),
        turns(3)
    );
    let kind = |k: Kind| corpus.heldout.iter().filter(|i| i.kind == k).count();
    println!(
        "held out  {:>6}  ({} wordings by hand, {} fresh ones, {} new combinations, {} again as a second turn)",
        corpus.heldout.len(),
        kind(Kind::Wording),
        kind(Kind::Fresh),
        kind(Kind::Combination),
        kind(Kind::Chain)
    );
}
