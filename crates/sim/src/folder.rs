//! A card in a folder of the PC.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pageformer_card::tensor::group_cells;
use pageformer_card::{
    CELLS_PER_PAGE, Layout, Manifest, PAGE_BYTES, Page, PageFile, TensorKind, TensorTable,
};
use pageformer_vram::{Card, CardFile, ReadError, WriteError};

use crate::host::OpenError;
use crate::memory::read_slice;

/// The file that is written.
const META: &str = "pages.meta";

/// A card in a folder.
pub struct FolderCard {
    dir: PathBuf,
    index: Vec<u8>,
    sums: Vec<u8>,
    tokenizer: Vec<u8>,
    drafts: Vec<u8>,
    weights: Weights,
}

enum Weights {
    Packed(File, u64),
    /// The file of every page, and the page within it.
    Files(Vec<(PageFile, u32)>),
}

impl FolderCard {
    /// Opens the small files. The weights are there after [`Self::find_weights`].
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let file = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|source| OpenError::file(path, source))
        };
        Ok(Self {
            dir: dir.to_owned(),
            index: file("index.json")?,
            sums: file("pages.crc")?,
            tokenizer: file("tokenizer.bin")?,
            // A card need not have it.
            drafts: fs::read(dir.join("drafts.bin")).unwrap_or_default(),
            weights: Weights::Files(Vec::new()),
        })
    }

    /// Finds the pages of the weights.
    pub(crate) fn find_weights(
        &mut self,
        manifest: &Manifest,
        table: &TensorTable<'_>,
    ) -> Result<(), OpenError> {
        self.weights = match manifest.layout {
            Layout::Packed => {
                let path = self.dir.join("weights.pages");
                let open = || {
                    let file = File::open(&path)?;
                    let bytes = file.metadata()?.len();
                    Ok((file, bytes))
                };
                let (file, bytes) = open().map_err(|source| OpenError::file(path.clone(), source))?;
                Weights::Packed(file, bytes)
            }
            Layout::Files => Weights::Files(self.order_pages(table)?),
        };
        Ok(())
    }

    /// The file that each page of the weights lies in, in tape order; `None` in the layout `packed`.
    pub fn page_files(&self) -> Option<impl Iterator<Item = &PageFile>> {
        match &self.weights {
            Weights::Packed(..) => None,
            Weights::Files(pages) => Some(pages.iter().map(|(file, _)| file)),
        }
    }

    /// The file of each page, in tape order: masks tell where cells belong.
    fn order_pages(&self, table: &TensorTable<'_>) -> Result<Vec<(PageFile, u32)>, OpenError> {
        let mut all = Vec::new();
        for tensor in table.shape().iter_tensors() {
            let pages = table.pages_of(tensor).len() as u32;
            match table.shape().kind(tensor) {
                TensorKind::Vector { .. } => {
                    let file = PageFile::Vector(tensor);
                    self.check(file, pages)?;
                    all.extend((0..pages).map(|page| (file, page)));
                }
                TensorKind::Matrix { dims, .. } => {
                    let masks = PageFile::Masks(tensor);
                    self.check(masks, dims.groups())?;
                    let mut cells = 0..pages - dims.groups();
                    for cell in cells.clone() {
                        self.check(PageFile::Cells(tensor, cell), 1)?;
                    }
                    for group in 0..dims.groups() {
                        let mut mask_page = [[0; PAGE_BYTES]];
                        self.read_file(masks, group, &mut mask_page).map_err(|_| OpenError::Masks(masks))?;
                        let kept =
                            group_cells(&dims, group, &mask_page[0]).map_err(|_| OpenError::Masks(masks))?;
                        all.push((masks, group));
                        for _ in 0..kept.div_ceil(CELLS_PER_PAGE as u32) {
                            let cell = cells.next().ok_or(OpenError::Masks(masks))?;
                            all.push((PageFile::Cells(tensor, cell), 0));
                        }
                    }
                    if cells.next().is_some() {
                        return Err(OpenError::Masks(masks));
                    }
                }
            }
        }
        Ok(all)
    }

    /// Whether a page file is there and has as many pages as it must.
    fn check(&self, file: PageFile, pages: u32) -> Result<(), OpenError> {
        let path = self.dir.join(file.to_string());
        let found = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        let expected = u64::from(pages) * PAGE_BYTES as u64;
        if found == expected { Ok(()) } else { Err(OpenError::PageSize { path, expected, found }) }
    }

    fn read_file(&self, file: PageFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        let bytes = fs::read(self.dir.join(file.to_string())).map_err(|_| ReadError::Truncated)?;
        read_slice(&bytes, first, pages)
    }
}

impl Card for FolderCard {
    fn bytes(&self, file: CardFile) -> u64 {
        match (file, &self.weights) {
            (CardFile::Index, _) => self.index.len() as u64,
            (CardFile::Sums, _) => self.sums.len() as u64,
            (CardFile::Tokenizer, _) => self.tokenizer.len() as u64,
            (CardFile::Meta, _) => fs::metadata(self.dir.join(META)).map_or(0, |metadata| metadata.len()),
            (CardFile::Drafts, _) => self.drafts.len() as u64,
            (CardFile::Weights, Weights::Packed(_, bytes)) => *bytes,
            (CardFile::Weights, Weights::Files(pages)) => (pages.len() * PAGE_BYTES) as u64,
        }
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        match (file, &mut self.weights) {
            (CardFile::Index, _) => read_slice(&self.index, first, pages),
            (CardFile::Sums, _) => read_slice(&self.sums, first, pages),
            (CardFile::Tokenizer, _) => read_slice(&self.tokenizer, first, pages),
            (CardFile::Meta, _) => {
                let bytes = fs::read(self.dir.join(META)).map_err(|_| ReadError::Truncated)?;
                read_slice(&bytes, first, pages)
            }
            (CardFile::Drafts, _) => read_slice(&self.drafts, first, pages),
            (CardFile::Weights, Weights::Packed(file, bytes)) => {
                let into = pages.as_flattened_mut();
                let from = u64::from(first) * PAGE_BYTES as u64;
                if from + into.len() as u64 > *bytes {
                    return Err(ReadError::Truncated);
                }
                let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(into));
                read.map_err(|_| ReadError::Device)
            }
            (CardFile::Weights, Weights::Files(_)) => (first..).zip(pages).try_for_each(|(page, bytes)| {
                let Weights::Files(files) = &self.weights else { return Err(ReadError::Truncated) };
                let (file, within) = *files.get(page as usize).ok_or(ReadError::Truncated)?;
                self.read_file(file, within, std::slice::from_mut(bytes))
            }),
        }
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        let (from, bytes) = (u64::from(first) * PAGE_BYTES as u64, pages.as_flattened());
        if from + bytes.len() as u64 > self.bytes(CardFile::Meta) {
            return Err(WriteError::Truncated);
        }
        let write = || {
            let mut file = OpenOptions::new().write(true).open(self.dir.join(META))?;
            file.seek(SeekFrom::Start(from))?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => WriteError::ReadOnly,
            _ => WriteError::Device,
        })
    }
}
