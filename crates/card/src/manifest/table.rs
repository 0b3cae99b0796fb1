//! Where each tensor lies.

use picojson::Reader;

use super::{MAX_PAGES, Manifest, ManifestError, Text};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Where each tensor starts on the tape: `shape.tensors() + 1` page numbers in the memory that the caller
/// lends, 4 bytes each.
pub struct TensorTable<'m> {
    shape: Shape,
    starts: &'m mut [u32],
}

/// What an entry of the table holds until its tensor is found.
const UNSET: u32 = u32::MAX;

impl<'m> TensorTable<'m> {
    /// Entries that the table of `shape` needs.
    pub fn entries(shape: &Shape) -> usize {
        shape.tensors() as usize + 1
    }

    /// Reads the `tensors` of `index.json` into `memory` (at least [`Self::entries`] long) and checks them
    /// against `manifest`.
    ///
    /// # Errors
    /// As [`Manifest::parse`], and for tensors that are missing, unknown or impossible.
    pub fn parse<R: Reader>(
        reader: R,
        manifest: &Manifest,
        memory: &'m mut [u32],
    ) -> Result<Self, ManifestError> {
        let shape = manifest.shape;
        let starts = memory.get_mut(..Self::entries(&shape)).ok_or(ManifestError::Missing("tensors"))?;
        starts.fill(UNSET);
        let again = Manifest::parse(reader, &mut |name, pages| {
            let unknown = || ManifestError::Tensor(Text::new(name).unwrap_or_default());
            let tensor = Tensor::parse(name).ok_or_else(unknown)?;
            let index = shape.tensor_index(tensor).ok_or_else(unknown)?;
            let kind = shape.kind(tensor);
            if pages < kind.least_pages() || pages > kind.dense_pages() {
                return Err(ManifestError::TensorPages(tensor));
            }
            match starts.get_mut(index as usize + 1) {
                Some(slot) if *slot == UNSET => *slot = pages,
                _ => return Err(unknown()),
            }
            Ok(())
        })?;
        if again != *manifest {
            return Err(ManifestError::Read);
        }
        let mut sum = 0u32;
        for (i, slot) in starts.iter_mut().enumerate() {
            if i == 0 {
                *slot = 0;
                continue;
            }
            if *slot == UNSET {
                return Err(match shape.tensor(i as u32 - 1) {
                    Some(tensor) => ManifestError::MissingTensor(tensor),
                    None => ManifestError::Missing("tensors"),
                });
            }
            sum = sum.saturating_add(*slot);
            if sum > MAX_PAGES {
                return Err(ManifestError::Value("tensors"));
            }
            *slot = sum;
        }
        let table = Self { shape, starts };
        let on_tape = if shape.tied_embeddings { sum } else { table.pages_of(Tensor::Embedding).start };
        if on_tape != manifest.tape_pages {
            return Err(ManifestError::TapePages { said: manifest.tape_pages, sum: on_tape });
        }
        Ok(table)
    }

    /// The pages of `tensor`; empty if the shape has none such.
    pub fn pages_of(&self, tensor: Tensor) -> core::ops::Range<u32> {
        let index = self.shape.tensor_index(tensor).unwrap_or(u32::MAX - 1) as usize;
        match (self.starts.get(index), self.starts.get(index + 1)) {
            (Some(start), Some(end)) => *start..*end,
            _ => 0..0,
        }
    }

    /// All pages: the tape, and an embedding that is not tied.
    pub fn pages(&self) -> u32 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The tensor that `page` belongs to, and the page's number within it.
    pub fn locate(&self, page: u32) -> Option<(Tensor, u32)> {
        let index = self.starts.partition_point(|start| *start <= page).checked_sub(1)?;
        let tensor = self.shape.tensor(index as u32)?;
        Some((tensor, page - self.starts.get(index)?))
    }

    /// The shape whose tensors these are.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}
