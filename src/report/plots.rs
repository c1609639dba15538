//! Plots as inline SVG. Colours come from the page's style by class, so that they follow the reader's
//! light or dark setting; exact values are in `<title>`s, which browsers show on hover.

use std::fmt::Write;

use crate::math::ln_f64;

use super::encode::escape;
use super::{AxisScale, Curve, LossChart, Scores, StageRow};

/// Size of a loss chart, in its own units.
pub(super) const WIDTH: f64 = 440.0;
pub(super) const HEIGHT: f64 = 240.0;
/// The plotting area's borders.
pub(super) const LEFT: f64 = 48.0;
pub(super) const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
pub(super) const BOTTOM: f64 = 34.0;
/// Points of a line at most: more than the chart has pixels show nothing.
const MOST_POINTS: usize = 360;
/// Number of colours that the page's style knows for series.
const COLOURS: usize = 6;

/// A stage's name for people.
pub(super) fn stage_title(name: &str) -> String {
    let name = name.replace('_', " ");
    match name.as_str() {
        "cams" => "CAMs".into(),
        "train cam" => "train CAM network".into(),
        "train affinity" => "train AffinityNet".into(),
        "train segmentation" => "train segmentation network".into(),
        "walk" => "random walk".into(),
        "pseudo labels" => "pseudo labels (CRF)".into(),
        _ => name,
    }
}

/// Seconds for people: `0.42 s`, `8.1 s`, `3 min 20 s`, `2 h 05 min`; a dash for none.
pub(super) fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|s| s.is_finite()) else { return "–".into() };
    let whole = seconds.round().max(0.0) as u64;
    match seconds {
        s if s < 1.0 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// One bar, divided as the run's time was; stages under 0.2 % are left out of it (the table has them).
pub(super) fn seconds_bar(stages: &[StageRow]) -> String {
    let seconds = |s: &StageRow| s.seconds.filter(|s| s.is_finite()).unwrap_or(0.0).max(0.0);
    let total: f64 = stages.iter().map(seconds).sum();
    if total <= 0.0 {
        return String::new();
    }
    let mut svg = String::from(
        "<svg class=\"seconds\" viewBox=\"0 0 1000 34\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Share of each stage in the time\">",
    );
    let mut legend = String::from("<ul class=\"keys\">");
    let mut left = 0.0;
    for (i, stage) in stages.iter().enumerate().filter(|(_, s)| s.seconds.is_some()) {
        let share = seconds(stage) / total;
        let (colour, title) = (i % COLOURS, escape(&stage_title(&stage.name)));
        let tone = if i / COLOURS % 2 == 1 { " second" } else { "" };
        if share >= 0.002 {
            let _ = write!(
                svg,
                "<rect class=\"t{colour}{tone}\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"34\"><title>{title}: {}, {:.1} %</title></rect>",
                share * 1000.0,
                duration(stage.seconds),
                share * 100.0
            );
        }
        let _ = write!(
            legend,
            "<li><i class=\"key t{colour}{tone}\"></i>{title} <span class=\"dim\">{}, {:.0} %</span></li>",
            duration(stage.seconds),
            share * 100.0
        );
        left += share * 1000.0;
    }
    format!("{svg}</svg>{legend}</ul>")
}

/// IoU per class, a group of bars a class and a bar a stage, the means first.
///
/// `scores` picks the list (train or val) of a stage.
pub(super) fn iou_bars(
    stages: &[StageRow],
    classes: &[String],
    scores: impl Fn(&StageRow) -> Option<&Scores>,
) -> String {
    const BAR: f64 = 9.0;
    const GROUP_GAP: f64 = 11.0;
    const NAME: f64 = 112.0;
    const SPAN: f64 = 320.0;
    // A stage keeps its colour in every chart, so the unscored ones of this list count too.
    let series: Vec<(usize, String, &Scores)> = scored(stages)
        .enumerate()
        .filter_map(|(i, stage)| Some((i % COLOURS, stage_title(&stage.name), scores(stage)?)))
        .collect();
    let count = series.iter().map(|s| s.2.iou.len()).max().unwrap_or(0);
    if count == 0 {
        return String::new();
    }
    let group = series.len() as f64 * BAR;
    let height = (count + 1) as f64 * (group + GROUP_GAP) + 26.0;
    let mut svg = format!(
        "<svg class=\"bars\" viewBox=\"0 0 {:.0} {height:.0}\" role=\"img\" aria-label=\"Intersection over union per class\">",
        NAME + SPAN + 44.0
    );
    for percent in (0..=100).step_by(25) {
        let x = NAME + SPAN * f64::from(percent) / 100.0;
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"4\" x2=\"{x:.1}\" y2=\"{:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent}</text>",
            height - 18.0,
            height - 5.0
        );
    }
    for row in 0..=count {
        let top = 6.0 + row as f64 * (group + GROUP_GAP);
        let name = match row {
            0 => "mean",
            _ => classes.get(row - 1).map_or("?", String::as_str),
        };
        let shown: String = if name.chars().count() > 17 {
            name.chars().take(16).chain(['…']).collect()
        } else {
            name.to_string()
        };
        let _ = write!(
            svg,
            "<text class=\"label{}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            if row == 0 { " strong" } else { "" },
            NAME - 8.0,
            top + group / 2.0 + 4.0,
            escape(&shown)
        );
        for (i, (colour, title, scores)) in series.iter().enumerate() {
            let y = top + i as f64 * BAR;
            let value =
                if row == 0 { Some(scores.mean_iou) } else { scores.iou.get(row - 1).copied().flatten() };
            let Some(value) = value.filter(|v| v.is_finite()) else {
                let _ = write!(
                    svg,
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">–</text>",
                    NAME + 3.0,
                    y + BAR - 1.0
                );
                continue;
            };
            let width = SPAN * value.clamp(0.0, 1.0);
            let _ = write!(
                svg,
                "<rect class=\"s{colour}\" x=\"{NAME:.0}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"1.5\"><title>{}, {}: {:.1} %</title></rect>",
                BAR - 1.5,
                escape(name),
                escape(title),
                value * 100.0
            );
            if i + 1 == series.len() {
                let _ = write!(
                    svg,
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{:.1}</text>",
                    NAME + width + 4.0,
                    y + BAR - 1.5,
                    value * 100.0
                );
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

/// The stages with scores on any list.
pub(super) fn scored(stages: &[StageRow]) -> impl Iterator<Item = &StageRow> {
    stages.iter().filter(|s| s.train.is_some() || s.val.is_some())
}

/// The key to [`iou_bars`].
pub(super) fn iou_key(stages: &[StageRow]) -> String {
    let item = |(i, s): (usize, &StageRow)| {
        format!("<li><i class=\"key s{}\"></i>{}</li>", i % COLOURS, escape(&stage_title(&s.name)))
    };
    let items: String = scored(stages).enumerate().map(item).collect();
    format!("<ul class=\"keys\">{items}</ul>")
}

/// A curve to draw: its finite points and their running mean.
pub(super) struct Line<'a> {
    pub colour: usize,
    pub curve: &'a Curve,
    pub points: Vec<(f64, f64)>,
    pub smooth: Vec<(f64, f64)>,
}

/// What a chart's area spans.
pub(super) struct Axes {
    steps: (f64, f64),
    values: (f64, f64),
    pub log: bool,
}

impl Axes {
    /// Axes that hold the running means of `lines`, of which there is at least one.
    fn around(lines: &[Line], scale: AxisScale) -> Self {
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let all = || lines.iter().flat_map(|line| &line.smooth);
        let (lowest, highest) = span(&mut all().map(|p| p.1));
        let log = match scale {
            AxisScale::Linear => false,
            AxisScale::Log => highest > 0.0,
            AxisScale::Auto => lowest > 0.0 && highest / lowest >= 20.0,
        };
        let (low, high) = if log {
            (span(&mut all().map(|p| p.1).filter(|v| *v > 0.0)).0 / 1.15, highest * 1.15)
        } else if lowest >= 0.0 {
            (0.0, highest * 1.06)
        } else {
            let margin = 0.05 * (highest - lowest);
            (lowest - margin, highest + margin)
        };
        let (first, last) = span(&mut all().map(|p| p.0));
        // A single step or a flat line still needs an axis of some length.
        let open = |low: f64, high: f64| (low, if high > low { high } else { low + 1.0 });
        Self { steps: open(first, last), values: open(low, high), log }
    }

    pub fn x(&self, step: f64) -> f64 {
        LEFT + (step - self.steps.0) / (self.steps.1 - self.steps.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Single steps may leave the range of the running means: they end at the border.
    pub fn y(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share =
            if self.log { ln_f64(value / low) / ln_f64(high / low) } else { (value - low) / (high - low) };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut d = String::new();
        for (i, p) in points.iter().filter(|p| !self.log || p.1 > 0.0).enumerate() {
            let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, self.x(p.0), self.y(p.1));
        }
        d
    }

    /// Where grid lines are: values and their text.
    pub fn value_ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let (low, high) = self.values;
        let ticks = if self.log { log_ticks(low, high) } else { ticks(low, high, 5) };
        ticks.into_iter().map(|tick| (tick, number(tick)))
    }

    /// Where numbers of steps are: steps and their text.
    pub fn step_ticks(&self) -> impl Iterator<Item = (f64, String)> {
        ticks(self.steps.0, self.steps.1, 6).into_iter().map(|tick| (tick, number(tick)))
    }

    /// Grid lines and the numbers at them.
    fn draw(&self, svg: &mut String) {
        for (tick, text) in self.value_ticks() {
            let at = self.y(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT:.0}\" y1=\"{at:.1}\" x2=\"{:.0}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                at + 4.0,
                text
            );
        }
        for (tick, text) in self.step_ticks() {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                self.x(tick),
                HEIGHT - BOTTOM + 15.0,
                text
            );
        }
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">step{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 4.0,
            if self.log { " (logarithmic loss)" } else { "" }
        );
    }
}

/// A chart's curves and the axes around them; `None` without a point.
pub(super) fn laid_out(chart: &LossChart) -> Option<(Vec<Line<'_>>, Axes)> {
    let lines = chart.curves.iter().enumerate().map(|(i, curve)| {
        let points: Vec<_> =
            curve.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
        Line { colour: i % COLOURS, curve, smooth: smoothed(&points), points }
    });
    let lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return None;
    }
    let axes = Axes::around(&lines, chart.scale);
    Some((lines, axes))
}

/// A chart of losses over steps: each value pale, their running mean strong.
pub(super) fn loss_chart(chart: &LossChart) -> String {
    let Some((lines, axes)) = laid_out(chart) else { return String::new() };
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" role=\"img\" aria-label=\"Loss over steps\">"
    );
    axes.draw(&mut svg);
    let mut key = String::from("<ul class=\"keys\">");
    for Line { colour, curve, points, smooth } in &lines {
        let name = escape(&curve.name);
        let _ = write!(
            svg,
            "<path class=\"raw l{colour}\" d=\"{}\"/><path class=\"line l{colour}\" d=\"{}\"><title>{name}</title></path>",
            axes.path(&thinned(points)),
            axes.path(&thinned(smooth)),
        );
        let last = smooth.last().map_or(f64::NAN, |p| p.1);
        let _ = write!(
            key,
            "<li><i class=\"key l{colour}\"></i>{name} <span class=\"dim\">last {last:.4}</span></li>"
        );
    }
    format!("{svg}</svg>{key}</ul>")
}

/// The exponentially weighted mean of what came before, over about a thirtieth of the run, without the
/// start's pull to zero (the weights are divided by their sum).
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 30.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(step, value)| {
            sum = sum * keep + value;
            weight = weight * keep + 1.0;
            (step, sum / weight)
        })
        .collect()
}

/// At most [`MOST_POINTS`] points: the mean of each of equal runs.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |run: &[(f64, f64)]| {
        let sum = run.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        (sum.0 / run.len() as f64, sum.1 / run.len() as f64)
    };
    points.chunks(run).map(mean).collect()
}

/// 10ⁿ, the nearest f64: powers by multiplication differ between machines' libraries.
fn power_of_ten(n: i32) -> f64 {
    format!("1e{n}").parse().unwrap_or(f64::NAN)
}

/// The n with 10ⁿ ≤ x < 10ⁿ⁺¹, for x above 0.
fn decade(x: f64) -> i32 {
    let near = (ln_f64(x) / std::f64::consts::LN_10).floor() as i32;
    (near - 1..=near + 1).rev().find(|n| power_of_ten(*n) <= x).unwrap_or(near)
}

/// About `count` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count as f64;
    if !(raw.is_finite() && raw > 0.0) {
        return Vec::new();
    }
    let power = power_of_ten(decade(raw));
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(raw);
    let (from, to) = ((low / step).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (from..=to).take(4 * count).map(|i| i as f64 * step).collect()
}

/// Powers of ten, with 2 and 5 between them where they are few.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (from, last) = (decade(low), decade(high));
    let to = if power_of_ten(last) < high { last + 1 } else { last };
    let digits: &[f64] = if to - from <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (from..=to).flat_map(|e| digits.iter().map(move |d| d * power_of_ten(e)));
    all.filter(|t| (low..=high).contains(t)).collect()
}

/// A tick's text: as few digits as tell it from its neighbours.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 10_000.0 {
        format!("{}k", trimmed(value / 1000.0, 1))
    } else if size > 0.0 && size < 0.001 {
        format!("{value:.0e}")
    } else {
        trimmed(value, 3)
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}
