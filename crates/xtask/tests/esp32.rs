//! The firmware for ESP32 boards builds, leaves room for its stack, and `esptool` makes an image of it that Espressif's tools take.
//!
//! Takes minutes the first time, so it runs only with `PAGEFORMER_REQUIRE_ESP32` set to a folder to build in, as
//! `firmware/ci.sh` does; `PAGEFORMER_ESPTOOL` may name another `esptool` than the one in the path.

use std::path::PathBuf;
use std::process::Command;

use pageformer_esp32_boards::Chip;
use xtask::esp32::{Options, board, build, image};

#[test]
fn images_of_the_chips_that_this_toolchain_builds_for() {
    let Some(target_dir) = std::env::var_os("PAGEFORMER_REQUIRE_ESP32").map(PathBuf::from) else {
        eprintln!("skipped: takes minutes; `bash firmware/ci.sh` runs it");
        return;
    };
    let esptool = std::env::var_os("PAGEFORMER_ESPTOOL").map_or_else(|| "esptool".into(), PathBuf::from);
    let dir = tempfile::tempdir().unwrap();
    for (chip, ram) in [(Chip::Esp32C3, 0x3FC8_0000..0x3FCE_0000), (Chip::Esp32C6, 0x4080_0000..0x4088_0000)]
    {
        let name = chip.name();
        let options =
            Options { board: board(chip, None).unwrap(), sdhost: false, target_dir: target_dir.clone() };
        let elf = build(&options).unwrap();
        let bin = dir.path().join(format!("{name}.bin"));
        image(&esptool, chip, &elf, &bin).unwrap();

        let info = Command::new(&esptool).arg("image-info").arg(&bin).output().unwrap();
        let info = String::from_utf8(info.stdout).unwrap();
        let upper = name.to_uppercase().replacen("ESP32", "ESP32-", 1);
        assert!(info.contains(&format!("Detected image type: {upper}")), "{info}");
        assert_eq!(info.matches("(valid)").count(), 2, "checksum and hash: {info}");
        assert!(info.contains("Project name: pageformer-esp32"), "the bootloader reads this: {info}");

        let bytes = std::fs::read(&bin).unwrap();
        let statics = segments(&bytes).into_iter().filter(|(address, _)| ram.contains(address));
        let loaded: u32 = statics.map(|(_, len)| len).sum();
        println!("{name}: image of {} B, {loaded} B of it for RAM", bytes.len());
        assert!(loaded > 0 && bytes.len() < 512 << 10, "an app partition has 1 MB: {} B", bytes.len());
    }
}

/// Address and length of each segment of an image (Espressif's "Firmware Image Format").
fn segments(image: &[u8]) -> Vec<(u32, u32)> {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let mut at = 24;
    let segments = (0..image[1]).map(|_| {
        let (address, len) = (word(at), word(at + 4));
        at += 8 + len as usize;
        (address, len)
    });
    segments.collect()
}
