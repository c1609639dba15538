//! What kernels did on the emulated GPU, in exact counts.

use std::sync::Arc;

use serde_json::Value;

use super::Case;
use crate::device::cuda::{Gpu, Recording};
use crate::{Error, ErrorKind, Result};

/// Counts of all launches of one kernel in one execution of a case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KernelCounts {
    /// The kernel.
    pub kernel: String,
    /// Launches.
    pub launches: u64,
    /// Blocks in x, y, z of the first launch.
    pub grid: [u64; 3],
    /// Threads of a block.
    pub threads: u64,
    /// Instructions, one a warp.
    pub warp_instructions: u64,
    /// Active lanes, summed over those.
    pub lane_instructions: u64,
    /// 32-byte sectors of global memory read.
    pub load_sectors: u64,
    /// 32-byte sectors of global memory written.
    pub store_sectors: u64,
    /// Turns that shared memory took.
    pub wavefronts: u64,
    /// Turns that the same bytes would take without bank conflicts.
    pub ideal_wavefronts: u64,
    /// Barriers, one a warp that arrives.
    pub barriers: u64,
    /// Branches whose lanes went both ways.
    pub divergent_branches: u64,
    /// f32 operations; a fused multiply-add is two.
    pub f32_flops: u64,
    /// Tensor-core operations.
    pub tensor_flops: u64,
    /// Instructions by class, one a warp.
    pub classes: Vec<(String, u64)>,
    /// Counts by source line, in the order of file and line.
    pub lines: Vec<LineCounts>,
    /// Seconds that the counts need at least on the emulated GPU, and the resource that says so.
    pub lower_bound: f64,
    /// See `lower_bound`.
    pub bound_by: String,
}

/// Counts of one line of a kernel's source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// The file, as in `kernels/conv2d.cu`.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// Instructions, one a warp.
    pub warp_instructions: u64,
    /// 32-byte sectors of global memory, read and written.
    pub sectors: u64,
    /// Turns of shared memory.
    pub wavefronts: u64,
    /// Turns without bank conflicts.
    pub ideal_wavefronts: u64,
    /// Arithmetic, tensor cores included.
    pub flops: u64,
}

impl KernelCounts {
    /// Turns of shared memory that bank conflicts cost.
    pub fn bank_conflicts(&self) -> u64 {
        self.wavefronts.saturating_sub(self.ideal_wavefronts)
    }

    fn add(&mut self, launch: &Value) {
        let c = &launch["counters"];
        let number = |v: &Value| v.as_u64().unwrap_or(0);
        let both = |field: &str| number(&c["shared_loads"][field]) + number(&c["shared_stores"][field]);
        if self.launches == 0 {
            self.grid = [0, 1, 2].map(|i: usize| number(&launch["grid"][i]));
            self.threads = number(&launch["block"][0]);
        }
        self.launches += 1;
        self.warp_instructions += number(&c["instructions"]["warp"]);
        self.lane_instructions += number(&c["instructions"]["thread"]);
        self.load_sectors += number(&c["global_loads"]["sectors"]);
        self.store_sectors += number(&c["global_stores"]["sectors"]);
        self.wavefronts += both("wavefronts");
        self.ideal_wavefronts += both("ideal_wavefronts");
        self.barriers += number(&c["barriers"]);
        self.divergent_branches += number(&c["divergent_branches"]);
        self.f32_flops += number(&c["f32_flops"]);
        self.tensor_flops += number(&c["tensor_f16_flops"]) + number(&c["tensor_tf32_flops"]);
        for (class, executed) in c["classes"].as_object().into_iter().flatten() {
            let warp = number(&executed["warp"]);
            match self.classes.iter_mut().find(|(name, _)| name == class) {
                Some((_, sum)) => *sum += warp,
                None => self.classes.push((class.clone(), warp)),
            }
        }
        for line in c["lines"].as_array().into_iter().flatten() {
            let (file, at) = (line["file"].as_str().unwrap_or_default(), number(&line["line"]));
            let sum = match self.lines.iter().position(|l| l.file == file && l.line == at) {
                Some(i) => &mut self.lines[i],
                None => {
                    self.lines.push(LineCounts { file: file.into(), line: at, ..LineCounts::default() });
                    let last = self.lines.len() - 1;
                    &mut self.lines[last]
                }
            };
            sum.warp_instructions += number(&line["instructions"]["warp"]);
            sum.sectors +=
                number(&line["global_loads"]["sectors"]) + number(&line["global_stores"]["sectors"]);
            sum.wavefronts += number(&line["shared"]["wavefronts"]);
            sum.ideal_wavefronts += number(&line["shared"]["ideal_wavefronts"]);
            sum.flops += number(&line["flops"]);
        }
        let bound = &launch["lower_bounds"][0];
        self.lower_bound += bound["seconds"].as_f64().unwrap_or(0.0);
        self.bound_by = bound["resource"].as_str().unwrap_or_default().into();
    }
}

/// Executes a case once on the emulated GPU, all checks on: what was recorded, and the counts of its kernels in the order
/// of their first launch.
///
/// # Errors
/// A real GPU, which counts nothing; more launches than the emulated driver keeps; as [`Case::record`].
pub fn count(gpu: &Arc<Gpu>, case: &Case, seed: u64) -> Result<(Recording, Vec<KernelCounts>)> {
    let emulator = gpu.emulator().ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, format!("{gpu:?} counts nothing"))
            .remedy("use --device emulated for counts")
    })?;
    let recording = case.record_after(gpu, seed, || {
        gpu.synchronize()?;
        emulator.reset()
    })?;
    gpu.synchronize()?;
    let report = emulator.report()?;
    let launches = report["launches"].as_array().map_or(&[][..], Vec::as_slice);
    if report["launches_in_all"].as_u64() != Some(launches.len() as u64) {
        let message = format!(
            "{} launches: the emulated driver keeps the last {}",
            report["launches_in_all"],
            launches.len()
        );
        return Err(Error::invalid(message).remedy("choose a smaller --shape: fewer steps"));
    }
    let mut all: Vec<KernelCounts> = Vec::new();
    for launch in launches {
        let kernel = launch["kernel"].as_str().unwrap_or_default();
        let found = all.iter().position(|k| k.kernel == kernel).unwrap_or_else(|| {
            all.push(KernelCounts { kernel: kernel.into(), ..KernelCounts::default() });
            all.len() - 1
        });
        all[found].add(launch);
    }
    all.iter_mut().for_each(|k| k.lines.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line))));
    Ok((recording, all))
}
