//! Charts in pixels, for figures: the losses of the trainings, the scores of the stages.

use super::plots::{self, Axes, laid_out, scored, stage_title};
use super::sheet::{INK, PAPER, text_width, write_text};
use super::{LossChart, Scores, StageRow};
use crate::formats::image::RgbImage;

/// Pixels of one unit of a chart, and of a dot of its letters.
const SCALE: usize = 2;
/// A letter's height with the space below it.
const LINE: usize = 12 * SCALE;
const GRID: [u8; 3] = [222, 218, 208];
/// Colours of the curves, as strong as the page's.
const CURVES: [[u8; 3]; 6] =
    [[31, 95, 153], [192, 88, 32], [46, 125, 80], [130, 70, 140], [160, 120, 20], [90, 90, 90]];
/// Bars of the training and of the validation list.
const LISTS: [[u8; 3]; 2] = [[150, 180, 205], [31, 95, 153]];

/// Losses over steps, a chart under the other: each step pale, the running mean strong. `None` without a
/// value.
pub(super) fn losses(charts: &[LossChart]) -> Option<RgbImage> {
    let charts: Vec<_> = charts.iter().filter_map(|c| Some((c, laid_out(c)?))).collect();
    if charts.is_empty() {
        return None;
    }
    let (width, height) = (plots::WIDTH as usize * SCALE, plots::HEIGHT as usize * SCALE + LINE);
    let mut canvas = Canvas::new(width, charts.len() * height);
    for (i, (chart, (lines, axes))) in charts.iter().enumerate() {
        let top = i * height + LINE;
        let title = if axes.log { format!("{} (logarithmic)", chart.title) } else { chart.title.clone() };
        canvas.text(&title, plots::LEFT as usize * SCALE, top - LINE / 2);
        canvas.axes(axes, top);
        let mut key = (plots::LEFT as usize + text_width(&title) + 12) * SCALE;
        for line in lines.iter().filter(|_| lines.len() > 1) {
            canvas.fill((key, top - LINE / 2), (7 * SCALE, 7 * SCALE), CURVES[line.colour % CURVES.len()]);
            canvas.text(&line.curve.name, key + 10 * SCALE, top - LINE / 2);
            key += (text_width(&line.curve.name) + 20) * SCALE;
        }
        let at = |p: &(f64, f64)| (SCALE as f64 * axes.x(p.0), top as f64 + SCALE as f64 * axes.y(p.1));
        for line in lines {
            let strong = CURVES[line.colour % CURVES.len()];
            let pale = strong.map(|v| 235 - (235 - v) / 3);
            for (points, colour, thickness) in [(&line.points, pale, 1), (&line.smooth, strong, 3)] {
                // A logarithmic axis has no place for the others.
                let shown: Vec<_> = points.iter().filter(|p| !axes.log || p.1 > 0.0).map(at).collect();
                shown.windows(2).for_each(|pair| canvas.line(pair[0], pair[1], thickness, colour));
            }
        }
    }
    Some(canvas.0)
}

/// Mean IoU of every stage that has one, a bar a list, in per cent. `None` without a score.
pub(super) fn scores(stages: &[StageRow]) -> Option<RgbImage> {
    let stages: Vec<&StageRow> = scored(stages).collect();
    let titles: Vec<String> = stages.iter().map(|stage| stage_title(&stage.name)).collect();
    let left = (titles.iter().map(|title| text_width(title)).max()? + 10) * SCALE;
    let span = 320 * SCALE;
    let (bar, gap) = (10 * SCALE, 12 * SCALE);
    let mut canvas = Canvas::new(left + span + 40 * SCALE, stages.len() * (2 * bar + gap) + gap + 2 * LINE);
    let bottom = stages.len() * (2 * bar + gap) + gap;
    for percent in (0..=100).step_by(25) {
        let x = left + span * percent / 100;
        canvas.fill((x, gap / 2), (1, bottom - gap / 2), GRID);
        canvas.text(
            &percent.to_string(),
            x - text_width(&percent.to_string()) * SCALE / 2,
            bottom + SCALE * 2,
        );
    }
    for (i, (stage, title)) in stages.iter().zip(&titles).enumerate() {
        let top = gap + i * (2 * bar + gap);
        canvas.text(title, left - (text_width(title) + 5) * SCALE, top + bar / 2 + SCALE);
        for (list, scores) in [&stage.train, &stage.val].into_iter().enumerate() {
            let mean = scores.as_ref().map(|s: &Scores| s.mean_iou).filter(|v| v.is_finite());
            let Some(mean) = mean else { continue };
            let (y, length) = (top + list * bar, (span as f64 * mean.clamp(0.0, 1.0)) as usize);
            canvas.fill((left, y), (length, bar - SCALE), LISTS[list]);
            canvas.text(&format!("{:.1}", 100.0 * mean), left + length + 3 * SCALE, y + SCALE);
        }
    }
    for (list, name) in ["training list", "validation list"].into_iter().enumerate() {
        let (x, y) = (left + list * 110 * SCALE, bottom + LINE + SCALE);
        canvas.fill((x, y), (7 * SCALE, 7 * SCALE), LISTS[list]);
        canvas.text(name, x + 11 * SCALE, y);
    }
    Some(canvas.0)
}

/// Paper to draw on; what lies beyond its edge is left out.
struct Canvas(RgbImage);

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self(RgbImage { width, height, pixels: PAPER.repeat(width * height) })
    }

    fn text(&mut self, text: &str, left: usize, top: usize) {
        write_text(&mut self.0, text, (left, top), SCALE);
    }

    fn fill(&mut self, (left, top): (usize, usize), (width, height): (usize, usize), colour: [u8; 3]) {
        for y in top..(top + height).min(self.0.height) {
            for x in left..(left + width).min(self.0.width) {
                self.0.pixels[(y * self.0.width + x) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), thickness: usize, colour: [u8; 3]) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
        for i in 0..=steps as usize {
            let share = i as f64 / steps;
            let at = |a: f64, b: f64| ((a + (b - a) * share).round() as usize).saturating_sub(thickness / 2);
            self.fill((at(from.0, to.0), at(from.1, to.1)), (thickness, thickness), colour);
        }
    }

    /// Grid lines and numbers of a loss chart that begins at row `top`.
    fn axes(&mut self, axes: &Axes, top: usize) {
        let [left, right] = [plots::LEFT, plots::WIDTH - plots::RIGHT].map(|v| v as usize * SCALE);
        for (value, text) in axes.value_ticks() {
            let y = top + (axes.y(value) * SCALE as f64) as usize;
            self.fill((left, y), (right - left, 1), GRID);
            self.text(
                &text,
                left.saturating_sub((text_width(&text) + 5) * SCALE),
                y.saturating_sub(3 * SCALE),
            );
        }
        let below = top + (plots::HEIGHT - plots::BOTTOM) as usize * SCALE + 6 * SCALE;
        for (step, text) in axes.step_ticks() {
            let x = (axes.x(step) * SCALE as f64) as usize;
            self.text(&text, x.saturating_sub(text_width(&text) * SCALE / 2), below);
        }
        self.text("step", right - text_width("step") * SCALE, below + LINE);
        // Under the curves, over the grid: where the losses begin.
        self.fill((left, top + (plots::HEIGHT - plots::BOTTOM) as usize * SCALE), (right - left, 1), INK);
    }
}
