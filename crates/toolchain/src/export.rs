//! A model as the files of a card.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pageformer_card::manifest::{MAX_EOS, is_block};
use pageformer_card::tokenizer::TokenizerKind;
use pageformer_card::writer::{self, Merge, Vocabulary};
use pageformer_card::{
    Chat, Layout, Manifest, ManifestError, Page, PageFile, Reader, Role, Tensor, TensorKind, Text,
};
use pageformer_model::{Kind, Matrix, Model, NormWeights, Tokenizer};

use crate::quantize;

/// Why a model cannot become a card.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The model contradicts itself.
    #[error(transparent)]
    Model(#[from] pageformer_model::Error),
    /// The vocabulary and the model have different sizes.
    #[error("the tokenizer has {tokenizer} tokens, the model {model}; they do not belong together")]
    Vocab {
        /// Tokens of the tokenizer.
        tokenizer: u32,
        /// Tokens of the model.
        model: u32,
    },
    /// The vocabulary is too large for a card's tables.
    #[error("a vocabulary of {0} tokens with merges does not fit a card: at most 65,534 tokens and ranks")]
    LargeVocab(u32),
    /// More end tokens than a card holds.
    #[error("{0} tokens end a reply; a card holds at most {MAX_EOS}")]
    Eos(usize),
    /// A text is too long for the manifest.
    #[error("the {0} is longer than a card can hold ({1} bytes); shorten it")]
    Text(&'static str, usize),
    /// Not a pruning block.
    #[error("blocks of {0}x{1} are not possible: outputs and inputs are multiples of 4, at most 256")]
    Block(u32, u32),
    /// A chat template without a place for the message.
    #[error("the chat template {0:?} has no {{}} where the user's message goes")]
    ChatTemplate(String),
    /// The manifest comes out as one that no device reads.
    #[error("no device could read this card: {0}; shorten the texts in it")]
    Index(ManifestError),
    /// A file could not be written.
    #[error("{path}: cannot be written: {source}; give another place", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output is something else.
    #[error("{path} is not a card's file, and nothing but a card is replaced; give another place, or remove it first", path = .0.display())]
    Exists(PathBuf),
}

/// A file of a card.
pub struct NamedFile {
    /// Its name, in the card's root.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// A card, in memory.
pub struct CardFiles {
    /// What `index.json` says.
    pub manifest: Manifest,
    /// Pages of each tensor, in tape order.
    pub tensors: Vec<(Tensor, u32)>,
    /// The files; `index.json` first.
    pub files: Vec<NamedFile>,
}

/// A text in memory as a stream.
struct Bytes<'a>(&'a [u8]);

impl Reader for Bytes<'_> {
    type Error = Infallible;

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let (now, later) = self.0.split_at(buf.len().min(self.0.len()));
        buf[..now.len()].copy_from_slice(now);
        self.0 = later;
        Ok(now.len())
    }
}

/// The pages of a tensor.
struct TensorPages {
    tensor: Tensor,
    pages: Vec<Page>,
    /// Which of them are mask pages.
    mask_pages: Vec<u32>,
}

/// Quantizes and lays out a model. Cells of zeros are not stored.
///
/// # Errors
/// If the model or its tokenizer does not fit a card.
pub fn export(
    model: &Model,
    tokenizer: &Tokenizer,
    layout: Layout,
    block: (u32, u32),
    name: &str,
    source: &str,
) -> Result<CardFiles, ExportError> {
    model.check()?;
    if !is_block(block) {
        return Err(ExportError::Block(block.0, block.1));
    }
    let (mut all_cells, mut kept_cells) = (0, 0);
    let mut tensors = Vec::new();
    for tensor in model.shape.iter_tensors() {
        let (pages, mask_pages) = match model.shape.kind(tensor) {
            TensorKind::Vector { .. } => (vector(norm(model, tensor)), Vec::new()),
            TensorKind::Matrix { dims, prunable } => {
                let written = writer::matrix_pages(&quantize(matrix(model, tensor), !prunable));
                all_cells += dims.cells();
                kept_cells += written.kept_cells;
                (written.pages, written.mask_pages)
            }
        };
        tensors.push(TensorPages { tensor, pages, mask_pages });
    }
    let weights: Vec<Page> = tensors.iter().flat_map(|t| &t.pages).copied().collect();
    let off_tape = if model.shape.tied_embeddings { 0 } else { tensors.last().map_or(0, |t| t.pages.len()) };
    let vocabulary = tokenizer_pages(model, tokenizer)?;
    let manifest = Manifest {
        layout,
        name: Text::new(name).ok_or(ExportError::Text("model's name", 64))?,
        source: Text::new(source).ok_or(ExportError::Text("source's name", 96))?,
        shape: model.shape,
        block,
        density: (kept_cells as f64 / all_cells as f64) as f32,
        tape_pages: (weights.len() - off_tape) as u32,
        tokenizer_pages: vocabulary.len() as u32,
        bos: model.bos.map(|id| id as u16),
        eos: eos(model)?,
        chat: chat(model)?,
    };
    let table: Vec<(Tensor, u32)> = tensors.iter().map(|t| (t.tensor, t.pages.len() as u32)).collect();
    let mut index = String::new();
    // Writing to a String cannot fail.
    let _ = manifest.write(&mut index, &mut table.iter().copied());
    match Manifest::parse(Bytes(index.as_bytes()), &mut |_, _| Ok(())) {
        Ok(read) if read == manifest => {}
        Ok(_) => return Err(ExportError::Index(ManifestError::Read)),
        Err(error) => return Err(ExportError::Index(error)),
    }

    let sums = writer::sum_pages(&weights, &vocabulary, index.as_bytes());
    let mut files = vec![
        NamedFile { name: "index.json".into(), bytes: index.into_bytes() },
        NamedFile { name: "pages.crc".into(), bytes: sums.concat() },
        NamedFile { name: "tokenizer.bin".into(), bytes: vocabulary.concat() },
        NamedFile { name: "pages.meta".into(), bytes: writer::meta_pages(weights.len() as u32).concat() },
    ];
    match layout {
        Layout::Packed => {
            files.push(NamedFile { name: "weights.pages".into(), bytes: weights.into_flattened() })
        }
        Layout::Files => tensors.iter().for_each(|tensor| files.extend(page_files(tensor))),
    }
    Ok(CardFiles { manifest, tensors: table, files })
}

/// The files of a tensor in the layout `files`.
fn page_files(tensor: &TensorPages) -> Vec<NamedFile> {
    if tensor.mask_pages.is_empty() {
        let name = PageFile::Vector(tensor.tensor).to_string();
        return vec![NamedFile { name, bytes: tensor.pages.concat() }];
    }
    let mut masks = NamedFile { name: PageFile::Masks(tensor.tensor).to_string(), bytes: Vec::new() };
    let mut cells = Vec::new();
    for (number, page) in (0..).zip(&tensor.pages) {
        if tensor.mask_pages.contains(&number) {
            masks.bytes.extend_from_slice(page);
        } else {
            let name = PageFile::Cells(tensor.tensor, cells.len() as u32).to_string();
            cells.push(NamedFile { name, bytes: page.to_vec() });
        }
    }
    cells.insert(0, masks);
    cells
}

fn matrix(model: &Model, tensor: Tensor) -> &Matrix {
    match tensor {
        Tensor::Layer(layer, role) => {
            let layer = &model.layers[layer as usize];
            match role {
                Role::Wq => &layer.wq,
                Role::Wk => &layer.wk,
                Role::Wv => &layer.wv,
                Role::Wo => &layer.wo,
                Role::Wgate => layer.w_gate.as_ref().unwrap_or(&layer.w1),
                Role::W2 => &layer.w2,
                Role::W1 | Role::Ln1 | Role::Ln2 => &layer.w1,
            }
        }
        Tensor::Head => model.head(),
        Tensor::Embedding | Tensor::FinalLn => &model.embedding,
    }
}

fn norm(model: &Model, tensor: Tensor) -> Option<&NormWeights> {
    match tensor {
        Tensor::Layer(layer, Role::Ln1) => Some(&model.layers[layer as usize].ln1),
        Tensor::Layer(layer, Role::Ln2) => Some(&model.layers[layer as usize].ln2),
        _ => model.final_norm.as_ref(),
    }
}

/// Gains, then biases.
fn vector(norm: Option<&NormWeights>) -> Vec<Page> {
    let values = norm.into_iter().flat_map(|n| n.gain.iter().chain(n.bias.iter().flatten()));
    writer::vector_pages(values.copied())
}

fn eos(model: &Model) -> Result<[Option<u16>; MAX_EOS], ExportError> {
    let mut eos = [None; MAX_EOS];
    if model.eos.len() > MAX_EOS {
        return Err(ExportError::Eos(model.eos.len()));
    }
    for (slot, id) in eos.iter_mut().zip(&model.eos) {
        *slot = Some(*id as u16);
    }
    Ok(eos)
}

fn chat(model: &Model) -> Result<Option<Chat>, ExportError> {
    let Some(chat) = &model.chat else { return Ok(None) };
    if !chat.user.contains("{}") {
        return Err(ExportError::ChatTemplate(chat.user.clone()));
    }
    Ok(Some(Chat {
        user: Text::new(&chat.user).ok_or(ExportError::Text("chat template", 96))?,
        stop: Text::new(&chat.stop).ok_or(ExportError::Text("chat's stop text", 32))?,
    }))
}

/// `tokenizer.bin`.
fn tokenizer_pages(model: &Model, tokenizer: &Tokenizer) -> Result<Vec<Page>, ExportError> {
    let vocab = tokenizer.vocab_size();
    if vocab != model.shape.vocab {
        return Err(ExportError::Vocab { tokenizer: vocab, model: model.shape.vocab });
    }
    let kind = match tokenizer.kind() {
        Kind::Ascii | Kind::Bytes => TokenizerKind::Plain,
        Kind::SentencePiece => TokenizerKind::Characters,
        Kind::ByteLevel => TokenizerKind::Bytes,
    };
    let highest_rank = tokenizer.merges().iter().map(|m| m.rank).max().unwrap_or(0);
    if kind != TokenizerKind::Plain && (vocab >= u32::from(u16::MAX) || highest_rank >= u32::from(u16::MAX)) {
        return Err(ExportError::LargeVocab(vocab));
    }
    let merge = |m: &pageformer_model::Merge| Merge {
        left: m.left as u16,
        right: m.right as u16,
        merged: m.merged as u16,
        rank: m.rank as u16,
    };
    Ok(writer::tokenizer_pages(&Vocabulary {
        kind,
        space_prefix: tokenizer.dummy_prefix(),
        pieces: (0..vocab).map(|id| tokenizer.piece(id).to_vec()).collect(),
        bytes: (0..=255).map(|byte| tokenizer.byte_id(byte).map(|id| id as u16)).collect(),
        characters: tokenizer.chars().into_iter().map(|(c, id)| (c, id as u16)).collect(),
        merges: tokenizer.merges().iter().map(merge).collect(),
    }))
}

/// Writes a card into the folder `dir`, replacing a card that is there, but nothing else. The files go to a folder
/// beside it first and the old card is moved aside before it is removed, so that after a crash one of the two is
/// whole, in `dir` or beside it. `progress` is told files done and in all.
///
/// # Errors
/// If `dir` holds anything but a card, or a file cannot be written.
pub fn write_card(
    card: &CardFiles,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ExportError> {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> ExportError + use<> {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    }
    // Without a slash at the end, so that the name can be added to.
    let dir = std::path::absolute(dir).map_err(io(dir))?;
    let dir = dir.components().as_path();
    check_replaceable(dir)?;
    let beside = |ending: &str| {
        let mut path = dir.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    };
    let (partial, old) = (beside(".partial"), beside(".old"));
    for leftover in [&partial, &old] {
        if leftover.exists() {
            check_replaceable(leftover)?;
            fs::remove_dir_all(leftover).map_err(io(leftover))?;
        }
    }
    let mut write = || {
        fs::create_dir_all(&partial).map_err(io(dir))?;
        for (done, file) in (1..).zip(&card.files) {
            let path = partial.join(&file.name);
            fs::write(&path, &file.bytes).map_err(io(&path))?;
            progress(done, card.files.len() as u64);
        }
        Ok(())
    };
    write().inspect_err(|_: &ExportError| {
        // Half a card is of no use, and the first error is the one to tell.
        let _ = fs::remove_dir_all(&partial);
    })?;
    if dir.exists() {
        fs::rename(dir, &old).map_err(io(dir))?;
    }
    fs::rename(&partial, dir).map_err(io(dir))?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(io(&old))?;
    }
    Ok(())
}

/// Whether `dir` may be replaced: it is not there, or holds nothing but the files of a card.
fn check_replaceable(dir: &Path) -> Result<(), ExportError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) if dir.exists() && !dir.is_dir() => {
            return Err(ExportError::Exists(dir.to_owned()));
        }
        Err(source) => return Err(ExportError::Io { path: dir.to_owned(), source }),
    };
    for entry in entries {
        let entry = entry.map_err(|source| ExportError::Io { path: dir.to_owned(), source })?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = match &*name {
            // Another program's index.json, or that of the original sketch, does not say so.
            "index.json" => {
                fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("\"format\": \"pageformer\""))
            }
            "pages.crc" | "tokenizer.bin" | "weights.pages" | "pages.meta" | "drafts.bin" => true,
            name => PageFile::parse(name).is_some(),
        };
        if !ours {
            return Err(ExportError::Exists(entry.path()));
        }
    }
    Ok(())
}
