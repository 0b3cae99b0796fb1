//! The layout `files`: where every page lies, found in one pass over the directory.

use pageformer_card::tensor::group_cells;
use pageformer_card::{CELLS_PER_PAGE, PAGE_BYTES, Page, PageFile, TensorKind, TensorTable};
use pageformer_fat32::{BlockDevice, File, SectorCache, Volume};

use crate::error::MountError;
use crate::fat_card::device_error;

/// No page lies in sector 0.
const UNSET: u32 = 0;

/// Fills `sectors`, one for each page of the weights, in tape order. `mask_page` is memory for one.
///
/// The directory names the pages of a matrix by what they are: its mask pages, and its cell pages. Which cell
/// pages follow which mask page only the masks can tell. So the pass over the directory puts, for each
/// matrix, first its mask pages and then its cell pages; afterwards the masks are read and every mask page is
/// moved before its cells, in place.
pub(crate) fn locate<D: BlockDevice>(
    volume: &Volume,
    device: &mut D,
    cache: &mut SectorCache<'_>,
    mask_page: &mut Page,
    table: &TensorTable<'_>,
    sectors: &mut [u32],
) -> Result<(), MountError> {
    sectors.fill(UNSET);
    let mut directory = volume.root();
    while let Some(entry) = directory.next(device, cache)? {
        let Some(page_file) = PageFile::parse(entry.name) else { continue };
        let file = entry.file;
        let Some(range) = expected(table, page_file) else { continue };
        let places = sectors.get_mut(range.start as usize..range.end as usize).unwrap_or(&mut []);
        fill(volume, device, cache, page_file, file, places)?;
    }
    for tensor in table.shape().iter_tensors() {
        let pages = table.pages_of(tensor);
        let places = sectors.get_mut(pages.start as usize..pages.end as usize).unwrap_or(&mut []);
        let kind = table.shape().kind(tensor);
        if let Some(missing) = places.iter().position(|sector| *sector == UNSET) {
            return Err(MountError::MissingPage(match kind {
                TensorKind::Vector { .. } => PageFile::Vector(tensor),
                TensorKind::Matrix { dims, .. } => match (missing as u32).checked_sub(dims.groups()) {
                    None => PageFile::Masks(tensor),
                    Some(cells) => PageFile::Cells(tensor, cells),
                },
            }));
        }
        if let TensorKind::Matrix { dims, .. } = kind {
            let torn = MountError::Masks(PageFile::Masks(tensor));
            let mut at = 0;
            for group in 0..dims.groups() {
                let masks_after = (dims.groups() - 1 - group) as usize;
                let sector = *places.get(at).ok_or(torn)?;
                // One try more: what is read here is checked by its sum only when the engine loads it.
                if device.read(sector, mask_page).is_err() {
                    device.read(sector, mask_page).map_err(device_error)?;
                }
                let cells = group_cells(&dims, group, mask_page).map_err(|_| torn)?;
                let cell_pages = cells.div_ceil(CELLS_PER_PAGE as u32) as usize;
                at += 1;
                places.get_mut(at..at + masks_after + cell_pages).ok_or(torn)?.rotate_left(masks_after);
                at += cell_pages;
            }
            if at != places.len() {
                return Err(torn);
            }
        }
    }
    Ok(())
}

/// The places of a file's pages in the table, before the masks are moved; `None` if it belongs to no page of
/// this card.
fn expected(table: &TensorTable<'_>, file: PageFile) -> Option<core::ops::Range<u32>> {
    let (tensor, first, pages) = match file {
        PageFile::Vector(tensor) => (tensor, 0, table.pages_of(tensor).len() as u32),
        PageFile::Masks(tensor) => match table.shape().kind(tensor) {
            TensorKind::Matrix { dims, .. } => (tensor, 0, dims.groups()),
            TensorKind::Vector { .. } => return None,
        },
        PageFile::Cells(tensor, page) => match table.shape().kind(tensor) {
            TensorKind::Matrix { dims, .. } => (tensor, dims.groups().checked_add(page)?, 1),
            TensorKind::Vector { .. } => return None,
        },
    };
    let all = table.pages_of(tensor);
    let start = all.start.checked_add(first)?;
    (start.checked_add(pages)? <= all.end).then_some(start..start + pages)
}

/// Puts the sectors of a file into `places`.
fn fill<D: BlockDevice>(
    volume: &Volume,
    device: &mut D,
    cache: &mut SectorCache<'_>,
    page_file: PageFile,
    file: File,
    places: &mut [u32],
) -> Result<(), MountError> {
    let expected = (places.len() * PAGE_BYTES) as u32;
    if file.size != expected {
        return Err(MountError::PageSize { file: page_file, expected, found: file.size });
    }
    let mut places = places.iter_mut();
    let mut extents = volume.extents(file);
    while let Some(extent) = extents.next(device, cache)? {
        for (place, sector) in places.by_ref().zip(extent.first_sector..).take(extent.sectors as usize) {
            *place = sector;
        }
    }
    Ok(())
}
