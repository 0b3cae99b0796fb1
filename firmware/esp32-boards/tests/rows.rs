//! Every row is possible on its chip, and is what `docs/boards.md` tells people to solder.

use std::collections::HashSet;

use pageformer_esp32_boards::{BOARDS, Board, Chip, Console};

/// Each pin with what it is for, once.
fn pins(board: &Board) -> Vec<(&'static str, u8)> {
    let mut pins = vec![
        ("SCK", board.spi.sck),
        ("MOSI", board.spi.mosi),
        ("MISO", board.spi.miso),
        ("CS", board.spi.cs),
    ];
    if let Some(sdhost) = board.sdhost {
        // The other four are those of SPI, as the next test asserts.
        pins.extend([("DAT1", sdhost.dat[1]), ("DAT2", sdhost.dat[2])]);
    }
    if let Console::Uart { tx, rx } = board.console {
        pins.extend([("TX", tx), ("RX", rx)]);
    }
    pins
}

#[test]
fn pins_exist_are_free_and_are_used_once() {
    for board in BOARDS {
        let chip = board.chip;
        let mut seen = HashSet::new();
        for (signal, pin) in pins(board) {
            let what = format!("{}: {signal} on GPIO{pin}", board.id);
            assert!(seen.insert(pin), "{what} is used twice");
            assert!(pin <= chip.last_pin() && !chip.taken().contains(&pin), "{what} is not to be had");
            assert!(!chip.strapping().contains(&pin), "{what} decides how the chip boots");
            assert!(!chip.usb().contains(&pin), "{what} is USB's");
            if board.psram
                && let Some(psram) = chip.octal_psram()
            {
                assert!(!psram.contains(&pin), "{what} is the PSRAM's");
            }
        }
    }
}

#[test]
fn both_kinds_of_bus_use_the_same_wires() {
    for board in BOARDS {
        let Some(sdhost) = board.sdhost else { continue };
        assert_eq!(board.chip, Chip::Esp32S3, "{}: its chip has no SD bus", board.id);
        let spi = board.spi;
        assert_eq!(
            (sdhost.clk, sdhost.cmd, sdhost.dat[0], sdhost.dat[3]),
            (spi.sck, spi.mosi, spi.miso, spi.cs),
            "{}",
            board.id
        );
    }
}

#[test]
fn names_are_unique_and_are_found() {
    let mut ids = HashSet::new();
    for board in BOARDS {
        assert!(ids.insert(board.id), "{} is there twice", board.id);
        assert_eq!(Board::find(board.id), Some(board));
        assert!((400_000..=40_000_000).contains(&board.clock), "{}", board.id);
    }
    assert_eq!(Board::find("esp32-s3-devkitc-2"), None);
    for chip in Chip::ALL {
        assert_eq!(Board::default_of(chip).map(|board| board.chip), Some(chip));
    }
}

#[test]
fn the_documentation_has_every_row() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/boards.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    for board in BOARDS {
        let Board { id, name, spi, .. } = board;
        let console = match board.console {
            Console::Uart { tx, rx } => format!("UART0: TX {tx}, RX {rx}"),
            Console::Usb => "USB".into(),
        };
        let more = board.sdhost.map_or("–".into(), |sd| format!("{}, {}", sd.dat[1], sd.dat[2]));
        let row = format!(
            "| `{id}` | {name} | {} | {} | {} | {} | {} | {more} | {} MHz | {console} |",
            board.chip.name(),
            spi.sck,
            spi.mosi,
            spi.miso,
            spi.cs,
            board.clock / 1_000_000
        );
        assert!(documentation.contains(&row), "docs/boards.md lacks this row:\n{row}");
    }
}
