//! `index.json`: what is written is read as the same, whatever it says.
#![allow(missing_docs)]

use pageformer_card::manifest::{MAX_EOS, MAX_STRING};
use pageformer_card::{Chat, Layout, Manifest, ManifestError, Mlp, Norm, Reader, Shape, TensorTable, Text};
use proptest::prelude::*;

/// Gives out a part of the text at a time.
struct Parts<'a>(&'a [u8], usize);

impl Reader for Parts<'_> {
    type Error = ();

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        let n = buf.len().min(self.0.len()).min(self.1);
        let (now, later) = self.0.split_at(n);
        buf[..n].copy_from_slice(now);
        self.0 = later;
        Ok(n)
    }
}

/// A text of at most `N` bytes.
fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    proptest::collection::vec(any::<char>(), 0..N).prop_map(|chars| {
        let mut text = String::new();
        for c in chars {
            if text.len() + c.len_utf8() <= N {
                text.push(c);
            }
        }
        Text::new(&text).unwrap()
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let numbers =
        (1u32..=4, 1u32..600, 1u32..600, 1u32..=65_536, 1u32..=65_536, 1u32..=8, 1u32..=4, 1u32..=16);
    let kinds = (any::<[bool; 4]>(), 1e-12f32..1.0, 1f32..1e7);
    (numbers, kinds).prop_map(
        |((layers, d, ff, vocab, seq, per_kv, kv, half), ([rms, gelu, tied, last], eps, theta))| Shape {
            n_layers: layers,
            d_model: d,
            d_ff: ff,
            vocab,
            max_seq: seq,
            n_heads: per_kv * kv,
            n_kv_heads: kv,
            head_dim: 2 * half,
            norm: if rms { Norm::Rms } else { Norm::Layer },
            norm_eps: eps,
            mlp: if gelu { Mlp::Gelu } else { Mlp::SwiGlu },
            rope_theta: theta,
            tied_embeddings: tied,
            final_norm: last,
        },
    )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let texts =
        (text::<64>(), text::<96>(), proptest::option::of((text::<47>(), text::<47>(), text::<32>())));
    let numbers = (any::<bool>(), 1u32..=64, 1u32..=64, 0f32..=1.0, 0u32..=1 << 30);
    let tokens = (any::<Option<u16>>(), proptest::collection::vec(any::<u16>(), 0..=MAX_EOS));
    (shape(), texts, numbers, tokens).prop_map(
        |(shape, (name, source, chat), (packed, rows, cols, density, pages), (bos, eos))| {
            let token = |id: u16| (u32::from(id) % shape.vocab) as u16;
            let mut ends = [None; MAX_EOS];
            ends.iter_mut().zip(eos).for_each(|(slot, id)| *slot = Some(token(id)));
            let chat = chat.map(|(before, after, stop)| Chat {
                user: Text::new(&format!("{}{{}}{}", before.as_str(), after.as_str())).unwrap(),
                stop,
            });
            Manifest {
                layout: if packed { Layout::Packed } else { Layout::Files },
                name,
                source,
                shape,
                block: (rows * 4, cols * 4),
                density,
                tape_pages: 0,
                tokenizer_pages: pages,
                bos: bos.map(token),
                eos: ends,
                chat,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(mut manifest in manifest(), share in 0f64..=1.0, part in 1usize..200) {
        let shape = manifest.shape;
        // Each tensor has some number of pages that it can have.
        let pages = |tensor| {
            let kind = shape.kind(tensor);
            let (least, most) = (kind.least_pages(), kind.dense_pages());
            least + ((most - least) as f64 * share) as u32
        };
        let tensors: Vec<_> = shape.iter_tensors().map(|tensor| (tensor, pages(tensor))).collect();
        let on_tape = if shape.tied_embeddings { &tensors[..] } else { &tensors[..tensors.len() - 1] };
        manifest.tape_pages = on_tape.iter().map(|(_, pages)| pages).sum();
        let mut written = String::new();
        manifest.write(&mut written, &mut tensors.iter().copied()).unwrap();

        let read = Manifest::parse(Parts(written.as_bytes(), part), &mut |_, _| Ok(())).unwrap();
        prop_assert_eq!(&read, &manifest);
        let mut memory = vec![0; TensorTable::entries(&shape)];
        let table = TensorTable::parse(Parts(written.as_bytes(), part), &read, &mut memory).unwrap();
        let mut next = 0;
        for (tensor, pages) in tensors {
            prop_assert_eq!(table.pages_of(tensor), next..next + pages);
            next += pages;
        }
        prop_assert_eq!(table.pages(), next);
    }
}

/// A string with escapes, wherever the reader's buffer happens to end.
#[test]
fn escapes_are_read_at_any_place() {
    let user = "\"Q\": {}\n\tA\\: \u{1}\u{7f}\u{e9}\u{1f600}";
    let sound = r#"{ "format": "pageformer", "version": 1, "layout": "packed", "page_size": 512, "n_layers": 1,
        "d_model": 4, "d_ff": 4, "vocab": 128, "max_seq": 8, "n_heads": 1, "n_kv_heads": 1, "head_dim": 2,
        "norm": "rmsnorm", "eps": 0.00001, "mlp": "gelu", "position": "rope", "theta": 10000,
        "tied_embeddings": true, "final_norm": false, "block": "4x4", "density": 1, "tape_pages": 1, "tensors": {},
        "tokenizer": { "pages": 1 }, PADDING"chat": { "\u0075ser": TEXT, "stop": "\u000a\ud83d\ude00" } }"#;
    let text = r#""\"Q\": {}\n\u0009A\\: \u0001\u007F\u00e9\uD83D\uDE00""#;
    for padding in 0..=640 {
        let index = sound.replace("TEXT", text).replace("PADDING", &" ".repeat(padding));
        for part in [1, 100, 512] {
            let chat =
                Manifest::parse(Parts(index.as_bytes(), part), &mut |_, _| Ok(())).unwrap().chat.unwrap();
            assert_eq!((chat.user.as_str(), chat.stop.as_str()), (user, "\n\u{1f600}"), "{padding}");
        }
    }
}

/// Texts that are longer than any of the format, where they are allowed and where they are not.
#[test]
fn long_texts_are_errors_or_ignored_as_a_whole() {
    for length in 0..=700 {
        let long = "x".repeat(length);
        let index = format!("{{\"unknown\": \"{long}\", \"name\": 7}}");
        let error = Manifest::parse(Parts(index.as_bytes(), 512), &mut |_, _| Ok(())).unwrap_err();
        match error {
            ManifestError::Value("name") => assert!(length < 300),
            ManifestError::Syntax { .. } => assert!(length > MAX_STRING),
            other => panic!("{length}: {other}"),
        }
    }
}
