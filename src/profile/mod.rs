//! The program's kernels as cases to be counted and timed: what `seedwalk profile` and `cargo bench` share.
//!
//! A [`Subject`] is an operation's pass, such as the weight gradient of `conv2d`. With a shape and, where it has a ladder,
//! a rung, it becomes a [`Case`]: inputs drawn at random (zeros would flatter a GPU's power limit), the work counted from
//! the shape, and the operation itself, executed by the program's own launchers. [`Case::record`] executes it once and keeps
//! what was queued, so that it can be queued again without allocating or copying.
//!
//! On a GPU [`measure`] gives times, on the emulated one [`count`] gives what the kernels did.

mod bounds;
mod catalogue;
mod count;
mod ladders;
mod listing;
mod measure;
mod row;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::device::Precision;
use crate::device::cuda::{Gpu, Recording};
use crate::ops::ladders::Step;
use crate::{Error, Result};

pub use bounds::{Bound, PEAKS, bounds, of_gpu, registers};
pub use catalogue::catalogue;
pub use count::{KernelCounts, LineCounts, count};
pub use listing::{Line, listing};
pub use measure::{Timing, measure, median, spread};
pub use row::{Row, table};

/// What an operation cannot do without, counted from its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Floating-point operations; a fused multiply-add is two.
    pub flops: f64,
    /// Bytes of inputs read once and outputs written once.
    pub bytes: f64,
    /// What it multiplies in: decides the peak rate.
    pub precision: Precision,
}

/// One number of a shape.
#[derive(Debug, Clone, Copy)]
pub struct Dimension {
    /// Its name, as in `--shape channels=512`.
    pub key: &'static str,
    /// Its value on a GPU where none is given.
    pub on_gpu: usize,
    /// Its value on the emulated GPU where none is given: small, because that is some thousand times slower.
    pub emulated: usize,
}

/// The numbers of a shape by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(BTreeMap<&'static str, usize>);

impl Shape {
    /// A dimension's value; 0 where the shape has none of that name.
    pub fn get(&self, key: &str) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn of<const N: usize>(&self, keys: [&str; N]) -> [usize; N] {
        keys.map(|key| self.get(key))
    }

    /// N, H, W, C of a map.
    fn maps(&self) -> [usize; 4] {
        self.of(["batch", "height", "width", "channels"])
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for (key, value) in &self.0 {
            parts.push(format!("{key}={value}"));
        }
        f.write_str(&parts.join(","))
    }
}

/// An operation's pass, to be profiled in any shape.
pub struct Subject {
    /// The operation: its folder in `src/ops`.
    pub operation: &'static str,
    /// Which of its passes.
    pub pass: &'static str,
    /// What its shape is made of.
    pub dimensions: &'static [Dimension],
    /// Its ladder from plain to fast; empty where it has none.
    pub rungs: Vec<Step>,
    build: Build,
}

/// Makes a case of a shape and a rung; operation, pass and rung are filled in by whoever calls it.
type Build = fn(&Shape, Option<&Step>) -> Case;

/// Puts inputs that a seed names on a GPU.
type Prepare = Box<dyn Fn(&Arc<Gpu>, u64) -> Result<Ready>>;

/// What was prepared, to be executed.
type Ready = Box<dyn FnOnce() -> Result<Box<dyn Any>>>;

/// An operation in a shape, by one rung.
pub struct Case {
    /// The operation.
    pub operation: &'static str,
    /// Its pass.
    pub pass: &'static str,
    /// The rung, where there is a ladder.
    pub rung: Option<Step>,
    /// The shape for people.
    pub shape: String,
    /// What it cannot do without.
    pub work: Work,
    /// What `benches/peer.py` is asked for, to do the same.
    pub peer: Option<Value>,
    /// The launches that count, by kernel: a rung's own and the sum of its parts, not the conversions before it. Empty: all.
    kernels: Vec<&'static str>,
    prepare: Prepare,
}

impl Subject {
    /// The shape where nothing is said, small on the emulated GPU.
    pub fn default_shape(&self, emulated: bool) -> Shape {
        let value = |d: &Dimension| (d.key, if emulated { d.emulated } else { d.on_gpu });
        Shape(self.dimensions.iter().map(value).collect())
    }

    /// A shape with some numbers changed by `KEY=VALUE`; `size=N` is height and width.
    ///
    /// # Errors
    /// Wrong usage: no such dimension, no number, a number that is 0 or beyond 2²⁰; names the dimensions.
    pub fn shape(&self, mut shape: Shape, changes: &[String]) -> Result<Shape> {
        let known: Vec<&str> = self.dimensions.iter().map(|d| d.key).collect();
        let known = known.join(", ");
        for change in changes {
            let wrong = |what: String| {
                Error::usage(what).remedy(format!("--shape KEY=NUMBER,…; {} has: {known}", self.operation))
            };
            let (key, value) =
                change.split_once('=').ok_or_else(|| wrong(format!("`{change}` is no KEY=NUMBER")))?;
            let value: usize = value
                .parse()
                .ok()
                .filter(|v| (1..=1 << 20).contains(v))
                .ok_or_else(|| wrong(format!("`{change}`: a number from 1 to {} expected", 1 << 20)))?;
            let keys: &[&str] = if key == "size" { &["height", "width"] } else { &[key] };
            for key in keys {
                let slot =
                    shape.0.iter_mut().find(|(known, _)| **known == *key).map(|d| d.1).ok_or_else(|| {
                        wrong(format!("{} {} has no dimension `{key}`", self.operation, self.pass))
                    })?;
                *slot = value;
            }
        }
        Ok(shape)
    }

    /// The case of a shape, by a rung of the ladder where there is one.
    ///
    /// # Errors
    /// A shape of more values than a kernel can index.
    pub fn case(&self, shape: &Shape, rung: Option<&Step>) -> Result<Case> {
        let case = (self.build)(shape, rung);
        // Indices within a tensor are 32-bit. Inputs and outputs together are more than any of them.
        if case.work.bytes > 4.0 * 4.0 * f64::from(i32::MAX) || case.work.bytes.is_nan() {
            let message =
                format!("{}: {:.0} GB are more than a kernel can index", case.shape, case.work.bytes / 1e9);
            return Err(Error::usage(message).remedy("choose a smaller --shape"));
        }
        Ok(Case { operation: self.operation, pass: self.pass, rung: rung.copied(), ..case })
    }

    /// The operation's name and pass: `conv2d input gradient`.
    pub fn name(&self) -> String {
        format!("{} {}", self.operation, self.pass)
    }
}

impl Case {
    /// `conv2d input gradient`.
    pub fn name(&self) -> String {
        format!("{} {}", self.operation, self.pass)
    }

    /// The kernels whose launches count; `None` for all.
    pub fn only(&self) -> Option<&[&'static str]> {
        (!self.kernels.is_empty()).then_some(&self.kernels)
    }

    /// The same, of which only one kernel's launches count.
    pub fn of_kernel(mut self, kernel: &'static str) -> Self {
        self.kernels = vec![kernel];
        self
    }

    /// The kernel of its rung.
    pub fn kernel(&self) -> Option<&'static str> {
        self.rung.map(|step| step.rung.kernel).or(self.kernels.first().copied())
    }

    /// Executes it once on a GPU, by its rung and in its precision, and keeps what was queued. The seed names the inputs.
    ///
    /// # Errors
    /// A rung that the GPU cannot run; a shape that does not fit; the device's; launches of the rung that were not made.
    pub fn record(&self, gpu: &Arc<Gpu>, seed: u64) -> Result<Recording> {
        self.record_after(gpu, seed, || Ok(()))
    }

    /// As [`Case::record`]; `before` is called when the inputs are on the GPU and the operation is not.
    fn record_after(
        &self,
        gpu: &Arc<Gpu>,
        seed: u64,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<Recording> {
        let precision = gpu.precision();
        gpu.set_precision(self.work.precision)?;
        let made = self.in_precision(gpu, seed, before);
        let restored = gpu.set_precision(precision);
        let recording = made?;
        restored?;
        if let Some(only) = self.only()
            && recording.launches(Some(only)) == 0
        {
            let message = format!("{}: {} was not launched", self.name(), only.join(", "));
            return Err(
                Error::invalid(message).remedy("choose another --shape: this one needs no such kernel")
            );
        }
        Ok(recording)
    }

    fn in_precision(
        &self,
        gpu: &Arc<Gpu>,
        seed: u64,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<Recording> {
        let before_forced = match &self.rung {
            None => None,
            Some(step) => {
                step.check(gpu, self.operation)?;
                Some(gpu.force(self.operation, Some(step.rung.name)))
            }
        };
        let made = gpu.record(
            || (self.prepare)(gpu, seed),
            |ready| {
                before()?;
                ready()
            },
        );
        if let Some(rung) = before_forced {
            gpu.force(self.operation, rung);
        }
        made
    }
}

/// The subject, and its rung, that launch a kernel: found by executing each in a small shape, those of the kernel's own
/// file first.
///
/// # Errors
/// A kernel that there is not (wrong usage) or that no operation launches; the device's.
pub fn find_kernel(gpu: &Arc<Gpu>, kernel: &str) -> Result<(Subject, Option<Step>, &'static str)> {
    use crate::device::cuda::{kernel_file, kernel_names};
    let Some(name) = kernel_names().into_iter().find(|name| *name == kernel) else {
        return Err(Error::usage(format!("there is no operation or kernel `{kernel}`"))
            .remedy(format!("`seedwalk profile` lists them; operations: {}", operations().join(", "))));
    };
    let file = kernel_file(name).unwrap_or_default();
    let mut subjects = catalogue();
    subjects.sort_by_key(|s| !file.starts_with(s.operation));
    for subject in subjects {
        let shape = subject.default_shape(true);
        let rungs: Vec<Option<Step>> = match subject.rungs.is_empty() {
            true => vec![None],
            false => subject.rungs.iter().copied().map(Some).collect(),
        };
        for rung in rungs {
            let case = subject.case(&shape, rung.as_ref())?;
            // A rung that this GPU cannot run launches nothing.
            if case.rung.is_some_and(|step| step.needs_async_copies && !gpu.has_async_copies()) {
                continue;
            }
            if case.record(gpu, 1)?.kernels().contains(&name) {
                return Ok((subject, rung, name));
            }
        }
    }
    let message = format!("no operation of the catalogue launches {kernel}");
    Err(Error::invalid(message).remedy("`seedwalk profile` lists operations and their kernels"))
}

/// The operations of the catalogue, each once.
pub fn operations() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for subject in catalogue() {
        if !names.contains(&subject.operation) {
            names.push(subject.operation);
        }
    }
    names
}

#[cfg(test)]
mod tests;
