//! Writing: matrices, vectors, checksums and vocabularies as pages.

use std::vec::Vec;

use crate::matrix::{MatrixDims, TILE_OUTPUTS, TILES_PER_GROUP, TileRecord};
use crate::meta::{MetaHeader, MetaLayout, MetaSum};
use crate::page::{CELL_BYTES, PAGE_BYTES, Page, checksum, pages_for};
use crate::tokenizer::{
    ENTRIES_PER_PAGE, FREE, NO_TOKEN, Section, TokenizerHeader, TokenizerKind, hash_page, pair_key,
};

/// An int8 matrix, padded as [`MatrixDims`] says, with a scale for each tile and output.
pub struct QuantizedMatrix {
    /// Its dimensions.
    pub dims: MatrixDims,
    /// `(padded_outputs, padded_inputs)`, row-major; the padding is zero.
    pub values: Vec<i8>,
    /// bf16, `(padded_outputs, segments)`, row-major.
    pub scales: Vec<u16>,
    /// Keep cells even if all their weights are zero.
    pub dense: bool,
}

/// The pages of a matrix in tape order, and which of them are mask pages.
pub struct MatrixPages {
    /// The pages.
    pub pages: Vec<Page>,
    /// Numbers of the mask pages within `pages`, ascending.
    pub mask_pages: Vec<u32>,
    /// Cells kept.
    pub kept_cells: u64,
}

/// Cuts a matrix into tiles, groups and pages. A cell of zeros is not stored unless the matrix is dense.
pub fn matrix_pages(matrix: &QuantizedMatrix) -> MatrixPages {
    let dims = matrix.dims;
    let (inputs, segments) = (dims.padded_inputs() as usize, dims.segments());
    let mut out = MatrixPages { pages: Vec::new(), mask_pages: Vec::new(), kept_cells: 0 };
    for group in 0..dims.groups() {
        let mut mask_page = [0; PAGE_BYTES];
        let mut cells: Vec<u8> = Vec::new();
        for place in 0..dims.tiles_in_group(group) {
            let tile = group * TILES_PER_GROUP as u32 + place;
            let (row, segment) = ((tile / segments) as usize * TILE_OUTPUTS, tile % segments);
            let mut record = TileRecord::default();
            for (r, scale) in record.scales.iter_mut().enumerate() {
                *scale = matrix.scales[(row + r) * segments as usize + segment as usize];
            }
            for j in 0..dims.cells_in_tile(segment) as usize {
                let column = segment as usize * 256 + j * 4;
                let mut cell = [0u8; CELL_BYTES];
                for (r, weights) in cell.chunks_exact_mut(4).enumerate() {
                    let from = (row + r) * inputs + column;
                    for (byte, value) in weights.iter_mut().zip(&matrix.values[from..from + 4]) {
                        *byte = *value as u8;
                    }
                }
                if matrix.dense || cell != [0; CELL_BYTES] {
                    record.mask |= 1 << j;
                    cells.extend_from_slice(&cell);
                }
            }
            record.write(&mut mask_page, place as usize);
        }
        out.kept_cells += (cells.len() / CELL_BYTES) as u64;
        out.mask_pages.push(out.pages.len() as u32);
        out.pages.push(mask_page);
        out.pages.extend(to_pages(&cells));
    }
    out
}

/// f32 values as pages.
pub fn vector_pages(values: impl IntoIterator<Item = f32>) -> Vec<Page> {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    to_pages(&bytes)
}

/// Bytes as pages, zero-padded.
pub fn to_pages(bytes: &[u8]) -> Vec<Page> {
    bytes
        .chunks(PAGE_BYTES)
        .map(|chunk| {
            let mut page = [0; PAGE_BYTES];
            page[..chunk.len()].copy_from_slice(chunk);
            page
        })
        .collect()
}

/// `pages.crc`, in the order of [`crate::sums`].
pub fn sum_pages(weights: &[Page], tokenizer: &[Page], index: &[u8]) -> Vec<Page> {
    let sums = weights.iter().chain(tokenizer).map(|page| checksum(page)).chain([checksum(index)]);
    let bytes: Vec<u8> = sums.flat_map(u32::to_le_bytes).collect();
    to_pages(&bytes)
}

/// `pages.meta` for so many pages of weights: nothing is known of them yet.
pub fn meta_pages(weights_pages: u32) -> Vec<Page> {
    let layout = MetaLayout { records: weights_pages };
    let mut pages = std::vec![[0; PAGE_BYTES]; layout.pages() as usize];
    let mut sum = MetaSum::new(0, weights_pages);
    (0..layout.record_pages()).for_each(|_| sum.page(&[0; PAGE_BYTES]));
    let header = MetaHeader { sequence: 0, records: weights_pages, sum: sum.finish() };
    header.write(&mut pages[layout.header_page(0) as usize]);
    pages
}

/// A merge of two tokens; a smaller rank goes first.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// Left token.
    pub left: u16,
    /// Right token.
    pub right: u16,
    /// What they become.
    pub merged: u16,
    /// Order among merges; equal ranks go left to right.
    pub rank: u16,
}

/// A vocabulary to be written.
pub struct Vocabulary {
    /// How text becomes first tokens.
    pub kind: TokenizerKind,
    /// A space is put before a text that is not empty.
    pub space_prefix: bool,
    /// The bytes of each token.
    pub pieces: Vec<Vec<u8>>,
    /// Token of each byte, where there is one.
    pub bytes: Vec<Option<u16>>,
    /// Token of each character that has one.
    pub characters: Vec<(char, u16)>,
    /// Merges.
    pub merges: Vec<Merge>,
}

/// `tokenizer.bin`.
pub fn tokenizer_pages(vocabulary: &Vocabulary) -> Vec<Page> {
    let mut header = TokenizerHeader {
        kind: vocabulary.kind,
        vocab: vocabulary.pieces.len() as u32,
        space_prefix: vocabulary.space_prefix,
        words: vocabulary.pieces.iter().all(|p| !p.iter().skip(1).any(|b| *b == b' ')),
        pieces: Section::default(),
        text: Section::default(),
        bytes: Section::default(),
        characters: Section::default(),
        merges: Section::default(),
    };
    let mut pages = Vec::from([[0; PAGE_BYTES]]);
    if vocabulary.kind != TokenizerKind::Plain {
        let mut section = |content: Vec<Page>| {
            let section = Section { first: pages.len() as u32, pages: content.len() as u32 };
            pages.extend(content);
            section
        };
        let mut offset = 0u32;
        let mut pieces = Vec::new();
        for piece in &vocabulary.pieces {
            pieces.extend_from_slice(&offset.to_le_bytes());
            pieces.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            offset += piece.len() as u32;
        }
        header.pieces = section(to_pages(&pieces));
        header.text = section(to_pages(&vocabulary.pieces.concat()));
        let tokens = (0..256).map(|b| vocabulary.bytes.get(b).copied().flatten().unwrap_or(NO_TOKEN));
        header.bytes = section(to_pages(&tokens.flat_map(u16::to_le_bytes).collect::<Vec<_>>()));
        let characters = vocabulary.characters.iter().map(|(c, token)| (*c as u32, *token, 0));
        header.characters = section(hashed(&characters.collect::<Vec<_>>()));
        let merges = vocabulary.merges.iter().map(|m| (pair_key(m.left, m.right), m.merged, m.rank));
        header.merges = section(hashed(&merges.collect::<Vec<_>>()));
    }
    header.write(&mut pages[0]);
    pages
}

/// A hashed section, three quarters full.
fn hashed(entries: &[(u32, u16, u16)]) -> Vec<Page> {
    let count = pages_for(entries.len() as u64 * 8 * 4 / 3) as u32;
    let mut pages = std::vec![[0xFF; PAGE_BYTES]; count as usize];
    for (key, token, rank) in entries {
        let mut at = hash_page(*key, count);
        'placed: loop {
            let page = &mut pages[at as usize];
            for entry in page.chunks_exact_mut(8) {
                if entry[..4] == FREE.to_le_bytes() {
                    entry[..4].copy_from_slice(&key.to_le_bytes());
                    entry[4..6].copy_from_slice(&token.to_le_bytes());
                    entry[6..].copy_from_slice(&rank.to_le_bytes());
                    break 'placed;
                }
            }
            at = (at + 1) % count;
        }
    }
    debug_assert!(entries.len() as u32 <= count * ENTRIES_PER_PAGE);
    pages
}
