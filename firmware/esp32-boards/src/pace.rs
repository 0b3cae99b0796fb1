//! How fast boards are, for the memory plan: how wide a prompt's batch is and how many tokens are guessed follow from it.
//!
//! None of it was measured on a board: it is what `pageformer plan` predicts with, for the default model, and a test holds both against each other. With another
//! model, computing a page takes another time (stories260K, half of it pruned, on the C3: four times as long), which costs speed, never a wrong token.

use pageformer_engine::Pace;

use crate::{Board, Chip};

/// What the processor takes for the default model; the card's times are the bus's.
const fn processor(chip: Chip) -> Pace {
    let (check, fetch, compute, logits) = match chip {
        Chip::Esp32S3 => (15_356, 5_117, 5_199, 5_117),
        Chip::Esp32C3 => (20_416, 38_347, 37_882, 38_347),
        Chip::Esp32C6 => (18_862, 35_430, 35_000, 35_430),
    };
    Pace { command: 600_000, page: 0, check, fetch, compute, logits }
}

impl Board {
    /// What reading and computing take here, in nanoseconds; with `sdhost`, on the SD bus.
    pub const fn pace(&self, sdhost: bool) -> Pace {
        let page = match (sdhost, self.clock) {
            (true, _) => 58_000,
            (false, 40_000_000..) => 189_000,
            (false, _) => 292_000,
        };
        Pace { page, ..processor(self.chip) }
    }
}
