//! The whole program on small data: all stages, any number of threads, broken off and gone on.

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
    let figures: Vec<_> = one.iter().filter(|(path, _)| path.starts_with("figures")).collect();
    let stages = ["class-activation-maps", "affinity-labels", "affinities", "walk", "crf", "pseudo-labels"];
    let others = ["segmentation", "stages", "training", "evaluation"];
    for name in stages.into_iter().chain(others) {
        let path = Path::new("figures").join(name).with_extension("png");
        let (_, bytes) = figures.iter().find(|(p, _)| *p == path).unwrap_or_else(|| panic!("no {path:?}"));
        assert!((1_000..=300_000).contains(&bytes.len()), "{path:?}: {} bytes", bytes.len());
    }
    assert_eq!(figures.len(), 10);
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
