//! Scores against scikit-learn's, and other people's class maps: files that `tests/evaluation/make_golden.py`
//! made with scikit-learn, Pillow, NumPy and PyTorch.

mod common;

use std::path::{Path, PathBuf};

use common::Place;
use seedwalk::formats::image::{LabelMap, RgbImage, write_png};
use seedwalk::formats::label_png::{read_labels, write_labels};
use serde_json::{Value, json};

const IMAGES: [&str; 3] = ["one", "two", "three"];
const ALL: &str = "--data data --split all";
const ONE: &str = "--data data --split one";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evaluation").join(name)
}

fn scores() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("golden.json")).unwrap()).unwrap()
}

/// A data set `data` of the three images, all of a grey, with the lists `all` and `one`; `predictions` and
/// the folders of class maps beside it.
fn place() -> Place {
    let place = Place::empty();
    let names: Vec<String> = serde_json::from_value(scores()["classes"].clone()).unwrap();
    place.write("data/classes.txt", names.join("\n"));
    place.write("data/ImageSets/Segmentation/all.txt", IMAGES.join("\n"));
    place.write("data/ImageSets/Segmentation/one.txt", "one\n");
    for id in IMAGES {
        let mask = golden(&format!("truth/{id}.png"));
        place.write(&format!("data/SegmentationClass/{id}.png"), std::fs::read(&mask).unwrap());
        let size = read_labels(&mask).unwrap();
        let photo = RgbImage::new(size.width, size.height, vec![99; 3 * size.width * size.height]).unwrap();
        write_png(&place.at(format!("data/JPEGImages/{id}.png")), &photo).unwrap();
    }
    for folder in ["predictions", "psa", "irn", "irn-padded", "irn-strided", "irn-torch", "bad"] {
        for entry in std::fs::read_dir(golden(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            place.write(&format!("{folder}/{name}"), std::fs::read(&path).unwrap());
        }
    }
    place
}

#[test]
fn label_maps_score_as_scikit_learn_scores_them() {
    let place = place();
    let (got, expected) =
        (place.json(&format!("evaluate {ALL} --predictions predictions")), &scores()["labels"]);
    assert_eq!(got["confusion_matrix"], expected["confusion_matrix"]);
    // The same quotients of integers in f64; the means are of at most five of them, so they may differ by the
    // order of their sum: 5 ε.
    let near = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 5.0 * f64::EPSILON,
        (a, b) => a == b,
    };
    for key in ["mean_iou", "pixel_accuracy"] {
        assert!(near(&got[key], &expected[key]), "{key}: {} {}", got[key], expected[key]);
    }
    for key in ["iou", "precision", "recall"] {
        for (class, name) in got["classes"].as_array().unwrap().iter().enumerate() {
            let (a, b) = (&got[key][name.as_str().unwrap()], &expected[key][class]);
            assert!(near(a, b), "{key} of {name}: {a} {b}");
        }
    }
    assert_eq!((&got["images"], &got["missing"]), (&json!(3), &json!(0)));
    assert!(got["iou"]["dog"].is_null(), "a class that occurs nowhere has no score");

    let table = place.succeeds(&format!("evaluate {ALL} --predictions predictions --confusion"));
    let per_cent = |key: &str| format!("{:.2}", 100.0 * expected[key].as_f64().unwrap());
    for words in ["precision", "recall", &per_cent("mean_iou"), &per_cent("pixel_accuracy")] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let cat = table.lines().find(|line| line.starts_with("  3 cat")).unwrap();
    let row = expected["confusion_matrix"][3].as_array().unwrap();
    let total: u64 = row.iter().map(|n| n.as_u64().unwrap()).sum();
    let shares = row.iter().map(|n| format!("{:.1}", 100.0 * n.as_f64().unwrap() / total as f64));
    assert_eq!(cat.split_whitespace().skip(2).collect::<Vec<_>>(), shares.collect::<Vec<_>>());
}

#[test]
fn maps_score_as_scikit_learn_scores_them_at_every_threshold() {
    let (place, golden) = (place(), scores());
    for (threshold, matrix) in golden["psa"].as_object().unwrap() {
        let got = place.json(&format!("evaluate {ALL} --cams psa --threshold {threshold}"));
        assert_eq!(got["confusion_matrix"], *matrix, "threshold {threshold}");
    }
    let sweep = place.json(&format!("evaluate {ALL} --cams psa --sweep"));
    let curve = sweep["sweep"].as_array().unwrap();
    let best = curve.iter().map(|p| p["mean_iou"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!((curve.len(), &sweep["mean_iou"]), (19, &json!(best)));
}

#[test]
fn irn_s_maps_are_read_with_padded_keys_at_stride_4_and_as_tensors() {
    let (place, golden) = (place(), scores());
    for (folder, matrix) in
        [("irn", "irn"), ("irn-padded", "irn"), ("irn-torch", "irn"), ("irn-strided", "irn-strided")]
    {
        let got = place.json(&format!("evaluate {ONE} --cams {folder} --threshold 0.5"));
        assert_eq!(got["confusion_matrix"], golden[matrix], "{folder}");
    }
}

#[test]
fn every_stage_that_reads_maps_takes_those_of_others() {
    let place = place();
    let training = "--width 1/32 --epochs 1 --batch 2 --crop 32";
    place.succeeds(&format!("train-affinity {ALL} {training} --labels predictions --output affinity"));
    let mut made = Vec::new();
    for folder in ["psa", "irn", "irn-padded", "irn-torch", "irn-strided"] {
        let (labels, pseudo) = (format!("{folder}-labels"), format!("{folder}-pseudo"));
        place.succeeds(&format!("make-affinity-labels {ONE} --cams {folder} --output {labels}"));
        place.succeeds(&format!(
            "make-pseudo-labels {ONE} --cams {folder} --weights affinity --output {pseudo}"
        ));
        let read = |folder: &str| read_labels(&place.at(format!("{folder}/one.png"))).unwrap();
        let (labels, pseudo) = (read(&labels), read(&pseudo));
        assert_eq!((pseudo.width, pseudo.height), (13, 9), "{folder}");
        // Apple and cat are what the maps are of; only they and background can be in the labels.
        assert!(pseudo.labels.iter().all(|label| [0, 1, 3].contains(label)), "{folder}");
        assert!(labels.labels.iter().all(|label| [0, 1, 3, 255].contains(label)), "{folder}");
        made.push((labels, pseudo));
    }
    assert!(made[1..4].iter().all(|one| *one == made[0]), "the same maps in four forms");
    assert!(made[4] != made[0], "maps of their own");
}

#[test]
fn what_is_no_map_of_psa_or_irn_is_told() {
    let place = place();
    for (name, words) in [
        ("keys", "4 `keys` [0, 1, 2, 3] for 2 maps in `high_res`"),
        ("index", "[class number 0, class number 9], this data set has [apple, boat, cat, dog]"),
        ("fraction", "`keys` has 0.5, which is no class index"),
        ("planes", "`high_res` is [9, 13], not classes × height × width"),
        ("stride", "`cam` is 13×9; an image of 13×9 pixels has 4×3 at stride 4"),
        ("names", "`apple` is not a class index"),
        ("array", "a plain array, not class maps"),
        ("nan", "NaN"),
    ] {
        let bytes = std::fs::read(place.at(format!("bad/{name}.npy"))).unwrap();
        place.write(&format!("cams-{name}/one.npy"), bytes);
        let file = format!("cams-{name}/one.npy");
        for line in [
            format!("evaluate {ONE} --cams cams-{name}"),
            format!("make-affinity-labels {ONE} --cams cams-{name} --output x"),
        ] {
            place.fails(&line, 1, &[&file, words]);
        }
    }
    // Made from a photograph of another size.
    place.write("other/two.npy", std::fs::read(place.at("psa/one.npy")).unwrap());
    place.write("data/ImageSets/Segmentation/two.txt", "two\n");
    let words = ["other/two.npy", "maps of an image of 13×9 pixels, this one has 16×8"];
    place.fails("evaluate --data data --split two --cams other", 1, &words);
}

#[test]
fn a_missing_prediction_is_an_error_unless_it_is_allowed() {
    let place = place();
    std::fs::remove_file(place.at("predictions/two.png")).unwrap();
    let line = format!("evaluate {ALL} --predictions predictions");
    place.fails(&line, 1, &["predictions: ", "1 of 3 images have no label PNG: two", "--allow-missing"]);
    let got = place.json(&format!("{line} --allow-missing"));
    assert_eq!((&got["images"], &got["missing"]), (&json!(2), &json!(1)));
    place.fails(&format!("evaluate {ALL} --cams irn"), 1, &["2 of 3 images have no class maps: two, three"]);
    place.succeeds(&format!("evaluate {ALL} --cams irn --allow-missing"));
    place.write("none/readme", "");
    place.fails(&format!("evaluate {ALL} --predictions none --allow-missing"), 1, &["no image of the list"]);
}

#[test]
fn a_label_of_a_mask_that_is_no_class_names_the_mask() {
    let place = place();
    let mask = "data/SegmentationClass/one.png";
    write_labels(&place.at(mask), &LabelMap::new(13, 9, vec![77; 13 * 9]).unwrap()).unwrap();
    place.fails(&format!("evaluate {ALL} --predictions predictions"), 1, &[mask, "label 77", "5 classes"]);
    place.fails(&format!("evaluate {ALL} --cams psa"), 1, &[mask, "label 77", "5 classes"]);
}

#[test]
fn undecided_pixels_are_told_and_counted_where_they_are_allowed() {
    let place = place();
    // The truth itself leaves pixels undecided; swapped, it is a prediction that does.
    place.copy("data/SegmentationClass", "truth");
    place.copy("predictions", "data/SegmentationClass");
    let line = format!("evaluate {ALL} --predictions truth");
    place.fails(&line, 1, &["truth/", "undecided pixels (255)", "--partial"]);
    let got = place.json(&format!("{line} --partial"));
    let (of, golden) = (got["confusion_matrix"].as_array().unwrap(), &scores()["labels"]["confusion_matrix"]);
    for (t, row) in of.iter().enumerate() {
        for p in 0..5 {
            assert_eq!(row[p], golden[p][t], "the transposed matrix, at {t}, {p}");
        }
    }
    let pixels = (13 * 9 + 16 * 8 + 5 * 11) as f64;
    let decided: u64 = of.iter().flat_map(|row| row.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum();
    let undecided: u64 = got["undecided"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((decided + undecided) as f64, pixels);
    assert_eq!(got["coverage"], json!(decided as f64 / pixels));
    let table = place.succeeds(&format!("{line} --partial --confusion"));
    assert!(table.contains("pixels decided") && table.contains("   255\n"), "{table}");
}
