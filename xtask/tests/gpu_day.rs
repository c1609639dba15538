//! The GPU day's runner with shell scripts in place of the programs: what one part does to itself, the others and the results
//! file live through.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xtask::day::child::End;
use xtask::day::results::Results;
use xtask::day::runner::{Options, run};

const TESTS: &str = r#"case "$*" in
  *--list*--ignored*) echo 'small::by_name: test' ;;
  *--list*) echo 'small::by_name: test'; printf 'full_size::slow: test\nloading::loads: test\nsmall::crashes: test\nsmall::fails: test\nsmall::passes: test\n' ;;
  *full_size::slow*) sleep 100 & sleep 100 ;;
  *small::crashes*) kill -SEGV $$ ;;
  *small::fails*) echo "assertion failed: 1 is not 2"; exit 101 ;;
  *loading::loads*) echo "test loading::loads ... fact: {\"gpu\":\"G\"}"; echo "left out on cuda:0: seeded orders" ;;
  *) test "$SEEDWALK_TEST_DEVICE" = cuda:0 && test -x "$SEEDWALK_TEST_PROGRAM" ;;
esac
"#;

const PROGRAM: &str = r#"case "$1" in
  doctor) echo '{"findings":[]}' ;;
  synth) mkdir data ;;
  train-cam) mkdir cam-f32 && printf '{"loss":3.0,"images_per_second":1}\n{"loss":1.0,"images_per_second":1.5}\n' > cam-f32/events.jsonl ;;
  train-affinity) echo "out of memory: the affinities" >&2; exit 1 ;;
  train-segmentation) mkdir segmentation-f32; printf '{"loss":3.0,"images_per_second":1}\n' > segmentation-f32/events.jsonl; sleep 100 ;;
esac
"#;

/// Arguments: --bench FILTER --gpu-only --device D --json FILE --seconds N.
const BENCH: &str = r#"test "$3" = --gpu-only || exit 2
case "$2" in
  conv2d*) echo '{"gpu":"G","driver":"1","rows":[{"operation":"conv2d","case":"a","kernel":"k","median_s":1e-3}],"left_out":[]}' > "$7" ;;
  walk) echo '{"rows":[{"operation":"walk","case":"a","median_s":1e-3}],"left_out":["large"]}' > "$7"; sleep 100 ;;
  affinity) echo '{"rows":[{"operation":"affinity","case":"a","median_s":1e-3}]}' > "$7" ;;
  .) kill -ABRT $$ ;;
  torn) echo '{"rows":[' > "$7" ;;
  *) exit 1 ;;
esac
"#;

fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("gpu-tests", TESTS), ("seedwalk", PROGRAM), ("ops-bench", BENCH)] {
        script(&folder.path().join("bin").join(name), text);
    }
    std::fs::write(folder.path().join("manifest.json"), r#"{"commit":"abc+"}"#).unwrap();
    folder
}

fn options(folder: &Path, seconds: f64) -> Options {
    Options {
        folder: folder.to_owned(),
        device: "cuda:0".into(),
        seconds,
        part_seconds: 2.5,
        results: folder.join("results.json"),
        work: folder.join("work"),
        tests: vec![],
        networks: vec![],
        precisions: vec!["f32".into()],
        benches: ["conv2d", "conv2d again", "walk", "torn", "crf"].map(str::to_owned).to_vec(),
        small: true,
    }
}

#[test]
fn a_part_that_hangs_crashes_or_fails_costs_itself_alone() {
    let folder = folder();
    let options = options(folder.path(), 40.0);
    run(&options).unwrap();
    // What is read is the file, not what was returned.
    let results = Results::read(&options.results).unwrap();
    assert!(results.finished && results.seconds.1 < 40.0, "{:?}", results.seconds);
    assert_eq!((&*results.commit, &*results.device), ("abc+", "cuda:0"));
    let tests: Vec<(&str, End)> =
        results.tests.iter().map(|t| (t.name.as_str(), t.part.end.clone())).collect();
    let expected = [
        ("loading::loads", End::Passed),
        ("small::crashes", End::Crashed(11)),
        ("small::fails", End::Failed(101)),
        ("small::passes", End::Passed),
        ("full_size::slow", End::TimedOut),
    ];
    assert_eq!(tests, expected);
    assert_eq!(results.tests[0].left_out, ["seeded orders"]);
    assert_eq!(results.tests[0].facts[0]["gpu"], "G");
    assert!(results.tests[2].part.output.contains("1 is not 2"));

    let trainings = &results.trainings;
    let ends: Vec<(&str, &End, bool)> =
        trainings.iter().map(|t| (t.network.as_str(), &t.part.end, t.falls)).collect();
    let expected = [
        ("cam", &End::Passed, true),
        ("affinity", &End::Failed(1), false),
        ("segmentation", &End::TimedOut, false),
    ];
    assert_eq!(ends, expected);
    assert_eq!(trainings[0].losses, [Some(3.0), Some(1.0)]);
    assert!(trainings[1].part.output.contains("out of memory: the affinities"));
    // What it told before it hung is kept.
    assert_eq!(trainings[2].losses, [Some(3.0)]);

    let measured = results.measured.unwrap();
    let rows: Vec<&str> = measured.rows.iter().map(|row| row.operation.as_str()).collect();
    assert_eq!(rows, ["conv2d", "walk"], "of the run that hung too, and each once");
    let ends: Vec<&End> = results.benches.iter().map(|b| &b.part.end).collect();
    assert_eq!(ends, [&End::Passed, &End::Passed, &End::TimedOut, &End::Passed, &End::Failed(1)]);
    assert!(results.benches[3].part.output.contains("no measurements"));
    assert_eq!(measured.left_out, ["large"]);
}

#[test]
fn time_that_is_up_leaves_the_rest_out_and_says_so() {
    let folder = folder();
    script(
        &folder.path().join("bin/gpu-tests"),
        &TESTS.replace("*small::passes*", "*").replace("  *) test", "  *) sleep 100; test"),
    );
    let mut options = options(folder.path(), 12.0);
    options.tests = vec!["slow".into(), "passes".into(), "fails".into()];
    options.part_seconds = 100.0;
    let results = run(&options).unwrap();
    assert!(results.finished && results.seconds.1 < 12.5, "{:?}", results.seconds);
    let left_out = results
        .tests
        .iter()
        .filter(|t| matches!(&t.part.end, End::NotStarted(why) if why.contains("no time")));
    assert!(left_out.count() >= 1, "{:?}", results.tests);
    assert_eq!(results.tests.len(), 3);
    assert_eq!((results.trainings.len(), results.benches.len()), (3, 5));
}

#[test]
fn a_benchmark_that_crashes_is_run_operation_by_operation() {
    let folder = folder();
    let mut options = options(folder.path(), 60.0);
    options.tests = vec!["passes".into()];
    options.networks = vec!["none".into()];
    options.benches.clear();
    script(&folder.path().join("bin/ops-bench"), &BENCH.replace("; sleep 100", ""));
    let results = run(&options).unwrap();
    let ends: Vec<(&str, bool)> =
        results.benches.iter().map(|b| (b.filter.as_str(), b.part.end == End::Passed)).collect();
    assert_eq!(
        ends[..5],
        [(".", false), ("conv2d", true), ("training step", false), ("affinity", true), ("walk", true)]
    );
    assert_eq!(results.benches[0].part.end, End::Crashed(6));
    assert_eq!(results.measured.unwrap().rows.len(), 3);
}

#[test]
fn the_results_of_a_runner_that_was_killed_are_those_up_to_then() {
    let folder = folder();
    let runner = folder.path().join("run");
    std::fs::copy(env!("CARGO_BIN_EXE_gpu-day"), &runner).unwrap();
    let results = folder.path().join("results.json");
    let mut child = Command::new(&runner)
        .args(["--seconds", "300", "--part-seconds", "100", "--output"])
        .arg(&results)
        .arg("--work")
        .arg(folder.path().join("work"))
        .spawn()
        .unwrap();
    // It comes to the test that hangs, which is the last.
    let started = std::time::Instant::now();
    let known = || Results::read(&results).map_or(0, |r| r.tests.len());
    while known() < 4 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let results = Results::read(&results).unwrap();
    assert_eq!((results.tests.len(), results.finished), (4, false));
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(&options(folder.path(), 60.0)).unwrap_err();
    assert!(error.contains("manifest.json"), "{error}");
}
