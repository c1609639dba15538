//! Disks that are full and folders that cannot be written. These tests may run as root, whom permission bits
//! do not stop: a path below a file and /proc refuse root too, and a limit on a file's size makes a write
//! fail at a chosen byte as a full disk does.

use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::common::{Place, TRAIN, failed};

/// Runs a command whose files may have `blocks` blocks (of 512 bytes or 1 KiB, as the shell has it).
fn limited(place: &Place, line: &str, blocks: u32) -> std::process::Output {
    let program = place.command(line);
    let shell = format!("ulimit -f {blocks}; exec \"$@\"");
    let mut command = std::process::Command::new("sh");
    command.current_dir(place.at("")).args(["-c", &shell, "sh"]).arg(program.get_program());
    command.args(program.get_args()).output().unwrap()
}

fn temporary_files(place: &Place, folder: &str) -> usize {
    let names = std::fs::read_dir(place.at(folder)).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".seedwalk-")).count()
}

#[test]
fn a_training_without_room_for_its_checkpoints_is_refused_before_its_first_step() {
    let place = Place::new();
    let line = format!("train-cam {TRAIN} --output cam");
    let words = &["cam: ", "checkpoints", "1.7 MiB are needed", "are allowed"];
    failed(&line, limited(&place, &line, 300), 1, words);
    assert!(place.results("cam").is_empty() && !place.at("cam/events.jsonl").exists());
    // One that goes on is refused in the same way and finds its checkpoint whole.
    place.succeeds(&line);
    let whole = place.results("cam");
    std::fs::remove_file(place.at("cam/step-0000000006.safetensors")).unwrap();
    place.write("cam/latest", "step-0000000003.safetensors\n");
    failed(&line, limited(&place, &line, 300), 1, words);
    assert!(place.results("cam")[..] == whole[..1]);
    assert_eq!(temporary_files(&place, "cam"), 0);
    place.succeeds(&line);
    assert!(whole == place.results("cam"));
}

#[test]
fn a_disk_that_fills_up_leaves_the_old_checkpoint_whole() {
    let place = Place::new();
    let line = format!("train-cam {} --output cam", TRAIN.replace("--epochs 2", "--epochs 2000"));
    let mut running = place.start(&line);
    running.wait_until("a checkpoint", || place.at("cam/latest").exists());
    // From now on a checkpoint's file ends in its middle.
    let limit = Rlimit { current: Some(700_000), maximum: Some(700_000) };
    prlimit(Pid::from_raw(running.id()), Resource::Fsize, limit).unwrap();
    let told = failed(&line, running.end(), 1, &["cam/step-", "1.5 MiB are needed", "683.6 KiB are allowed"]);
    assert!(!told.contains(".seedwalk-"), "{told}");
    assert_eq!(temporary_files(&place, "cam"), 0);
    let kept = place.read("cam/latest");
    place.succeeds("inspect cam");
    // With room again the same command goes on from it.
    let mut running = place.start(&line);
    running.wait_until("the next checkpoint", || place.read("cam/latest") != kept);
    running.signal(Signal::INT);
    failed(&line, running.end(), 130, &["interrupted"]);
}

#[test]
fn a_file_without_room_is_absent_and_the_one_before_it_whole() {
    let place = Place::with_cams();
    let convert = "convert-weights cam w.safetensors";
    for blocks in [0, 1, 100, 400] {
        let words = &["w.safetensors: cannot write", "501.6 KiB are needed", "are allowed", "ulimit"];
        failed(convert, limited(&place, convert, blocks), 1, words);
        assert!(!place.at("w.safetensors").exists());
    }
    place.succeeds(convert);
    let whole = std::fs::read(place.at("w.safetensors")).unwrap();
    let again = format!("{convert} --overwrite");
    failed(&again, limited(&place, &again, 100), 1, &["501.6 KiB are needed"]);
    assert!(std::fs::read(place.at("w.safetensors")).unwrap() == whole);
    assert_eq!(temporary_files(&place, "."), 0);
    for line in [
        "synth --output other --images 4",
        "make-cams --data data --split train --weights cam --output maps",
        "make-affinity-labels --data data --split train --cams cams --output labels",
        "forward --network cam --weights cam --image data/JPEGImages/000001.jpg --output f.safetensors",
    ] {
        failed(line, limited(&place, line, 1), 1, &["are needed", "are allowed"]);
    }
    for folder in ["maps", "labels"] {
        assert!(place.results(folder).is_empty());
    }
    assert!(!place.at("f.safetensors").exists());
    assert!(!place.at("other/ImageSets/Segmentation/val.txt").exists());
}

#[test]
fn a_standard_output_that_is_full_is_a_failure() {
    let place = Place::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = place.command("check-data --data data").stdout(full).stderr(Stdio::piped()).output().unwrap();
    failed("check-data", out, 1, &["standard output"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named_before_any_work() {
    let place = Place::with_cams();
    place.write("file", "x");
    let data = "--data data --split train";
    for (folder, culprit) in [("file/x", "file"), ("/proc/x", "/proc")] {
        for line in [
            format!("synth --images 8 --output {folder}"),
            format!("demo --images 8 --output {folder}"),
            format!("train-cam {TRAIN} --output {folder}"),
            format!("make-cams {data} --weights cam --output {folder}"),
            format!("make-affinity-labels {data} --cams cams --output {folder}"),
            format!("train-segmentation {TRAIN} --labels data/SegmentationClass --output {folder}"),
            format!(
                "forward --network cam --weights cam --image data/JPEGImages/000001.jpg --output {folder}.safetensors"
            ),
            format!("convert-weights cam {folder}.safetensors"),
        ] {
            place.fails(&line, 1, &[culprit]);
        }
    }
    let config = crate::common::configuration(&place.at(""), &place.at("data"), "file");
    place.fails(&format!("run {}", config.display()), 1, &["file"]);
    place.fails(&format!("train-cam {TRAIN} --output file"), 1, &["file: "]);
    assert_eq!(place.read("file"), "x");
}
