//! What is known of each page, for the page debugger.

/// 4 bytes about a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageMeta {
    /// Times the page was loaded from the card (stops at 65,535).
    pub loads: u16,
    /// Times it had to be read again (stops at 255).
    pub retries: u8,
    /// State of its checksum, and a tag.
    bits: u8,
}

impl PageMeta {
    const CHECKED: u8 = 1;
    const BAD: u8 = 2;

    /// The 4 bytes as they are kept in memory.
    pub(crate) fn to_bits(self) -> u32 {
        u32::from(self.loads) << 16 | u32::from(self.retries) << 8 | u32::from(self.bits)
    }

    /// The metadata that the 4 bytes stand for, in memory or in `pages.meta`.
    pub fn from_bits(bits: u32) -> Self {
        Self { loads: (bits >> 16) as u16, retries: (bits >> 8) as u8, bits: bits as u8 }
    }

    /// Whether the page was loaded and its checksum was right.
    pub fn checked(&self) -> bool {
        self.bits & Self::CHECKED != 0
    }

    /// Whether the last load of the page failed.
    pub fn bad(&self) -> bool {
        self.bits & Self::BAD != 0
    }

    /// The tag, 0 to 15, that somebody gave the page.
    pub fn tag(&self) -> u8 {
        self.bits >> 4
    }

    /// Gives the page a tag; only the lower four bits count.
    pub fn set_tag(&mut self, tag: u8) {
        self.bits = self.bits & 0x0F | tag << 4;
    }

    /// What the card keeps of it: all but the state of the checksum, which is about what is read now.
    pub(crate) fn kept(self) -> Self {
        Self { bits: self.bits & 0xF0, ..self }
    }

    pub(crate) fn loaded(&mut self, good: bool) {
        self.loads = self.loads.saturating_add(1);
        self.bits = self.bits & 0xF0 | if good { Self::CHECKED } else { Self::BAD };
    }

    pub(crate) fn retried(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }
}
