//! A card that is read by a thread of its own while the engine computes: the same text from the same pages, whatever goes wrong.

use pageformer_engine::{Error, Pace, Request, kernels};
use pageformer_sim::{Fault, Faulty, Setup, boards, open_memory, predict, read_ahead};
use pageformer_vram::{Arena, Card, CardFile, ReadError};

use crate::support::*;

const PROMPT: &str = "the bird";
const TOKENS: u32 = 5;

/// What `card` says when a thread reads it.
fn with_thread<C: Card + Send>(card: C, pages: u32, ram: usize, request: &Request) -> Result<Said, Error> {
    std::thread::scope(|scope| {
        let (ahead, reader) = read_ahead(card, pages);
        scope.spawn(|| reader.run());
        let mut memory = memory(ram);
        let request = Request { read_ahead: pages, ..*request };
        let mut session = session(ahead, &mut memory, &request, kernels::best())?;
        let said = say(&mut session, PROMPT, TOKENS)?;
        let vram = session.engine().vram();
        // Each pass took exactly what is not pinned.
        let passes = session.engine().passes();
        assert_eq!(vram.stats().streamed, passes * u64::from(vram.pinning().streamed()));
        Ok(said)
    })
}

#[test]
fn the_same_text_from_the_same_pages() {
    for (seed, shape) in (0..).zip(two_kinds()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let request = Request { batch: Some(2), ..Request::default() };
        let (least, most) =
            (least_ram(&needs(card.clone()), &request), ample_ram(&needs(card.clone()), &request));
        let right = run(card.clone(), most, &request, PROMPT, TOKENS).unwrap();
        for ram in [least, least + (most - least) / 3, least + (most - least) * 2 / 3, most] {
            for pages in [1, 7, 64] {
                let said = with_thread(card.clone(), pages, ram, &request).unwrap();
                assert_eq!(said, right, "{ram} bytes, {pages} pages ahead");
            }
        }
    }
}

/// A bad page is read again whether the thread met it ahead of time or not; one that stays bad is never computed with.
#[test]
fn faults_are_what_they_are_without() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let card = memory_card(&model, &tokenizer);
    let request = Request::default();
    let ram = least_ram(&needs(card.clone()), &request) + 30 * 512;
    let right = run(card.clone(), ram, &request, PROMPT, TOKENS).unwrap();
    let file = CardFile::Weights;
    let spoilt = |fault| {
        let mut card = Faulty::new(card.clone());
        card.faults.push(fault);
        with_thread(card, 24, ram, &request)
    };
    for page in (0..needs(card.clone()).tape_pages).step_by(3) {
        for times in [1, 3] {
            assert_eq!(spoilt(Fault::Fails { file, page, times }), Ok(right.clone()), "page {page}");
            assert_eq!(spoilt(Fault::Flips { file, page, bit: page * 37 % 4096, times }), Ok(right.clone()));
        }
        for (fault, expected) in [
            (Fault::Fails { file, page, times: 99 }, Some(ReadError::Device)),
            (Fault::Flips { file, page, bit: 9, times: 99 }, None),
        ] {
            match spoilt(fault) {
                Err(Error::Page(found, Some(_))) => {
                    assert_eq!((found.file, found.page, found.error), (file, page, expected));
                }
                other => panic!("{fault:?}: {other:?}"),
            }
        }
    }
    for after in [20, 40, 60, 80] {
        assert!(
            matches!(spoilt(Fault::Pulled { after }), Err(Error::Page(found, _)) if found.error == Some(ReadError::NoCard)),
            "after {after} reads"
        );
    }
}

/// After a fault the tape begins again from its start, whatever was begun before.
#[test]
fn a_reply_that_failed_can_be_asked_for_again() {
    let (model, tokenizer) = random(two_kinds()[1], 4);
    let card = memory_card(&model, &tokenizer);
    let request = Request { read_ahead: 24, ..Request::default() };
    let ram = least_ram(&needs(card.clone()), &request) + 30 * 512;
    let right = run(card.clone(), ram, &request, PROMPT, TOKENS).unwrap();
    std::thread::scope(|scope| {
        let (ahead, reader) = read_ahead(card, 24);
        scope.spawn(|| reader.run());
        let mut memory = memory(ram);
        let mut session = session(Faulty::new(ahead), &mut memory, &request, kernels::best()).unwrap();
        let tape = session.engine().vram().pinning().tape;
        for page in [3, tape / 2, tape / 2 + 1, tape - 1] {
            let faults = |times| vec![Fault::Fails { file: CardFile::Weights, page, times }];
            session.engine_mut().vram_mut().card_mut().faults = faults(1000);
            let resident = session.engine().vram().resident(page);
            assert_eq!(say(&mut session, PROMPT, TOKENS).is_err(), !resident, "page {page}");
            session.reset();
            session.engine_mut().vram_mut().card_mut().faults = faults(0);
            let said = say(&mut session, PROMPT, TOKENS).unwrap();
            assert_eq!(said.text, right.text, "after page {page} failed");
            session.reset();
        }
    });
}

/// By the virtual clock, a token takes hardly more than the longer of reading and computing, whichever that is, and without
/// reading ahead their sum.
#[test]
fn reading_ahead_hides_the_shorter_of_reading_and_computing() {
    let board = boards::board("esp32s3").unwrap();
    let (mut reads_longer, mut computes_longer) = (0, 0);
    let models = two_kinds().into_iter().chain(wide()).zip(1..).map(|(shape, seed)| random(shape, seed));
    for (model, tokenizer) in models.chain(stories()) {
        let card = memory_card(&model, &tokenizer);
        let request = Request::default();
        let needs = needs(card.clone());
        let (least, most) = (least_ram(&needs, &request), ample_ram(&needs, &request));
        for (part, page_us) in (0..4).flat_map(|part| [10.0, 40.0, 60.0, 100.0, 400.0].map(|us| (part, us))) {
            let ram = least + (most - least) * part / 5;
            let bus = boards::Bus { page_us, command_us: page_us, ..boards::BUSES[0] };
            let decode = |read_ahead| {
                let mut memory = memory(ram);
                let mut arena = Arena::new(&mut memory);
                let opened = open_memory(card.clone(), &mut arena).unwrap();
                let setup = Setup { board, bus: &bus, piece: None, read_ahead };
                // A context of its own, so that the plan is the one for these bytes.
                let context = Some(needs.shape.max_seq);
                let request = setup.request(&Request { context, ..request }, Pace::default());
                predict(opened, arena, ram, &request, &setup, &[]).unwrap().decode
            };
            let (ahead, alone) = (decode(true), decode(false));
            assert_eq!(alone.time, alone.reading + alone.computing);
            if ahead.stats.streamed == 0 {
                continue; // Everything is in RAM.
            }
            *(if ahead.reading > ahead.computing { &mut reads_longer } else { &mut computes_longer }) += 1;
            // What is looked up between two tokens cannot be read ahead, and shows where a pass is short. A ratio below 1 is of
            // runs that were begun before the first of these tokens.
            let most = if needs.tape_pages < 300 { 1.25 } else { 1.1 };
            let ratio = ahead.time.as_secs_f64() / ahead.reading.max(ahead.computing).as_secs_f64();
            assert!(
                (0.95..most).contains(&ratio),
                "{ram} bytes, {page_us} us a page: {ratio}, {ahead:?} and {alone:?}"
            );
        }
    }
    assert!(reads_longer > 20 && computes_longer > 20, "{reads_longer} and {computes_longer}");
}
