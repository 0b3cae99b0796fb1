//! What a card and the engine that reads it promise, each promise in a file of its own.
//!
//! The models are `stories260K`, a real one with numbers of an independent implementation, and small random ones of
//! every kind that the format has, in dimensions that fill no cell, tile, group or page.
#![allow(missing_docs)]

mod support;

mod ahead;
mod apart;
mod boards;
mod damage;
mod export;
mod faults;
mod folders;
mod images;
mod index;
mod paging;
mod prepacked;
mod pruning;
mod right;
mod same;
mod small;
mod speculation;
mod threads;
mod tokenizer;
