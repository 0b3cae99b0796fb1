//! The command line: one file a subcommand. Arguments are lowered into what the libraries take; only this
//! crate prints.
#![forbid(unsafe_code)]

mod card;
mod commands;
mod measure;
mod place;
mod port;
mod session;
mod talks;
mod training;
mod ui;

use std::io::{self, ErrorKind, Write};
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
        pageformer                                                  # a chat with the default model\n  \
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
    end_when_nothing_can_be_printed();
    match Cli::parse().command.unwrap_or_default().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", whole(&error));
            ExitCode::FAILURE
        }
    }
}

/// `println!` panics when it cannot print. A pipe that nobody reads any more, as in `pageformer inspect card/ | head`, is no
/// error: whoever read it has seen enough. Anything else, such as a full disk, is one of the user's and not of ours.
fn end_when_nothing_can_be_printed() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if !message.starts_with("failed printing to") {
            return report(panic);
        }
        // 232 is what Windows calls it.
        if message.contains("Broken pipe") || message.contains("os error 232") {
            std::process::exit(0);
        }
        // Not with a macro: the error output may be what failed.
        let _ = writeln!(std::io::stderr(), "error: {message}");
        std::process::exit(1);
    }));
}

/// An error, its causes and what to do. Many name their cause themselves; nothing is said twice.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let advice = error.chain().find_map(|cause| advice(cause.downcast_ref()?));
    match advice {
        // Whoever knows more has said it.
        Some(advice) if !text.contains("; ") => format!("{text}; {advice}"),
        _ => text,
    }
}

/// What to do about an error of the system, which only says what is wrong.
fn advice(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::NotFound => "check the path",
        ErrorKind::PermissionDenied => "check who may read and write there",
        ErrorKind::IsADirectory => "give a file, not a folder",
        ErrorKind::NotADirectory => "a part of the path is a file, not a folder",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull => "give another place",
        _ => return None,
    })
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

    #[test]
    fn errors_of_the_system_say_what_to_do() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Err::<(), _>(missing()).context("text").unwrap_err();
        assert!(super::whole(&error).starts_with("text: "));
        assert!(super::whole(&error).ends_with("; check the path"));
        let error = Err::<(), _>(missing()).context("text cannot be read; give another").unwrap_err();
        assert!(!super::whole(&error).contains("check the path"));
    }
}
