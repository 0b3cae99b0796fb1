//! The same to the bit: memory, layout, file system, batch and kernel change what is read when, never a logit.

use std::path::{Path, PathBuf};

use pageformer_card::Layout;
use pageformer_engine::{Digest, Request, Sampler, kernels};
use pageformer_image::{FatKind, FileSource, Options, write_image};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::MemoryCard;
use pageformer_toolchain::{prune_by_magnitude, write_card};
use pageformer_vram::Arena;

use crate::support::*;

/// Sizes of RAM from `least` to `most`, `steps` of them; the smallest is followed by the next that is possible.
fn sizes(least: usize, most: usize, steps: usize) -> impl Iterator<Item = usize> {
    [least, least + 8].into_iter().chain((1..=steps).map(move |i| least + (most - least) * i / steps / 8 * 8))
}

/// Runs the card with every kernel in several sizes of RAM and several widths of a step, and checks that all say the same.
fn check_all(card: &MemoryCard, context: u32, prompt: &str, tokens: u32, steps: usize) -> Said {
    let needs = needs(card.clone());
    let mut said = None;
    for batch in [None, Some(1), Some(3), Some(32)] {
        let request = Request { context: Some(context), batch, ..Request::default() };
        let (least, most) = (least_ram(&needs, &request), ample_ram(&needs, &request));
        let mut streamed = Vec::new();
        for ram in sizes(least, most, steps) {
            for kernel in kernels::available() {
                let mut memory = memory(ram);
                let mut session = session(card.clone(), &mut memory, &request, kernel).unwrap();
                let now = say(&mut session, prompt, tokens).unwrap();
                let plan = session.engine().plan();
                assert_eq!(said.get_or_insert(now.clone()), &now, "{kernel:?}, {ram} bytes: {plan:?}");
                streamed.push(plan.pinning.streamed());
            }
        }
        assert_eq!(streamed.last(), Some(&0), "the largest holds everything");
        assert!(streamed[0] >= needs.tape_pages - 1, "the smallest holds next to nothing");
    }
    said.unwrap()
}

#[test]
fn random_models_in_any_memory() {
    for (seed, shape) in (0..).zip(two_kinds().into_iter().chain(wide())) {
        let (mut model, tokenizer) = random(shape, seed);
        let steps = if shape.d_model == 20 { 14 } else { 3 };
        let dense = check_all(&memory_card(&model, &tokenizer), 64, "the bird saw", 6, steps);
        prune_by_magnitude(&mut model, 0.6, (4, 4)).unwrap();
        let pruned = check_all(&memory_card(&model, &tokenizer), 64, "the bird saw", 6, steps);
        assert_ne!(dense.digest, pruned.digest, "the digest tells models apart");
    }
}

#[test]
fn stories_in_any_memory() {
    let Some((model, tokenizer)) = stories() else { return };
    check_all(&memory_card(&model, &tokenizer), 128, "Once upon a time", 24, 12);
}

/// A model as a card in each place where a card can lie.
struct Places {
    _dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Places {
    fn new(model: &Model, tokenizer: &Tokenizer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (name, layout) in [("packed", Layout::Packed), ("files", Layout::Files)] {
            let card = card_files(model, tokenizer, layout);
            let folder = dir.path().join(name);
            write_card(&card, &folder, &mut |_, _| {}).unwrap();
            paths.push(folder);
            let files: Vec<_> =
                card.files.iter().map(|f| (f.name.clone(), FileSource::Bytes(f.bytes.clone()))).collect();
            for kind in [FatKind::Fat32, FatKind::Fat16] {
                let image = dir.path().join(format!("{name} {kind:?}.img"));
                write_image(&files, &image, &Options { kind, ..Options::default() }, &mut |_, _| {}).unwrap();
                paths.push(image);
            }
        }
        Self { _dir: dir, paths }
    }
}

/// Opens the card at `path` as the command line does, and runs it.
fn run_at(path: &Path, ram: usize, request: &Request, prompt: &str, tokens: u32) -> Said {
    let mut memory = memory(ram);
    let mut arena = Arena::new(&mut memory);
    let opened = pageformer_sim::open(path, &mut arena).unwrap();
    let kernel = kernels::best();
    let mut session =
        begin(opened.card, &opened.manifest, opened.table, ram, arena, request, kernel).unwrap();
    say(&mut session, prompt, tokens).unwrap()
}

fn check_places(model: &Model, tokenizer: &Tokenizer, request: &Request, prompt: &str, tokens: u32) {
    let card = memory_card(model, tokenizer);
    let packed = needs(card.clone());
    let files = pageformer_engine::Needs { layout: Layout::Files, ..packed };
    let (least, most) = (least_ram(&files, request), ample_ram(&files, request));
    let want = run(card, most, request, prompt, tokens).unwrap();
    for path in Places::new(model, tokenizer).paths {
        for ram in sizes(least, most, 3) {
            assert_eq!(run_at(&path, ram, request, prompt, tokens), want, "{ram} bytes, {}", path.display());
        }
    }
}

#[test]
fn random_models_in_any_place() {
    for (seed, shape) in (0..).zip(two_kinds()) {
        let (mut model, tokenizer) = random(shape, seed);
        check_places(&model, &tokenizer, &Request::default(), "the bird", 8);
        prune_by_magnitude(&mut model, 0.6, (4, 4)).unwrap();
        check_places(&model, &tokenizer, &Request::default(), "the bird", 8);
    }
}

#[test]
fn stories_in_any_place() {
    let Some((model, tokenizer)) = stories() else { return };
    let request = Request { context: Some(128), ..Request::default() };
    check_places(&model, &tokenizer, &request, "Once upon a time", 20);
}

/// Logits of every position, whatever the steps: not only those that a token is chosen from.
#[test]
fn every_position_of_every_batch() {
    for (seed, shape) in (0..).zip(two_kinds()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let mut random = Random(seed);
        let tokens: Vec<u16> = (0..40).map(|_| random.below(shape.vocab as usize) as u16).collect();
        let mut digests = Vec::new();
        for batch in 1..=32 {
            let request = Request { batch: Some(batch), all_logits: true, ..Request::default() };
            let mut memory = memory(least_ram(&needs(card.clone()), &request) + 2048);
            let mut session = session(card.clone(), &mut memory, &request, kernels::best()).unwrap();
            let mut digest = Digest::default();
            for step in tokens.chunks(batch as usize) {
                session.engine_mut().step_all(step).unwrap().for_each(|row| digest.update(row));
            }
            digests.push(digest);
        }
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }
}

#[test]
fn the_same_seed_says_the_same() {
    let (model, tokenizer) = random(two_kinds()[0], 5);
    let card = memory_card(&model, &tokenizer);
    let request = Request::default();
    let (least, most) =
        (least_ram(&needs(card.clone()), &request), ample_ram(&needs(card.clone()), &request));
    let sample = |ram, kernel, seed| {
        let mut memory = memory(ram);
        let mut session = session(card.clone(), &mut memory, &request, kernel).unwrap();
        session.sampler = Sampler::new(0.9, 40, 0.95, seed);
        say(&mut session, "there was a", 30).unwrap()
    };
    let want = sample(most, kernels::PORTABLE, 1);
    for ram in sizes(least, most, 10) {
        for kernel in kernels::available() {
            assert_eq!(sample(ram, kernel, 1), want);
        }
    }
    assert_ne!(sample(least, kernels::PORTABLE, 2).text, want.text, "another seed says something else");
}

/// A reply in parts is the same as in one; what was said before is remembered, and forgotten after a reset.
#[test]
fn a_reply_goes_on_where_it_ended() {
    let (model, tokenizer) = random(two_kinds()[1], 6);
    let card = memory_card(&model, &tokenizer);
    let mut memory = memory(128 << 10);
    let mut session = session(card.clone(), &mut memory, &Request::default(), kernels::best()).unwrap();
    let whole = run(card, 128 << 10, &Request::default(), "the dog", 30).unwrap();
    let mut text = say(&mut session, "the dog", 11).unwrap().text;
    text.extend(say(&mut session, "", 1).unwrap().text);
    let last = say(&mut session, "", 18).unwrap();
    text.extend(&last.text);
    assert_eq!((text, last.digest), (whole.text.clone(), whole.digest));
    session.reset();
    assert_eq!(say(&mut session, "the dog", 30).unwrap().text, whole.text);
}
