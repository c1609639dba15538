//! What things are called: ids, class lists, file names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::common::{Place, TRAIN};

#[test]
fn ids_that_lead_out_or_repeat_are_refused_and_nothing_is_written() {
    let place = Place::new();
    let refused = |list: &str, words: &[&str]| {
        place.write("list.txt", list);
        let flags = TRAIN.replace("--split train", "--split list.txt");
        place.fails(&format!("train-cam {flags} --output cam"), 1, words);
    };
    refused("000001\n../000002\n", &["list.txt:2", "`../000002`", "`..`"]);
    refused("/etc/passwd\n", &["list.txt:1", "not relative"]);
    refused("a\\b\n000001\n", &["list.txt:1", "backslash"]);
    refused("000001\0\n", &["list.txt:1", "NUL"]);
    refused("000001\n000004\n000001\n", &["list.txt:3", "already given on line 1"]);
    refused("000001\nAB\nab\n", &["list.txt:3", "differs only in case from `AB` on line 2"]);
    // Each of several faults is told.
    refused("000001\n000001\n../x\n", &["list.txt:2", "list.txt:3"]);
    place.write("tags.csv", "000001,ring\n../../x,star\n000001,star\n");
    place.fails(&format!("train-cam {TRAIN} --tags tags.csv --output cam"), 1, &["tags.csv:2", "tags.csv:3"]);
    assert!(!place.at("cam").exists());
}

#[test]
fn links_out_of_the_data_set_are_refused() {
    let place = Place::new();
    place.copy("data/JPEGImages", "elsewhere");
    let photo = place.at("data/JPEGImages/000001.jpg");
    std::fs::remove_file(&photo).unwrap();
    std::os::unix::fs::symlink("../../elsewhere/000001.jpg", &photo).unwrap();
    let words = &["JPEGImages/000001.jpg", "a link out of the data set", "elsewhere/000001.jpg"];
    place.fails(&format!("train-cam {TRAIN} --output cam"), 1, words);
}

#[test]
fn class_lists_that_differ_are_both_shown() {
    let place = Place::with_cams();
    place.succeeds("make-affinity-labels --data data --split train --cams cams --output labels");
    let names = place.read("data/classes.txt");
    // Other order, same names: labels would count in other classes.
    let mut other: Vec<&str> = names.lines().collect();
    other.swap(1, 2);
    place.write("other.txt", other.join("\n"));
    let (stored, asked) = (names.lines().collect::<Vec<_>>().join(", "), other.join(", "));
    let before = (place.results("cam"), place.results("cams"), place.results("labels"));
    let refused = |line: &str, at: &str| {
        place.fails(&format!("{line} --classes other.txt"), 1, &[at, &stored, &asked, "--classes"]);
    };
    let data = "--data data --split train";
    refused(&format!("make-cams {data} --weights cam --output x"), "cam: ");
    refused(&format!("train-cam {TRAIN} --output cam"), "cam: ");
    refused(&format!("make-affinity-labels {data} --cams cams --output x"), "cams: ");
    refused(&format!("make-affinity-labels {data} --cams cams --output labels --overwrite"), "cams: ");
    refused(&format!("train-affinity {TRAIN} --labels labels --output x"), "labels: ");
    refused(&format!("train-segmentation {TRAIN} --labels labels --output x"), "labels: ");
    refused(&format!("evaluate {data} --predictions labels"), "labels: ");
    refused(&format!("evaluate {data} --cams cams"), "cams: ");
    assert!(before == (place.results("cam"), place.results("cams"), place.results("labels")));
    // And with an `.npy` of indices alone the folder's list is what tells.
    place.succeeds(&format!("make-cams {data} --weights cam --format npy --output psa"));
    refused(&format!("make-affinity-labels {data} --cams psa --output x"), "psa: ");
}

#[test]
fn names_that_are_not_utf8_are_accepted_shown_escaped_and_lossless_in_json() {
    let place = Place::new();
    let odd = |bytes: &[u8]| place.at(OsStr::from_bytes(bytes));
    std::fs::rename(place.at("data"), odd(b"d\xff")).unwrap();
    let run = |line: &str, data: &[u8]| {
        let mut command = place.command(line);
        command.arg(OsStr::from_bytes(data));
        command.output().unwrap()
    };
    let flags = "--split train --width 1/32 --epochs 1 --batch 2 --crop 32";
    let out = run(&format!("train-cam {flags} --json --output cam --data"), b"d\xff");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line = format!("train-segmentation {flags} --json --data d --labels");
    std::fs::rename(odd(b"d\xff"), place.at("d")).unwrap();
    std::fs::rename(place.at("d/SegmentationClass"), odd(b"l\xfe\n")).unwrap();
    let mut command = place.command(&line);
    let out = command.arg(odd(b"l\xfe\n")).arg("--output").arg(OsStr::from_bytes(b"n\xfd")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let trained: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(trained["output"], serde_json::json!({ "bytes": "6efd" }));

    // A photograph of such a name, in a folder and by itself, gets a mask of one name.
    std::fs::rename(odd(b"n\xfd"), place.at("net")).unwrap();
    std::fs::create_dir(place.at("photos")).unwrap();
    std::fs::copy(place.at("d/JPEGImages/000001.jpg"), odd(b"photos/p\xfa q.jpg")).unwrap();
    place.succeeds("segment --weights net --output masks photos");
    assert!(run("segment --weights net --output single", b"photos/p\xfa q.jpg").status.success());
    assert!(place.at("masks/p%FA q.png").is_file());
    assert!(place.results("masks") == place.results("single"));

    // Errors escape the name for people and keep its bytes for programs.
    std::fs::write(odd(b"photos/p\xfa q.jpg"), "no photograph").unwrap();
    let out = run("inspect --json", b"photos/p\xfa q.jpg");
    assert_eq!(out.status.code(), Some(1));
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(told.contains("photos/p\\xfa q.jpg: "), "{told}");
    let error: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(error["error"]["file"]["bytes"], "70686f746f732f70fa20712e6a7067");
    let out = place.run("check-data --data photos --json");
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["faults"][0]["file"]["bytes"], "70686f746f732f70fa20712e6a7067");
}
