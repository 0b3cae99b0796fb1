//! From sector 0 to the first FAT partition: the master boot record, or no partition table at all ("superfloppy").

use crate::bytes::{has, u8_at, u16_at, u32_at};
use crate::{BlockDevice, Error, OtherFileSystem, SectorCache};

/// Where a volume may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its first sector, which holds the BIOS parameter block.
    pub first_sector: u32,
    /// The first sector that is no longer part of it.
    pub end: u32,
}

/// An entry of the partition table.
#[derive(Clone, Copy)]
struct TableEntry {
    status: u8,
    kind: u8,
    first_sector: u32,
    sectors: u32,
}

/// Reads sector 0 and says where the FAT volume begins.
pub(crate) fn find_partition<D: BlockDevice + ?Sized>(
    device: &mut D,
    cache: &mut SectorCache<'_>,
) -> Result<Partition, Error> {
    let device_sectors = device.sectors();
    let sector = cache.sector(device, 0, device_sectors)?;
    if !has(sector, 510, &[0x55, 0xAA]) {
        return Err(Error::NoPartitionTable);
    }
    if other_file_system(sector).is_some() || is_boot_sector(sector) {
        return Ok(Partition { first_sector: 0, end: device_sectors });
    }

    let table = [446, 462, 478, 494].map(|at| TableEntry {
        status: u8_at(sector, at),
        kind: u8_at(sector, at + 4),
        first_sector: u32_at(sector, at + 8),
        sectors: u32_at(sector, at + 12),
    });
    // Boot sectors of anything end in 55 AA, too; a partition table also has only these status bytes.
    if table.iter().any(|entry| entry.status != 0 && entry.status != 0x80) {
        return Err(Error::NoPartitionTable);
    }
    let is_used = |entry: &&TableEntry| entry.kind != 0 && entry.sectors != 0 && entry.first_sector != 0;

    if let Some(entry) = table.iter().filter(is_used).find(|entry| is_fat(entry.kind)) {
        let end = entry.first_sector.checked_add(entry.sectors).filter(|end| *end <= device_sectors);
        return match end {
            Some(end) => Ok(Partition { first_sector: entry.first_sector, end }),
            None => Err(Error::BeyondEnd {
                first_sector: entry.first_sector,
                sectors: entry.sectors,
                end: device_sectors,
            }),
        };
    }
    if table.iter().any(|entry| entry.kind == 0xEE) {
        return Err(Error::Gpt);
    }
    // exFAT and NTFS share a type. Cards of more than 32 GB leave the factory like this: say which it is.
    if let Some(entry) = table.iter().filter(is_used).find(|entry| entry.kind == 0x07)
        && entry.first_sector < device_sectors
    {
        let first = cache.sector(device, entry.first_sector, device_sectors)?;
        if let Some(found) = other_file_system(first) {
            return Err(Error::OtherFileSystem { sector: entry.first_sector, found });
        }
    }
    let first_type = table.iter().find(is_used).map_or(0, |entry| entry.kind);
    Err(Error::NoFatPartition { first_type })
}

/// Partition types that mean FAT12, FAT16 or FAT32; which of them, the volume itself says.
fn is_fat(kind: u8) -> bool {
    matches!(kind, 0x01 | 0x04 | 0x06 | 0x0B | 0x0C | 0x0E)
}

/// exFAT and NTFS name themselves where FAT has a free text.
pub(crate) fn other_file_system(boot_sector: &[u8]) -> Option<OtherFileSystem> {
    if has(boot_sector, 3, b"EXFAT   ") {
        Some(OtherFileSystem::ExFat)
    } else if has(boot_sector, 3, b"NTFS    ") {
        Some(OtherFileSystem::Ntfs)
    } else {
        None
    }
}

/// Whether sector 0 is the boot sector of a volume rather than a partition table: boot loaders in a partition
/// table's sector begin with a jump as well, but have no BIOS parameter block behind it.
fn is_boot_sector(sector: &[u8]) -> bool {
    let jumps = u8_at(sector, 0) == 0xE9 || (u8_at(sector, 0) == 0xEB && u8_at(sector, 2) == 0x90);
    jumps
        && matches!(u16_at(sector, 11), 512 | 1024 | 2048 | 4096)
        && u8_at(sector, 13).is_power_of_two()
        && u16_at(sector, 14) != 0
        && u8_at(sector, 16) != 0
        && (u8_at(sector, 21) == 0xF0 || u8_at(sector, 21) >= 0xF8)
}
