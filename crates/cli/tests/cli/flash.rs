//! `pageformer flash`, with a script for espflash.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::Place;

const CHIPS: [(&str, &str); 3] = [
    ("esp32s3", "xtensa-esp32s3-none-elf"),
    ("esp32c3", "riscv32imc-unknown-none-elf"),
    ("esp32c6", "riscv32imac-unknown-none-elf"),
];

/// A folder like a clone, in which the firmware has been built for these chips.
fn clone_with(chips: &[&str]) -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("firmware/esp32")).unwrap();
    for (chip, target) in CHIPS.iter().filter(|(chip, _)| chips.contains(chip)) {
        let folder = place.path("firmware/esp32/target").join(target).join("release");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("pageformer-esp32"), chip).unwrap();
    }
    place
}

/// Puts an espflash into `tools` that prints its arguments, a line each, and does what `then` says.
fn espflash(place: &Place, then: &str) {
    fs::create_dir_all(place.path("tools")).unwrap();
    let file = place.path("tools/espflash");
    fs::write(&file, format!("#!/bin/sh\nfor word in \"$@\"; do echo \"<$word>\"; done\n{then}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `pageformer flash` in a folder of `place`, where the only programs are those of `tools`.
fn flash(place: &Place, folder: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pageformer"))
        .current_dir(place.path(folder))
        .arg("flash")
        .args(arguments)
        .env("PATH", place.path("tools"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The message of a run that failed with this exit code and printed nothing else.
fn error(output: &Output, code: i32, parts: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

fn words(output: &Output) -> Vec<String> {
    let out = text(&output.stdout);
    out.lines().map(|line| line.trim_matches(['<', '>']).to_string()).collect()
}

#[test]
fn espflash_gets_the_chip_the_port_and_what_was_built() {
    let place = clone_with(&["esp32s3", "esp32c3", "esp32c6"]);
    espflash(&place, "echo to stderr >&2");
    fs::create_dir_all(place.path("crates/cli")).unwrap();
    for (chip, _) in CHIPS {
        // From anywhere in the clone.
        for folder in [".", "crates/cli"] {
            let output = flash(&place, folder, &["--chip", chip]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let words = words(&output);
            assert_eq!(words[..3], ["flash", "--chip", chip]);
            assert_eq!(words.len(), 4, "{words:?}");
            assert_eq!(fs::read_to_string(&words[3]).unwrap(), chip, "the file is another chip's");
            assert_eq!(text(&output.stderr), "to stderr\n");
        }
    }
    let output = flash(&place, ".", &["--chip", "ESP32-C3", "--port", "/dev/ttyACM0"]);
    assert_eq!(words(&output)[..5], ["flash", "--chip", "esp32c3", "--port", "/dev/ttyACM0"]);
    // A file of the user's, with any name, outside of a clone.
    let elsewhere = Place::new();
    espflash(&elsewhere, "");
    fs::write(elsewhere.path("it's mine.elf"), "elf").unwrap();
    let arguments = ["--chip", "esp32c6", "--firmware", "it's mine.elf"];
    assert_eq!(words(&flash(&elsewhere, ".", &arguments)), ["flash", "--chip", "esp32c6", "it's mine.elf"]);
}

#[test]
fn a_dry_run_prints_a_line_for_the_shell() {
    let place = clone_with(&["esp32c3"]);
    // There is no espflash, and none is needed.
    let output = flash(&place, ".", &["--chip", "esp32c3", "--port", "COM3", "--dry-run"]);
    let line = text(&output.stdout);
    let elf = "firmware/esp32/target/riscv32imc-unknown-none-elf/release/pageformer-esp32\n";
    assert!(line.starts_with("espflash flash --chip esp32c3 --port COM3 /") && line.ends_with(elf), "{line}");
    // What the shell makes of a line with odd names is what espflash gets.
    espflash(&place, "");
    fs::write(place.path("it's mine.elf"), "elf").unwrap();
    let arguments = ["--chip", "esp32c3", "--firmware", "it's mine.elf", "--port", "$HOME"];
    let line = text(&flash(&place, ".", &[&arguments[..], &["--dry-run"]].concat()).stdout);
    let shell = Command::new("/bin/sh")
        .args(["-c", &line])
        .current_dir(place.path("."))
        .env("PATH", place.path("tools"))
        .output()
        .unwrap();
    assert_eq!(words(&shell), words(&flash(&place, ".", &arguments)));
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let place = clone_with(&["esp32c3"]);
    error(
        &flash(&place, ".", &["--chip", "esp32c3"]),
        1,
        &["espflash is not installed", "cargo install espflash --locked", "esptool"],
    );
    error(
        &flash(&place, ".", &["--chip", "esp32c6", "--dry-run"]),
        1,
        &["not been built", "cargo xtask firmware --chip esp32c6", "riscv32imac"],
    );
    error(
        &flash(&place, ".", &["--chip", "esp32c6", "--firmware", "nowhere.elf"]),
        1,
        &["nowhere.elf: no such file"],
    );
    let elsewhere = Place::new();
    error(&flash(&elsewhere, ".", &["--chip", "esp32c3"]), 1, &["not in a clone", "--firmware"]);
    espflash(&place, "echo Error while connecting >&2; exit 3");
    let output = flash(&place, ".", &["--chip", "esp32c3"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.starts_with("Error while connecting\nerror: espflash"), "{message}");
    assert!(message.contains("exit status: 3") && message.contains("BOOT"), "{message}");
    // A file that is there and no program.
    fs::set_permissions(place.path("tools/espflash"), fs::Permissions::from_mode(0o644)).unwrap();
    error(&flash(&place, ".", &["--chip", "esp32c3"]), 1, &["espflash"]);
}

#[test]
fn chips_without_firmware() {
    let place = Place::new();
    for chip in ["cortex-m3", "stm32f411", "nRF52840", "rp2040", "thumbv7em"] {
        error(&flash(&place, ".", &["--chip", chip]), 2, &[chip, "probe-rs", "docs/porting.md"]);
    }
    error(&flash(&place, ".", &["--chip", "esp32"]), 2, &["esp32s3, esp32c3 and esp32c6"]);
    error(&flash(&place, ".", &["--chip", "qemu"]), 2, &["cargo xtask emulate"]);
    assert!(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/porting.md")).is_file());
}
