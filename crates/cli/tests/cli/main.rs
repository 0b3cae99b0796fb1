//! The binary from end to end: what a user types, and what comes back.
//!
//! Commands are written as in a shell and run in a folder of their own. Most tests use a tiny model that is made here, as a
//! card of the original sketch; those that want a real one use stories260K and are skipped where it is not.
#![allow(missing_docs)]

#[cfg(unix)]
mod board;
#[cfg(unix)]
mod pty;
mod support;
#[cfg(unix)]
mod terminal;

mod bench;
mod chat;
mod damage;
mod drafts;
#[cfg(unix)]
mod flash;
mod help;
mod json;
mod mistakes;
#[cfg(unix)]
mod monitor;
mod plan;
mod sketch;
mod stories;
mod train;
