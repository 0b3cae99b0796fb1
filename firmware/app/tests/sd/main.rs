//! A card that fails at clocks that are too fast for it, has bad sectors, or is pulled out.

mod card;

use card::{Bus, FakeCard, NoDelay};
use pageformer_fat32::{BlockDevice, DeviceError};
use pageformer_firmware::{CLOCKS, CardSlot, SdSlot};

const SECTORS: u32 = 1024;

fn slot(card: FakeCard) -> SdSlot<Bus, NoDelay> {
    SdSlot::new(Bus::new(card), NoDelay, &CLOCKS)
}

/// Reads `sectors` and holds them against what the card was made of.
fn read(slot: &mut SdSlot<Bus, NoDelay>, first: u32, sectors: usize) -> Result<(), DeviceError> {
    let mut buf = vec![0; sectors * 512];
    slot.read(first, &mut buf)?;
    for (sector, bytes) in (first..).zip(buf.chunks(512)) {
        assert_eq!(bytes, card::sector(sector), "sector {sector}");
    }
    Ok(())
}

#[test]
fn a_good_card_runs_at_the_fastest_clock() {
    let mut slot = slot(FakeCard::new(SECTORS));
    assert!(slot.acquire());
    assert_eq!(slot.sectors(), SECTORS);
    read(&mut slot, 3, 1).unwrap();
    read(&mut slot, 100, 30).unwrap();
    assert_eq!(slot.hertz(), Some(CLOCKS[0]));
    slot.spi(|bus| {
        assert_eq!(bus.card.single_reads, 1);
        assert_eq!(bus.card.multiple_reads, 1, "a run is one command");
        assert_eq!(bus.card.broken_off, 0, "the card is selected from each command to the end of its data");
        assert_eq!(bus.hertz, CLOCKS[0]);
    });
}

#[test]
fn the_clock_goes_down_to_what_works_and_stays_there() {
    for (step, works) in CLOCKS.into_iter().enumerate() {
        let mut card = FakeCard::new(SECTORS);
        card.fastest = works;
        let mut slot = slot(card);
        assert!(slot.acquire());
        read(&mut slot, 7, 20).unwrap();
        assert_eq!(slot.hertz(), Some(CLOCKS[step]));
        slot.spi(|bus| bus.card.resets = 0);
        read(&mut slot, 8, 20).unwrap();
        slot.spi(|bus| assert_eq!((bus.hertz, bus.card.resets), (works, 0)));
    }
}

#[test]
fn another_card_begins_at_the_fastest_clock_again() {
    let mut card = FakeCard::new(SECTORS);
    card.fastest = 10_000_000;
    let mut slot = slot(card);
    assert!(slot.acquire());
    read(&mut slot, 0, 2).unwrap();
    assert_eq!(slot.hertz(), Some(10_000_000));
    slot.spi(|bus| bus.card = FakeCard::new(SECTORS));
    assert!(slot.acquire());
    read(&mut slot, 0, 2).unwrap();
    assert_eq!(slot.hertz(), Some(CLOCKS[0]));
}

#[test]
fn a_flipped_bit_now_and_then_is_read_again_at_the_same_clock() {
    let mut card = FakeCard::new(SECTORS);
    card.flip_every = Some(200);
    let mut slot = slot(card);
    assert!(slot.acquire());
    for first in 0..100 {
        read(&mut slot, first, 5).unwrap();
    }
    assert_eq!(slot.hertz(), Some(CLOCKS[0]));
    slot.spi(|bus| assert!(bus.card.resets > 2));
}

#[test]
fn a_clock_that_fails_at_every_other_read_is_given_up() {
    let mut card = FakeCard::new(SECTORS);
    card.flip_every = Some(8);
    card.flips_above = 20_000_000;
    let mut slot = slot(card);
    assert!(slot.acquire());
    for first in 0..100 {
        read(&mut slot, first, 4).unwrap();
    }
    assert_eq!(slot.hertz(), Some(20_000_000));
}

#[test]
fn a_bad_sector_is_an_error_and_does_not_cost_the_clock() {
    let mut card = FakeCard::new(SECTORS);
    card.bad_sector = Some(50);
    let mut slot = slot(card);
    assert!(slot.acquire());
    for _ in 0..10 {
        assert_eq!(read(&mut slot, 48, 4), Err(DeviceError::Io));
        assert_eq!(read(&mut slot, 50, 1), Err(DeviceError::Io));
        read(&mut slot, 51, 4).unwrap();
    }
    assert_eq!(slot.hertz(), Some(CLOCKS[0]));
}

#[test]
fn a_card_that_is_pulled_out_is_noticed_and_so_is_its_return() {
    let mut slot = slot(FakeCard::new(SECTORS));
    assert!(slot.acquire());
    slot.spi(|bus| bus.pulled_out = true);
    assert_eq!(read(&mut slot, 0, 8), Err(DeviceError::Removed));
    assert!(!slot.present());
    assert!(!slot.acquire());
    slot.spi(|bus| {
        bus.pulled_out = false;
        bus.card = FakeCard::new(SECTORS);
    });
    assert!(slot.present());
    assert!(slot.acquire());
    read(&mut slot, 0, 8).unwrap();
}

#[test]
fn nothing_is_read_beyond_the_end() {
    let mut slot = slot(FakeCard::new(SECTORS));
    assert!(slot.acquire());
    read(&mut slot, SECTORS - 2, 2).unwrap();
    assert_eq!(read(&mut slot, SECTORS - 2, 3), Err(DeviceError::OutOfRange));
    assert_eq!(read(&mut slot, u32::MAX, 1), Err(DeviceError::OutOfRange));
}

/// As the pager reads: without the card's CRC, and a sector whose contents are wrong again.
#[test]
fn what_was_read_unverified_and_is_wrong_is_verified_and_costs_the_clock() {
    let mut card = FakeCard::new(SECTORS);
    card.fastest = 10_000_000;
    let mut slot = slot(card);
    assert!(slot.acquire());
    let mut buf = vec![0; 16 * 512];
    slot.read_unverified(32, &mut buf).unwrap();
    assert_ne!(buf[..512], card::sector(32), "it is not looked at");
    assert_eq!(slot.hertz(), Some(CLOCKS[0]));
    // A page of checksums comes in between.
    slot.read_unverified(900, &mut buf[..512]).unwrap();
    for again in [32, 33, 34] {
        slot.read_unverified(again, &mut buf[..512]).unwrap();
        assert_eq!(buf[..512], card::sector(again));
    }
    assert_eq!(slot.hertz(), Some(10_000_000));
    slot.read_unverified(48, &mut buf).unwrap();
    assert_eq!(buf[15 * 512..], card::sector(63));
}
