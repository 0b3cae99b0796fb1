//! One buffer, cut into parts.

use bytemuck::Pod;
use pageformer_card::Page;

/// The buffer ended before a part was cut from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that the part needs.
    pub needed: usize,
    /// Bytes that are left.
    pub left: usize,
}

/// What is left of the one buffer that everything lives in. Parts are cut from it and never given back; each begins at a
/// multiple of 8 bytes. Pages are cut from its end, all else from its front: so pages are aligned as well as the end is,
/// whatever else there is.
///
/// A board may have more memory of another kind, large and slow: pinned pages can be put there, and nothing else.
pub struct Arena<'m> {
    rest: &'m mut [u64],
    apart: &'m mut [u64],
}

impl<'m> Arena<'m> {
    /// An arena over all of `memory`.
    pub fn new(memory: &'m mut [u64]) -> Self {
        Self { rest: memory, apart: &mut [] }
    }

    /// The same, with memory apart from it for [`Self::take_apart`].
    pub fn with_memory_apart(memory: &'m mut [u64], apart: &'m mut [u64]) -> Self {
        Self { rest: memory, apart }
    }

    /// Cuts a zeroed slice of `len` values.
    ///
    /// # Errors
    /// If it does not fit; nothing is cut then.
    pub fn take<T: Pod>(&mut self, len: usize) -> Result<&'m mut [T], OutOfMemory> {
        cut(&mut self.rest, len)
    }

    /// Cuts one from the memory apart.
    ///
    /// # Errors
    /// If it does not fit; nothing is cut then.
    pub fn take_apart<T: Pod>(&mut self, len: usize) -> Result<&'m mut [T], OutOfMemory> {
        cut(&mut self.apart, len)
    }

    /// Bytes that a slice of `len` values takes from an arena; more than any memory has if it is too long to say.
    pub const fn bytes<T>(len: usize) -> usize {
        len.saturating_mul(size_of::<T>()).saturating_add(7) & !7
    }

    /// What is left, to work in until the next part is cut. It holds anything.
    pub fn scratch(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.rest)
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.rest.len() * 8
    }
}

fn cut<'m, T: Pod>(memory: &mut &'m mut [u64], len: usize) -> Result<&'m mut [T], OutOfMemory> {
    let needed = Arena::bytes::<T>(len);
    let left = memory.len() * 8;
    let error = OutOfMemory { needed, left };
    if needed > left {
        return Err(error);
    }
    let all = core::mem::take(memory);
    let part = if size_of::<T>() == size_of::<Page>() {
        let (rest, part) = all.split_at_mut((left - needed) / 8);
        *memory = rest;
        part
    } else {
        let (part, rest) = all.split_at_mut(needed / 8);
        *memory = rest;
        part
    };
    part.fill(0);
    let part: &mut [T] = bytemuck::try_cast_slice_mut(part).map_err(|_| error)?;
    part.get_mut(..len).ok_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_buffer_exactly() {
        let mut memory = [7u64; 8];
        let mut arena = Arena::new(&mut memory);
        assert_eq!(arena.take::<f32>(3).unwrap(), &[0.0; 3]);
        assert_eq!(arena.take::<i8>(9).unwrap().len(), 9);
        assert_eq!(arena.left(), 64 - 16 - 16);
        assert_eq!(arena.take::<u64>(5), Err(OutOfMemory { needed: 40, left: 32 }));
    }
}
