//! Guessing on every board by its virtual clock: it never costs, and saves where the card is waited for.

use std::path::Path;

use pageformer_engine::{Needs, Pace, Plan, Request, Speculation};
use pageformer_sim::boards::{BOARDS, bus};
use pageformer_sim::{PassWork, Prediction, Setup, open, predict, work_of_pass};
use pageformer_vram::Arena;

use crate::support::*;

/// The model that ships with the program, whose card has a table of drafts.
const CARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/chat/card");

/// What a board is predicted to do in `ram` bytes, or its own.
fn prediction(
    (work, tape): (&PassWork, u32),
    setup: &Setup<'_>,
    ram: Option<usize>,
    speculation: Speculation,
    prompts: &[String],
) -> Prediction {
    let ram = ram.unwrap_or(setup.board.ram);
    let mut memory = memory(ram);
    let mut arena = Arena::new(&mut memory);
    let opened = open(Path::new(CARD), &mut arena).unwrap();
    let request = setup.request(&Request { speculation, ..Request::default() }, setup.pace(work, tape));
    predict(opened, arena, ram, &request, setup, prompts).unwrap()
}

#[test]
fn guesses_never_cost_and_save_where_the_card_is_waited_for() {
    let mut memory = memory(8 << 20);
    let mut arena = Arena::new(&mut memory);
    let opened = open(Path::new(CARD), &mut arena).unwrap();
    let (tape, template) = (opened.manifest.tape_pages, opened.manifest.chat.unwrap());
    let work = work_of_pass(opened, arena).unwrap();
    let questions = ["hello", "what does a duck say", "capital of italy", "tell me a joke", "who made u"];
    let prompts = questions.map(|text| template.user.as_str().replacen("{}", text, 1));
    let (mut faster, mut computing) = (0, 0);
    for board in &BOARDS {
        for bus in board.buses.iter().map(|name| bus(name).unwrap()) {
            for (read_ahead, ram) in [(true, None), (false, None), (true, Some(96 << 10))] {
                let setup = Setup { board, bus, piece: None, read_ahead };
                let predict = |how| prediction((&work, tape), &setup, ram, how, &prompts);
                let (off, auto) = (predict(Speculation::Off), predict(Speculation::Auto));
                let ratio = auto.reply().tokens_per_s() / off.reply().tokens_per_s();
                let what =
                    format!("{}, {}, {ram:?}, {read_ahead}: {ratio:.3} times as fast", board.name, bus.name);
                assert!(ratio > 0.995, "{what}: {auto:?}");
                if !board.guesses {
                    assert!(auto.guessed.is_none() && ratio == 1.0, "{what}");
                } else if off.decode.reading > 2 * off.decode.computing {
                    // A second position takes a third of such a pass at most, and three guesses of five are right: 1.6 ÷ 1⅓.
                    assert!(ratio > 1.2 && auto.reply().tokens_per_pass() > 1.5, "{what}");
                    faster += 1;
                } else if off.decode.reading < off.decode.computing {
                    computing += 1;
                }
            }
        }
    }
    assert!(faster > 10 && computing > 5, "{faster} of the card, {computing} of the processor");
}

/// As many guesses as pay, no more: all of them where computing hides behind reading, none where a guess costs what a token does.
#[test]
fn how_many_guesses_follows_from_what_is_waited_for() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let card = memory_card(&model, &tokenizer);
    let needs = needs(card);
    let pace = |page, compute| pageformer_engine::Pace {
        page,
        compute,
        command: 2 * page,
        check: 0,
        fetch: 0,
        logits: 0,
    };
    let rows = |pace, read_ahead| {
        let speculation = Speculation::Auto;
        let request = Request { speculation, pace, read_ahead, batch: Some(8), ..Request::default() };
        let ram = least_ram(&needs, &request) + 16 * 512;
        pageformer_engine::Plan::new(&needs, ram, &request).unwrap().logits_rows
    };
    assert!(rows(pace(1000, 1), 64) > 4 && rows(pace(1000, 1), 0) > 4);
    assert_eq!((rows(pace(1, 1000), 64), rows(pace(1, 1000), 0)), (1, 1));
    assert!(rows(pace(100, 30), 64) > rows(pace(100, 90), 0));
}

/// No tape is so long and no card so slow that the plan goes wrong.
#[test]
fn any_tape_at_any_pace_has_a_plan() {
    let mut memory = memory(8 << 20);
    let mut arena = Arena::new(&mut memory);
    let opened = open(Path::new(CARD), &mut arena).unwrap();
    let known = Needs::new(&opened.manifest, &opened.table);
    let ram = 280 << 10;
    for tape_pages in [known.tape_pages, 1 << 20, u32::MAX / 2] {
        let needs = Needs { tape_pages, prompts_end: tape_pages / 2, weights_pages: tape_pages, ..known };
        for [command, page] in [[0, 0], [u32::MAX, 0], [0, u32::MAX], [u32::MAX; 2], [600_000, 292_000]] {
            for other in [0, u32::MAX] {
                let pace = Pace { command, page, check: other, fetch: other, compute: other, logits: other };
                for (speculation, read_ahead) in
                    [Speculation::Off, Speculation::Auto].into_iter().flat_map(|s| [0, 1, 48].map(|a| (s, a)))
                {
                    let request = Request { pace, speculation, read_ahead, ..Request::default() };
                    let plan = Plan::new(&needs, ram, &request).unwrap();
                    assert!(plan.total() <= ram && plan.pinning.tape == tape_pages, "{plan:?}");
                    assert!(read_ahead == 0 || plan.pinning.ring <= (read_ahead / 2).max(1), "{plan:?}");
                }
            }
        }
    }
}
