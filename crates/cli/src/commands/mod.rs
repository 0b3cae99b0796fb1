//! The subcommands.

mod bench;
mod chat;
mod compress;
mod drafts;
mod eval;
mod eval_chat;
mod export;
mod flash;
mod image;
mod import;
mod inspect;
mod monitor;
mod plan;
mod run;
mod train;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Make a model folder from another project's files
    #[command(
        subcommand,
        after_help = "Examples:\n  \
            pageformer import llama2c stories260K.bin --tokenizer tok512.bin -o model/\n  \
            pageformer import sketch /media/sdcard --heads 4 -o model/"
    )]
    Import(import::Import),
    /// Train a model on your own text or chats
    Train(train::Train),
    /// Prune a model, train it on, and measure what each step costs
    Compress(compress::Compress),
    /// Quantize a model folder and write it as a card
    Export(export::Export),
    /// Add a table of guesses to a card, or measure what guessing saves
    Drafts(drafts::DraftsArgs),
    /// Write a card as an SD card image
    Image(image::Image),
    /// Show what is on a card
    Inspect(inspect::Inspect),
    /// Check every checksum, shape and offset of a card
    Verify(verify::Verify),
    /// Continue a text
    Run(run::Run),
    /// Talk to a model
    Chat(chat::Chat),
    /// Write the firmware to a board
    Flash(flash::Flash),
    /// Talk to a board over its serial port
    Monitor(monitor::Monitor),
    /// Measure how well a model predicts a text
    Eval(eval::Eval),
    /// Predict how fast a board would be with a card
    Plan(plan::Plan),
    /// Measure how fast this PC is with a card
    Bench(bench::Bench),
}

/// A program that is told nothing chats with its default model.
impl Default for Command {
    fn default() -> Self {
        Command::Chat(chat::Chat::parse_from(["chat"]))
    }
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Command::Import(command) => command.run(),
            Command::Train(command) => command.run(),
            Command::Compress(command) => command.run(),
            Command::Export(command) => command.run(),
            Command::Drafts(command) => command.run(),
            Command::Image(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Verify(command) => return command.run(),
            Command::Run(command) => command.run(),
            Command::Chat(command) => command.run(),
            Command::Flash(command) => command.run(),
            Command::Monitor(command) => command.run(),
            Command::Eval(command) => command.run(),
            Command::Plan(command) => command.run(),
            Command::Bench(command) => command.run(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
