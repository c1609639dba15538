//! What each kernel does at a fixed shape, counted by the emulator: exact, so compared with `==`.

mod crf;
mod launches;
mod steps;

use crate::Result;
use ptx_emulator::{Counters, ParameterBytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use xtask::emulated::{Machine, Shape};

/// What a launch has to do, whichever kernel does it: the ground of its bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The shape in words.
    pub shape: String,
    /// What it multiplies in, which decides the peak: `f32`, `tf32` or `bf16`.
    pub precision: String,
    /// Floating-point operations that the result needs; 0 where what was counted stands for them.
    pub flops: u64,
    /// Bytes of all inputs, read once, and of all outputs, written once.
    pub bytes: u64,
}

/// Counts of one launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// What had to be done.
    #[serde(flatten)]
    pub work: Work,
    /// Instructions, one a warp.
    pub warp_instructions: u64,
    /// Instructions, one a thread.
    pub lane_instructions: u64,
    /// Pieces of 32 bytes that loads asked for.
    pub global_load_sectors: u64,
    /// Pieces of 32 bytes that stores wrote.
    pub global_store_sectors: u64,
    /// Passes through shared memory.
    pub shared_wavefronts: u64,
    /// Fewest that the same bytes could take: the rest are bank conflicts.
    pub ideal_wavefronts: u64,
    /// Barriers, one a warp.
    pub barriers: u64,
    /// Branches that threads of a warp took either way.
    pub divergent_branches: u64,
    /// Floating-point operations outside the tensor cores.
    pub f32_flops: u64,
    /// Floating-point operations of the tensor cores.
    pub tensor_flops: u64,
}

impl Counts {
    fn of(work: Work, c: &Counters) -> Self {
        Self {
            work,
            warp_instructions: c.executed.warp,
            lane_instructions: c.executed.lanes,
            global_load_sectors: c.global_loads.sectors,
            global_store_sectors: c.global_stores.sectors,
            shared_wavefronts: c.shared_loads.wavefronts + c.shared_stores.wavefronts,
            ideal_wavefronts: c.shared_loads.ideal_wavefronts + c.shared_stores.ideal_wavefronts,
            barriers: c.barriers,
            divergent_branches: c.divergent_branches,
            f32_flops: c.f32_flops,
            tensor_flops: c.tensor_f16_flops + c.tensor_tf32_flops,
        }
    }

    /// Floating-point operations that the result needs.
    pub fn flops(&self) -> u64 {
        if self.work.flops > 0 { self.work.flops } else { self.f32_flops }
    }
}

/// By kernel, or `KERNEL, VARIANT`.
pub type Table = BTreeMap<String, Counts>;

/// Reads `kernels/counters.json`.
///
/// # Errors
/// It cannot be read, or is not what `counters --update` writes.
pub fn read(root: &Path) -> Result<Table> {
    let path = root.join("kernels/counters.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Compares with `kernels/counters.json`, or writes it.
///
/// # Errors
/// A kernel with findings; a difference, with both numbers; a file that cannot be read or written.
pub fn counters(root: &Path, update: bool) -> Result<()> {
    let now = measure()?;
    if update {
        let path = root.join("kernels/counters.json");
        let lines = now.iter().map(|(name, counts)| {
            format!("\"{name}\":{}", serde_json::to_string(counts).expect("numbers are JSON"))
        });
        let text = format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n"));
        return std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()));
    }
    let findings = differences(&read(root)?, &now);
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

fn differences(approved: &Table, now: &Table) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, counts) in now {
        let Some(old) = approved.get(name) else {
            findings.push(format!("{name}: not in counters.json"));
            continue;
        };
        let json = |counts| serde_json::to_value(counts).expect("numbers are JSON");
        let (old, new) = (json(old), json(counts));
        for (field, value) in
            old.as_object().into_iter().flatten().filter(|(field, value)| new[*field] != **value)
        {
            findings.push(format!("{name}: {field} {value} → {}", new[field]));
        }
    }
    findings.extend(
        approved
            .keys()
            .filter(|name| !now.contains_key(*name))
            .map(|name| format!("{name}: in counters.json only")),
    );
    findings
}

/// One kernel's launch.
struct Launch {
    file: &'static str,
    kernel: &'static str,
    /// What is asked of it, where it is launched more than once: its counts are `KERNEL, VARIANT`.
    variant: Option<&'static str>,
    shape: Shape,
    parameters: ParameterBytes,
    work: Work,
}

/// Every kernel once, those that need another's result after it.
fn measure() -> Result<Table> {
    let mut machine = Machine::new(None);
    let mut all = BTreeMap::new();
    let mut launches = launches::convolution(&mut machine);
    launches.extend(launches::affinity_and_walk(&mut machine));
    launches.extend(steps::of_training(&mut machine));
    for launch in launches {
        let kernel = launch.kernel;
        if count(&mut machine, &mut all, launch)? {
            return Err(format!("{kernel} is counted twice"));
        }
    }
    // Each of these needs what those before it have made; a pass of a sort is the last of several.
    crf::crf(&mut machine, &mut |machine, launch| count(machine, &mut all, launch).map(drop))?;
    Ok(all)
}

/// Runs one kernel and keeps what it counts; whether it had been counted before.
fn count(machine: &mut Machine, all: &mut Table, launch: Launch) -> Result<bool> {
    let Launch { file, kernel, variant, shape, parameters, work } = launch;
    let report = machine.launch(file, kernel, shape, &parameters)?;
    let name = variant.map_or(kernel.to_owned(), |variant| format!("{kernel}, {variant}"));
    Ok(all.insert(name, Counts::of(work, &report.counters)).is_some())
}

/// Values in −0.5 … 0.5.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37) % 64) as f32 / 64.0 - 0.5).collect()
}

/// Parameters that begin with these buffers.
fn of(addresses: &[u64]) -> ParameterBytes {
    addresses.iter().fold(ParameterBytes::new(), |p, v| p.address(*v))
}

/// And go on with these sizes.
fn with(p: ParameterBytes, sizes: &[usize]) -> ParameterBytes {
    sizes.iter().fold(p, |p, v| p.i32(*v as i32))
}

/// Blocks of 256 threads, `per_block` values each.
fn line(count: usize, per_block: usize) -> Shape {
    Shape { grid: [count.div_ceil(per_block) as u32, 1, 1], threads: 256, shared: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_count_is_named_with_both_numbers() {
        let work = Work { shape: "one".into(), precision: "f32".into(), flops: 1, bytes: 1 };
        let counts = Counts::of(work, &Counters::default());
        let approved = BTreeMap::from([("a".to_owned(), counts.clone()), ("b".to_owned(), counts.clone())]);
        let now = BTreeMap::from([
            ("a".to_owned(), Counts { shared_wavefronts: 5, ..counts.clone() }),
            ("c".to_owned(), counts),
        ]);
        let expected = ["a: shared_wavefronts 0 → 5", "c: not in counters.json", "b: in counters.json only"];
        assert_eq!(differences(&approved, &now), expected);
        assert!(differences(&approved, &approved).is_empty());
    }
}
