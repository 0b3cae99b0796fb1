//! A person at the port, played by a script, over a real engine and a card in memory.

use std::collections::VecDeque;

use embedded_io::{ErrorType, Read, ReadReady, Write};
use pageformer_card::{Layout, Norm, PAGE_BYTES, Shape, TensorTable};
use pageformer_console::{Console, End, NoHost, Settings};
use pageformer_engine::{Engine, Needs, Plan, Request, Session, kernels};
use pageformer_model::{Model, Tokenizer};
use pageformer_sim::{Fault, Faulty, MemoryCard};
use pageformer_vram::{Arena, CardFile, read_manifest, read_tensors};
use proptest::prelude::*;

/// Types bytes, and keeps what is printed. It is closed when there is nothing more to type.
#[derive(Debug, Default)]
struct Script {
    keys: VecDeque<u8>,
    /// A line has been begun.
    in_line: bool,
    printed: Vec<u8>,
}

impl ErrorType for Script {
    type Error = core::convert::Infallible;
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let Some(key) = self.keys.pop_front() else { return Ok(0) };
        self.in_line = key != b'\r' && key != b'\n';
        buf[0] = key;
        Ok(1)
    }
}

impl ReadReady for Script {
    /// A line is begun at the prompt, not during an answer. When there is nothing more to type, the port is closed.
    fn read_ready(&mut self) -> Result<bool, Self::Error> {
        let line_feed = self.keys.front() == Some(&b'\n');
        // Ctrl-C is typed while nothing has been printed of an answer: the prompt is being read.
        let interrupt = self.keys.front() == Some(&0x03)
            && (self.printed.ends_with(b"\r\n") || self.printed.ends_with(b"."));
        Ok(self.in_line || line_feed || interrupt || self.printed.ends_with(b"> "))
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Self::Error> {
        self.printed.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A tiny model of zeros: it says the first token of its vocabulary for ever.
fn card() -> MemoryCard {
    card_of(1, 8)
}

/// The same with so many layers and so wide an MLP.
fn card_of(n_layers: u32, d_ff: u32) -> MemoryCard {
    let shape = Shape {
        n_layers,
        d_model: 8,
        d_ff,
        vocab: 128,
        max_seq: 64,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        mlp: pageformer_card::Mlp::Gelu,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        final_norm: true,
    };
    let model = Model::zeros(shape).unwrap();
    let files =
        pageformer_toolchain::export(&model, &Tokenizer::ascii(), Layout::Packed, (4, 4), "nothing", "zeros")
            .unwrap();
    MemoryCard::from_files(files.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())))
}

/// Types `keys` to a console over `card`; how it ended and what was printed, with lines that end in LF.
fn type_to(card: Faulty<MemoryCard>, keys: impl AsRef<[u8]>) -> (End, String) {
    with_console(card, 4608, keys, |console, session| {
        console.banner(session).unwrap();
        console.run(session)
    })
}

/// Holds a card against its checksums, in so much RAM; what came of it and what was printed.
fn verify(card: Faulty<MemoryCard>, ram: usize, asked: bool, keys: &str) -> (bool, String) {
    with_console(card, ram, keys, |console, session| console.verify(session, asked).unwrap())
}

/// Does something with a console and a session over `card`, whose faults begin when the session has been started.
fn with_console<T>(
    mut card: Faulty<MemoryCard>,
    ram: usize,
    keys: impl AsRef<[u8]>,
    act: impl FnOnce(&mut Console<Script, NoHost>, &mut Session<'_, Faulty<MemoryCard>>) -> T,
) -> (T, String) {
    let script = Script { keys: keys.as_ref().iter().copied().collect(), ..Script::default() };
    let faults = std::mem::take(&mut card.faults);
    let mut memory = vec![0; ram.max(16384) / 8];
    let mut arena = Arena::new(&mut memory);
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(&mut card, &mut page).unwrap();
    let entries = arena.take(TensorTable::entries(&manifest.shape)).unwrap();
    let table = read_tensors(&mut card, &mut page, &manifest, entries).unwrap();
    let request = Request { page_metadata: true, batch: Some(1), ..Request::default() };
    let plan = Plan::new(&Needs::new(&manifest, &table), ram, &request).unwrap();
    let engine = Engine::start(card, &manifest, table, &plan, &mut arena, kernels::PORTABLE).unwrap();
    let mut session = Session::start(engine, &manifest, &mut arena).unwrap();
    session.engine_mut().vram_mut().card_mut().faults = faults;
    let mut console = Console::new(script, NoHost, Settings { max_tokens: 5, ..Settings::default() });
    let done = act(&mut console, &mut session);
    let printed = std::mem::take(&mut console.terminal().port_mut().printed);
    (done, String::from_utf8_lossy(&printed).replace("\r\n", "\n"))
}

fn good() -> Faulty<MemoryCard> {
    Faulty::new(card())
}

#[test]
fn every_line_end_is_one_enter() {
    for keys in ["/seed 1\r/seed 2\r", "/seed 1\n/seed 2\n", "/seed 1\r\n/seed 2\r\n"] {
        let (end, said) = type_to(good(), keys);
        assert_eq!(end, End::Closed);
        assert!(said.contains("the seed is 1\n\n> /seed 2\nthe seed is 2\n\n> "), "{said}");
    }
}

#[test]
fn lines_are_edited() {
    // Backspaces take back whole characters; arrows and the like are ignored; Ctrl-U forgets; Ctrl-C, too.
    let (_, said) = type_to(good(), "/sedä\x7f\x08ed 12\x1b[A\x1b[3~3\rxxx\x15/max 7\rabc\x03/max 8\r");
    assert!(said.contains("the seed is 123\n"), "{said}");
    assert!(said.contains("an answer has 7 tokens"), "{said}");
    assert!(said.contains("an answer has 8 tokens") && said.contains("^C"), "{said}");
    // Ctrl-C is Ctrl-C behind an Escape, too, and an Escape behind another begins a new sequence.
    let (_, said) = type_to(good(), "abc\x1b\x03/max\x1b\x1b[A\x1b[\x1b[B 9\r");
    assert!(said.contains("> abc^C\n\n> /max 9\nan answer has 9 tokens"), "{said}");
}

#[test]
fn a_long_line_is_refused() {
    let (_, said) = type_to(good(), format!("{}\r/max 9\r", "x".repeat(300)));
    assert!(
        said.contains("a line has 240 bytes at most") && said.contains("an answer has 9 tokens"),
        "{said}"
    );
    assert!(!said.contains("pages read per token"), "nothing was answered: {said}");
}

#[test]
fn an_answer_and_what_it_took() {
    let (_, said) =
        type_to(good(), "/stats\rhello\r/stats\r/model\r/memory\r/bench\r/nonsense\r/temperature x\r");
    assert!(said.contains("nothing has been answered yet"), "{said}");
    assert!(said.contains("(5 tokens, ") && said.contains("cut at /max)"), "{said}");
    assert!(said.contains("prompt: 5 tokens"), "{said}");
    assert!(said.contains("nothing, from zeros") && said.contains("KV cache"), "{said}");
    assert!(said.contains("16 tokens, ") && said.contains("reads per token"), "{said}");
    assert!(said.contains("there is no /nonsense") && said.contains("`x` is not a temperature"), "{said}");
}

#[test]
fn a_prompt_that_is_being_read_is_stopped_and_forgotten() {
    let (_, said) = type_to(good(), "hello\r\x03/stats\r");
    assert!(said.contains("(0 tokens, ") && said.contains(", stopped)"), "{said}");
    assert!(said.contains("passes over the tape: 1\n"), "{said}");
}

#[test]
fn the_page_debugger() {
    let (_, said) = type_to(good(), "hi\r/pages\rS\rP 0\rp 99999\rx\rR\rP 0\rH\rQ\r/max 3\r");
    assert!(said.contains("page 0: dec0_ln1, page 0 of 1") && said.contains("checksum: right"), "{said}");
    assert!(said.contains("there is no page 99999") && said.contains("not a key"), "{said}");
    assert!(said.contains("loads:    0") && said.contains("an answer has 3 tokens"), "{said}");
}

#[test]
fn a_card_that_is_gone_ends_the_session_and_a_bad_page_does_not() {
    let mut pulled = good();
    pulled.faults = vec![Fault::Pulled { after: 3 }];
    let (end, said) = type_to(pulled, "hello\r");
    assert_eq!(end, End::CardGone);
    assert!(said.contains("error: ") && said.contains("the card is gone"), "{said}");

    let mut bad = good();
    bad.faults = (0..64).map(|page| Fault::Fails { file: CardFile::Weights, page, times: 9 }).collect();
    let (end, said) = type_to(bad, "hello\r/card\r");
    assert!(said.contains("error: ") && said.contains("read error"), "{said}");
    assert_eq!(end, End::Reload);
}

/// What a port may bring: noise, keys, text, and lines that mean something.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..20),
        2 => "[ -~]{1,30}".prop_map(String::into_bytes),
        1 => prop::sample::select(vec!["\x1b", "\x1b[", "\x1b[1;5A", "\r", "\n", "\r\n", "\x7f", "\x15", "\x03", "\x04"])
            .prop_map(|keys| keys.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["/pages\r", "/max 3\r", "/temperature 1\r", "/bench\r", "P 1\r", "hi\r"])
            .prop_map(|keys| keys.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_came_through_the_port_the_console_is_there_after_ctrl_c(noise in anything()) {
        let (end, said) = type_to(good(), [&noise, &b"\x03/seed 9\r"[..]].concat());
        prop_assert_eq!(end, End::Closed);
        prop_assert!(said.ends_with("> /seed 9\nthe seed is 9\n\n> "), "{}", said);
    }
}

#[test]
fn a_card_is_held_against_its_checksums() {
    // Little RAM, in which every page streams by, and so much that all stay.
    for ram in [4608, 1 << 20] {
        let (good, said) = verify(good(), ram, false, "");
        assert!(good, "{said}");
        assert!(
            said.starts_with("\nchecking ") && said.ends_with(" pages ................ good\n"),
            "{said}"
        );
    }
    let bad = |file, page| {
        let mut card = good();
        card.faults = vec![Fault::Flips { file, page, bit: 77, times: 9 }];
        card
    };
    let last = good().inner().weights.len() as u32 / 512 - 1;
    for (file, page, named) in [
        (CardFile::Weights, last, "emb_weight (page "),
        (CardFile::Tokenizer, 0, "page 0 of tokenizer.bin: "),
    ] {
        let (good, said) = verify(bad(file, page), 4608, false, "");
        assert!(!good && said.contains(" bad\n\nerror: page ") && said.contains(named), "{said}");
        assert!(said.contains("the checksum is wrong"), "{said}");
    }
    let (good, said) = verify(good(), 4608, false, "\x03");
    assert!(good && said.ends_with(". stopped\n"), "{said}");
}

#[test]
fn a_large_card_is_checked_when_somebody_asks() {
    let card = card_of(200, 4608);
    assert!(card.weights.len() / 512 > 8192);
    let bad = || {
        let mut bad = Faulty::new(card.clone());
        bad.faults = vec![Fault::Flips { file: CardFile::Weights, page: 8000, bit: 77, times: 9 }];
        bad
    };
    let (good, said) = verify(bad(), 600 << 10, false, "");
    assert!(good && said.contains("pages take long to check") && said.contains("/card"), "{said}");
    let (good, said) = verify(bad(), 600 << 10, true, "");
    assert!(!good && said.contains("(page 8000 of weights: the checksum is wrong"), "{said}");
}
