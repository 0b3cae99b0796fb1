//! `index.json`: whatever it says, it is refused, or it is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageformer_card::{Manifest, ManifestError, Reader, TensorTable};

/// Gives out a few bytes at a time.
struct Slow<'a>(&'a [u8]);

impl Reader for Slow<'_> {
    type Error = ();

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        let n = buf.len().min(self.0.len()).min(7);
        let (now, later) = self.0.split_at(n);
        buf[..n].copy_from_slice(now);
        self.0 = later;
        Ok(n)
    }
}

fn parse<'m>(index: &[u8], memory: &'m mut Vec<u32>) -> Result<(Manifest, TensorTable<'m>), ManifestError> {
    let manifest = Manifest::parse(Slow(index), &mut |_, _| Ok(()))?;
    memory.resize(TensorTable::entries(&manifest.shape), 0);
    let table = TensorTable::parse(Slow(index), &manifest, memory)?;
    Ok((manifest, table))
}

fuzz_target!(|index: &[u8]| {
    let (mut memory, mut again) = (Vec::new(), Vec::new());
    let (manifest, table) = match parse(index, &mut memory) {
        Ok(parsed) => parsed,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut written = String::new();
    let pages = |tensor| table.pages_of(tensor).len() as u32;
    let mut tensors = manifest.shape.iter_tensors().map(|tensor| (tensor, pages(tensor)));
    manifest.write(&mut written, &mut tensors).expect("a String takes everything");
    let (same, same_table) = parse(written.as_bytes(), &mut again).expect("what is written can be read");
    assert_eq!(same, manifest);
    for tensor in manifest.shape.iter_tensors() {
        let pages = table.pages_of(tensor);
        assert_eq!(same_table.pages_of(tensor), pages);
        if let Some(first) = pages.clone().next() {
            assert_eq!(table.locate(first), Some((tensor, 0)));
        }
    }
    assert_eq!(table.locate(table.pages()), None);
});
