//! The pause that a card is to have before the data of a write.

use embedded_hal::spi::{ErrorType, Operation, SpiDevice};

/// Begins the data of a single sector.
const START_BLOCK: u8 = 0xFE;

/// An SPI device that sends a byte more before the token that begins the data of a write.
///
/// Between a card's answer to the command and that token there is to be a byte at least (N_WR in the SD specification, "SPI bus
/// timing"), which the driver leaves out. Cards that count on it, QEMU's among them, would miss the token.
pub(crate) struct Spaced<SPI>(pub SPI);

impl<SPI: ErrorType> ErrorType for Spaced<SPI> {
    type Error = SPI::Error;
}

impl<SPI: SpiDevice> SpiDevice for Spaced<SPI> {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), SPI::Error> {
        match operations {
            [Operation::Transfer(read, write @ [START_BLOCK])] => {
                self.0.transaction(&mut [Operation::Write(&[0xFF]), Operation::Transfer(read, write)])
            }
            operations => self.0.transaction(operations),
        }
    }
}
