//! The tensors of a model, their names and their order on the tape.

use core::fmt;

use crate::matrix::MatrixDims;
use crate::page::{FLOATS_PER_PAGE, Page};
use crate::shape::{Mlp, Norm, Shape};

/// A tensor's role within its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Norm before attention: gain, then bias if it is a LayerNorm.
    Ln1,
    /// Query projection `[q_dim, d_model]`.
    Wq,
    /// Key projection `[kv_dim, d_model]`.
    Wk,
    /// Value projection `[kv_dim, d_model]`.
    Wv,
    /// Output projection `[d_model, q_dim]`.
    Wo,
    /// Norm before the MLP.
    Ln2,
    /// Gate of a gated MLP `[d_ff, d_model]`.
    Wgate,
    /// First (up) matrix of the MLP `[d_ff, d_model]`.
    W1,
    /// Second (down) matrix of the MLP `[d_model, d_ff]`.
    W2,
}

impl Role {
    /// Roles in the order in which a layer uses them.
    const GATED: [Role; 9] =
        [Role::Ln1, Role::Wq, Role::Wk, Role::Wv, Role::Wo, Role::Ln2, Role::Wgate, Role::W1, Role::W2];
    const PLAIN: [Role; 8] =
        [Role::Ln1, Role::Wq, Role::Wk, Role::Wv, Role::Wo, Role::Ln2, Role::W1, Role::W2];

    /// Roles of a layer, in tape order.
    pub fn of(mlp: Mlp) -> &'static [Role] {
        match mlp {
            Mlp::Gelu => &Self::PLAIN,
            Mlp::SwiGlu => &Self::GATED,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Ln1 => "ln1",
            Role::Wq => "Wq",
            Role::Wk => "Wk_shared",
            Role::Wv => "Wv_shared",
            Role::Wo => "Wo",
            Role::Ln2 => "ln2",
            Role::Wgate => "Wgate",
            Role::W1 => "W1",
            Role::W2 => "W2",
        }
    }
}

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// A tensor of layer `.0`.
    Layer(u32, Role),
    /// Norm before the head.
    FinalLn,
    /// Embedding `[vocab, d_model]`; the head, too, when tied.
    Embedding,
    /// Separate head `[vocab, d_model]`.
    Head,
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tensor::Layer(layer, role) => write!(f, "dec{layer}_{}", role.name()),
            Tensor::FinalLn => f.write_str("final_ln"),
            Tensor::Embedding => f.write_str("emb_weight"),
            Tensor::Head => f.write_str("head_weight"),
        }
    }
}

/// What a tensor consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// f32 values, padded to whole pages.
    Vector {
        /// Number of values.
        len: u32,
    },
    /// An int8 matrix; prunable unless it is the embedding.
    Matrix {
        /// Its dimensions.
        dims: MatrixDims,
        /// Whether cells may be missing.
        prunable: bool,
    },
}

impl TensorKind {
    /// Pages of the tensor when no cell is pruned.
    pub fn dense_pages(&self) -> u32 {
        match self {
            TensorKind::Vector { len } => len.div_ceil(FLOATS_PER_PAGE as u32),
            TensorKind::Matrix { dims, .. } => dims.dense_pages(),
        }
    }

    /// Fewest pages the tensor can have: the mask pages alone if it may be pruned.
    pub fn least_pages(&self) -> u32 {
        match self {
            TensorKind::Matrix { dims, prunable: true } => dims.groups(),
            _ => self.dense_pages(),
        }
    }
}

impl Tensor {
    /// The tensor called `name` in file names and in `index.json`.
    pub fn parse(name: &str) -> Option<Tensor> {
        match name {
            "final_ln" => return Some(Tensor::FinalLn),
            "emb_weight" => return Some(Tensor::Embedding),
            "head_weight" => return Some(Tensor::Head),
            _ => {}
        }
        let (layer, role) = name.strip_prefix("dec")?.split_once('_')?;
        if layer.is_empty() || layer.len() > 3 || (layer.len() > 1 && layer.starts_with('0')) {
            return None;
        }
        let layer =
            layer.bytes().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + (b - b'0') as u32))?;
        let role = Role::GATED.into_iter().find(|r| r.name() == role)?;
        Some(Tensor::Layer(layer, role))
    }
}

/// The order of a model's tensors. Index 0 is the first tensor of the tape; an embedding that is not tied
/// comes last, after the end of the tape.
impl Shape {
    /// Number of tensors.
    pub fn tensors(&self) -> u32 {
        self.n_layers * Role::of(self.mlp).len() as u32
            + u32::from(self.final_norm)
            + 1
            + u32::from(!self.tied_embeddings)
    }

    /// The tensor at `index`.
    pub fn tensor(&self, index: u32) -> Option<Tensor> {
        let roles = Role::of(self.mlp);
        let per_layer = roles.len() as u32;
        if index < self.n_layers * per_layer {
            return Some(Tensor::Layer(index / per_layer, *roles.get((index % per_layer) as usize)?));
        }
        let mut rest = index - self.n_layers * per_layer;
        if self.final_norm {
            if rest == 0 {
                return Some(Tensor::FinalLn);
            }
            rest -= 1;
        }
        match (self.tied_embeddings, rest) {
            (true, 0) | (false, 1) => Some(Tensor::Embedding),
            (false, 0) => Some(Tensor::Head),
            _ => None,
        }
    }

    /// The index of `tensor`, if this shape has it.
    pub fn tensor_index(&self, tensor: Tensor) -> Option<u32> {
        let roles = Role::of(self.mlp);
        let after_layers = self.n_layers * roles.len() as u32;
        match tensor {
            Tensor::Layer(layer, role) => {
                let place = roles.iter().position(|r| *r == role)? as u32;
                (layer < self.n_layers).then(|| layer * roles.len() as u32 + place)
            }
            Tensor::FinalLn => self.final_norm.then_some(after_layers),
            Tensor::Head => (!self.tied_embeddings).then(|| after_layers + u32::from(self.final_norm)),
            Tensor::Embedding => Some(self.tensors() - 1),
        }
    }

    /// What `tensor` consists of.
    pub fn kind(&self, tensor: Tensor) -> TensorKind {
        let matrix =
            |outputs, inputs| TensorKind::Matrix { dims: MatrixDims { outputs, inputs }, prunable: true };
        let vector = match self.norm {
            Norm::Rms => TensorKind::Vector { len: self.d_model },
            Norm::Layer => TensorKind::Vector { len: 2 * self.d_model },
        };
        match tensor {
            Tensor::FinalLn | Tensor::Layer(_, Role::Ln1 | Role::Ln2) => vector,
            Tensor::Layer(_, Role::Wq) => matrix(self.q_dim(), self.d_model),
            Tensor::Layer(_, Role::Wk | Role::Wv) => matrix(self.kv_dim(), self.d_model),
            Tensor::Layer(_, Role::Wo) => matrix(self.d_model, self.q_dim()),
            Tensor::Layer(_, Role::Wgate | Role::W1) => matrix(self.d_ff, self.d_model),
            Tensor::Layer(_, Role::W2) => matrix(self.d_model, self.d_ff),
            Tensor::Head => matrix(self.vocab, self.d_model),
            Tensor::Embedding => TensorKind::Matrix {
                dims: MatrixDims { outputs: self.vocab, inputs: self.d_model },
                prunable: false,
            },
        }
    }

    /// Every tensor in order.
    pub fn iter_tensors(&self) -> impl Iterator<Item = Tensor> + '_ {
        (0..self.tensors()).map_while(|i| self.tensor(i))
    }
}

/// The name of a page in the `files` layout, e.g. `dec0_Wq_0003.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFile {
    /// All pages of a norm vector: `dec0_ln1.bin`.
    Vector(Tensor),
    /// All mask pages of a matrix: `dec0_Wq.mask`.
    Masks(Tensor),
    /// One page of cells of a matrix: `dec0_Wq_0003.bin`.
    Cells(Tensor, u32),
}

impl fmt::Display for PageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageFile::Vector(tensor) => write!(f, "{tensor}.bin"),
            PageFile::Masks(tensor) => write!(f, "{tensor}.mask"),
            PageFile::Cells(tensor, page) => write!(f, "{tensor}_{page:04}.bin"),
        }
    }
}

impl PageFile {
    /// What a file name stands for, if it is one of the layout's. Case counts except for the ending, which
    /// FAT drivers like to change.
    pub fn parse(name: &str) -> Option<PageFile> {
        let (stem, ending) = name.rsplit_once('.')?;
        if ending.eq_ignore_ascii_case("mask") {
            return Tensor::parse(stem).map(PageFile::Masks);
        }
        if !ending.eq_ignore_ascii_case("bin") {
            return None;
        }
        if let Some(vector @ (Tensor::FinalLn | Tensor::Layer(_, Role::Ln1 | Role::Ln2))) =
            Tensor::parse(stem)
        {
            return Some(PageFile::Vector(vector));
        }
        let (tensor, digits) = stem.rsplit_once('_')?;
        if !(4..=7).contains(&digits.len()) || (digits.len() > 4 && digits.starts_with('0')) {
            return None;
        }
        let page =
            digits.bytes().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + (b - b'0') as u32))?;
        match Tensor::parse(tensor)? {
            Tensor::FinalLn | Tensor::Layer(_, Role::Ln1 | Role::Ln2) => None,
            tensor => Some(PageFile::Cells(tensor, page)),
        }
    }
}

/// Kept cells of the group whose records `mask_page` holds, or the first record with a bit beyond its
/// tile's width. `first_tile` is the group's first tile in the matrix.
///
/// # Errors
/// The place of the impossible record in the page.
pub fn group_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Result<u32, u32> {
    let segments = dims.segments();
    let mut segment = group * crate::matrix::TILES_PER_GROUP as u32 % segments;
    let mut cells = 0;
    for record in 0..dims.tiles_in_group(group) {
        let mask = crate::matrix::TileRecord::read(mask_page, record as usize).mask;
        if mask & !dims.full_mask(segment) != 0 {
            return Err(record);
        }
        cells += mask.count_ones();
        segment = if segment + 1 == segments { 0 } else { segment + 1 };
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    fn shape(mlp: Mlp, tied: bool, final_norm: bool) -> Shape {
        Shape {
            n_layers: 3,
            d_model: 64,
            d_ff: 172,
            vocab: 512,
            max_seq: 64,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: 8,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            mlp,
            rope_theta: 1e4,
            tied_embeddings: tied,
            final_norm,
        }
    }

    #[test]
    fn indices_and_names_go_both_ways() {
        for mlp in [Mlp::Gelu, Mlp::SwiGlu] {
            for tied in [true, false] {
                for final_norm in [true, false] {
                    let shape = shape(mlp, tied, final_norm);
                    for i in 0..shape.tensors() {
                        let tensor = shape.tensor(i).unwrap();
                        assert_eq!(shape.tensor_index(tensor), Some(i));
                        assert_eq!(Tensor::parse(&tensor.to_string()), Some(tensor));
                        let file = match shape.kind(tensor) {
                            TensorKind::Vector { .. } => PageFile::Vector(tensor),
                            TensorKind::Matrix { .. } => PageFile::Masks(tensor),
                        };
                        assert_eq!(PageFile::parse(&file.to_string()), Some(file));
                    }
                    assert_eq!(shape.tensor(shape.tensors()), None);
                }
            }
        }
    }

    #[test]
    fn the_order_is_the_documented_one() {
        let names: std::vec::Vec<_> =
            shape(Mlp::SwiGlu, false, true).iter_tensors().map(|t| t.to_string()).collect();
        assert_eq!(
            names[..9],
            [
                "dec0_ln1",
                "dec0_Wq",
                "dec0_Wk_shared",
                "dec0_Wv_shared",
                "dec0_Wo",
                "dec0_ln2",
                "dec0_Wgate",
                "dec0_W1",
                "dec0_W2"
            ]
        );
        assert_eq!(names[27..], ["final_ln", "head_weight", "emb_weight"]);
    }

    #[test]
    fn page_names() {
        let wk = Tensor::Layer(0, Role::Wk);
        assert_eq!(PageFile::Cells(wk, 7).to_string(), "dec0_Wk_shared_0007.bin");
        assert_eq!(PageFile::parse("dec0_Wk_shared_0007.bin"), Some(PageFile::Cells(wk, 7)));
        assert_eq!(PageFile::parse("emb_weight_12345.BIN"), Some(PageFile::Cells(Tensor::Embedding, 12345)));
        for bad in [
            "dec0_Wq_7.bin",
            "dec0_Wq_00007.bin",
            "dec_Wq_0007.bin",
            "dec00_Wq.mask",
            "index.json",
            ".bin",
            "dec0_ln1_0000.bin",
        ] {
            assert_eq!(PageFile::parse(bad), None, "{bad}");
        }
    }
}
