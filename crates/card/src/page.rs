//! Pages and cells: the units of storage.

/// Bytes of a page: one SD sector. The unit of storage, checksum and residency, never the unit of I/O.
pub const PAGE_BYTES: usize = 512;
/// Bytes of a cell: 4 outputs × 4 inputs of int8 weights, row-major (`w[out][in]`).
pub const CELL_BYTES: usize = 16;
/// Cells that fill a page.
pub const CELLS_PER_PAGE: usize = PAGE_BYTES / CELL_BYTES;
/// f32 values that fill a page.
pub const FLOATS_PER_PAGE: usize = PAGE_BYTES / 4;
/// Checksums that fill a page.
pub const SUMS_PER_PAGE: usize = PAGE_BYTES / 4;

/// The bytes of one page.
pub type Page = [u8; PAGE_BYTES];

/// Number of pages that hold `bytes` bytes.
pub const fn pages_for(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES as u64)
}

/// CRC-32 (ISO-HDLC, as in zip and Ethernet) of a page, or of `index.json`.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = Checksum::new();
    sum.update(bytes);
    sum.finalize()
}

/// The `at`-th little-endian u32 of a page; 0 beyond its end.
pub fn u32_at(page: &[u8], at: usize) -> u32 {
    match page.get(at * 4..at * 4 + 4) {
        Some(b) => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        None => 0,
    }
}

/// The `at`-th little-endian f32 of a page; 0 beyond its end.
pub fn f32_at(page: &[u8], at: usize) -> f32 {
    f32::from_bits(u32_at(page, at))
}

/// The [`checksum`] of bytes that come in parts.
#[cfg(target_os = "none")]
pub use crate::crc32::Checksum;
/// The [`checksum`] of bytes that come in parts.
#[cfg(not(target_os = "none"))]
pub use crc32fast::Hasher as Checksum;
