//! `pageformer inspect`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use pageformer_card::page::pages_for;
use pageformer_card::tensor::group_cells;
use pageformer_card::{Layout, Mlp, Norm, PAGE_BYTES, Role, Tensor, TensorKind, TensorTable};
use pageformer_sim::{HostCard, Opened};
use pageformer_vram::{Arena, Card, CardFile, PageMeta, read_meta};
use serde_json::json;

use crate::card::{CardArg, file_name, torn};
use crate::session::buffer;
use crate::ui::{Table, bar, bytes};

/// What to do about a card that is not as it was written.
const REPAIR: &str =
    "export the card again, or copy its files again; `pageformer verify` says what else is bad";

/// Shows what is on a card: the model, the tape, every tensor, and where the bytes go.
#[derive(Args)]
#[command(after_help = "Examples:\n  pageformer inspect card/\n  pageformer inspect card.img --json")]
pub struct Inspect {
    #[command(flatten)]
    card: CardArg,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// What a tensor takes on the tape.
struct Row {
    tensor: Tensor,
    dims: String,
    first: u32,
    pages: u32,
    mask_pages: u32,
    /// Kept cells, all cells; none for a vector.
    cells: Option<(u64, u64)>,
}

impl Row {
    fn density(&self) -> Option<f64> {
        self.cells.map(|(kept, all)| kept as f64 / all as f64)
    }
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let mut memory = buffer(64 << 20);
        let opened = self.card.open(&mut Arena::new(&mut memory))?;
        let name = self.card.name();
        for (file, found, expected) in torn(&opened) {
            let file_name = file_name(file, opened.manifest.layout);
            let what =
                format!("{name}: {file_name}: {found} bytes where index.json asks for {expected}; {REPAIR}");
            if file == CardFile::Weights {
                bail!(what);
            }
            eprintln!("{what}");
        }
        let Opened { mut card, manifest, table } = opened;
        let rows = rows(&mut card, &table).with_context(|| name)?;
        let kept: u64 = rows.iter().filter_map(|r| r.cells).map(|c| c.0).sum();
        let all: u64 = rows.iter().filter_map(|r| r.cells).map(|c| c.1).sum();
        let dense: u64 = rows.iter().map(|r| u64::from(table.shape().kind(r.tensor).dense_pages())).sum();
        let shape = &manifest.shape;
        if self.json {
            let tensors: Vec<_> = rows
                .iter()
                .map(|r| {
                    json!({
                        "name": r.tensor.to_string(), "shape": r.dims, "first_page": r.first, "pages": r.pages,
                        "mask_pages": r.mask_pages, "density": r.density(),
                    })
                })
                .collect();
            let object = json!({
                "name": manifest.name.as_str(),
                "source": manifest.source.as_str(),
                "layout": if manifest.layout == Layout::Packed { "packed" } else { "files" },
                "parameters": shape.parameters(),
                "n_layers": shape.n_layers, "d_model": shape.d_model, "d_ff": shape.d_ff, "vocab": shape.vocab,
                "max_seq": shape.max_seq, "n_heads": shape.n_heads, "n_kv_heads": shape.n_kv_heads,
                "head_dim": shape.head_dim,
                "block": format!("{}x{}", manifest.block.0, manifest.block.1),
                "density": kept as f64 / all as f64,
                "tape_pages": manifest.tape_pages,
                "tape_bytes": u64::from(manifest.tape_pages) * PAGE_BYTES as u64,
                "weights_pages": table.pages(),
                "dense_weights_pages": dense,
                "checksum_bytes": card.bytes(CardFile::Sums),
                "tokenizer_bytes": card.bytes(CardFile::Tokenizer),
                "drafts_bytes": card.bytes(CardFile::Drafts),
                "index_bytes": card.bytes(CardFile::Index),
                "metadata_bytes": card.bytes(CardFile::Meta),
                "metadata_writes": metadata(&mut card, &table).map(|(writes, _)| writes),
                "tensors": tensors,
            });
            println!("{object:#}");
            return Ok(());
        }
        let norm = if shape.norm == Norm::Rms { "RMSNorm" } else { "LayerNorm" };
        let mlp = if shape.mlp == Mlp::SwiGlu { "SwiGLU" } else { "GELU" };
        let attention = match shape.n_kv_heads {
            1 => "MQA",
            n if n == shape.n_heads => "MHA",
            _ => "GQA",
        };
        println!("{} ({})", manifest.name.as_str(), self.card.name());
        println!(
            "  model      {} parameters: {} layers, d_model {}, d_ff {}, {} heads x {} ({attention}, {} KV), vocabulary {}, {} positions",
            shape.parameters(),
            shape.n_layers,
            shape.d_model,
            shape.d_ff,
            shape.n_heads,
            shape.head_dim,
            shape.n_kv_heads,
            shape.vocab,
            shape.max_seq
        );
        let head = if shape.tied_embeddings { "tied head" } else { "head of its own" };
        println!("  kind       {norm}, {mlp}, RoPE, {head}");
        let layout = if manifest.layout == Layout::Packed { "packed" } else { "files" };
        println!(
            "  tape       {} pages ({}), layout {layout}, blocks {}x{}, density {:.3}",
            manifest.tape_pages,
            bytes(u64::from(manifest.tape_pages) * PAGE_BYTES as u64),
            manifest.block.0,
            manifest.block.1,
            kept as f64 / all as f64
        );
        println!(
            "  chat       {}",
            if manifest.chat.is_some() { "has a chat template" } else { "continues texts" }
        );
        if let Some((writes, loaded)) = metadata(&mut card, &table) {
            println!("  metadata   written {writes} times by a device; {loaded} pages with loads");
        }
        let mut tensors = Table::new(["\ntensor", "shape", "first page", "pages", "masks", "density"]);
        for r in &rows {
            let density = r.density().map_or("-".into(), |d| format!("{d:.3}"));
            tensors.row([
                r.tensor.to_string(),
                r.dims.clone(),
                r.first.to_string(),
                r.pages.to_string(),
                r.mask_pages.to_string(),
                density,
            ]);
        }
        print!("{tensors}");
        print!("\n{}", shares(&card, &rows));
        Ok(())
    }
}

/// How often a device wrote `pages.meta`, and the pages that it had loaded by then, if the card has the file.
fn metadata(card: &mut HostCard<'_>, table: &TensorTable<'_>) -> Option<(u32, usize)> {
    let mut records = vec![0; table.pages() as usize];
    let writes = read_meta(card, &mut records, &mut [0; PAGE_BYTES])?;
    Some((writes, records.into_iter().filter(|bits| PageMeta::from_bits(*bits).loads > 0).count()))
}

/// Every tensor, with its masks counted.
fn rows(card: &mut HostCard<'_>, table: &TensorTable<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for tensor in table.shape().iter_tensors() {
        let pages = table.pages_of(tensor);
        let mut row = Row {
            tensor,
            dims: String::new(),
            first: pages.start,
            pages: pages.len() as u32,
            mask_pages: 0,
            cells: None,
        };
        match table.shape().kind(tensor) {
            TensorKind::Vector { len } => row.dims = len.to_string(),
            TensorKind::Matrix { dims, .. } => {
                let (mut page, mut kept) = (pages.start, 0);
                for group in 0..dims.groups() {
                    let here =
                        || format!("{tensor}, page {} (page {page} of the weights)", page - pages.start);
                    let mut mask = [[0; PAGE_BYTES]];
                    card.read(CardFile::Weights, page, &mut mask).with_context(here)?;
                    let cells = group_cells(&dims, group, &mask[0])
                        .map_err(|_| anyhow!("{}: no mask page of this matrix; {REPAIR}", here()))?;
                    kept += u64::from(cells);
                    page += 1 + pages_for(u64::from(cells) * 16) as u32;
                    ensure!(
                        page <= pages.end,
                        "{tensor}: its masks ask for more pages than it has; {REPAIR}"
                    );
                }
                ensure!(page == pages.end, "{tensor}: its masks ask for fewer pages than it has; {REPAIR}");
                row.dims = format!("{}x{}", dims.outputs, dims.inputs);
                row.mask_pages = dims.groups();
                row.cells = Some((kept, dims.cells()));
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Where the bytes of the card go.
fn shares(card: &HostCard<'_>, rows: &[Row]) -> Table {
    let cells = |wanted: fn(&Tensor) -> bool| {
        rows.iter().filter(|r| wanted(&r.tensor)).map(|r| u64::from(r.pages - r.mask_pages)).sum::<u64>()
            * PAGE_BYTES as u64
    };
    let parts = [
        ("attention", cells(|t| matches!(t, Tensor::Layer(_, Role::Wq | Role::Wk | Role::Wv | Role::Wo)))),
        ("MLP", cells(|t| matches!(t, Tensor::Layer(_, Role::Wgate | Role::W1 | Role::W2)))),
        ("embedding, head", cells(|t| matches!(t, Tensor::Embedding | Tensor::Head))),
        ("norms", cells(|t| matches!(t, Tensor::FinalLn | Tensor::Layer(_, Role::Ln1 | Role::Ln2)))),
        ("masks, scales", rows.iter().map(|r| u64::from(r.mask_pages)).sum::<u64>() * PAGE_BYTES as u64),
        ("checksums", card.bytes(CardFile::Sums)),
        ("tokenizer", card.bytes(CardFile::Tokenizer)),
        ("drafts", card.bytes(CardFile::Drafts)),
        ("index.json", card.bytes(CardFile::Index)),
        ("metadata", card.bytes(CardFile::Meta)),
    ];
    let all: u64 = parts.iter().map(|(_, n)| n).sum();
    let mut table = Table::new(["where bytes go", "bytes", "share", ""]);
    for (name, n) in parts.into_iter().filter(|(_, n)| *n > 0) {
        let share = n as f64 / all as f64;
        table.row([
            name.into(),
            n.to_string(),
            format!("{:.1} %", 100.0 * share),
            format!("{:<24}", bar(share, 24)),
        ]);
    }
    table.row(["all".into(), all.to_string(), "100.0 %".into(), String::new()]);
    table
}
