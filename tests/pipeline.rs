//! The whole program on small data: all stages, any number of threads, broken off and gone on, bad input.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{configuration, results, seedwalk, text};

fn synth(folder: &Path, images: usize) -> PathBuf {
    let data = folder.join("data");
    let out = seedwalk(&["synth", "--output", text(&data), "--images", &images.to_string(), "--seed", "3"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    data
}

#[test]
fn threads_and_kills_do_not_show_in_the_results() {
    let dir = tempfile::tempdir().unwrap();
    let data = synth(dir.path(), 16);
    let run = |name: &str, threads: &str| {
        let config = configuration(dir.path(), &data, name);
        let out = seedwalk(&["run", text(&config), "--threads", threads, "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let metrics: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(metrics["schema_version"], 1);
        let names: Vec<_> =
            metrics["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        for stage in ["cams", "walk", "pseudo_labels", "segmentation"] {
            assert!(names.contains(&stage), "{names:?}");
        }
        results(&dir.path().join(name))
    };
    let one = run("one", "1");
    assert!(one.len() > 16 * 4, "{} files", one.len());
    assert!(one == run("two", "2"), "2 threads");
    assert!(one == run("three", "3"), "3 threads");

    // Killed again and again, each time a little later, until it comes through.
    let config = configuration(dir.path(), &data, "killed");
    let mut wait = 100;
    loop {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seedwalk"))
            .args(["run", text(&config), "-q", "--threads", "2"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        wait += 250;
    }
    let killed = results(&dir.path().join("killed"));
    let names = |r: &[(PathBuf, Vec<u8>)]| r.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&killed));
    assert!(one == killed, "a run that was killed differs");

    // A second time there is nothing to do.
    let out = Command::new(env!("CARGO_BIN_EXE_seedwalk"))
        .args(["run", text(&config), "--dry-run"])
        .output()
        .unwrap();
    let plans = String::from_utf8(out.stdout).unwrap();
    assert_eq!(plans.lines().filter(|l| l.contains("skip")).count(), 7, "{plans}");
}

/// Runs, expects the exit code, and words in what it prints: `check-data` lists faults as its result.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let out = seedwalk(arguments);
    let error = [out.stderr, out.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(out.status.code(), Some(code), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: `{word}` is not in: {error}");
    }
}

#[test]
fn bad_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = synth(dir.path(), 8);
    let at = |name: &str| dir.path().join(name);
    fails(&["no-such-command"], 2, &["no-such-command"]);
    fails(&["run"], 2, &["CONFIG.toml"]);
    fails(&["run", "missing.toml"], 1, &["missing.toml"]);
    let config = at("bad.toml");
    std::fs::write(&config, "[walk]\nbetta = 1\n").unwrap();
    fails(&["run", text(&config)], 1, &["bad.toml", "bad.toml:2", "betta", "`walk.beta`"]);
    fails(&["synth", "--output", text(&config), "--images", "4"], 1, &["bad.toml"]);
    fails(&["synth", "--output", text(&at("x")), "--images", "4", "--device", "cuda"], 1, &["cuda"]);

    let train = |output: &str| {
        vec![
            "train-cam",
            "--data",
            text(&data),
            "--split",
            "train",
            "--width",
            "1/32",
            "--epochs",
            "1",
            "--crop",
            "32",
        ]
        .into_iter()
        .map(String::from)
        .chain(["--output".into(), text(&at(output)).to_string()])
        .collect::<Vec<String>>()
    };
    let run = |a: Vec<String>| a;
    let base = run(train("cam"));
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    assert!(seedwalk(&base).status.success());
    // Another configuration into the same folder, and a checkpoint of another network.
    let other: Vec<&str> = base.iter().copied().chain(["--seed", "9"]).collect();
    fails(&other, 1, &["another configuration", "--overwrite"]);
    fails(
        &["segment", "--weights", text(&at("cam")), "--output", text(&at("m")), text(&data)],
        1,
        &["cam network"],
    );

    // A truncated photograph.
    let photo = std::fs::read_dir(data.join("JPEGImages")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&photo).unwrap();
    std::fs::write(&photo, &whole[..whole.len() / 2]).unwrap();
    fails(&["check-data", "--data", text(&data)], 1, &[photo.file_name().unwrap().to_str().unwrap()]);
    std::fs::write(&photo, &whole).unwrap();
    // A list that names a missing file, with its line.
    let list = data.join("ImageSets/Segmentation/train.txt");
    let ids = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, format!("{ids}nowhere\n")).unwrap();
    fails(&base, 1, &["nowhere", "train.txt"]);
    std::fs::write(&list, ids).unwrap();
    // A damaged checkpoint.
    let found = results(&at("cam")).into_iter().map(|(path, _)| at("cam").join(path));
    let weights = found.max().unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    fails(
        &[
            "make-cams",
            "--data",
            text(&data),
            "--split",
            "train",
            "--weights",
            text(&at("cam")),
            "--output",
            text(&at("cams")),
        ],
        1,
        &["cam"],
    );
}
