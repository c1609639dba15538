//! The page: one HTML file, also well-formed XML, so that tests can parse it.

use std::fmt::Write;

use super::encode::{base64, data_uri, escape};
use super::plots::{duration, iou_bars, iou_key, loss_chart, seconds_bar, stage_title};
use super::{AffinityView, Column, Report, Scores, StageRow, WalkView, pictures};
use crate::Result;
use crate::formats::label_png::voc_colour;

/// Longer side of the pictures in the gallery, of larger ones to look into, of those in the diagram.
const GALLERY_SIDE: usize = 256;
const LARGE_SIDE: usize = 480;
const DIAGRAM_SIDE: usize = 176;
/// The pictures of an image in the gallery; the diagram shows the first six.
const GALLERY: [Column; 7] = [
    Column::Image,
    Column::ClassMaps,
    Column::AffinityLabels,
    Column::WalkedMaps,
    Column::PseudoLabels,
    Column::Prediction,
    Column::GroundTruth,
];

/// The report as one self-contained HTML file.
///
/// # Errors
/// An image or a map without pixels; affinities whose planes and offsets differ in number.
pub fn render(report: &Report) -> Result<String> {
    let mut html = String::with_capacity(1 << 20);
    let title = escape(&report.title);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"/>\n\
         <title>{title}</title>\n<style>/*<![CDATA[*/\n{}/*]]>*/</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
        include_str!("page.css"),
        escape(&report.summary)
    );
    diagram(&mut html, report)?;
    stages(&mut html, &report.stages);
    gallery(&mut html, report)?;
    bars(&mut html, report);
    walks(&mut html, report)?;
    affinities(&mut html, &report.affinities)?;
    losses(&mut html, report);
    settings(&mut html, report);
    let _ = write!(
        html,
        "<footer>Made by seedwalk. Method: J. Ahn and S. Kwak, <i>Learning Pixel-level Semantic Affinity with \
         Image-level Supervision for Weakly Supervised Semantic Segmentation</i>, CVPR 2018 (arXiv 1803.10464). \
         This file is complete in itself.</footer>\n</main>\n<script>//<![CDATA[\n{}//]]></script>\n</body>\n</html>\n",
        include_str!("page.js")
    );
    Ok(html)
}

fn picture(image: &crate::formats::image::RgbImage, alt: &str) -> Result<String> {
    Ok(format!(
        "<img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{}\"/>",
        data_uri(image)?,
        image.width,
        image.height,
        escape(alt)
    ))
}

/// The pipeline in six steps, each with what it made of the gallery's first image.
fn diagram(html: &mut String, report: &Report) -> Result<()> {
    const STEPS: [(&str, &str); 6] = [
        ("Image and its tags", "no masks, no boxes"),
        ("Class activation maps", "a classification network finds the seeds"),
        ("Affinity labels", "two CRFs keep what is certain; hatched: neutral"),
        ("Random walk", "AffinityNet says where seeds may spread"),
        ("Pseudo label", "a CRF settles the border"),
        ("Segmentation", "a network learns from pseudo labels; no tags needed"),
    ];
    let made = report.gallery.first().map(|row| row.pictures(&GALLERY, DIAGRAM_SIDE)).transpose()?;
    html.push_str("<ol class=\"flow\">");
    for (i, (name, what)) in STEPS.iter().enumerate() {
        let image = match made.as_ref().and_then(|m| m[i].as_ref()) {
            Some(image) => picture(image, name)?,
            None => "<i class=\"blank\"></i>".into(),
        };
        let _ = write!(html, "<li>{image}<b>{name}</b><span>{what}</span></li>");
    }
    html.push_str("</ol>\n");
    Ok(())
}

fn stages(html: &mut String, stages: &[StageRow]) {
    if stages.is_empty() {
        return;
    }
    let scored = stages.iter().any(|s| s.train.is_some() || s.val.is_some());
    html.push_str("<section>\n<h2>Stages</h2>\n");
    if scored {
        html.push_str(
            "<p>Mean intersection over union in per cent, over the classes that occur; in small type what a \
             stage adds to the last one scored on the same list. The masks that score the stages trained nothing.</p>\n",
        );
    }
    html.push_str("<div class=\"card scroll\"><table>\n<thead><tr><th>Stage</th><th class=\"num\">Time</th>");
    if scored {
        html.push_str("<th>mIoU train</th><th>mIoU val</th>");
    }
    html.push_str("<th>Notes</th></tr></thead>\n<tbody>\n");
    let (mut train, mut val) = (None, None);
    for stage in stages {
        let work = if stage.train.is_none() && stage.val.is_none() { " class=\"work\"" } else { "" };
        let _ = write!(
            html,
            "<tr{work}><td>{}</td><td class=\"num\">{}</td>",
            escape(&stage_title(&stage.name)),
            duration(stage.seconds)
        );
        if scored {
            score_cell(html, stage.train.as_ref(), &mut train);
            score_cell(html, stage.val.as_ref(), &mut val);
        }
        let _ = writeln!(html, "<td class=\"dim\">{}</td></tr>", escape(&stage.note));
    }
    let total = stages.iter().filter_map(|s| s.seconds).filter(|s| s.is_finite()).sum();
    let _ = write!(
        html,
        "</tbody>\n<tfoot><tr><td>Total</td><td class=\"num\">{}</td><td colspan=\"{}\"></td></tr></tfoot>\n</table>\n{}</div>\n</section>\n",
        duration(Some(total)),
        if scored { 3 } else { 1 },
        seconds_bar(stages)
    );
}

/// A mean IoU with a meter and its difference from the last one on the same list.
fn score_cell(html: &mut String, scores: Option<&Scores>, last: &mut Option<f64>) {
    let Some(mean) = scores.map(|s| s.mean_iou).filter(|m| m.is_finite()) else {
        html.push_str("<td class=\"score dim\">–</td>");
        return;
    };
    let percent = mean * 100.0;
    let gain = last.map_or(String::new(), |last| {
        let gain = percent - last * 100.0;
        let class = if gain < 0.0 { "gain loss" } else { "gain" };
        let sign = if gain < 0.0 { "−" } else { "+" };
        format!(" <span class=\"{class}\">{sign}{:.1}</span>", gain.abs())
    });
    *last = Some(mean);
    let _ = write!(
        html,
        "<td class=\"score\"><b>{percent:.1}</b>{gain}<span class=\"meter\"><i style=\"width:{:.1}%\"></i></span></td>",
        percent.clamp(0.0, 100.0)
    );
}

/// A class's colour and name.
fn class_key(label: u8, classes: &[String]) -> String {
    let [r, g, b] = voc_colour(label);
    let name = classes.get(usize::from(label)).map_or_else(|| format!("class {label}"), |name| escape(name));
    format!("<i class=\"swatch\" style=\"background:#{r:02x}{g:02x}{b:02x}\"></i>{name}")
}

fn gallery(html: &mut String, report: &Report) -> Result<()> {
    if report.gallery.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<section>\n<h2>What every stage makes of an image</h2>\n<p>A map colours a pixel by its strongest class, \
         the stronger the nearer it is to the map’s maximum. In the maps of the random walk the white line \
         encloses what the background does not win.</p>\n<ul class=\"keys\">",
    );
    for (label, _) in (0..=254u8).zip(&report.classes).skip(1) {
        let _ = write!(html, "<li>{}</li>", class_key(label, &report.classes));
    }
    html.push_str("<li><i class=\"swatch neutral\"></i>neutral or ignored</li></ul>\n");
    let mut shown_before = None;
    for row in &report.gallery {
        let pictures = row.pictures(&GALLERY, GALLERY_SIDE)?;
        let shown: Vec<bool> = pictures.iter().map(Option::is_some).collect();
        // Rows under one with the same columns need no captions of their own.
        let same = if shown_before.as_ref() == Some(&shown) { " same" } else { "" };
        let keys: String =
            row.labels().iter().map(|&l| format!("<span>{}</span>", class_key(l, &report.classes))).collect();
        let _ = write!(
            html,
            "<article class=\"strip{same}\"><h3><code>{}</code><span class=\"dim\">{}</span>{keys}</h3>\n<div class=\"pictures\" style=\"--n:{}\">",
            escape(&row.id),
            escape(&row.split),
            shown.iter().filter(|s| **s).count()
        );
        for (image, column) in pictures.iter().zip(GALLERY) {
            let Some(image) = image else { continue };
            let caption = column.caption();
            let alt = format!("{caption} of {}", row.id);
            let _ =
                write!(html, "<figure>{}<figcaption>{caption}</figcaption></figure>", picture(image, &alt)?);
        }
        html.push_str("</div></article>\n");
        shown_before = Some(shown);
    }
    html.push_str("</section>\n");
    Ok(())
}

fn bars(html: &mut String, report: &Report) {
    let lists = [
        ("Training list", iou_bars(&report.stages, &report.classes, |s| s.train.as_ref())),
        ("Validation list", iou_bars(&report.stages, &report.classes, |s| s.val.as_ref())),
    ];
    if lists.iter().all(|(_, svg)| svg.is_empty()) {
        return;
    }
    let _ = write!(
        html,
        "<section>\n<h2>Intersection over union per class</h2>\n{}\n<div class=\"panels\" style=\"margin-top:1rem\">",
        iou_key(&report.stages)
    );
    for (name, svg) in lists.iter().filter(|(_, svg)| !svg.is_empty()) {
        let _ = write!(html, "<div class=\"card\"><h3>{name}, per cent</h3>{svg}</div>");
    }
    html.push_str("</div>\n</section>\n");
}

fn walks(html: &mut String, report: &Report) -> Result<()> {
    if report.walks.iter().all(|w| w.frames.is_empty()) {
        return Ok(());
    }
    html.push_str(
        "<section>\n<h2>The walk as it spreads</h2>\n<p>The class maps after t steps of <i>M</i> ← <i>T M</i>. A step moves \
         scores to pixels that AffinityNet holds for the same thing; the white line encloses what the background \
         does not win.</p>\n<div class=\"walks\">\n",
    );
    for walk in report.walks.iter().filter(|w| !w.frames.is_empty()) {
        one_walk(html, walk, &report.classes)?;
    }
    html.push_str("</div>\n</section>\n");
    Ok(())
}

fn one_walk(html: &mut String, walk: &WalkView, classes: &[String]) -> Result<()> {
    let image = pictures::fitted(&walk.image, GALLERY_SIDE)?;
    let labels = walk.frames[0].1.labels().iter().filter(|l| **l != 0);
    let keys: String = labels.map(|&l| format!("<li>{}</li>", class_key(l, classes))).collect();
    let _ = write!(
        html,
        "<article class=\"walk card\"><h3><code>{}</code></h3><ul class=\"keys\" style=\"margin:0 0 .6rem\">{keys}</ul><div class=\"frames\">",
        escape(&walk.id)
    );
    for (steps, maps) in &walk.frames {
        let alt = format!("Class maps of {} after {steps} steps", walk.id);
        let frame = picture(&pictures::heat_map(&image, maps), &alt)?;
        let _ = write!(html, "<figure>{frame}<figcaption>t = {steps}</figcaption></figure>");
    }
    html.push_str(
        "</div><div class=\"player\"><button type=\"button\">Play</button>\
         <input type=\"range\" min=\"0\" value=\"0\" step=\"1\" aria-label=\"Steps of the walk\"/></div></article>\n",
    );
    Ok(())
}

fn affinities(html: &mut String, views: &[AffinityView]) -> Result<()> {
    if views.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<section>\n<h2>Affinities around a pixel</h2>\n<p>Point at the picture: bright cells are those that AffinityNet \
         holds for the same thing as the cell under the pointer, both ends of every pair counted. The slider follows \
         the walk: from where the cell collects its scores after t steps. Beside it, in red, where a cell’s mean \
         affinity to the eight cells around it is low: the borders that the walk does not cross.</p>\n\
         <noscript><p class=\"dim\">Pointing needs JavaScript; the borders do not.</p></noscript>\n",
    );
    for view in views {
        let (h, w) = view.grid()?;
        let image = pictures::shrink(&view.image, LARGE_SIDE)?;
        let quantised: Vec<u8> = view.affinities.data().iter().map(|&v| quantise(v)).collect();
        let offsets: Vec<String> = view.offsets.iter().map(|(dy, dx)| format!("{dy},{dx}")).collect();
        let id = escape(&view.id);
        let _ = writeln!(
            html,
            "<article class=\"card explorer\"><div><h3><code>{id}</code></h3><div class=\"stage\" data-height=\"{h}\" data-width=\"{w}\" \
             data-beta=\"{}\" data-offsets=\"{}\" data-planes=\"{}\">{}<canvas></canvas></div>\
             <label>Show <input type=\"range\" min=\"0\" max=\"9\" step=\"1\" value=\"0\"/><output></output></label></div>\
             <div><h3>Borders</h3>{}</div></article>",
            view.beta,
            offsets.join(" "),
            base64(&quantised),
            picture(&image, &view.id)?,
            picture(&pictures::affinity_borders(view, &image)?, "Where mean affinity is low")?
        );
    }
    html.push_str("</section>\n");
    Ok(())
}

/// An affinity as a byte: 0 to 254 for 0 to 1, 255 where there is no pair.
fn quantise(value: f32) -> u8 {
    if value.is_finite() { (value.clamp(0.0, 1.0) * 254.0 + 0.5) as u8 } else { 255 }
}

fn losses(html: &mut String, report: &Report) {
    let charts: Vec<(String, String)> = report
        .losses
        .iter()
        .map(|c| (escape(&c.title), loss_chart(c)))
        .filter(|(_, svg)| !svg.is_empty())
        .collect();
    if charts.is_empty() {
        return;
    }
    html.push_str(
        "<section>\n<h2>Losses</h2>\n<p>Pale: every step. Strong: the running mean over about a thirtieth of the training.</p>\n\
         <div class=\"panels\">",
    );
    for (title, svg) in charts {
        let _ = write!(html, "<div class=\"card\"><h3>{title}</h3>{svg}</div>");
    }
    html.push_str("</div>\n</section>\n");
}

fn settings(html: &mut String, report: &Report) {
    if report.command.is_empty() && report.settings.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>How it was made</h2>\n");
    if !report.command.is_empty() {
        let _ = writeln!(html, "<p><code>{}</code></p>", escape(&report.command));
    }
    if !report.settings.is_empty() {
        html.push_str("<details><summary>Settings</summary><div class=\"card scroll\"><table><tbody>\n");
        for (name, value) in &report.settings {
            let _ =
                writeln!(html, "<tr><td><code>{}</code></td><td>{}</td></tr>", escape(name), escape(value));
        }
        html.push_str("</tbody></table></div></details>\n");
    }
    html.push_str("</section>\n");
}
