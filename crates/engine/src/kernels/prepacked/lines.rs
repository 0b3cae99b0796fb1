//! Where packed weights lie.

use alloc::vec::Vec;

use super::Line;

/// The lines of a matrix.
#[derive(Default)]
pub(crate) struct Lines {
    /// In memory of their own; empty if they were moved.
    pub(super) own: Vec<Line>,
    #[cfg(target_os = "linux")]
    block: Option<huge::Part>,
}

impl From<Vec<Line>> for Lines {
    fn from(own: Vec<Line>) -> Self {
        Self { own, ..Self::default() }
    }
}

impl core::ops::Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        #[cfg(target_os = "linux")]
        if let Some(part) = &self.block {
            return part.lines();
        }
        &self.own
    }
}

/// Moves the lines of a large model into one block, for which the system is asked for huge pages (2 MiB where others have 4 KiB): addresses are
/// looked up less often, and what a processor reads ahead does not end every 4 KiB. Where there are none, nothing changes.
pub(crate) fn gather(matrices: &mut [&mut Lines]) {
    /// Smaller models lie in the near caches.
    const LEAST: usize = 4 << 20;
    let bytes = matrices.iter().map(|lines| size_of_val(&lines[..])).sum::<usize>();
    if bytes >= LEAST {
        #[cfg(target_os = "linux")]
        huge::gather(matrices, bytes);
    }
}

#[cfg(target_os = "linux")]
mod huge {
    use alloc::{sync::Arc, vec::Vec};
    use core::ops::Range;

    use memmap2::{Advice, MmapMut};

    use super::{Line, Lines};

    /// Bytes of a huge page.
    const PAGE: usize = 2 << 20;

    /// Some lines of a block.
    pub struct Part {
        block: Arc<MmapMut>,
        range: Range<usize>,
    }

    impl Part {
        #[inline(always)]
        pub fn lines(&self) -> &[Line] {
            bytemuck::cast_slice::<u8, Line>(&self.block).get(self.range.clone()).unwrap_or(&[])
        }
    }

    pub fn gather(matrices: &mut [&mut Lines], bytes: usize) {
        let Ok(mut block) = MmapMut::map_anon(bytes.next_multiple_of(PAGE)) else { return };
        if block.advise(Advice::HugePage).is_err() {
            return;
        }
        let (mut free, mut moved, mut from) =
            (bytemuck::cast_slice_mut::<u8, Line>(&mut block), Vec::new(), 0);
        for lines in matrices.iter_mut() {
            let len = lines.own.len();
            let Some((here, rest)) = core::mem::take(&mut free).split_at_mut_checked(len) else { break };
            here.copy_from_slice(&lines.own);
            moved.push(from..from + len);
            (free, from) = (rest, from + len);
            // One by one, so that memory is given back as it is taken.
            lines.own = Vec::new();
        }
        let block = Arc::new(block);
        for (lines, range) in matrices.iter_mut().zip(moved) {
            lines.block = Some(Part { block: block.clone(), range });
        }
    }
}
