//! The firmware plans with what the prediction plans with.

use std::path::Path;

use pageformer_engine::Pace;
use pageformer_esp32_boards::BOARDS;
use pageformer_sim::boards::{board, bus};
use pageformer_sim::{Setup, open, work_of_pass};
use pageformer_vram::Arena;

/// The model that ships with the program.
const CARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/chat/card");

#[test]
fn the_pace_of_every_board_is_the_prediction_of_the_default_model() {
    let mut memory = vec![0; (8 << 20) / 8];
    let mut arena = Arena::new(&mut memory);
    let opened = open(Path::new(CARD), &mut arena).unwrap();
    let tape = opened.manifest.tape_pages;
    let work = work_of_pass(opened, arena).unwrap();
    let predicted = |chip: &str, sd: &str| -> Pace {
        let (board, bus) = (board(chip).unwrap(), bus(sd).unwrap());
        Setup { board, bus, piece: None, read_ahead: true }.pace(&work, tape)
    };
    for board in BOARDS {
        let spi = match board.clock {
            20_000_000 => "spi-20",
            40_000_000 => "spi-40",
            other => panic!("{}: nothing is predicted at {other} Hz", board.id),
        };
        assert_eq!(board.pace(false), predicted(board.chip.name(), spi), "{}, {spi}", board.id);
        if board.sdhost.is_some() {
            assert_eq!(board.pace(true), predicted(board.chip.name(), "sdmmc-4"), "{}, sdmmc-4", board.id);
        }
    }
}
