//! All kernels against plain sums and each other.

extern crate std;
use super::*;
use pageformer_card::matrix::TileRecord;
use proptest::prelude::*;
use std::vec::Vec;

/// Adds up a tile weight by weight.
fn naive(cells: &[u8], mut mask: u64, x: &[i8]) -> [i32; 4] {
    let mut sums = [0i32; 4];
    for cell in cells.chunks(16) {
        let j = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        for r in 0..4 {
            for i in 0..4 {
                sums[r] += i32::from(cell[r * 4 + i] as i8) * i32::from(x[j * 4 + i]);
            }
        }
    }
    sums
}

/// A matrix of random cells, scales and masks: each tile's record and cells.
fn tiles(dims: &MatrixDims, density: u32, seed: u64) -> Vec<(TileRecord, Vec<u8>)> {
    let mut state = seed;
    let mut bits = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..dims.tiles())
        .map(|tile| {
            // Densities 0, 1/4, 1/2, 3/4 and 1; with 5, a mixture.
            let mask = match if density == 5 { (bits() % 5) as u32 } else { density } {
                0 => 0,
                1 => bits() & bits(),
                2 => bits(),
                3 => bits() | bits(),
                // One cell, or few that are far from each other.
                6 => [1, 1 << 63, 0x0101_0101_0101_0101 << (bits() % 8), 0x8000_4000_2000_1001]
                    [(bits() % 4) as usize],
                _ => u64::MAX,
            } & dims.full_mask(tile % dims.segments());
            let cells = (0..mask.count_ones() * 16).map(|_| bits() as u8).collect();
            // bf16 from 1 to 2.
            let scales = core::array::from_fn(|_| 0x3F80 + (bits() % 128) as u16);
            (TileRecord { scales, mask }, cells)
        })
        .collect()
}

/// The pages of a matrix, and in `y`, which is `(batch, y_stride)`, what the portable kernel makes of them.
#[cfg(feature = "prepack")]
fn pages_of(
    dims: &MatrixDims,
    tiles: &[(TileRecord, Vec<u8>)],
    input: Input<'_>,
    (y, y_stride): (&mut [f32], usize),
) -> Vec<Page> {
    let mut pages = Vec::new();
    for (group, tiles) in (0..).zip(tiles.chunks(32)) {
        let (mut masks, mut cells) = ([0; 512], Vec::new());
        for (at, (record, tile)) in tiles.iter().enumerate() {
            record.write(&mut masks, at);
            cells.extend_from_slice(tile);
        }
        GroupProduct::new(dims, group, &masks, input, (y, y_stride)).feed(PORTABLE, &cells);
        cells.resize(cells.len().next_multiple_of(512), 0);
        pages.push(masks);
        pages.extend_from_slice(cells.as_chunks().0);
    }
    pages
}

proptest! {
    /// Whole matrices: any shape, masks and weights (-128, too, which only a damaged card has), fed in any pieces, for
    /// several positions. The portable kernel is compared with plain sums, the others with it.
    #[test]
    fn kernels_agree(
        outputs in 1u32..70,
        inputs in prop_oneof![1u32..70, 1u32..800],
        density in 0u32..6,
        batch in 1usize..6,
        gap in 0usize..9,
        piece in prop_oneof![1usize..70, Just(usize::MAX / 16)],
        seed in any::<u64>(),
        x in proptest::collection::vec(-127i8..=127, 5 * 800),
    ) {
        let dims = MatrixDims { outputs, inputs };
        let tiles = tiles(&dims, density, seed);
        let (stride, segments) = (dims.padded_inputs() as usize, dims.segments() as usize);
        let values = &x[..batch * stride];
        let x_scales: Vec<f32> = (0..batch * segments).map(|i| 0.75 + i as f32).collect();
        let input = Input { values, scales: &x_scales, batch };

        // Outputs of something else lie between those of two positions.
        let outputs = dims.padded_outputs() as usize;
        let y_stride = outputs + gap;
        let mut want = std::vec![7.0; batch * y_stride];
        want.chunks_mut(y_stride).for_each(|y| y[..outputs].fill(0.0));
        for (number, (record, cells)) in tiles.iter().enumerate() {
            let (row, segment) = (number / segments, number % segments);
            for b in 0..batch {
                let x = &values[b * stride + segment * 256..(b + 1) * stride];
                let sums = naive(cells, record.mask, x);
                for r in 0..4 {
                    let y = &mut want[b * y_stride + row * 4 + r];
                    *y += x_scales[b * segments + segment] * record.scales_f32()[r] * sums[r] as f32;
                }
            }
        }
        for kernel in available() {
            let mut y = std::vec![7.0; want.len()];
            for group in 0..dims.groups() {
                let mut mask_page = [0; 512];
                let mut cells = Vec::new();
                let group_tiles = tiles.iter().skip(group as usize * 32).take(32);
                for (at, (record, tile)) in group_tiles.enumerate() {
                    record.write(&mut mask_page, at);
                    cells.extend_from_slice(tile);
                }
                let kept = kernel.compute().kept_cells(&dims, group, &mask_page);
                prop_assert_eq!(kept, Some(cells.len() / 16), "{}", kernel.name);
                let mut product = GroupProduct::new(&dims, group, &mask_page, input, (&mut y, y_stride));
                product.feed(kernel, &[]);
                for part in cells.chunks(piece * 16) {
                    product.feed(kernel, part);
                }
            }
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            prop_assert!(bits(&y) == bits(&want), "{}: {:?} instead of {:?}", kernel.name, y, want);
        }
    }

    /// Matrices packed anew give the same bits, all of them at once or some parts. With a weight of -128, which only a damaged
    /// card has, a kernel may do without.
    #[cfg(feature = "prepack")]
    #[test]
    fn prepacked_matrices_agree(
        outputs in prop_oneof![1u32..70, 250u32..600],
        inputs in prop_oneof![1u32..70, 1u32..800],
        density in 0u32..7,
        batch in 1usize..10,
        damaged in any::<bool>(),
        far_away in any::<bool>(),
        seed in any::<u64>(),
        x in proptest::collection::vec(-127i8..=127, 9 * 800),
    ) {
        let dims = MatrixDims { outputs, inputs };
        let mut tiles = tiles(&dims, density, seed);
        if !damaged {
            let weights = tiles.iter_mut().flat_map(|(_, cells)| cells);
            weights.filter(|w| **w == 0x80).for_each(|w| *w = 0x81);
        }
        let (stride, segments) = (dims.padded_inputs() as usize, dims.segments() as usize);
        let x_scales: Vec<f32> = (0..batch * segments).map(|i| 0.75 + i as f32).collect();
        let input = Input { values: &x[..batch * stride], scales: &x_scales, batch };
        let outputs = dims.padded_outputs() as usize;

        let mut want = std::vec![0.0; batch * outputs];
        let pages = pages_of(&dims, &tiles, input, (&mut want, outputs));
        for kernel in available() {
            let name = kernel.name;
            let Some(packed) = kernel.prepack(&[(dims, &pages)], far_away) else {
                prop_assert!(damaged || kernel.compute().packing().is_none(), "{} packs nothing", name);
                continue;
            };
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            let mut y = std::vec![f32::NAN; want.len()];
            prop_assert!(kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), input, &mut y, outputs));
            prop_assert!(bits(&y) == bits(&want), "{}: {:?} instead of {:?}", name, y, want);

            let mut y = std::vec![f32::NAN; want.len()];
            for part in 0..packed.parts() {
                let first = packed.outputs(0..part).len();
                let y = &mut y[first..];
                prop_assert!(kernel.compute().multiply_prepacked(&packed, part..part + 1, input, y, outputs));
            }
            prop_assert!(bits(&y) == bits(&want), "{}: parts give {:?} instead of {:?}", name, y, want);

            // Sizes that no memory has.
            for (batch, stride) in [(9, 1 << 61), (1 << 62, outputs), (usize::MAX, 1)] {
                let huge = Input { batch, ..input };
                prop_assert!(!kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), huge, &mut y, stride));
            }
            // Too little of anything, or pages that hold something else.
            let short = Input { values: &input.values[1..], ..input };
            prop_assert!(!kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), short, &mut y, outputs));
            let last = y.len() - 1;
            prop_assert!(!kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), input, &mut y[..last], outputs));
            prop_assert!(kernel.prepack(&[(dims, &pages[..pages.len() - 1])], far_away).is_none());
        }
    }

    /// Sums as large as they get.
    #[cfg(feature = "prepack")]
    #[test]
    fn prepacked_extremes_agree(
        inputs in 1u32..600,
        whole in any::<bool>(),
        weight in prop_oneof![Just(0x80u8), Just(0x81), Just(0x7F)],
        x in prop_oneof![Just(-127i8), Just(127)],
        seed in any::<u64>(),
    ) {
        let dims = MatrixDims { outputs: 20, inputs };
        let mut tiles = tiles(&dims, if whole { 4 } else { 2 }, seed);
        tiles.iter_mut().for_each(|(_, cells)| cells.fill(weight));
        let values = std::vec![x; dims.padded_inputs() as usize];
        let scales = std::vec![1.0; dims.segments() as usize];
        let input = Input { values: &values, scales: &scales, batch: 1 };
        let mut want = [0.0; 20];
        let pages = pages_of(&dims, &tiles, input, (&mut want, 20));
        for kernel in available() {
            let Some(packed) = kernel.prepack(&[(dims, &pages)], false) else { continue };
            let mut y = [f32::NAN; 20];
            prop_assert!(kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), input, &mut y, 20));
            prop_assert_eq!(y.map(f32::to_bits), want.map(f32::to_bits), "{}", kernel.name);
        }
    }

    /// Matrices of the same inputs, packed as one, give what each gives by itself, side by side.
    #[cfg(feature = "prepack")]
    #[test]
    fn stacks_agree(
        outputs in proptest::collection::vec(1u32..90, 1..4),
        inputs in prop_oneof![1u32..70, 1u32..600],
        density in 0u32..6,
        batch in 1usize..6,
        seed in any::<u64>(),
        x in proptest::collection::vec(-127i8..=127, 6 * 600),
    ) {
        let dims: Vec<MatrixDims> = outputs.iter().map(|outputs| MatrixDims { outputs: *outputs, inputs }).collect();
        let (stride, segments) = (dims[0].padded_inputs() as usize, dims[0].segments() as usize);
        let scales: Vec<f32> = (0..batch * segments).map(|i| 0.75 + i as f32).collect();
        let input = Input { values: &x[..batch * stride], scales: &scales, batch };
        let row: usize = dims.iter().map(|dims| dims.padded_outputs() as usize).sum();

        let (mut matrices, mut want, mut first) = (Vec::new(), std::vec![0.0; batch * row], 0);
        for (number, dims) in (0..).zip(&dims) {
            let mut tiles = tiles(dims, density, seed ^ number);
            let weights = tiles.iter_mut().flat_map(|(_, cells)| cells);
            weights.filter(|w| **w == 0x80).for_each(|w| *w = 0x81);
            let pages = pages_of(dims, &tiles, input, (&mut want[first..], row));
            matrices.push(pages);
            first += dims.padded_outputs() as usize;
        }
        let stack: Vec<(MatrixDims, &[Page])> =
            dims.iter().zip(&matrices).map(|(dims, pages)| (*dims, &pages[..])).collect();
        let other = MatrixDims { inputs: inputs + 4, ..dims[0] };
        for kernel in available() {
            let Some(packed) = kernel.prepack(&stack, false) else {
                prop_assert!(kernel.compute().packing().is_none(), "{} packs nothing", kernel.name);
                continue;
            };
            let mut y = std::vec![f32::NAN; want.len()];
            prop_assert!(kernel.compute().multiply_prepacked(&packed, 0..packed.parts(), input, &mut y, row));
            prop_assert!(y == want, "{}: {:?} instead of {:?}", kernel.name, y, want);
            // Pages of another matrix, inputs that differ, nothing.
            let wrong = [stack[0], (other, stack[0].1)];
            prop_assert!(kernel.prepack(&wrong, false).is_none() && kernel.prepack(&[], false).is_none());
        }
    }

    /// No output is larger than its bound, and no bound much larger than its output; whichever bundles are asked for.
    #[cfg(feature = "prepack")]
    #[test]
    fn bounds_hold(
        outputs in prop_oneof![1u32..70, 250u32..400],
        lines in prop_oneof![1u32..10, 1u32..90],
        damage in 0u32..5,
        exponents in (-130i32..120, -130i32..120),
        seed in any::<u64>(),
        x in proptest::collection::vec(-128i8..=127, 90 * 8),
    ) {
        let dims = MatrixDims { outputs, inputs: lines * 8 };
        let segments = dims.segments() as usize;
        let power = |exponent: i32| f64::from(exponent).exp2() as f32;
        // The fourth damage: activations that are longer than any f32, and rows of which nothing is left out.
        let exponents = if damage == 4 { (119, exponents.1.min(-20)) } else { exponents };
        let scales: Vec<f32> = (0..segments).map(|i| power(exponents.0) * (1.0 + i as f32)).collect();
        let mut tiles = tiles(&dims, if damage == 1 { 3 } else { 4 }, seed);
        for (record, _) in &mut tiles {
            let of_weights = power(exponents.1);
            record.scales = record.scales_f32().map(|scale| ((scale * of_weights).to_bits() >> 16) as u16);
            // Nobody exports a negative scale.
            record.scales[1] |= 0x8000;
        }
        if damage == 2 {
            tiles[0].0.scales[3] = 0x7FC0;
        }
        if damage == 4 {
            for (_, cells) in &mut tiles {
                cells.chunks_mut(16).flat_map(|cell| &mut cell[4..]).for_each(|weight| *weight &= 0xF0);
            }
        }
        let mut x = x;
        if damage == 3 {
            // Along the lower halves of the first output's weights, which is as far as they can go.
            let weights = tiles[..segments].iter().flat_map(|(_, cells)| cells.chunks(16).flat_map(|cell| &cell[..4]));
            for (x, weight) in x.iter_mut().zip(weights) {
                let weight = i32::from(*weight as i8);
                *x = (8 * (weight - 16 * ((weight + 8) >> 4).min(7))) as i8;
            }
        }
        let values = &x[..dims.inputs as usize];
        let input = Input { values, scales: &scales, batch: 1 };
        let whole = tiles.iter().map(|(_, cells)| cells.len() as u64 / 16).sum::<u64>() == dims.cells();

        let mut y = std::vec![0.0; dims.padded_outputs() as usize];
        let y_stride = y.len();
        let pages = pages_of(&dims, &tiles, input, (&mut y, y_stride));
        let largest = f64::from(power(exponents.1) * 2.0) * f64::from(scales[segments - 1]);
        // The bound of an output: what upper halves give, and what lower ones can add at most, which may be a bf16 more.
        let bounds_of = |tiles: &[(TileRecord, Vec<u8>)], output: usize| {
            let (mut about, mut more) = (0.0, 0.0);
            for (((record, cells), x), x_scale) in tiles.iter().zip(values.chunks(256)).zip(&scales) {
                let rows = cells.chunks(16).flat_map(|cell| &cell[4 * output..4 * output + 4]);
                let (mut high, mut low, mut length) = (0.0, 0.0, 0.0);
                for (weight, x) in rows.zip(x) {
                    let (weight, x) = (i32::from(*weight as i8), f64::from(*x));
                    let upper = ((weight + 8) >> 4).min(7);
                    high += f64::from(16 * upper) * x;
                    low += f64::from(weight - 16 * upper).powi(2);
                    length += x * x;
                }
                let scale = f64::from(record.scales_f32()[output]) * f64::from(*x_scale);
                about += scale * high;
                more += scale.abs() * low.sqrt() * length.sqrt();
            }
            (about + more, about.abs() + more)
        };
        for kernel in available() {
            let Some(screen) = kernel.screen(&dims, &pages) else {
                prop_assert!(!whole || kernel.compute().packing().is_none(), "{} does not screen", kernel.name);
                continue;
            };
            let two = Input { batch: 2, ..input };
            prop_assert!(whole && screen.look_at(two).is_none());
            let Some(looked_at) = screen.look_at(input) else {
                prop_assert!(damage == 2 || largest > 1e29 || exponents.0 > 112 || exponents.1 > 117, "{}: {:e} is not too large", kernel.name, largest);
                continue;
            };
            prop_assert!(damage != 2, "{}: a scale is not finite", kernel.name);
            let mut bounds = std::vec![f32::NAN; dims.row_blocks() as usize];
            prop_assert!(kernel.compute().screen(&screen, 0..screen.bundles(), &looked_at, &mut bounds));
            for (y, bound) in y.chunks(4).zip(&bounds) {
                let y = y.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                prop_assert!(y <= *bound, "{}: {} is above {}", kernel.name, y, bound);
            }
            for (tiles, bound) in tiles.chunks(segments).zip(&bounds) {
                let of_outputs = [0, 1, 2, 3].map(|output| bounds_of(tiles, output));
                let least = of_outputs.iter().map(|(bound, _)| *bound).fold(f64::NEG_INFINITY, f64::max);
                let most = of_outputs.iter().map(|(bound, doubt)| bound + doubt / 100.0).fold(f64::NEG_INFINITY, f64::max);
                let bound = f64::from(*bound);
                prop_assert!(least <= bound && bound <= most + 1e-30, "{}: {} is not from {} to {}", kernel.name, bound, least, most);
            }
            for bundle in 0..screen.bundles() {
                let of_bundle = screen.row_blocks(bundle..bundle + 1);
                let mut some = std::vec![f32::NAN; of_bundle.len()];
                prop_assert!(kernel.compute().screen(&screen, bundle..bundle + 1, &looked_at, &mut some));
                prop_assert!(some == bounds[of_bundle]);
                prop_assert!(!kernel.compute().screen(&screen, bundle..bundle + 1, &looked_at, &mut some[1..]));
            }
            let beyond = screen.bundles()..screen.bundles() + 1;
            prop_assert!(!kernel.compute().screen(&screen, beyond, &looked_at, &mut []));
            let short = Input { values: &values[1..], ..input };
            prop_assert!(screen.look_at(short).is_none());
        }
    }

    /// A mask with a bit beyond its tile's width is noticed by every kernel, and does no harm before it is.
    #[test]
    fn masks_beyond_the_width(outputs in 1u32..130, inputs in 1u32..600, at in 0usize..32, bit in 0u32..64) {
        let dims = MatrixDims { outputs, inputs };
        let at = at % dims.tiles_in_group(0) as usize;
        let mut mask_page = [0; 512];
        TileRecord { scales: [0x3F80; 4], mask: 1 << bit }.write(&mut mask_page, at);
        let fits = bit < dims.cells_in_tile(at as u32 % dims.segments());
        for kernel in available() {
            let kept = kernel.compute().kept_cells(&dims, 0, &mask_page);
            prop_assert_eq!(kept, fits.then_some(1), "{}", kernel.name);
            let x = std::vec![1; dims.padded_inputs() as usize];
            let scales = std::vec![1.0; dims.segments() as usize];
            let mut y = std::vec![0.0; dims.padded_outputs() as usize];
            let input = Input { values: &x, scales: &scales, batch: 1 };
            GroupProduct::new(&dims, 0, &mask_page, input, (&mut y, dims.padded_outputs() as usize)).feed(kernel, &[1; 16]);
        }
    }

    /// Everything but the matrices: the same bits from every kernel.
    #[test]
    fn the_rest_agrees(
        x in proptest::collection::vec(-20f32..20.0, 1..400),
        head_dim in 1usize..40,
        queries in 1usize..if cfg!(feature = "prepack") { 3 } else { 2 },
        seen in 1usize..600,
        seed in any::<u64>(),
    ) {
        let mut state = seed | 1;
        let mut byte = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as i8
        };
        let (places, channels) = (seen.next_multiple_of(8), head_dim.next_multiple_of(4));
        let keys: Vec<i8> = (0..places * channels).map(|_| byte().max(-127)).collect();
        let values: Vec<i8> = (0..places * channels).map(|_| byte().max(-127)).collect();
        let key_scales: Vec<u16> = (0..places).map(|_| 0x3C00 + (byte() as u8 as u16)).collect();
        let value_scales: Vec<u16> = (0..places).map(|_| 0x3C00 + (byte() as u8 as u16)).collect();
        let head = Head {
            keys: &keys,
            key_scales: &key_scales,
            values: &values,
            value_scales: &value_scales,
            seen,
            channels,
            width: head_dim,
        };
        let query: Vec<f32> = (0..queries * head_dim).map(|_| f32::from(byte()) / 16.0).collect();
        let mut want: Option<Vec<u32>> = None;
        for kernel in available() {
            let compute = kernel.compute();
            let mut all = Vec::new();
            let (mut scores, mut weights, mut quantized) =
                (std::vec![0.0; queries * places], std::vec![0; queries * places], std::vec![0; queries * channels]);
            let mut out = std::vec![0.0; queries * head_dim];
            let mut scratch =
                Scratch { query: &mut quantized, scores: &mut scores, weights: &mut weights };
            compute.attend(&head, &query, &mut out, &mut scratch).unwrap();
            all.extend_from_slice(&out);
            // One after the other.
            let rows = query.chunks(head_dim).zip(out.chunks(head_dim));
            for (query, together) in rows {
                let mut out = std::vec![0.0; head_dim];
                let mut scratch =
                    Scratch { query: &mut quantized, scores: &mut scores, weights: &mut weights };
                compute.attend(&head, query, &mut out, &mut scratch).unwrap();
                prop_assert!(out == together, "{}", kernel.name);
            }

            let mut bytes = std::vec![0; x.len().next_multiple_of(4)];
            let mut scales = std::vec![0.0; x.len().div_ceil(256)];
            compute.quantize(&x, &mut bytes, &mut scales).unwrap();
            all.extend(bytes.iter().map(|q| f32::from(*q)).chain(scales));
            let mut bytes = std::vec![0; x.len()];
            all.push(f32::from(compute.quantize_head(&x, &mut bytes).unwrap()));
            all.extend(bytes.iter().map(|q| f32::from(*q)));

            let mut h = std::vec![0.0; x.len()];
            compute.normalize(&x, false, 1e-5, &mut h);
            all.extend_from_slice(&h);
            compute.normalize(&x, true, 1e-5, &mut h);
            let gain: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            compute.scale_by(&mut h, &gain);
            compute.shift_by(&mut h, &gain);
            compute.add(&mut h, &x);
            all.extend_from_slice(&h);
            compute.swiglu(&mut h, &x);
            all.extend_from_slice(&h);
            compute.gelu(&mut h);
            compute.rotate(&mut h, &x[..x.len().min(head_dim) / 2 * 2]);
            all.extend_from_slice(&h);
            all.push(compute.argmax(&x) as f32);
            prop_assert!(compute.all_finite(&x));

            let bits: Vec<u32> = all.iter().map(|x| x.to_bits()).collect();
            prop_assert!(&bits == want.get_or_insert(bits.clone()), "{}", kernel.name);
        }
    }
}
