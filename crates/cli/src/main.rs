//! The command line: one file a subcommand. Arguments are lowered into what the libraries take; only this
//! crate prints.
#![forbid(unsafe_code)]

mod card;
mod commands;
mod measure;
mod port;
mod session;
mod training;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// Small Transformer language models for microcontrollers, with int8 weights that live on an SD card as
/// 512-byte pages. The same engine, to the bit, runs here and on the board.
#[derive(Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "A first walk:\n  \
        pageformer                                                  # a chat with the model that ships with it\n  \
        pageformer import llama2c stories260K.bin --tokenizer tok512.bin -o model/\n  \
        pageformer export model/ -o card/\n  \
        pageformer run card/ --prompt 'Once upon a time' --ram 96K --context 128\n\n\
        `pageformer COMMAND --help` has examples of each."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or_default().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", whole(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes. Many name their cause themselves; nothing is said twice.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    #[test]
    fn causes_are_said_once() {
        let error = anyhow!("no such file").context("card/: no such file; export it").context("verify");
        assert_eq!(super::whole(&error), "verify: card/: no such file; export it");
        let error = Err::<(), _>(anyhow!("no such file")).context("card/").unwrap_err();
        assert_eq!(super::whole(&error), "card/: no such file");
    }
}
