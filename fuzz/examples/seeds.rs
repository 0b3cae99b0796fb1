//! Writes the seeds into `corpus/`: `cargo run --example seeds` in the folder `fuzz`.

use std::fs;
use std::path::Path;

use pageformer_fuzz::{Patch, card, volumes, write};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let save = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), bytes)
    };
    for (name, index) in manifests() {
        save("manifest", &name, index.as_bytes())?;
    }
    for (name, which, patches) in volume_changes() {
        save("fat", &name, &[&[which, 0], &write(&patches)[..]].concat())?;
    }
    for (name, input) in tokenizers() {
        save("tokenizer", name, &input)?;
    }
    for (name, flags, patches) in card_changes() {
        save("card", name, &[&[flags, 160], &write(&patches)[..]].concat())?;
    }
    Ok(())
}

/// The manifest of the small card, and others made from it by replacing a text.
fn manifests() -> Vec<(String, String)> {
    let sound = String::from_utf8_lossy(&card().index).into_owned();
    let mut all = vec![("sound".to_string(), sound.clone())];
    for (name, from, to) in [
        ("rms", "layernorm", "rmsnorm"),
        ("files", "\"packed\"", "\"files\""),
        ("exponent", "0.00001", "1.5e-12"),
        ("large_number", "\"tape_pages\": ", "\"tape_pages\": 4294967295"),
        ("negative", "\"d_ff\": 36", "\"d_ff\": -36"),
        ("escapes", "\"fuzz\"", "\"\\u00e4 \\\" \\\\ \\n \\ud83d\\ude00\""),
        ("unknown", "\"version\"", "\"future\": {\"a\": [1, {\"b\": null}]}, \"version\""),
        ("chat", "\"tokenizer\"", "\"chat\": {\"user\": \"Q: {}\\nA:\", \"stop\": \"\\n\"}, \"tokenizer\""),
    ] {
        assert!(sound.contains(from), "{from}");
        all.push((name.to_string(), sound.replacen(from, to, 1)));
    }
    all
}

fn patch(file: u8, at: usize, bytes: &[u8]) -> Patch {
    Patch { file, at: at as u32, bytes: bytes.to_vec() }
}

/// Changes where they matter: the partition, the fields of the boot sector, the FAT, the directory.
fn volume_changes() -> Vec<(String, u8, Vec<Patch>)> {
    let mut all = Vec::new();
    for (which, (bytes, sectors)) in (0..).zip(volumes()) {
        let start = if which < 2 { 8 * 512 } else { 0 };
        let field = |at: usize| u16::from_le_bytes([bytes[start + at], bytes[start + at + 1]]) as usize;
        let fat = start + field(14) * 512;
        let directory = bytes.windows(8).position(|name| name == b"WEIGHT~1" || name == b"WEIGHTS ");
        let directory = directory.unwrap_or(fat) & !31;
        let wide = which % 2 == 1;
        let link = |cluster: usize, next: u32| match wide {
            true => patch(0, fat + cluster * 4, &next.to_le_bytes()),
            false => patch(0, fat + cluster * 2, &(next as u16).to_le_bytes()),
        };
        let mut add = |name: &str, patches| all.push((format!("{name}_{which}"), which, patches));
        add("sound", vec![]);
        add("cut", vec![patch(0, *sectors as usize / 2, &[])]);
        add("circle", vec![link(3, 3), link(4, 5), link(5, 4)]);
        add("links", vec![link(3, 0), link(4, 1), link(5, 0xFFFF_FFF7), link(6, 60_000)]);
        add("cluster_size", vec![patch(0, start + 13, &[64])]);
        add("reserved", vec![patch(0, start + 14, &[0xFF, 0xFF])]);
        add("sectors", vec![patch(0, start + 19, &[1, 0]), patch(0, start + 32, &[0xFF; 4])]);
        add("root", vec![patch(0, start + 17, &[0, 2]), patch(0, start + 44, &[0xFF, 0xFF, 0, 0])]);
        add("size", vec![patch(0, directory + 28, &[0xFF; 4])]);
        add("first", vec![patch(0, directory + 20, &[1, 0]), patch(0, directory + 26, &[0, 0])]);
        add("long_name", vec![patch(0, directory - 32, &[0x7F]), patch(0, directory - 19, &[0x55])]);
        if start > 0 {
            add("partition", vec![patch(0, 446 + 4, &[0xEE]), patch(0, 446 + 8, &[0xFF; 8])]);
        }
    }
    all
}

/// Flags, the length of the text, the text; then changes to the sound file, or another whole file.
fn tokenizers() -> Vec<(&'static str, Vec<u8>)> {
    let input = |flags: u8, text: &str, rest: &[u8]| [&[flags, text.len() as u8], text.as_bytes(), rest].concat();
    let header = |fields: &[u32]| fields.iter().flat_map(|field| field.to_le_bytes()).collect::<Vec<_>>();
    let magic = u32::from_le_bytes(*b"PFTK");
    vec![
        ("sound", input(0, "ab cab caab\u{e4}", &[])),
        ("sections", input(0, "ab cab", &write(&[patch(0, 20, &[0xFF; 8]), patch(0, 44, &[9, 0, 0, 0])]))),
        ("pieces", input(0, "ab", &write(&[patch(0, 512, &[0xFF; 16])]))),
        ("merges", input(0, "ab cab", &write(&[patch(0, 512 * 9, &[97, 0, 98, 0])]))),
        ("short", input(0, " ab", &write(&[patch(0, 700, &[])]))),
        ("ascii", input(1, "Hello \u{65e5}", &header(&[magic, 1, 0, 128, 0]))),
        ("bytes", input(1, "Hello \u{65e5}", &header(&[magic, 1, 0, 256, 0]))),
        ("characters", input(1, "abc", &header(&[magic, 1, 1, 64, 3, 1, 1, 2, 1, 3, 1, 4, 1, 5, 1]))),
    ]
}

/// Changes to the files index, weights, tokenizer, checksums (0 to 3); with flag 1 the checksums are made right.
fn card_changes() -> Vec<(&'static str, u8, Vec<Patch>)> {
    let index = String::from_utf8_lossy(&card().index).into_owned();
    let key = |key: &str| index.find(key).expect("a key of the manifest") + key.len();
    vec![
        ("sound", 0, vec![]),
        ("flipped", 0, vec![patch(1, 700, &[0x55])]),
        ("sums", 0, vec![patch(3, 8, &[1, 2, 3, 4])]),
        ("cut", 0, vec![patch(1, 2048, &[])]),
        ("mask", 1, vec![patch(1, 512 + 8, &[0xFF; 8])]),
        ("scale", 1, vec![patch(1, 512, &[0xC0, 0x7F, 0x80, 0x7F])]),
        ("gain", 1, vec![patch(1, 0, &[0, 0, 0xC0, 0x7F, 0, 0, 0x80, 0xFF])]),
        ("weights", 1, vec![patch(1, 1024, &[0x80; 64])]),
        ("heads", 1, vec![patch(0, key("\"n_heads\": "), b"1")]),
        ("width", 1, vec![patch(0, key("\"d_model\": "), b"11")]),
        ("context", 1, vec![patch(0, key("\"max_seq\": "), b"99")]),
        ("vocab", 1, vec![patch(0, key("\"vocab\": "), b"260")]),
        ("pieces", 1, vec![patch(2, 512, &[0xFF; 64])]),
        ("bos", 1, vec![patch(0, key("\"bos\": "), b"007")]),
    ]
}
