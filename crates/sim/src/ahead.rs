//! A card that reads while something else is computed.
//!
//! What a second core does on a board, a thread does here: [`read_ahead`] divides a card into [`Ahead`], which is the card for everybody
//! else, and [`Reader`], which runs on a thread of its own and reads.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{Card, CardFile, ReadError};

const FILES: [CardFile; 4] = [CardFile::Index, CardFile::Weights, CardFile::Sums, CardFile::Tokenizer];

/// A run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    file: CardFile,
    first: u32,
    pages: usize,
}

type Answer = Result<Vec<Page>, ReadError>;

/// The card, as everybody else sees it.
#[derive(Debug)]
pub struct Ahead {
    /// Bytes of [`FILES`].
    bytes: [u64; 4],
    most: u32,
    /// Runs that were begun, the oldest first.
    begun: VecDeque<Run>,
    requests: SyncSender<Run>,
    answers: Receiver<Answer>,
    /// Answers to runs of `begun` that came while another was waited for.
    early: VecDeque<Answer>,
}

/// The half that reads.
#[derive(Debug)]
pub struct Reader<C> {
    card: C,
    requests: Receiver<Run>,
    answers: SyncSender<Answer>,
}

/// Divides a card, so that up to `pages` pages can be read before they are asked for.
pub fn read_ahead<C: Card>(card: C, pages: u32) -> (Ahead, Reader<C>) {
    // Neither side ever waits for room: there are at most `pages` runs of one page each, and one more that is waited for.
    let room = pages as usize + 1;
    let (requests, to_read) = sync_channel(room);
    let (were_read, answers) = sync_channel(room);
    let ahead = Ahead {
        bytes: FILES.map(|file| card.bytes(file)),
        most: pages,
        begun: VecDeque::new(),
        requests,
        answers,
        early: VecDeque::new(),
    };
    (ahead, Reader { card, requests: to_read, answers: were_read })
}

impl<C: Card> Reader<C> {
    /// Reads what is wanted, in order, until the other half is gone.
    pub fn run(mut self) {
        while let Ok(run) = self.requests.recv() {
            let mut pages = vec![[0; PAGE_BYTES]; run.pages];
            let result = self.card.read(run.file, run.first, &mut pages);
            if self.answers.send(result.map(|()| pages)).is_err() {
                return;
            }
        }
    }
}

impl Ahead {
    /// The answer to the oldest run of `begun`.
    fn oldest(&mut self) -> Answer {
        match self.early.pop_front() {
            Some(answer) => answer,
            // A reader that is gone reads nothing any more.
            None => self.answers.recv().unwrap_or(Err(ReadError::NoCard)),
        }
    }
}

fn deliver(answer: Answer, pages: &mut [Page]) -> Result<(), ReadError> {
    pages.copy_from_slice(&answer?);
    Ok(())
}

impl Card for Ahead {
    fn bytes(&self, file: CardFile) -> u64 {
        FILES.iter().zip(self.bytes).find(|(known, _)| **known == file).map_or(0, |(_, bytes)| bytes)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.requests.send(Run { file, first, pages: pages.len() }).map_err(|_| ReadError::NoCard)?;
        // It is the last in the line.
        while self.early.len() < self.begun.len() {
            self.early.push_back(self.answers.recv().map_err(|_| ReadError::NoCard)?);
        }
        deliver(self.answers.recv().unwrap_or(Err(ReadError::NoCard)), pages)
    }

    fn read_ahead(&self) -> u32 {
        self.most
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        let waiting: usize = self.begun.iter().map(|run| run.pages).sum();
        let run = Run { file, first, pages: pages as usize };
        if pages > 0 && waiting + run.pages <= self.most as usize && self.requests.send(run).is_ok() {
            self.begun.push_back(run);
        }
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        while let Some(run) = self.begun.pop_front() {
            let answer = self.oldest();
            if run == (Run { file, first, pages: pages.len() }) {
                return deliver(answer, pages);
            }
        }
        self.read(file, first, pages)
    }
}
