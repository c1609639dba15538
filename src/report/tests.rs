//! The page is well-formed, safe, the same each time, not too large; the pictures show what they should.

use super::encode::{base64, escape};
use super::plots::{duration, log_ticks, ticks};
use super::*;
use crate::data::synth::{self, SynthOptions};
use crate::rng::{Purpose, Stream};

/// A stride-8 grid's offsets with dx² + dy² < 25.
fn offsets() -> Vec<(usize, isize)> {
    let all = (0..5usize).flat_map(|dy| (-4..5isize).map(move |dx| (dy, dx)));
    all.filter(|&(dy, dx)| (dy > 0 || dx > 0) && (dy as isize).pow(2) + dx * dx < 25).collect()
}

/// Scores that look like a stage's: `reach` 0 is a spot in each object, 1 the object itself.
fn maps_like(mask: &LabelMap, tags: &[usize], reach: f32, background: bool) -> ScoreMaps {
    let (gh, gw) = (mask.height / 8, mask.width / 8);
    let cell = |label: u8, y: usize, x: usize| {
        let inside = |i: usize| mask.labels[(y * 8 + i / 8) * mask.width + x * 8 + i % 8] == label;
        (0..64).filter(|&i| inside(i)).count() as f32 / 64.0
    };
    let mut labels: Vec<u8> = tags.iter().map(|&t| t as u8).collect();
    let mut data = Vec::new();
    for &label in &labels {
        let share: Vec<f32> = (0..gh * gw).map(|i| cell(label, i / gw, i % gw)).collect();
        let top = share.iter().rposition(|s| *s > 0.8).unwrap_or(0);
        data.extend(share.iter().enumerate().map(|(i, s)| {
            let (dy, dx) = ((i / gw) as f32 - (top / gw) as f32, (i % gw) as f32 - (top % gw) as f32);
            (1.0 - reach) * (-(dy * dy + dx * dx) / 5.0).exp() + reach * s
        }));
    }
    if background {
        let claimed = |i: usize| (0..labels.len()).map(|l| data[l * gh * gw + i]).fold(0f32, f32::max);
        data = (0..gh * gw).map(|i| (1.0 - claimed(i)).powi(2)).chain(data.iter().copied()).collect();
        labels.insert(0, 0);
    }
    let shape = [labels.len(), gh, gw];
    ScoreMaps::new(labels, Tensor::new(&shape, data).unwrap()).unwrap()
}

/// Affinities that are high inside a mask's regions and low across their borders.
fn affinities_like(mask: &LabelMap, seed: u64) -> AffinityView {
    let (gh, gw, offsets) = (mask.height / 8, mask.width / 8, offsets());
    let mut random = Stream::new(seed, Purpose::Test, 0, 0);
    let label = |y: usize, x: usize| mask.labels[(y * 8 + 4) * mask.width + x * 8 + 4];
    let mut data = Vec::new();
    for &(dy, dx) in &offsets {
        for i in 0..gh * gw {
            let (y, x) = (i / gw, i % gw);
            let other = x.checked_add_signed(dx).filter(|&ox| ox < gw && y + dy < gh);
            data.push(other.map_or(f32::NAN, |ox| {
                let same = label(y, x) == label(y + dy, ox);
                if same { random.range(0.75, 1.0) } else { random.range(0.1, 0.6) }
            }));
        }
    }
    let affinities = Tensor::new(&[offsets.len(), gh, gw], data).unwrap();
    AffinityView {
        id: String::new(),
        image: RgbImage::new(1, 1, vec![0; 3]).unwrap(),
        affinities,
        offsets,
        beta: 8.0,
    }
}

/// A report with every part, from generated pictures and invented figures.
fn sample() -> Report {
    let options = SynthOptions { images: 8, seed: 5, size: 128, ..Default::default() };
    let classes: Vec<String> =
        std::iter::once("background").chain(synth::CLASSES).map(String::from).collect();
    let mut random = Stream::new(3, Purpose::Test, 0, 0);
    let mut scores = |mean: f32| {
        let iou: Vec<Option<f64>> = classes
            .iter()
            .map(|_| Some(f64::from((mean + random.range(-0.12, 0.12)).clamp(0.0, 1.0))))
            .collect();
        Some(Scores { mean_iou: iou.iter().flatten().sum::<f64>() / iou.len() as f64, iou })
    };
    let mut row = |name: &str, seconds, train: Option<f32>, val: Option<f32>, note: &str| StageRow {
        name: name.into(),
        seconds: (seconds > 0.0).then_some(seconds),
        train: train.and_then(&mut scores),
        val: val.and_then(&mut scores),
        note: note.into(),
    };
    let stages = vec![
        row("train_cam", 71.3, None, None, "300 steps, last loss 0.21"),
        row("cams", 9.4, Some(0.42), Some(0.41), "background score 0.22, the best on train"),
        row("affinity_labels", 12.8, None, None, "300 images"),
        row("train_affinity", 48.0, None, None, "200 steps, last loss 0.87"),
        row("walk", 0.0, Some(0.55), Some(0.54), "β = 8, t = 256; its time is part of the next row"),
        row("pseudo_labels", 14.2, Some(0.58), None, "300 images"),
        row("train_segmentation", 80.9, None, None, "600 steps, last loss 0.33"),
        row("segmentation", 6.0, None, Some(0.57), "scales 0.75, 1, 1.25, mirrored"),
    ];
    let mut noise = Stream::new(4, Purpose::Test, 0, 0);
    let mut curve = |name: &str, from: f64, to: f64, steps: u32| Curve {
        name: name.into(),
        points: (1..=steps)
            .map(|s| {
                let mean = to + (from - to) * (-6.0 * f64::from(s) / f64::from(steps)).exp();
                (f64::from(s), mean * f64::from(1.0 + 0.25 * noise.normal()))
            })
            .collect(),
    };
    let losses = vec![
        LossChart {
            title: "CAM network".into(),
            curves: vec![curve("loss", 0.7, 0.2, 300)],
            ..Default::default()
        },
        LossChart {
            title: "AffinityNet".into(),
            curves: vec![
                curve("foreground pairs", 0.9, 0.3, 200),
                curve("background pairs", 0.7, 0.15, 200),
                curve("negative pairs", 1.4, 0.6, 200),
            ],
            ..Default::default()
        },
        LossChart {
            title: "Segmentation network".into(),
            curves: vec![curve("loss", 3.0, 0.03, 600)],
            ..Default::default()
        },
    ];
    let scenes: Vec<_> = (0..5).map(|i| synth::render(&options, i)).collect();
    let gallery = scenes.iter().enumerate().map(|(i, scene)| GalleryRow {
        id: format!("synth_{i:06}"),
        split: if i < 3 { "train" } else { "val" }.into(),
        image: scene.image.clone(),
        cams: Some(maps_like(&scene.mask, &scene.tags, 0.15, false)),
        affinity_labels: Some(LabelMap {
            labels: scene
                .mask
                .labels
                .iter()
                .enumerate()
                .map(|(p, &l)| if p / 128 % 40 < 9 { 255 } else { l })
                .collect(),
            ..scene.mask
        }),
        revised: Some(maps_like(&scene.mask, &scene.tags, 0.8, true)),
        revised_label: Some(scene.mask.clone()),
        pseudo_label: Some(scene.mask.clone()),
        prediction: Some(scene.mask.clone()),
        ground_truth: Some(scene.mask.clone()),
    });
    let walks = scenes[..2].iter().enumerate().map(|(i, scene)| WalkView {
        id: format!("synth_{i:06}"),
        image: scene.image.clone(),
        frames: [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
            .iter()
            .enumerate()
            .map(|(f, &t)| (t, maps_like(&scene.mask, &scene.tags, f as f32 / 10.0, true)))
            .collect(),
    });
    let affinities = scenes[..2].iter().enumerate().map(|(i, scene)| AffinityView {
        id: format!("synth_{i:06}"),
        image: scene.image.clone(),
        ..affinities_like(&scene.mask, i as u64)
    });
    Report {
        title: "A sample of the report".into(),
        summary: "Generated pictures, invented figures: a page to test the layout with.".into(),
        command: "seedwalk demo --seed 5".into(),
        settings: vec![("cam.epochs".into(), "12".into()), ("walk.beta".into(), "8".into())],
        gallery: gallery.collect(),
        walks: walks.collect(),
        affinities: affinities.collect(),
        classes,
        stages,
        losses,
    }
}

/// Parses a page as XML, all but its document type.
fn parse(html: &str) -> roxmltree::Document<'_> {
    let body = html.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
    roxmltree::Document::parse(body).expect("well-formed")
}

#[test]
fn a_full_page_is_well_formed_complete_and_asks_for_nothing() {
    let report = sample();
    let html = render(&report).unwrap();
    let document = parse(&html);
    let count = |name: &str| document.descendants().filter(|n| n.has_tag_name(name)).count();
    // Diagram, gallery, two walks of ten frames, two explorers of two pictures.
    assert_eq!(count("img"), 6 + 5 * 7 + 2 * 10 + 2 * 2);
    assert_eq!(count("svg"), 1 + 2 + 3);
    assert_eq!(count("canvas"), 2);
    for node in document.descendants().filter(|n| n.is_element()) {
        for attribute in
            node.attributes().filter(|a| matches!(a.name(), "src" | "href" | "srcset" | "action"))
        {
            assert!(attribute.value().starts_with("data:image/jpeg;base64,"), "{}", attribute.name());
        }
        if node.has_tag_name("img") {
            assert!(node.attribute("alt").is_some_and(|alt| !alt.is_empty()));
        }
    }
    assert!(html.contains("Content-Security-Policy") && html.contains("default-src 'none'"));
    assert!(html.len() < 1_500_000, "{} bytes", html.len());
    for name in &report.classes[1..] {
        assert!(html.contains(name.as_str()), "{name}");
    }
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    assert_eq!(render(&sample()).unwrap(), render(&sample()).unwrap());
}

#[test]
fn an_empty_report_is_a_page_without_sections() {
    let html = render(&Report { title: "nothing".into(), ..Default::default() }).unwrap();
    let document = parse(&html);
    assert!(!document.descendants().any(|n| n.has_tag_name("section")));
    assert!(!html.contains("NaN"));
}

#[test]
fn hostile_text_stays_text() {
    let evil = "</script><script>alert(1)</script> \" onload='x' & \u{1} ]]>";
    let mut report = sample();
    report.gallery.truncate(1);
    report.walks.truncate(1);
    report.affinities.truncate(1);
    let scripts = |html: &str| parse(html).descendants().filter(|n| n.has_tag_name("script")).count();
    report.title = evil.into();
    report.summary = evil.into();
    report.command = evil.into();
    report.settings = vec![(evil.into(), evil.into())];
    report.classes.iter_mut().for_each(|c| *c = evil.into());
    report.stages.iter_mut().for_each(|s| (s.name, s.note) = (evil.into(), evil.into()));
    report.losses.iter_mut().for_each(|l| l.title = evil.into());
    report.losses.iter_mut().flat_map(|l| &mut l.curves).for_each(|c| c.name = evil.into());
    (report.gallery[0].id, report.gallery[0].split) = (evil.into(), evil.into());
    report.walks[0].id = evil.into();
    report.affinities[0].id = evil.into();
    let html = render(&report).unwrap();
    assert_eq!(scripts(&html), 1);
    assert_eq!(html.matches("</script>").count(), 1);
    assert!(!html.contains("onload='"));
}

#[test]
fn figures_that_are_not_numbers_are_dashes() {
    let scores = Scores { mean_iou: f64::NAN, iou: vec![Some(f64::NAN), None, Some(0.5)] };
    let stage =
        StageRow { name: "cams".into(), seconds: Some(f64::NAN), train: Some(scores), ..Default::default() };
    let points = vec![(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, -1.0), (4.0, -1.0)];
    let chart = |scale| LossChart {
        title: "flat".into(),
        curves: vec![Curve { name: "loss".into(), points: points.clone() }],
        scale,
    };
    let report = Report {
        stages: vec![stage],
        losses: vec![chart(AxisScale::Auto), chart(AxisScale::Linear), chart(AxisScale::Log)],
        ..Default::default()
    };
    let html = render(&report).unwrap();
    parse(&html);
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

#[test]
fn maps_and_affinities_of_a_wrong_shape_are_errors() {
    let maps = Tensor::full(&[2, 3, 3], 0.5);
    assert!(ScoreMaps::new(vec![0], maps.clone()).is_err());
    assert!(ScoreMaps::new(vec![], Tensor::full(&[0, 3, 3], 0.0)).is_ok());
    let mut report = sample();
    report.affinities[0].offsets.pop();
    assert_eq!(render(&report).unwrap_err().kind(), crate::ErrorKind::Shape);
    let mut report = sample();
    report.gallery[0].pseudo_label = Some(LabelMap { width: 0, height: 0, labels: vec![] });
    assert!(render(&report).is_err());
    report.gallery[0].image = RgbImage { width: 0, height: 0, pixels: vec![] };
    assert!(render(&report).is_err());
    assert!(figures(&report).is_err());
}

#[test]
fn overlays_colour_objects_and_leave_the_background_grey() {
    let image = RgbImage::new(8, 4, [200, 40, 90].repeat(32)).unwrap();
    let labels = LabelMap::new(4, 2, vec![0, 0, 1, 255, 0, 0, 1, 255]).unwrap();
    let out = pictures::overlay(&image, &labels).unwrap();
    let [r, g, b] = out.pixel(0, 0);
    assert!(r == g && g == b, "background is grey");
    let [r, g, b] = out.pixel(4, 1);
    assert!(r > g + 40 && g == b, "class 1 is red: {r} {g} {b}");
    assert_eq!(out.pixel(3, 0), [255; 3], "a line before the object");
    assert_eq!(out.pixel(5, 0), [255; 3], "and after it");
}

#[test]
fn heat_takes_the_strongest_class_and_encloses_what_the_background_loses() {
    let image = RgbImage::new(4, 1, vec![128; 12]).unwrap();
    let planes = vec![0.9, 0.9, 0.1, 0.1, 0.0, 0.2, 0.8, f32::NAN, 0.0, 0.0, 0.1, 0.0];
    let maps = ScoreMaps::new(vec![0, 1, 2], Tensor::new(&[3, 1, 4], planes).unwrap()).unwrap();
    let out = pictures::heat_map(&image, &maps);
    let [r, g, b] = out.pixel(0, 0);
    assert!(r == g && g == b, "nothing is claimed at pixel 0");
    assert_eq!(out.pixel(1, 0), [255; 3], "the border lies after pixel 1");
    let [r, g, _] = out.pixel(2, 0);
    // Pixel 2 has the border to pixel 3, where nothing is claimed.
    assert!((r, g) == (255, 255));
    let [r, g, b] = out.pixel(3, 0);
    assert!(r == g && g == b);
}

/// A figure's size and pixels.
fn decoded(figure: &Figure) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(&figure.png)).read_info().unwrap();
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let mut pixels = vec![0; width * height * 3];
    reader.next_frame(&mut pixels).unwrap();
    (width, height, pixels)
}

#[test]
fn figures_show_what_there_is_within_their_size() {
    let drawn = figures(&sample()).unwrap();
    let names: Vec<_> = drawn.iter().map(|f| f.name).collect();
    let all = ["stages", "class-activation-maps", "affinity-labels", "affinities", "walk", "crf"];
    assert_eq!(names, [&all[..], &["pseudo-labels", "segmentation", "training", "evaluation"]].concat());
    for figure in &drawn[..8] {
        let (width, height, pixels) = decoded(figure);
        let (columns, rows) = match figure.name {
            "stages" => (7, 3),
            "class-activation-maps" => (3, 3),
            "affinity-labels" | "crf" => (4, 3),
            "pseudo-labels" => (5, 3),
            "segmentation" => (3, 2),
            "affinities" => (4, 2),
            _ => (1 + 5, 2), // t = 0, 4, 16, 64, 256
        };
        // Cells are squares, so the sheet's proportions tell rows and columns.
        let cell = width / columns;
        assert!((rows * cell..rows * cell + 80).contains(&height), "{}: {width}×{height}", figure.name);
        let colours: std::collections::HashSet<_> = pixels.chunks(3).collect();
        assert!(colours.len() > 100, "{}: {} colours", figure.name, colours.len());
        let most = if figure.name == "stages" { 200_000 } else { 80_000 };
        assert!(figure.png.len() <= most, "{}: {} bytes", figure.name, figure.png.len());
    }
    let again = figures(&sample()).unwrap();
    assert!(drawn.iter().zip(&again).all(|(a, b)| a.png == b.png), "the same bytes each time");
    assert!(figures(&Report::default()).unwrap().is_empty());
}

#[test]
fn charts_draw_losses_and_scores() {
    let drawn = figures(&sample()).unwrap();
    let pixels = |name: &str| decoded(drawn.iter().find(|f| f.name == name).unwrap());
    let count = |pixels: &[u8], colour: [u8; 3]| pixels.chunks(3).filter(|p| *p == colour).count();
    let (width, height, losses) = pixels("training");
    assert_eq!((width, height), (880, 3 * (480 + 24)));
    // The second chart alone has a third curve.
    assert!(count(&losses, [46, 125, 80]) > 500);
    assert_eq!(count(&losses[..width * (height / 3 - 12) * 3], [46, 125, 80]), 0);
    let (_, _, scores) = pixels("evaluation");
    // A bar is 18 pixels high and 640 wide for 100 %; means are drawn, so the area tells the score.
    let [train, val] =
        [[150, 180, 205], [31, 95, 153]].map(|colour| count(&scores, colour) as f64 / (18.0 * 640.0));
    let mean = |list: fn(&StageRow) -> &Option<Scores>| -> f64 {
        sample().stages.iter().filter_map(|s| list(s).as_ref()).map(|s| s.mean_iou).sum()
    };
    assert!((train - mean(|s| &s.train)).abs() < 0.05, "{train}");
    assert!((val - mean(|s| &s.val)).abs() < 0.05, "{val}");
}

#[test]
fn figures_leave_out_what_is_not_there() {
    let mut report = sample();
    report.walks.clear();
    report.gallery.truncate(1);
    let row = &mut report.gallery[0];
    (row.affinity_labels, row.revised_label, row.prediction, row.ground_truth) = (None, None, None, None);
    let drawn = figures(&report).unwrap();
    let width_of = |name: &str| drawn.iter().find(|f| f.name == name).map(|f| decoded(f).0);
    assert_eq!(width_of("segmentation"), None, "an image alone is no figure");
    assert_eq!((width_of("walk"), width_of("affinities")), (None, None));
    // Image, maps and pseudo label are left of seven columns, each of 128 pixels and a gap of 5.
    assert_eq!(width_of("stages"), Some(3 * (128 + 5) + 5));
}

#[test]
fn affinities_surround_their_cell() {
    let view = AffinityView {
        id: String::new(),
        image: RgbImage::new(40, 8, vec![0; 40 * 8 * 3]).unwrap(),
        affinities: Tensor::new(&[1, 1, 5], vec![0.0, 1.0, 0.0, 0.0, f32::NAN]).unwrap(),
        offsets: vec![(0, 1)],
        beta: 8.0,
    };
    let out = pictures::affinities_around(&view, &view.image, (0, 2), 1.0).unwrap();
    let [cell, near, far, outside] = [20, 12, 28, 4].map(|x| out.pixel(x, 4));
    assert!(near[2] > near[0] + 60, "cell 1 is near: {near:?}");
    assert!(cell[2] > near[2] - 60 && cell[0] < near[0] + 1, "{cell:?}");
    assert!(far[0] == far[2] && outside == far, "{far:?} {outside:?}");
    assert_eq!([out.pixel(7, 4), out.pixel(15, 4), out.pixel(31, 4)], [[255; 3]; 3], "lines at the borders");
    assert!(
        pictures::affinities_around(&AffinityView { offsets: vec![], ..view }, &out, (0, 0), 1.0).is_err()
    );
}

#[test]
fn tall_and_tiny_images_are_drawn() {
    for (width, height) in [(1, 1), (1, 700), (700, 1), (3, 5)] {
        let image = RgbImage::new(width, height, vec![90; width * height * 3]).unwrap();
        let labels = LabelMap::new(width, height, vec![3; width * height]).unwrap();
        let maps =
            ScoreMaps::new(vec![3], Tensor::full(&[1, height.div_ceil(8), width.div_ceil(8)], 1.0)).unwrap();
        let row = GalleryRow {
            id: "odd".into(),
            split: String::new(),
            image,
            cams: Some(maps),
            affinity_labels: None,
            revised: None,
            revised_label: None,
            pseudo_label: Some(labels),
            prediction: None,
            ground_truth: None,
        };
        let report = Report { gallery: vec![row], ..Default::default() };
        assert_eq!(figures(&report).unwrap().len(), 5, "{width}×{height}");
        let html = render(&report).unwrap();
        parse(&html);
    }
}

#[test]
fn base64_known_answers() {
    // RFC 4648, §10.
    for (text, code) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(text.as_bytes()), code);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
}

#[test]
fn escaping() {
    assert_eq!(escape("a<b>&\"'\u{0}é"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}é");
}

#[test]
fn ticks_are_round() {
    let shown = |t: Vec<f64>| t.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" ");
    assert_eq!(shown(ticks(0.0, 1.0, 5)), "0.000 0.200 0.400 0.600 0.800 1.000");
    assert_eq!(shown(ticks(-3.0, 7.0, 5)), "-2.000 0.000 2.000 4.000 6.000");
    assert_eq!(shown(ticks(1.0, 301.0, 6)), "50.000 100.000 150.000 200.000 250.000 300.000");
    assert!(ticks(2.0, 2.0, 5).is_empty());
    assert_eq!(shown(log_ticks(0.03, 3.0)), "0.050 0.100 0.200 0.500 1.000 2.000");
    assert_eq!(shown(log_ticks(0.001, 1000.0)), "0.001 0.010 0.100 1.000 10.000 100.000 1000.000");
}

#[test]
fn durations() {
    let shown: Vec<String> =
        [0.123, 9.96, 59.97, 200.4, 7500.0].into_iter().map(|s| duration(Some(s))).collect();
    assert_eq!(shown, ["0.12 s", "10.0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]);
}
