//! The half that reads.

use core::ops::Range;

use heapless::spsc::{Consumer, Producer};
use pageformer_fat32::{DeviceError, SECTOR_BYTES};

use super::{Answer, Buffer, Full, Job, Run, Sector, Single};
use crate::CardSlot;

/// The half for the core that has the card.
pub struct Back {
    pub(super) runs: Consumer<'static, Run>,
    pub(super) full: Producer<'static, Full>,
    pub(super) empty: Consumer<'static, &'static mut Sector>,
    pub(super) jobs: Consumer<'static, Job>,
    pub(super) answers: Producer<'static, Answer>,
    pub(super) buffer: &'static mut Buffer,
    /// The sectors in `buffer` that were not handed over yet; or the error that the run ended with.
    pub(super) held: Result<Range<usize>, DeviceError>,
}

impl Back {
    /// Does the next piece of work with the slot, which is always the same one; `false` if there is none. What is waited for comes before what is
    /// read ahead.
    pub fn turn<S: CardSlot>(&mut self, slot: &mut S) -> bool {
        if let Some(job) = self.jobs.dequeue() {
            let answer = self.work(job, slot);
            // There is room: an answer takes the place of a job, and there are never more jobs than places.
            let _ = self.answers.enqueue(answer);
            return true;
        }
        match &mut self.held {
            Ok(held) if held.start >= held.end => {
                let Some(run) = self.runs.dequeue() else { return false };
                let bytes = self.buffer.0.get_mut(..run.sectors * SECTOR_BYTES);
                let result = bytes.ok_or(DeviceError::OutOfRange).and_then(|into| slot.read(run.first, into));
                self.held = result.map(|()| 0..run.sectors);
                true
            }
            _ => self.hand_over(),
        }
    }

    fn work<S: CardSlot>(&mut self, job: Job, slot: &mut S) -> Answer {
        match job {
            Job::Acquire => Answer::Acquired(if slot.acquire() { slot.sectors() } else { 0 }),
            Job::Present => Answer::Present(slot.present()),
            Job::Forget => {
                while self.runs.dequeue().is_some() {}
                self.held = Ok(0..0);
                Answer::Forgotten
            }
            Job::Read { sector, into } => {
                let result = slot.read(sector, into);
                Answer::Read(Single { sector, bytes: into, result })
            }
            Job::Write { sector, from } => {
                let result = slot.write(sector, from);
                Answer::Written(from, result)
            }
        }
    }

    /// Hands one sector over, or the error instead of all of them. `false` if there is no room.
    fn hand_over(&mut self) -> bool {
        if !self.full.ready() {
            return false;
        }
        let next = match &mut self.held {
            Err(error) => Err(*error),
            Ok(held) => {
                let bytes = self.buffer.0.as_chunks().0.get(held.start);
                let (Some(bytes), Some(sector)) = (bytes, self.empty.dequeue()) else { return false };
                *sector = *bytes;
                held.start += 1;
                Ok(sector)
            }
        };
        if next.is_err() {
            self.held = Ok(0..0);
        }
        self.full.enqueue(next).is_ok()
    }
}
