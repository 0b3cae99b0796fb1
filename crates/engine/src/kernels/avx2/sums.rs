//! Sums of products: with AVX2 alone, or by the one instruction of AVX-VNNI.

use core::arch::asm;
use core::arch::x86_64::*;

/// How products are added up. The methods want AVX2 of their callers, besides what the implementation is named for.
pub(in crate::kernels) trait Sums {
    /// Whether [`Self::add_bytes`] is exact for all bytes.
    #[cfg(feature = "prepack")]
    const ANY: bool;

    /// Adds the products of four unsigned and four signed bytes to each i32, exactly if two products fit an i16.
    fn add_bytes(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i;

    /// Adds the products of two pairs of i16 to each i32.
    fn add_words(total: __m256i, a: __m256i, b: __m256i) -> __m256i;
}

/// `maddubs`, `madd`, `add`.
pub(super) struct Avx2Sums;

impl Sums for Avx2Sums {
    #[cfg(feature = "prepack")]
    const ANY: bool = false;

    #[inline(always)]
    fn add_bytes(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn add(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
            let pairs = _mm256_maddubs_epi16(magnitude, signed);
            _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        // SAFETY: the caller has AVX2.
        unsafe { add(total, magnitude, signed) }
    }

    #[inline(always)]
    fn add_words(total: __m256i, a: __m256i, b: __m256i) -> __m256i {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn add(total: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(total, _mm256_madd_epi16(a, b))
        }
        // SAFETY: the caller has AVX2.
        unsafe { add(total, a, b) }
    }
}

/// `$name`: `vpdpbusd` and `vpdpwssd`, encoded as `$encoding` says. By name and not as intrinsics, since a function that is
/// compiled for more than its caller is would be called for each of them.
macro_rules! vnni {
    ($(#[$attribute:meta])* $name:ident, $encoding:literal) => {
        $(#[$attribute])*
        pub(super) struct $name;

        $(#[$attribute])*
        impl Sums for $name {
            #[cfg(feature = "prepack")]
            const ANY: bool = true;

            #[inline(always)]
            fn add_bytes(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
                #[inline]
                #[target_feature(enable = "avx2")]
                fn add(mut total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
                    // SAFETY: the processor has the instruction, which works on registers alone.
                    unsafe {
                        asm!(concat!($encoding, " vpdpbusd {}, {}, {}"), inout(ymm_reg) total, in(ymm_reg) magnitude,
                            in(ymm_reg) signed, options(pure, nomem, nostack, preserves_flags));
                    }
                    total
                }
                // SAFETY: the caller has AVX2.
                unsafe { add(total, magnitude, signed) }
            }

            #[inline(always)]
            fn add_words(total: __m256i, a: __m256i, b: __m256i) -> __m256i {
                #[inline]
                #[target_feature(enable = "avx2")]
                fn add(mut total: __m256i, a: __m256i, b: __m256i) -> __m256i {
                    // SAFETY: the processor has the instruction, which works on registers alone.
                    unsafe {
                        asm!(concat!($encoding, " vpdpwssd {}, {}, {}"), inout(ymm_reg) total, in(ymm_reg) a,
                            in(ymm_reg) b, options(pure, nomem, nostack, preserves_flags));
                    }
                    total
                }
                // SAFETY: the caller has AVX2.
                unsafe { add(total, a, b) }
            }
        }
    };
}

vnni!(
    /// As processors with AVX-VNNI read them.
    VexSums,
    "{{vex}}"
);
vnni!(
    /// As processors with AVX-512 VL and VNNI read them: the same instructions, for tests where there is no AVX-VNNI.
    #[cfg(test)]
    EvexSums,
    "{{evex}}"
);

/// The same sums as by `vpdpbusd` and `vpdpwssd`, by AVX2, for tests where there is neither encoding of them.
#[cfg(test)]
pub(super) struct SlowSums;

#[cfg(test)]
impl Sums for SlowSums {
    #[cfg(feature = "prepack")]
    const ANY: bool = true;

    fn add_bytes(total: __m256i, magnitude: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        let (even, odd) = unsafe {
            let low = _mm256_and_si256(magnitude, _mm256_set1_epi16(0xFF));
            (
                (low, _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed))),
                (_mm256_srli_epi16::<8>(magnitude), _mm256_srai_epi16::<8>(signed)),
            )
        };
        Self::add_words(Self::add_words(total, even.0, even.1), odd.0, odd.1)
    }

    fn add_words(total: __m256i, a: __m256i, b: __m256i) -> __m256i {
        Avx2Sums::add_words(total, a, b)
    }
}
