//! Instructions and commands to the card: counts, the same in every run.

use std::fs;

use pageformer_card::Layout;
use pageformer_engine::{Needs, Plan, Request};
use pageformer_sim::{Setup, boards, open, work_of_pass};
use pageformer_vram::Arena;
use xtask::emulator::{Emulator, Options, instructions};
use xtask::firmware::Processor;

use crate::cards::{self, TestCard};
use crate::{built, built_for, number, number_after};

/// Percent that the instructions of a token may grow by before somebody has to say so in the record.
const GROWTH: u64 = 3;
const RECORD: &str = "docs/performance.md";

/// Instructions per token, which must not be many more than the record says.
fn counts_instructions(name: &str, processor: Processor, card: &TestCard) {
    let Some(elf) = built_for(processor) else { return };
    let image = card.image();
    let options = Options { image: Some(&image), processor, counted: true, ..Options::default() };
    let mut emulator = Emulator::start(elf, &options).unwrap();
    emulator.until_prompt().unwrap();
    let [first, second, third] = [(); 3].map(|()| {
        let said = emulator.line("/bench").unwrap();
        instructions(number(&said, " ticks").into(), number_after(&said, "ticks of ").into())
    });
    println!("{name}: {first} instructions per token");
    // Attention scores whole blocks of 8 positions, also those that are not written yet: zeros in the first run, which software multiplies in
    // fewer instructions, and in every later one the keys of the run before. (Stories: 5 layers, 8 heads, 3.5 such positions a token; 0.1 %.)
    assert!(first.abs_diff(second) <= first / 500, "{first} and {second}");
    // What is left is an interrupt of the timer more or less.
    assert!(second.abs_diff(third) <= second / 100_000, "{second} and {third}");

    let record = fs::read_to_string(xtask::root().join(RECORD)).unwrap();
    let (_, record) = record.split_once("\n| card | instructions per token |\n").unwrap();
    let row = format!("\n| {name} | ");
    let recorded: u64 = number_after(record, &row).into();
    assert!(
        first <= recorded + recorded * GROWTH / 100,
        "{first} instructions per token, more than {GROWTH} % above the {recorded} that {RECORD} says. If that is worth it, \
         write {first} to the row `{name}` there, and say why in the commit"
    );
}

#[test]
fn instructions_of_stories() {
    let Some(card) = cards::stories(Layout::Packed) else { return };
    counts_instructions("stories260K", Processor::M3, &card);
}

#[test]
fn instructions_of_the_default_model() {
    counts_instructions("default model", Processor::M3, &cards::chat(Layout::Packed));
}

#[test]
fn instructions_on_a_cortex_m4() {
    counts_instructions("default model, Cortex-M4", Processor::M4, &cards::chat(Layout::Packed));
}

#[test]
fn instructions_of_the_sketch() {
    counts_instructions("the sketch's shape", Processor::M3, &cards::sketch(Layout::Packed));
}

/// What the card itself was asked for: runs of pages by CMD18, and no more single pages by CMD17 than are read out of
/// order, rows of the embedding and checksums, and ends of the tape.
#[test]
fn the_card_is_read_in_runs() {
    let Some(elf) = built() else { return };
    let card = cards::chat(Layout::Packed);
    let (image, trace) = (card.image(), card.dir.path().join("trace"));
    let options = Options { image: Some(&image), trace: Some(&trace), ..Options::default() };
    let mut emulator = Emulator::start(elf, &options).unwrap();
    let banner = String::from_utf8(emulator.until_prompt().unwrap()).unwrap();
    let count = || {
        let commands = fs::read_to_string(&trace).unwrap();
        ["CMD17 ", "CMD18 "].map(|command| commands.matches(command).count() as u32)
    };
    let before = count();
    let said = emulator.line("/bench").unwrap();
    let after = count();
    let [single, multiple] = [0, 1].map(|at| after[at] - before[at]);
    let tokens = number(&said, " tokens,");
    let (_, plan) = banner.split_once("positions, ").unwrap();
    let streamed = number(plan, " tape pages") - number(plan, " of ");
    println!("{tokens} tokens, {streamed} pages each: {multiple} CMD18, {single} CMD17");
    assert!(multiple >= tokens && multiple * 8 <= tokens * streamed, "{multiple}");
    assert!(single <= tokens * 4, "{single}");
}

/// What the firmware makes of its memory is what `pageformer plan` predicts with.
#[test]
fn the_plan_is_the_predicted_one() {
    let Some(elf) = built() else { return };
    let card = cards::chat(Layout::Packed);
    let image = card.image();
    let options = Options { image: Some(&image), ..Options::default() };
    let mut emulator = Emulator::start(elf, &options).unwrap();
    emulator.until_prompt().unwrap();
    let said = emulator.line("/memory").unwrap();

    let board = boards::board("lm3s6965").unwrap();
    let setup = Setup { board, bus: boards::bus(board.buses[0]).unwrap(), piece: None, read_ahead: true };
    let mut memory = vec![0; (8 << 20) / 8];
    let mut arena = Arena::new(&mut memory);
    let opened = open(&image, &mut arena).unwrap();
    let needs = Needs::new(&opened.manifest, &opened.table);
    let tape = opened.manifest.tape_pages;
    let pace = setup.pace(&work_of_pass(opened, arena).unwrap(), tape);
    let plan = Plan::for_board(&needs, board.ram, &setup.request(&Request::default(), pace)).unwrap();
    let (pinned, ring) = (plan.pinning.pinned, plan.pinning.ring);
    let predicted = format!(
        "{} positions, {} to a pass; {pinned} of {tape} tape pages stay, runs of {ring}",
        plan.context, plan.batch
    );
    assert!(said.contains(&predicted), "{said}\ndoes not have\n{predicted}");
}
