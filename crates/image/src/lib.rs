//! Writes card images: a partition table and one FAT volume with the given files in its root directory.
//!
//! An image is made for a device that streams from it, not for a computer that edits it:
//!
//! - **Every file is contiguous**, and the files lie one behind the other in the order given. A file is one run of
//!   sectors; with 512-byte clusters even a thousand files of one sector each are one run.
//! - **The directory comes first** and is contiguous, too, so that a device can read it in long runs.
//! - The size is **a power of two**, as emulators want it, and the smallest that holds the files. FAT32 asks for at
//!   least 65,525 clusters, so 64 MiB is the least; what is not used is a hole in the file and takes
//!   no space on disk.
//! - The partition starts at 1 MiB (sector 2048), as on cards from the shop.
//! - **The same input gives the same bytes**: times, volume id and disk signature are fixed.
//!
//! ```no_run
//! use pageformer_image::{FileSource, Options, write_image};
//!
//! let files = vec![
//!     ("index.json".to_string(), FileSource::Bytes(b"{}".to_vec())),
//!     ("weights.pages".to_string(), FileSource::Path("card/weights.pages".into())),
//! ];
//! let report = write_image(&files, "card.img".as_ref(), &Options::default(), &mut |_done, _total| {})?;
//! println!("{} MiB", report.image_bytes >> 20);
//! # Ok::<(), pageformer_image::Error>(())
//! ```
//!
//! The crates `mbrman` and `fatfs` make the partition table and the empty volume. The directory and the chains
//! are written here: `fatfs` searches the whole directory for every file it adds (2,000 files took 7 s in memory
//! and 9,500 took 450 s; 20,000 take well under a second this way) and gives no say in where a file goes.
//! When all is written, `pageformer-fat32` reads it back and checks each name, size and place.

mod directory;
mod error;
mod plan;
mod verify;
mod write;

pub use error::Error;
pub use pageformer_fat32::FatKind;

use std::path::{Path, PathBuf};

/// Sector at which the volume starts: 1 MiB.
pub const PARTITION_SECTOR: u32 = 2048;

/// Where the contents of a file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// Memory.
    Bytes(Vec<u8>),
    /// A file, which is read while the image is written.
    Path(PathBuf),
}

/// What may be chosen about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a cluster, a power of two from 512 to 32,768. By default:
    ///
    /// - 512 if 64 or more files fit into one sector, for then they are pages that the device reads in runs, and
    ///   only with clusters of one sector are neighbouring files neighbouring sectors;
    /// - else, of the sizes that give the smallest image, the largest: the device finds a large file's sectors by reading
    ///   the FAT's entry of each of its clusters, and slack of a few clusters does not matter to a few files.
    pub cluster_bytes: Option<u32>,
    /// Volume label: up to 11 characters `A`–`Z`, `0`–`9`, `_`, `-` or space.
    pub label: String,
    /// FAT32, or FAT16 for devices (and tests) that want it.
    pub kind: FatKind,
    /// Volume id, which computers use to tell cards apart.
    pub volume_id: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { cluster_bytes: None, label: "PAGEFORMER".into(), kind: FatKind::Fat32, volume_id: 0x5041_4745 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Size of the image, holes included.
    pub image_bytes: u64,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// Number of files.
    pub files: usize,
    /// Bytes of a cluster.
    pub cluster_bytes: u32,
    /// Number of clusters.
    pub clusters: u32,
    /// Number of clusters that hold the files and, on FAT32, the directory.
    pub used_clusters: u32,
}

/// Writes an image with these files, names first, to `out`, which may exist.
///
/// The image is written under a temporary name in the same folder, synced, checked, and then renamed: `out` is never
/// half an image. `progress` is called with the bytes of files written so far and in all, from time to time and at the end.
///
/// # Errors
/// [`Error`] says which file or option is the matter. Nothing is left behind.
pub fn write_image(
    files: &[(String, FileSource)],
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, Error> {
    if std::fs::metadata(out).is_ok_and(|found| !found.is_file()) {
        return Err(Error::NotAFile { path: out.into() });
    }
    let sizes =
        files.iter().map(|(name, source)| size_of_source(name, source)).collect::<Result<Vec<_>, _>>()?;
    let directory = directory::Directory::new(files.iter().map(|(name, _)| name.as_str()), &options.label)?;
    let plan = plan::Plan::new(&sizes, &directory, options)?;

    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    // Temporary files are private, an image is not; the umask still applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let in_out = |source| Error::Write { path: out.into(), source };
    if !folder.is_dir() {
        let problem = format!("there is no folder {}; make it, or write elsewhere", folder.display());
        return Err(in_out(std::io::Error::new(std::io::ErrorKind::NotFound, problem)));
    }
    // Its own message names the temporary file, which is of no interest.
    let made = builder.tempfile_in(folder).map_err(|error| error.kind().into());
    let mut image = made.map_err(in_out)?;

    let volume = write::empty_volume(image.as_file_mut(), out, &plan, directory.label(), options.volume_id)?;
    let used_clusters = plan.check(&volume)?;
    write::metadata(image.as_file_mut(), &volume, &plan, &directory, &sizes).map_err(in_out)?;
    write::contents(image.as_file_mut(), out, &volume, &plan, files, &sizes, progress)?;
    image.as_file().sync_all().map_err(in_out)?;
    verify::contiguous(image.as_file_mut(), &volume, &plan, files, &sizes)?;
    image.persist(out).map_err(|error| in_out(error.error))?;

    Ok(Report {
        image_bytes: plan.image_bytes(),
        file_bytes: sizes.iter().map(|size| u64::from(*size)).sum(),
        files: files.len(),
        cluster_bytes: plan.cluster_bytes(),
        clusters: volume.clusters(),
        used_clusters,
    })
}

/// A FAT file has at most 2³² − 1 bytes.
fn size_of_source(name: &str, source: &FileSource) -> Result<u32, Error> {
    let bytes = match source {
        FileSource::Bytes(bytes) => bytes.len() as u64,
        FileSource::Path(path) => {
            let read = |source| Error::Read { path: path.clone(), source };
            let found = std::fs::metadata(path).map_err(read)?;
            if !found.is_file() {
                return Err(read(std::io::Error::other("not a file")));
            }
            found.len()
        }
    };
    u32::try_from(bytes).map_err(|_| Error::FileTooLarge { name: name.into(), bytes })
}
