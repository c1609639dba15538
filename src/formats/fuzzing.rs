//! The readers as fuzz targets call them: bytes in, a value or an error out.
//!
//! Built only under `--cfg fuzzing`, which `cargo fuzz` sets; `fuzz/` holds the targets. Each function asserts
//! what holds for any input: errors name the file and a remedy, and what was read fits its shape.

use std::path::Path;

use super::elements::Budget;
use super::image::{self, Exif};
use super::pickle::Pickle;
use super::{cams, checkpoint, exif, inspect, label_png, npy, safetensors, weights, zip};
use crate::Result;
use crate::tensor::Tensor;

const PATH: &str = "fuzzed";

fn path() -> &'static Path {
    Path::new(PATH)
}

/// An error must say which file is at fault and what to do.
fn check<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.path(), Some(path()), "{error}");
            assert!(error.message().len() < 4096, "{error}");
            assert!(error.how_to_mend().is_some(), "{error}");
            None
        }
    }
}

fn check_tensor(tensor: &Tensor) {
    assert_eq!(tensor.data().len(), tensor.shape().iter().product::<usize>());
}

/// Whether bytes are a picture, which is bounded by its pixels and has its own targets.
fn is_picture(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG") || bytes.starts_with(b"\xff\xd8")
}

/// Weights in the format that the bytes begin with: PyTorch's two layouts, `.params`, `.npz`, `.npy`,
/// safetensors.
pub fn weight_file(bytes: &[u8]) {
    if is_picture(bytes) {
        return;
    }
    if let Some((tensors, _)) = check(weights::decode(path(), bytes)) {
        tensors.iter().for_each(|t| check_tensor(&t.tensor));
    }
    check(weights::from_memory(path(), bytes));
    check(inspect::decode(path(), bytes));
}

/// A pickle, by itself or in a `.npy`, of which every node is then asked what it is.
pub fn pickle(bytes: &[u8]) {
    let bytes = match npy::open(path(), bytes) {
        Ok(npy::Contents::Object(object)) => object,
        _ => bytes,
    };
    if let Ok(pickle) = Pickle::parse(path(), bytes, 0, &mut Budget::new(bytes.len())) {
        pickle.ask_everything();
    }
}

/// A pickled dictionary in a `.npy`: class maps and tags.
pub fn npy_objects(bytes: &[u8]) {
    if is_picture(bytes) {
        return;
    }
    let foreground: Vec<String> = (0..20).map(|i| format!("class {i}")).collect();
    if let Some(maps) = check(cams::decode(path(), bytes, &foreground)) {
        check_tensor(&maps.maps);
    }
    check(npy::decode_class_labels(path(), bytes));
    check(inspect::decode(path(), bytes));
}

/// An archive.
pub fn archive(bytes: &[u8]) {
    let mut budget = Budget::new(bytes.len());
    if let Ok(entries) = zip::entries(path(), bytes, &mut budget) {
        let size: usize = entries.iter().map(|e| e.data.len()).sum();
        assert!(size <= bytes.len(), "entries do not overlap");
    }
}

/// safetensors, and a checkpoint. What is read here, the `safetensors` crate must read too.
pub fn tensor_file(bytes: &[u8]) {
    if let Some(file) = check(safetensors::decode(path(), bytes)) {
        file.tensors.iter().for_each(|t| check_tensor(&t.tensor));
        let peer = ::safetensors::SafeTensors::deserialize(bytes).expect("the crate reads it too");
        assert_eq!(peer.len(), file.tensors.len());
    }
    check(checkpoint::decode(path(), bytes));
    check(cams::decode(path(), bytes, &["a".to_string()]));
}

/// A photograph, in both orientations; at most a megapixel, so that runs are short.
pub fn photograph(bytes: &[u8]) {
    for orientation in [Exif::Apply, Exif::Ignore] {
        if let Some(image) = check(image::decode(path(), bytes, orientation, 1 << 20)) {
            assert_eq!(image.pixels.len(), image.width * image.height * 3);
        }
    }
}

/// A label mask.
pub fn label_mask(bytes: &[u8]) {
    if let Some(map) = check(label_png::decode(path(), bytes)) {
        assert_eq!(map.labels.len(), map.width * map.height);
    }
}

/// JPEG's markers and an EXIF block.
pub fn exif_block(bytes: &[u8]) {
    let _ = exif::jpeg_header(bytes);
    assert!(exif::orientation(bytes).is_none_or(|o| (1..=8).contains(&o)));
}
