//! Where cards are put in and pulled out.

use pageformer_fat32::BlockDevice;

/// A place for a card, which may be empty.
pub trait CardSlot: BlockDevice {
    /// Makes the card ready that is in the slot now, whatever was there before; a slot that [reads ahead](BlockDevice::begin_read)
    /// forgets what it has of that. `false` if there is none.
    fn acquire(&mut self) -> bool;

    /// Whether there is a card, as quickly as the slot can tell. The card may have to be
    /// [acquired](Self::acquire) again afterwards.
    fn present(&mut self) -> bool;
}
