//! Backbone, heads and multi-scale maps at a sixteenth of the width, through the built program: weights by
//! rule in a file of the published names and layout, whose preset the program tells by the head.

use seedwalk::config::{Config, Preset, Width};
use seedwalk::formats::cams;
use seedwalk::formats::image::write_png;
use seedwalk::formats::label_png::read_labels;
use seedwalk::formats::safetensors::{Dtype, TensorFile, read_tensors, write_tensors};
use seedwalk::nn::{CamHead, CamNet, Classifier, Network, SegmentationNet};
use seedwalk::pipeline::networks::{affinity_net, backbone};
use seedwalk::tensor::Tensor;

use super::common::Place;
use super::rule::{assert_near, golden, golden_path, image, share_equal, weight};

/// Share of a tensor's largest value by which the taps may differ: about 40 convolutions, each of which
/// rounds sums of at most K = 9·1024 products, 1024 at this width: √K·ε ≈ 2e-6 to 6e-6 of its result a
/// layer, 40 of which add up to 8e-5 to 2.4e-4 if all point one way.
const TAPS: f32 = 2e-4;
/// What the issue allows for maps and affinities in 0 to 1; rounding as above, and exp's own.
const MAPS: f32 = 5e-4;

/// Width 1/16 at which the golden files were made.
fn narrow() -> Width {
    "1/16".parse().unwrap()
}

/// A network's parameters by rule, O×I×KH×KW under the published names.
pub fn published(network: &dyn Network, head_scale: f64) -> Vec<(String, Tensor)> {
    let parameters = network.parameters(0).unwrap();
    let by_rule = |p: &seedwalk::nn::module::Parameter| {
        let shape = match *p.value.shape() {
            [o, kh, kw, i] => vec![o, i, kh, kw],
            ref other => other.to_vec(),
        };
        (p.name.clone(), weight(&p.name, &shape, head_scale))
    };
    parameters.iter().map(by_rule).collect()
}

/// Writes weights as another program would.
pub fn write(place: &Place, name: &str, tensors: &[(String, Tensor)]) {
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    write_tensors(&place.at(name), &named, Dtype::F32, &[]).unwrap();
}

/// The CAM network of a preset with three classes.
pub fn cam_net(preset: Preset, width: Width) -> CamNet {
    let head = if preset == Preset::Psa { CamHead::Psa } else { CamHead::Paper };
    CamNet { backbone: backbone(width), head, classifier: Classifier::Small, classes: 3 }
}

/// AffinityNet of a preset by rule; the factors keep W off 0 and 1, as in `reference.py`.
pub fn affinity_weights(preset: Preset) -> Vec<(String, Tensor)> {
    let mut config = Config::preset(preset);
    config.backbone.width = narrow();
    let network = affinity_net(&config);
    let factor = if preset == Preset::Psa { 12.0 } else { 16.0 / network.features() as f64 };
    published(&network, factor)
}

fn forward(place: &Place, network: &str, weights: &str) -> TensorFile {
    let line = format!(
        "forward --network {network} --weights {weights} --width 1/16 --image a.png --output o.safetensors --repeat 2"
    );
    let told = place.json(&line);
    assert_eq!(told["seconds"].as_array().unwrap().len(), 2);
    read_tensors(&place.at("o.safetensors")).unwrap()
}

#[test]
fn taps_and_heads() {
    let place = Place::empty();
    write_png(&place.at("a.png"), &image("networks", 45, 83)).unwrap();
    let (taps, heads) = (golden("taps"), golden("heads"));
    for preset in [Preset::Psa, Preset::Paper] {
        write(&place, "cam", &published(&cam_net(preset, narrow()), 1.0));
        write(&place, "affinity", &affinity_weights(preset));
        for network in ["cam", "affinity"] {
            let out = forward(&place, network, network);
            for name in ["conv4", "conv5", "conv6"] {
                let mut got = out.get(name).unwrap().clone();
                if name == "conv6" {
                    assert_eq!(got.shape(), [1, 6, 11, 256]);
                    got = Tensor::new(&[1, 6, 11, 64], got.data().iter().step_by(4).copied().collect())
                        .unwrap();
                }
                let expected = taps.get(name).unwrap();
                let largest = expected.data().iter().fold(0f32, |m, v| m.max(v.abs()));
                assert_near(name, &got, expected, TAPS * largest);
            }
            let own = match network {
                "cam" => ["logits", "class_activation_maps"],
                _ => ["features", "affinities"],
            };
            for name in own {
                let expected = heads.get(&format!("{preset}.{name}")).unwrap();
                // Features are compared as a tap is: those of `psa` reach 10.
                let largest =
                    expected.data().iter().filter(|v| !v.is_nan()).fold(0f32, |m, v| m.max(v.abs()));
                let limit = if name == "features" { TAPS * largest } else { MAPS };
                assert_near(&format!("{preset} {name}"), out.get(name).unwrap(), expected, limit);
            }
        }
    }
}

/// Under `psa` a grid of 4×8 has no pairs at all: an error that says so, not empty planes.
#[test]
fn too_small_for_the_border_rule() {
    let place = Place::empty();
    write_png(&place.at("a.png"), &image("networks", 32, 64)).unwrap();
    write(&place, "psa", &affinity_weights(Preset::Psa));
    write(&place, "paper", &affinity_weights(Preset::Paper));
    let line =
        |w: &str| format!("forward --network affinity --weights {w} --width 1/16 --image a.png --output o");
    place.fails(
        &line("psa"),
        1,
        &["a.png", "no pairs under the border rule `psa`", "32×64", "affinity.border"],
    );
    place.succeeds(&line("paper"));
}

#[test]
fn maps_over_several_scales() {
    let place = Place::empty();
    write_png(&place.at("a.png"), &image("scales", 29, 43)).unwrap();
    let expected = golden("multi-scale");
    let classes = seedwalk::data::Classes::voc();
    for preset in [Preset::Psa, Preset::Paper] {
        let name = preset.to_string();
        write(&place, &format!("{name}.safetensors"), &published(&cam_net(preset, narrow()), 1.0));
        place.succeeds(&format!(
            "make-cams --image a.png --labels 0,2 --weights {name}.safetensors --width 1/16 --output {name} --format npy"
        ));
        let made = cams::read(&place.at(format!("{name}/a.npy")), classes.foreground()).unwrap();
        assert_eq!(made.classes, ["aeroplane", "bird"]);
        assert_near(&format!("{name} maps"), &made.maps, expected.get(&name).unwrap(), MAPS);
    }
}

#[test]
fn segmentation() {
    let place = Place::empty();
    let (h, w) = (112, 120);
    write_png(&place.at("a.png"), &image("segmentation", h, w)).unwrap();
    let network = SegmentationNet { backbone: backbone(narrow()), classes: 3, dilation: 12 };
    write(&place, "weights", &published(&network, 1.0));
    let (out, expected) = (forward(&place, "segmentation", "weights"), golden("segmentation"));
    let (logits, wanted) = (out.get("logits").unwrap(), expected.get("logits").unwrap());
    let largest = wanted.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_near("logits", logits, wanted, TAPS * largest);
    let p = out.get("probabilities").unwrap();
    assert_eq!(p.shape(), [1, h, w, 3]);
    // Every fifth row and seventh column are kept.
    let kept = (0..h).step_by(5).flat_map(|y| (0..w).step_by(7).map(move |x| (y * w + x) * 3));
    let kept = kept.flat_map(|at| p.data()[at..at + 3].to_vec()).collect();
    let kept = Tensor::new(expected.get("probabilities").unwrap().shape(), kept).unwrap();
    assert_near("probabilities", &kept, expected.get("probabilities").unwrap(), MAPS);

    place.write("two.toml", "[segmentation]\nscales = [1.0, 0.75]\n");
    place.succeeds("segment --weights weights --width 1/16 --config two.toml --output masks a.png");
    let made = read_labels(&place.at("masks/a.png")).unwrap().labels;
    let wanted = read_labels(&golden_path("segmentation.png")).unwrap().labels;
    let share = share_equal(&made, &wanted);
    println!("{share:.5} of the labels are equal");
    assert!(share >= 0.999, "{share} of the labels are equal");
}
