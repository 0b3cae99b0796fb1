//! `pageformer run`.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::card::CardArg;
use crate::port::unless_closed;
use crate::session::{Account, Generate, buffer, explain, memory_table, start};

/// Continues a text with the model of a card, in as much RAM as a board has.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    pageformer run card/ --prompt 'Once upon a time' --ram 96K --context 128\n  \
    pageformer run card.img --prompt 'Lily' --temperature 0.8 --top-p 0.9 --seed 7\n  \
    pageformer run card/ --prompt '' --json\n\n\
    The text goes to the standard output, what it took to the error output.\n\
    The text is the same for every --ram, --batch, --kernel, --threads, --speculate, layout, folder or\n\
    image, and on every board; --json has a digest of all logits, which are, too. A model that was\n\
    trained to chat answers in `pageformer chat`.")]
pub struct Run {
    #[command(flatten)]
    card: CardArg,
    /// The text to continue; empty begins a new one
    #[arg(long, default_value = "", hide_default_value = true)]
    prompt: String,
    #[command(flatten)]
    generate: Generate,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

impl Run {
    pub fn run(self) -> Result<()> {
        self.generate.check()?;
        let ram = self.generate.ram.unwrap_or(self.card.default_ram());
        let mut memory = buffer(ram);
        let mut session = start(&self.card, &mut memory, &self.generate.request(), &self.generate.tuning)?;
        session.sampler = self.generate.sampler();
        session.keep_digest(self.json);
        let stop = session.manifest().chat.map(|chat| chat.stop).unwrap_or_default();
        let mut account = Account::begin(&mut session);
        let mut text = Vec::new();
        let mut out = io::stdout().lock();
        let mut printed = Ok(());
        let reply = session
            .reply(&self.prompt, stop.as_str(), self.generate.max_tokens, &mut |bytes| {
                account.heard(bytes);
                text.extend_from_slice(bytes);
                // What cannot be printed ends the reply.
                if !self.json && printed.is_ok() {
                    printed = out.write_all(bytes).and_then(|()| out.flush());
                }
                printed.is_ok()
            })
            .map_err(explain);
        if !self.json {
            let _ = writeln!(out);
        }
        // A reader of a pipe that is gone has seen enough.
        printed.or_else(unless_closed)?;
        let reply = reply?;
        let costs = account.end(&session, &reply);
        let plan = session.engine().plan();
        if !self.json {
            eprintln!("\n{}", costs.line());
            eprintln!(
                "{} prompt tokens, {} passes over {} tape pages, {} pinned, {} read in {} reads",
                costs.prompt_tokens,
                costs.passes,
                costs.tape.0,
                costs.tape.1,
                costs.pages_read,
                costs.stats.commands
            );
            if let Some(fault) = session.drafts_fault() {
                eprintln!("nothing is guessed from the card's table: {fault}");
            }
            eprint!("\n{}", memory_table(plan));
            if let Some(chat) = session.manifest().chat
                && !self.prompt.ends_with(chat.around().1)
            {
                let card = self.card.path.iter().map(|path| format!(" {}", path.display()));
                eprintln!(
                    "\nthis model was trained to chat, and here it continues a text; it answers in `pageformer chat{}`",
                    card.collect::<String>()
                );
            }
            return Ok(());
        }
        let ram: serde_json::Map<_, _> = plan
            .parts()
            .map(|(part, size)| (part.to_string().to_lowercase().replace(' ', "_"), json!(size)))
            .collect();
        let object = json!({
            "text": String::from_utf8_lossy(&text),
            "prompt": self.prompt,
            "prompt_tokens": costs.prompt_tokens,
            "tokens": costs.tokens,
            "stop": format!("{:?}", reply.stop).to_lowercase(),
            "passes": costs.passes,
            "tokens_per_s": costs.tokens_per_s(),
            "seconds_to_first_token": costs.seconds.0,
            "tape_pages": costs.tape.0,
            "pinned_pages": costs.tape.1,
            "pages_read": costs.pages_read,
            "pages_per_token": costs.pages_per_token(),
            "tokens_per_pass": costs.tokens_per_pass(),
            "guessed": costs.speculated.drafted,
            "guessed_right": costs.speculated.accepted,
            "hit_rate": costs.hit_rate(),
            "embedding_pages_read": costs.stats.embedding,
            "checksum_pages_read": costs.stats.sums,
            "tokenizer_pages_read": costs.stats.tokenizer,
            "drafts_pages_read": costs.stats.drafts,
            "read_commands": costs.stats.commands,
            "retries": costs.stats.retries,
            "context": plan.context,
            "batch": plan.batch,
            "kernel": session.engine().kernel().name,
            "ram_bytes": ram,
            "ram_total": plan.total(),
            "ram_given": ram,
            "logits_digest": format!("{:016x}", session.digest().unwrap_or_default().0),
        });
        writeln!(out, "{object:#}")?;
        Ok(())
    }
}
