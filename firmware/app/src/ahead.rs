//! A slot whose card is read by a second core while the first one computes.
//!
//! [`divide`] makes two halves: [`Front`] is the slot for everybody else, and [`Back`] works with the real slot on the other core. Between them are queues without locks, for one sender and one receiver each. A page belongs
//! to whoever has it in hand or in a queue, so the cores never look at the same one.
//!
//! ```text
//! core 0: Front ── runs: read these sectors ahead ────────────────────► Back :core 1
//!           ▲ ▲ └─ jobs: what is waited for, before the next run ────────► │
//!           │ └─── full: sectors of the runs, in order ◄───────────────────┤   (empty ones go back)
//!           └───── answers to jobs ◄───────────────────────────────────────┘
//! ```

mod back;

use heapless::spsc::{Consumer, Producer, Queue};
use heapless::{Deque, Vec};
use pageformer_fat32::{BlockDevice, DeviceError, SECTOR_BYTES};

pub use back::Back;

use crate::CardSlot;

/// Sectors that can be begun before they are asked for.
const AHEAD: usize = 48;
/// Sectors that are read with one command at most: the runs that the memory plan makes.
const RUN: usize = AHEAD / 2;
/// Sectors of the runs that wait for the front, besides one run that is being read or handed over.
const STORE: usize = AHEAD - RUN;
/// Single sectors that may be announced.
const ANNOUNCED: usize = 2;
/// Those, and one that is waited for.
const SINGLES: usize = ANNOUNCED + 1;

type Sector = [u8; SECTOR_BYTES];

/// Neighbouring sectors, at most [`RUN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    sectors: usize,
}

/// A sector of a run; an error is the whole run's.
type Full = Result<&'static mut Sector, DeviceError>;

/// What the front wants done at once.
enum Job {
    Acquire,
    Present,
    /// Nothing of the runs is wanted any more.
    Forget,
    Read {
        sector: u32,
        into: &'static mut Sector,
    },
    Write {
        sector: u32,
        from: &'static mut Sector,
    },
}

/// What became of it. Sectors come back.
enum Answer {
    /// The card's sectors; 0 if there is none.
    Acquired(u32),
    Present(bool),
    Forgotten,
    Read(Single),
    Written(&'static mut Sector, Result<(), DeviceError>),
}

/// A sector that was read by itself.
struct Single {
    sector: u32,
    bytes: &'static mut Sector,
    result: Result<(), DeviceError>,
}

/// Where cards with DMA read to.
#[repr(align(16))]
struct Buffer([u8; RUN * SECTOR_BYTES]);

/// The memory between the halves: a static variable, where the card's DMA reaches.
pub struct Shared {
    runs: Queue<Run, { AHEAD + 1 }>,
    full: Queue<Full, { AHEAD + 1 }>,
    empty: Queue<&'static mut Sector, { STORE + 1 }>,
    jobs: Queue<Job, { SINGLES + 2 }>,
    answers: Queue<Answer, { SINGLES + 2 }>,
    buffer: Buffer,
    store: [Sector; STORE],
    singles: [Sector; SINGLES],
}

impl Shared {
    /// Nothing is on its way.
    pub const fn new() -> Self {
        Self {
            runs: Queue::new(),
            full: Queue::new(),
            empty: Queue::new(),
            jobs: Queue::new(),
            answers: Queue::new(),
            buffer: Buffer([0; RUN * SECTOR_BYTES]),
            store: [[0; SECTOR_BYTES]; STORE],
            singles: [[0; SECTOR_BYTES]; SINGLES],
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// The slot, as everybody else sees it.
pub struct Front {
    runs: Producer<'static, Run>,
    full: Consumer<'static, Full>,
    empty: Producer<'static, &'static mut Sector>,
    jobs: Producer<'static, Job>,
    answers: Consumer<'static, Answer>,
    /// Runs that were begun and not finished, the oldest first.
    begun: Deque<Run, AHEAD>,
    /// Sectors that were announced, the oldest first.
    announced: Vec<u32, ANNOUNCED>,
    /// What became of some of them while something else was waited for.
    early: Vec<Single, ANNOUNCED>,
    /// Memory for single sectors that is not on its way.
    singles: Vec<&'static mut Sector, SINGLES>,
    sectors: u32,
    wait: fn(),
}

/// The two halves. `wait` is called again and again while there is nothing to do but to wait for the other half.
pub fn divide(shared: &'static mut Shared, wait: fn()) -> (Front, Back) {
    let Shared { runs, full, empty, jobs, answers, buffer, store, singles } = shared;
    let ((send_run, receive_run), (send_full, receive_full)) = (runs.split(), full.split());
    let ((mut send_empty, receive_empty), (send_job, receive_job)) = (empty.split(), jobs.split());
    let (send_answer, receive_answer) = answers.split();
    for sector in store {
        // All of them fit.
        let _ = send_empty.enqueue(sector);
    }
    let front = Front {
        runs: send_run,
        full: receive_full,
        empty: send_empty,
        jobs: send_job,
        answers: receive_answer,
        begun: Deque::new(),
        announced: Vec::new(),
        early: Vec::new(),
        singles: singles.iter_mut().collect(),
        sectors: 0,
        wait,
    };
    let back = Back {
        runs: receive_run,
        full: send_full,
        empty: receive_empty,
        jobs: receive_job,
        answers: send_answer,
        buffer,
        held: Ok(0..0),
    };
    (front, back)
}

impl Front {
    /// What the other half has next in a queue of its own.
    fn next<T>(queue: &mut Consumer<'static, T>, wait: fn()) -> T {
        loop {
            if let Some(next) = queue.dequeue() {
                return next;
            }
            wait();
        }
    }

    /// Has a job done and waits for it. `None` if there is no room for it, which there always is.
    fn call(&mut self, job: Job) -> Option<Answer> {
        self.jobs.enqueue(job).ok()?;
        loop {
            match Self::next(&mut self.answers, self.wait) {
                // It was announced.
                Answer::Read(single) => self.early.push(single).ok()?,
                answer => return Some(answer),
            }
        }
    }

    /// Lets the other half read a sector before the next run. `false` if there is no memory for it.
    fn post(&mut self, sector: u32) -> bool {
        match self.singles.pop() {
            Some(into) => self.jobs.enqueue(Job::Read { sector, into }).is_ok(),
            None => false,
        }
    }

    /// Waits for a sector that was posted, and copies it.
    fn receive_single(&mut self, sector: u32, into: &mut [u8]) -> Result<(), DeviceError> {
        let known = self.early.iter().position(|single| single.sector == sector);
        let mut single = known.map(|at| self.early.swap_remove(at));
        while single.is_none() {
            match Self::next(&mut self.answers, self.wait) {
                Answer::Read(found) if found.sector == sector => single = Some(found),
                // One that was announced.
                Answer::Read(other) => self.early.push(other).map_err(|_| DeviceError::Io)?,
                _ => return Err(DeviceError::Io),
            }
        }
        let Single { bytes, result, .. } = single.ok_or(DeviceError::Io)?;
        if result.is_ok() {
            into.copy_from_slice(bytes.get(..into.len()).unwrap_or(&[]));
        }
        // All of them fit.
        let _ = self.singles.push(bytes);
        result
    }

    /// Forgets the sector that was announced first.
    fn forget_announced(&mut self) {
        if !self.announced.is_empty() {
            let sector = self.announced.remove(0);
            // It is not wanted, nor is its error.
            let _ = self.receive_single(sector, &mut []);
        }
    }

    /// Lets the other half read a run behind all others. `false` if it has enough to do.
    fn begin(&mut self, run: Run) -> bool {
        let waiting: usize = self.begun.iter().map(|run| run.sectors).sum();
        waiting + run.sectors <= AHEAD
            && self.begun.push_back(run).is_ok()
            // There is room: never more runs are on their way than were begun.
            && self.runs.enqueue(run).is_ok()
    }

    /// Waits for the oldest run that was begun, and copies it if it is wanted.
    fn receive(&mut self, into: Option<&mut [u8]>) -> Result<(), DeviceError> {
        let run = self.begun.pop_front().ok_or(DeviceError::Io)?;
        let mut pieces = into.map(|into| into.chunks_exact_mut(SECTOR_BYTES));
        for _ in 0..run.sectors {
            let sector = Self::next(&mut self.full, self.wait)?;
            if let Some(piece) = pieces.as_mut().and_then(Iterator::next) {
                piece.copy_from_slice(sector);
            }
            // All of them fit.
            let _ = self.empty.enqueue(sector);
        }
        Ok(())
    }

    /// Drops everything that was begun.
    fn forget(&mut self) {
        if self.begun.is_empty() {
            return;
        }
        self.call(Job::Forget);
        self.begun.clear();
        while let Some(sector) = self.full.dequeue() {
            if let Ok(sector) = sector {
                let _ = self.empty.enqueue(sector);
            }
        }
    }
}

/// `buf` in pieces of a run each.
fn runs(first: u32, buf: &mut [u8]) -> impl Iterator<Item = (Run, &mut [u8])> {
    let firsts = (0..).map_while(move |piece: u32| first.checked_add(piece.checked_mul(RUN as u32)?));
    firsts
        .zip(buf.chunks_mut(RUN * SECTOR_BYTES))
        .map(|(first, piece)| (Run { first, sectors: piece.len() / SECTOR_BYTES }, piece))
}

impl BlockDevice for Front {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    /// A single sector leaves alone what was begun; more of them come instead of it.
    fn read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        if buf.len() != SECTOR_BYTES {
            self.forget();
            return self.finish_read(first_sector, buf);
        }
        match self.announced.iter().position(|sector| *sector == first_sector) {
            Some(at) => drop(self.announced.remove(at)),
            None if self.post(first_sector) => {}
            None => return Err(DeviceError::Io),
        }
        self.receive_single(first_sector, buf)
    }

    fn read_ahead(&self) -> u32 {
        AHEAD as u32
    }

    fn begin_sector(&mut self, sector: u32) {
        if self.announced.contains(&sector) {
            return;
        }
        if self.announced.is_full() {
            self.forget_announced();
        }
        if self.post(sector) {
            // There is room now.
            let _ = self.announced.push(sector);
        }
    }

    fn has_arrived(&mut self, sector: u32) -> bool {
        while let Some(Answer::Read(single)) = self.answers.dequeue() {
            // There is room for all that were announced.
            let _ = self.early.push(single);
        }
        !self.announced.contains(&sector) || self.early.iter().any(|single| single.sector == sector)
    }

    fn begin_read(&mut self, first_sector: u32, sectors: u32) {
        let (mut first, end) = (first_sector, first_sector.saturating_add(sectors));
        while first < end {
            let sectors = (end - first).min(RUN as u32);
            if !self.begin(Run { first, sectors: sectors as usize }) {
                return;
            }
            first += sectors;
        }
    }

    fn finish_read(&mut self, first_sector: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        runs(first_sector, buf).try_for_each(|(run, piece)| {
            while let Some(oldest) = self.begun.front() {
                if *oldest == run {
                    return self.receive(Some(piece));
                }
                // It is not wanted, nor is its error.
                let _ = self.receive(None);
            }
            if self.begin(run) { self.receive(Some(piece)) } else { Err(DeviceError::Io) }
        })
    }

    /// What was begun before was read before, and may be old: whoever writes knows what else he has asked for.
    fn write(&mut self, first_sector: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        for (sector, bytes) in (first_sector..).zip(bytes.chunks(SECTOR_BYTES)) {
            let from = self.singles.pop().ok_or(DeviceError::Io)?;
            if let Some(into) = from.get_mut(..bytes.len()) {
                into.copy_from_slice(bytes);
            }
            let Some(Answer::Written(from, result)) = self.call(Job::Write { sector, from }) else {
                return Err(DeviceError::Io);
            };
            let _ = self.singles.push(from);
            result?;
        }
        Ok(())
    }
}

impl CardSlot for Front {
    fn acquire(&mut self) -> bool {
        // What was begun is of the card that was there before.
        self.forget();
        while !self.announced.is_empty() {
            self.forget_announced();
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
