//! Ways to run a card.

use pageformer_card::{Manifest, PAGE_BYTES, TensorTable};
use pageformer_engine::kernels::{self, Kernel};
use pageformer_engine::{Digest, Engine, Error, Needs, Plan, PlanError, Reply, Request, Session};
use pageformer_vram::{Arena, Card, read_manifest, read_tensors};

/// The one buffer. It is not zero: nothing may rely on that.
pub fn memory(bytes: usize) -> Vec<u64> {
    vec![0x5A5A_5A5A_5A5A_5A5A; bytes / 8]
}

/// Reads the manifest and the table of a card.
pub fn describe<'m, C: Card>(
    card: &mut C,
    arena: &mut Arena<'m>,
) -> Result<(Manifest, TensorTable<'m>), Error> {
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(card, &mut page)?;
    let entries = arena.take(TensorTable::entries(&manifest.shape))?;
    let table = read_tensors(card, &mut page, &manifest, entries)?;
    Ok((manifest, table))
}

/// A session over a card in exactly the bytes of `memory`. Checks that the plan accounts for every byte that is taken.
pub fn session<'m, C: Card>(
    mut card: C,
    memory: &'m mut [u64],
    request: &Request,
    kernel: Kernel,
) -> Result<Session<'m, C>, Error> {
    let ram = memory.len() * 8;
    let mut arena = Arena::new(memory);
    let (manifest, table) = describe(&mut card, &mut arena)?;
    begin(card, &manifest, table, ram, arena, request, kernel)
}

/// The same for a card that has been opened: the tables are in `arena` already, `ram` bytes in all.
pub fn begin<'m, C: Card>(
    card: C,
    manifest: &Manifest,
    table: TensorTable<'m>,
    ram: usize,
    mut arena: Arena<'m>,
    request: &Request,
    kernel: Kernel,
) -> Result<Session<'m, C>, Error> {
    let plan = Plan::new(&Needs::new(manifest, &table), ram, request)?;
    let engine = Engine::start(card, manifest, table, &plan, &mut arena, kernel)?;
    let mut session = Session::start(engine, manifest, &mut arena)?;
    session.keep_digest(true);
    assert_eq!(ram - arena.left(), plan.total(), "the plan says what is taken, to the byte");
    Ok(session)
}

/// What a card needs.
pub fn needs<C: Card>(mut card: C) -> Needs {
    let mut tables = memory(16 << 10);
    let (manifest, table) = describe(&mut card, &mut Arena::new(&mut tables)).unwrap();
    Needs::new(&manifest, &table)
}

/// The bytes of the smallest plan.
pub fn least_ram(needs: &Needs, request: &Request) -> usize {
    match Plan::new(needs, 0, request) {
        Err(PlanError::TooSmall { needed, .. }) => needed,
        other => panic!("no bytes are too few, but: {other:?}"),
    }
}

/// Bytes that surely hold everything for good.
pub fn ample_ram(needs: &Needs, request: &Request) -> usize {
    let pages = needs.weights_pages + needs.tokenizer_pages + needs.sums().pages();
    least_ram(needs, &Request { batch: Some(request.batch.unwrap_or(16)), ..*request }) + pages as usize * 520
}

/// What a session said.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub text: Vec<u8>,
    pub reply: Reply,
    /// Of the logits that every token so far was chosen from.
    pub digest: Digest,
}

/// Lets a session reply.
pub fn say<C: Card>(session: &mut Session<'_, C>, prompt: &str, max_tokens: u32) -> Result<Said, Error> {
    let mut text = Vec::new();
    let reply = session.reply(prompt, "", max_tokens, &mut |bytes| {
        text.extend_from_slice(bytes);
        true
    })?;
    Ok(Said { text, reply, digest: session.digest().unwrap() })
}

/// Runs a card in `ram` bytes from start to end.
pub fn run<C: Card>(
    card: C,
    ram: usize,
    request: &Request,
    prompt: &str,
    max_tokens: u32,
) -> Result<Said, Error> {
    let mut memory = memory(ram);
    say(&mut session(card, &mut memory, request, kernels::best())?, prompt, max_tokens)
}
