//! An SD card (SDHC) on SPI, as the specification of the SD Association has it, as far as it is read.

use std::collections::VecDeque;
use std::convert::Infallible;

use embedded_hal::delay::DelayNs;
use embedded_hal::spi::{ErrorType, Operation, SpiDevice};
use pageformer_firmware::CardBus;

/// What a sector holds: numbers that tell every sector and byte from others.
pub fn sector(number: u32) -> Vec<u8> {
    (0..512).map(|at| (number.wrapping_mul(31).wrapping_add(at * 7) >> (at % 3)) as u8).collect()
}

#[derive(Debug)]
pub struct FakeCard {
    sectors: u32,
    /// Above it every block comes with a flipped bit.
    pub fastest: u32,
    /// Each block with a number divisible by it comes with a flipped bit ...
    pub flip_every: Option<u32>,
    /// ... if the clock is above this one.
    pub flips_above: u32,
    /// Cannot be read.
    pub bad_sector: Option<u32>,
    pub resets: u32,
    pub single_reads: u32,
    pub multiple_reads: u32,
    /// How often the card was let go of in the middle of something.
    pub broken_off: u32,
    awake: bool,
    idle: bool,
    ready: bool,
    /// How often it was asked whether it is ready.
    asked: u32,
    crc: bool,
    application: bool,
    command: Vec<u8>,
    out: VecDeque<u8>,
    /// The next sector of a read of many.
    streaming: Option<u32>,
    blocks: u32,
}

impl FakeCard {
    pub fn new(sectors: u32) -> Self {
        Self {
            sectors,
            fastest: u32::MAX,
            flip_every: None,
            flips_above: 0,
            bad_sector: None,
            resets: 0,
            single_reads: 0,
            multiple_reads: 0,
            broken_off: 0,
            awake: false,
            idle: false,
            ready: false,
            asked: 0,
            crc: false,
            application: false,
            command: vec![],
            out: VecDeque::new(),
            streaming: None,
            blocks: 0,
        }
    }

    /// One byte each way, while the card is selected.
    fn exchange(&mut self, byte: u8, hertz: u32) -> u8 {
        if self.out.is_empty()
            && let Some(next) = self.streaming
        {
            self.block(next, hertz);
            self.streaming = Some(next + 1);
        }
        let answer = self.out.pop_front().unwrap_or(0xFF);
        if !self.command.is_empty() || byte & 0xC0 == 0x40 {
            self.command.push(byte);
            if let [index, a, b, c, d, crc] = self.command[..] {
                self.command.clear();
                self.execute(index & 0x3F, u32::from_be_bytes([a, b, c, d]), crc, hertz);
            }
        }
        answer
    }

    fn execute(&mut self, index: u8, argument: u32, crc: u8, hertz: u32) {
        let application = std::mem::take(&mut self.application);
        if !self.awake || (!self.idle && index != 0) {
            return;
        }
        if self.crc || index == 0 || index == 8 {
            assert_eq!(crc, crc7(index, argument), "the CRC of CMD{index}");
        }
        assert!(self.ready || hertz <= 400_000, "CMD{index} at {hertz} Hz before the card is ready");
        let r1 = u8::from(!self.ready);
        let mut answer = vec![0xFF];
        match (index, application) {
            (0, _) => {
                assert!(hertz <= 400_000);
                (self.idle, self.ready, self.crc, self.streaming) = (true, false, false, None);
                self.asked = 0;
                self.out.clear();
                self.resets += 1;
                answer.push(1);
            }
            (8, _) => answer.extend([r1, 0, 0, 1, argument as u8]),
            (9, _) => {
                let size = self.sectors / 1024 - 1;
                let [_, high, middle, low] = size.to_be_bytes();
                let csd = [0x40, 0x0E, 0, 0x32, 0x5B, 0x59, 0, high, middle, low, 0x7F, 0x80, 0x0A, 0x40, 0];
                answer.extend([r1, 0xFF, 0xFE]);
                let csd: Vec<u8> = csd.into_iter().chain([crc7_of(&csd)]).collect();
                answer.extend(&csd);
                answer.extend(crc16(&csd).to_be_bytes());
            }
            (12, _) => {
                self.streaming = None;
                self.out.clear();
                answer.push(r1);
            }
            (17, _) => {
                self.single_reads += 1;
                self.out.extend([0xFF, r1]);
                return self.block(argument, hertz);
            }
            (18, _) => {
                self.multiple_reads += 1;
                self.streaming = Some(argument);
                answer.push(r1);
            }
            (41, true) => {
                // Ready at the second time of asking.
                self.asked += 1;
                self.ready = self.asked > 1;
                answer.push(u8::from(!self.ready));
            }
            (55, _) => {
                self.application = true;
                answer.push(r1);
            }
            (58, _) => answer.extend([r1, 0xC0, 0xFF, 0x80, 0]),
            (59, _) => {
                self.crc = argument & 1 == 1;
                answer.push(r1);
            }
            _ => answer.push(r1 | 4),
        }
        self.out.extend(answer);
    }

    fn block(&mut self, number: u32, hertz: u32) {
        self.out.extend([0xFF, 0xFF]);
        if self.bad_sector == Some(number) || number >= self.sectors {
            // Data error token: the card's own ECC failed, or out of range.
            self.out.push_back(if number >= self.sectors { 8 } else { 4 });
            self.streaming = None;
            return;
        }
        self.blocks += 1;
        let mut bytes = sector(number);
        let crc = crc16(&bytes);
        let flip = self.flip_every.is_some_and(|every| self.blocks.is_multiple_of(every));
        if hertz > self.fastest || (flip && hertz > self.flips_above) {
            bytes[77] ^= 0x10;
        }
        self.out.push_back(0xFE);
        self.out.extend(bytes);
        self.out.extend(crc.to_be_bytes());
    }
}

/// The bus with a card in its slot.
#[derive(Debug)]
pub struct Bus {
    pub card: FakeCard,
    pub hertz: u32,
    pub pulled_out: bool,
    selected: bool,
}

impl Bus {
    pub fn new(card: FakeCard) -> Self {
        Self { card, hertz: 0, pulled_out: false, selected: false }
    }

    fn byte(&mut self, byte: u8) -> u8 {
        if self.pulled_out || !self.selected { 0xFF } else { self.card.exchange(byte, self.hertz) }
    }
}

impl CardBus for Bus {
    fn set_clock(&mut self, hertz: u32) {
        self.hertz = hertz;
    }

    fn select(&mut self) {
        self.selected = true;
    }

    fn release(&mut self, bytes: usize) {
        self.selected = false;
        self.card.broken_off += u32::from(self.card.streaming.is_some());
        self.card.awake |= bytes * 8 >= 74 && self.hertz <= 400_000;
    }
}

impl ErrorType for Bus {
    type Error = Infallible;
}

impl SpiDevice for Bus {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), Infallible> {
        for operation in operations {
            match operation {
                Operation::Read(bytes) => bytes.fill_with(|| self.byte(0xFF)),
                Operation::Write(bytes) => {
                    for byte in bytes.iter() {
                        self.byte(*byte);
                    }
                }
                Operation::Transfer(read, write) => {
                    for at in 0..read.len().max(write.len()) {
                        let answer = self.byte(write.get(at).copied().unwrap_or(0xFF));
                        if let Some(into) = read.get_mut(at) {
                            *into = answer;
                        }
                    }
                }
                Operation::TransferInPlace(bytes) => {
                    bytes.iter_mut().for_each(|byte| *byte = self.byte(*byte));
                }
                Operation::DelayNs(_) => {}
            }
        }
        Ok(())
    }
}

pub struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// CRC-7 of a command, with the end bit.
fn crc7(index: u8, argument: u32) -> u8 {
    let [a, b, c, d] = argument.to_be_bytes();
    crc7_of(&[index | 0x40, a, b, c, d])
}

fn crc7_of(bytes: &[u8]) -> u8 {
    let mut crc = 0u8;
    for byte in bytes {
        for bit in (0..8).rev() {
            let high = (crc >> 6) ^ (byte >> bit & 1);
            crc = (crc << 1) & 0x7F;
            if high & 1 == 1 {
                crc ^= 0x09;
            }
        }
    }
    crc << 1 | 1
}

/// CRC-16 of a block: CCITT, beginning with 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            },
        )
    })
}
