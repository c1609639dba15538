//! The built program: every command that takes weights takes them in every format, to the same result; what
//! it exports, others read.

use seedwalk::formats::safetensors::{TensorFile, read_tensors};

use crate::common::{Place, TRAIN};
use crate::writers::*;

/// The same weights, O×I×KH×KW, in each format.
fn in_every_format(place: &Place, stem: &str, file: &TensorFile) -> Vec<String> {
    let tensors: Vec<_> = file.tensors.iter().map(|t| (t.name.as_str(), &t.tensor)).collect();
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    let mut strides = Vec::new();
    for (_, tensor) in &tensors {
        let mut of_tensor = vec![1i64; tensor.shape().len()];
        for d in (1..of_tensor.len()).rev() {
            of_tensor[d - 1] = of_tensor[d] * tensor.shape()[d] as i64;
        }
        strides.push(of_tensor);
    }
    let object = |view: &'static [u8], prefix: &str| {
        let entries: Vec<(String, Vec<u8>)> = tensors
            .iter()
            .enumerate()
            .map(|(i, (name, tensor))| {
                let shape: Vec<i64> = tensor.shape().iter().map(|&s| s as i64).collect();
                let of = Tensor {
                    key: &keys[i],
                    count: tensor.len() as i64,
                    shape: &shape,
                    strides: &strides[i],
                    view,
                    ..PLAIN
                };
                (format!("{prefix}{name}"), of.pickled())
            })
            .collect();
        dict(&entries.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>())
    };
    let data = |i: usize| floats(tensors[i].1.data().iter().copied());
    let zip_storages: Vec<_> = keys.iter().enumerate().map(|(i, key)| (key.as_str(), data(i))).collect();
    let old_storages: Vec<_> =
        keys.iter().enumerate().map(|(i, key)| (key.as_str(), tensors[i].1.len() as u64, data(i))).collect();
    let sizes = |shape: &[usize]| shape.iter().map(|&s| s as i64).collect::<Vec<_>>();
    let arrays: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, t))| (*name, mxnet_array(&sizes(t.shape()), 0, &data(i))))
        .collect();
    let members: Vec<Entry> = tensors
        .iter()
        .map(|(name, t)| Entry::new(&format!("{name}.npy"), &npy_floats(t.shape(), t.data())))
        .collect();
    let files = [
        (format!("{stem}-zip.pth"), torch_zip(&object(b"", "module."), &zip_storages)),
        (format!("{stem}-old.pth"), torch_old(&object(b"N", ""), &old_storages)),
        (format!("{stem}.params"), params(&arrays)),
        (format!("{stem}.npz"), zip(&members)),
    ];
    for (name, bytes) in &files {
        place.write(name, bytes);
    }
    files.into_iter().map(|(name, _)| name).chain([format!("{stem}.safetensors")]).collect()
}

/// Exports a checkpoint as other programs have it, and that in every format.
fn exported(place: &Place, checkpoint: &str) -> Vec<String> {
    place.succeeds(&format!("convert-weights {checkpoint} {checkpoint}.safetensors --channels-first"));
    let file = read_tensors(&place.at(format!("{checkpoint}.safetensors"))).unwrap();
    assert_eq!(file.metadata.get("layout"), None, "it must not say that it is channels last");
    let conv1a = file.get("conv1a.weight").unwrap();
    assert_eq!(conv1a.shape()[1..], [3, 3, 3]);
    in_every_format(place, checkpoint, &file)
}

#[test]
fn every_command_takes_weights_in_every_format() {
    let place = Place::new();
    let psa = "--data data --split train --width 1/32";
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    place.succeeds("make-cams --data data --split train --weights cam --output maps");
    place.succeeds("make-affinity-labels --data data --split train --cams maps --output labels");
    place.succeeds(&format!("train-affinity {TRAIN} --labels labels --output affinity"));
    place.succeeds(&format!("train-segmentation {TRAIN} --labels data/SegmentationClass --output net"));
    let pseudo = format!("make-pseudo-labels {psa} --cams maps");
    place.succeeds(
        "make-pseudo-labels --data data --split train --cams maps --weights affinity --output pseudo",
    );
    place.succeeds("segment --weights net --output masks data/JPEGImages/000001.jpg");
    let forward = |network: &str| {
        format!(
            "forward --network {network} --image data/JPEGImages/000001.jpg --width 1/32 --output f.safetensors --overwrite"
        )
    };
    for network in ["cam", "affinity", "net"] {
        let kind = if network == "net" { "segmentation" } else { network };
        let line = forward(kind).replace(" --width 1/32", "");
        place.succeeds(&format!("{line} --weights {network}"));
        let own = std::fs::read(place.at("f.safetensors")).unwrap();
        for file in exported(&place, network) {
            place.succeeds(&format!("{} --weights {file}", forward(kind)));
            assert!(std::fs::read(place.at("f.safetensors")).unwrap() == own, "forward of {file}");
            let out = format!("again-{file}");
            match network {
                "cam" => {
                    place.succeeds(&format!("make-cams {psa} --weights {file} --output {out}"));
                    assert!(place.results(&out) == place.results("maps"), "make-cams of {file}");
                }
                "affinity" => {
                    place.succeeds(&format!("{pseudo} --weights {file} --output {out}"));
                    assert!(place.results(&out) == place.results("pseudo"), "make-pseudo-labels of {file}");
                }
                _ => {
                    let line = "segment --width 1/32 data/JPEGImages/000001.jpg";
                    place.succeeds(&format!("{line} --weights {file} --output {out}"));
                    assert!(place.results(&out) == place.results("masks"), "segment of {file}");
                }
            }
            // Back to what a checkpoint holds, and no less.
            place.succeeds(&format!("convert-weights {file} back.safetensors --overwrite"));
            place.succeeds(&format!("convert-weights {network} own.safetensors --overwrite"));
            let read = |name: &str| read_tensors(&place.at(name)).unwrap();
            let (back, own) = (read("back.safetensors"), read("own.safetensors"));
            assert_eq!(back.tensors.len(), own.tensors.len(), "{file}");
            for tensor in &own.tensors {
                assert!(back.get(&tensor.name) == Some(&tensor.tensor), "{file}: {}", tensor.name);
            }
            let report = place.json(&format!("inspect {file}"));
            assert_eq!(report["tensors"].as_array().unwrap().len(), own.tensors.len());
        }
    }
    // A training starts from each alike; only its configuration knows which it was.
    let train = TRAIN.replace("--epochs 2", "--epochs 1");
    let mut first = None;
    for file in ["cam", "cam-zip.pth", "cam-old.pth", "cam.params", "cam.npz", "cam.safetensors"] {
        let output = format!("started-{file}");
        place.succeeds(&format!("train-cam {train} --init {file} --output {output}"));
        let checkpoint = place.at(&output).join(place.read(&format!("{output}/latest")).trim());
        let trained = read_tensors(&checkpoint).unwrap().into_pairs();
        assert!(*first.get_or_insert_with(|| trained.clone()) == trained, "train-cam --init {file}");
    }
}

#[test]
fn maps_are_exported_as_psa_has_them() {
    let place = Place::new();
    place.succeeds(&format!("train-cam {TRAIN} --output cam"));
    place.succeeds("make-cams --data data --split train --weights cam --format npy --output npy");
    place.succeeds("make-cams --data data --split train --weights cam --output maps");
    let id = place.read("data/ImageSets/Segmentation/train.txt").lines().next().unwrap().to_string();
    let report = place.json(&format!("inspect npy/{id}.npy"));
    for map in report["tensors"].as_array().unwrap() {
        // {class index: float32 H×W} at the image's size.
        assert!(map["name"].as_str().unwrap().parse::<usize>().is_ok(), "{map}");
        assert_eq!((map["dtype"].as_str(), map["shape"].to_string().as_str()), (Some("f32"), "[64,64]"));
    }
    let labels = |cams: &str| {
        place.succeeds(&format!(
            "make-affinity-labels --data data --split train --cams {cams} --output l-{cams}"
        ));
        place.results(&format!("l-{cams}")).len()
    };
    assert_eq!(labels("npy"), labels("maps"));
}

#[test]
fn inspect_tells_of_every_kind_of_file() {
    let place = Place::with_cams();
    let folder = crate::read::folder();
    let copy = |name: &str| std::fs::copy(folder.join(name), place.at(name)).map(drop).unwrap();
    for name in ["torch-old.pth", "mxnet-v2.params", "numpy.npz", "cams-irn.npy", "cls_labels.npy"] {
        copy(name);
        let report = place.json(&format!("inspect {name}"));
        assert_eq!(report["kind"], "tensors", "{name}");
        assert!(report["tensors"].as_array().unwrap().len() > 1, "{name}");
    }
    let nan = npy_floats(&[2, 2], &[f32::NAN, 3.0, f32::NAN, -1.0]);
    place.write("nan.npy", nan);
    let told = place.succeeds("inspect nan.npy");
    assert!(told.contains("2 NaN") && told.contains("2×2"), "{told}");
    assert_eq!(place.json("inspect nan.npy")["tensors"][0]["nan_count"], 2);
    assert_eq!(place.json("inspect cam")["kind"], "checkpoint");
    assert_eq!(place.json("inspect data/JPEGImages/000001.jpg")["kind"], "photograph");
    assert_eq!(place.json("inspect data/SegmentationClass/000001.png")["kind"], "labels");
    let mut maps =
        std::fs::read_dir(place.at("cams")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let map = maps.find(|name| name.ends_with(".safetensors")).unwrap();
    let report = place.json(&format!("inspect cams/{map}"));
    assert!(report["metadata"]["image_height"].is_string(), "{report}");
}
