//! A case with all that was found out about it: a row of a ladder's table.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Bound, Case, KernelCounts, Timing, Work, bounds, count, measure, of_gpu, registers};
use crate::Result;
use crate::device::cuda::{Gpu, KernelFacts};
use crate::ops::ladders::Step;

/// A row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The operation.
    pub operation: &'static str,
    /// Its pass.
    pub pass: &'static str,
    /// The rung, where there is a ladder.
    pub rung: Option<Step>,
    /// The shape for people.
    pub shape: String,
    /// What the shape cannot do without.
    pub work: Work,
    /// The kernels whose launches count.
    pub kernels: Vec<&'static str>,
    /// Times of those launches: on a GPU; on the emulated one of its clock, where that was asked for.
    pub timing: Option<Timing>,
    /// Seconds of all launches, conversions and transpositions among them: on a GPU.
    pub whole: Option<f64>,
    /// What the kernels did: on the emulated GPU.
    pub counts: Vec<KernelCounts>,
    /// What the first kernel needs, by the driver: on a GPU.
    pub facts: Option<KernelFacts>,
    /// The bound on this GPU, where it is a real one whose rates are known.
    pub bound: Option<Bound>,
}

impl Row {
    /// Times a case on a GPU for about `time`.
    ///
    /// # Errors
    /// As [`Case::record`] and [`measure`].
    pub fn timed(gpu: &Arc<Gpu>, case: &Case, time: Duration) -> Result<Self> {
        let recording = case.record(gpu, 1)?;
        let mut row = Self::new(case, recording.kernels());
        let only = case.only();
        row.timing = Some(measure(gpu, &recording, only, time)?);
        // Where nothing but the rung's own launches is queued, they are the whole.
        row.whole = match recording.launches(only) == recording.launches(None) {
            true => row.timing.map(|t| t.median),
            false => Some(measure(gpu, &recording, None, time / 4)?.median),
        };
        row.facts = row.kernels.first().map(|kernel| recording.facts(kernel)).transpose()?;
        row.bound = of_gpu(&case.work, gpu.name());
        Ok(row)
    }

    /// Counts a case on the emulated GPU; with `clock`, its events' times too, which are the sums of lower bounds.
    ///
    /// # Errors
    /// As [`count`].
    pub fn counted(gpu: &Arc<Gpu>, case: &Case, clock: bool) -> Result<Self> {
        let (recording, counts) = count(gpu, case, 1)?;
        let mut row = Self::new(case, recording.kernels());
        row.counts = counts.into_iter().filter(|k| row.kernels.contains(&k.kernel.as_str())).collect();
        if clock {
            row.timing = Some(measure(gpu, &recording, case.only(), Duration::ZERO)?);
        }
        Ok(row)
    }

    fn new(case: &Case, launched: Vec<&'static str>) -> Self {
        let counts = |name: &&'static str| case.only().is_none_or(|only| only.contains(name));
        Self {
            operation: case.operation,
            pass: case.pass,
            rung: case.rung,
            shape: case.shape.clone(),
            work: case.work,
            kernels: launched.into_iter().filter(counts).collect(),
            timing: None,
            whole: None,
            counts: vec![],
            facts: None,
            bound: None,
        }
    }

    /// The rung's name, or nothing.
    pub fn rung_name(&self) -> &'static str {
        self.rung.map_or("", |step| step.rung.name)
    }

    /// Whether its times are a GPU's, and not the emulator's clock.
    pub fn is_of_gpu(&self) -> bool {
        self.facts.is_some()
    }

    /// TFLOP/s.
    pub fn tflops(&self) -> Option<f64> {
        let seconds = self.timing.filter(|_| self.is_of_gpu())?.median;
        Some(self.work.flops / seconds / 1e12)
    }

    /// TB/s of the bytes that the operation cannot do without.
    pub fn tbs(&self) -> Option<f64> {
        let seconds = self.timing.filter(|_| self.is_of_gpu())?.median;
        Some(self.work.bytes / seconds / 1e12)
    }

    /// The bound's share of the time, in per cent.
    pub fn percent_of_bound(&self) -> Option<f64> {
        let seconds = self.timing.filter(|_| self.is_of_gpu())?.median;
        Some(100.0 * self.bound?.seconds / seconds)
    }

    /// The row as the results file of `cargo bench` has it.
    pub fn json(&self) -> Value {
        let bounds: serde_json::Map<String, Value> =
            bounds(&self.work).into_iter().map(|b| (b.gpu.to_string(), json!(b.seconds))).collect();
        json!({
            "operation": self.operation,
            "case": self.pass,
            "rung": self.rung.map(|step| step.rung.name),
            "rung_number": self.rung.map(|step| step.rung.number),
            "kernel": self.kernels.first(),
            "kernels": self.kernels,
            "shape": self.shape,
            "precision": self.work.precision.to_string(),
            "flops": self.work.flops,
            "bytes": self.work.bytes,
            "median_s": self.timing.map(|t| t.median),
            "spread": self.timing.map(|t| t.spread),
            "cold_s": self.timing.map(|t| t.cold),
            "samples": self.timing.map(|t| t.samples),
            "batch": self.timing.map(|t| t.batch),
            "whole_s": self.whole,
            "tflops": self.tflops(),
            "tbs": self.tbs(),
            "bound_s": self.bound.map(|b| b.seconds),
            "percent_of_bound": self.percent_of_bound(),
            "bounds_s": bounds,
            "facts": self.facts.map(|f| json!({
                "grid": f.grid, "threads": f.threads, "registers": f.registers, "shared": f.shared, "local": f.local,
                "blocks_per_multiprocessor": f.blocks_per_multiprocessor,
            })),
            "counts": self.counts.iter().map(counts_json).collect::<Vec<_>>(),
        })
    }
}

fn counts_json(k: &KernelCounts) -> Value {
    let registers: serde_json::Map<String, Value> =
        registers(&k.kernel).into_iter().map(|(gpu, (registers, _))| (gpu, json!(registers))).collect();
    json!({
        "kernel": k.kernel,
        "launches": k.launches,
        "grid": k.grid,
        "threads": k.threads,
        "warp_instructions": k.warp_instructions,
        "lane_instructions": k.lane_instructions,
        "global_load_sectors": k.load_sectors,
        "global_store_sectors": k.store_sectors,
        "shared_wavefronts": k.wavefronts,
        "bank_conflicts": k.bank_conflicts(),
        "barriers": k.barriers,
        "divergent_branches": k.divergent_branches,
        "f32_flops": k.f32_flops,
        "tensor_flops": k.tensor_flops,
        "lower_bound_s": k.lower_bound,
        "bound_by": k.bound_by,
        "registers": registers,
    })
}

/// A number, with a unit of up to two letters or without.
fn is_number(cell: &str) -> bool {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    number.parse::<f64>().is_ok() && unit.chars().count() <= 2
}

/// A table in Markdown whose columns are aligned, numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let number = |column: usize| {
        let cells = || rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty());
        cells().count() > 0 && cells().all(|cell| is_number(cell))
    };
    let numbers: Vec<bool> = (0..head.len()).map(number).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).zip(&numbers).map(|((cell, width), number)| {
            let fill = " ".repeat(width - cell.chars().count());
            if *number { format!("{fill}{cell}") } else { format!("{cell}{fill}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let mut out = line(&mut head.iter().copied());
    let rule = widths.iter().zip(&numbers).map(|(width, number)| match number {
        true => format!("{}:", "-".repeat(width + 1)),
        false => "-".repeat(width + 2),
    });
    out += &format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}
