//! The same bytes as on the PC, from the least number of pages, in runs, on a stack that stays below its limit.

use std::path::Path;

use pageformer_card::Layout;
use pageformer_engine::{Engine, Error, Needs, Plan, Request, Session, kernels};
use pageformer_vram::Arena;
use xtask::firmware::Processor;

use crate::cards::{self, TestCard};
use crate::{built_for, number, number_after, start_on};

/// What the stack may take at most, in bytes; the board has some 12,200. One compiler lays functions out in other
/// ways where the clone is in another folder: 10,430 to 10,550 bytes were seen of one commit.
const STACK_LIMIT: u32 = 11_000;
/// Prompts that continue, break off, repeat, and have characters that a vocabulary has no token for.
const TEXTS: [&str; 12] = [
    "Once upon a time",
    "Lily and Tom went to the park",
    "The big dog",
    "\"Hello,\" said the",
    "One day, a little bird",
    "It was a dark night and",
    "a",
    "They lived happily ever after.",
    "Größe 日本 ...",
    "Tim  had   a red    ball.",
    "The cat sat on the mat. The cat sat on the mat.",
    "123 + 456 =",
];
/// Messages of a conversation, which is longer than any context.
const MESSAGES: [&str; 12] = [
    "hello",
    "my name is Ada",
    "what is my name?",
    "What is 2 plus 3?",
    "tell me a joke",
    "what is an SD card?",
    "?",
    "thank you!",
    "Größe 日本",
    "what can you do",
    "THE SAME AGAIN, THE SAME AGAIN",
    "bye",
];

/// What must come for each prompt, up to the statistics or to the end of an error: from the engine over the same card, with as
/// many positions but as much memory as it likes, and no console.
fn on_the_pc(card: &Path, context: u32, max_tokens: u32, prompts: &[&str]) -> Vec<Vec<u8>> {
    let mut memory = vec![0u64; 1 << 17];
    let bytes = memory.len() * 8;
    let mut arena = Arena::new(&mut memory);
    let opened = pageformer_sim::open(card, &mut arena).unwrap();
    let request = Request { context: Some(context), ..Request::default() };
    let needs = Needs::new(&opened.manifest, &opened.table);
    let plan = Plan::new(&needs, bytes, &request).unwrap();
    let manifest = opened.manifest;
    let engine =
        Engine::start(opened.card, &manifest, opened.table, &plan, &mut arena, kernels::best()).unwrap();
    let mut session = Session::start(engine, &manifest, &mut arena).unwrap();
    let mut answer = |message: &&str| {
        let (prompt, until) = match &manifest.chat {
            Some(chat) => {
                // A message that is all in capitals is heard as if it were not.
                let shouted = message.is_ascii() && message.to_uppercase() == **message;
                let heard = if shouted { message.to_lowercase() } else { message.to_string() };
                (chat.user.as_str().replace("{}", &heard), chat.stop.as_str())
            }
            None => (message.to_string(), ""),
        };
        if manifest.chat.is_none() {
            session.reset();
        }
        let mut printed = Vec::new();
        loop {
            let result = session.reply(&prompt, until, max_tokens, &mut |bytes| {
                printed.extend_from_slice(bytes);
                true
            });
            match result {
                Ok(_) => printed.extend(b"\n("),
                Err(Error::ContextFull { .. }) if manifest.chat.is_some() && !session.is_fresh() => {
                    session.reset();
                    printed.extend(b"(the conversation was too long and is forgotten)\n");
                    continue;
                }
                Err(error) => printed.extend(format!("\nerror: {error}\n").bytes()),
            }
            return printed
                .iter()
                .flat_map(|byte| if *byte == b'\n' { &b"\r\n"[..] } else { std::slice::from_ref(byte) })
                .copied()
                .collect();
        }
    };
    prompts.iter().map(&mut answer).collect()
}

/// Holds answers of at most `max_tokens` tokens against the PC's.
fn says_what_the_pc_says(card: &TestCard, prompts: &[&str], max_tokens: u32) {
    says_on(Processor::M3, card, prompts, max_tokens);
}

/// The same with another processor in the board.
fn says_on(processor: Processor, card: &TestCard, prompts: &[&str], max_tokens: u32) {
    let Some(elf) = built_for(processor) else { return };
    let (mut emulator, banner) = start_on(processor, elf, Some(&card.image()));
    let context = number(&banner, " positions");
    let [pinned, tape] = [" of ", " tape pages"].map(|word| {
        let (_, pages) = banner.split_once("positions, ").unwrap_or_else(|| panic!("{banner}"));
        number(pages, word)
    });
    let batch = number(&emulator.line("/memory").unwrap(), " to a pass");
    emulator.line(&format!("/max {max_tokens}")).unwrap();
    let mut answered = 0;
    for (prompt, want) in prompts.iter().zip(on_the_pc(&card.folder, context, max_tokens, prompts)) {
        let said = emulator.line_bytes(prompt).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(said.starts_with(&want), "{prompt}: {:?} instead of {:?}", text(&said), text(&want));
        if !want.ends_with(b"(") {
            continue;
        }
        answered += 1;
        let stats = emulator.line("/stats").unwrap();
        // Bélády's optimum for a cyclic scan: what does not stay is read once a pass. Passes over a prompt but the last end behind the layers.
        let passes = f64::from(number_after(&stats, "passes over the tape: "));
        let of_prompt = number_after(&stats, "prompt: ").div_ceil(batch);
        let (_, per_pass) = stats.split_once("pages per pass: ").unwrap();
        let per_pass: f64 = per_pass.split(' ').next().unwrap().parse().unwrap();
        let streamed = f64::from(tape - pinned);
        let least = (streamed * (passes + 1.0 - f64::from(of_prompt))) / passes;
        assert!(passes > 0.0 && per_pass <= streamed && per_pass + 0.1 > least, "{least} {stats}");
        // A small head may lie in a run with the end of the layers.
        let without_head = of_prompt > 1 && tape > 500;
        assert!(
            if without_head { per_pass < streamed } else { of_prompt > 1 || per_pass == streamed },
            "{stats}"
        );
        let reads = number_after(&stats, "reads: ");
        assert!(f64::from(reads) * 4.0 < passes * streamed, "reads are of several pages: {stats}");
        assert!(stats.contains("of them again: 0"), "{stats}");
    }
    assert!(answered * 4 >= prompts.len() * 3, "{answered} answers");
    let memory = emulator.line("/memory").unwrap();
    println!("{banner}{memory}");
    let [flash, statics] = ["flash: ", "RAM: "].map(|words| number_after(&memory, words));
    let used = number_after(&memory, "at most ");
    assert!(flash <= 128 << 10, "{memory}");
    assert!(used > 2048 && used <= STACK_LIMIT && statics + used <= 64 << 10, "{memory}");
}

#[test]
fn chat_packed() {
    says_what_the_pc_says(&cards::chat(Layout::Packed), &MESSAGES, 16);
}

#[test]
fn chat_in_files() {
    says_what_the_pc_says(&cards::chat(Layout::Files), &MESSAGES, 4);
}

#[test]
fn stories_packed() {
    let Some(card) = cards::stories(Layout::Packed) else { return };
    says_what_the_pc_says(&card, &TEXTS, 8);
}

#[test]
fn stories_in_files() {
    let Some(card) = cards::stories(Layout::Files) else { return };
    says_what_the_pc_says(&card, &TEXTS, 4);
}

#[test]
fn sketch_packed() {
    says_what_the_pc_says(&cards::sketch(Layout::Packed), &TEXTS, 12);
}

#[test]
fn sketch_in_files() {
    says_what_the_pc_says(&cards::sketch(Layout::Files), &TEXTS, 4);
}

/// The kernel for the DSP extension, and f32 by a floating-point unit.
#[test]
fn chat_on_a_cortex_m4() {
    says_on(Processor::M4, &cards::chat(Layout::Packed), &MESSAGES, 16);
}

#[test]
fn stories_on_a_cortex_m4() {
    let Some(card) = cards::stories(Layout::Packed) else { return };
    says_on(Processor::M4, &card, &TEXTS[..4], 8);
}
