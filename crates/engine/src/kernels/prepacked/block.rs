//! One block of memory for the lines of all matrices of a model.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use memmap2::{Advice, MmapMut};

use super::{Line, Prepacked};

/// Some lines of a block.
pub(super) struct Part {
    block: Arc<MmapMut>,
    range: Range<usize>,
}

impl Part {
    /// The lines.
    #[inline]
    pub fn lines(&self) -> &[Line] {
        bytemuck::cast_slice::<u8, Line>(&self.block).get(self.range.clone()).unwrap_or(&[])
    }
}

/// Moves the lines of a large model's matrices into one block, for which the system is asked for huge pages (2 MiB where others have 4 KiB): addresses are
/// looked up less often, and what a processor reads ahead does not end every 4 KiB. Where there are none, nothing changes.
pub(crate) fn gather(matrices: &mut [Option<Prepacked>]) {
    /// Smaller models lie in the near caches.
    const LEAST: usize = 4 << 20;
    let bytes = matrices.iter().flatten().map(|matrix| size_of_val(&matrix.lines[..])).sum();
    if bytes < LEAST {
        return;
    }
    let Ok(mut block) = MmapMut::map_anon(bytes) else { return };
    if block.advise(Advice::HugePage).is_err() {
        return;
    }
    let mut moved = Vec::new();
    let mut free = bytemuck::cast_slice_mut::<u8, Line>(&mut block);
    for matrix in matrices.iter_mut().flatten() {
        // One by one, so that memory is given back as it is taken.
        let lines = core::mem::take(&mut matrix.lines);
        let (here, rest) = core::mem::take(&mut free).split_at_mut(lines.len());
        here.copy_from_slice(&lines);
        moved.push(lines.len());
        free = rest;
    }
    let block = Arc::new(block);
    let mut from = 0;
    for (matrix, lines) in matrices.iter_mut().flatten().zip(moved) {
        matrix.block = Some(Part { block: block.clone(), range: from..from + lines });
        from += lines;
    }
}
