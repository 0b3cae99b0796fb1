//! How cost grows: one dimension at a time, drawn as SVG.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pageformer_engine::Request;
use pageformer_engine::kernels::Kernel;

use super::random::{self, Dimensions};
use super::{Decoding, Fastest, Source, decode_once};
use crate::session::buffer;
use crate::ui::Table;

/// What all others differ from in one dimension.
const BASE: Dimensions = Dimensions { d_model: 128, d_ff: 384, layers: 4, heads: 8, kv_heads: 4, vocab: 512 };
/// Positions of a run, where the context is not what grows.
const TOKENS: usize = 64;
/// RAM for everything.
const AMPLE: usize = 64 << 20;

/// One measurement.
struct Point {
    x: f64,
    /// Microseconds a token.
    time: f64,
    /// Pages that a token reads.
    pages: f64,
}

struct Curve {
    file: &'static str,
    title: &'static str,
    /// What grows.
    axis: &'static str,
    points: Vec<Point>,
}

fn measure(dimensions: Dimensions, density: f64, kernel: Kernel, runs: usize) -> Result<(Source, Vec<f64>)> {
    let source = Source::Random(dimensions, random::card(dimensions, density)?);
    let times = steps(&source, AMPLE, TOKENS, kernel, runs)?.0;
    Ok((source, times))
}

/// Microseconds of every step, and pages read a token.
fn steps(source: &Source, ram: usize, tokens: usize, kernel: Kernel, runs: usize) -> Result<(Vec<f64>, f64)> {
    let mut memory = buffer(ram);
    let request = Request { context: Some(tokens as u32), batch: Some(1), ..Request::default() };
    let mut engine = source.start(&mut memory, &request, kernel)?;
    engine.prepack();
    let mut fastest = Fastest::default();
    for _ in 0..runs {
        fastest.take(decode_once(&mut engine, Decoding { tokens, logits: true }, &mut || ())?);
    }
    let pages = engine.vram().pinning().streamed();
    Ok((fastest.0.iter().map(|time| time.as_secs_f64() * 1e6).collect(), f64::from(pages)))
}

fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len().max(1) as f64
}

/// Pages of the tape of a random model.
fn tape(source: &Source) -> Result<f64> {
    let mut memory = buffer(AMPLE);
    let request = Request { context: Some(1), batch: Some(1), ..Request::default() };
    let engine = source.start(&mut memory, &request, pageformer_engine::kernels::PORTABLE)?;
    Ok(f64::from(engine.vram().pinning().tape))
}

/// Measures everything, prints tables and writes the drawings into `folder`.
pub fn draw(folder: &Path, kernel: Kernel, runs: usize) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    println!("{BASE} unless something else is said; kernel {}, {TOKENS} positions\n", kernel.name);
    let grown = |variants: Vec<(f64, Dimensions, f64)>| -> Result<Vec<Point>> {
        variants
            .into_iter()
            .map(|(x, dimensions, density)| {
                let (source, times) = measure(dimensions, density, kernel, runs)?;
                Ok(Point { x, time: mean(&times), pages: tape(&source)? })
            })
            .collect()
    };
    let depth = (1..=8).map(|n| (f64::from(2 * n), Dimensions { layers: 2 * n, ..BASE }, 1.0)).collect();
    let width = (1..=8)
        .map(|n| (f64::from(64 * n), Dimensions { d_model: 64 * n, d_ff: 192 * n, ..BASE }, 1.0))
        .collect();
    let density = (1..=8).map(|n| (f64::from(n) / 8.0, BASE, f64::from(n) / 8.0)).collect();

    let (base, _) = measure(BASE, 1.0, kernel, 1)?;
    let long = steps(&base, AMPLE, 512, kernel, runs)?.0;
    let context = long
        .chunks(64)
        .enumerate()
        .map(|(n, times)| Point { x: (n * 64 + 32) as f64, time: mean(times), pages: 0.0 })
        .collect();
    let pages = tape(&base)?;
    let ram = (0..=8)
        .map(|n| {
            let ram = (96 << 10) + n * ((pages as usize * 512) / 7 / 8 * 8);
            let (times, pages) = steps(&base, ram, TOKENS, kernel, runs)?;
            Ok(Point { x: ram as f64 / 1024.0, time: mean(&times), pages })
        })
        .collect::<Result<Vec<_>>>()?;

    let curves = [
        Curve { file: "depth.svg", title: "Depth", axis: "layers", points: grown(depth)? },
        Curve { file: "width.svg", title: "Width", axis: "d_model; d_ff = 3 d_model", points: grown(width)? },
        Curve { file: "context.svg", title: "Context", axis: "position", points: context },
        Curve { file: "ram.svg", title: "RAM", axis: "KB of RAM in all", points: ram },
        Curve {
            file: "density.svg",
            title: "Density",
            axis: "kept share of the cells",
            points: grown(density)?,
        },
    ];
    let mut written = Vec::new();
    for curve in curves {
        let mut table = Table::new([curve.axis, "us/token", "pages read a token"]);
        for point in &curve.points {
            let pages = if curve.file == "context.svg" { "-".into() } else { format!("{:.0}", point.pages) };
            table.row([label(point), format!("{:.1}", point.time), pages]);
        }
        println!("{}\n{table}", curve.title);
        let path = folder.join(curve.file);
        fs::write(&path, svg(&curve)).with_context(|| path.display().to_string())?;
        written.push(path.display().to_string());
    }
    println!("drawn: {}", written.join(", "));
    Ok(())
}

/// Where a point is on its axis, with no more digits than tell it from others.
fn label(point: &Point) -> String {
    match point.x {
        x if x < 100.0 => format!("{}", (x * 1000.0).round() / 1000.0),
        x => format!("{x:.0}"),
    }
}

/// Two lines over one axis: time (left), and pages (right) unless there are none.
fn svg(curve: &Curve) -> String {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 260.0;
    let (left, right, top, bottom) = (60.0, WIDTH - 60.0, 34.0, HEIGHT - 44.0);
    let most = |of: fn(&Point) -> f64| curve.points.iter().map(of).fold(1e-9, f64::max);
    let (x_most, time_most, pages_most) = (most(|p| p.x), most(|p| p.time), most(|p| p.pages));
    let at = |x: f64, share: f64| (left + (right - left) * x / x_most, bottom - (bottom - top) * share);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{left}\" y=\"18\" font-weight=\"bold\">{}</text>\n\
         <path d=\"M{left} {top}V{bottom}H{right}V{top}\" fill=\"none\" stroke=\"#888\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        curve.title,
        (left + right) / 2.0,
        HEIGHT - 8.0,
        curve.axis,
    );
    let mut line =
        |of: &dyn Fn(&Point) -> f64, most: f64, colour: &str, label: &str, side: f64, anchor: &str| {
            let points: Vec<String> = curve
                .points
                .iter()
                .map(|point| at(point.x, of(point) / most))
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{side}\" y=\"{top}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{most:.0}</text>\n\
             <text x=\"{side}\" y=\"{bottom}\" text-anchor=\"{anchor}\" fill=\"{colour}\">0</text>\n\
             <text x=\"{side}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{label}</text>",
                points.join(" "),
                (top + bottom) / 2.0,
            );
        };
    line(&|p| p.time, time_most, "#1f5fbf", "µs/token", left - 4.0, "end");
    if curve.points.iter().any(|point| point.pages > 0.0) {
        line(&|p| p.pages, pages_most, "#bf5f1f", "pages", right + 4.0, "start");
    }
    for point in &curve.points {
        let (x, _) = at(point.x, 0.0);
        let label = label(point);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\">{label}</text>",
            bottom + 14.0
        );
    }
    svg + "</svg>\n"
}
