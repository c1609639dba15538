//! Weights and checkpoints that do not fit, are damaged, or hold what is no number.

use crate::common::{Place, TRAIN};

const MAPS: &str = "make-cams --data data --split train --output maps";

#[test]
fn a_checkpoint_of_another_width_or_class_count_or_network_is_refused() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    place.succeeds("convert-weights cam w.safetensors");
    let before = place.results("cam");
    // A checkpoint knows its width, a weight file does not.
    place.fails(
        &format!("{MAPS} --weights cam --width 1/8"),
        1,
        &["cam: ", "width 1/32", "--width asks for 1/8"],
    );
    place.fails(
        &format!("{MAPS} --weights cam --preset psa"),
        1,
        &["cam: ", "preset paper", "--preset asks for psa"],
    );
    let words = &["w.safetensors", "`conv1a.weight` is [2, 3, 3, 3], the network wants [8, 3, 3, 3]"];
    place.fails(&format!("{MAPS} --weights w.safetensors --width 1/8"), 1, words);
    let wider = TRAIN.replace("1/32", "1/8");
    place.fails(&format!("train-cam {wider} --init cam --output other"), 1, &["cam: ", "[8, 3, 3, 3]"]);
    assert!(!place.at("other/latest").exists());
    place.fails(
        &format!("train-cam {wider} --output cam"),
        1,
        &["cam: ", "another configuration", "--overwrite"],
    );
    place.fails(&format!("train-cam {TRAIN} --output cam --seed 9"), 1, &["cam: ", "another configuration"]);
    place.write("two.txt", "background\ncat\ndog\n");
    place.write("tags.csv", "000000,cat\n000001,dog\n");
    let line = format!("{MAPS} --weights w.safetensors --width 1/32 --classes two.txt --tags tags.csv");
    place.fails(&line, 1, &["w.safetensors", "a network of 6 classes, the data set has 2: cat, dog"]);
    place.fails(
        "segment --weights cam --output maps data/JPEGImages",
        1,
        &["cam: ", "cam network", "segmentation"],
    );
    assert!(!place.at("maps").exists());
    assert!(before == place.results("cam"));
    place.succeeds(&format!("{MAPS} --weights w.safetensors --width 1/32"));
}

#[test]
fn a_corrupted_checkpoint_is_refused_and_the_older_one_offered() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    let whole = place.results("cam");
    assert_eq!(whole.len(), 2, "the last and the one before");
    let newest = "cam/step-0000000006.safetensors";
    let mut bytes = whole[1].1.clone();
    let at = bytes.len() - 9;
    bytes[at] ^= 4;
    place.write(newest, &bytes);
    let damaged = place.results("cam");
    let words = &[newest, "does not match its hash", "step-0000000003.safetensors", "cam/latest"];
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, words);
    place.fails(&format!("{MAPS} --weights cam"), 1, words);
    place.fails("inspect cam", 1, words);
    place.fails(
        &format!("train-affinity {TRAIN} --labels data/SegmentationClass --init cam --output a"),
        1,
        words,
    );
    assert!(damaged == place.results("cam"), "the older one was chosen silently");
    place.write(newest, &bytes[..bytes.len() / 3]);
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, &[newest, "step-0000000003.safetensors"]);
    // What the remedy says works, and ends with the bytes that were lost.
    place.write("cam/latest", "step-0000000003.safetensors\n");
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    assert!(whole == place.results("cam"));
    for (name, _) in &whole {
        place.write(&format!("cam/{}", name.display()), "");
    }
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, &["no other checkpoint", "--overwrite"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_with_the_tensor() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    place.succeeds("convert-weights cam w.safetensors");
    let mut bytes = std::fs::read(place.at("w.safetensors")).unwrap();
    let end = bytes.len();
    for (value, name) in [(f32::NAN, "nan"), (f32::INFINITY, "infinite")] {
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        place.write(&format!("{name}.safetensors"), &bytes);
        let file = format!("{name}.safetensors");
        let words = &[file.as_str(), "`fc8.bias`"];
        place.fails(&format!("{MAPS} --width 1/32 --weights {name}.safetensors"), 1, words);
        place.fails(&format!("train-cam {TRAIN} --init {name}.safetensors --output other"), 1, words);
        place.fails(&format!("convert-weights {name}.safetensors out.safetensors"), 1, words);
        assert!(!place.at("maps").exists() && !place.at("out.safetensors").exists());
    }
    // To look at them is what `inspect` is for.
    let tensors = place.json("inspect nan.safetensors")["tensors"].clone();
    let nan = tensors.as_array().unwrap().iter().filter(|t| t["nan_count"] == 1).count();
    assert_eq!(nan, 1);
}

#[test]
fn a_torn_last_line_and_lines_after_the_checkpoint_are_dropped() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    let whole = place.results("cam");
    // As a power cut leaves it: the second checkpoint not there yet, a line half written, a temporary file.
    let events = place.read("cam/events.jsonl");
    let lines: Vec<&str> = events.lines().collect();
    assert_eq!(lines.len(), 6);
    let torn = format!("{}\n{}", lines[..4].join("\n"), &lines[4][..lines[4].len() / 2]);
    place.write("cam/events.jsonl", torn);
    place.write("cam/latest", "step-0000000003.safetensors\n");
    std::fs::remove_file(place.at("cam/step-0000000006.safetensors")).unwrap();
    place.write("cam/.seedwalk-abc", "half a checkpoint");
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    let steps = |text: &str| -> Vec<u64> {
        let step = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap();
        text.lines().map(step).collect()
    };
    assert_eq!(steps(&place.read("cam/events.jsonl")), [1, 2, 3, 4, 5, 6]);
    assert!(whole == place.results("cam"));
    assert!(!place.at("cam/.seedwalk-abc").exists(), "temporary files are swept");
}

#[test]
fn every_format_is_looked_into_and_a_cut_one_is_named() {
    let place = Place::with_cams();
    place.succeeds("make-cams --data data --split train --weights cam --format npy --output psa");
    place.succeeds("convert-weights cam half.safetensors --f16");
    let files = [
        "cam/step-0000000006.safetensors",
        "half.safetensors",
        "cams/000001.safetensors",
        "psa/000001.npy",
        "data/JPEGImages/000001.jpg",
        "data/SegmentationClass/000001.png",
    ];
    for file in files {
        let about = place.json(&format!("inspect {file}"));
        assert!(!about["tensors"].as_array().unwrap().is_empty(), "{file}");
        assert!(place.succeeds(&format!("inspect {file}")).contains("values"));
        let bytes = std::fs::read(place.at(file)).unwrap();
        for length in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            let cut = format!("cut.{}", file.rsplit('.').next().unwrap());
            place.write(&cut, &bytes[..length]);
            place.fails(&format!("inspect {cut}"), 1, &[&cut]);
        }
    }
    place.fails("inspect nowhere", 1, &["nowhere"]);
    place.fails("inspect data", 1, &["data", "check-data"]);
}
