//! `pageformer import`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use pageformer_model::{Model, Tokenizer};

/// Where the model comes from.
#[derive(Subcommand)]
pub enum Import {
    /// A llama2.c checkpoint: version 0 (f32) or version 2 (Q8_0)
    #[command(
        after_help = "Example:\n  pageformer import llama2c stories260K.bin --tokenizer tok512.bin -o model/\n\n\
            These two files: https://huggingface.co/karpathy/tinyllamas/tree/main/stories260K"
    )]
    Llama2c {
        /// The checkpoint
        checkpoint: PathBuf,
        /// Its tokenizer, in llama2.c's format
        #[arg(long)]
        tokenizer: PathBuf,
        /// The model folder to write
        #[arg(short, long)]
        output: PathBuf,
    },
    /// A card of the original Arduino sketch: index.json and its page, mask and norm files
    #[command(after_help = "Example:\n  pageformer import sketch /media/sdcard --heads 4 -o model/")]
    Sketch {
        /// The card's folder
        dir: PathBuf,
        /// Number of query heads, which such a card does not say
        #[arg(long, default_value_t = 4)]
        heads: u32,
        /// The model folder to write
        #[arg(short, long)]
        output: PathBuf,
    },
}

impl Import {
    pub fn run(self) -> Result<()> {
        let (Import::Llama2c { output, .. } | Import::Sketch { output, .. }) = &self;
        if output.exists() && !output.is_dir() {
            bail!("{} is there already and no folder; give another -o", output.display());
        }
        let (model, tokenizer, output) = match self {
            Import::Llama2c { checkpoint, tokenizer, output } => {
                is_file(&checkpoint, "a llama2.c checkpoint, such as stories260K.bin")?;
                is_file(&tokenizer, "the checkpoint's tokenizer, such as tok512.bin")?;
                let (model, tokenizer) = pageformer_import::llama2c(&checkpoint, &tokenizer)?;
                (model, tokenizer, output)
            }
            Import::Sketch { dir, heads, output } => {
                if heads == 0 {
                    bail!("--heads 0 is not possible; the original sketch had 4");
                }
                is_file(
                    &dir.join("index.json"),
                    "the folder of a card of the original sketch, which has one",
                )?;
                let (model, tokenizer) = pageformer_import::sketch(&dir, heads)?;
                (model, tokenizer, output)
            }
        };
        save(&model, &tokenizer, &output)
    }
}

/// Makes sure that a file is there, which is `wanted`.
fn is_file(path: &Path, wanted: &str) -> Result<()> {
    match (path.exists(), path.is_dir()) {
        (false, _) => bail!("{}: no such file; give {wanted}", path.display()),
        (_, true) => bail!("{} is a folder; give {wanted}", path.display()),
        _ => Ok(()),
    }
}

fn save(model: &Model, tokenizer: &Tokenizer, output: &Path) -> Result<()> {
    model.save(tokenizer, output)?;
    let shape = &model.shape;
    println!(
        "{}: {} parameters, {} layers, d_model {}, d_ff {}, {} heads ({} KV), vocabulary {}, {} positions",
        output.display(),
        shape.parameters(),
        shape.n_layers,
        shape.d_model,
        shape.d_ff,
        shape.n_heads,
        shape.n_kv_heads,
        shape.vocab,
        shape.max_seq
    );
    println!("next: pageformer export {} -o card/", output.display());
    Ok(())
}
