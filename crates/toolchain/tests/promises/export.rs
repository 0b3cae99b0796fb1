//! Writing a card into a folder: all of it or nothing, and never over something else.

use std::fs;
use std::path::Path;

use pageformer_card::Layout;
use pageformer_engine::Request;
use pageformer_toolchain::{CardFiles, ExportError, export, write_card};

use crate::support::*;

fn card(seed: u64, layout: Layout) -> CardFiles {
    let (model, tokenizer) = random(two_kinds()[0], seed);
    card_files(&model, &tokenizer, layout)
}

/// The folder has the files of the card and nothing else, and beside it is nothing.
fn check(card: &CardFiles, dir: &Path, beside: usize) {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut wanted: Vec<String> = card.files.iter().map(|file| file.name.clone()).collect();
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted);
    for file in &card.files {
        assert_eq!(fs::read(dir.join(&file.name)).unwrap(), file.bytes, "{}", file.name);
    }
    assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), beside);
}

#[test]
fn a_card_replaces_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("card");
    for (seed, layout) in [(1, Layout::Files), (2, Layout::Packed), (3, Layout::Files)] {
        let card = card(seed, layout);
        let mut calls = Vec::new();
        write_card(&card, &place, &mut |done, all| calls.push((done, all))).unwrap();
        check(&card, &place, 1);
        let all = card.files.len() as u64;
        assert_eq!(calls.last(), Some(&(all, all)));
    }
}

/// `export -o card/`, as a shell completes it.
#[test]
fn a_slash_at_the_end_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("card");
    let with_slash = place.join("");
    for seed in [1, 2] {
        let card = card(seed, Layout::Packed);
        write_card(&card, &with_slash, &mut |_, _| {}).unwrap();
        check(&card, &place, 1);
    }
}

#[test]
fn something_else_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let card = card(1, Layout::Packed);
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("holiday.jpg"), "a photo").unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "a file").unwrap();
    // Another program's folder with an index.json of its own.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("index.json"), "{\"emb_weight\": []}").unwrap();
    for place in [&photos, &file, &other] {
        let error = write_card(&card, place, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(&place.display().to_string()), "{error}");
    }
    assert_eq!(fs::read(photos.join("holiday.jpg")).unwrap(), b"a photo");
    assert_eq!(fs::read(&file).unwrap(), b"a file");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left behind");
    // An empty folder is as good as none.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write_card(&card, &empty, &mut |_, _| {}).unwrap();
    check(&card, &empty, 4);
}

/// What a crash left behind does not stand in the way.
#[test]
fn a_torn_card_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("card");
    let partial = dir.path().join("card.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("weights.pages"), "half").unwrap();
    let card = card(1, Layout::Files);
    write_card(&card, &place, &mut |_, _| {}).unwrap();
    check(&card, &place, 1);
}

#[test]
fn the_same_model_gives_the_same_card() {
    for layout in [Layout::Packed, Layout::Files] {
        let (first, second) = (card(4, layout), card(4, layout));
        assert!(first.files.iter().zip(&second.files).all(|(a, b)| a.name == b.name && a.bytes == b.bytes));
    }
}

#[test]
fn models_that_do_not_fit_a_card_are_refused() {
    let (model, tokenizer) = random(two_kinds()[0], 1);
    let refused = |change: &dyn Fn(&mut pageformer_model::Model)| {
        let mut model = model.clone();
        change(&mut model);
        export(&model, &tokenizer, Layout::Packed, (4, 4), "", "").map(|_| ()).unwrap_err()
    };
    let template = |user: &str, stop: &str| {
        Some(pageformer_model::ChatTemplate { user: user.into(), stop: stop.into() })
    };
    assert!(matches!(refused(&|m| m.eos = vec![1, 2, 3, 4, 5]), ExportError::Eos(5)));
    assert!(matches!(refused(&|m| m.eos = vec![261]), ExportError::Model(_)));
    assert!(matches!(refused(&|m| m.embedding.data[7] = f32::NAN), ExportError::Model(_)));
    assert!(matches!(
        refused(&|m| m.chat = template(&format!("{{}}{}", "x".repeat(95)), "")),
        ExportError::Text(_, 96)
    ));
    assert!(matches!(refused(&|m| m.chat = template("{}", &"x".repeat(33))), ExportError::Text(_, 32)));
    let other = pageformer_model::Tokenizer::ascii();
    let mismatch = export(&model, &other, Layout::Packed, (4, 4), "", "").map(|_| ());
    assert!(matches!(mismatch, Err(ExportError::Vocab { tokenizer: 128, model: 261 })));
    // Each becomes six characters in index.json, more than a device reads.
    let control = "\u{1}".repeat(64);
    let name = export(&model, &tokenizer, Layout::Packed, (4, 4), &control, "").map(|_| ());
    assert!(matches!(name, Err(ExportError::Index(_))), "{name:?}");
    let long = "x".repeat(65);
    let name = export(&model, &tokenizer, Layout::Packed, (4, 4), &long, "").map(|_| ());
    assert!(matches!(name, Err(ExportError::Text(_, 64))));
}

/// Whatever is exported, a device can read; what none could is refused.
#[test]
fn what_is_exported_can_be_read() {
    let (mut model, tokenizer) = random(two_kinds()[0], 1);
    for (user, stop, possible) in [
        ("{}", "", true),
        ("Q: {}\nA:", "\n", true),
        ("\"\\{}\t\u{1}", "\"\\\u{7f}", true),
        ("no place", "", false),
    ] {
        model.chat = Some(pageformer_model::ChatTemplate { user: user.into(), stop: stop.into() });
        for (block, possible) in
            [((4, 4), possible), ((256, 4), possible), ((5, 4), false), ((4, 0), false), ((260, 4), false)]
        {
            match export(&model, &tokenizer, Layout::Packed, block, "n\u{e4}me \"\\\n", "source") {
                Ok(card) => {
                    assert!(possible, "{user:?} {block:?}");
                    let card = in_memory(&card);
                    run(card, 96 << 10, &Request::default(), "the", 2).unwrap();
                }
                Err(ExportError::Block(..) | ExportError::ChatTemplate(_)) => {
                    assert!(!possible, "{user:?} {block:?}")
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// What cannot be written to its end leaves nothing behind, and the card that was there as it was.
#[test]
fn a_card_that_cannot_be_written_leaves_nothing() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let mut files = card_files(&model, &tokenizer, Layout::Packed);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card");
    write_card(&files, &path, &mut |_, _| {}).unwrap();
    // A file that no file system takes: its folder is missing.
    files.files.push(pageformer_toolchain::NamedFile { name: "no/such".into(), bytes: Vec::new() });
    let error = write_card(&files, &path, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("such"), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["card"]);
    assert_eq!(fs::read_dir(&path).unwrap().count(), files.files.len() - 1);
}
