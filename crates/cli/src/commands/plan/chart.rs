//! Tokens a second over RAM.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};
use pageformer_engine::{Needs, Plan};
use pageformer_sim::{Prediction, Setup};
use pageformer_vram::Arena;

use super::{Asked, needed};
use crate::session::buffer;
use crate::ui::{bar, bytes};

/// Points of a curve.
const POINTS: usize = 12;

/// RAM in bytes and tokens a second, from the smallest plan to one that holds everything, and a step beyond; `ram` is among them.
pub fn curve(
    asked: &Asked<'_>,
    prediction: &Prediction,
    setup: &Setup<'_>,
    ram: usize,
) -> Result<Vec<(usize, f64)>> {
    let request = asked.request(setup);
    let mut memory = buffer(prediction.plan.total() + (1 << 20));
    let opened = asked.card.open(&mut Arena::new(&mut memory))?;
    let needs = Needs::new(&opened.manifest, &opened.table);
    let least = Plan::new(&needs, 0, &request).err().and_then(|error| needed(&error)).context("no plan")?;
    // A batch of 16 is wider than any that the smallest plan has.
    let wide = pageformer_engine::Request { batch: Some(request.batch.unwrap_or(16)), ..request };
    let most = Plan::new(&needs, 0, &wide).err().and_then(|error| needed(&error)).unwrap_or(least)
        + (needs.tape_pages + needs.sums().pages()) as usize * 520;
    let step = (most - least).div_ceil(POINTS - 1).next_multiple_of(1024).max(1024);
    let points = (0..=POINTS).map(|point| (least + point * step).next_multiple_of(1024));
    let points: BTreeSet<usize> = points.chain([ram]).collect();
    Ok(points.into_iter().filter_map(|ram| Some((ram, asked.speed(ram, setup)?))).collect())
}

/// The curve as bars; that of `ram` is marked, and where there is more than the board has.
pub fn text(curve: &[(usize, f64)], ram: usize, of_board: usize) -> String {
    let most = curve.iter().map(|(_, speed)| *speed).fold(0.0, f64::max);
    let here = curve.iter().rposition(|(at, _)| *at <= ram);
    let mut text = String::from("RAM         predicted tokens/s of replies\n");
    let beyond = curve.iter().position(|(at, _)| *at > of_board);
    for (number, (ram, speed)) in curve.iter().enumerate() {
        if beyond == Some(number) {
            let _ = writeln!(text, "  with more RAM than this board has:");
        }
        let mark = if here == Some(number) { "  <- here" } else { "" };
        let _ = writeln!(text, "{:>9}  {:>8.2} {}{mark}", bytes(*ram as u64), speed, bar(speed / most, 40));
    }
    text
}

/// The curve as a drawing.
pub fn svg(curve: &[(usize, f64)], ram: usize, title: &str) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 360.0;
    const LEFT: f64 = 60.0;
    const EDGE: f64 = 40.0;
    let (first, last) = match curve {
        [first, .., last] => (first.0 as f64, last.0 as f64),
        _ => (0.0, 1.0),
    };
    let most = curve.iter().map(|(_, speed)| *speed).fold(1e-9, f64::max);
    let x = |ram: f64| LEFT + (ram - first) / (last - first) * (WIDTH - LEFT - EDGE);
    let y = |speed: f64| HEIGHT - EDGE - speed / most * (HEIGHT - 2.0 * EDGE);
    let points: Vec<String> =
        curve.iter().map(|(ram, speed)| format!("{:.1},{:.1}", x(*ram as f64), y(*speed))).collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    for part in 0..=4 {
        let speed = most * f64::from(part) / 4.0;
        let at = y(speed);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{speed:.1}</text>",
            WIDTH - EDGE,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (ram, _) in curve.iter().step_by(3) {
        let at = x(*ram as f64);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - EDGE + 18.0,
            bytes(*ram as u64)
        );
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"2\"/>",
        points.join(" ")
    );
    if (first..=last).contains(&(ram as f64)) {
        let at = x(ram as f64);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {EDGE}V{:.1}\" stroke=\"#d1242f\" stroke-dasharray=\"4 3\"/>",
            HEIGHT - EDGE
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">RAM; predicted tokens/s of replies</text>\n</svg>",
        WIDTH - EDGE,
        HEIGHT - 6.0
    );
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_nearest_from_below_is_marked() {
        let curve = [(1024, 1.0), (2048, 2.0), (4096, 4.0)];
        let text = text(&curve, 3000, 3000);
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("<- here")).collect();
        assert_eq!(marked.len(), 1);
        assert!(marked[0].contains("2048 B"), "{text}");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(lines[3].starts_with("with more RAM") && lines[4].starts_with("4096 B"), "{text}");
    }

    #[test]
    fn titles_are_escaped() {
        assert!(svg(&[(1, 1.0), (2, 2.0)], 1, "a<b & c").contains("a&lt;b &amp; c"));
    }
}
