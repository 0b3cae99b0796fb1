//! A slot whose card is read by a second core while the first one computes.
//!
//! [`divide`] makes two halves: [`Front`] is the slot for everybody else, and [`Back`] works with the real slot on the other core. Between them are two queues without locks, for one sender and one receiver each: jobs go one way, answers the other,
//! in the same order. A buffer belongs to whoever has it in hand or in a queue, so the cores never look at the same one.
//!
//! ```text
//! core 0: Front ── jobs: read these sectors into this buffer ─► Back :core 1
//!           ▲                                                     │
//!           └───────────── answers: here it is ───────────────────┘
//! ```

use heapless::spsc::{Consumer, Producer, Queue};
use heapless::{Deque, Vec};
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

use crate::CardSlot;

/// Sectors that are read with one command at most.
const RUN: usize = 16;
/// Buffers: all but one are for what is read ahead, the last for what is waited for.
const BUFFERS: usize = 4;
/// Entries of a queue, which holds one less: every buffer may be on its way, and one job without a buffer.
const QUEUE: usize = BUFFERS + 2;

type Buffer = [u8; RUN * SECTOR_BYTES];

/// What the front wants done.
enum Job {
    Acquire,
    Present,
    Read { run: Run, buffer: &'static mut Buffer },
    Write { run: Run, buffer: &'static mut Buffer },
}

/// What became of it.
enum Answer {
    /// The card's sectors; 0 if there is none.
    Acquired(u32),
    Present(bool),
    /// The buffer comes back, whatever it was for.
    Done {
        run: Run,
        buffer: &'static mut Buffer,
        result: Result<(), DeviceError>,
    },
}

/// Neighbouring sectors, at most [`RUN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    bytes: usize,
}

/// The memory between the halves: a static variable, where the card's DMA reaches.
pub struct Shared {
    jobs: Queue<Job, QUEUE>,
    answers: Queue<Answer, QUEUE>,
    buffers: [Buffer; BUFFERS],
}

impl Shared {
    /// Nothing is on its way.
    pub const fn new() -> Self {
        Self { jobs: Queue::new(), answers: Queue::new(), buffers: [[0; RUN * SECTOR_BYTES]; BUFFERS] }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// The slot, as everybody else sees it.
pub struct Front {
    jobs: Producer<'static, Job>,
    answers: Consumer<'static, Answer>,
    free: Vec<&'static mut Buffer, BUFFERS>,
    /// How many reads were begun and not finished.
    begun: usize,
    /// Answers to some of them, which came while another was waited for.
    early: Deque<Answer, BUFFERS>,
    sectors: u32,
    wait: fn(),
}

/// The half for the core that has the card.
pub struct Back {
    jobs: Consumer<'static, Job>,
    answers: Producer<'static, Answer>,
}

/// The two halves. `wait` is called again and again while there is nothing to do but to wait for the other half.
pub fn divide(shared: &'static mut Shared, wait: fn()) -> (Front, Back) {
    let Shared { jobs, answers, buffers } = shared;
    let (send_job, receive_job) = jobs.split();
    let (send_answer, receive_answer) = answers.split();
    let free = buffers.iter_mut().collect();
    let front = Front {
        jobs: send_job,
        answers: receive_answer,
        free,
        begun: 0,
        early: Deque::new(),
        sectors: 0,
        wait,
    };
    (front, Back { jobs: receive_job, answers: send_answer })
}

impl Back {
    /// Does the next job with the slot, which is always the same one; `false` if there is none.
    pub fn turn<S: CardSlot>(&mut self, slot: &mut S) -> bool {
        let Some(job) = self.jobs.dequeue() else { return false };
        let answer = match job {
            Job::Acquire => Answer::Acquired(if slot.acquire() { slot.sectors() } else { 0 }),
            Job::Present => Answer::Present(slot.present()),
            Job::Read { run, buffer } => {
                let result = match buffer.get_mut(..run.bytes) {
                    Some(into) => slot.read(run.first, into),
                    None => Err(DeviceError::OutOfRange),
                };
                Answer::Done { run, buffer, result }
            }
            Job::Write { run, buffer } => {
                let result = match buffer.get(..run.bytes) {
                    Some(bytes) => slot.write(run.first, bytes),
                    None => Err(DeviceError::OutOfRange),
                };
                Answer::Done { run, buffer, result }
            }
        };
        // There is room: an answer takes the place of a job, and there are never more jobs than places.
        let _ = self.answers.enqueue(answer);
        true
    }
}

impl Front {
    /// The next answer.
    fn next(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.answers.dequeue() {
                return answer;
            }
            (self.wait)();
        }
    }

    /// The answer to the oldest read that was begun; `None` if there is none.
    fn oldest(&mut self) -> Option<Answer> {
        self.begun = self.begun.checked_sub(1)?;
        match self.early.pop_front() {
            Some(answer) => Some(answer),
            None => Some(self.next()),
        }
    }

    /// Has a job done and waits for it.
    fn call(&mut self, job: Job) -> Option<Answer> {
        self.jobs.enqueue(job).ok()?;
        // It is the last in the line.
        while self.early.len() < self.begun {
            let answer = self.next();
            self.early.push_back(answer).ok()?;
        }
        Some(self.next())
    }

    /// Takes the buffer back, and what was read into it if it is `run`.
    fn deliver(&mut self, answer: Answer, wanted: Run, into: &mut [u8]) -> Option<Result<(), DeviceError>> {
        let Answer::Done { run, buffer, result } = answer else { return None };
        let delivered = (run == wanted).then(|| {
            let bytes = buffer.get(..into.len()).ok_or(DeviceError::OutOfRange);
            result.and(bytes).map(|bytes| into.copy_from_slice(bytes))
        });
        // All of them fit.
        let _ = self.free.push(buffer);
        delivered
    }

    /// Reads a run now.
    fn read_run(&mut self, run: Run, into: &mut [u8]) -> Result<(), DeviceError> {
        let buffer = self.free.pop().ok_or(DeviceError::Io)?;
        let answer = self.call(Job::Read { run, buffer }).ok_or(DeviceError::Io)?;
        self.deliver(answer, run, into).unwrap_or(Err(DeviceError::Io))
    }
}

/// `buf` in pieces of a run each.
fn runs(first: u32, buf: &mut [u8]) -> impl Iterator<Item = (Run, &mut [u8])> {
    let firsts = (0..).map_while(move |piece: u32| first.checked_add(piece.checked_mul(RUN as u32)?));
    firsts
        .zip(buf.chunks_mut(RUN * SECTOR_BYTES))
        .map(|(first, piece)| (Run { first, bytes: piece.len() }, piece))
}

impl BlockDevice for Front {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        runs(first_sector, buf).try_for_each(|(run, piece)| self.read_run(run, piece))
    }

    fn read_ahead(&self) -> u32 {
        ((BUFFERS - 1) * RUN) as u32
    }

    fn begin_read(&mut self, first_sector: u32, sectors: u32) {
        let (mut first, end) = (first_sector, first_sector.saturating_add(sectors));
        while first < end {
            let sectors = (end - first).min(RUN as u32);
            // One stays, for what is waited for.
            if self.free.len() < 2 {
                return;
            }
            let Some(buffer) = self.free.pop() else { return };
            let run = Run { first, bytes: sectors as usize * SECTOR_BYTES };
            match self.jobs.enqueue(Job::Read { run, buffer }) {
                Ok(()) => self.begun += 1,
                Err(Job::Read { buffer, .. }) => drop(self.free.push(buffer)),
                Err(_) => {}
            }
            first += sectors;
        }
    }

    fn finish_read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        runs(first_sector, buf).try_for_each(|(run, piece)| {
            while let Some(answer) = self.oldest() {
                if let Some(result) = self.deliver(answer, run, piece) {
                    return result;
                }
            }
            self.read_run(run, piece)
        })
    }

    /// What was begun before was read before, and may be old: whoever writes knows what else he has asked for.
    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut first = first_sector;
        for piece in bytes.chunks(RUN * SECTOR_BYTES) {
            let buffer = self.free.pop().ok_or(DeviceError::Io)?;
            if let Some(into) = buffer.get_mut(..piece.len()) {
                into.copy_from_slice(piece);
            }
            let run = Run { first, bytes: piece.len() };
            let answer = self.call(Job::Write { run, buffer }).ok_or(DeviceError::Io)?;
            self.deliver(answer, run, &mut []).unwrap_or(Err(DeviceError::Io))?;
            first = first.checked_add(RUN as u32).ok_or(DeviceError::OutOfRange)?;
        }
        Ok(())
    }
}

impl CardSlot for Front {
    fn acquire(&mut self) -> bool {
        // What was begun is of the card that was there before.
        while let Some(answer) = self.oldest() {
            self.deliver(answer, Run { first: 0, bytes: 0 }, &mut []);
        }
        self.sectors = match self.call(Job::Acquire) {
            Some(Answer::Acquired(sectors)) => sectors,
            _ => 0,
        };
        self.sectors > 0
    }

    fn present(&mut self) -> bool {
        matches!(self.call(Job::Present), Some(Answer::Present(true)))
    }
}
