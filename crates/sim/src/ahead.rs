//! A card that reads while something else is computed.
//!
//! What a second core does on a board, a thread does here: [`read_ahead`] divides a card into [`Ahead`], which is the card for everybody
//! else, and [`Reader`], which runs on a thread of its own and reads.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use pageformer_card::{PAGE_BYTES, Page};
use pageformer_vram::{Card, CardFile, ReadError};

const FILES: [CardFile; 5] =
    [CardFile::Index, CardFile::Weights, CardFile::Sums, CardFile::Tokenizer, CardFile::Drafts];

/// Pages that may be announced.
const ANNOUNCED: usize = 2;

/// A run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    file: CardFile,
    first: u32,
    pages: usize,
}

type Answer = Result<Vec<Page>, ReadError>;

/// What is to be read, and what was.
#[derive(Debug, Default)]
struct Desk {
    /// Runs that are waited for, or soon will be: they come before those that were only begun.
    urgent: VecDeque<Run>,
    urgent_answers: Vec<(Run, Answer)>,
    /// Runs that were begun, the oldest first.
    begun: VecDeque<Run>,
    /// Answers to the first of them.
    answers: VecDeque<Answer>,
    /// One of the two halves is gone.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` finds what it looks for, or nobody will come any more.
    fn wait<R>(&self, mut ready: impl FnMut(&mut Desk) -> Option<R>) -> Option<R> {
        let mut desk = self.desk();
        loop {
            if let Some(found) = ready(&mut desk) {
                return Some(found);
            }
            if desk.closed {
                return None;
            }
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Desk)) {
        change(&mut self.desk());
        self.changed.notify_all();
    }
}

/// The card, as everybody else sees it.
#[derive(Debug)]
pub struct Ahead {
    /// Bytes of [`FILES`].
    bytes: [u64; FILES.len()],
    most: u32,
    /// Pages that were announced, the oldest first.
    announced: VecDeque<Run>,
    shared: Arc<Shared>,
}

/// The half that reads.
#[derive(Debug)]
pub struct Reader<C> {
    card: C,
    shared: Arc<Shared>,
}

/// Divides a card, so that up to `pages` pages can be read before they are asked for.
pub fn read_ahead<C: Card>(card: C, pages: u32) -> (Ahead, Reader<C>) {
    let shared = Arc::<Shared>::default();
    let bytes = FILES.map(|file| card.bytes(file));
    let ahead = Ahead { bytes, most: pages, announced: VecDeque::new(), shared: shared.clone() };
    (ahead, Reader { card, shared })
}

impl<C: Card> Reader<C> {
    /// Reads what is wanted until the other half is gone.
    pub fn run(mut self) {
        let next = |desk: &mut Desk| {
            let urgent = desk.urgent.pop_front().map(|run| (run, true));
            urgent.or_else(|| desk.begun.get(desk.answers.len()).map(|run| (*run, false)))
        };
        while let Some((run, urgent)) = self.shared.wait(next) {
            let mut pages = vec![[0; PAGE_BYTES]; run.pages];
            let answer = self.card.read(run.file, run.first, &mut pages).map(|()| pages);
            self.shared.change(|desk| match urgent {
                true => desk.urgent_answers.push((run, answer)),
                false => desk.answers.push_back(answer),
            });
        }
    }
}

impl<C> Drop for Reader<C> {
    fn drop(&mut self) {
        self.shared.change(|desk| desk.closed = true);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.change(|desk| desk.closed = true);
    }
}

impl Ahead {
    /// Waits for a run that is urgent.
    fn urgent(&self, run: Run) -> Option<Answer> {
        self.shared.wait(|desk| {
            let at = desk.urgent_answers.iter().position(|(known, _)| *known == run)?;
            Some(desk.urgent_answers.swap_remove(at).1)
        })
    }
}

/// Hands over what was read. A reader that is gone reads nothing any more.
fn deliver(answer: Option<Answer>, pages: &mut [Page]) -> Result<(), ReadError> {
    pages.copy_from_slice(&answer.ok_or(ReadError::NoCard)??);
    Ok(())
}

impl Card for Ahead {
    fn bytes(&self, file: CardFile) -> u64 {
        FILES.iter().zip(self.bytes).find(|(known, _)| **known == file).map_or(0, |(_, bytes)| bytes)
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let run = Run { file, first, pages: pages.len() };
        match self.announced.iter().position(|known| *known == run) {
            Some(at) => drop(self.announced.remove(at)),
            None => self.shared.change(|desk| desk.urgent.push_back(run)),
        }
        deliver(self.urgent(run), pages)
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        let run = Run { file, first: page, pages: 1 };
        if self.announced.contains(&run) {
            return;
        }
        if self.announced.len() == ANNOUNCED
            && let Some(oldest) = self.announced.pop_front()
        {
            self.urgent(oldest);
        }
        self.announced.push_back(run);
        self.shared.change(|desk| desk.urgent.push_back(run));
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        let run = Run { file, first: page, pages: 1 };
        !self.announced.contains(&run)
            || self.shared.desk().urgent_answers.iter().any(|(known, _)| *known == run)
    }

    fn read_ahead(&self) -> u32 {
        self.most
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        let run = Run { file, first, pages: pages as usize };
        let most = self.most as usize;
        self.shared.change(|desk| {
            let waiting: usize = desk.begun.iter().map(|run| run.pages).sum();
            if waiting + run.pages <= most {
                desk.begun.push_back(run);
            }
        });
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let wanted = Run { file, first, pages: pages.len() };
        loop {
            if self.shared.desk().begun.is_empty() {
                return self.read(file, first, pages);
            }
            // One that is not wanted is waited for as well: it may be half read.
            let oldest = self.shared.wait(|desk| {
                let answer = desk.answers.pop_front()?;
                Some((desk.begun.pop_front()?, answer))
            });
            match oldest {
                Some((run, answer)) if run == wanted => return deliver(Some(answer), pages),
                Some(_) => {}
                None => return Err(ReadError::NoCard),
            }
        }
    }
}
