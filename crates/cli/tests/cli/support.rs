//! Folders to work in, commands to run there, and models.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// How long a test waits for what has to come. It decides nothing but when to give up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so.
#[cfg(unix)]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A folder that commands run in.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// An empty folder.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with the tiny model of [`write_sketch`], imported, in `model`.
    pub fn with_tiny_model() -> Self {
        let place = Self::new();
        write_sketch(&place.path("sketch"));
        place.ok("import sketch sketch -o model");
        place
    }

    /// The same, and the model's card in `card`.
    pub fn with_tiny_card() -> Self {
        let place = Self::with_tiny_model();
        place.ok("export model -o card");
        place
    }

    /// A folder with stories260K in `model`, if the checkpoint is there.
    pub fn with_stories() -> Option<Self> {
        let (checkpoint, tokenizer) = (data("stories260K.bin")?, data("tok512.bin")?);
        let place = Self::new();
        let (checkpoint, tokenizer) = (checkpoint.display(), tokenizer.display());
        place.ok(&format!("import llama2c '{checkpoint}' --tokenizer '{tokenizer}' -o model"));
        Some(place)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Runs `pageformer` with a command line, in which only single quotes are special, and this input.
    pub fn run_with(&self, line: &str, input: &str) -> Ran {
        let mut words: Vec<&str> = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            match number % 2 {
                0 => words.extend(part.split_whitespace()),
                _ => words.push(part),
            }
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_pageformer"))
            .args(words)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that ends without reading its input is not wrong.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn run(&self, line: &str) -> Ran {
        self.run_with(line, "")
    }

    /// The output of a command that must succeed.
    pub fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "{line}\n{ran:#?}");
        ran.out
    }

    /// The JSON that a command with `--json` prints, and nothing else.
    pub fn json(&self, line: &str) -> Value {
        let out = self.ok(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}\n{out}"))
    }

    /// The message of a command that must fail with exit code 1 and print nothing else.
    pub fn fails(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!((ran.code, ran.out.trim()), (Some(1), ""), "{line}\n{ran:#?}");
        assert!(ran.err.trim_start().starts_with("error: "), "{line}\n{ran:#?}");
        ran.err
    }

    /// The same, and the message must have these parts.
    pub fn fails_with(&self, line: &str, parts: &[&str]) -> String {
        let error = self.fails(line);
        for part in parts {
            assert!(error.contains(part), "{line}: no {part:?} in\n{error}");
        }
        error
    }

    /// The message about a command line that is not one: exit code 2.
    pub fn usage(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{line}\n{ran:#?}");
        ran.err
    }
}

/// A file of the test data that is not part of the project.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.is_file() {
        return Some(path.canonicalize().unwrap());
    }
    println!("skipped: {} is not here", path.display());
    None
}

/// Whether a tool of the system is there.
pub fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

/// Writes a card of the original sketch: 2 layers of width 16, 4 heads with shared keys and values, ASCII, 48
/// positions, random weights, and half of the first `W1` pruned.
pub fn write_sketch(dir: &Path) {
    let (d, ff, vocab) = (16, 24, 128);
    fs::create_dir_all(dir).unwrap();
    let write = |file: String, bytes: &[u8]| fs::write(dir.join(file), bytes).unwrap();
    let mut index = Map::from_iter([("seq".to_string(), json!(48))]);
    let mut state = 1u32;
    let mut tensor = |name: String, rows: usize, cols: usize| {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..rows * cols {
            // The generator of Numerical Recipes; its upper bits.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push((state >> 24).max(1) as u8 ^ 0x80);
        }
        bytes.extend(0.004f32.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let files: Vec<String> = (0..bytes.len() / 512).map(|page| format!("{name}_{page:04}.bin")).collect();
        for (file, page) in files.iter().zip(bytes.chunks(512)) {
            write(file.clone(), page);
        }
        index.insert(name.clone(), json!(files));
        index.insert(format!("{name}_shape"), json!([rows, cols]));
    };
    tensor("emb_weight".into(), vocab, d);
    for layer in 0..2 {
        tensor(format!("dec{layer}_Wq"), d, d);
        tensor(format!("dec{layer}_Wk_shared"), d / 4, d);
        tensor(format!("dec{layer}_Wv_shared"), d / 4, d);
        tensor(format!("dec{layer}_Wo"), d, d);
        tensor(format!("dec{layer}_W1"), ff, d);
        tensor(format!("dec{layer}_W2"), d, ff);
        for norm in ["ln1", "ln2"] {
            let values = (0..2 * d).map(|i| if i < d { 1.0f32 } else { 0.1 });
            write(format!("dec{layer}_{norm}.bin"), &values.flat_map(f32::to_le_bytes).collect::<Vec<_>>());
        }
    }
    // 6 × 4 blocks: every second one is kept.
    write("dec0_W1.mask".into(), &[0b0101_0101; 3]);
    index.insert("dec0_W1.mask".into(), json!("dec0_W1.mask"));
    fs::write(dir.join("index.json"), Value::from(index).to_string()).unwrap();
}

/// Changes one byte of a file.
pub fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// The numbers of a text.
pub fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
