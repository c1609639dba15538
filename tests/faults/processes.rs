//! Two processes on one folder, and interruption.

use rustix::process::Signal;

use crate::common::{Place, TRAIN, failed};

#[test]
fn the_second_process_on_a_folder_ends_and_names_the_first() {
    let place = Place::new();
    let long = TRAIN.replace("--epochs 2", "--epochs 100000");
    let line = format!("train-cam {long} --output cam");
    let mut first = place.start(&line);
    let events = place.at("cam/events.jsonl");
    first.wait_until("a step", || std::fs::metadata(&events).is_ok_and(|m| m.len() > 0));
    let holder = format!("process {} ", first.id());
    for second in [line.as_str(), &format!("{line} --overwrite")] {
        place.fails(second, 1, &["cam: ", &holder, "train-cam", "is writing into this folder"]);
    }
    let maps = "make-cams --data data --split train --weights net --output cam";
    place.succeeds(&format!("train-cam {TRAIN} --output net"));
    place.fails(maps, 1, &["cam: ", &holder]);
    // A killed process leaves the lock's file, and that alone means nothing.
    first.signal(Signal::KILL);
    first.end();
    assert!(place.at("cam/.seedwalk.lock").exists());
    place.succeeds(maps);
}

#[test]
fn an_interrupted_training_keeps_its_steps_and_goes_on() {
    let place = Place::new();
    let flags = TRAIN.replace("--epochs 2", "--epochs 40");
    place.succeeds(&format!("train-cam {flags} --output unbroken"));
    for signal in [Signal::INT, Signal::TERM] {
        let output = format!("{signal:?}").replace(['(', ')'], "");
        let line = format!("train-cam {flags} --output {output}");
        let mut running = place.start(&line);
        let events = place.at(format!("{output}/events.jsonl"));
        let steps = || std::fs::read_to_string(&events).map_or(0, |text| text.lines().count());
        running.wait_until("a few steps", || steps() >= 4);
        running.signal(signal);
        failed(&line, running.end(), 130, &["interrupted", "run the same command again"]);
        // The step that was under way is done and kept: a checkpoint off the epochs' ends, or the end of one.
        let done = steps();
        assert!((4..120).contains(&done), "{done}");
        assert_eq!(place.read(&format!("{output}/latest")).trim(), format!("step-{done:010}.safetensors"));
        place.succeeds(&line);
        assert!(place.results(&output).pop() == place.results("unbroken").pop());
    }
}

#[test]
fn an_interrupted_stage_keeps_its_images_and_goes_on() {
    let place = Place::with_images(48, 128);
    place.succeeds(&format!("train-cam {} --output cam", TRAIN.replace("--epochs 2", "--epochs 1")));
    let line = |output: &str| {
        format!("make-cams --data data --split train --weights cam --output {output} --threads 1")
    };
    place.succeeds(&line("unbroken"));
    let mut running = place.start(&line("maps"));
    running.wait_until("a map", || place.at("maps").is_dir() && !place.results("maps").is_empty());
    running.signal(Signal::INT);
    failed("make-cams", running.end(), 130, &["interrupted"]);
    let kept = place.results("maps").len();
    assert!((1..36).contains(&kept), "{kept}");
    let went_on = place.json(&line("maps"));
    assert_eq!((&went_on["kept"], &went_on["written"]), (&kept.into(), &(36 - kept).into()));
    assert!(place.results("maps") == place.results("unbroken"));
}

#[test]
fn an_interrupted_generation_is_no_data_set() {
    let place = Place::empty();
    let line = "synth --output data --images 2000";
    let mut running = place.start(line);
    running.wait_until("a picture", || place.at("data/JPEGImages/000000.jpg").exists());
    running.signal(Signal::INT);
    failed(line, running.end(), 130, &["interrupted"]);
    assert!(!place.at("data/ImageSets/Segmentation/val.txt").exists(), "lists are written last");
}
