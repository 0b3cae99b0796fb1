//! CRC-32 with 4 KiB of tables: `crc32fast` has 16 KiB, an eighth of what a board's program may take, and is no
//! faster on a processor without SIMD.

/// Polynomial of ISO-HDLC, reflected.
const POLYNOMIAL: u32 = 0xEDB8_8320;
/// `TABLES[k][b]`: what byte `b` does to the sum when `k` bytes follow it.
static TABLES: [[u32; 256]; 4] = tables();

const fn tables() -> [[u32; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut table = 0;
        while table < 4 {
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(sum & 1));
                bit += 1;
            }
            tables[table][byte] = sum;
            table += 1;
        }
        byte += 1;
    }
    tables
}

/// Bytes of a block that is skipped if it is at the end and zero. Mask pages of small matrices, pages of norms, and the last pages of
/// cells end in zeros.
const BLOCK: usize = 128;
/// `ZEROS[k][n]`: what bits `n`, the `k`-th four of the sum, become when a block of zeros follows.
static ZEROS: [[u32; 16]; 8] = zeros();

const fn zeros() -> [[u32; 16]; 8] {
    let mut zeros = [[0; 16]; 8];
    let mut at = 0;
    while at < 8 * 16 {
        let mut sum = (at as u32 % 16) << (at / 16 * 4);
        let mut bit = 0;
        while bit < BLOCK * 8 {
            sum = (sum >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(sum & 1));
            bit += 1;
        }
        zeros[at / 16][at % 16] = sum;
        at += 1;
    }
    zeros
}

/// The sum of bytes that come in parts.
#[derive(Clone, Debug)]
pub struct Checksum(u32);

impl Default for Checksum {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Checksum {
    /// The sum of nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let mut zeros = 0;
        while let Some((before, block)) = bytes.split_last_chunk()
            && is_zero(block)
        {
            (bytes, zeros) = (before, zeros + 1);
        }
        // Four words at a time: a loop around one would take as long again as two of its eight look-ups.
        let (blocks, rest) = bytes.as_chunks::<16>();
        let mut sum = self.0;
        for [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] in blocks {
            sum = step(sum, [*a, *b, *c, *d]);
            sum = step(sum, [*e, *f, *g, *h]);
            sum = step(sum, [*i, *j, *k, *l]);
            sum = step(sum, [*m, *n, *o, *p]);
        }
        let (words, rest) = rest.as_chunks();
        for word in words {
            sum = step(sum, *word);
        }
        for byte in rest {
            sum = (sum >> 8) ^ TABLES[0][usize::from(sum as u8 ^ byte)];
        }
        for _ in 0..zeros {
            sum = behind_zeros(sum);
        }
        self.0 = sum;
    }

    /// The sum.
    pub fn finalize(self) -> u32 {
        !self.0
    }
}

/// Whether there is nothing but zeros; mostly, the last four bytes say no.
#[inline(always)]
fn is_zero(block: &[u8; BLOCK]) -> bool {
    let [.., a, b, c, d] = *block;
    let (words, _) = block.as_chunks::<16>();
    [a, b, c, d] == [0; 4] && words.iter().all(|word| u128::from_le_bytes(*word) == 0)
}

/// The sum after a block of zeros.
#[inline(always)]
fn behind_zeros(sum: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = &ZEROS;
    let four = |at: u32| (sum >> (4 * at) & 15) as usize;
    a[four(0)] ^ b[four(1)] ^ c[four(2)] ^ d[four(3)] ^ e[four(4)] ^ f[four(5)] ^ g[four(6)] ^ h[four(7)]
}

/// The sum after four more bytes.
#[inline(always)]
fn step(sum: u32, word: [u8; 4]) -> u32 {
    let [t0, t1, t2, t3] = &TABLES;
    let [a, b, c, d] = (sum ^ u32::from_le_bytes(word)).to_le_bytes();
    t3[usize::from(a)] ^ t2[usize::from(b)] ^ t1[usize::from(c)] ^ t0[usize::from(d)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn same_as_crc32fast(
            mut parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..6),
            zeros in proptest::collection::vec(prop_oneof![Just(0), 0usize..600], 6),
        ) {
            for (part, zeros) in parts.iter_mut().zip(zeros) {
                part.resize(part.len() + zeros, 0);
            }
            let mut sum = Checksum::new();
            parts.iter().for_each(|part| sum.update(part));
            prop_assert_eq!(sum.finalize(), crc32fast::hash(&parts.concat()));
        }
    }

    #[test]
    fn check_value_of_the_standard() {
        let mut sum = Checksum::new();
        sum.update(b"123456789");
        assert_eq!(sum.finalize(), 0xCBF4_3926);
    }
}
