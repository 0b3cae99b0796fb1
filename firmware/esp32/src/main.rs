//! Firmware for the ESP32-S3, ESP32-C3 and ESP32-C6.
//!
//! | | |
//! |---|---|
//! | board | a row of `pageformer-esp32-boards`, by `PAGEFORMER_BOARD` when it is built; else the chip's first |
//! | card | SPI2 with DMA, from 40 MHz (or what the board allows) down to what works; with the feature `sdhost` the SD bus, four bits wide |
//! | console | UART0 at 115200 baud, or USB-Serial-JTAG |
//! | memory | one buffer of [`BUFFER_BYTES`]; what is left of the RAM is the stack. PSRAM, if there is some, is for pinned pages |
//! | ESP32-S3 | the second core reads the card ahead |
//!
//! `cargo xtask firmware --chip esp32c3` builds it; `docs/boards.md` tells the rest.
#![no_std]
#![no_main]

#[cfg_attr(feature = "sdhost", allow(dead_code))]
mod bus;
mod host;
mod port;
#[cfg(feature = "esp32s3")]
mod s3;
#[cfg(feature = "sdhost")]
mod sdhost;
mod stack;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use esp_hal::clock::CpuClock;
use esp_hal::peripherals::{UART0, USB_DEVICE};
use pageformer_console::{Console, Settings, Terminal};
use pageformer_esp32_boards::{Board, Chip};
use pageformer_firmware::{Memory, run};
#[cfg(not(feature = "sdhost"))]
use pageformer_firmware::{SdSlot, clocks_up_to};

#[cfg(feature = "sdhost")]
use {aligned::Aligned, esp_hal::sdmmc::SdHostController, sdhost::SdHostSlot};
#[cfg(not(feature = "sdhost"))]
use {bus::CardSpi, host::Delay};

use port::Port;

esp_bootloader_esp_idf::esp_app_desc!();

/// The chip that this is built for.
const CHIP: Chip = if cfg!(feature = "esp32s3") {
    Chip::Esp32S3
} else if cfg!(feature = "esp32c3") {
    Chip::Esp32C3
} else {
    Chip::Esp32C6
};

/// The board that this is built for.
const BOARD: &Board = {
    let board = match option_env!("PAGEFORMER_BOARD") {
        Some(id) => Board::find(id),
        None => Board::default_of(CHIP),
    };
    let board = board.expect("PAGEFORMER_BOARD names no board of firmware/esp32-boards/src/lib.rs");
    assert!(board.chip as u8 == CHIP as u8, "PAGEFORMER_BOARD names a board with another chip");
    board
};

/// Bytes of the buffer that the model works in: what the chip has for variables, less what stack and HAL take.
const BUFFER_BYTES: usize = match CHIP {
    Chip::Esp32C3 => 280 << 10,
    Chip::Esp32C6 => 408 << 10,
    Chip::Esp32S3 => 280 << 10,
};

/// The buffer.
static mut MEMORY: [u64; BUFFER_BYTES / 8] = [0; BUFFER_BYTES / 8];

#[esp_hal::main]
fn main() -> ! {
    stack::paint();
    let hardware = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
    let port =
        Port::new(hardware.UART0, hardware.USB_DEVICE, BOARD).expect("the console's configuration is valid");
    // SAFETY: `main` runs once, and nothing else knows this variable.
    let main: &'static mut [u64] = unsafe { &mut *(&raw mut MEMORY) };
    #[cfg(feature = "esp32s3")]
    let apart = s3::psram(hardware.PSRAM);
    #[cfg(not(feature = "esp32s3"))]
    let apart: &'static mut [u64] = &mut [];

    #[cfg(not(feature = "sdhost"))]
    let make_slot = move || {
        let bus =
            CardSpi::new(hardware.SPI2, hardware.DMA_CH0, BOARD).expect("the bus's configuration is valid");
        SdSlot::new(bus, Delay, clocks_up_to(BOARD.clock))
    };
    #[cfg(feature = "sdhost")]
    let make_slot = move || {
        static mut CONTROLLER: Option<SdHostController<'static>> = None;
        static mut BUFFER: sdhost::Buffer = [Aligned([0; 512]); 16];
        let pins = const { BOARD.sdhost.as_ref().expect("the board's card is connected for SPI only") };
        // SAFETY: as above.
        let (place, buffer) = unsafe { (&mut *(&raw mut CONTROLLER), &mut *(&raw mut BUFFER)) };
        SdHostSlot::new(hardware.SDHOST, place, buffer, pins)
            .expect("the controller's configuration is valid")
    };
    #[cfg(feature = "esp32s3")]
    let mut slot = s3::read_on_second_core(hardware.CPU_CTRL, make_slot);
    #[cfg(not(feature = "esp32s3"))]
    let mut slot = make_slot();

    let host = host::Chip { board: BOARD.name, buffer: size_of_val(main), psram: size_of_val(apart) };
    let mut console = Console::new(port, host, Settings::default());
    let pace = BOARD.pace(cfg!(feature = "sdhost"));
    run(&mut slot, Memory { main, apart, pace }, &mut console);
    halt()
}

/// There is nothing left to do.
fn halt() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Says what happened: what the code got wrong, or the processor finds wrong. No content of a card leads here.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: whoever had the port does not run any more.
    let port = unsafe { Port::new(UART0::steal(), USB_DEVICE::steal(), BOARD) };
    if let Some(port) = port {
        let mut terminal = Terminal::new(port);
        let _ = writeln!(terminal, "\npanic: {info}");
        let _ = terminal.flush();
    }
    halt()
}
