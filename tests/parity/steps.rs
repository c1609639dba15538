//! The single steps: walk, affinities, CRF, resizes, losses.

use seedwalk::data::augment::{Kernel, resample};
use seedwalk::formats::image::{Exif, IGNORE, read_rgb, write_png};
use seedwalk::formats::safetensors::{Dtype, read_tensors, write_tensors};
use seedwalk::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil, affinities, affinity_loss};
use seedwalk::ops::class_maps::{resize, with_background};
use seedwalk::ops::losses::{multi_label_soft_margin, softmax_cross_entropy};
use seedwalk::tape::{Tape, Var};
use seedwalk::tensor::Tensor;

use super::common::Place;
use super::rule::{assert_near, golden, image, maps, noise, share_equal, words};

/// 256 steps of weighted means, whose weights sum to 1 within 69·ε/2: the error grows at most by 4e-6 a
/// step where nothing cancels, and as its square root where roundings are independent: 7e-5.
const WALK: f32 = 1e-4;

#[test]
fn walk_against_the_dense_matrix() {
    let (h, w) = (12, 17);
    let place = Place::empty();
    let stencil = Stencil::default();
    let expected = golden("steps");
    write_tensors(&place.at("m"), &[("maps", &maps(h, w))], Dtype::F32, &[]).unwrap();
    for (rule, name) in [(BorderRule::Full, "full"), (BorderRule::Psa, "psa")] {
        let mut planes = noise("walk.affinities", &[34, h, w]);
        for (plane, &offset) in planes.data_mut().chunks_exact_mut(h * w).zip(stencil.offsets()) {
            let (ys, xs) = stencil.sources(offset, h, w, rule);
            for (i, v) in plane.iter_mut().enumerate() {
                let there = ys.contains(&(i / w)) && xs.contains(&(i % w));
                *v = if there { 0.5 + 0.5 * *v } else { f32::NAN };
            }
        }
        write_tensors(&place.at("a"), &[("affinities", &planes)], Dtype::F32, &[]).unwrap();
        for steps in ["1", "256"] {
            let line = format!("walk --affinities a --maps m --beta 8 --steps {steps} --output o --repeat 3");
            assert_eq!(place.json(&line)["seconds"].as_array().unwrap().len(), 3);
            let out = read_tensors(&place.at("o")).unwrap();
            let key = format!("{name}.{steps}");
            assert_near(&format!("walk {key}"), out.get("maps").unwrap(), expected.get(&key).unwrap(), WALK);
        }
    }
}

#[test]
fn affinities_with_the_radius_included() {
    let pairs = Pairs {
        stencil: Stencil::new(3, true).unwrap(),
        reduction: Reduction::Mean,
        border: BorderRule::Full,
    };
    let got = affinities(&noise("features", &[1, 12, 17, 5]), &pairs).unwrap();
    let got = got.reshape(&[14, 12, 17]).unwrap();
    // Five terms of at most 2, exp of less than 2: some ε.
    assert_near("affinities", &got, golden("steps").get("inclusive").unwrap(), 1e-6);
}

/// pydensecrf's own arithmetic is f32 too; ten iterations of a contracting map keep its roundings below this.
#[test]
fn crf_against_pydensecrf() {
    let place = Place::empty();
    let (h, w) = (48, 64); // a multiple of 4 pixels: pydensecrf pads nothing
    write_png(&place.at("a.png"), &image("crf", h, w)).unwrap();
    let scores = with_background(&maps(h, w), 4.0).unwrap();
    write_tensors(&place.at("p"), &[("probabilities", &scores)], Dtype::F32, &[]).unwrap();
    let told = place.json("crf --image a.png --probabilities p --output q --repeat 2");
    assert_eq!(told["seconds"].as_array().unwrap().len(), 2);
    let (out, expected) = (read_tensors(&place.at("q")).unwrap(), golden("crf"));
    let (got, expected) = (out.get("q").unwrap(), expected.get("q").unwrap());
    assert_near("q", got, expected, 1e-4);
    let winner = |t: &Tensor| seedwalk::ops::class_maps::argmax(t, &[0, 1, 2]).unwrap().labels;
    assert!(share_equal(&winner(got), &winner(expected)) >= 0.999);
}

#[test]
fn resizes_as_pillow() {
    let picture = image("resize", 17, 21);
    for (kernel, name) in [(Kernel::Cubic, "cubic"), (Kernel::Bilinear, "bilinear")] {
        for (size, expected) in golden(&format!("resize-{name}")).into_pairs() {
            let (w, h) = size.split_once('x').unwrap();
            let got = resample(&picture, w.parse().unwrap(), h.parse().unwrap(), kernel).unwrap();
            let got: Vec<f32> = got.pixels.iter().map(|v| f32::from(*v)).collect();
            // The same whole-number arithmetic: not within a level but equal.
            assert_eq!(got, expected.data(), "{name} {size}");
        }
    }
}

/// JPEG to the last level: every sampling, progressive, inks, sizes below a block.
#[test]
fn photographs_as_pillow() {
    let place = Place::empty();
    let golden = golden("photographs");
    let mut read = 0;
    for (name, file) in golden.tensors.iter().filter_map(|t| Some((t.name.strip_suffix(".file")?, &t.tensor)))
    {
        let bytes: Vec<u8> = file.data().iter().map(|v| *v as u8).collect();
        place.write("a.jpg", bytes);
        let got = read_rgb(&place.at("a.jpg"), Exif::Ignore).unwrap();
        let expected = golden.get(&format!("{name}.pixels")).unwrap();
        assert_eq!([got.height, got.width, 3], expected.shape(), "{name}");
        let got: Vec<f32> = got.pixels.iter().map(|v| f32::from(*v)).collect();
        assert_eq!(got, expected.data(), "{name}");
        read += 1;
    }
    assert_eq!(read, 20);
}

#[test]
fn upsampling_as_pytorch() {
    let planes = noise("planes", &[2, 6, 11]);
    for (size, expected) in golden("upsampling").into_pairs() {
        let (w, h) = size.split_once('x').unwrap();
        let got = resize(&planes, h.parse().unwrap(), w.parse().unwrap()).unwrap();
        // PyTorch's positions are f32, up to 11: 11·ε of a slope of at most 2.
        assert_near(&size, &got, &expected, 11.0 * 2.0 * f32::EPSILON);
    }
}

/// Loss and gradient against autograd in f64: the loss within 1e-5 of itself, the gradient within 1e-5 of its
/// largest value. Sums here are in f64 and terms in f32, some ε each, and 1/(eᵈ − 1) passes the relative error
/// of d on as it is.
fn check_loss(name: &str, input: Tensor, loss: impl FnOnce(&mut Tape, &Var) -> Var) {
    let expected = golden("losses");
    let mut tape = Tape::new();
    let input = tape.leaf(input);
    let loss = loss(&mut tape, &input);
    let (got, value) = (loss.value().item().unwrap(), expected.get(name).unwrap().item().unwrap());
    assert!((got - value).abs() <= 1e-5 * value.abs(), "{name}: {got}, {value} expected");
    let mut gradients = tape.backward(&loss, Tensor::full(loss.shape(), 1.0)).unwrap();
    let gradient = expected.get(&format!("{name}.gradient")).unwrap();
    let largest = gradient.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    let what = format!("{name}'s gradient");
    assert_near(&what, &gradients.take(&input).unwrap(), gradient, 1e-5 * largest);
}

#[test]
fn losses_and_their_gradients() {
    let mut logits = noise("margin.logits", &[4, 5]);
    logits.data_mut().iter_mut().for_each(|v| *v *= 3.0);
    logits.data_mut()[..2].copy_from_slice(&[100.0, -100.0]);
    let targets = words("margin.targets", 20).iter().map(|w| (w & 1) as f32).collect();
    let targets = Tensor::new(&[4, 5], targets).unwrap();
    check_loss("margin", logits, |tape, x| multi_label_soft_margin(tape, x, &targets).unwrap());

    let mut logits = noise("entropy.logits", &[2, 3, 4, 6]);
    logits.data_mut().iter_mut().for_each(|v| *v *= 4.0);
    let label = |w: u32, classes: u32| if w % classes == classes - 1 { IGNORE } else { (w % classes) as u8 };
    let labels: Vec<u8> = words("entropy.labels", 24).into_iter().map(|w| label(w, 7)).collect();
    check_loss("entropy", logits, |tape, x| softmax_cross_entropy(tape, x, &labels).unwrap());

    let labels: Vec<u8> = words("affinity.labels", 2 * 7 * 11).into_iter().map(|w| label(w, 4)).collect();
    for (name, reduction, border, form) in [
        ("affinity.psa", Reduction::Mean, BorderRule::Psa, LossForm::Psa),
        ("affinity.paper", Reduction::Sum, BorderRule::Full, LossForm::Paper),
    ] {
        let pairs = Pairs { stencil: Stencil::default(), reduction, border };
        check_loss(name, noise("affinity.features", &[2, 7, 11, 5]), |tape, x| {
            affinity_loss(tape, x, &labels, &pairs, form).unwrap().0
        });
    }
}
