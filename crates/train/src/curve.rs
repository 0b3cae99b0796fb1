//! The losses of a run, and their picture.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Most points of the training loss; then two become one.
const POINTS: usize = 1024;

/// The losses of a run. The training loss is kept as means over some steps, so that a long run's curve stays small.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Steps of a point of `train`, as a power of two.
    shift: u32,
    /// Sum and number of the losses of each point.
    train: Vec<(f64, u32)>,
    held_out: Vec<(usize, f64)>,
}

impl Curve {
    /// Adds the loss of a step; steps begin with 1.
    pub(crate) fn train(&mut self, step: usize, loss: f64) {
        let mut point = step.saturating_sub(1) >> self.shift;
        while point >= POINTS {
            self.shift += 1;
            point >>= 1;
            let pair = |p: &[(f64, u32)]| p.iter().fold((0.0, 0), |(s, n), (s1, n1)| (s + s1, n + n1));
            self.train = self.train.chunks(2).map(pair).collect();
        }
        if self.train.len() <= point {
            self.train.resize(point + 1, (0.0, 0));
        }
        self.train[point].0 += loss;
        self.train[point].1 += 1;
    }

    /// Adds a held-out loss.
    pub(crate) fn held_out(&mut self, step: usize, loss: f64) {
        self.held_out.push((step, loss));
    }

    /// Step and mean training loss, in nats per token.
    pub fn train_points(&self) -> Vec<(f64, f64)> {
        let step = |point: usize| ((point as f64 + 0.5) * (1u64 << self.shift) as f64).ceil();
        let points = self.train.iter().enumerate().filter(|(_, (_, n))| *n > 0);
        points.map(|(i, (sum, n))| (step(i), sum / *n as f64)).collect()
    }

    /// Step and held-out loss, in nats per token.
    pub fn held_out_points(&self) -> Vec<(f64, f64)> {
        self.held_out.iter().map(|(step, loss)| (*step as f64, *loss)).collect()
    }

    /// The curve as an SVG picture: the training loss as a line, the held-out loss as a line with dots.
    pub fn svg(&self, title: &str) -> String {
        let lines = [
            Line::new("training", "#7aa6c2", self.train_points()),
            Line { dots: true, ..Line::new("held out", "#c2410c", self.held_out_points()) },
        ];
        chart(title, "step", "nats per token", &lines)
    }
}

/// A line of a [`chart`].
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its colour, as CSS writes it.
    pub color: &'a str,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked.
    pub dots: bool,
    /// Whether the picture is as high as this line asks; otherwise it is drawn as far as it fits.
    pub scales: bool,
}

impl<'a> Line<'a> {
    /// A line without dots that the picture has to hold.
    pub fn new(name: &'a str, color: &'a str, points: Vec<(f64, f64)>) -> Self {
        Line { name, color, points, dots: false, scales: true }
    }
}

/// A line chart as an SVG picture that reads well on white and on black.
pub fn chart(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 64.0;
    const RIGHT: f64 = 16.0;
    const TOP: f64 = 40.0;
    const BOTTOM: f64 = 48.0;
    let xs = Axis::over(lines.iter().flat_map(|l| &l.points).map(|p| p.0));
    let ys = Axis::over(lines.iter().filter(|l| l.scales).flat_map(|l| &l.points).map(|p| p.1));
    let x = |v: f64| LEFT + xs.part(v) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - ys.part(v) * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let mut add = |element: std::fmt::Arguments| {
        // Writing to a String does not fail.
        let _ = writeln!(svg, "{element}");
    };
    add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#777\">"
    ));
    // What does not fit ends at the edge.
    add(format_args!(
        "<clipPath id=\"inside\"><path d=\"M{LEFT} {:.1}H{WIDTH}V{HEIGHT}H{LEFT}Z\"/></clipPath>",
        TOP - 3.0
    ));
    add(format_args!("<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>", escaped(title)));
    for v in ys.ticks() {
        let at = y(v);
        add(format_args!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#8884\"/>", WIDTH - RIGHT));
        add(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            ys.label(v)
        ));
    }
    for v in xs.ticks() {
        let (at, base) = (x(v), HEIGHT - BOTTOM);
        add(format_args!("<path d=\"M{at:.1} {base}v4\" stroke=\"#888\"/>"));
        add(format_args!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            base + 18.0,
            xs.label(v)
        ));
    }
    add(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 10.0,
        escaped(x_name)
    ));
    add(format_args!(
        "<text x=\"12\" y=\"{:.1}\" transform=\"rotate(-90 12 {:.1})\" text-anchor=\"end\">{}</text>",
        TOP,
        TOP,
        escaped(y_name)
    ));
    let mut legend = WIDTH - RIGHT;
    for line in lines.iter().filter(|l| !l.points.is_empty()) {
        let points: Vec<String> =
            line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" clip-path=\"url(#inside)\"/>",
            points.join(" "),
            escaped(line.color)
        ));
        for p in line.points.iter().filter(|p| line.dots && p.1 <= ys.high) {
            add(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{}\"/>",
                x(p.0),
                y(p.1),
                escaped(line.color)
            ));
        }
        add(format_args!(
            "<text x=\"{legend:.1}\" y=\"22\" text-anchor=\"end\" fill=\"{}\">{}</text>",
            escaped(line.color),
            escaped(line.name)
        ));
        legend -= 8.0 * line.name.len() as f64 + 16.0;
    }
    add(format_args!("</svg>"));
    svg
}

/// The range of an axis, to a whole number of round steps.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.filter(|v| v.is_finite()).for_each(|v| (low, high) = (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // 1, 2 or 5 times a power of ten that gives about six steps.
        let raw = ((high - low) / 6.0).max(1e-6);
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Axis { low, high: if high > low { high } else { low + step }, step }
    }

    fn part(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let steps = ((self.high - self.low) / self.step).round() as usize;
        (0..=steps).map(|i| self.low + i as f64 * self.step)
    }

    fn label(&self, value: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{value:.decimals$}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_keep_their_mean() {
        let mut curve = Curve::default();
        (1..=10_000).for_each(|step| curve.train(step, step as f64));
        let points = curve.train_points();
        assert!(points.len() <= POINTS && points.len() > POINTS / 2 - 1);
        for (step, loss) in &points[..points.len() - 1] {
            assert!((step - loss).abs() <= 1.0, "{step} {loss}");
        }
    }

    #[test]
    fn a_line_that_does_not_scale_leaves_the_picture() {
        let flat = vec![(0.0, 1.0), (1.0, 2.0)];
        let steep =
            Line { dots: true, scales: false, ..Line::new("steep", "red", vec![(0.0, 1.0), (1.0, 90.0)]) };
        let own = chart("", "", "", &[Line { dots: true, ..Line::new("flat", "red", flat) }]);
        let both = chart(
            "",
            "",
            "",
            &[Line { dots: true, ..Line::new("flat", "red", vec![(0.0, 1.0), (1.0, 2.0)]) }, steep],
        );
        let labels = |svg: &str| svg.matches("text-anchor=\"end\"").count();
        assert_eq!(labels(&both), labels(&own) + 1, "the same scale, one more name");
        assert_eq!((both.matches("<polyline").count(), both.matches("<circle").count()), (2, 3));
    }

    #[test]
    fn pictures_hold_every_point_and_are_well_formed() {
        let mut curve = Curve::default();
        (1..=100).for_each(|step| curve.train(step, 5.0 / step as f64));
        curve.held_out(50, 0.3);
        curve.held_out(100, 0.2);
        let svg = curve.svg("a < b & \"c\"");
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("<polyline").count(), 2);
        // Nothing outside of the picture.
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            assert!((0.0..=720.0).contains(&x.parse().unwrap()));
            assert!((0.0..=400.0).contains(&y.parse().unwrap()));
        }
        assert!(Curve::default().svg("nothing yet").ends_with("</svg>\n"));
    }
}
