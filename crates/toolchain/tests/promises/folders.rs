//! Cards in a folder in layout `files`: files that are missing, torn, or of another page.

use std::fs;
use std::path::Path;

use pageformer_card::{Layout, PAGE_BYTES};
use pageformer_engine::{Error, Request, kernels};
use pageformer_sim::OpenError;
use pageformer_toolchain::write_card;
use pageformer_vram::{Arena, CardFile};

use crate::support::*;

#[derive(Debug)]
enum Failure {
    Open(OpenError),
    Engine(Error),
}

fn run_folder(path: &Path) -> Result<Said, Failure> {
    let ram = 96 << 10;
    let mut memory = memory(ram);
    let mut arena = Arena::new(&mut memory);
    let opened = pageformer_sim::open(path, &mut arena).map_err(Failure::Open)?;
    let request = Request::default();
    let session = begin(opened.card, &opened.manifest, opened.table, ram, arena, &request, kernels::best());
    say(&mut session.map_err(Failure::Engine)?, "the dog", 3).map_err(Failure::Engine)
}

/// A folder with a card, and the names of its files.
fn folder(layout: Layout) -> (tempfile::TempDir, Vec<String>) {
    let (model, tokenizer) = random(two_kinds()[1], 8);
    let card = card_files(&model, &tokenizer, layout);
    let dir = tempfile::tempdir().unwrap();
    write_card(&card, dir.path(), &mut |_, _| {}).unwrap();
    (dir, card.files.into_iter().map(|file| file.name).collect())
}

fn text(failure: &Failure) -> String {
    match failure {
        Failure::Open(error) => error.to_string(),
        Failure::Engine(error) => error.to_string(),
    }
}

#[test]
fn missing_and_torn_files_are_named() {
    for layout in [Layout::Packed, Layout::Files] {
        let (dir, names) = folder(layout);
        let said = run_folder(dir.path()).unwrap();
        for name in &names {
            let path = dir.path().join(name);
            let bytes = fs::read(&path).unwrap();
            let mut longer = bytes.clone();
            longer.extend([0; PAGE_BYTES]);
            let contents = [
                None,
                Some(&[][..]),
                Some(&bytes[..bytes.len() / 2]),
                Some(&bytes[..bytes.len() - 1]),
                Some(&longer[..]),
            ];
            for content in contents {
                match content {
                    Some(content) => fs::write(&path, content).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                if name == "pages.meta" {
                    // No answer hangs on what is known of the pages.
                    assert_eq!(run_folder(dir.path()).unwrap(), said);
                    continue;
                }
                let failure = run_folder(dir.path()).expect_err(name);
                let file = if name == "weights.pages" { "weights" } else { name };
                assert!(text(&failure).contains(file), "{name}: {}", text(&failure));
            }
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(run_folder(dir.path()).unwrap(), said);
    }
}

/// Two pages that changed places, of the same tensor or not, and pages with a flipped bit.
#[test]
fn pages_of_another_place_are_named() {
    let (dir, names) = folder(Layout::Files);
    let said = run_folder(dir.path()).unwrap();
    let pages: Vec<&String> = names.iter().filter(|name| name.starts_with("dec")).collect();
    let mut random = Random(3);
    for _ in 0..60 {
        let (a, b) = (
            dir.path().join(pages[random.below(pages.len())]),
            dir.path().join(pages[random.below(pages.len())]),
        );
        let (in_a, in_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
        fs::write(&a, &in_b).unwrap();
        fs::write(&b, &in_a).unwrap();
        match run_folder(dir.path()) {
            Ok(now) => {
                assert_eq!(in_a, in_b);
                assert_eq!(now, said);
            }
            Err(Failure::Engine(Error::Page(fault, Some(_)))) => {
                assert_eq!((fault.file, fault.error), (CardFile::Weights, None))
            }
            // Masks, or vectors of several pages, that do not fit each other.
            Err(Failure::Open(OpenError::Masks(_) | OpenError::PageSize { .. })) => {}
            Err(other) => panic!("{other:?}"),
        }
        fs::write(&a, &in_a).unwrap();
        fs::write(&b, &in_b).unwrap();
    }
    for name in &pages {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[random.below(bytes.len())] ^= 1 << random.below(8);
        fs::write(&path, &flipped).unwrap();
        let failure = run_folder(dir.path()).expect_err(name);
        let tensor = name
            .trim_end_matches(".mask")
            .trim_end_matches(".bin")
            .trim_end_matches(|c: char| c.is_ascii_digit());
        assert!(
            text(&failure).contains(tensor.trim_end_matches('_').trim_end_matches("ln")),
            "{name}: {}",
            text(&failure)
        );
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn what_is_no_card_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(run_folder(dir.path()), Err(Failure::Open(OpenError::NotACard(_)))));
    assert!(matches!(run_folder(&dir.path().join("nowhere")), Err(Failure::Open(OpenError::NotFound(_)))));
    let text_file = dir.path().join("a text.img");
    fs::write(&text_file, "not an image").unwrap();
    assert!(matches!(run_folder(&text_file), Err(Failure::Open(OpenError::Short(_)))));
    fs::write(&text_file, "not an image".repeat(100)).unwrap();
    assert!(matches!(run_folder(&text_file), Err(Failure::Open(OpenError::Mount { .. }))));
}

/// Memory that is too small for the tables already.
#[test]
fn memory_too_small_for_the_tables_says_so() {
    let (dir, _) = folder(Layout::Files);
    for bytes in [0, 8, 64, 128, 200] {
        let mut memory = memory(bytes);
        match pageformer_sim::open(dir.path(), &mut Arena::new(&mut memory)) {
            Err(OpenError::Memory(e)) => assert!(e.needed > e.left, "{e:?}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{bytes} bytes are enough"),
        }
    }
}
