//! A card that is read by a thread of its own while the engine computes: the same text from the same pages, whatever goes wrong.

use pageformer_card::{Mlp, Norm, Role, Shape, Tensor};
use pageformer_engine::{Engine, Error, Plan, Reply, Request, Session, Speculation, kernels};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::{
    Clock, Fault, Faulty, MemoryCard, Opened, PassWork, Setup, Virtual, boards, open_memory, predict,
    read_ahead, work_of_pass,
};
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
        // Each pass took exactly what is not pinned; those without logits ended with the run in which the last layer's values do, without those of
        // its queries alone. A run that is the last of one pass and the first of the next is read once.
        let (pinning, passes) = (vram.pinning(), session.engine().passes());
        let last = session.engine().shape().n_layers - 1;
        let [queries, values] =
            [Role::Wq, Role::Wv].map(|role| session.engine().table().pages_of(Tensor::Layer(last, role)));
        let short = u64::from(said.reply.prompt_tokens.div_ceil(session.engine().plan().batch) - 1);
        let (mut streamed, mut held) = (0, None);
        for pass in 0..passes {
            for run in (0..pinning.periods()).map(|period| pinning.streamed_run(period)) {
                let of_prompts =
                    run.start < values.end && (run.start < queries.start || queries.end < run.end);
                if (pass >= short || of_prompts) && held.as_ref() != Some(&run) {
                    streamed += run.len() as u64;
                    held = Some(run);
                }
            }
        }
        assert_eq!(vram.stats().streamed, streamed);
        Ok(said)
    })
}

#[test]
fn the_same_text_from_the_same_pages() {
    for (seed, shape) in (0..).zip(two_kinds()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let request = Request { batch: Some(2), ..Request::default() };
        let ahead = Request { read_ahead: 64, ..request };
        let (least, most) =
            (least_ram(&needs(card.clone()), &ahead), ample_ram(&needs(card.clone()), &request));
        let right = run(card.clone(), most, &request, PROMPT, TOKENS).unwrap();
        for ram in [least, least + (most - least) / 3, least + (most - least) * 2 / 3, most] {
            for pages in [1, 7, 64] {
                let said = with_thread(card.clone(), pages, ram, &request).unwrap();
                assert_eq!(said, right, "{ram} bytes, {pages} pages ahead");
            }
        }
    }
}

/// Two turns, to somebody who listens to so many pieces of each: the second goes on behind what the first has left, and knows which token brings the stop text.
fn talk<C: Card>(session: &mut Session<'_, C>, stop: &str, pieces: u32) -> [(Reply, Vec<u8>); 2] {
    [PROMPT, "to"].map(|prompt| {
        let (mut left, mut text) = (pieces, Vec::new());
        let reply = session.reply(prompt, stop, 12, &mut |bytes| {
            text.extend_from_slice(bytes);
            left = left.saturating_sub(u32::from(!bytes.is_empty()));
            left > 0
        });
        (reply.unwrap(), text)
    })
}

/// The text of a token is looked up while the next pass computes, which ends if nothing more is wanted: nobody can tell.
#[test]
fn conversations_end_where_they_do_without() {
    for (seed, shape) in (5..).zip(two_kinds()) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let speculation = Speculation::Fixed(2);
        for request in [Request::default(), Request { batch: Some(3), speculation, ..Request::default() }] {
            let ram = least_ram(&needs(card.clone()), &request) + 30 * 512;
            let text = run(card.clone(), ram, &request, PROMPT, 12).unwrap().text;
            // A stop text that comes at once, in the middle and at the end of a token, and none; and whoever listens to so many pieces.
            let stops = [0, 1, 5, 8]
                .map(|at| String::from_utf8_lossy(text.get(at..at + 2).unwrap_or(b"")).into_owned());
            for (stop, pieces) in stops.iter().flat_map(|stop| [1u32, 2, 5, 99].map(|pieces| (stop, pieces)))
            {
                let mut alone = memory(ram);
                let mut alone = session(card.clone(), &mut alone, &request, kernels::best()).unwrap();
                let right = talk(&mut alone, stop, pieces);
                std::thread::scope(|scope| {
                    let (ahead, reader) = read_ahead(card.clone(), 24);
                    scope.spawn(|| reader.run());
                    let mut memory = memory(ram);
                    let request = Request { read_ahead: 24, ..request };
                    let mut session = session(ahead, &mut memory, &request, kernels::best()).unwrap();
                    let said = talk(&mut session, stop, pieces);
                    assert_eq!(said, right, "until {stop:?}, {pieces} pieces");
                    assert_eq!(session.digest(), alone.digest());
                    assert_eq!(session.engine().position(), alone.engine().position());
                });
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
    // Whatever the text hangs on is missed at the same place.
    let file = CardFile::Tokenizer;
    for page in 0..needs(card.clone()).tokenizer_pages {
        let fault = Fault::Fails { file, page, times: 99 };
        let mut alone = Faulty::new(card.clone());
        alone.faults.push(fault);
        assert_eq!(spoilt(fault), run(alone, ram, &request, PROMPT, TOKENS), "page {page}");
        assert_eq!(spoilt(Fault::Flips { file, page, bit: 77, times: 2 }), Ok(right.clone()));
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

/// From 20 pages to 1,600, with an embedding that is the head and one that is not.
fn sizes() -> impl Iterator<Item = (Model, Tokenizer)> {
    let dims = [
        (1, 8, 16, 128),
        (1, 16, 32, 261),
        (1, 32, 64, 261),
        (2, 48, 128, 261),
        (3, 56, 172, 261),
        (6, 64, 172, 261),
    ];
    let of = |tied_embeddings| {
        dims.map(|(n_layers, d_model, d_ff, vocab)| {
            let base = shape(Norm::Rms, Mlp::SwiGlu, [4, 2]);
            Shape { n_layers, d_model, d_ff, vocab, head_dim: d_model / 4, tied_embeddings, ..base }
        })
    };
    let shapes = of(true).into_iter().chain(of(false)).chain(two_kinds()).chain(wide());
    shapes.zip(1..).map(|(shape, seed)| random(shape, seed)).chain(stories())
}

/// What passes over this card compute.
fn work(card: &MemoryCard) -> PassWork {
    let mut memory = memory(8 << 20);
    let mut arena = Arena::new(&mut memory);
    let opened = open_memory(card.clone(), &mut arena).unwrap();
    work_of_pass(opened, arena).unwrap()
}

/// By the virtual clock, a token takes hardly more than the longer of reading and computing, whichever that is, and without
/// reading ahead their sum.
#[test]
fn reading_ahead_hides_the_shorter_of_reading_and_computing() {
    let (mut reads_longer, mut computes_longer, mut balanced) = (0, 0, 0);
    for (model, tokenizer) in sizes() {
        let card = memory_card(&model, &tokenizer);
        let request = Request::default();
        let needs = needs(card.clone());
        let ahead = Request { read_ahead: 64, ..request };
        let (least, most) = (least_ram(&needs, &ahead), ample_ram(&needs, &request));
        let page_us = [3.0, 10.0, 20.0, 30.0, 40.0, 60.0, 100.0, 200.0, 400.0];
        let buses = page_us.into_iter().flat_map(|page_us| {
            [1.0, 2.0].map(|pages| boards::Bus { page_us, command_us: pages * page_us, ..boards::BUSES[0] })
        });
        let boards = ["esp32s3", "rp2040"].map(|name| boards::board(name).unwrap());
        let cases = buses.flat_map(|bus| boards.map(|board| (bus, board)));
        let work = work(&card);
        // Five sizes of RAM, and four about that of the whole tape, where few pages are streamed, or none.
        let rams = (0..5).map(|part| least + (most - least) * part / 5);
        let rams = rams.chain([1, 4, 9, 16].map(|part| (most + (8 << 10)).saturating_sub(part * (2 << 10))));
        let rams: Vec<_> = rams.enumerate().filter(|(_, ram)| *ram >= least).collect();
        let cases = cases.flat_map(|case| rams.iter().map(move |ram| (case, *ram)));
        for ((bus, board), (part, ram)) in cases {
            let decode = |read_ahead| {
                let mut memory = memory(ram);
                let mut arena = Arena::new(&mut memory);
                let opened = open_memory(card.clone(), &mut arena).unwrap();
                let setup = Setup { board, bus: &bus, piece: None, read_ahead };
                // A context of its own, so that the plan is the one for these bytes.
                let context = Some(needs.shape.max_seq);
                let pace = setup.pace(&work, needs.tape_pages);
                let request = setup.request(&Request { context, ..request }, pace);
                predict(opened, arena, ram, &request, &setup, &[]).unwrap().decode
            };
            let ahead = decode(true);
            if part == 1 {
                let alone = decode(false);
                assert_eq!(alone.time, alone.reading + alone.computing);
            }
            if ahead.stats.streamed == 0 {
                continue; // Everything is in RAM.
            }
            let (time, reading, computing) =
                (ahead.time.as_secs_f64(), ahead.reading.as_secs_f64(), ahead.computing.as_secs_f64());
            let what = || {
                format!(
                    "{} of {} pages, tied {}, {}, {bus:?}: {ahead:?}",
                    ahead.stats.streamed / ahead.tokens,
                    needs.tape_pages,
                    needs.shape.tied_embeddings,
                    board.name
                )
            };
            // What nobody can do at once: the row is read when its token is chosen, and computed with when it is there.
            let row = ahead.stats.embedding as f64 * (bus.command_us + bus.page_us) * 1e-6;
            // A ratio below 1 is of runs that were begun before the first of these tokens.
            let many = if needs.shape.tied_embeddings { 40 } else { 66 };
            let is_many = ahead.stats.streamed >= many * ahead.tokens;
            let limit = match (board.f32, is_many) {
                (boards::Float::Unit, true) => 1.1,
                // A pass of a few runs, each of which a look-up may have to wait for.
                (boards::Float::Unit, false) => 1.45,
                // Between two matrices it computes for longer than the reader has room.
                (boards::Float::Firmware | boards::Float::Compiler, true) => 1.2,
                (boards::Float::Firmware | boards::Float::Compiler, false) => 1.65,
            };
            let ratio = time / reading.max(computing + row);
            if needs.shape.tied_embeddings && needs.tape_pages > 100 && board.f32 == boards::Float::Unit {
                let ratio = time / reading.max(computing);
                assert!(ratio < 1.1, "{ratio}, {}", what());
            }
            assert!((0.95..limit).contains(&ratio), "{ratio}, {}", what());
            // The row takes a good part of a token only where hardly anything is read but that.
            if is_many {
                let ratio = time / reading.max(computing);
                assert!(ratio < limit, "{ratio}, {}", what());
                *(if reading > computing { &mut reads_longer } else { &mut computes_longer }) += 1;
                balanced += u32::from((0.8..1.25).contains(&(reading / computing)));
            }
        }
    }
    assert!(
        reads_longer > 100 && computes_longer > 100 && balanced > 100,
        "{reads_longer}, {computes_longer}, {balanced}"
    );
}

/// A pass over a prompt, too, takes hardly more than the longer of reading and computing: the rows of the next one are looked up meanwhile. Where a pass has a
/// layer to do that in, and more to read than rows.
#[test]
fn prompts_hide_the_shorter_of_reading_and_computing() {
    let board = boards::board("esp32s3").unwrap();
    let (mut reads_longer, mut computes_longer) = (0, 0);
    for (model, tokenizer) in sizes() {
        let card = memory_card(&model, &tokenizer);
        let needs = needs(card.clone());
        let ahead = Request { read_ahead: board.read_ahead, ..Request::default() };
        let (least, most) = (least_ram(&needs, &ahead), ample_ram(&needs, &ahead));
        let buses = [(10.0, 10.0), (20.0, 40.0), (58.0, 600.0), (189.0, 600.0), (292.0, 600.0)];
        let cases = buses.into_iter().flat_map(|bus| (0..4).map(move |part| (bus, part)));
        let work = work(&card);
        for (((page_us, command_us), part), batch) in
            cases.flat_map(|case| [1, 4, 8].map(|batch| (case, batch)))
        {
            let bus = boards::Bus { page_us, command_us, ..boards::BUSES[0] };
            let setup = Setup { board, bus: &bus, piece: None, read_ahead: true };
            let asked = Request { batch: Some(batch), context: Some(needs.shape.max_seq), ..ahead };
            let mut memory = memory(least + (most - least) * part / 4);
            let ram = memory.len() * 8;
            let pace = setup.pace(&work, needs.tape_pages);
            let Ok(plan) = Plan::new(&needs, ram, &setup.request(&asked, pace)) else { continue };
            let mut arena = Arena::new(&mut memory);
            let Opened { card, manifest, table } = open_memory(card.clone(), &mut arena).unwrap();
            let clock = Clock::default();
            let (kernel, counter) =
                Virtual::new(board.processor(), clock.clone(), needs.shape.n_layers, None);
            let card = setup.card(card, &clock);
            let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel).unwrap();

            let vocab = needs.shape.vocab;
            let tokens: Vec<u16> = (0..plan.context).map(|at| (at * 37 % vocab) as u16).collect();
            let mut moments = Vec::new();
            for from in (0..tokens.len()).step_by(batch as usize) {
                let (now, next) = tokens[from..].split_at((tokens.len() - from).min(batch as usize));
                engine.read(now, next).unwrap();
                let card = engine.vram().card();
                moments.push([clock.now(), card.busy(), card.checking() + counter.busy()]);
            }
            let streamed = engine.vram().stats().streamed / moments.len() as u64;
            if needs.shape.n_layers < 2 || streamed < 20 {
                continue;
            }
            let limit = if streamed >= 40 && streamed >= 10 * u64::from(batch) { 1.1 } else { 1.3 };
            // Of the first pass, the rows are waited for.
            let (mut time, mut longer) = (0.0, 0.0);
            for pass in moments.windows(2) {
                let [all, reading, computing] = [0, 1, 2].map(|of| (pass[1][of] - pass[0][of]).as_secs_f64());
                time += all;
                longer += reading.max(computing);
                if limit == 1.1 {
                    *(if reading > computing { &mut reads_longer } else { &mut computes_longer }) += 1;
                }
            }
            let ratio = time / longer;
            assert!(
                (0.95..limit).contains(&ratio),
                "{ratio}: {streamed} of {} pages, batch {batch}, {bus:?}",
                needs.tape_pages
            );
        }
    }
    assert!(reads_longer > 500 && computes_longer > 500, "{reads_longer}, {computes_longer}");
}

/// Rows that were looked up are those of the tokens that come, or they are looked up anew.
#[test]
fn other_tokens_than_were_announced_can_come() {
    for (seed, shape) in (8..).zip(two_kinds().into_iter().chain(wide())) {
        let (model, tokenizer) = random(shape, seed);
        let card = memory_card(&model, &tokenizer);
        let needs = needs(card.clone());
        let request = Request { batch: Some(3), read_ahead: 24, ..Request::default() };
        let logits = |announced: &[u16], come: &[u16]| -> Vec<f32> {
            let mut memory = memory(least_ram(&needs, &request) + 30 * 512);
            let ram = memory.len() * 8;
            let plan = Plan::new(&needs, ram, &request).unwrap();
            let mut arena = Arena::new(&mut memory);
            let Opened { card, manifest, table } = open_memory(card.clone(), &mut arena).unwrap();
            let clock = Clock::default();
            let setup = Setup {
                board: boards::board("esp32s3").unwrap(),
                bus: &boards::BUSES[0],
                piece: None,
                read_ahead: true,
            };
            let within = Some(kernels::best());
            let (kernel, _) =
                Virtual::new(setup.board.processor(), clock.clone(), needs.shape.n_layers, within);
            let card = setup.card(card, &clock);
            let mut engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernel).unwrap();
            engine.read(&[1, 2, 3], announced).unwrap();
            engine.step(come).unwrap().to_vec()
        };
        let right = logits(&[], &[7, 8, 9]);
        for announced in [&[7, 8, 9][..], &[7], &[7, 9, 9], &[8, 7, 9], &[9, 9, 9], &[7, u16::MAX, 9]] {
            assert_eq!(logits(announced, &[7, 8, 9]), right, "{announced:?}");
        }
    }
}
