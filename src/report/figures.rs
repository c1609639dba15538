//! The figures of a run: PNG files for documents, drawn from what the report holds.

use super::sheet::Sheet;
use super::{AffinityView, Column, GalleryRow, Report, WalkView, charts, pictures};
use crate::Result;
use crate::formats::image::{RgbImage, encode_png};
use crate::formats::label_png::voc_colour;

/// Largest file of the stages' figure, of any other; cells shrink until it is kept.
const STAGES_BYTES: usize = 200_000;
const FIGURE_BYTES: usize = 80_000;
/// Side of a picture in pixels, at most and at least, whatever the files' size.
const CELL: std::ops::RangeInclusive<usize> = 48..=192;
/// Images in a figure that shows one stage.
const ROWS: usize = 4;

/// A figure: its name, without an ending, and the bytes of its PNG file.
#[derive(Debug, Clone)]
pub struct Figure {
    /// `stages` for one.
    pub name: &'static str,
    /// The file's contents.
    pub png: Vec<u8>,
}

/// Draws every figure for which the report has something: `stages`, `class-activation-maps`,
/// `affinity-labels`, `pseudo-labels` and `crf` from the first list of the gallery, which has affinity
/// labels; `segmentation` from the last, whose images trained nothing; `affinities` and `walk`; charts of
/// the losses, `training`, and of the scores, `evaluation`.
///
/// # Errors
/// An image or a map without pixels; affinities whose planes and offsets differ in number.
pub fn figures(report: &Report) -> Result<Vec<Figure>> {
    use Column as C;
    const STAGES: [Column; 7] = [
        C::Image,
        C::ClassMaps,
        C::AffinityLabels,
        C::RevisedLabels,
        C::PseudoLabels,
        C::Prediction,
        C::GroundTruth,
    ];
    let list = |row: Option<&GalleryRow>| -> Vec<&GalleryRow> {
        report.gallery.iter().filter(|r| row.is_some_and(|row| r.split == row.split)).collect()
    };
    let (first, last) = (list(report.gallery.first()), list(report.gallery.last()));
    let one_stage = |name, rows: &[&GalleryRow], columns: &[Column]| {
        gallery_figure(name, report, &rows[..rows.len().min(ROWS)], columns, FIGURE_BYTES)
    };
    let labels = [C::Image, C::ClassMaps, C::AffinityLabels, C::GroundTruth];
    let refined = [C::Image, C::RevisedLabels, C::PseudoLabels, C::GroundTruth];
    let grown = [C::Image, C::ClassMaps, C::WalkedMaps, C::PseudoLabels, C::GroundTruth];
    let all = [
        gallery_figure("stages", report, &first, &STAGES, STAGES_BYTES)?,
        one_stage("class-activation-maps", &first, &[C::Image, C::ClassMaps, C::GroundTruth])?,
        one_stage("affinity-labels", &first, &labels)?,
        affinity_figure(report)?,
        walk_figure(report)?,
        one_stage("crf", &first, &refined)?,
        one_stage("pseudo-labels", &first, &grown)?,
        one_stage("segmentation", &last, &[C::Image, C::Prediction, C::GroundTruth])?,
        chart_figure("training", charts::losses(&report.losses))?,
        chart_figure("evaluation", charts::scores(&report.stages))?,
    ];
    Ok(all.into_iter().flatten().collect())
}

/// What a figure is made of at a cell's side: captions and pictures.
type Cells = (Vec<String>, Vec<Vec<Option<RgbImage>>>);

/// Draws a figure in cells of `start` pixels, or in smaller ones until the file has at most `bytes`.
fn figure(
    name: &'static str,
    start: usize,
    bytes: usize,
    key: &[(&str, [u8; 3])],
    cells: impl Fn(usize) -> Result<Cells>,
) -> Result<Figure> {
    let mut cell = start.max(*CELL.start());
    loop {
        let (captions, rows) = cells(cell)?;
        let mut sheet = Sheet { captions: &captions, rows: &rows, key, cell }.draw()?;
        // The lowest two bits of a photograph are noise: nobody sees it and nothing compresses it.
        sheet.pixels.iter_mut().for_each(|v| *v = v.saturating_add(2) & !3);
        let png = encode_png(&sheet)?;
        if png.len() <= bytes || cell == *CELL.start() {
            return Ok(Figure { name, png });
        }
        cell = (cell * 7 / 8).max(*CELL.start());
    }
}

fn chart_figure(name: &'static str, chart: Option<RgbImage>) -> Result<Option<Figure>> {
    chart.map(|chart| Ok(Figure { name, png: encode_png(&chart)? })).transpose()
}

/// Cells as large as the largest image, so that most pictures are drawn at their own size.
fn cell_for<'a>(images: impl Iterator<Item = &'a RgbImage>) -> usize {
    let longest = images.map(|image| image.width.max(image.height)).max().unwrap_or(0);
    longest.clamp(*CELL.start(), *CELL.end())
}

/// Images, a row each; columns that no image has are left out.
fn gallery_figure(
    name: &'static str,
    report: &Report,
    rows: &[&GalleryRow],
    columns: &[Column],
    bytes: usize,
) -> Result<Option<Figure>> {
    let pictures =
        |cell: usize| rows.iter().map(|row| row.pictures(columns, cell)).collect::<Result<Vec<_>>>();
    let drawn = pictures(*CELL.start())?;
    let used: Vec<usize> = (0..columns.len()).filter(|&c| drawn.iter().any(|row| row[c].is_some())).collect();
    // An image beside nothing but its mask tells of no stage.
    if !used.iter().any(|&c| !matches!(columns[c], Column::Image | Column::GroundTruth)) {
        return Ok(None);
    }
    let mut labels: Vec<u8> = rows.iter().flat_map(|row| row.labels()).collect();
    labels.sort_unstable();
    labels.dedup();
    let key = class_key(&labels, report);
    let cells = |cell: usize| {
        let captions = used.iter().map(|&c| columns[c].caption().to_string()).collect();
        let keep = |row: Vec<Option<RgbImage>>| {
            row.into_iter()
                .enumerate()
                .filter(|(c, _)| used.contains(c))
                .map(|(_, picture)| picture)
                .collect()
        };
        Ok((captions, pictures(cell)?.into_iter().map(keep).collect()))
    };
    figure(name, cell_for(rows.iter().map(|row| &row.image)), bytes, &key, cells).map(Some)
}

fn class_key<'a>(labels: &[u8], report: &'a Report) -> Vec<(&'a str, [u8; 3])> {
    let name =
        |label: u8| report.classes.get(usize::from(label)).map(|name| (name.as_str(), voc_colour(label)));
    labels.iter().filter_map(|&label| name(label)).collect()
}

/// The affinities of one cell of each image: the one where the walk's first class map begins strongest.
fn affinity_figure(report: &Report) -> Result<Option<Figure>> {
    let pairs: Vec<(&AffinityView, (usize, usize))> = report
        .affinities
        .iter()
        .zip(&report.walks)
        .filter_map(|(view, walk)| Some((view, strongest_seed(walk)?)))
        .collect();
    let Some((first, _)) = pairs.first() else { return Ok(None) };
    let captions: Vec<String> =
        ["Image".into(), "Affinities".into(), format!("To the power {}", first.beta), "Borders".into()]
            .into();
    let cells = |cell: usize| {
        let row = |&(view, at): &(&AffinityView, (usize, usize))| {
            let image = pictures::fitted(&view.image, cell)?;
            let around = |power| pictures::affinities_around(view, &image, at, power).map(Some);
            let borders = pictures::affinity_borders(view, &image)?;
            Ok(vec![Some(image.clone()), around(1.0)?, around(view.beta)?, Some(borders)])
        };
        Ok((captions.clone(), pairs.iter().map(row).collect::<Result<_>>()?))
    };
    // Twice as large as the others: what is to be seen are cells of the feature grid.
    let start = 2 * cell_for(pairs.iter().map(|(view, _)| &view.image)).min(128);
    figure("affinities", start, FIGURE_BYTES, &[], cells).map(Some)
}

/// Row and column of the largest value of a walk's first class map before the first step.
fn strongest_seed(walk: &WalkView) -> Option<(usize, usize)> {
    let (_, maps) = walk.frames.first()?;
    let (_, width) = maps.size();
    let (_, plane) = maps.planes().find(|(label, _)| *label != 0)?;
    // The first of several equal ones.
    let at = (0..plane.len()).reduce(|best, i| if plane[i] > plane[best] { i } else { best })?;
    Some((at / width, at % width))
}

/// The maps after 0, 4, 16, 64 … steps and at the end.
fn walk_figure(report: &Report) -> Result<Option<Figure>> {
    let walks: Vec<&WalkView> = report.walks.iter().filter(|walk| !walk.frames.is_empty()).collect();
    let Some(first) = walks.first() else { return Ok(None) };
    let power_of_four = |t: usize| t > 1 && t.is_power_of_two() && t.trailing_zeros().is_multiple_of(2);
    let last = first.frames.len() - 1;
    let shown: Vec<usize> = (0..=last)
        .filter(|&f| f == last || first.frames[f].0 == 0 || power_of_four(first.frames[f].0))
        .collect();
    let steps = |&f: &usize| match first.frames[f].0 {
        0 => "Before".to_string(),
        1 => "1 step".to_string(),
        t => format!("{t} steps"),
    };
    let captions: Vec<String> = std::iter::once("Image".to_string()).chain(shown.iter().map(steps)).collect();
    let mut labels: Vec<u8> = walks.iter().flat_map(|walk| walk.frames[0].1.labels().to_vec()).collect();
    labels.sort_unstable();
    labels.dedup();
    let key = class_key(labels.strip_prefix(&[0]).unwrap_or(&labels), report);
    let cells = |cell: usize| {
        let row = |walk: &&WalkView| {
            let image = pictures::fitted(&walk.image, cell)?;
            let frame = |&f: &usize| walk.frames.get(f).map(|(_, maps)| pictures::heat_map(&image, maps));
            let frames: Vec<_> = shown.iter().map(frame).collect();
            Ok(std::iter::once(Some(image)).chain(frames).collect())
        };
        Ok((captions.clone(), walks.iter().map(row).collect::<Result<_>>()?))
    };
    figure("walk", cell_for(walks.iter().map(|walk| &walk.image)), FIGURE_BYTES, &key, cells).map(Some)
}
