//! Whole row-blocks of a matrix, one or four at once.

use core::arch::x86_64::*;

use pageformer_card::matrix::{RECORD_BYTES, TILE_INPUTS, TILE_OUTPUTS, TILES_PER_GROUP};
use pageformer_card::{CELL_BYTES, MatrixDims, Page};

use crate::kernels::{GroupProduct, group};

/// Bytes of a register.
const REGISTER: usize = 64;
/// Cells of a register.
const CELLS: usize = REGISTER / CELL_BYTES;
/// How many bytes before they are used cells are asked for: a model that is larger than the cache is as fast as
/// memory is, and the processor's own guesses stop at pages of 4 KiB.
const AHEAD: usize = 8192;
/// Row-blocks at once.
const ROWS: usize = 4;

/// Cells of a tile.
const TILE_CELLS: usize = TILE_INPUTS / 4;

/// Activations that belong to the kept cells of a tile, 4 each, then zeros; what a register holds may be written beyond.
#[repr(align(64))]
struct Kept(#[allow(dead_code, reason = "only written and read by pointer")] [i32; TILE_CELLS + 16]);

/// Takes whole row-blocks, as long as the group and `cells` have all of their tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn multiply(product: &mut GroupProduct<'_>, cells: &mut &[u8]) {
    let p = product;
    let mut left = (p.tiles - p.next) / p.segments;
    let enough = p.batch > 0
        && p.x.len() >= p.batch * p.x_stride
        && p.x_scales.len() >= p.batch * p.segments
        && p.y.len() >= (p.batch - 1) * p.y_stride + p.row + left * TILE_OUTPUTS;
    if !enough {
        return;
    }
    let whole = nothing_is_missing(&p.dims, p.group, p.mask_page, p.next);
    while left > 0 {
        let Some(records) =
            p.mask_page.get(p.next * RECORD_BYTES..(p.next + left * p.segments) * RECORD_BYTES)
        else {
            return;
        };
        let (rows, bytes) = if whole {
            let row_bytes = p.x_stride * TILE_OUTPUTS;
            let rows = left.min(cells.len() / row_bytes);
            // Fours of rows, then what is left.
            let rows = if rows < ROWS { rows } else { rows / ROWS * ROWS };
            if rows > 0 {
                // SAFETY: `enough` says that `x`, `x_scales` and `y` are long enough, `records` and `cells` are for so many rows.
                unsafe { dense(p, records.as_ptr(), cells.as_ptr(), rows) };
            }
            (rows, rows * row_bytes)
        } else {
            // SAFETY: the same.
            unsafe { sparse_rows(p, records, cells, left.min(ROWS)) }
        };
        if rows == 0 {
            return;
        }
        left -= rows;
        p.next += rows * p.segments;
        p.row += rows * TILE_OUTPUTS;
        *cells = cells.get(bytes..).unwrap_or(&[]);
    }
}

/// Four (or fewer) row-blocks of which cells may be missing: how many `cells` have whole, and their bytes.
///
/// # Safety
/// AVX-512; `x`, `x_scales`, `y` and `records` have what is used of them.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse_rows(p: &mut GroupProduct<'_>, records: &[u8], cells: &[u8], most: usize) -> (usize, usize) {
    let row_records = p.segments * RECORD_BYTES;
    // Where the cells of each row-block begin. Missing rows are taken for the last, and not stored.
    let (mut starts, mut end, mut rows) = ([0; ROWS], 0, 0);
    for masks in records.chunks_exact(row_records).take(most) {
        let kept: usize = masks.chunks_exact(RECORD_BYTES).map(|r| mask_of(r).count_ones() as usize).sum();
        if cells.len() < end + kept * CELL_BYTES {
            break;
        }
        starts[rows..].fill(end);
        end += kept * CELL_BYTES;
        rows += 1;
    }
    if rows == 0 {
        return (0, 0);
    }
    let stored = ((1u32 << (rows * TILE_OUTPUTS)) - 1) as u16;
    let row = [0, 1, 2, 3].map(|row| row.min(rows - 1) * row_records);
    // SAFETY: there are `rows · segments` records, `x`, `x_scales` and `y` are as long as is read and written here, and
    // `end` says that `cells` are.
    unsafe {
        for b in 0..p.batch {
            let (mut y, mut at) = (_mm512_setzero_ps(), starts);
            for segment in 0..p.segments {
                let from = segment * TILE_INPUTS;
                let inputs = (p.x_stride - from).min(TILE_INPUTS);
                let records = row.map(|row| records.as_ptr().add(row + segment * RECORD_BYTES));
                let masks = records.map(|record| record.add(8).cast::<u64>().read_unaligned());
                let x = p.x.as_ptr().add(b * p.x_stride + from);
                let sums = sparse_tiles(cells, at, masks, x, inputs);
                let x_scale = _mm512_set1_ps(*p.x_scales.get_unchecked(b * p.segments + segment));
                let product =
                    _mm512_mul_ps(_mm512_mul_ps(x_scale, scales(records)), _mm512_cvtepi32_ps(sums));
                y = if segment == 0 { product } else { _mm512_add_ps(y, product) };
                for (at, mask) in at.iter_mut().zip(masks) {
                    *at += mask.count_ones() as usize * CELL_BYTES;
                }
            }
            _mm512_mask_storeu_ps(p.y.as_mut_ptr().add(b * p.y_stride + p.row), stored, y);
        }
    }
    (rows, end)
}

/// The mask of a tile's record.
#[inline(always)]
fn mask_of(record: &[u8]) -> u64 {
    record.get(8..16).and_then(|mask| mask.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether no tile of a group from number `first` on misses a cell.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn nothing_is_missing(dims: &MatrixDims, group: u32, mask_page: &Page, first: usize) -> bool {
    let segments = dims.segments();
    let tiles = dims.tiles_in_group(group) as usize;
    let records = mask_page.get(first * RECORD_BYTES..tiles * RECORD_BYTES).unwrap_or(&[]);
    let last = dims.full_mask(segments - 1);
    if segments > 1 {
        let mut segment = (group * TILES_PER_GROUP as u32 + first as u32) % segments;
        let mut missing = 0;
        for record in records.chunks_exact(RECORD_BYTES) {
            segment += 1;
            missing |= mask_of(record) ^ if segment == segments { last } else { u64::MAX };
            segment = if segment == segments { 0 } else { segment };
        }
        return missing == 0;
    }
    // Four records a register; every other number in it is a mask.
    let (full, mut missing) = (_mm512_set1_epi64(last as i64), 0);
    for four in records.chunks(REGISTER) {
        let masks = (0xAA & ((1u32 << (four.len() / 8)) - 1)) as u8;
        // SAFETY: only what the mask says is read.
        let four = unsafe { _mm512_maskz_loadu_epi64(masks, four.as_ptr().cast()) };
        missing |= _mm512_mask_cmpneq_epi64_mask(masks, four, full);
    }
    missing == 0
}

/// [`kept_cells`](crate::kernels::Compute::kept_cells).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) fn kept_cells(dims: &MatrixDims, group: u32, mask_page: &Page) -> Option<usize> {
    match dims.segments() == 1 && nothing_is_missing(dims, group, mask_page, 0) {
        true => Some((dims.tiles_in_group(group) * dims.cells_in_tile(0)) as usize),
        false => group::kept_cells(dims, group, mask_page),
    }
}

/// The scales of four tiles, as f32.
///
/// # Safety
/// AVX-512; the records.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn scales(records: [*const u8; ROWS]) -> __m512 {
    // SAFETY: a record begins with 4 bf16, 8 bytes.
    let [a, b, c, d] = records.map(|record| unsafe { _mm_loadl_epi64(record.cast()) });
    let scales = _mm256_set_m128i(_mm_unpacklo_epi64(c, d), _mm_unpacklo_epi64(a, b));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)))
}

/// Activation `4c..4c + 4` of 16 to the 4 outputs of cell `c`, from each of the four parts of 64.
const SPREAD: [[i32; 16]; 4] = {
    let mut spread = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        spread[i / 16][i % 16] = (i / 4) as i32;
        i += 1;
    }
    spread
};

#[inline]
#[target_feature(enable = "avx512f")]
fn flip() -> __m512i {
    _mm512_set1_epi8(-128)
}

/// Four registers whose 128-bit parts are to be added, each: `[a, b, c, d]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_parts([a, b, c, d]: [__m512i; ROWS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
    let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
}

/// `rows` row-blocks none of whose cells is missing: fours of them, or fewer than four.
///
/// # Safety
/// AVX-512; `x`, `x_scales`, `y`, `records` and `w` have what is used of them.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dense(p: &mut GroupProduct<'_>, mut records: *const u8, mut w: *const u8, rows: usize) {
    // Missing rows are taken for the last, and not stored.
    let row_bytes = p.x_stride * TILE_OUTPUTS;
    let row = [0, 1, 2, 3].map(|row| row.min(rows - 1));
    let stored = ((1u32 << (rows.min(ROWS) * TILE_OUTPUTS)) - 1) as u16;
    // SAFETY: the caller's word for all that is read; `y` is written where it has these rows.
    unsafe {
        for four in 0..rows.div_ceil(ROWS) {
            for b in 0..p.batch {
                let mut y = _mm512_setzero_ps();
                for segment in 0..p.segments {
                    let from = segment * TILE_INPUTS;
                    let inputs = (p.x_stride - from).min(TILE_INPUTS);
                    let tile = w.add(from * TILE_OUTPUTS);
                    let x = p.x.as_ptr().add(b * p.x_stride + from);
                    let ahead = tile.wrapping_add(from * (ROWS - 1) * TILE_OUTPUTS + AHEAD);
                    let sums = dense_tiles(tile, row.map(|row| row * row_bytes), ahead, x, inputs);
                    let x_scale = _mm512_set1_ps(*p.x_scales.get_unchecked(b * p.segments + segment));
                    let stride = p.segments * RECORD_BYTES;
                    let scales = scales(row.map(|row| records.add(row * stride + segment * RECORD_BYTES)));
                    let product = _mm512_mul_ps(_mm512_mul_ps(x_scale, scales), _mm512_cvtepi32_ps(sums));
                    y = if segment == 0 { product } else { _mm512_add_ps(y, product) };
                }
                let to = b * p.y_stride + p.row + four * ROWS * TILE_OUTPUTS;
                _mm512_mask_storeu_ps(p.y.as_mut_ptr().add(to), stored, y);
            }
            w = w.wrapping_add(ROWS * row_bytes);
            records = records.wrapping_add(ROWS * p.segments * RECORD_BYTES);
        }
    }
}

/// The sums of four tiles, 4 outputs of each. What is at `ahead` is asked for; it need not exist.
///
/// # Safety
/// AVX-512; each tile has `inputs * 4` bytes, `x` has `inputs`, a multiple of 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dense_tiles(
    mut tile: *const u8,
    row: [usize; ROWS],
    mut ahead: *const u8,
    mut x: *const i8,
    inputs: usize,
) -> __m512i {
    let (zero, flip) = (_mm512_setzero_si512(), flip());
    let (mut sums, mut bias) = ([zero; ROWS], zero);
    let end = x.wrapping_add(inputs);
    // SAFETY: 16 inputs are a register of each row; the last may be shorter, and is read by a mask then.
    unsafe {
        let spread: [__m512i; 4] =
            core::array::from_fn(|part| _mm512_loadu_si512(SPREAD[part].as_ptr().cast()));
        for _ in 0..inputs / REGISTER {
            let four = _mm512_loadu_si512(x.cast());
            for (part, spread) in spread.into_iter().enumerate() {
                let x = _mm512_permutexvar_epi32(spread, four);
                bias = _mm512_dpbusd_epi32(bias, flip, x);
                for (r, row) in row.into_iter().enumerate() {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add((part * ROWS + r) * REGISTER).cast());
                    let w = _mm512_loadu_si512(tile.add(row + part * REGISTER).cast());
                    sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_xor_si512(w, flip), x);
                }
            }
            x = x.add(REGISTER);
            tile = tile.add(REGISTER * TILE_OUTPUTS);
            ahead = ahead.wrapping_add(REGISTER * TILE_OUTPUTS * ROWS);
        }
        while x < end {
            let some = ((1u32 << (end.offset_from(x)).min(16)) - 1) as u16;
            let four = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(some, x));
            let spread_four = _mm512_permutexvar_epi32(spread[0], four);
            bias = _mm512_dpbusd_epi32(bias, flip, spread_four);
            for (r, row) in row.into_iter().enumerate() {
                let w = _mm512_maskz_loadu_epi32(some, tile.add(row).cast());
                sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_xor_si512(w, flip), spread_four);
            }
            x = x.wrapping_add(16);
            tile = tile.wrapping_add(REGISTER);
        }
    }
    add_parts(sums.map(|sum| _mm512_sub_epi32(sum, bias)))
}

/// The sums of four tiles whose cells begin at `at` of `cells` and are those in `masks`: 4 outputs of each.
///
/// The activations of kept cells are brought together first (`vpcompressd`), so that then four cells at once meet
/// theirs, as if nothing were missing.
///
/// # Safety
/// AVX-512; `x` has `inputs` values, 1 to 256, and `cells` all of these cells.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
unsafe fn sparse_tiles(
    cells: &[u8],
    at: [usize; ROWS],
    masks: [u64; ROWS],
    x: *const i8,
    inputs: usize,
) -> __m512i {
    let (zero, flip) = (_mm512_setzero_si512(), flip());
    let (mut sums, mut bias, mut written) = ([zero; ROWS], [zero; ROWS], [0; ROWS]);
    let mut own = [const { core::mem::MaybeUninit::<Kept>::uninit() }; ROWS];
    let most = masks.iter().fold(0, |most, mask| mask.count_ones().max(most)) as usize;
    let registers = most.div_ceil(CELLS);
    // SAFETY: `x` is read by a mask. A tile keeps at most 64 activations, and 16 are written at once: `Kept` holds 80.
    // All of it that is read, up to the longest row's count, was written before.
    unsafe {
        let mut rest = masks;
        for from in (0..inputs).step_by(REGISTER) {
            let x = match inputs - from {
                REGISTER.. => _mm512_loadu_si512(x.add(from).cast()),
                few => _mm512_maskz_loadu_epi8((1u64 << few) - 1, x.add(from)),
            };
            let sums_of_four = _mm512_dpbusd_epi32(zero, flip, x);
            for row in 0..ROWS {
                let mask = rest[row] as u16;
                let own: *mut i32 = own[row].as_mut_ptr().cast();
                _mm512_storeu_si512(own.add(written[row]).cast(), _mm512_maskz_compress_epi32(mask, x));
                bias[row] = _mm512_mask_add_epi32(bias[row], mask, bias[row], sums_of_four);
                written[row] += mask.count_ones() as usize;
                rest[row] >>= 16;
            }
        }
        // Rows with fewer cells than the longest go on into the next row's; those have to meet zeros.
        for row in 0..ROWS {
            let own: *mut i32 = own[row].as_mut_ptr().cast();
            while written[row] < registers * CELLS {
                _mm512_storeu_si512(own.add(written[row]).cast(), zero);
                written[row] += 16;
            }
        }
        let spread = _mm512_set_epi64(
            0x0F0E_0D0C_0F0E_0D0C,
            0x0F0E_0D0C_0F0E_0D0C,
            0x0B0A_0908_0B0A_0908,
            0x0B0A_0908_0B0A_0908,
            0x0706_0504_0706_0504,
            0x0706_0504_0706_0504,
            0x0302_0100_0302_0100,
            0x0302_0100_0302_0100,
        );
        let x_of = |row: usize, register: usize| {
            let own: *const i32 = own[row].as_ptr().cast();
            _mm512_shuffle_epi8(
                _mm512_broadcast_i32x4(_mm_load_si128(own.add(register * CELLS).cast())),
                spread,
            )
        };
        if at.iter().all(|at| at + registers * REGISTER <= cells.len()) {
            let mut ahead = cells.as_ptr().wrapping_add(at[0] + AHEAD);
            let mut w = at.map(|at| cells.as_ptr().add(at));
            for register in 0..registers {
                for row in 0..ROWS {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(row * REGISTER).cast());
                    let w = _mm512_loadu_si512(w[row].cast());
                    sums[row] =
                        _mm512_dpbusd_epi32(sums[row], _mm512_xor_si512(w, flip), x_of(row, register));
                }
                w = w.map(|w| w.wrapping_add(REGISTER));
                ahead = ahead.wrapping_add(ROWS * REGISTER);
            }
        } else {
            for register in 0..registers {
                for row in 0..ROWS {
                    let from = at[row] + register * REGISTER;
                    let left = cells.len().saturating_sub(from).min(REGISTER) / 4;
                    let w = cells.as_ptr().wrapping_add(from).cast();
                    let w = _mm512_maskz_loadu_epi32(((1u32 << left) - 1) as u16, w);
                    sums[row] =
                        _mm512_dpbusd_epi32(sums[row], _mm512_xor_si512(w, flip), x_of(row, register));
                }
            }
        }
    }
    let bias = add_parts(bias);
    let bias = _mm512_add_epi32(bias, _mm512_shuffle_epi32::<0x4E>(bias));
    let bias = _mm512_add_epi32(bias, _mm512_shuffle_epi32::<0xB1>(bias));
    _mm512_sub_epi32(add_parts(sums), bias)
}

/// Adds the products of some cells of a tile, given by a mask, to `sums`.
///
/// # Safety
/// AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi1,bmi2,popcnt")]
pub(super) unsafe fn dot(cells: &[u8], mask: u64, x: &[i8], sums: &mut [i32; TILE_OUTPUTS]) {
    if x.is_empty() || cells.len() < mask.count_ones() as usize * CELL_BYTES {
        return;
    }
    // SAFETY: `x` has as many values as are said to be read, `cells` are enough, and `sums` are 16 bytes.
    unsafe {
        let more = _mm512_castsi512_si128(sparse_tiles(cells, [0; ROWS], [mask; ROWS], x.as_ptr(), x.len()));
        let sum = _mm_add_epi32(_mm_loadu_si128(sums.as_ptr().cast()), more);
        _mm_storeu_si128(sums.as_mut_ptr().cast(), sum);
    }
}
