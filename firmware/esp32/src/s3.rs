//! What only the ESP32-S3 has: a second core, which reads ahead, and PSRAM.

use esp_hal::peripherals::{CPU_CTRL, PSRAM};
use esp_hal::psram::{Psram, PsramConfig};
use esp_hal::system::{CpuControl, Stack};
use pageformer_firmware::{CardSlot, Front, Shared, divide};

/// Bytes of the second core's stack: the SD driver, and descriptors for DMA.
const STACK_BYTES: usize = 8 << 10;

static mut SHARED: Shared = Shared::new();
static mut STACK: Stack<STACK_BYTES> = Stack::new();

/// Starts the second core, which makes the slot and reads its card from now on. To be called once.
pub fn read_on_second_core<S: CardSlot>(
    cpu: CPU_CTRL<'static>,
    make: impl FnOnce() -> S + Send + 'static,
) -> Front {
    // SAFETY: called once, by `main`, and nothing else knows these variables.
    let (shared, stack) = unsafe { (&mut *(&raw mut SHARED), &mut *(&raw mut STACK)) };
    let (front, mut back) = divide(shared, core::hint::spin_loop);
    let started = CpuControl::new(cpu).start_app_core(stack, move || {
        let mut slot = make();
        loop {
            if !back.turn(&mut slot) {
                core::hint::spin_loop();
            }
        }
    });
    // To drop it would stop the core.
    core::mem::forget(started.expect("the second core does not run yet"));
    front
}

/// PSRAM as words; none if there is no PSRAM.
pub fn psram(psram: PSRAM<'static>) -> &'static mut [u64] {
    let psram = Psram::new(psram, PsramConfig::default());
    let (start, bytes) = psram.raw_parts();
    // The HAL maps it from a multiple of 64 KiB on, in whole megabytes.
    if bytes == 0 || !start.cast::<u64>().is_aligned() {
        return &mut [];
    }
    // SAFETY: `bytes` bytes from `start` on are PSRAM that the HAL has just mapped for whoever has the peripheral, which was taken for
    // good here; any content is a valid u64.
    unsafe { core::slice::from_raw_parts_mut(start.cast(), bytes / size_of::<u64>()) }
}
