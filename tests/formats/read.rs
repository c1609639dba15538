//! Files that torch, numpy and safetensors wrote, and MXNet's layouts byte by byte (`make_files.py`): what is
//! read from them is what those packages read, bit for bit.

use std::path::{Path, PathBuf};

use serde_json::Value;

use seedwalk::formats::image::{Exif, read_rgb};
use seedwalk::formats::label_png::read_labels;
use seedwalk::formats::weights::read_weights;
use seedwalk::formats::{cams, inspect, npy};

/// The folder of the files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/files")
}

/// What the packages read from each file.
fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    match serde_json::from_str(&text).unwrap() {
        Value::Object(map) => map,
        _ => panic!("expected.json is no object"),
    }
}

/// A tensor as its package reads it.
pub struct Expected {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bits: Vec<u32>,
}

/// The tensors of an entry of `expected.json`.
pub fn tensors(entry: &Value) -> Vec<Expected> {
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
    let one = |t: &Value| Expected {
        name: t["name"].as_str().unwrap().to_string(),
        dtype: t["dtype"].as_str().unwrap().to_string(),
        shape: numbers(&t["shape"]).into_iter().map(|n| n as usize).collect(),
        bits: numbers(&t["bits"]).into_iter().map(|n| n as u32).collect(),
    };
    entry.as_array().unwrap().iter().map(one).collect()
}

/// The bits of O×I×KH×KW as O×KH×KW×I; other tensors as they are.
pub fn channels_last(shape: &[usize], bits: &[u32]) -> (Vec<usize>, Vec<u32>) {
    let &[o, i, kh, kw] = shape else { return (shape.to_vec(), bits.to_vec()) };
    let mut last = Vec::new();
    for (f, y, x, c) in (0..o)
        .flat_map(|f| (0..kh).flat_map(move |y| (0..kw).flat_map(move |x| (0..i).map(move |c| (f, y, x, c)))))
    {
        last.push(bits[((f * i + c) * kh + y) * kw + x]);
    }
    (vec![o, kh, kw, i], last)
}

/// What a name of the packages is called here; `None` for what is left out.
fn our_name(file: &str, name: &str) -> Option<String> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let mapped = match name {
        "arg:conv1a_weight" => "conv1a.weight",
        "arg:res4b3_branch2a_weight" => "b4_3.conv_branch2a.weight",
        "arg:bn4b3_branch2a_gamma" => "b4_3.bn_branch2a.weight",
        "arg:bn4b3_branch2a_beta" => "b4_3.bn_branch2a.bias",
        "aux:bn4b3_branch2a_moving_mean" => "b4_3.bn_branch2a.running_mean",
        "aux:bn4b3_branch2a_moving_var" => "b4_3.bn_branch2a.running_var",
        _ if name.ends_with("num_batches_tracked") || name.contains("linear1000") => return None,
        _ => name,
    };
    assert!(file.starts_with("mxnet") || mapped == name);
    Some(mapped.to_string())
}

fn is_weights(file: &str) -> bool {
    !["cams", "cls_labels", "photo", "mask"].iter().any(|other| file.starts_with(other))
}

#[test]
fn the_packages_weights_are_read_bit_for_bit() {
    let files = expected();
    assert!(files.keys().filter(|file| is_weights(file)).count() >= 17);
    for (file, entry) in files.iter().filter(|(file, _)| is_weights(file)) {
        let read = read_weights(&folder().join(file)).unwrap();
        let mut count = 0;
        for t in tensors(entry) {
            let Some(name) = our_name(file, &t.name) else { continue };
            count += 1;
            let (_, got) =
                read.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{file}: no `{name}`"));
            let (shape, bits) = channels_last(&t.shape, &t.bits);
            assert_eq!(got.shape(), shape, "{file}: {name}");
            let got: Vec<u32> = got.data().iter().map(|v| v.to_bits()).collect();
            assert_eq!(got, bits, "{file}: {name}");
        }
        assert_eq!(read.len(), count, "{file}");
    }
}

#[test]
fn every_file_is_inspected_with_its_own_names_types_and_sizes() {
    for (file, entry) in &expected() {
        let summaries = inspect(&folder().join(file)).unwrap();
        let wanted = tensors(entry);
        assert_eq!(summaries.len(), wanted.len(), "{file}");
        for t in &wanted {
            let s =
                summaries.iter().find(|s| s.name == t.name).unwrap_or_else(|| panic!("{file}: {}", t.name));
            assert_eq!((s.dtype.as_str(), &s.shape), (t.dtype.as_str(), &t.shape), "{file}: {}", t.name);
            let values = t.bits.iter().map(|&b| f32::from_bits(b));
            let (min, max) = (values.clone().reduce(f32::min), values.reduce(f32::max));
            assert_eq!(min.unwrap_or(f32::NAN).to_bits(), s.min.to_bits(), "{file}: {}", t.name);
            assert_eq!(max.unwrap_or(f32::NAN).to_bits(), s.max.to_bits(), "{file}: {}", t.name);
            assert_eq!(s.nan_count, 0);
        }
    }
}

#[test]
fn photographs_and_masks_of_every_kind_are_read() {
    let whole = |name: &str| folder().join(name);
    let files = expected();
    let bytes = |name: &str| -> Vec<u8> {
        tensors(&files[name])[0].bits.iter().map(|&b| f32::from_bits(b) as u8).collect()
    };
    for name in ["photo-rgb.png", "photo-16-bit.png"] {
        assert_eq!(read_rgb(&whole(name), Exif::Ignore).unwrap().pixels, bytes(name), "{name}");
    }
    for name in ["mask-grey.png", "mask-palette.png", "mask-palette-4-bits.png"] {
        assert_eq!(read_labels(&whole(name)).unwrap().labels, bytes(name), "{name}");
    }
    let rgb = bytes("photo-rgb.png");
    for name in ["rgb", "progressive", "turned", "cmyk"] {
        let image = read_rgb(&whole(&format!("photo-{name}.jpg")), Exif::Ignore).unwrap();
        assert_eq!((image.width, image.height), (9, 6), "{name}");
        // A coarse bound on a lossy file's mean error; a channel in the wrong place is tens off.
        let error: i32 =
            image.pixels.iter().zip(&rgb).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).sum();
        assert!(error / (rgb.len() as i32) < 16, "{name}: {error}");
    }
    for name in ["photo-turned.jpg", "photo-rgb.png"] {
        let image = read_rgb(&whole(name), Exif::Apply).unwrap();
        assert_eq!((image.width, image.height), (6, 9), "{name}");
    }
    for name in ["photo-grey.jpg", "photo-grey-alpha.png"] {
        let image = read_rgb(&whole(name), Exif::Ignore).unwrap();
        assert!(image.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]), "{name}");
    }
}

#[test]
fn several_state_dicts_are_reported_with_their_names() {
    let error = read_weights(&folder().join("torch-ambiguous.pth")).unwrap_err();
    assert!(error.message().contains("`generator`, `critic`"), "{error}");
    assert!(error.how_to_mend().is_some());
}

#[test]
fn class_maps_and_tags_are_read_bit_for_bit() {
    let classes: Vec<String> = (0..20).map(|i| format!("class {i}")).collect();
    let files = expected();
    let maps = tensors(&files["cams-psa.npy"]);
    let names = ["cams-psa.npy", "cams-psa-protocol2.npy", "cams-psa-protocol3.npy", "cams-numpy-keys.npy"];
    for file in names.into_iter().chain(["cams-irn.npy", "cams-irn-torch.npy"]) {
        let read = cams::read(&folder().join(file), &classes).unwrap();
        assert_eq!(read.classes, ["class 2", "class 14"], "{file}");
        assert_eq!(read.maps.shape(), [2, 5, 7], "{file}");
        let wanted: Vec<u32> = maps.iter().flat_map(|t| t.bits.clone()).collect();
        assert_eq!(read.maps.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), wanted, "{file}");
    }
    let want = [("2007_000032", [1.0, 0.0, 1.0, 0.0]), ("2011_003276", [0.0, 1.0, 0.0, 0.0])];
    for file in ["cls_labels.npy", "cls_labels-numbers.npy"] {
        let tags = npy::read_class_labels(&folder().join(file)).unwrap();
        let tags: Vec<_> = tags.iter().map(|(id, values)| (id.as_str(), values.as_slice())).collect();
        assert_eq!(tags, want.iter().map(|(id, values)| (*id, &values[..])).collect::<Vec<_>>(), "{file}");
    }
}
