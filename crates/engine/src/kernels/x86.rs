//! What an x86-64 processor can do. `std` could say so, but this crate does without.
#![allow(unsafe_code)]

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// Which kernels the processor and the operating system, which has to save the registers, can run.
pub(super) struct Features {
    /// AVX2, BMI1 and POPCNT.
    pub avx2: bool,
    /// These, and AVX-VNNI.
    pub avx_vnni: bool,
    /// AVX-512 F, BW, VL, DQ and VNNI; BMI1, BMI2 and POPCNT.
    pub avx512_vnni: bool,
}

impl Features {
    pub fn of_this_processor() -> Self {
        let has = |register: u32, bits: &[u32]| bits.iter().all(|bit| register & (1 << bit) != 0);
        let nothing = Self { avx2: false, avx_vnni: false, avx512_vnni: false };
        let (most, features) = (__cpuid(0).eax, __cpuid(1));
        // POPCNT, XSAVE, OSXSAVE, AVX
        if most < 7 || !has(features.ecx, &[23, 26, 27, 28]) {
            return nothing;
        }
        // SAFETY: XSAVE and OSXSAVE were tested above.
        let saved = unsafe { saved_registers() };
        let extended = __cpuid_count(7, 0);
        // Lower and upper halves of 256 bits.
        let avx = has(saved, &[1, 2]);
        // Mask registers, the upper 256 bits, 16 more registers.
        let avx512 = avx && has(saved, &[5, 6, 7]);
        // BMI1, AVX2
        let avx2 = avx && has(extended.ebx, &[3, 5]);
        Self {
            avx2,
            // `eax` of leaf 7 is the number of its last part.
            avx_vnni: avx2 && extended.eax >= 1 && has(__cpuid_count(7, 1).eax, &[4]),
            // BMI1, AVX2, BMI2, F, DQ, BW, VL; VNNI
            avx512_vnni: avx512 && has(extended.ebx, &[3, 5, 8, 16, 17, 30, 31]) && has(extended.ecx, &[11]),
        }
    }
}

/// The parts of the registers that the operating system saves.
#[target_feature(enable = "xsave")]
fn saved_registers() -> u32 {
    // SAFETY: XCR0 exists where OSXSAVE is set, which the caller has tested.
    unsafe { _xgetbv(0) as u32 }
}
