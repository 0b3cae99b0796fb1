//! Changes to bytes, as an input of a fuzzer.

/// Bytes that are written over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Which file, of those that the target has.
    pub file: u8,
    /// Where, taken modulo the length of the file.
    pub at: u32,
    /// What; at most 255 bytes.
    pub bytes: Vec<u8>,
}

/// Reads patches until the input ends: a byte for the file, three for the place, one for the length, the bytes.
pub fn read(mut input: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    while let Some(([file, at @ .., len], rest)) = input.split_first_chunk::<5>() {
        let (bytes, rest) = rest.split_at((*len as usize).min(rest.len()));
        let at = u32::from_le_bytes([at[0], at[1], at[2], 0]);
        patches.push(Patch { file: *file, at, bytes: bytes.to_vec() });
        input = rest;
    }
    patches
}

/// The inverse of [`read`].
pub fn write(patches: &[Patch]) -> Vec<u8> {
    let mut input = Vec::new();
    for patch in patches {
        let [a, b, c, _] = patch.at.to_le_bytes();
        input.extend([patch.file, a, b, c, patch.bytes.len() as u8]);
        input.extend(&patch.bytes);
    }
    input
}

/// Applies a patch. One without bytes cuts the file at its place.
pub fn apply(patch: &Patch, file: &mut Vec<u8>) {
    if file.is_empty() {
        return;
    }
    let at = patch.at as usize % file.len();
    if patch.bytes.is_empty() {
        file.truncate(at);
    }
    for (byte, new) in file.iter_mut().skip(at).zip(&patch.bytes) {
        *byte = *new;
    }
}
