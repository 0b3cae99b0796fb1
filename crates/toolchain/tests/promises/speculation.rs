//! Guessing tokens ahead changes how many passes a reply takes, and nothing else: not the text nor the pieces it comes in, not why
//! it ends, not the logits, the sampler or what is remembered afterwards. Whatever is guessed.

use pageformer_card::PAGE_BYTES;
use pageformer_card::drafts::{DraftTable, draft_pages, is_whole};
use pageformer_engine::{
    Digest, Error, Pace, Reply, Request, Sampler, Session, Speculated, Speculation, kernels,
};
use pageformer_sim::MemoryCard;
use pageformer_vram::{Arena, Card, CardFile};
use proptest::prelude::*;

use crate::support::*;

/// What is asked of a session, one after the other.
#[derive(Clone, Debug)]
struct Turn {
    prompt: &'static str,
    stop: &'static str,
    max_tokens: u32,
    /// The receiver wants no more after so many pieces of text.
    pieces: usize,
}

/// All that one can see of a session after a turn.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    pieces: Vec<Vec<u8>>,
    reply: Result<Reply, Error>,
    digest: Digest,
    sampler: Sampler,
    position: u32,
}

fn talk<C: Card>(session: &mut Session<'_, C>, sampler: Sampler, turns: &[Turn]) -> Vec<Seen> {
    session.sampler = sampler;
    let mut seen = Vec::new();
    for turn in turns {
        let mut pieces = Vec::new();
        let reply = session.reply(turn.prompt, turn.stop, turn.max_tokens, &mut |piece| {
            // Empty ones come between the passes over a prompt, and a wider batch has fewer.
            if !piece.is_empty() {
                pieces.push(piece.to_vec());
            }
            piece.is_empty() || pieces.len() < turn.pieces
        });
        let position = session.engine().position();
        seen.push(Seen {
            pieces,
            reply,
            digest: session.digest().unwrap(),
            sampler: session.sampler,
            position,
        });
    }
    seen
}

/// The tokens of a reply, found without a session's reply.
fn tokens_of(card: &MemoryCard, sampler: Sampler, prompt: &str, tokens: usize) -> Vec<u16> {
    let mut memory = memory(256 << 10);
    let mut session = session(card.clone(), &mut memory, &Request::default(), kernels::best()).unwrap();
    let mut all = vec![session.manifest().bos.unwrap()];
    let encoded = session.encode(prompt, &mut |token| {
        all.push(token);
        Ok(())
    });
    encoded.unwrap();
    let (mut sampler, mut read) = (sampler, 0);
    while all.len() < tokens.min(session.engine().plan().context as usize) {
        let batch = session.engine().plan().batch as usize;
        let to = all.len().min(read + batch);
        let token = sampler.choose(session.engine_mut().step(&all[read..to]).unwrap());
        read = to;
        if read == all.len() {
            all.push(token);
        }
    }
    all
}

/// What a card's table of drafts may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drafts {
    None,
    /// Right guesses, for contexts of so many tokens.
    Oracle(usize),
    /// The same, but every third guess is any token.
    Unreliable(usize),
    /// Guesses without sense.
    Noise(usize),
    /// Of another vocabulary.
    Strange,
    /// A page is damaged after the export.
    Damaged,
    /// Any bytes.
    Rubbish,
    /// Not whole pages.
    Torn,
}

fn add_drafts(card: &mut MemoryCard, drafts: Drafts, vocab: u32, truth: &[u16], random: &mut Random) {
    let table = |context| DraftTable { pages: 3, context, vocab };
    let written = |table: DraftTable, random: &mut Random, wrong_of_3: usize| {
        let follow: Vec<(&[u16], u16)> = truth
            .windows(table.context + 1)
            .map(|run| {
                let any = random.below(vocab as usize) as u16;
                let guess = if random.below(3) < wrong_of_3 { any } else { run[table.context] };
                (&run[..table.context], guess)
            })
            .collect();
        draft_pages(&table, follow).0.concat()
    };
    card.drafts = match drafts {
        Drafts::None => Vec::new(),
        Drafts::Oracle(context) => written(table(context), random, 0),
        Drafts::Unreliable(context) => written(table(context), random, 1),
        Drafts::Noise(context) => written(table(context), random, 3),
        Drafts::Strange => written(DraftTable { vocab: vocab + 1, ..table(2) }, random, 0),
        Drafts::Damaged => {
            let mut bytes = written(table(1), random, 0);
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }
        Drafts::Rubbish => (0..3 * PAGE_BYTES).map(|_| random.below(256) as u8).collect(),
        Drafts::Torn => {
            let bytes = written(table(2), random, 0);
            bytes[..bytes.len() - 1 - random.below(PAGE_BYTES * 2)].to_vec()
        }
    };
}

fn any_drafts() -> impl Strategy<Value = Drafts> {
    prop_oneof![
        Just(Drafts::None),
        (1..=4usize).prop_map(Drafts::Oracle),
        (1..=4usize).prop_map(Drafts::Oracle),
        (1..=4usize).prop_map(Drafts::Unreliable),
        (1..=4usize).prop_map(Drafts::Noise),
        Just(Drafts::Strange),
        Just(Drafts::Damaged),
        Just(Drafts::Rubbish),
        Just(Drafts::Torn),
    ]
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let prompts = prop::sample::select(vec![
        "",
        "the bird",
        "Once upon a time there was",
        "a b c d e f",
        "Löwen",
        "the the the",
    ]);
    // Stop texts of one and of several tokens, found or not.
    let stops = prop::sample::select(vec!["", " ", "e", "th", " the", "zq"]);
    let most = prop_oneof![0u32..4, 10u32..80];
    let pieces = prop_oneof![3 => Just(usize::MAX), 1 => 0usize..30];
    (prompts, stops, most, pieces).prop_map(|(prompt, stop, max_tokens, pieces)| Turn {
        prompt,
        stop,
        max_tokens,
        pieces,
    })
}

fn any_sampler() -> impl Strategy<Value = Sampler> {
    let temperature = prop_oneof![2 => Just(0.0f32), 1 => 0.01f32..0.5, 1 => 0.5f32..2.0];
    (temperature, 0u32..50, prop_oneof![Just(1.0f32), 0.1f32..1.0], any::<u64>())
        .prop_map(|(temperature, top_k, top_p, seed)| Sampler::new(temperature, top_k, top_p, seed))
}

/// A card that is waited for, a processor that is, and both.
fn any_pace() -> impl Strategy<Value = Pace> {
    let any = || prop_oneof![Just(0u32), Just(1), 1u32..1000, any::<u32>()];
    prop_oneof![
        Just(Pace::default()),
        (any(), any(), any(), any(), any(), any()).prop_map(
            |(command, page, check, fetch, compute, logits)| Pace {
                command,
                page,
                check,
                fetch,
                compute,
                logits,
            }
        )
    ]
}

fn any_speculation() -> impl Strategy<Value = Speculation> {
    prop_oneof![Just(Speculation::Auto), (0u32..20).prop_map(Speculation::Fixed)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_the_passes_changes(
        kind in 0usize..2,
        seed in 0u64..6,
        sampler in any_sampler(),
        turns in prop::collection::vec(any_turn(), 1..5),
        drafts in any_drafts(),
        speculation in any_speculation(),
        batch in prop_oneof![Just(None), (1u32..20).prop_map(Some)],
        pace in any_pace(),
        share in 0usize..=4,
        noise in any::<u64>(),
    ) {
        let (model, tokenizer) = random(two_kinds()[kind], seed);
        let mut card = memory_card(&model, &tokenizer);
        let plain = {
            let mut memory = memory(256 << 10);
            let mut session = session(card.clone(), &mut memory, &Request::default(), kernels::best()).unwrap();
            let seen = talk(&mut session, sampler, &turns);
            let counts = session.speculated();
            prop_assert_eq!((counts.drafted, counts.tokens), (0, counts.passes));
            seen
        };
        let vocab = model.shape.vocab;
        let truth = tokens_of(&card, sampler, turns[0].prompt, 64);
        add_drafts(&mut card, drafts, vocab, &truth, &mut Random(noise));
        let request = Request { speculation, batch, pace, ..Request::default() };
        let needs = needs(card.clone());
        let (least, most) = (least_ram(&needs, &request), ample_ram(&needs, &request));
        let ram = (least + (most - least) * share / 16) / 8 * 8;
        let mut memory = memory(ram);
        let mut session = session(card, &mut memory, &request, kernels::best()).unwrap();
        prop_assert_eq!(talk(&mut session, sampler, &turns), plain);
        let counts = *session.speculated();
        prop_assert!(counts.passes <= counts.tokens && counts.accepted <= counts.drafted);
        prop_assert!(counts.tokens <= counts.passes + counts.accepted);
    }
}

/// A long greedy reply in little memory, so many times, with what is guessed by `drafts`.
fn counts_with(
    drafts: Drafts,
    speculation: Speculation,
    ram: Option<usize>,
    rounds: u64,
) -> (Speculated, Vec<u8>) {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let mut card = memory_card(&model, &tokenizer);
    let truth = tokens_of(&card, Sampler::GREEDY, "the bird", 64);
    add_drafts(&mut card, drafts, model.shape.vocab, &truth, &mut Random(1));
    let request = Request { speculation, batch: Some(4), ..Request::default() };
    let mut memory = memory(ram.unwrap_or(least_ram(&needs(card.clone()), &request) + 8192));
    let mut session = session(card, &mut memory, &request, kernels::best()).unwrap();
    let said = say(&mut session, "the bird", 40).unwrap();
    assert_eq!(session.has_drafts(), matches!(drafts, Drafts::Oracle(_) | Drafts::Noise(_)));
    for _ in 1..rounds {
        session.reset();
        assert_eq!(say(&mut session, "the bird", 40).unwrap().text, said.text);
    }
    (*session.speculated(), said.text)
}

/// The test above would pass if nothing were ever guessed. Here it is, and it saves passes.
#[test]
fn right_guesses_save_passes() {
    let (plain, text) = counts_with(Drafts::None, Speculation::Off, None, 1);
    assert_eq!((plain.passes, plain.tokens, plain.drafted), (40, 40, 0));
    for speculation in [Speculation::Auto, Speculation::Fixed(3)] {
        let (oracle, same) = counts_with(Drafts::Oracle(3), speculation, None, 1);
        assert_eq!((oracle.tokens, &same), (40, &text));
        assert!(oracle.passes <= 16, "{speculation:?}: {oracle:?}");
    }
    assert_eq!(counts_with(Drafts::Oracle(3), Speculation::Off, None, 1).0, plain);
    assert_eq!(counts_with(Drafts::Oracle(3), Speculation::Fixed(0), None, 1).0, plain);
}

/// Where a pass reads little, wrong guesses are soon not made any more; right ones are.
#[test]
fn wrong_guesses_are_given_up() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let needs = needs(memory_card(&model, &tokenizer));
    let auto = Request { speculation: Speculation::Auto, batch: Some(4), ..Request::default() };
    // As much memory as there can be without guesses becoming pointless.
    let pays = |ram: &usize| {
        pageformer_engine::Plan::new(&needs, *ram, &auto).is_ok_and(|plan| plan.logits_rows == 4)
    };
    let ram = (least_ram(&needs, &auto)..ample_ram(&needs, &auto)).step_by(512).filter(pays).max().unwrap();
    let (right, text) = counts_with(Drafts::Oracle(3), Speculation::Auto, Some(ram), 10);
    assert!(right.passes <= 200, "{right:?}");
    let (noise, same) = counts_with(Drafts::Noise(1), Speculation::Auto, Some(ram), 10);
    let (all, _) = counts_with(Drafts::Noise(1), Speculation::Fixed(3), Some(ram), 10);
    assert_eq!((noise.tokens, &same), (400, &text));
    let wrong = |counts: &Speculated| counts.drafted - counts.accepted;
    assert!(wrong(&noise) * 3 < wrong(&all) * 2, "{noise:?}, {all:?}");
}

/// Where all pages stay in memory, a guess costs as much as a token: none is made, whatever it is worth.
#[test]
fn nothing_is_guessed_where_nothing_is_read() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let card = memory_card(&model, &tokenizer);
    let request = Request { speculation: Speculation::Auto, ..Request::default() };
    let mut memory = memory(ample_ram(&needs(card.clone()), &request));
    let mut session = session(card, &mut memory, &request, kernels::best()).unwrap();
    let plan = session.engine().plan();
    assert_eq!((plan.pinning.streamed(), plan.logits_rows, plan.batch), (0, 1, 16));
    say(&mut session, "the bird", 40).unwrap();
    assert_eq!(session.speculated().drafted, 0);
}

/// A table that is damaged while it is in use is given up, and the reason can be asked for; the text goes on.
#[test]
fn a_damaged_table_is_given_up() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    let mut card = memory_card(&model, &tokenizer);
    let truth = tokens_of(&card, Sampler::GREEDY, "the bird", 64);
    add_drafts(&mut card, Drafts::Oracle(2), model.shape.vocab, &truth, &mut Random(1));
    let want = run(card.clone(), 128 << 10, &Request::default(), "the bird", 40).unwrap();
    let request = Request { speculation: Speculation::Fixed(3), ..Request::default() };
    for page in 0..3 {
        let mut card = card.clone();
        card.drafts[page * PAGE_BYTES + 100] ^= 1;
        let mut memory = memory(least_ram(&needs(card.clone()), &request) + 8192);
        let mut session = session(card, &mut memory, &request, kernels::best()).unwrap();
        assert_eq!(say(&mut session, "the bird", 40).unwrap(), want);
        let Some(Error::Page(fault, None)) = session.drafts_fault() else { panic!("page {page} is damaged") };
        assert_eq!((fault.file, fault.page, fault.error), (CardFile::Drafts, page as u32, None));
        assert!(!session.has_drafts());
    }
}

/// A page of the embedding that only a wrong guess asks for is damaged: a reply without guesses never meets it.
#[test]
fn what_only_a_guess_meets_is_no_error() {
    let (model, tokenizer) = random(two_kinds()[0], 3);
    assert!(!model.shape.tied_embeddings, "the embedding is off the tape");
    let card = memory_card(&model, &tokenizer);
    let truth = tokens_of(&card, Sampler::GREEDY, "the bird", 64);
    let want = run(card.clone(), 128 << 10, &Request::default(), "the bird", 40).unwrap();
    let pages = card.weights.len() / PAGE_BYTES;
    let request = Request { speculation: Speculation::Fixed(3), ..Request::default() };
    let ram = least_ram(&needs(card.clone()), &request) + 8192;
    let mut met = 0;
    for page in 0..pages {
        let mut damaged = card.clone();
        damaged.weights[page * PAGE_BYTES + 9] ^= 1;
        if run(damaged.clone(), 128 << 10, &Request::default(), "the bird", 40).is_err() {
            continue;
        }
        for never in (0..model.shape.vocab as u16).step_by(5).filter(|token| !truth.contains(token)) {
            let table = DraftTable { pages: 3, context: 1, vocab: model.shape.vocab };
            let follow = truth.windows(1).map(|context| (context, never));
            damaged.drafts = draft_pages(&table, follow).0.concat();
            let mut memory = memory(ram);
            let mut session = session(damaged.clone(), &mut memory, &request, kernels::best()).unwrap();
            assert_eq!(say(&mut session, "the bird", 40).unwrap(), want);
            met += usize::from(session.engine().vram().stats().retries > 0);
        }
    }
    assert!(met > 0, "a damaged page was met");
}

/// In a folder, in an image, in both layouts: the table is found, and saves the same passes.
#[test]
fn the_table_is_found_wherever_the_card_lies() {
    use pageformer_card::Layout;
    use pageformer_image::{FileSource, Options, write_image};
    use pageformer_toolchain::{NamedFile, write_card};

    let (model, tokenizer) = random(two_kinds()[1], 3);
    let mut card = memory_card(&model, &tokenizer);
    let truth = tokens_of(&card, Sampler::GREEDY, "the bird", 64);
    add_drafts(&mut card, Drafts::Oracle(2), model.shape.vocab, &truth, &mut Random(1));
    assert!(card.drafts.as_chunks().0.iter().all(is_whole));
    let request = Request { speculation: Speculation::Auto, batch: Some(4), ..Request::default() };
    let ram = least_ram(&pageformer_engine::Needs { layout: Layout::Files, ..needs(card.clone()) }, &request)
        + 4096;
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for layout in [Layout::Packed, Layout::Files] {
        let mut files = card_files(&model, &tokenizer, layout);
        files.files.push(NamedFile { name: "drafts.bin".into(), bytes: card.drafts.clone() });
        let folder = dir.path().join(format!("{layout:?}"));
        write_card(&files, &folder, &mut |_, _| {}).unwrap();
        // A card with a table is replaced like any other.
        write_card(&files, &folder, &mut |_, _| {}).unwrap();
        let image = dir.path().join(format!("{layout:?}.img"));
        let sources: Vec<_> = files.files.into_iter().map(|f| (f.name, FileSource::Bytes(f.bytes))).collect();
        write_image(&sources, &image, &Options::default(), &mut |_, _| {}).unwrap();
        for path in [folder, image] {
            let mut memory = memory(ram);
            let mut arena = Arena::new(&mut memory);
            let opened = pageformer_sim::open(&path, &mut arena).unwrap();
            let kernel = kernels::best();
            let mut session =
                begin(opened.card, &opened.manifest, opened.table, ram, arena, &request, kernel).unwrap();
            assert!(session.has_drafts(), "{}", path.display());
            let said = say(&mut session, "the bird", 40).unwrap();
            found.push((said, session.speculated().passes < 30));
        }
    }
    assert!(found.iter().all(|one| one.1 && one.0 == found[0].0), "{found:?}");
}
