//! A card whose files lie on a FAT volume.

use pageformer_card::{Layout, Manifest, PAGE_BYTES, Page, TensorTable};
use pageformer_fat32::{BlockDevice, DeviceError, Extent, File, SectorCache, Volume};
use pageformer_vram::{
    Arena, Card, CardFile, OutOfMemory, ReadError, WriteError, read_manifest, read_tensors,
};

use crate::error::MountError;
use crate::files;

/// Most pieces of `weights.pages`.
const WEIGHTS_EXTENTS: usize = 32;
/// Most pieces of the other files.
const FILE_EXTENTS: usize = 8;

/// Where a file lies.
#[derive(Clone, Copy, Debug)]
struct Place<const N: usize> {
    bytes: u32,
    extents: [Extent; N],
    len: usize,
}

impl<const N: usize> Place<N> {
    const NOWHERE: Self = Self { bytes: 0, extents: [Extent { first_sector: 0, sectors: 0 }; N], len: 0 };

    // Not inlined: it is called for every file.
    #[inline(never)]
    fn find<D: BlockDevice>(
        name: &'static str,
        file: File,
        volume: &Volume,
        device: &mut D,
        cache: &mut SectorCache<'_>,
    ) -> Result<Self, MountError> {
        let mut place = Self { bytes: file.size, ..Self::NOWHERE };
        let mut extents = volume.extents(file);
        while let Some(extent) = extents.next(device, cache)? {
            *place.extents.get_mut(place.len).ok_or(MountError::Fragmented(name))? = extent;
            place.len += 1;
        }
        Ok(place)
    }

    /// The sector of page `page`, and how many pages follow it without a gap.
    fn run(&self, mut page: u32) -> Option<(u32, u32)> {
        for extent in self.extents.iter().take(self.len) {
            if page < extent.sectors {
                return Some((extent.first_sector + page, extent.sectors - page));
            }
            page -= extent.sectors;
        }
        None
    }
}

/// A card on a FAT volume of a block device.
#[derive(Debug)]
pub struct FatCard<'m, D> {
    device: D,
    index: Place<FILE_EXTENTS>,
    sums: Place<FILE_EXTENTS>,
    tokenizer: Place<FILE_EXTENTS>,
    meta: Place<FILE_EXTENTS>,
    /// [`Place::NOWHERE`] if the card has none.
    drafts: Place<FILE_EXTENTS>,
    /// Layout `packed`.
    weights: Place<WEIGHTS_EXTENTS>,
    /// Layout `files`: the sector of every page of the weights.
    page_sectors: Option<&'m [u32]>,
}

/// A card and what its `index.json` says.
pub struct Mounted<'m, D> {
    /// The card.
    pub card: FatCard<'m, D>,
    /// The manifest.
    pub manifest: Manifest,
    /// Where each tensor starts.
    pub table: TensorTable<'m>,
}

/// Mounts a card. The tensor table and, in the layout `files`, the page locations are cut from `arena`; what is left of
/// it serves as cache meanwhile: at least 1,536 bytes, and the more there are, the fewer reads it takes.
///
/// # Errors
/// If the volume, the files or `index.json` are not those of a card.
// Not inlined: what it needs of the stack is free again when the engine starts.
#[inline(never)]
pub fn mount<'m, D: BlockDevice>(device: D, arena: &mut Arena<'m>) -> Result<Mounted<'m, D>, MountError> {
    let (volume, mut card, packed) = find_files(device, arena.scratch())?;
    let (page, _) = scratch(arena.scratch())?;
    let manifest = read_manifest(&mut card, page)?;
    // Nothing is cut that the file could not have described: its size bounds what it can ask for.
    let entries = arena.take(TensorTable::entries(&manifest.shape))?;
    let (page, _) = scratch(arena.scratch())?;
    let table = read_tensors(&mut card, page, &manifest, entries)?;
    match manifest.layout {
        Layout::Packed => {
            let file = packed.ok_or(MountError::Missing("weights.pages"))?;
            let mut cache = SectorCache::new(arena.scratch())?;
            card.weights = Place::find("weights.pages", file, &volume, &mut card.device, &mut cache)?;
        }
        Layout::Files => {
            let sectors = arena.take(table.pages() as usize)?;
            let (page, cache) = scratch(arena.scratch())?;
            files::locate(&volume, &mut card.device, &mut SectorCache::new(cache)?, page, &table, sectors)?;
            card.page_sectors = Some(sectors);
        }
    }
    Ok(Mounted { card, manifest, table })
}

/// A page and a cache of at least two sectors.
fn scratch(memory: &mut [u8]) -> Result<(&mut Page, &mut [u8]), MountError> {
    let needed = 3 * PAGE_BYTES;
    let small = OutOfMemory { needed, left: memory.len() };
    if memory.len() < needed {
        return Err(small.into());
    }
    memory.split_first_chunk_mut().ok_or(small.into())
}

/// Looks through the directory: the card without its weights, and `weights.pages` if there is one.
#[inline(never)]
fn find_files<'m, D: BlockDevice>(
    mut device: D,
    memory: &mut [u8],
) -> Result<(Volume, FatCard<'m, D>, Option<File>), MountError> {
    let mut cache = SectorCache::new(scratch(memory)?.1)?;
    let volume = Volume::open(&mut device, &mut cache)?;
    let (mut index, mut sums, mut tokenizer) = (None, None, None);
    let (mut meta, mut drafts, mut packed) = (None, None, None);
    let mut directory = volume.root();
    while let Some(entry) = directory.next(&mut device, &mut cache)? {
        let found = [
            ("index.json", &mut index),
            ("pages.crc", &mut sums),
            ("tokenizer.bin", &mut tokenizer),
            ("pages.meta", &mut meta),
            ("drafts.bin", &mut drafts),
            ("weights.pages", &mut packed),
        ];
        if let Some((_, slot)) = found.into_iter().find(|(name, _)| entry.is(name)) {
            *slot = Some(entry.file);
        }
    }
    let mut place = |name, file: Option<File>| {
        Place::find(name, file.ok_or(MountError::Missing(name))?, &volume, &mut device, &mut cache)
    };
    let index = place("index.json", index)?;
    let sums = place("pages.crc", sums)?;
    let tokenizer = place("tokenizer.bin", tokenizer)?;
    // A card does without these, also when they lie in too many pieces.
    let meta = place("pages.meta", meta).unwrap_or(Place::NOWHERE);
    let drafts = place("drafts.bin", drafts).unwrap_or(Place::NOWHERE);
    let weights = Place::NOWHERE;
    let card = FatCard { device, index, sums, tokenizer, meta, drafts, weights, page_sectors: None };
    Ok((volume, card, packed))
}

impl<D> FatCard<'_, D> {
    /// Gives the device back.
    pub fn into_device(self) -> D {
        self.device
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The sector of page `page` of `file`, and how many pages follow it without a gap (at least 1).
    fn run(&self, file: CardFile, page: u32) -> Option<(u32, u32)> {
        match (file, self.page_sectors) {
            (CardFile::Index, _) => self.index.run(page),
            (CardFile::Sums, _) => self.sums.run(page),
            (CardFile::Tokenizer, _) => self.tokenizer.run(page),
            (CardFile::Meta, _) => self.meta.run(page),
            (CardFile::Drafts, _) => self.drafts.run(page),
            (CardFile::Weights, None) => self.weights.run(page),
            (CardFile::Weights, Some(sectors)) => {
                let sectors = sectors.get(page as usize..)?;
                let first = *sectors.first()?;
                let run = sectors.iter().zip(first..).take_while(|(sector, next)| **sector == *next).count();
                Some((first, run as u32))
            }
        }
    }
}

impl<D: BlockDevice> FatCard<'_, D> {
    /// Reads pages with one call of `read` for each piece that they lie in.
    fn read_pieces(
        &mut self,
        file: CardFile,
        first: u32,
        pages: &mut [Page],
        read: impl Fn(&mut D, u32, &mut [u8]) -> Result<(), DeviceError>,
    ) -> Result<(), ReadError> {
        let (mut page, mut rest) = (first, pages);
        while !rest.is_empty() {
            let (sector, run) = self.run(file, page).ok_or(ReadError::Truncated)?;
            let (now, later) = rest.split_at_mut((run as usize).min(rest.len()));
            read(&mut self.device, sector, now.as_flattened_mut()).map_err(device_error)?;
            page += now.len() as u32;
            rest = later;
        }
        Ok(())
    }
}

impl<D: BlockDevice> Card for FatCard<'_, D> {
    fn bytes(&self, file: CardFile) -> u64 {
        match (file, self.page_sectors) {
            (CardFile::Index, _) => self.index.bytes.into(),
            (CardFile::Sums, _) => self.sums.bytes.into(),
            (CardFile::Tokenizer, _) => self.tokenizer.bytes.into(),
            (CardFile::Meta, _) => self.meta.bytes.into(),
            (CardFile::Drafts, _) => self.drafts.bytes.into(),
            (CardFile::Weights, None) => self.weights.bytes.into(),
            (CardFile::Weights, Some(sectors)) => sectors.len() as u64 * PAGE_BYTES as u64,
        }
    }

    fn read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        match file {
            // It is parsed before its checksum is compared.
            CardFile::Index => self.read_pieces(file, first, pages, D::read),
            _ => self.read_pieces(file, first, pages, D::read_unverified),
        }
    }

    fn read_ahead(&self) -> u32 {
        self.device.read_ahead()
    }

    fn begin_page(&mut self, file: CardFile, page: u32) {
        // Without a reader of its own, a device costs no code.
        if self.device.read_ahead() > 0
            && let Some((sector, _)) = self.run(file, page)
        {
            self.device.begin_sector(sector);
        }
    }

    fn has_arrived(&mut self, file: CardFile, page: u32) -> bool {
        self.device.read_ahead() == 0
            || self.run(file, page).is_none_or(|(sector, _)| self.device.has_arrived(sector))
    }

    fn begin_read(&mut self, file: CardFile, first: u32, pages: u32) {
        let (mut page, end) = (first, first.saturating_add(pages));
        while page < end {
            let Some((sector, run)) = self.run(file, page) else { return };
            let now = run.min(end - page);
            self.device.begin_read(sector, now);
            page += now;
        }
    }

    fn finish_read(&mut self, file: CardFile, first: u32, pages: &mut [Page]) -> Result<(), ReadError> {
        self.read_pieces(file, first, pages, D::finish_read)
    }

    fn write_meta(&mut self, first: u32, pages: &[Page]) -> Result<(), WriteError> {
        for (page, bytes) in (first..).zip(pages) {
            if (u64::from(page) + 1) * PAGE_BYTES as u64 > u64::from(self.meta.bytes) {
                return Err(WriteError::Truncated);
            }
            let (sector, _) = self.meta.run(page).ok_or(WriteError::Truncated)?;
            self.device.write(sector, bytes).map_err(|error| match error {
                DeviceError::Removed => WriteError::NoCard,
                DeviceError::OutOfRange => WriteError::Truncated,
                DeviceError::ReadOnly => WriteError::ReadOnly,
                _ => WriteError::Device,
            })?;
        }
        Ok(())
    }
}

/// What a device's error means to a reader of pages.
pub(crate) fn device_error(error: DeviceError) -> ReadError {
    match error {
        DeviceError::Removed => ReadError::NoCard,
        DeviceError::OutOfRange => ReadError::Truncated,
        _ => ReadError::Device,
    }
}
