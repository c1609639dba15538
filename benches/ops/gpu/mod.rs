//! The kernels: every ladder on a GPU, beside its bound and its peer; without a GPU what the emulator counts.

mod plan;
mod results;
mod steps;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seedwalk::device::cuda::Gpu;
use seedwalk::device::{Device, Request};
use seedwalk::profile::{Case, Row, bounds, registers, table};
use serde_json::{Value, json};

use crate::options::Options;
use crate::peer::{Peer, PeerTime};

/// Seconds for a row where no total is given.
const ROW: f64 = 1.0;
/// Seconds for a step where no total is given.
const STEP: f64 = 10.0;

/// A run under way.
struct Run<'a> {
    gpu: Arc<Gpu>,
    options: &'a Options,
    peer: Option<Peer>,
    /// What the peer took, by its request: rungs of one precision share it.
    asked: HashMap<String, Result<PeerTime, String>>,
    started: Instant,
    rows: Vec<Value>,
    left_out: Vec<Value>,
}

/// Runs all rows that are asked for, prints tables, writes the file, compares.
///
/// # Errors
/// In words: a device that was named and cannot be used, a file that cannot be read or written. A row that fails is no
/// error: it is left out, and the results say why.
pub fn run(options: &Options) -> Result<(), String> {
    let request = options.device.unwrap_or(Request::Auto);
    if request == Request::Only(Device::Cpu) {
        return if options.gpu_only {
            Err("--gpu-only with --device cpu leaves nothing to do".into())
        } else {
            Ok(())
        };
    }
    // Read first: a wrong name is told before minutes of measuring.
    let old = options.compare.as_deref().map(results::read).transpose()?;
    let gpu = match request.resolve_for_kernels() {
        Ok(gpu) => gpu,
        // Nobody asked for kernels.
        Err(error) if options.device.is_none() && !options.gpu_only => {
            println!("no kernels: {error}");
            return Ok(());
        }
        Err(error) => return Err(error.to_string()),
    };
    let emulated = gpu.device() == Device::Emulated;
    let cases = plan::plan(&gpu).map_err(|e| e.to_string())?;
    let cases: Vec<Case> = cases.into_iter().filter(|case| options.wants(&name(case))).collect();
    // On the emulated GPU steps take minutes: only where it was asked for by name.
    let steps: Vec<steps::Step> = match emulated && options.device.is_none() {
        true => vec![],
        false => steps::steps().into_iter().filter(|step| options.wants(step.operation)).collect(),
    };
    if cases.is_empty() && steps.is_empty() {
        println!("no kernel's row has `{}` in its name", options.filter.as_deref().unwrap_or_default());
        return Ok(());
    }
    let peer = if emulated { None } else { Peer::start() };
    let head = results::head(&gpu);
    let mut run = Run {
        gpu,
        options,
        peer,
        asked: HashMap::new(),
        started: Instant::now(),
        rows: vec![],
        left_out: vec![],
    };
    let clocks_before = results::clocks(&run.gpu);
    let measured = run.all(&cases, &steps);
    let mut all = head;
    all["peer"] = json!(run.peer.as_ref().map(|peer| peer.name.as_str()));
    all["clocks"] = json!({ "before": clocks_before, "after": results::clocks(&run.gpu) });
    all["seconds"] = json!(run.started.elapsed().as_secs_f64());
    all["rows"] = json!(run.rows);
    all["left_out"] = json!(run.left_out);
    run.print(&measured);
    if let Some(path) = &options.json {
        results::write(path, &all)?;
        println!("\nresults: {}", path.display());
    }
    match old {
        Some(old) => print_comparison(&old, &all),
        None => Ok(()),
    }
}

/// What a filter is held against, and a row is called where it is left out.
fn name(case: &Case) -> String {
    let rung = case.rung.map_or(String::new(), |step| format!(" {}", step.rung.name));
    format!("{}/{}{rung}", case.name(), case.shape)
}

impl Run<'_> {
    /// Whether there is time for more.
    fn has_time(&self) -> bool {
        self.options.seconds.is_none_or(|total| self.started.elapsed().as_secs_f64() < total)
    }

    fn leave_out(&mut self, name: String, why: String) {
        println!("left out: {name}: {why}");
        self.left_out.push(json!({ "row": name, "why": why }));
    }

    /// Measures steps and cases, and returns the cases' rows.
    fn all(&mut self, cases: &[Case], steps: &[steps::Step]) -> Vec<Row> {
        // A third of the time measures; preparing inputs and the peer take the rest.
        let share = |total: f64| total / 3.0 / (cases.len() + 5 * steps.len()).max(1) as f64;
        let row = self.options.seconds.map_or(ROW, |total| share(total).clamp(0.05, ROW));
        let step = self.options.seconds.map_or(STEP, |total| (5.0 * share(total)).clamp(1.0, STEP));
        // In the precision that is meant for use before the kernels, in the others behind them.
        let (first, last) = steps.split_at(steps.len().min(2));
        let mut pictures = steps::Pictures::default();
        self.steps(first, step, &mut pictures);
        let mut measured = Vec::new();
        for case in cases {
            if !self.has_time() {
                self.leave_out(name(case), "no time left".into());
                continue;
            }
            match self.case(case, row) {
                Ok(row) => measured.push(row),
                Err(why) => self.leave_out(name(case), why),
            }
        }
        self.steps(last, step, &mut pictures);
        measured
    }

    fn steps(&mut self, steps: &[steps::Step], seconds: f64, pictures: &mut steps::Pictures) {
        let deadline = self.options.seconds.map(|total| self.started + Duration::from_secs_f64(total));
        for wanted in steps {
            let name = format!("{}/{}", wanted.operation, wanted.precision);
            if !self.has_time() {
                self.leave_out(name, "no time left".into());
                continue;
            }
            match wanted.run(&self.gpu, Duration::from_secs_f64(seconds), pictures, deadline) {
                Ok(row) => {
                    println!("{}", step_text(&row));
                    self.rows.push(row);
                }
                Err(why) => self.leave_out(name, why),
            }
        }
    }

    fn case(&mut self, case: &Case, seconds: f64) -> Result<Row, String> {
        let row = match self.gpu.device() {
            Device::Emulated => Row::counted(&self.gpu, case, true),
            _ => Row::timed(&self.gpu, case, Duration::from_secs_f64(seconds)),
        };
        let row = row.map_err(|e| e.to_string())?;
        let mut value = row.json();
        let peer = self.ask_peer(case, seconds);
        let time = peer.as_ref().and_then(|p| p.as_ref().ok());
        value["peer"] = json!(time.and(self.peer.as_ref()).map(|p| p.name.as_str()));
        value["peer_s"] = json!(time.map(|t| t.seconds));
        value["peer_cold_s"] = json!(time.map(|t| t.cold));
        value["percent_of_peer"] = json!(percent_of_peer(&row, time));
        if let Some(Err(why)) = &peer {
            value["no_peer"] = json!(why);
        }
        self.rows.push(value);
        Ok(row)
    }

    /// The peer's time for a case; `None` where there is no peer or nothing to ask it.
    fn ask_peer(&mut self, case: &Case, seconds: f64) -> Option<Result<PeerTime, String>> {
        let (peer, request) = (self.peer.as_mut()?, case.peer.as_ref()?);
        // pydensecrf runs on the CPU.
        if case.operation == "crf" {
            return None;
        }
        let mut request = request.clone();
        request["device"] = json!(self.gpu.device().to_string());
        let key = request.to_string();
        if let Some(known) = self.asked.get(&key) {
            return Some(known.clone());
        }
        let taken = peer.measure(&request, seconds);
        self.asked.insert(key, taken.clone());
        Some(taken)
    }

    fn print(&self, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        println!();
        if self.gpu.device() == Device::Emulated {
            println!(
                "No GPU: what the emulator counts (as {}), not times. Bounds are by peak rates.\n",
                self.gpu.name()
            );
            println!("{}", counts_table(rows));
        } else {
            println!("{:?}; times in µs, warm unless it says cold.\n", self.gpu);
            println!("{}", self.times_table(rows));
        }
    }

    fn times_table(&self, rows: &[Row]) -> String {
        let number =
            |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
        let head = [
            "operation",
            "shape",
            "rung",
            "µs",
            "spread",
            "cold",
            "whole",
            "TFLOP/s",
            "TB/s",
            "% of bound",
            "peer µs",
            "% of peer",
            "registers",
        ];
        let cells = |row: &Row| {
            // The rows of the file have the peer's times.
            let same = |v: &&Value| {
                v["operation"] == row.operation
                    && v["case"] == row.pass
                    && v["shape"] == row.shape.as_str()
                    && v["rung"].as_str().unwrap_or_default() == row.rung_name()
            };
            let value = self.rows.iter().find(same).unwrap_or(&Value::Null);
            let of = |key: &str| value[key].as_f64();
            vec![
                format!("{} {}", row.operation, row.pass),
                row.shape.clone(),
                row.rung_name().into(),
                number(row.timing.map(|t| t.median * 1e6), 2),
                number(row.timing.map(|t| t.spread * 100.0), 1),
                number(row.timing.map(|t| t.cold * 1e6), 2),
                number(row.whole.map(|s| s * 1e6), 2),
                number(row.tflops(), 2),
                number(row.tbs(), 3),
                number(row.percent_of_bound(), 1),
                number(of("peer_s").map(|s| s * 1e6), 2),
                number(of("percent_of_peer"), 1),
                row.facts.map_or(String::new(), |f| f.registers.to_string()),
            ]
        };
        table(&head, &rows.iter().map(cells).collect::<Vec<_>>())
    }
}

/// The peer's time over ours, in per cent: the share of its speed that the rung reaches.
fn percent_of_peer(row: &Row, peer: Option<&PeerTime>) -> Option<f64> {
    let ours = row.timing.filter(|_| row.is_of_gpu())?.median;
    Some(100.0 * peer?.seconds / ours)
}

fn step_text(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let speed = match row["images_per_second"].as_f64() {
        Some(speed) => format!("{speed:.2} images/s"),
        None => "done; the emulator's time says nothing".into(),
    };
    format!("{} in {} ({}): {speed}", text("operation"), text("case"), text("shape"))
}

fn counts_table(rows: &[Row]) -> String {
    let mut head = vec![
        "operation",
        "rung",
        "kernel",
        "instructions",
        "sectors",
        "shared turns",
        "conflicts",
        "f32 FLOP",
        "tensor FLOP",
        "registers sm_80",
        "sm_90",
    ];
    let limits: Vec<String> = seedwalk::profile::PEAKS.iter().map(|gpu| format!("bound {gpu}, µs")).collect();
    head.extend(limits.iter().map(String::as_str));
    let mut lines = Vec::new();
    for row in rows {
        for (at, k) in row.counts.iter().enumerate() {
            let registers = registers(&k.kernel);
            let of =
                |gpu: &str| registers.get(gpu).map_or(String::new(), |(registers, _)| registers.to_string());
            let first = |text: String| if at == 0 { text } else { String::new() };
            let mut cells = vec![
                first(format!("{} {}", row.operation, row.pass)),
                first(row.rung_name().into()),
                k.kernel.clone(),
            ];
            let sectors = k.load_sectors + k.store_sectors;
            cells.extend(
                [k.warp_instructions, sectors, k.wavefronts, k.bank_conflicts(), k.f32_flops, k.tensor_flops]
                    .map(|n| n.to_string()),
            );
            cells.extend([of("sm_80"), of("sm_90")]);
            cells.extend(bounds(&row.work).iter().map(|b| first(format!("{:.4}", b.seconds * 1e6))));
            lines.push(cells);
        }
    }
    table(&head, &lines)
}

fn print_comparison(old: &Value, new: &Value) -> Result<(), String> {
    let (changes, gone) = results::compare(old, new)?;
    println!(
        "\nCompared with {} of {}:\n",
        old["commit"].as_str().unwrap_or("a run"),
        old["date"].as_str().unwrap_or("?")
    );
    let cells = |change: &results::Change| {
        let word = match () {
            () if change.is_slower() => "SLOWER",
            () if change.is_faster() => "faster",
            () => "",
        };
        let [before, after] = change.seconds.map(|s| format!("{:.2}", s * 1e6));
        let noise = format!("{:.1}", 100.0 * change.noise);
        vec![change.row.clone(), before, after, format!("{:.3}", change.ratio()), noise, word.into()]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(cells).collect();
    println!("{}", table(&["row", "µs before", "now", "ratio", "noise, %", ""], &rows));
    for row in gone {
        println!("only in the old run: {row}");
    }
    let slower = changes.iter().filter(|c| c.is_slower()).count();
    println!("{slower} of {} rows are slower by more than the noise", changes.len());
    Ok(())
}
