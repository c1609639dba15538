//! A whole `run` under the preset `psa`, from initial weights as another program wrote them: every stage, and its
//! outputs in psa's conventions. `whole.py` compares the numbers of such a run with those of the reference.

use seedwalk::config::Preset;
use seedwalk::data::{Dataset, DatasetOptions};
use seedwalk::formats::cams;
use seedwalk::formats::checkpoint::{self, Checkpoint};
use seedwalk::formats::label_png::read_labels;
use seedwalk::formats::npy::read_array;
use seedwalk::formats::safetensors::read_tensors;

use super::common::Place;
use super::networks::{cam_net, published, write};

/// `whole.py` runs the same. A tenth of the preset's rate: the weights by rule have learned nothing.
const CONFIGURATION: &str = include_str!("whole.toml");

const STAGES: [&str; 8] = [
    "train_cam",
    "cams",
    "affinity_labels",
    "train_affinity",
    "walk",
    "pseudo_labels",
    "train_segmentation",
    "segmentation",
];

fn trained(place: &Place, name: &str) -> Checkpoint {
    checkpoint::load(&place.at(format!("run/{name}"))).unwrap()
}

#[test]
fn a_whole_run() {
    let place = Place::with_images(8, 96);
    let initial = published(&cam_net(Preset::Psa, "1/32".parse().unwrap()), 1.0);
    write(&place, "initial.safetensors", &initial);
    place.write("psa.toml", CONFIGURATION);
    let metrics = place.json("run psa.toml");
    let names: Vec<&str> =
        metrics["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, STAGES);

    // Six images: three steps an epoch in batches of two, one in batches of four, whose remainder is left out. SGD keeps
    // one tensor for each weight that learns, as its momentum is small and not 0; conv1a, the b2 units and the batch
    // normalisation stay what they were.
    for (name, steps) in [("cam", 6), ("affinity", 2), ("segmentation", 3)] {
        let checkpoint = trained(&place, name);
        assert_eq!((checkpoint.step, &checkpoint.configuration["network"]["preset"]), (steps, &"psa".into()));
        let slots = checkpoint.optimizer.iter().filter(|(slot, _)| slot != "steps").count();
        let frozen = |name: &str| name.starts_with("conv1a") || name.starts_with("b2") || name.contains("bn");
        let learned = checkpoint.tensors.iter().filter(|(name, _)| !frozen(name)).count();
        assert_eq!(slots, learned, "{name}");
        for (name, value) in &checkpoint.tensors {
            let Some((_, before)) = initial.iter().find(|(n, _)| n == name) else { continue };
            // The two files have other orders of a filter's values, and the same sum of them.
            let total =
                |t: &seedwalk::tensor::Tensor| t.data().iter().map(|v| f64::from(v.abs())).sum::<f64>();
            let same = (total(value) - total(before)).abs() <= 1e-9 * total(before);
            assert!(same == frozen(name) || name.starts_with("fc8"), "{name}: {same}");
        }
    }

    let options = DatasetOptions { split: None, ..DatasetOptions::default() };
    let data = Dataset::open(&place.at("data"), &options).unwrap();
    assert_eq!(data.samples.len(), 8);
    let mut decided = 0;
    for sample in &data.samples {
        let id = &sample.id;
        let tags: Vec<usize> = sample.tags.clone().unwrap();
        // {class index: float32 H×W}, divided by their maximum + 1e-5.
        let file = place.at(format!("run/cams/{id}.npy"));
        assert!(read_array(&file).is_err(), "a dictionary, not an array");
        let maps = cams::read(&file, data.classes.foreground()).unwrap();
        let expected: Vec<&String> = tags.iter().map(|&tag| &data.classes.names()[tag]).collect();
        assert_eq!(maps.classes.iter().collect::<Vec<_>>(), expected);
        assert_eq!((maps.maps.shape(), maps.image_size), (&[tags.len(), 96, 96][..], Some((96, 96))));
        for map in maps.maps.data().chunks(96 * 96) {
            let largest = map.iter().fold(0f32, |m, v| m.max(*v));
            assert!(largest < 1.0 && map.iter().all(|v| *v >= 0.0), "{largest}");
        }
        assert!(!place.at(format!("run/cams/{id}.safetensors")).exists());

        let allowed = |labels: &[u8], and: &[u8]| {
            labels.iter().all(|l| and.contains(l) || tags.contains(&usize::from(*l)))
        };
        // No CRF after the walk.
        let pseudo = read_labels(&place.at(format!("run/pseudo-labels/{id}.png"))).unwrap();
        assert_eq!(pseudo, read_labels(&place.at(format!("run/revised-labels/{id}.png"))).unwrap());
        assert!(allowed(&pseudo.labels, &[0]));
        let segmented = read_labels(&place.at(format!("run/segmentations/{id}.png"))).unwrap();
        assert_eq!((segmented.width, segmented.height), (96, 96));

        // Affinity labels, and the posteriors that psa averages on the grid, of the training images alone.
        let labels = place.at(format!("run/affinity-labels/{id}.png"));
        let scores = place.at(format!("run/affinity-labels/scores/{id}.safetensors"));
        if !labels.exists() {
            assert!(!scores.exists());
            continue;
        }
        decided += 1;
        assert!(allowed(&read_labels(&labels).unwrap().labels, &[0, 255]));
        let scores = read_tensors(&scores).unwrap();
        for name in ["strong", "weak"] {
            assert_eq!(scores.get(name).unwrap().shape(), [1 + tags.len(), 96, 96]);
        }
    }
    assert_eq!(decided, 6, "the list `train`");
    let plans = place.succeeds("run psa.toml --dry-run");
    assert_eq!(plans.lines().filter(|line| line.contains("skip")).count(), 7, "{plans}");
}
