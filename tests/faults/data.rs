//! Photographs, lists, tags and masks.

use crate::common::{Place, TRAIN};
use seedwalk::formats::image::{LabelMap, RgbImage, write_png};
use seedwalk::formats::label_png::{read_labels, write_labels};

const PHOTO: &str = "data/JPEGImages/000001.jpg";

fn cut(place: &Place, name: &str) -> Vec<u8> {
    let whole = std::fs::read(place.at(name)).unwrap();
    place.write(name, &whole[..whole.len() / 2]);
    whole
}

#[test]
fn a_truncated_photograph_is_named_and_what_was_finished_is_kept() {
    let place = Place::with_cams();
    let whole = cut(&place, PHOTO);
    let words = &["JPEGImages/000001.jpg", "cut off"];
    place.fails(&format!("train-cam {TRAIN} --output other"), 1, words);
    place.fails("make-cams --data data --split train --weights cam --output maps --threads 1", 1, words);
    assert!(place.results("maps").len() < 6);
    place.fails(
        "make-cams --image data/JPEGImages/000001.jpg --labels 0 --weights cam --output one",
        1,
        words,
    );
    place.fails(
        &format!("forward --network cam --weights cam --image {PHOTO} --output f.safetensors"),
        1,
        words,
    );
    assert!(!place.at("f.safetensors").exists());
    let out = place.run("check-data --data data --json");
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["faults"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["faults"][0]["file"], PHOTO);
    // Mended: the same command goes on, and nothing tells that it was broken off.
    place.write(PHOTO, &whole);
    place.succeeds("make-cams --data data --split train --weights cam --output maps");
    assert!(place.results("maps") == place.results("cams"));
}

#[test]
fn segment_goes_on_after_a_photograph_that_cannot_be_read() {
    let place = Place::new();
    place.succeeds(&format!("train-segmentation {TRAIN} --labels data/SegmentationClass --output net"));
    cut(&place, PHOTO);
    place.write("data/JPEGImages/000004.jpg", "");
    let line = "segment --weights net --output masks data/JPEGImages";
    place.fails(line, 1, &["2 of 8 photographs were left out", "000001.jpg", "000004.jpg"]);
    assert_eq!(place.results("masks").len(), 6);
}

#[test]
fn steps_before_a_photograph_that_cannot_be_read_are_kept() {
    let place = Place::new();
    let line = |output: &str| format!("train-cam {TRAIN} --output {output} --threads 1");
    place.succeeds(&line("unbroken"));
    // The order of the samples is the seed's; one of them is not in the first batch.
    let mut kept = 0;
    for id in place.read("data/ImageSets/Segmentation/train.txt").lines() {
        let photo = format!("data/JPEGImages/{id}.jpg");
        let whole = cut(&place, &photo);
        place.fails(&line(id), 1, &[&photo]);
        place.write(&photo, &whole);
        if place.at(id).join("latest").exists() {
            kept += 1;
            let step = place.read(&format!("{id}/latest"));
            assert!(step.contains("step-0000000001") || step.contains("step-0000000002"), "{step}");
            let last = place.results(id).pop();
            assert!(last.is_some());
            place.succeeds(&line(id));
            assert!(place.results(id).pop() == place.results("unbroken").pop());
        }
    }
    assert_eq!(kept, 4, "six images in batches of two");
}

#[test]
fn a_list_that_names_a_missing_file_is_told_with_its_line() {
    let place = Place::new();
    let list = "data/ImageSets/Segmentation/train.txt";
    let ids = place.read(list);
    place.write(list, format!("{ids}nowhere\n"));
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, &["train.txt:7", "no image `nowhere`"]);
    assert!(!place.at("cam").exists());
    std::fs::remove_file(place.at(PHOTO)).unwrap();
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, &["train.txt:2", "000001", "train.txt:7"]);
    place.write(list, "");
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, &["train.txt", "no image"]);
    place.fails("check-data --data data --split trian", 1, &["did you mean `train`?"]);
}

#[test]
fn a_tag_that_is_no_class_is_told_with_the_nearest_one() {
    let place = Place::new();
    place.edit("data/Annotations/000001.xml", "<name>ring", "<name>rnig");
    let words = &["Annotations/000001.xml:", "unknown class `rnig`", "did you mean `ring`?"];
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, words);
    let out = place.run("check-data --data data");
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).contains("did you mean `ring`?"));
    place.write("tags.csv", "id,classes\n000000,star\n000001,starr\n");
    place.fails(
        &format!("train-cam {TRAIN} --tags tags.csv --output cam"),
        1,
        &["tags.csv:3", "`starr`", "`star`"],
    );
}

#[test]
fn images_without_tags_are_counted() {
    let place = Place::new();
    std::fs::remove_file(place.at("data/Annotations/000001.xml")).unwrap();
    let told = |line: &str| {
        let out = place.run(line);
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let warning = told(&format!("train-cam {TRAIN} --output cam"));
    assert!(warning.contains("1 of 6 images have no tags: left out"), "{warning}");
    let warning = told(&format!("train-cam {TRAIN} --output other --allow-unlabelled"));
    assert!(warning.contains("1 of 6 images have no tags: taken as background"), "{warning}");
    assert_eq!(place.json("make-cams --data data --split train --weights cam --output cams")["written"], 5);
    let labels = place.json("make-affinity-labels --data data --split train --cams cams --output labels");
    assert_eq!((&labels["written"], &labels["skipped"]), (&5.into(), &1.into()));
    std::fs::remove_dir_all(place.at("data/Annotations")).unwrap();
    let line = format!("train-cam {TRAIN} --output third");
    place.fails(&line, 1, &["train.txt", "none of the 6 images has tags", "--allow-unlabelled"]);
}

#[test]
fn images_of_any_size_go_through_every_stage() {
    let place = Place::empty();
    let sizes = [("dot", 1, 1), ("line", 500, 1), ("post", 1, 90), ("odd", 17, 31)];
    for (id, width, height) in sizes {
        let picture =
            RgbImage::new(width, height, (0..width * height * 3).map(|i| (i * 7) as u8).collect()).unwrap();
        write_png(&place.at(format!("data/images/{id}.png")), &picture).unwrap();
        let labels = (0..width * height).map(|i| (i % 3) as u8).collect();
        write_labels(
            &place.at(format!("data/masks/{id}.png")),
            &LabelMap::new(width, height, labels).unwrap(),
        )
        .unwrap();
    }
    place.write("data/classes.txt", "background\ncat\ndog\n");
    place.write("data/tags.csv", "dot,cat\nline,dog\npost,cat,dog\nodd,cat\n");
    place.write("data/all.txt", "dot\nline\npost\nodd\n");
    place.write(
        "run.toml",
        "[data]\nroot = \"data\"\ntrain = \"all\"\nval = \"\"\n[output]\nfolder = \"run\"\n\
         [backbone]\nwidth = \"1/32\"\n[cam]\nlong_side = [1, 64]\nscales = [1.0, 0.5]\n\
         [cam.training]\nbatch = 2\nepochs = 1\ncrop = 32\n[affinity.training]\nbatch = 2\nepochs = 1\ncrop = 32\n\
         [segmentation.training]\nbatch = 2\nepochs = 1\ncrop = 32\n",
    );
    place.succeeds("check-data --data data");
    place.succeeds("run run.toml");
    for folder in ["affinity-labels", "pseudo-labels", "revised-labels", "segmentations"] {
        for (id, width, height) in sizes {
            let map = read_labels(&place.at(format!("run/{folder}/{id}.png"))).unwrap();
            assert_eq!((map.width, map.height), (width, height), "{folder}/{id}");
        }
    }
    let line = "forward --network affinity --weights run/affinity --image data/images/dot.png --output dot.safetensors";
    let tensors = &place.json(line)["tensors"];
    assert_eq!(tensors["affinities"], serde_json::json!([34, 1, 1]), "no neighbour at all");
}

#[test]
fn a_mask_of_another_size_than_its_image_is_told_with_both_sizes() {
    let place = Place::with_cams();
    place.copy("data/SegmentationClass", "labels");
    write_labels(&place.at("labels/000004.png"), &LabelMap::new(40, 30, vec![0; 1200]).unwrap()).unwrap();
    let words = &["labels/000004.png", "40×30", "64×64"];
    for stage in ["train-segmentation", "train-affinity"] {
        place.fails(&format!("{stage} {TRAIN} --labels labels --output {stage}"), 1, words);
    }
    place.fails("evaluate --data data --split train --predictions labels", 1, words);
    place.copy("labels", "data/SegmentationClass");
    let out = place.run("check-data --data data --split train");
    assert_eq!(out.status.code(), Some(1));
    let report = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(report.contains("SegmentationClass/000004.png: mask of 40×30 for an image of 64×64"), "{report}");
    // Maps of an image that has changed meanwhile.
    let picture = RgbImage::new(32, 32, vec![9; 32 * 32 * 3]).unwrap();
    std::fs::remove_file(place.at(PHOTO)).unwrap();
    write_png(&place.at("data/JPEGImages/000001.png"), &picture).unwrap();
    let line = "make-affinity-labels --data data --split train --cams cams --output affinity-labels";
    place.fails(line, 1, &["cams/000001.safetensors", "64×64", "32×32"]);
}

#[test]
fn a_label_that_is_no_class_is_told() {
    let place = Place::new();
    place.copy("data/SegmentationClass", "labels");
    write_labels(&place.at("labels/000004.png"), &LabelMap::new(64, 64, vec![99; 64 * 64]).unwrap()).unwrap();
    let words = &["labels/000004.png", "label 99", "7 classes"];
    for stage in ["train-segmentation", "train-affinity"] {
        place.fails(&format!("{stage} {TRAIN} --labels labels --output {stage}"), 1, words);
    }
    place.fails("evaluate --data data --split train --predictions labels", 1, words);
}

#[test]
fn a_picture_of_more_than_64_megapixels_is_refused_by_its_header() {
    let place = Place::new();
    place.succeeds(&format!("train-segmentation {TRAIN} --labels data/SegmentationClass --output net"));
    let mut header = Vec::new();
    let encoder = png::Encoder::new(&mut header, 70_000, 60_000);
    encoder.write_header().unwrap().write_chunk(png::chunk::IDAT, &[0]).unwrap();
    place.write("bombs/large.png", &header);
    let started = std::time::Instant::now();
    place.fails(
        "segment --weights net --output masks bombs",
        1,
        &["bombs/large.png", "70000×60000", "67108864"],
    );
    place.fails("inspect bombs/large.png", 1, &["bombs/large.png", "70000×60000"]);
    assert!(started.elapsed().as_secs() < 10, "memory for the pixels was taken");
    assert!(place.results("masks").is_empty());
}
