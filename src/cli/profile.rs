//! `profile`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::session::{Outcome, Place, Session};
use crate::device::Device;
use crate::device::cuda::Gpu;
use crate::ops::ladders::Step;
use crate::profile::{
    self, Case, KernelCounts, Line, LineCounts, Row, Subject, catalogue, find_kernel, listing, operations,
    registers, table,
};
use crate::{Error, Result};

/// Time a kernel on a GPU, or count what it does on the emulated one
///
/// Takes an operation with a ladder of kernels (all rungs, or the one that --kernel names), an operation without one, or a
/// kernel by its name. Without arguments it lists them. On a GPU it prints times, warm and cold, beside what the GPU's peak
/// rates allow; without one it executes the kernel in the emulator, with all checks, and prints counts, and the source with
/// what each line did.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk profile conv2d --kernel tf32 --shape size=56,channels=128
  seedwalk profile affinity_forward_tiled_f32 --device emulated --json")]
pub(super) struct Profile {
    /// An operation or a kernel; without it, all are listed
    #[arg(value_name = "OPERATION_OR_KERNEL")]
    what: Option<String>,
    /// Which pass of the operation [default: its first]
    #[arg(long, value_name = "PASS")]
    pass: Option<String>,
    /// Numbers of the shape, KEY=NUMBER with commas between; size=N is height and width
    #[arg(long, value_name = "KEY=NUMBER", value_delimiter = ',')]
    shape: Vec<String>,
    /// Seconds to measure each row for, on a GPU
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    seconds: f64,
}

/// What is to be profiled.
struct Wanted {
    subject: Subject,
    rungs: Vec<Option<Step>>,
    /// The one kernel that counts, where one was named.
    kernel: Option<&'static str>,
}

impl Profile {
    /// A list of what there is needs no GPU.
    pub fn place(&self) -> Place {
        if self.what.is_some() { Place::Kernels } else { Place::Nowhere }
    }

    pub fn run(self, session: &Session) -> Result<Outcome> {
        if !(self.seconds.is_finite() && self.seconds > 0.0) {
            return Err(Error::usage(format!("--seconds {}: a positive number expected", self.seconds)));
        }
        let Some(what) = &self.what else { return Ok(self.list()) };
        let gpu = session.gpu.as_ref().ok_or_else(|| Error::invalid("no GPU was opened"))?;
        let wanted = self.wanted(gpu, what, &session.common.kernel)?;
        let emulated = gpu.device() == Device::Emulated;
        let shape = wanted.subject.shape(wanted.subject.default_shape(emulated), &self.shape)?;
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        for rung in &wanted.rungs {
            let mut case = wanted.subject.case(&shape, rung.as_ref())?;
            if let Some(kernel) = wanted.kernel {
                case = case.of_kernel(kernel);
            }
            match self.row(gpu, &case, emulated) {
                Ok(row) => rows.push(row),
                // Of a whole ladder, what runs is shown.
                Err(error) if wanted.rungs.len() > 1 => left_out.push((rung_name(rung), error.to_string())),
                Err(error) => return Err(error),
            }
        }
        if rows.is_empty() {
            let why = left_out.into_iter().map(|(rung, why)| format!("{rung}: {why}"));
            return Err(Error::invalid(format!(
                "no rung runs in this shape: {}",
                why.collect::<Vec<_>>().join("; ")
            ))
            .remedy("choose another --shape"));
        }
        let text = self.text(gpu, &wanted, &rows, &left_out, emulated);
        let shape: BTreeMap<&str, usize> =
            wanted.subject.dimensions.iter().map(|d| (d.key, shape.get(d.key))).collect();
        let json = json!({
            "gpu": gpu.name(),
            "device": gpu.device().to_string(),
            "emulated": emulated,
            "operation": wanted.subject.operation,
            "pass": wanted.subject.pass,
            "shape": shape,
            "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
            "left_out": left_out.iter().map(|(rung, why)| json!({ "rung": rung, "why": why })).collect::<Vec<_>>(),
        });
        Ok(Outcome::new(text, json))
    }

    fn row(&self, gpu: &Arc<Gpu>, case: &Case, emulated: bool) -> Result<Row> {
        match emulated {
            true => Row::counted(gpu, case, false),
            false => Row::timed(gpu, case, Duration::from_secs_f64(self.seconds)),
        }
    }

    fn wanted(&self, gpu: &Arc<Gpu>, what: &str, kernels: &[String]) -> Result<Wanted> {
        let of: Vec<Subject> = catalogue().into_iter().filter(|s| s.operation == what).collect();
        if of.is_empty() {
            if let Some(rung) = kernels.first() {
                return Err(Error::usage(format!(
                    "`{what}` is no operation with rungs: --kernel {rung} says nothing"
                ))
                .remedy(format!("operations: {}", operations().join(", "))));
            }
            let (subject, rung, kernel) = find_kernel(gpu, what)?;
            return Ok(Wanted { subject, rungs: vec![rung], kernel: Some(kernel) });
        }
        let passes: Vec<String> = of.iter().map(|s| in_one_word(s.pass)).collect();
        let passes = passes.join(", ");
        let subject = match &self.pass {
            None => of.into_iter().next(),
            Some(pass) => of.into_iter().find(|s| in_one_word(s.pass) == in_one_word(pass)),
        };
        let subject = subject.ok_or_else(|| {
            let pass = self.pass.as_deref().unwrap_or_default();
            Error::usage(format!("{what} has no pass `{pass}`")).remedy(format!("passes of {what}: {passes}"))
        })?;
        let rungs = match kernels {
            [] if subject.rungs.is_empty() => vec![None],
            [] => subject.rungs.iter().copied().map(Some).collect(),
            [one] => vec![Some(rung(&subject, one)?)],
            _ => {
                return Err(Error::usage("--kernel names one rung here")
                    .remedy("without --kernel all rungs are shown"));
            }
        };
        Ok(Wanted { subject, rungs, kernel: None })
    }

    /// What there is.
    fn list(&self) -> Outcome {
        let mut rows = Vec::new();
        let mut all = Vec::new();
        for subject in catalogue() {
            let names = |f: fn(&Step) -> &'static str| subject.rungs.iter().map(f).collect::<Vec<_>>();
            let rungs = names(|step| step.rung.name);
            let keys: Vec<&str> = subject.dimensions.iter().map(|d| d.key).collect();
            rows.push(vec![
                subject.operation.into(),
                in_one_word(subject.pass),
                rungs.join(", "),
                keys.join(", "),
            ]);
            all.push(json!({
                "operation": subject.operation, "pass": subject.pass, "rungs": rungs,
                "kernels": names(|step| step.rung.kernel), "dimensions": keys,
            }));
        }
        let kernels = crate::device::cuda::kernel_names();
        let text = format!(
            "{}\nA kernel may be named too:\n{}",
            table(&["operation", "--pass", "--kernel", "--shape"], &rows),
            in_lines(&kernels)
        );
        Outcome::new(text, json!({ "operations": all, "kernels": kernels }))
    }

    fn text(
        &self,
        gpu: &Arc<Gpu>,
        wanted: &Wanted,
        rows: &[Row],
        left_out: &[(&str, String)],
        emulated: bool,
    ) -> String {
        let first = &rows[0];
        let mut out = if emulated {
            format!("no GPU: counts of the emulator, {}, not times\n\n", gpu.name())
        } else {
            format!("{gpu:?}\n\n")
        };
        out += &format!("{}: {}\n", wanted.subject.name(), first.shape);
        out += &bounds_text(rows);
        out.push('\n');
        out += &if emulated { counts_table(rows) } else { times_table(rows) };
        for (rung, why) in left_out {
            out += &format!("left out: {rung}: {why}\n");
        }
        if let ([row], true) = (rows, emulated) {
            if let Some(step) = row.rung {
                out += &format!("\n{}: {}\nbound by {}\n", step.rung.name, step.rung.idea, step.rung.bound);
            }
            match &row.counts[..] {
                [kernel] => out += &source_text(kernel),
                // The rung's own; what adds its parts up is small beside it.
                [kernel, ..] if row.rung.is_some() => out += &source_text(kernel),
                _ => out += "\n`seedwalk profile KERNEL` shows one kernel's source with its counts.\n",
            }
        } else if emulated {
            out += "\n`--kernel RUNG` shows one rung's source with its counts.\n";
        }
        out
    }
}

/// `input-gradient`, which needs no quotes on a command line.
fn in_one_word(pass: &str) -> String {
    pass.replace(' ', "-")
}

/// Names side by side in lines of a terminal's width.
fn in_lines(names: &[&str]) -> String {
    const WIDTH: usize = 100;
    let mut out = String::new();
    let mut length = 0;
    for name in names {
        if length > 0 && length + 1 + name.len() > WIDTH {
            out.push('\n');
            length = 0;
        }
        if length > 0 {
            out.push(' ');
        }
        out += name;
        length += 1 + name.len();
    }
    out
}

fn rung_name(rung: &Option<Step>) -> &'static str {
    rung.map_or("", |step| step.rung.name)
}

/// The rung that `--kernel` names: `tf32` or `conv2d=tf32`.
fn rung(subject: &Subject, text: &str) -> Result<Step> {
    let name = match text.split_once('=') {
        Some((operation, name)) if operation == subject.operation => name,
        _ => text,
    };
    if subject.rungs.is_empty() {
        return Err(Error::usage(format!("{} has no ladder: --kernel {text} says nothing", subject.name()))
            .remedy("leave out --kernel; a kernel is named in the operation's place"));
    }
    subject.rungs.iter().find(|step| step.rung.name == name).copied().ok_or_else(|| {
        let known: Vec<&str> = subject.rungs.iter().map(|step| step.rung.name).collect();
        Error::usage(format!("{} has no rung `{name}`", subject.name()))
            .remedy(format!("its rungs: {}", known.join(", ")))
    })
}

/// Work and bounds, once for each precision among the rows.
fn bounds_text(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut told = Vec::new();
    for row in rows {
        if told.contains(&row.work) {
            continue;
        }
        told.push(row.work);
        let bounds = profile::bounds(&row.work).into_iter().map(|b| {
            let by = if b.by_arithmetic { "arithmetic" } else { "memory" };
            format!("{} {} ({by})", b.gpu, time(b.seconds))
        });
        let rungs: Vec<&str> = rows
            .iter()
            .filter(|r| r.work == row.work)
            .map(Row::rung_name)
            .filter(|n| !n.is_empty())
            .collect();
        let of = if rungs.is_empty() { String::new() } else { format!(", {}", rungs.join(", ")) };
        out += &format!(
            "{}FLOP, {}B{of}; no faster than {}\n",
            metric(row.work.flops),
            metric(row.work.bytes),
            bounds.collect::<Vec<_>>().join(", ")
        );
    }
    out
}

fn times_table(rows: &[Row]) -> String {
    let head = [
        "rung",
        "kernel",
        "warm",
        "spread",
        "cold",
        "whole",
        "TFLOP/s",
        "TB/s",
        "of the bound",
        "registers",
        "shared",
        "blocks an SM",
        "blocks",
    ];
    let cells = |row: &Row| {
        let number =
            |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
        let mut cells = vec![rung_cell(row), row.kernels.first().copied().unwrap_or_default().into()];
        match row.timing {
            Some(t) => cells.extend([time(t.median), format!("{:.1} %", 100.0 * t.spread), time(t.cold)]),
            None => cells.extend([const { String::new() }; 3]),
        }
        cells.push(row.whole.map_or(String::new(), time));
        cells.extend([number(row.tflops(), 1), number(row.tbs(), 3)]);
        cells.push(row.percent_of_bound().map_or("not known".into(), |p| format!("{p:.0} %")));
        match row.facts {
            Some(f) => cells.extend([
                f.registers.to_string(),
                f.shared.to_string(),
                f.blocks_per_multiprocessor.to_string(),
                f.grid.iter().map(|v| u64::from(*v)).product::<u64>().to_string(),
            ]),
            None => cells.extend([const { String::new() }; 4]),
        }
        cells
    };
    table(&head, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn rung_cell(row: &Row) -> String {
    row.rung.map_or(String::new(), |step| format!("{} {}", step.rung.number, step.rung.name))
}

/// A row for each kernel of each case.
fn counts_table(rows: &[Row]) -> String {
    let head = [
        "rung",
        "kernel",
        "launches",
        "instructions",
        "sectors read",
        "written",
        "shared turns",
        "of them conflicts",
        "f32 FLOP",
        "tensor FLOP",
        "registers sm_80",
        "sm_90",
    ];
    let kernel = |row: &Row, k: &KernelCounts| {
        let registers = registers(&k.kernel);
        let of = |gpu: &str| registers.get(gpu).map_or(String::new(), |(registers, _)| registers.to_string());
        let mut cells = vec![rung_cell(row), k.kernel.clone()];
        cells.extend(
            [
                k.launches,
                k.warp_instructions,
                k.load_sectors,
                k.store_sectors,
                k.wavefronts,
                k.bank_conflicts(),
                k.f32_flops,
                k.tensor_flops,
            ]
            .map(|n| n.to_string()),
        );
        cells.extend([of("sm_80"), of("sm_90")]);
        cells
    };
    let cells: Vec<Vec<String>> =
        rows.iter().flat_map(|row| row.counts.iter().map(move |k| kernel(row, k))).collect();
    table(&head, &cells)
}

/// Instructions by class, and the source with the counts of each line.
fn source_text(kernel: &KernelCounts) -> String {
    let all = kernel.warp_instructions.max(1) as f64;
    let share = |n: u64| 100.0 * n as f64 / all;
    let lanes = kernel.lane_instructions as f64 / all;
    let [x, y, z] = kernel.grid;
    let mut out = format!(
        "\n{}: {} warp instructions in {x}×{y}×{z} blocks of {} threads, {lanes:.1} of 32 lanes active; {} barriers, {} \
         divergent branches\n",
        kernel.kernel, kernel.warp_instructions, kernel.threads, kernel.barriers, kernel.divergent_branches
    );
    let mut classes = kernel.classes.clone();
    classes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let classes = classes.iter().map(|(name, n)| format!("{name} {:.1} %", share(*n)));
    out += &format!("{}\n", classes.collect::<Vec<_>>().join(", "));
    out += &format!(
        "\n{:>13} {:>6} {:>9} {:>12} {:>9}   line\n",
        "instructions", "%", "sectors", "shared turns", "conflicts"
    );
    for line in listing(kernel) {
        match line {
            Line::File(name) => out += &format!("{name}\n"),
            Line::Gap => out += &format!("{:>54}⋮\n", ""),
            Line::Plain(at, text) => out += format!("{:>53}{at:>5}  {text}", "").trim_end(),
            Line::Counted(counts, text) => out += counted_text(&counts, text, share).trim_end(),
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

fn counted_text(l: &LineCounts, text: &str, share: impl Fn(u64) -> f64) -> String {
    let unless_zero = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    format!(
        "{:>13} {:>6.1} {:>9} {:>12} {:>9}{:>5}  {text}",
        l.warp_instructions,
        share(l.warp_instructions),
        unless_zero(l.sectors),
        unless_zero(l.wavefronts),
        unless_zero(l.wavefronts.saturating_sub(l.ideal_wavefronts)),
        l.line
    )
}

/// A row of the bench's file, with the counts of each line.
fn row_json(row: &Row) -> Value {
    let mut value = row.json();
    for (slot, kernel) in row.counts.iter().enumerate() {
        let line = |l: &LineCounts| {
            json!({
                "file": l.file.replace("/./", "/"), "line": l.line, "warp_instructions": l.warp_instructions,
                "sectors": l.sectors, "shared_wavefronts": l.wavefronts,
                "bank_conflicts": l.wavefronts.saturating_sub(l.ideal_wavefronts), "flops": l.flops,
            })
        };
        value["counts"][slot]["lines"] = json!(kernel.lines.iter().map(line).collect::<Vec<_>>());
    }
    value
}

/// Seconds with three digits and a unit.
fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "µs"),
        s => (s * 1e9, "ns"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// A count with three digits and a prefix.
fn metric(value: f64) -> String {
    let (value, prefix) = match value {
        v if v >= 1e12 => (v / 1e12, "T"),
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = if value >= 100.0 || prefix.is_empty() {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {prefix}")
}
