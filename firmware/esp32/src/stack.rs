//! How deep the stack has been: what is not in use is painted at start, and the paint that is left is counted.

use core::ptr::{read_volatile, write_volatile};

/// What unused words of the stack hold.
const PAINT: u32 = 0x7061_6765;
/// Words below the caller's frame that are not painted, because the painting itself may be there.
const CLEARANCE: usize = 256;
/// Bytes at the end of the stack that are the HAL's guard against an overflow.
const GUARD: usize = 128;

/// The stack.
pub struct Usage {
    /// Bytes there are.
    pub bytes: usize,
    /// Bytes that were ever in use.
    pub used: usize,
}

/// The lowest and the highest address.
fn bounds() -> (usize, usize) {
    unsafe extern "C" {
        static _stack_end_cpu0: u32;
        static _stack_start_cpu0: u32;
    }
    // Only the addresses of these symbols of the linker are used. Stacks grow down.
    (&raw const _stack_end_cpu0 as usize, &raw const _stack_start_cpu0 as usize)
}

/// Paints what is not in use. To be called first.
#[inline(never)]
pub fn paint() {
    let here = 0u32;
    let (end, _) = bounds();
    let top = (&raw const here as usize & !3) - CLEARANCE * 4;
    for word in (end + GUARD..top).step_by(4) {
        // SAFETY: an aligned word between the end of the stack and what is in use of it, which begins above `here`
        // but for the frame of this function, which `CLEARANCE` leaves out. The second core has a stack of its own.
        unsafe { write_volatile(word as *mut u32, PAINT) };
    }
}

/// How deep it has been.
pub fn usage() -> Usage {
    let (end, start) = bounds();
    let untouched = (end + GUARD..start)
        .step_by(4)
        .take_while(|word| {
            // SAFETY: an aligned word of this core's stack; those with paint on them are in nobody's use.
            let word = unsafe { read_volatile(*word as *const u32) };
            word == PAINT
        })
        .count()
        * 4;
    Usage { bytes: start - end, used: start - end - GUARD - untouched }
}
