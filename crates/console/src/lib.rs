//! The console: what a person meets on the serial port.
//!
//! ```text
//! stories260K: 258,560 parameters, 5 layers of width 64, packed
//! 44,328 B of RAM: 88 positions, 25 of 546 tape pages in RAM
//! This model was not trained to chat: it continues each line as a text of its own.
//! /help shows the commands.
//!
//! > Once upon a time
//! , there was a little girl named Lily. ...
//! (80 tokens, 9.1 tokens/s, 553.0 pages read per token, hit rate 4.5 %)
//!
//! >
//! ```
//!
//! `no_std`, no allocation, the same code on a board and on a PC. It wants
//!
//! - a port: [`embedded_io`]'s `Read + ReadReady + Write`, such as a UART, or a terminal of the PC;
//! - a [`Host`]: a clock, a few words about the memory, commands of its own, each optional;
//! - a [`Session`](pageformer_engine::Session), which it borrows for as long as the card is there.
//!
//! [`Console::verify`] holds a whole card against its checksums. [`Console::run`] returns when it needs what only its caller has: another session ([`End::Reload`], [`End::CardGone`]).
//! While there is none, [`Console::wait`] keeps the prompt alive.
//!
//! Keys: Backspace, Ctrl-U (forget the line), Ctrl-C (stop an answer, or forget the line). Enter may be CR, LF or both.
//! What is typed during an answer is dropped, except Ctrl-C, unless the host knows better.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod command;
mod console;
mod editor;
mod host;
mod pages;
mod report;
mod talk;
mod terminal;

pub use console::{Console, End};
pub use editor::{EDITOR_BYTES, Key, LineEditor};
pub use host::{Host, HostCommand, NoHost};
pub use talk::Settings;
pub use terminal::{Closed, Terminal};
