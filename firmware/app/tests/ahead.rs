//! A slot that is read by another core, here by another thread or by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pageformer_fat32::{BlockDevice, DeviceError};
use pageformer_firmware::{Back, CardSlot, Front, divide};

/// What the slot and the tests both know.
#[derive(Default)]
struct State {
    /// Reads: first sector and how many.
    log: Vec<(u32, usize)>,
    bad: Option<u32>,
    /// Changes what is on the card.
    card: u8,
    written: Vec<(u32, Vec<u8>)>,
}

struct Slot(Arc<Mutex<State>>);

const SECTORS: u32 = 4000;

fn byte(card: u8, sector: u32, at: usize) -> u8 {
    (sector.wrapping_mul(37) as usize + at * 11) as u8 ^ card
}

impl BlockDevice for Slot {
    fn sectors(&self) -> u32 {
        SECTORS
    }

    fn read(&mut self, first: u32, buf: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.0.lock().unwrap();
        state.log.push((first, buf.len() / 512));
        for (sector, bytes) in (first..).zip(buf.chunks_mut(512)) {
            if state.bad == Some(sector) {
                return Err(DeviceError::Io);
            }
            bytes.iter_mut().enumerate().for_each(|(at, into)| *into = byte(state.card, sector, at));
        }
        Ok(())
    }

    fn write(&mut self, first: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.0.lock().unwrap();
        if state.bad == Some(first) {
            return Err(DeviceError::Io);
        }
        state.written.push((first, bytes.to_vec()));
        Ok(())
    }
}

impl CardSlot for Slot {
    fn acquire(&mut self) -> bool {
        true
    }

    fn present(&mut self) -> bool {
        self.0.lock().unwrap().bad.is_none()
    }
}

fn halves() -> (Front, Back, Slot) {
    let (front, back) = divide(Box::leak(Box::default()), thread::yield_now);
    (front, back, Slot(Arc::default()))
}

/// Runs `test` with the back on a thread of its own.
fn with_thread(test: impl FnOnce(&mut Front, &Mutex<State>)) {
    let (mut front, mut back, mut slot) = halves();
    let state = slot.0.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while back.turn(&mut slot) || !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        });
        assert!(front.acquire());
        assert_eq!(front.sectors(), SECTORS);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut front, &state)));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

fn right(card: u8, first: u32, buf: &[u8]) -> bool {
    (first..)
        .zip(buf.chunks(512))
        .all(|(sector, bytes)| (0..512).all(|at| bytes[at] == byte(card, sector, at)))
}

#[test]
fn what_was_begun_is_read_before_it_is_asked_for() {
    let (mut front, mut back, mut slot) = halves();
    let state = slot.0.clone();
    front.begin_read(100, 14);
    front.begin_read(114, 10);
    assert!(state.lock().unwrap().log.is_empty(), "the front reads nothing itself");
    while back.turn(&mut slot) {}
    assert_eq!(state.lock().unwrap().log, [(100, 14), (114, 10)]);
    // The back does nothing any more, so this is what it has read.
    let mut buf = [0; 14 * 512];
    front.finish_read(100, &mut buf).unwrap();
    assert!(right(0, 100, &buf));
    front.finish_read(114, &mut buf[..10 * 512]).unwrap();
    assert!(right(0, 114, &buf[..10 * 512]));
}

/// The back reads as far ahead as the front may ask, whatever the length of the runs, as long as the last begins within the first half of that.
#[test]
fn short_runs_are_read_as_far_ahead_as_long_ones() {
    for length in 1..=24 {
        let (mut front, mut back, mut slot) = halves();
        let mut begun = Vec::new();
        while begun.len() as u32 * length <= front.read_ahead() / 2 {
            let first = 100 + begun.len() as u32 * length;
            begun.push((first, length as usize));
            front.begin_read(first, length);
        }
        while back.turn(&mut slot) {}
        assert_eq!(slot.0.lock().unwrap().log, begun);
        let mut buf = vec![0; length as usize * 512];
        front.finish_read(100, &mut buf).unwrap();
        assert!(right(0, 100, &buf));
    }
}

#[test]
fn what_is_waited_for_comes_before_runs_that_have_not_begun() {
    let (mut front, mut back, mut slot) = halves();
    let state = slot.0.clone();
    for first in [100, 112, 124] {
        front.begin_read(first, 12);
    }
    assert!(back.turn(&mut slot));
    // Of three that are announced, the first is forgotten, which takes waiting for it.
    front.begin_sector(7);
    front.begin_sector(8);
    assert!(
        !front.has_arrived(7) && !front.has_arrived(8) && front.has_arrived(9),
        "nobody waits for what was not announced"
    );
    assert!(back.turn(&mut slot));
    assert!(front.has_arrived(7) && !front.has_arrived(8));
    front.begin_sector(9);
    while back.turn(&mut slot) {}
    let log = [(100, 12), (7, 1), (8, 1), (9, 1), (112, 12), (124, 12)];
    assert_eq!(state.lock().unwrap().log, log);
    // The back does nothing any more, so this is what it has read.
    let mut buf = [0; 12 * 512];
    assert!(front.has_arrived(9) && front.has_arrived(8));
    for sector in [9, 8] {
        front.read(sector, &mut buf[..512]).unwrap();
        assert!(right(0, sector, &buf[..512]));
    }
    for first in [100, 112] {
        front.finish_read(first, &mut buf).unwrap();
        assert!(right(0, first, &buf));
    }
}

#[test]
fn any_order_gives_what_is_on_the_card() {
    with_thread(|front, _| {
        let mut random = 12345u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        let (mut begun, mut announced) = (std::collections::VecDeque::new(), 0);
        let mut buf = vec![0; 60 * 512];
        for round in 0..1500 {
            let (first, sectors) = (next(SECTORS - 60), 1 + next(if round % 7 == 0 { 59 } else { 16 }));
            let buf = &mut buf[..sectors as usize * 512];
            match next(6) {
                0 | 1 => {
                    let waiting: u32 = begun.iter().map(|(_, sectors)| sectors).sum();
                    if waiting + sectors <= front.read_ahead() {
                        front.begin_read(first, sectors);
                        begun.push_back((first, sectors));
                    }
                }
                2 => {
                    front.begin_sector(first);
                    announced = first;
                    // It changes nothing.
                    front.has_arrived(first);
                }
                3 if round % 3 > 0 => {
                    let first = if round % 3 == 1 { announced } else { first };
                    front.read(first, &mut buf[..512]).unwrap();
                    assert!(right(0, first, &buf[..512]));
                }
                3 => {
                    // It comes instead of what was begun.
                    front.read(first, buf).unwrap();
                    assert!(right(0, first, buf));
                }
                // What was not begun.
                4 if round % 50 == 0 => {
                    begun.clear();
                    front.finish_read(first, buf).unwrap();
                    assert!(right(0, first, buf));
                }
                // Sometimes not the oldest.
                _ => {
                    if round % 20 == 0 {
                        begun.pop_front();
                    }
                    let Some((first, sectors)) = begun.pop_front() else { continue };
                    let mut buf = vec![0; sectors as usize * 512];
                    front.finish_read(first, &mut buf).unwrap();
                    assert!(right(0, first, &buf), "round {round}");
                }
            }
        }
    });
}

#[test]
fn errors_come_with_the_run_that_has_them() {
    with_thread(|front, state| {
        state.lock().unwrap().bad = Some(205);
        let mut buf = [0; 10 * 512];
        front.begin_read(200, 10);
        front.begin_read(210, 10);
        front.begin_sector(205);
        front.begin_sector(206);
        assert_eq!(front.read(205, &mut buf[..512]), Err(DeviceError::Io));
        front.read(206, &mut buf[..512]).unwrap();
        assert!(right(0, 206, &buf[..512]));
        assert_eq!(front.finish_read(200, &mut buf), Err(DeviceError::Io));
        front.finish_read(210, &mut buf).unwrap();
        assert!(right(0, 210, &buf));
        assert!(!front.present());
    });
}

#[test]
fn another_card_begins_with_nothing_of_the_last() {
    with_thread(|front, state| {
        for card in 1..20 {
            front.begin_sector(70);
            front.begin_read(0, 16);
            front.begin_read(16, 16);
            front.begin_read(32, 16);
            // No room, so it is read when it is asked for.
            front.begin_read(48, 21);
            state.lock().unwrap().card = card;
            assert!(front.acquire());
            let mut buf = [0; 16 * 512];
            front.finish_read(0, &mut buf).unwrap();
            assert!(right(card, 0, &buf));
            front.read(70, &mut buf[..512]).unwrap();
            assert!(right(card, 70, &buf[..512]));
        }
    });
}

#[test]
fn writes_come_in_between() {
    with_thread(|front, state| {
        front.begin_read(300, 16);
        let bytes: Vec<u8> = (0..20 * 512).map(|at| (at / 5) as u8).collect();
        front.write(70, &bytes).unwrap();
        let mut buf = [0; 16 * 512];
        front.finish_read(300, &mut buf).unwrap();
        assert!(right(0, 300, &buf));
        let written = state.lock().unwrap().written.clone();
        let sectors: Vec<_> = (70..).zip(bytes.chunks(512).map(<[u8]>::to_vec)).collect();
        assert_eq!(written, sectors);
        state.lock().unwrap().bad = Some(90);
        assert_eq!(front.write(90, &bytes[..512]), Err(DeviceError::Io));
        front.read(91, &mut buf).unwrap();
    });
}
