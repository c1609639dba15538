//! A loss that is no number.

use crate::common::{Place, TRAIN};

/// The batch and the place that an error of a training names.
fn assert_batch_is_named(place: &Place, told: &str) {
    let ids: Vec<String> =
        place.read("data/ImageSets/Segmentation/train.txt").lines().map(|id| format!("{id}.jpg")).collect();
    assert_eq!(ids.iter().filter(|id| told.contains(id.as_str())).count(), 2, "a batch of two: {told}");
}

#[test]
fn a_training_that_explodes_stops_and_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    let line = format!(
        "train-cam {} --preset psa --learning-rate 100 --output cam",
        TRAIN.replace("--epochs 2", "--epochs 50")
    );
    let told = place.fails(&line, 1, &["cam: training stopped at step", "first bad value in", "--init cam"]);
    assert_batch_is_named(&place, &told);
    // The checkpoint before it is whole, and every event up to there is kept.
    let kept = place.results("cam");
    assert!(!kept.is_empty(), "{told}");
    place.succeeds("inspect cam");
    assert!(place.succeeds("inspect cam").lines().all(|line| !line.contains("NaN")));
    // The same command comes to the same end, and harms nothing.
    assert_eq!(place.fails(&line, 1, &["training stopped at step"]), told);
    assert!(kept == place.results("cam"));
    // What the remedy says works.
    place.succeeds(&format!("train-cam {TRAIN} --preset psa --learning-rate 1e-6 --output cam --overwrite"));
}

#[test]
fn the_first_bad_layer_is_named() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    place.succeeds("convert-weights cam w.safetensors --backbone");
    // Finite, and too large to be multiplied: the layer that has them is the first whose output overflows.
    let mut bytes = std::fs::read(place.at("w.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let layer = "b4.conv_branch2b1";
    let offsets = header[format!("{layer}.weight")]["data_offsets"].as_array().unwrap();
    let [from, to] = [0, 1].map(|i| start + offsets[i].as_u64().unwrap() as usize);
    for value in bytes[from..to].chunks_exact_mut(4) {
        value.copy_from_slice(&3e38f32.to_le_bytes());
    }
    place.write("huge.safetensors", &bytes);
    let line = format!("train-cam {TRAIN} --init huge.safetensors --output other");
    let told = place.fails(&line, 1, &["other: training stopped at step 1", layer]);
    assert_batch_is_named(&place, &told);
    assert!(place.results("other").is_empty(), "there is no good checkpoint yet");
    assert!(!told.contains("checkpoint is kept"), "{told}");
}
