//! What people see: sizes, tables, progress.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A number of things of which there must be one.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("give 1 or more".to_string()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("`{text}` is not a number, such as 20")),
    }
}

/// Tokens a second that are wanted.
pub fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if speed > 0.0 && f64::is_finite(speed) => Ok(speed),
        _ => Err("give tokens a second, such as 10".to_string()),
    }
}

/// A number of bytes such as `65536`, `96K`, `1.5M`; K and M are 1024 and 1024².
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches('B');
    let (number, unit) = match digits.strip_suffix(['K', 'M', 'G']) {
        Some(number) if digits.ends_with('K') => (number, 1024.0),
        Some(number) if digits.ends_with('M') => (number, 1024.0 * 1024.0),
        Some(number) => (number, 1024.0 * 1024.0 * 1024.0),
        None => (digits, 1.0),
    };
    let bytes = number
        .trim()
        .parse::<f64>()
        .map_err(|_| format!("`{text}` is not a size; write 65536, 96K or 2M"))?;
    if !(0.0..=64e9).contains(&(bytes * unit)) {
        return Err(format!("`{text}` is not a size that a buffer can have"));
    }
    let bytes = (bytes * unit) as usize;
    // A buffer that is not to be had would end the program without a word.
    let mut trial = Vec::<u8>::new();
    match std::hint::black_box(&mut trial).try_reserve_exact(bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => {
            Err(format!("`{text}` is more memory than this PC gives a program; give less, such as 256K"))
        }
    }
}

/// A pruning block such as `4x4`.
pub fn parse_block(text: &str) -> Result<(u32, u32), String> {
    pageformer_card::manifest::parse_block(text)
        .ok_or_else(|| format!("`{text}` is not a block: two multiples of 4 up to 256, such as 4x4 or 8x16"))
}

/// Bytes for people: exact below 10,000, else in KB, MB or GB of 1024.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} KB", n as f64 / 1024.0),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1024.0 / 1024.0),
        _ => format!("{:.1} GB", n as f64 / 1024.0 / 1024.0 / 1024.0),
    }
}

/// A table whose columns line up: text to the left, numbers (all but the first column) to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<S: Display>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![headings.into_iter().map(|h| h.to_string()).collect()] }
    }

    /// Adds a row.
    pub fn row<S: Display>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|c| c.to_string()).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match c {
                    0 => line += &format!("{cell:<width$}"),
                    _ => line += &format!("  {cell:>width$}"),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A bar for a share between 0 and 1, `width` characters at most.
pub fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
    }
    bar
}

/// A progress bar on the terminal's error output, for work that turns out to take more than a second.
pub struct Progress {
    what: &'static str,
    started: Instant,
    /// Steps that were told of one by one.
    steps: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Work called `what` begins.
    pub fn new(what: &'static str) -> Self {
        Self { what, started: Instant::now(), steps: 0, bar: None }
    }

    /// One more step of `all` is done.
    pub fn step(&mut self, all: u64) {
        self.steps += 1;
        self.set(self.steps, all);
    }

    /// So much of it is done.
    pub fn set(&mut self, done: u64, all: u64) {
        if self.bar.is_none() && self.started.elapsed() > Duration::from_secs(1) {
            let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} [{bar:32}] {percent}% {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(self.what);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A sign of life on the terminal's error output, for work that cannot say how much of it is done.
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Work called `what` begins; it ends when this is dropped.
    pub fn new(what: String) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("96K"), Ok(96 << 10));
        assert_eq!(parse_bytes("64kb"), Ok(64 << 10));
        assert_eq!(parse_bytes("1.5MiB"), Ok(3 << 19));
        assert_eq!(parse_bytes("65536"), Ok(65536));
        for bad in ["", "K", "-1", "many", "1e99"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (n, text) in
            [(9_999, "9999 B"), (98_304, "96.0 KB"), (64 << 20, "64.0 MB"), (24 << 30, "24.0 GB")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["part", "bytes"]);
        table.row(["KV cache", "51200"]);
        table.row(["ring", "5"]);
        assert_eq!(table.to_string(), "part      bytes\nKV cache  51200\nring          5\n");
    }
}
