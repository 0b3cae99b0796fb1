//! How fast a card's bus is clocked: as fast as it works.
//!
//! Wires, sockets and cards differ, and what a card promises says little about the wires. So the clock begins at the
//! highest that the board allows, and goes down a step whenever reading at it fails too often. What is
//! read is checked by the card's CRC or, pages, by their own: a clock that is too fast costs time, never a wrong byte.

use pageformer_fat32::DeviceError;

/// Clocks in Hz, each a whole fraction of the 80 MHz that an ESP32's SPI is clocked from.
pub const CLOCKS: [u32; 5] = [40_000_000, 26_666_666, 20_000_000, 10_000_000, 4_000_000];

/// The clock, in Hz, that a card is addressed at until it has said that it is ready.
pub const START_CLOCK: u32 = 400_000;

/// What a failure weighs in [`Pace`], where a good read weighs one the other way: a card has to be reset after a failure,
/// which takes about as long as so many reads.
const FAILURE: u32 = 16;
/// The weight at which a clock is given up: a fourth failure with hardly a good read in between.
const LIMIT: u32 = 3 * FAILURE;

/// Those of [`CLOCKS`] that are not above `most` Hz.
pub const fn clocks_up_to(most: u32) -> &'static [u32] {
    let mut clocks: &'static [u32] = &CLOCKS;
    while let [fastest, slower @ ..] = clocks
        && *fastest > most
    {
        clocks = slower;
    }
    clocks
}

/// The clock that is in use, and whether it does.
#[derive(Clone, Debug)]
pub struct Pace {
    clocks: &'static [u32],
    step: usize,
    weight: u32,
}

impl Pace {
    /// Begins with the first of `clocks`, in Hz, fastest first. None at all stands for a clock that cannot be changed.
    pub const fn new(clocks: &'static [u32]) -> Self {
        Self { clocks, step: 0, weight: 0 }
    }

    /// The clock in Hz; `None` if it cannot be changed.
    pub fn hertz(&self) -> Option<u32> {
        self.clocks.get(self.step).copied()
    }

    /// Begins anew, as for another card.
    pub fn restart(&mut self) {
        *self = Self::new(self.clocks);
    }

    /// Something was read at this clock.
    pub fn good(&mut self) {
        self.weight = self.weight.saturating_sub(1);
    }

    /// Something could not be read at this clock. Goes down a step if that has happened too often.
    pub fn bad(&mut self) {
        self.weight += FAILURE;
        if self.weight > LIMIT {
            self.slower();
        }
    }

    /// Goes down a step; `false` if there is none.
    pub fn slower(&mut self) -> bool {
        let lower = self.step + 1 < self.clocks.len();
        if lower {
            self.step += 1;
            self.weight = 0;
        }
        lower
    }
}

/// A card whose clock can be changed, whatever the bus.
pub trait Paced {
    /// Its clock.
    fn pace(&mut self) -> &mut Pace;

    /// Whether there is a card, as quickly as can be told.
    fn answers(&mut self) -> bool;

    /// Resets the card and makes it ready at the clock in use.
    fn restart(&mut self) -> bool;

    /// Reads once; whole sectors, which there are. `verify`: what comes is held against the card's CRC.
    fn attempt(&mut self, first_sector: u32, buf: &mut [u8], verify: bool) -> bool;

    /// Reads: when that fails, the card is reset and read again, then at lower clocks. A lower clock that helps is kept; if none
    /// does, the fault is the card's, and the clock stays what it was. `verify` is for the first time; later ones always are.
    ///
    /// # Errors
    /// If the card is gone, or has these sectors at no clock.
    fn persist(&mut self, first_sector: u32, buf: &mut [u8], verify: bool) -> Result<(), DeviceError> {
        let before = self.pace().clone();
        if self.attempt(first_sector, buf, verify) {
            self.pace().good();
            return Ok(());
        }
        loop {
            self.pace().bad();
            if !self.answers() {
                return Err(DeviceError::Removed);
            }
            if self.restart() && self.attempt(first_sector, buf, true) {
                self.pace().good();
                return Ok(());
            }
            if !self.pace().slower() {
                *self.pace() = before;
                // What is read next finds the card at the clock that worked.
                self.restart();
                return Err(DeviceError::Io);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn the_board_bounds_the_clock() {
        assert_eq!(clocks_up_to(40_000_000), CLOCKS);
        assert_eq!(clocks_up_to(25_000_000), &CLOCKS[2..]);
        assert!(clocks_up_to(1_000_000).is_empty());
        assert!(CLOCKS.iter().all(|clock| 80_000_000 / clock * clock >= 79_999_998));
    }

    #[test]
    fn a_clock_that_fails_now_and_then_stays() {
        let mut pace = Pace::new(&CLOCKS);
        for _ in 0..100 {
            pace.bad();
            (0..40).for_each(|_| pace.good());
        }
        assert_eq!(pace.hertz(), Some(CLOCKS[0]));
    }

    #[test]
    fn a_clock_that_fails_often_is_given_up_and_the_last_is_kept() {
        let mut pace = Pace::new(&CLOCKS);
        let mut seen = vec![];
        for _ in 0..100 {
            pace.bad();
            pace.good();
            seen.extend(pace.hertz().filter(|hertz| seen.last() != Some(hertz)));
        }
        assert_eq!(seen, CLOCKS);
        pace.restart();
        assert_eq!(pace.hertz(), Some(CLOCKS[0]));
    }

    #[test]
    fn without_clocks_nothing_changes() {
        let mut pace = Pace::new(&[]);
        (0..100).for_each(|_| pace.bad());
        assert_eq!(pace.hertz(), None);
        assert!(!pace.slower());
    }
}
