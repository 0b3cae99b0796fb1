//! A card that fails while it is read: what passes is read again, what stays bad stops the engine, and nothing wrong is
//! ever said.

use pageformer_card::{Shape, Tensor};
use pageformer_engine::{Error, Request, Sampler, Session, kernels};
use pageformer_sim::{Fault, Faulty, MemoryCard};
use pageformer_vram::{CardFile, ReadError};

use crate::support::*;

const PROMPT: &str = "the bird";

fn card() -> MemoryCard {
    let (model, tokenizer) = random(Shape { n_layers: 1, ..two_kinds()[0] }, 3);
    memory_card(&model, &tokenizer)
}

/// Two sizes of RAM: next to nothing is pinned, and about half is.
fn sizes(card: &MemoryCard) -> [usize; 2] {
    let needs = needs(card.clone());
    let least = least_ram(&needs, &Request::default());
    [least, least + needs.tape_pages as usize * 256]
}

fn faulty(card: MemoryCard, memory: &mut [u64]) -> Session<'_, Faulty<MemoryCard>> {
    session(Faulty::new(card), memory, &Request::default(), kernels::best()).unwrap()
}

/// The faults that the card of a session still has in it.
fn faults<'s>(session: &'s mut Session<'_, Faulty<MemoryCard>>) -> &'s mut Vec<Fault> {
    &mut session.engine_mut().vram_mut().card_mut().faults
}

/// A read that fails, or a bit that is read wrong, up to three times, whatever the page: it is read again, and
/// the text is right.
#[test]
fn what_passes_is_read_again() {
    let card = card();
    let pages = card.weights.len() as u32 / 512;
    for ram in sizes(&card) {
        let right = run(card.clone(), ram, &Request::default(), PROMPT, 6).unwrap();
        for page in 0..pages {
            for times in 1..=3 {
                let file = CardFile::Weights;
                for fault in [
                    Fault::Fails { file, page, times },
                    Fault::Flips { file, page, bit: page * 37 % 4096, times },
                ] {
                    let mut memory = memory(ram);
                    let mut session = faulty(card.clone(), &mut memory);
                    faults(&mut session).push(fault);
                    let said = say(&mut session, PROMPT, 6).unwrap();
                    assert_eq!(said, right, "{fault:?}, {ram} bytes");
                    // A page that is pinned is not read any more; every other one is, and then again.
                    let stats = *session.engine().vram().stats();
                    let is_read = matches!(
                        faults(&mut session)[0],
                        Fault::Fails { times: 0, .. } | Fault::Flips { times: 0, .. }
                    );
                    assert_eq!(
                        stats.retries,
                        if is_read { u64::from(times) } else { 0 },
                        "{fault:?}, {ram} bytes"
                    );
                    assert!(
                        is_read || session.engine().vram().resident(page) || page >= pages - 40,
                        "{fault:?}"
                    );
                }
            }
        }
    }
}

/// The same while the card is opened: the pinned pages, the checksums, the tokenizer and `index.json`.
#[test]
fn opening_reads_again_too() {
    let card = card();
    let [_, ram] = sizes(&card);
    let right = run(card.clone(), ram, &Request::default(), PROMPT, 3).unwrap();
    for file in FILES {
        let pages = pageformer_vram::Card::bytes(&card, file).div_ceil(512) as u32;
        for page in 0..pages {
            let mut spoiled = Faulty::new(card.clone());
            spoiled.faults.push(Fault::Fails { file, page, times: 1 });
            assert_eq!(
                run(spoiled, ram, &Request::default(), PROMPT, 3).as_ref(),
                Ok(&right),
                "{file}, page {page}"
            );
            for bit in (page * 13 % 256..4096).step_by(256) {
                let mut spoiled = Faulty::new(card.clone());
                spoiled.faults.push(Fault::Flips { file, page, bit, times: 1 });
                match run(&mut spoiled, ram, &Request::default(), PROMPT, 3) {
                    Ok(said) => assert_eq!(said, right, "{file}, bit {bit} of page {page}"),
                    // Of index.json two readings are compared; which of them is wrong, nobody knows.
                    Err(error) => assert!(
                        file == CardFile::Index && matches!(error, Error::Manifest(_)),
                        "{file} {page} {bit}: {error}"
                    ),
                }
            }
        }
    }
}

/// Where a bad page of the weights lies, by the table of tensors.
fn place(card: &MemoryCard, page: u32) -> (Tensor, u32) {
    let mut tables = memory(16 << 10);
    let (_, table) = describe(&mut card.clone(), &mut pageformer_vram::Arena::new(&mut tables)).unwrap();
    table.locate(page).unwrap()
}

#[test]
fn a_page_that_stays_bad_stops_and_is_named() {
    let card = card();
    let always = 1000;
    for ram in sizes(&card) {
        let right = run(card.clone(), ram, &Request::default(), PROMPT, 6).unwrap();
        let mut stopped = 0;
        for page in 0..card.weights.len() as u32 / 512 {
            let file = CardFile::Weights;
            for (fault, why) in [
                (Fault::Fails { file, page, times: always }, Some(ReadError::Device)),
                (Fault::Flips { file, page, bit: page * 31 % 4096, times: always }, None),
            ] {
                let mut memory = memory(ram);
                let mut session = faulty(card.clone(), &mut memory);
                // The conversation so far is sound.
                let mut text = say(&mut session, PROMPT, 2).unwrap().text;
                faults(&mut session).push(fault);
                match say(&mut session, "", 4) {
                    Ok(said) => text.extend(said.text),
                    Err(error) => {
                        stopped += 1;
                        let (tensor, within) = place(&card, page);
                        let expected = Error::Page(
                            pageformer_vram::Fault { file, page, error: why },
                            Some((tensor, within)),
                        );
                        assert_eq!(error, expected, "{ram} bytes");
                        let message = error.to_string();
                        assert!(
                            message.contains(&tensor.to_string())
                                && message.contains(&format!("page {within} ")),
                            "{message}"
                        );
                        // It stays stopped; and goes on where it was when the fault is gone.
                        assert_eq!(say(&mut session, "", 4), Err(expected));
                        faults(&mut session).clear();
                        text.extend(say(&mut session, "", 4).unwrap().text);
                    }
                }
                assert_eq!(text, right.text, "{fault:?}, {ram} bytes");
            }
        }
        assert!(stopped > 10);
    }
}

/// A card that is pulled out at any moment of a conversation, and put back.
#[test]
fn a_card_that_is_pulled_out_stops_and_goes_on_when_it_is_back() {
    let card = card();
    for ram in sizes(&card) {
        for sampler in [Sampler::GREEDY, Sampler::new(1.0, 0, 0.9, 11)] {
            let conversation = |pulled_after: Option<u32>| {
                let mut memory = memory(ram);
                let mut session = faulty(card.clone(), &mut memory);
                session.sampler = sampler;
                let mut text = say(&mut session, PROMPT, 3).unwrap().text;
                faults(&mut session).extend(pulled_after.map(|after| Fault::Pulled { after }));
                let mut replied = say(&mut session, " and the dog", 4);
                let stopped = match replied {
                    Ok(_) => false,
                    Err(Error::Page(pageformer_vram::Fault { error: Some(ReadError::NoCard), .. }, _)) => {
                        true
                    }
                    Err(other) => panic!("{other}"),
                };
                if stopped {
                    faults(&mut session).clear();
                    replied = say(&mut session, " and the dog", 4);
                }
                text.extend(replied.unwrap().text);
                (stopped, text, session.digest())
            };
            let (_, right, digest) = conversation(None);
            let mut after = 0;
            loop {
                let (stopped, text, now) = conversation(Some(after));
                assert_eq!(
                    (text, now),
                    (right.clone(), digest),
                    "pulled after {after} reads, {ram} bytes, {sampler:?}"
                );
                if !stopped {
                    break;
                }
                // Every moment at first, some of the later ones.
                after += 1 + after / 16;
            }
            assert!(after > 10, "it was read {after} times");
        }
    }
}

/// Pulled out while it is being opened.
#[test]
fn a_card_that_is_pulled_out_while_opening_can_be_opened_again() {
    let card = card();
    let [_, ram] = sizes(&card);
    for after in 0.. {
        let mut spoiled = Faulty::new(card.clone());
        spoiled.faults.push(Fault::Pulled { after });
        let mut first = memory(ram);
        match session(&mut spoiled, &mut first, &Request::default(), kernels::best()) {
            Ok(_) => return assert!(after > 5),
            Err(
                Error::Manifest(_)
                | Error::Page(pageformer_vram::Fault { error: Some(ReadError::NoCard), .. }, _),
            ) => {}
            Err(other) => panic!("{other}"),
        }
        spoiled.faults.clear();
        session(&mut spoiled, &mut first, &Request::default(), kernels::best()).unwrap();
    }
}

/// The page debugger sees it: loads, retries, and the page that is bad.
#[test]
fn page_metadata_tells_of_retries_and_bad_pages() {
    let card = card();
    let request = Request { page_metadata: true, batch: Some(1), ..Request::default() };
    let mut memory = memory(least_ram(&needs(card.clone()), &request));
    let mut session = session(Faulty::new(card), &mut memory, &request, kernels::best()).unwrap();
    let (file, page) = (CardFile::Weights, 5);
    session.engine_mut().vram_mut().card_mut().faults = vec![Fault::Flips { file, page, bit: 77, times: 2 }];
    session.engine_mut().step(&[1]).unwrap();
    let meta = |session: &Session<'_, Faulty<MemoryCard>>, page| session.engine().vram().meta(page).unwrap();
    assert_eq!((meta(&session, 5).retries, meta(&session, 4).retries), (2, 0));
    assert_eq!((meta(&session, 5).loads, meta(&session, 4).loads), (1, 1));
    assert!(meta(&session, 5).checked() && !meta(&session, 5).bad());
    session.engine_mut().vram_mut().card_mut().faults = vec![Fault::Flips { file, page, bit: 77, times: 9 }];
    session.engine_mut().step(&[1]).unwrap_err();
    assert!(meta(&session, 5).bad() && !meta(&session, 5).checked());
    assert!(meta(&session, 4).checked());
}
