//! Data sets on disk: both layouts, all sources of tags, and every fault that is to be told.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::formats::cams::{ClassMaps, write_npy};
use crate::formats::image::{LabelMap, RgbImage, write_jpeg};
use crate::formats::label_png::write_labels;
use crate::tensor::Tensor;
use crate::{Error, Position};

fn photo(path: &Path, width: usize, height: usize) {
    let pixels = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
    write_jpeg(path, &RgbImage { width, height, pixels }, 90).unwrap();
}

fn mask(path: &Path, width: usize, height: usize, labels: &[u8]) {
    let labels = (0..width * height).map(|i| labels[i % labels.len()]).collect();
    write_labels(path, &LabelMap { width, height, labels }).unwrap();
}

fn write_bytes(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn text(path: &Path, text: &str) {
    write_bytes(path, text.as_bytes());
}

fn xml(names: &[&str]) -> String {
    let objects: String = names.iter().map(|n| format!("<object>\n<name>{n}</name>\n</object>\n")).collect();
    format!("<annotation>\n{objects}</annotation>\n")
}

/// Images a, b, c with tags dog; cat and dog; person; list `train` = a, b; `val` = c; masks of a and c.
fn voc() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (id, names) in [("a", &["dog"][..]), ("b", &["dog", "cat", "dog"]), ("c", &["person"])] {
        photo(&root.join(format!("JPEGImages/{id}.jpg")), 8, 6);
        text(&root.join(format!("Annotations/{id}.xml")), &xml(names));
    }
    mask(&root.join("SegmentationClass/a.png"), 8, 6, &[0, 12, 255]);
    mask(&root.join("SegmentationClass/c.png"), 8, 6, &[0, 15]);
    text(&root.join("ImageSets/Segmentation/train.txt"), "a\nb\n");
    text(&root.join("ImageSets/Segmentation/val.txt"), "c\n");
    folder
}

/// A plain folder with classes background, apple, pear and images x.png, sub/y.jpg, z.JPG.
fn plain() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    text(&root.join("classes.txt"), "\u{feff}background\r\napple\r\n\r\n pear \r\n");
    for name in ["x.jpeg", "sub/y.jpg", "z.JPG"] {
        photo(&root.join(name), 5, 7);
    }
    mask(&root.join("masks/x.png"), 5, 7, &[0, 1]);
    folder
}

fn split(name: &str) -> DatasetOptions {
    DatasetOptions { split: Some(name.to_string()), ..Default::default() }
}

fn open_error(root: &Path, options: &DatasetOptions) -> Error {
    Dataset::open(root, options).unwrap_err()
}

fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|s| s.id.as_str()).collect()
}

fn tags(dataset: &Dataset) -> Vec<Option<&[usize]>> {
    dataset.samples.iter().map(|s| s.tags.as_deref()).collect()
}

#[test]
fn voc_layout() {
    let folder = voc();
    let root = folder.path();
    let train = Dataset::open(root, &split("train")).unwrap();
    assert_eq!(ids(&train), ["a", "b"]);
    assert_eq!(tags(&train), [Some(&[12][..]), Some(&[8, 12])]);
    assert_eq!(train.classes, Classes::voc());
    assert_eq!(train.classes.foreground().len(), 20);
    assert_eq!(train.samples[0].image, root.join("JPEGImages/a.jpg"));
    assert_eq!(train.samples[0].mask, Some(root.join("SegmentationClass/a.png")));
    assert_eq!(train.samples[1].mask, None);
    assert_eq!(ids(&Dataset::open(root, &DatasetOptions::default()).unwrap()), ["a", "b", "c"]);
    // A list by its path, in the form with two paths, from outside the folder.
    let list = tempfile::tempdir().unwrap();
    let list = list.path().join("mine.txt");
    text(&list, "/JPEGImages/c.jpg /SegmentationClass/a.png\n");
    let mine = Dataset::open(root, &split(list.to_str().unwrap())).unwrap();
    assert_eq!(ids(&mine), ["c"]);
    assert_eq!(mine.samples[0].mask, Some(root.join("SegmentationClass/a.png")));
    assert_eq!(tags(&mine), [Some(&[15][..])]);
}

#[test]
fn plain_layout_with_a_csv() {
    let folder = plain();
    let root = folder.path();
    text(
        &root.join("tags.csv"),
        "\u{feff}id,tags\r\n\"x.jpeg\", \"pear\" ,apple,,\r\n\r\nsub/y,apple,apple\r\nz,\r\n",
    );
    let set = Dataset::open(root, &DatasetOptions::default()).unwrap();
    assert_eq!(ids(&set), ["sub/y", "x"]);
    assert_eq!(tags(&set), [Some(&[1][..]), Some(&[1, 2])]);
    assert_eq!(set.untagged, 1);
    assert_eq!(set.samples[1].mask, Some(root.join("masks/x.png")));
    assert_eq!(set.classes.names(), ["background", "apple", "pear"]);

    let with = |tag_use| {
        Dataset::open(root, &DatasetOptions { tag_use, ..Default::default() }).unwrap().samples[2].clone()
    };
    assert_eq!(with(TagUse::NeededOrBackground).tags, Some(vec![]));
    assert_eq!(with(TagUse::Optional).tags, None);
    let unused = DatasetOptions { tag_use: TagUse::Unused, ..Default::default() };
    assert_eq!(tags(&Dataset::open(root, &unused).unwrap()), [None, None, None]);

    text(&root.join("few.txt"), "\u{feff}z.JPG\r\nx\r\n");
    let few = DatasetOptions { tag_use: TagUse::Optional, ..split("few") };
    assert_eq!(ids(&Dataset::open(root, &few).unwrap()), ["z", "x"]);
}

/// A dictionary of number → `values` as psa pickles maps, which is the form of its labels too.
fn npy(path: &Path, ids: &[usize], values: &[&[f32]]) {
    let size = values[0].len();
    let maps = Tensor::new(&[ids.len(), 1, size], values.concat()).unwrap();
    let maps = ClassMaps { classes: vec!["any".into(); ids.len()], maps, image_size: Some((1, size)) };
    write_npy(path, &maps, ids).unwrap();
}

#[test]
fn tags_from_npy() {
    let folder = plain();
    let root = folder.path();
    photo(&root.join("2007_000032.jpg"), 4, 4);
    photo(&root.join("2011_000003.jpg"), 4, 4);
    let path = root.join("cls_labels.npy");
    npy(&path, &[2_007_000_032, 2_011_000_003, 2_011_000_004], &[&[0.0, 1.0], &[1.0, 1.0], &[1.0, 0.0]]);
    let set = Dataset::open(root, &DatasetOptions::default()).unwrap();
    assert_eq!(ids(&set), ["2007_000032", "2011_000003"]);
    assert_eq!(tags(&set), [Some(&[2][..]), Some(&[1, 2])]);
    assert_eq!(set.untagged, 3);
    let options = DatasetOptions { tags: Some(root.join("other.npy")), ..Default::default() };
    npy(&root.join("other.npy"), &[2_007_000_032], &[&[0.0; 20]]);
    let error = open_error(root, &options);
    assert!(error.message().contains("20 labels of `2007_000032` for 2 classes"), "{error}");
    text(&root.join("other.npy"), "no array");
    assert_eq!(open_error(root, &options).path(), options.tags.as_deref());
}

#[test]
fn a_generated_set_opens_without_faults() {
    let folder = tempfile::tempdir().unwrap();
    let options = synth::SynthOptions { images: 8, seed: 4, size: 64, ..Default::default() };
    synth::generate(folder.path(), &options, &|_| Ok(())).unwrap();
    let set = Dataset::open(folder.path(), &split("train")).unwrap();
    assert_eq!(set.samples.len(), 6);
    assert_eq!(set.classes.foreground(), synth::CLASSES);
    for sample in &set.samples {
        let scene = synth::render(&options, sample.id.parse().unwrap());
        assert_eq!(sample.tags.as_ref(), Some(&scene.tags));
    }
    let report = check_data(folder.path(), &DatasetOptions::default(), &|_| Ok(())).unwrap();
    assert_eq!((report.faults.as_slice(), report.warnings.as_slice()), (&[][..], &[][..]));
    assert_eq!((report.images, report.masks, report.untagged), (8, 8, 0));
    assert_eq!(report.widths_and_heights, [64; 4]);
    assert_eq!(report.classes.iter().map(|c| c.pixels).sum::<u64>(), 8 * 64 * 64);
}

#[test]
fn unknown_classes_are_told_with_line_and_nearest_name() {
    let folder = voc();
    let root = folder.path();
    text(&root.join("Annotations/a.xml"), &xml(&["cat", "dgo", "background"]));
    let error = open_error(root, &split("train"));
    assert_eq!(error.path(), Some(root.join("Annotations/a.xml").as_path()));
    assert_eq!(error.position(), Some(Position::Line(6)));
    assert!(error.message().starts_with("unknown class `dgo`"), "{error}");
    assert!(error.message().contains("a.xml:9: `background` is no tag"), "{error}");
    assert!(error.how_to_mend().is_some_and(|r| r.contains("did you mean `dog`?")));

    let folder = plain();
    text(&folder.path().join("tags.csv"), "\u{feff}x,apple\r\n\r\nz,peer\r\nsub/y,wombat\r\n");
    let error = open_error(folder.path(), &DatasetOptions::default());
    assert_eq!(error.position(), Some(Position::Line(3)));
    assert!(error.how_to_mend().is_some_and(|r| r.contains("`pear`")));
    assert!(error.message().contains("tags.csv:4: unknown class `wombat` (name the data set's classes"));
}

#[test]
fn missing_images_name_the_line() {
    let folder = voc();
    let root = folder.path();
    text(&root.join("ImageSets/Segmentation/train.txt"), "a\n\nq\nJPEGImages/r.jpg\n");
    let error = open_error(root, &split("train"));
    assert_eq!(error.position(), Some(Position::Line(3)));
    assert!(error.message().contains("no image `q`") && error.message().contains("train.txt:4"));
    text(&root.join("ImageSets/Segmentation/train.txt"), "JPEGImages/a.jpg masks/none.png\n");
    assert!(open_error(root, &split("train")).message().contains("no mask"));

    let folder = plain();
    text(&folder.path().join("tags.csv"), "x,apple\nnone,pear\n");
    let error = open_error(folder.path(), &DatasetOptions::default());
    assert_eq!(error.position(), Some(Position::Line(2)));
    assert!(error.message().contains("no image `none`"));
}

#[test]
fn ids_that_repeat_or_lead_out_are_refused() {
    let folder = plain();
    let root = folder.path();
    text(&root.join("tags.csv"), "x,apple\nX.jpg,apple\n../x,pear\nx,pear\n\"a\\b\",pear\n");
    let error = open_error(root, &DatasetOptions::default());
    for part in
        ["differs only in case", "csv:3: id `../x` contains `..`", "csv:4: id `x` was already", "csv:5"]
    {
        assert!(error.message().contains(part), "{part} in {error}");
    }
    text(&root.join("tags.csv"), "x,apple\n");
    photo(&root.join("x.png.jpg"), 2, 2);
    photo(&root.join("X.jpg"), 2, 2);
    let error = open_error(root, &DatasetOptions::default());
    assert!(error.message().contains("differs only in case"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_out_of_the_data_set_are_refused() {
    let (folder, other) = (voc(), voc());
    let root = folder.path();
    std::os::unix::fs::symlink(other.path().join("JPEGImages/a.jpg"), root.join("JPEGImages/out.jpg"))
        .unwrap();
    std::os::unix::fs::symlink(root.join("JPEGImages/a.jpg"), root.join("JPEGImages/in.jpg")).unwrap();
    text(&root.join("ImageSets/Segmentation/train.txt"), "in\nout\n");
    let options = DatasetOptions { tag_use: TagUse::Optional, ..split("train") };
    let error = open_error(root, &options);
    assert!(error.message().contains("a link out of the data set"), "{error}");
    assert!(error.path().is_some_and(|p| p.ends_with("out.jpg")));
    text(&root.join("ImageSets/Segmentation/train.txt"), "in\n");
    assert_eq!(Dataset::open(root, &options).unwrap().samples.len(), 1);
}

#[test]
fn empty_and_untagged_sets_are_errors() {
    let folder = voc();
    let root = folder.path();
    text(&root.join("ImageSets/Segmentation/none.txt"), "\u{feff}\r\n");
    assert!(open_error(root, &split("none")).message().contains("no image in the data set"));
    let untagged = plain();
    let error = open_error(untagged.path(), &DatasetOptions::default());
    assert!(error.message().contains("none of the 3 images has tags"));
    assert!(error.how_to_mend().is_some_and(|r| r.contains("--tags")));
    // An annotation without objects, and one that is missing, are both "without tags".
    text(&root.join("Annotations/a.xml"), "<annotation/>");
    std::fs::remove_file(root.join("Annotations/c.xml")).unwrap();
    let set = Dataset::open(root, &DatasetOptions::default()).unwrap();
    assert_eq!((ids(&set), set.untagged), (vec!["b"], 2));
}

#[test]
fn folders_and_lists_that_are_not_there() {
    let folder = voc();
    let root = folder.path();
    let error = open_error(&root.join("nowhere"), &DatasetOptions::default());
    assert_eq!(error.kind(), crate::ErrorKind::Io);
    assert!(
        open_error(&root.join("JPEGImages/a.jpg"), &DatasetOptions::default()).message().contains("folder")
    );
    let error = open_error(root, &split("trian"));
    assert!(error.message().contains("no list `trian`"));
    assert_eq!(error.how_to_mend(), Some("did you mean `train`?"));
    assert_eq!(open_error(root, &split("qqq")).how_to_mend(), Some("there are: train, val"));
    let tags = Some(root.join("none.csv"));
    assert_eq!(open_error(root, &DatasetOptions { tags, ..Default::default() }).kind(), crate::ErrorKind::Io);
}

#[test]
fn text_that_is_no_text() {
    let folder = voc();
    let root = folder.path();
    write_bytes(&root.join("ImageSets/Segmentation/bad.txt"), b"a\nb\xff\n");
    let error = open_error(root, &split("bad"));
    assert_eq!(error.position(), Some(Position::Line(2)));
    assert!(error.message().contains("UTF-8"));
    for (content, line, words) in [
        ("<!DOCTYPE x [<!ENTITY a \"b\">]>\n<annotation/>", 1, "DTD"),
        ("<annotation>\n<object>\n</annotation>", 3, "not an annotation"),
        ("<annotation>\n<object></object></annotation>", 2, "without a name"),
    ] {
        text(&root.join("Annotations/a.xml"), content);
        let error = open_error(root, &split("train"));
        assert_eq!(error.position(), Some(Position::Line(line)), "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    text(&root.join("Annotations/a.xml"), "<html/>");
    assert!(open_error(root, &split("train")).message().contains("<html>"));
}

#[test]
fn class_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classes.txt");
    for (content, line, words) in [
        ("apple\npear\n", 1, "`background`"),
        ("", 1, "nothing"),
        ("background\napple\n\napple\n", 4, "already on line 2"),
        ("background\na\u{1}b\n", 2, "control"),
    ] {
        text(&path, content);
        let error = Classes::read(&path).unwrap_err();
        assert_eq!(error.position(), Some(Position::Line(line)), "{error}");
        assert!(error.message().contains(words), "{error}");
    }
    assert!(Classes::new(vec!["background".into()]).is_err());
    assert!(
        Classes::new((0..256).map(|i| if i == 0 { "background".into() } else { format!("c{i}") }).collect())
            .is_err()
    );
    assert_eq!(Classes::voc().index_of("tvmonitor"), Some(20));
    assert_eq!(Classes::voc().nearest("Aeroplan"), Some("aeroplane"));
    assert_eq!(Classes::voc().nearest("zzz"), None);
}

#[test]
fn check_data_tells_everything_at_once() {
    let folder = voc();
    let root = folder.path();
    let full = std::fs::read(root.join("JPEGImages/b.jpg")).unwrap();
    write_bytes(&root.join("JPEGImages/b.jpg"), &full[..full.len() / 2]);
    mask(&root.join("SegmentationClass/a.png"), 6, 8, &[0, 12, 15]);
    mask(&root.join("SegmentationClass/c.png"), 8, 6, &[0, 15, 21, 254]);
    photo(&root.join("JPEGImages/d.jpg"), 3, 3);
    text(&root.join("Annotations/d.xml"), &xml(&["unicorn"]));
    text(&root.join("Annotations/e.xml"), &xml(&[]));
    photo(&root.join("JPEGImages/e.jpg"), 20, 1);
    text(&root.join("ImageSets/Segmentation/all.txt"), "a\nb\nc\nd\ne\nf\na\n");
    let mut reports = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        reports.push(pool.install(|| check_data(root, &split("all"), &|_| Ok(()))).unwrap());
    }
    assert_eq!(reports[0], reports[1]);
    let report = &reports[0];
    let faults: Vec<String> = report.faults.iter().map(Fault::to_string).collect();
    let has = |file: &str, words: &str| faults.iter().any(|f| f.contains(file) && f.contains(words));
    assert!(has("all.txt:7", "already given"), "{faults:?}");
    assert!(has("d.xml:3", "unicorn"), "{faults:?}");
    assert!(has("all.txt:6", "no image `f`"), "{faults:?}");
    assert!(has("b.jpg", ""), "{faults:?}");
    assert!(has("a.png", "mask of 6×8 for an image of 8×6"), "{faults:?}");
    assert!(has("c.png", "labels 21, 254 in a set of 21 classes"), "{faults:?}");
    assert_eq!(faults.len(), 6, "{faults:?}");
    let warnings: Vec<String> = report.warnings.iter().map(Fault::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("in the mask but no tag: person"));
    assert_eq!((report.images, report.untagged, report.masks), (4, 1, 2));
    assert_eq!(report.widths_and_heights, [8, 20, 1, 6]);
    assert_eq!(report.classes[12], ClassCount { name: "dog".into(), images: 2, pixels: 16 });
    assert_eq!(report.classes[0].pixels, 28);
}

#[test]
fn check_data_stops_when_progress_says_so() {
    let folder = voc();
    let stop = |_| Err(Error::new(crate::ErrorKind::Interrupted, "stop"));
    let error = check_data(folder.path(), &split("train"), &stop).unwrap_err();
    assert_eq!(error.exit_code(), 130);
}
