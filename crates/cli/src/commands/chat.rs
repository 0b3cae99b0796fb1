//! `pageformer chat`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::Parser;
use pageformer_engine::{Error, Stop};

use crate::card::CardArg;
use crate::session::{Account, Costs, Generate, HostSession, buffer, memory_table, start};
use crate::ui::{bytes, parse_bytes};

/// Talks to the model of a card, in as much RAM as a board has. Ctrl-C stops an answer. Piped, it prints the
/// answers only.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    pageformer chat                                   # the default model, as on a board with 64 KB\n  \
    pageformer chat card/ --ram 96K --context 128\n  \
    echo 'Once upon a time' | pageformer chat card/\n\n\
    A model without a chat template continues each line as a text of its own.")]
pub struct Chat {
    #[command(flatten)]
    card: CardArg,
    #[command(flatten)]
    generate: Generate,
}

const HELP: &str = "\
/help           this
/stats          what the last answer took, and the memory plan
/ram 64K        start again with so much RAM
/temperature T  0 takes the most likely token, 1 samples as the model predicts
/reset          forget the conversation
/quit           end (or Ctrl-D)
Ctrl-C stops an answer.";

/// What to do after a line.
enum Next {
    Go,
    /// Start again with so much RAM.
    Ram(usize),
    Quit,
}

impl Chat {
    pub fn run(mut self) -> Result<()> {
        self.generate.check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let in_answer = Arc::new(AtomicBool::new(false));
        let (flag, answering) = (stop.clone(), in_answer.clone());
        ctrlc::set_handler(move || {
            if !answering.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            flag.store(true, Ordering::Relaxed);
        })?;
        let person = io::stdin().is_terminal() && io::stdout().is_terminal();
        let mut first = true;
        loop {
            let mut memory = buffer(self.generate.ram.unwrap_or(self.card.default_ram()));
            let mut session =
                start(&self.card, &mut memory, &self.generate.request(), &self.generate.tuning)?;
            session.sampler = self.generate.sampler();
            if person {
                greet(&session, first);
            }
            first = false;
            let mut talk =
                Talk { card: &self.card, session, stop: &stop, in_answer: &in_answer, person, last: None };
            match talk.lines(&mut self.generate)? {
                Next::Ram(ram) => self.generate.ram = Some(ram),
                _ => return Ok(()),
            }
        }
    }
}

fn greet(session: &HostSession<'_>, whole: bool) {
    let (manifest, plan) = (session.manifest(), session.engine().plan());
    println!(
        "{} · {} parameters · {} of {} tape pages in RAM · {} of RAM, {} positions",
        manifest.name.as_str(),
        manifest.shape.parameters(),
        plan.pinning.pinned,
        plan.pinning.tape,
        bytes(plan.total() as u64),
        plan.context
    );
    if whole {
        if manifest.chat.is_none() {
            println!("This model was not trained to chat: it continues each line as a text of its own.");
        }
        println!("/help shows the commands.");
    }
}

struct Talk<'a, 'm> {
    card: &'a CardArg,
    session: HostSession<'m>,
    stop: &'a AtomicBool,
    in_answer: &'a AtomicBool,
    person: bool,
    last: Option<Costs>,
}

impl Talk<'_, '_> {
    fn lines(&mut self, generate: &mut Generate) -> Result<Next> {
        loop {
            if self.person {
                print!("\n> ");
                io::stdout().flush()?;
            }
            let mut line = Vec::new();
            if io::stdin().lock().read_until(b'\n', &mut line)? == 0 {
                return Ok(Next::Quit);
            }
            // Whatever a terminal or a pipe sends, the model gets text.
            let line = String::from_utf8_lossy(&line);
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let next = match line.strip_prefix('/') {
                Some(command) => self.command(command, generate)?,
                None => {
                    self.answer(line, generate.max_tokens)?;
                    Next::Go
                }
            };
            if !matches!(next, Next::Go) {
                return Ok(next);
            }
        }
    }

    fn command(&mut self, line: &str, generate: &mut Generate) -> Result<Next> {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match (command, argument.trim()) {
            ("help", _) => println!("{HELP}"),
            ("quit" | "exit", _) => return Ok(Next::Quit),
            ("reset", _) => {
                self.session.reset();
                println!("The conversation is forgotten.");
            }
            ("stats", _) => {
                if let Some(costs) = &self.last {
                    println!("{}\n", costs.line());
                }
                print!("{}", memory_table(self.session.engine().plan()));
            }
            ("ram", size) => match parse_bytes(size) {
                Ok(ram) => {
                    // Tried first: a conversation is not given up for a plan that does not fit.
                    let mut memory = buffer(ram);
                    match start(self.card, &mut memory, &generate.request(), &generate.tuning) {
                        Ok(_) => return Ok(Next::Ram(ram)),
                        Err(error) => println!("{error:#}"),
                    }
                }
                Err(error) => println!("{error}"),
            },
            ("temperature", value) => match value.parse::<f32>() {
                Ok(t) if t >= 0.0 && t.is_finite() => {
                    generate.temperature = t;
                    self.session.sampler.temperature = t;
                    println!("The temperature is {t}.");
                }
                _ => println!("`{value}` is not a temperature; give 0 or more, such as 0.8"),
            },
            (other, _) => println!("There is no /{other}; /help shows the commands."),
        }
        Ok(Next::Go)
    }

    fn answer(&mut self, line: &str, max_tokens: u32) -> Result<()> {
        let chat = self.session.manifest().chat;
        let prompt = match &chat {
            Some(chat) => chat.user.as_str().replace("{}", line),
            None => {
                self.session.reset();
                line.to_string()
            }
        };
        let until = chat.map(|chat| chat.stop).unwrap_or_default();
        let mut out = io::stdout().lock();
        if chat.is_none() && self.person {
            write!(out, "{line}")?;
        }
        loop {
            self.stop.store(false, Ordering::Relaxed);
            self.in_answer.store(true, Ordering::Relaxed);
            let mut account = Account::begin(&mut self.session);
            let mut piped = true;
            let reply = self.session.reply(&prompt, until.as_str(), max_tokens, &mut |text| {
                account.heard(text);
                piped = out.write_all(text).and_then(|()| out.flush()).is_ok();
                piped && !self.stop.load(Ordering::Relaxed)
            });
            self.in_answer.store(false, Ordering::Relaxed);
            match reply {
                // The conversation fills the context: forget it and answer once more.
                Err(Error::ContextFull { .. }) if !self.session.is_fresh() => {
                    self.session.reset();
                    if self.person {
                        writeln!(out, "(the conversation was too long and is forgotten)")?;
                    }
                    continue;
                }
                Err(error) => writeln!(io::stderr(), "\nerror: {error}")?,
                Ok(_) if !piped => return Ok(()),
                Ok(reply) => {
                    writeln!(out)?;
                    let costs = account.end(&self.session, &reply);
                    if self.person {
                        let why = match reply.stop {
                            Stop::MaxTokens => ", cut at --max-tokens",
                            Stop::Context => ", the context is full",
                            Stop::Interrupted => ", stopped",
                            _ => "",
                        };
                        writeln!(out, "({}{why})", costs.line())?;
                    }
                    self.last = Some(costs);
                }
            }
            return Ok(());
        }
    }
}
