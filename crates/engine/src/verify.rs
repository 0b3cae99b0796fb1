//! Checking a whole card before it is used.

use pageformer_vram::{Card, CardFile};

use crate::error::Error;
use crate::forward::locate;
use crate::session::Session;

impl<C: Card> Session<'_, C> {
    /// Pages that [`Self::verify`] goes through: the weights and the tokenizer.
    pub fn pages_to_verify(&self) -> u32 {
        self.engine().table().pages().saturating_add(self.manifest().tokenizer_pages)
    }

    /// Holds every page of the card against its checksum, in one pass over it: those that stay in memory were checked when they
    /// were loaded. `go_on` is told how many pages are done, and answers whether to go on. Returns whether the end was reached.
    ///
    /// # Errors
    /// At the first page that is damaged or cannot be read, with the tensor that it belongs to.
    #[inline(never)]
    pub fn verify(&mut self, go_on: &mut dyn FnMut(u32) -> bool) -> Result<bool, Error> {
        let files = [
            (CardFile::Weights, self.engine().table().pages()),
            (CardFile::Tokenizer, self.manifest().tokenizer_pages),
        ];
        let mut done = 0;
        for (file, pages) in files {
            let mut page = 0;
            while page < pages {
                let checked = self.engine_mut().vram_mut().check(file, page, pages - page);
                page += checked.map_err(|fault| locate(self.engine().table(), fault))?.max(1);
                if !go_on(done + page) {
                    return Ok(false);
                }
            }
            done += pages;
        }
        Ok(true)
    }
}
