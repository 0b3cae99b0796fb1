//! Opening a card wherever it lies.

use std::io;
use std::path::{Path, PathBuf};

use pageformer_card::{Layout, Manifest, ManifestError, PAGE_BYTES, Page, PageFile, TensorTable};
use pageformer_fat32::BlockDevice;
use pageformer_mount::{FatCard, MountError, Mounted, mount};
use pageformer_vram::{
    Arena, Card, CardFile, OutOfMemory, ReadError, WriteError, read_manifest, read_tensors,
};

use crate::folder::FolderCard;
use crate::image::FileDevice;
use crate::memory::MemoryCard;

/// Why a card cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system says so.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the card is not there.
    #[error("{}: no such file; the card is not whole: export it again, or copy all of its files", .0.display())]
    Missing(PathBuf),
    /// There is no card.
    #[error("{}: no such file or folder; give the folder or the image of an exported card", .0.display())]
    NotFound(PathBuf),
    /// A file without a single sector.
    #[error("{}: too short for an image; give the folder or the image of an exported card", .0.display())]
    Short(PathBuf),
    /// A folder without `index.json`.
    #[error("{}: not a card, it has no index.json; make one with `pageformer export`", .0.display())]
    NotACard(PathBuf),
    /// `index.json` is not a manifest.
    #[error("{path}: {error}", path = path.display())]
    Manifest {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: ManifestError,
    },
    /// The image is none of a card.
    #[error("{path}: {error}", path = path.display())]
    Mount {
        /// The image.
        path: PathBuf,
        /// Why.
        error: MountError,
    },
    /// A page file has another size than its tensor asks for.
    #[error("{path}: {found} bytes instead of {expected}; export the card again", path = path.display())]
    PageSize {
        /// The file.
        path: PathBuf,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The masks of a matrix do not fit its pages.
    #[error(
        "{0}: its masks ask for other pages than index.json says; the files are of different exports: export the card again"
    )]
    Masks(PageFile),
    /// The tables do not fit the memory.
    #[error("the tables of tensors and pages need {needed} bytes of RAM, {left} are left; give more with --ram", needed = .0.needed, left = .0.left)]
    Memory(OutOfMemory),
}

impl OpenError {
    /// A file of the card cannot be read.
    pub(crate) fn file(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            _ => Self::Io { path, source },
        }
    }
}

impl From<OutOfMemory> for OpenError {
    fn from(e: OutOfMemory) -> Self {
        Self::Memory(e)
    }
}

/// A card in a folder or an image.
pub enum HostCard<'m> {
    /// A folder.
    Folder(FolderCard),
    /// An image, mounted as a board mounts its card.
    Image(Box<FatCard<'m, FileDevice>>),
    /// Memory.
    Memory(MemoryCard),
}

/// A card and what its `index.json` says.
pub struct Opened<'m> {
    /// The card.
    pub card: HostCard<'m>,
    /// The manifest.
    pub manifest: Manifest,
    /// Where each tensor starts.
    pub table: TensorTable<'m>,
}

/// Opens the card at `path`: a folder or an image, in either layout. The tensor table and, in the layout `files`,
/// the page locations are cut from `arena`, also for a folder, which does not need them: so that the memory that
/// is left is a board's.
///
/// # Errors
/// If there is no card, or it is damaged.
pub fn open<'m>(path: &Path, arena: &mut Arena<'m>) -> Result<Opened<'m>, OpenError> {
    if path.is_dir() {
        return open_folder(path, arena);
    }
    if !path.exists() {
        return Err(OpenError::NotFound(path.to_owned()));
    }
    let device = FileDevice::open(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    if device.sectors() == 0 {
        return Err(OpenError::Short(path.to_owned()));
    }
    let Mounted { card, manifest, table } = mount(device, arena).map_err(|error| match error {
        MountError::Memory(e) => OpenError::Memory(e),
        error => OpenError::Mount { path: path.to_owned(), error },
    })?;
    Ok(Opened { card: HostCard::Image(Box::new(card)), manifest, table })
}

fn open_folder<'m>(dir: &Path, arena: &mut Arena<'m>) -> Result<Opened<'m>, OpenError> {
    if !dir.join("index.json").is_file() {
        return Err(OpenError::NotACard(dir.to_owned()));
    }
    let mut card = FolderCard::open(dir)?;
    let (manifest, table) = describe(&mut card, dir, arena)?;
    if manifest.layout == Layout::Files {
        arena.take::<u32>(table.pages() as usize)?;
    }
    card.find_weights(&manifest, &table)?;
    Ok(Opened { card: HostCard::Folder(card), manifest, table })
}

/// Opens a card in memory, as [`open`] does; its layout is `packed`.
///
/// # Errors
/// If it is damaged.
pub fn open_memory<'m>(mut card: MemoryCard, arena: &mut Arena<'m>) -> Result<Opened<'m>, OpenError> {
    let (manifest, table) = describe(&mut card, Path::new("card in memory"), arena)?;
    Ok(Opened { card: HostCard::Memory(card), manifest, table })
}

/// What `index.json` says.
fn describe<'m, C: Card>(
    card: &mut C,
    path: &Path,
    arena: &mut Arena<'m>,
) -> Result<(Manifest, TensorTable<'m>), OpenError> {
    let bad_index = |error| OpenError::Manifest { path: path.to_owned(), error };
    let mut page = [0; PAGE_BYTES];
    let manifest = read_manifest(card, &mut page).map_err(bad_index)?;
    let entries = arena.take(TensorTable::entries(&manifest.shape))?;
    let table = read_tensors(card, &mut page, &manifest, entries).map_err(bad_index)?;
    Ok((manifest, table))
}

impl HostCard<'_> {
    /// The file that each page of the weights lies in, in tape order, if this is a folder in the layout `files`.
    pub fn page_files(&self) -> Option<impl Iterator<Item = &PageFile>> {
        match self {
            HostCard::Folder(card) => card.page_files(),
            HostCard::Image(_) | HostCard::Memory(_) => None,
        }
    }
}

impl Card for HostCard<'_> {
    fn bytes(&self, file: CardFile) -> u64 {
        match self {
            HostCard::Folder(card) => card.bytes(file),
            HostCard::Image(card) => card.bytes(file),
            HostCard::Memory(card) => card.bytes(file),
        }
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        match self {
            HostCard::Folder(card) => card.read(file, first, pages),
            HostCard::Image(card) => card.read(file, first, pages),
            HostCard::Memory(card) => card.read(file, first, pages),
        }
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        match self {
            HostCard::Folder(card) => card.write_meta(first, pages),
            HostCard::Image(card) => card.write_meta(first, pages),
            // It would be gone with the program.
            HostCard::Memory(_) => Err(WriteError::ReadOnly),
        }
    }
}
