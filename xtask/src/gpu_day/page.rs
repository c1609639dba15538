//! `docs/gpu-day.md`'s tables, from a results file.

use crate::Result;
use crate::baseline::Baseline;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use xtask::day::child::End;
use xtask::day::results::{Measured, Results, Row, Test, Training};

/// The results that the page shows, once there are some.
const KEPT: &str = "docs/results/gpu-day.json";
const PAGE: &str = "docs/gpu-day.md";
const START: &str = "<!-- results -->\n";
const END: &str = "<!-- end -->";

/// Shows the kept results on the page; `new` ones first take their place.
///
/// # Errors
/// A file cannot be read or written; results of the emulated driver, which are none of a GPU; with `check`, a difference.
pub fn write(root: &Path, new: Option<&Path>, check: bool) -> Result<()> {
    let kept = root.join(KEPT);
    if let Some(path) = new {
        let results = Results::read(path)?;
        if !results.device.starts_with("cuda") {
            return Err(format!("{}: results of `{}`, which is no GPU", path.display(), results.device));
        }
        let folder = kept.parent().expect("it lies in a folder");
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        results.write(&kept)?;
    }
    let results = if kept.exists() { Some(Results::read(&kept)?) } else { None };
    let path = root.join(PAGE);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let baseline = Baseline::read(&root.join("kernels/baseline.json"))?;
    let filled = fill(&text, results.as_ref(), &baseline)?;
    if filled == text {
        return Ok(());
    }
    if check {
        return Err(format!("{PAGE} is stale; `cargo xtask gpu-day docs` writes it"));
    }
    std::fs::write(&path, filled).map_err(|e| format!("{}: {e}", path.display()))
}

fn fill(text: &str, results: Option<&Results>, baseline: &Baseline) -> Result<String> {
    let (before, rest) = text.split_once(START).ok_or_else(|| format!("{PAGE}: no {}", START.trim_end()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{PAGE}: no {END}"))?;
    let shown = match results {
        Some(results) => show(results, baseline),
        None => "None yet: no kernel here has run on a GPU.\n".to_owned(),
    };
    Ok(format!("{before}{START}{shown}{END}{after}"))
}

/// Results as Markdown.
pub fn show(results: &Results, baseline: &Baseline) -> String {
    let mut out = String::new();
    let day = results.started.split('T').next().unwrap_or_default();
    let unfinished = if results.finished { "" } else { "; it was broken off" };
    let (given, taken) = results.seconds;
    say(
        &mut out,
        &format!(
            "{day}, commit `{}`, `{}`: {taken:.0} s of {given:.0}{unfinished}.",
            results.commit, results.device
        ),
    );
    for line in &results.machine.nvidia_smi {
        say(&mut out, &format!("- `nvidia-smi`: {line}"));
    }
    if let Some(measured) = &results.measured
        && !measured.gpu.is_empty()
    {
        say(&mut out, &format!("- {}, driver {}", measured.gpu, measured.driver));
    }
    say(&mut out, &format!("- peers: {}", results.machine.python));
    tests(&mut out, &results.tests);
    loading(&mut out, &results.tests, baseline);
    trainings(&mut out, &results.trainings);
    if let Some(measured) = &results.measured {
        ladders(&mut out, measured);
    }
    for bench in results.benches.iter().filter(|b| b.part.end != End::Passed) {
        say(
            &mut out,
            &format!("\nBenchmark `{}`: {}, {:.1} s.", bench.filter, bench.part.end, bench.part.seconds),
        );
        quote(&mut out, &bench.part.output);
    }
    out
}

/// A line.
fn say(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a String takes all");
}

/// The end of what a process wrote.
fn quote(out: &mut String, text: &str) {
    if !text.trim().is_empty() {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        say(out, &format!("\n```text\n{}\n```", last.join("\n").replace("```", "'''")));
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn tests(out: &mut String, tests: &[Test]) {
    let passed = tests.iter().filter(|t| t.part.end == End::Passed).count();
    say(out, &format!("\n### Correctness\n\n{passed} of {} tests passed.\n", tests.len()));
    say(out, "| test | result | s | left out on the GPU |\n|---|---|---|---|");
    for test in tests {
        let left_out = cell(&test.left_out.join("; "));
        say(
            out,
            &format!(
                "| `{}` | {} | {:.1} | {left_out} |",
                test.name,
                cell(&test.part.end.to_string()),
                test.part.seconds
            ),
        );
    }
    for test in tests.iter().filter(|t| t.part.end != End::Passed && !t.part.output.is_empty()) {
        say(out, &format!("\n`{}`:", test.name));
        quote(out, &test.part.output);
    }
}

/// What the driver's compiler made of the PTX, beside the assembler's figures that the gate holds.
fn loading(out: &mut String, tests: &[Test], baseline: &Baseline) {
    let fact = tests.iter().flat_map(|t| &t.facts).find(|fact| fact["kernels"].is_object());
    let Some((fact, kernels)) = fact.and_then(|f| Some((f, f["kernels"].as_object()?))) else { return };
    let capability = fact["compute_capability"].as_str().unwrap_or_default();
    let generation = format!("sm_{}", capability.replace('.', ""));
    say(
        out,
        &format!(
            "\n### Loading\n\n{} kernels loaded in {:.1} s, the slowest file in {:.2} s, on {} ({generation}, {} multiprocessors).",
            kernels.len(),
            fact["loading_seconds"].as_f64().unwrap_or(f64::NAN),
            fact["slowest_file_seconds"].as_f64().unwrap_or(f64::NAN),
            fact["gpu"].as_str().unwrap_or("a GPU"),
            fact["multiprocessors"],
        ),
    );
    let mut differences = Vec::new();
    for (name, by_driver) in kernels {
        let approved = baseline.kernels.get(name).and_then(|kernel| kernel.gpus.get(&generation));
        let assembled = approved.map(|figures| i64::from(figures.registers));
        let [registers, in_memory] = ["registers", "local_bytes"].map(|what| by_driver[what].as_i64());
        if registers != assembled || in_memory != Some(0) {
            let number = |n: Option<i64>| n.map_or("–".to_owned(), |n| n.to_string());
            let [assembled, registers, in_memory] = [assembled, registers, in_memory].map(number);
            differences.push(format!("| `{name}` | {assembled} | {registers} | {in_memory} |"));
        }
    }
    if differences.is_empty() {
        say(
            out,
            "The driver's compiler gives each as many registers as the assembler, and none of them in memory.",
        );
    } else {
        say(
            out,
            "Where its compiler differs from the assembler (`kernels/baseline.json`), or keeps registers in memory:\n",
        );
        say(
            out,
            "| kernel | registers, assembler | registers, driver | bytes in memory a thread |\n|---|---|---|---|",
        );
        differences.iter().for_each(|line| say(out, line));
    }
}

fn trainings(out: &mut String, trainings: &[Training]) {
    if trainings.is_empty() {
        return;
    }
    let flags = trainings[0].flags.split(" --device").next().unwrap_or_default();
    let flags = flags.split_once("--seed").map_or("", |(_, rest)| rest);
    say(out, &format!("\n### Trainings\n\nOn generated images, from random weights: `--seed{flags}`.\n"));
    say(
        out,
        "| network | precision | result | steps | first loss | its difference from f32's | last loss | falls | images/s | GPU memory, GB | counted, GB |\n|---|---|---|---|---|---|---|---|---|---|---|",
    );
    for t in trainings {
        let number = |loss: Option<f64>| loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"));
        let first = |t: &Training| t.losses.first().copied().flatten();
        let of_f32 = trainings.iter().find(|o| o.network == t.network && o.precision == "f32");
        let difference = match (first(t), of_f32.and_then(first)) {
            (Some(own), Some(f32)) if t.precision != "f32" => {
                format!("{:.1e}", (own - f32).abs() / f32.abs())
            }
            _ => "–".to_owned(),
        };
        let rate = t.images_per_second.map_or("–".to_owned(), |rate| format!("{rate:.2}"));
        let memory = t.memory.map_or("–".to_owned(), |(before, most)| {
            format!("{:.2}", most.saturating_sub(before) as f64 * 1e-9)
        });
        // What the program chose: activations kept, or made anew.
        let chosen = if t.counted["recomputes"] == true { "recomputed" } else { "kept" };
        let counted =
            t.counted[chosen].as_f64().map_or("–".to_owned(), |b| format!("{:.2} ({chosen})", b * 1e-9));
        say(
            out,
            &format!(
                "| {} | {} | {} | {} | {} | {difference} | {} | {} | {rate} | {memory} | {counted} |",
                t.network,
                t.precision,
                cell(&t.part.end.to_string()),
                t.losses.len(),
                number(first(t)),
                number(t.losses.last().copied().flatten()),
                if t.falls { "yes" } else { "no" },
            ),
        );
    }
    for t in trainings.iter().filter(|t| t.part.end != End::Passed && !t.part.output.is_empty()) {
        say(out, &format!("\n{} in {}:", t.network, t.precision));
        quote(out, &t.part.output);
    }
}

/// A table for each operation.
fn ladders(out: &mut String, measured: &Measured) {
    let mut operations: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &measured.rows {
        operations.entry(&row.operation).or_default().push(row);
    }
    if !operations.is_empty() {
        say(out, "\n### Times");
    }
    for (operation, rows) in operations {
        say(out, &format!("\n**{operation}**\n"));
        say(
            out,
            "| case | shape | rung | kernel | time, µs | spread, % | cold, µs | TFLOP/s | TB/s | % of bound | images/s | peer | its time, µs | % of peer |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        );
        for row in rows {
            let micro = |seconds: Option<f64>| seconds.map_or("–".into(), |s| format!("{:.2}", s * 1e6));
            let number =
                |value: Option<f64>, digits: usize| value.map_or("–".into(), |v| format!("{v:.digits$}"));
            let words = |value: &Value| match value {
                Value::String(name) => cell(name),
                Value::Null => String::new(),
                other => cell(&other.to_string()),
            };
            let kernel = row.kernel.as_ref().map_or(String::new(), |kernel| format!("`{kernel}`"));
            let cells = [
                cell(&row.case),
                words(&row.shape),
                words(&row.rung),
                kernel,
                micro(row.median_s),
                number(row.spread.map(|s| s * 100.0), 1),
                micro(row.cold_s),
                number(row.tflops, 1),
                number(row.tbs, 2),
                number(row.percent_of_bound, 0),
                number(row.images_per_second, 2),
                cell(row.peer.as_deref().unwrap_or("–")),
                micro(row.peer_s),
                number(row.percent_of_peer, 0),
            ];
            say(out, &format!("| {} |", cells.join(" | ")));
        }
    }
    if !measured.left_out.is_empty() {
        say(out, "\nLeft out:\n");
        for what in &measured.left_out {
            let told =
                what["row"].as_str().zip(what["why"].as_str()).map(|(row, why)| format!("{row}: {why}"));
            let words = told.or_else(|| what.as_str().map(str::to_owned)).unwrap_or_else(|| what.to_string());
            say(out, &format!("- {}", words.replace('\n', " ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Kernel;
    use crate::machine_code::Figures;
    use xtask::day::results::{Bench, FORMAT, Part};

    fn results() -> Results {
        let part = |end: End| Part { end, seconds: 1.0, output: String::new() };
        let facts = vec![serde_json::json!({
            "gpu": "G", "compute_capability": "9.0", "multiprocessors": 132, "loading_seconds": 3.0, "slowest_file_seconds": 1.5,
            "kernels": {"a_f32": {"registers": 64, "local_bytes": 0}, "b_f32": {"registers": 70, "local_bytes": 8}},
        })];
        let tests = vec![
            Test {
                name: "loading::x".into(),
                part: part(End::Passed),
                left_out: vec!["orders".into()],
                facts,
            },
            Test {
                name: "full::y".into(),
                part: Part { output: "it | hung\nhere".into(), ..part(End::TimedOut) },
                left_out: vec![],
                facts: vec![],
            },
        ];
        let training = |precision: &str, first: f64, memory| Training {
            network: "cam".into(),
            precision: precision.into(),
            flags: "train-cam --data data --seed 4 --width 1 --device cuda:0 --precision f32".into(),
            part: part(End::Passed),
            losses: vec![Some(first), Some(0.5)],
            falls: true,
            images_per_second: Some(12.345),
            memory,
            counted: serde_json::json!({"recomputes": true, "recomputed": 7_250_000_000u64, "kept": 9}),
        };
        let row: Row = serde_json::from_str(
            r#"{"operation":"conv2d forward","case":"forward","shape":"512→512","rung":"bf16","kernel":"k","median_s":1e-4,"spread":0.01,"tflops":500,
                "percent_of_bound":63.2,"peer":"cuDNN","peer_s":8e-5,"percent_of_peer":80}"#,
        )
        .unwrap();
        Results {
            format: FORMAT,
            device: "cuda:0".into(),
            commit: "abc".into(),
            started: "2030-01-02T03:04:05Z".into(),
            seconds: (540.0, 400.4),
            finished: true,
            tests,
            trainings: vec![
                training("f32", 0.7, Some((1_000_000_000, 21_500_000_000))),
                training("bf16", 0.707, None),
            ],
            benches: vec![Bench { filter: "walk".into(), part: part(End::Crashed(6)) }],
            measured: Some(Measured {
                gpu: "G".into(),
                rows: vec![row],
                left_out: vec![serde_json::json!({"row": "crf", "why": "no time"})],
                ..Measured::default()
            }),
            ..Results::default()
        }
    }

    fn baseline() -> Baseline {
        let mut all = Baseline::new();
        let gpus = BTreeMap::from([("sm_90".to_owned(), Figures { registers: 64, ..Default::default() })]);
        for name in ["a_f32", "b_f32"] {
            let kernel = Kernel { file: "f".into(), threads: 256, dynamic_shared: 0, gpus: gpus.clone() };
            all.kernels.insert(name.into(), kernel);
        }
        all
    }

    #[test]
    fn everything_in_the_results_is_shown() {
        let shown = show(&results(), &baseline());
        for words in [
            "2030-01-02, commit `abc`, `cuda:0`: 400 s of 540.",
            "1 of 2 tests passed.",
            "| `loading::x` | passed | 1.0 | orders |",
            "| `full::y` | timed out | 1.0 |  |",
            "it | hung\nhere",
            "2 kernels loaded in 3.0 s, the slowest file in 1.50 s, on G (sm_90, 132 multiprocessors)",
            "| `b_f32` | 64 | 70 | 8 |",
            "`--seed 4 --width 1`",
            "| cam | f32 | passed | 2 | 0.7000 | – | 0.5000 | yes | 12.35 | 20.50 | 7.25 (recomputed) |",
            "| cam | bf16 | passed | 2 | 0.7070 | 1.0e-2 | 0.5000 | yes | 12.35 | – | 7.25 (recomputed) |",
            "**conv2d forward**",
            "| forward | 512→512 | bf16 | `k` | 100.00 | 1.0 | – | 500.0 | – | 63 | – | cuDNN | 80.00 | 80 |",
            "- crf: no time",
            "Benchmark `walk`: crashed (signal 6), 1.0 s.",
        ] {
            assert!(shown.contains(words), "{words} is not in\n{shown}");
        }
        assert!(!shown.contains("| `a_f32`"), "the same registers need no line");
    }

    #[test]
    fn the_page_is_filled_and_filling_twice_changes_nothing() {
        let text = format!("a\n{START}old\n{END}\nb\n");
        let filled = fill(&text, Some(&results()), &baseline()).unwrap();
        assert_eq!(fill(&filled, Some(&results()), &baseline()).unwrap(), filled);
        assert!(fill(&filled, None, &baseline()).unwrap().contains("None yet"));
        assert!(fill("no markers", None, &baseline()).is_err());
    }

    #[test]
    fn results_of_the_emulated_driver_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        Results { device: "emulated".into(), ..results() }.write(&path).unwrap();
        let error = write(folder.path(), Some(&path), false).unwrap_err();
        assert!(error.contains("`emulated`, which is no GPU"), "{error}");
        assert!(!folder.path().join("docs").exists());
    }
}
