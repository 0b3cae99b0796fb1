//! Filling memory, in a third of the instructions of what the compiler brings when that is built to be small. The SD
//! card's driver fills every sector before it reads it.
#![allow(unsafe_code)]

/// Words that are written in a row.
const BLOCK: usize = 8;

/// `__aeabi_memset` of the run-time ABI for the Arm architecture, chapter 4.3.4; the compiler's own is weak.
///
/// # Safety
/// `len` bytes from `at` on must be writable.
// SAFETY: name and signature are those of the ABI.
#[unsafe(no_mangle)]
unsafe extern "C" fn __aeabi_memset(mut at: *mut u8, mut len: usize, value: u32) {
    let value = value as u8;
    // Volatile, or the compiler would see that this fills memory and call this very function.
    // SAFETY, of all writes: each is within the `len` bytes that are left, which the caller promises; words are aligned.
    while len > 0 && (len < BLOCK * 4 || at.addr() % 4 != 0) {
        unsafe {
            at.write_volatile(value);
            at = at.add(1);
        }
        len -= 1;
    }
    let word = u32::from(value) * 0x0101_0101;
    while len >= BLOCK * 4 {
        let words = at.cast::<u32>();
        unsafe {
            words.write_volatile(word);
            words.add(1).write_volatile(word);
            words.add(2).write_volatile(word);
            words.add(3).write_volatile(word);
            words.add(4).write_volatile(word);
            words.add(5).write_volatile(word);
            words.add(6).write_volatile(word);
            words.add(7).write_volatile(word);
            at = at.add(BLOCK * 4);
        }
        len -= BLOCK * 4;
    }
    for _ in 0..len {
        unsafe {
            at.write_volatile(value);
            at = at.add(1);
        }
    }
}
