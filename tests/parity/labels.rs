//! The two kinds of labels, from maps to PNG, through the built program.

use seedwalk::config::Preset;
use seedwalk::data::Classes;
use seedwalk::formats::cams::{ClassMaps, write_npy};
use seedwalk::formats::image::{RgbImage, write_png};
use seedwalk::formats::label_png::read_labels;
use seedwalk::formats::safetensors::read_tensors;
use seedwalk::ops::class_maps::pooled_confident_labels;
use seedwalk::tensor::Tensor;

use super::common::Place;
use super::networks::{affinity_weights, write};
use super::rule::{golden, golden_path, image, maps, share_equal};

/// A data set of one picture, and its maps as psa writes them: classes 3 and 7, in whose numbering 0 is the
/// first after background.
fn place_with(picture: &RgbImage) -> Place {
    let place = Place::empty();
    std::fs::create_dir(place.at("data")).unwrap();
    write_png(&place.at("data/a.png"), picture).unwrap();
    let indices = [3, 7];
    let names = Classes::voc().foreground().to_vec();
    let made = ClassMaps {
        classes: indices.map(|i| names[i].clone()).to_vec(),
        maps: maps(picture.height, picture.width),
        image_size: Some((picture.height, picture.width)),
    };
    std::fs::create_dir(place.at("cams")).unwrap();
    write_npy(&place.at("cams/a.npy"), &made, &indices).unwrap();
    place
}

fn check(place: &Place, got: &str, expected: &str) {
    let (got, expected) =
        (read_labels(&place.at(got)).unwrap(), read_labels(&golden_path(expected)).unwrap());
    let share = share_equal(&got.labels, &expected.labels);
    println!("{share:.5} equal");
    assert!(share >= 0.999, "{share} of the labels are equal");
}

#[test]
fn affinity_labels() {
    for preset in [Preset::Psa, Preset::Paper] {
        let place = place_with(&image("crf", 48, 64));
        place.succeeds(&format!(
            "make-affinity-labels --data data --cams cams --output out --preset {preset} --scores"
        ));
        check(&place, "out/a.png", &format!("affinity-labels-{preset}.png"));
    }
}

/// psa's labels on the grid of a crop of 64×88 that has the picture at (5, 3): from the posteriors that
/// the program kept in f16.
#[test]
fn affinity_labels_on_the_grid() {
    let place = place_with(&image("crf", 48, 64));
    place.succeeds("make-affinity-labels --data data --cams cams --output out --preset psa");
    let kept = read_tensors(&place.at("out/scores/a.safetensors")).unwrap();
    let cropped = |name: &str| {
        let scores = kept.get(name).unwrap();
        assert_eq!(scores.shape(), [3, 48, 64]);
        let mut out = Tensor::zeros(&[3, 64, 88]);
        for (row, source) in scores.data().chunks_exact(64).enumerate() {
            let at = (row / 48 * 64 + row % 48 + 5) * 88 + 3;
            out.data_mut()[at..at + 64].copy_from_slice(source);
        }
        out
    };
    let got = pooled_confident_labels(&cropped("strong"), &cropped("weak"), 8).unwrap();
    let got: Vec<f32> = got.labels.iter().map(|l| f32::from(*l)).collect();
    assert_eq!(got, golden("grid-labels").get("labels").unwrap().data());
}

/// Without `--preset`: the program tells it by the weights' head, and with it everything else.
#[test]
fn pseudo_labels() {
    for (preset, size) in [(Preset::Psa, (45, 83)), (Preset::Paper, (44, 84))] {
        let place = place_with(&image("pseudo", size.0, size.1));
        write(&place, "weights", &affinity_weights(preset));
        place.succeeds(
            "make-pseudo-labels --data data --cams cams --weights weights --width 1/16 --output out",
        );
        check(&place, "out/a.png", &format!("pseudo-labels-{preset}.png"));
    }
}

/// A training under `psa` reads the posteriors beside the labels, and says so where there are none.
#[test]
fn training_takes_the_posteriors() {
    let place = place_with(&image("pseudo", 51, 83));
    place.succeeds("make-affinity-labels --data data --cams cams --output out --preset psa");
    let train = |output: &str| {
        let line = format!(
            "train-affinity --data data --labels out --output {output} --preset psa --width 1/32 --epochs 4 --batch 1 --crop 96"
        );
        let out = place.run(&line);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let told = String::from_utf8(out.stderr).unwrap();
        let losses: Vec<f64> = place
            .read(&format!("{output}/events.jsonl"))
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
            .collect();
        (told.contains("posteriors"), losses)
    };
    let (told, losses) = train("kept");
    assert!(!told);
    std::fs::rename(place.at("out/scores"), place.at("out/away")).unwrap();
    let (told, by_majority) = train("majority");
    assert!(told);
    assert_ne!(by_majority, losses);
    // The checkpoint says that it is of `psa`, and with that there is no CRF after the walk.
    place.succeeds(
        "make-pseudo-labels --data data --cams cams --weights kept --output pseudo --revised revised",
    );
    assert_eq!(place.results("pseudo"), place.results("revised"));
    std::fs::create_dir(place.at("out/scores")).unwrap();
    place.fails(
        "train-affinity --data data --labels out --output gone --preset psa --width 1/32 --epochs 1 --crop 96",
        1,
        &["scores/a.safetensors", "--scores"],
    );
}
