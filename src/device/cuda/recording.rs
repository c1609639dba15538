//! Recording what an operation launches, to launch it again: for measuring kernels by the program's own launchers.
//!
//! While a recording is made, memory comes from a pool of its own that hands nothing out twice, so every buffer that a
//! recorded launch names lives as long as the recording. What is queued again therefore allocates nothing and copies
//! nothing from the host.

use std::sync::{Arc, PoisonError};

use cudarc::driver::result;

use super::buffer::Pool;
use super::kernels::Kernel;
use super::{Argument, DeviceBuffer, Geometry, Gpu};
use crate::{Error, ErrorKind, Result};

/// A recording under way.
pub(super) struct Draft {
    pool: Pool,
    /// Address and bytes of each allocation.
    ranges: Vec<(u64, usize)>,
    /// `None` while the operation is being prepared.
    steps: Option<Vec<Step>>,
}

/// One piece of queued work.
enum Step {
    Kernel { kernel: Kernel, geometry: Geometry, arguments: Vec<Argument<'static>> },
    Clear { address: u64, bytes: usize },
    Copy { from: u64, to: u64, bytes: usize },
}

/// What an operation queued on a GPU, with all memory that it used.
pub struct Recording {
    steps: Vec<Step>,
    bytes: usize,
    gpu: Arc<Gpu>,
    /// Goes with the recording, and with it what the operation gave back.
    _pool: Pool,
}

/// What is known of a kernel as it was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Registers a thread, as the driver's assembler gave them out; the emulated driver knows an upper bound only.
    pub registers: u32,
    /// Static and dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Bytes of local memory a thread: 0 where nothing is spilled.
    pub local: u32,
    /// Blocks that a multiprocessor holds at once.
    pub blocks_per_multiprocessor: u32,
}

impl Gpu {
    fn draft<T>(&self, work: impl FnOnce(&mut Draft) -> T) -> Option<T> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }

    /// Whether a recording is being made.
    pub(super) fn is_recording(&self) -> bool {
        self.draft(|_| ()).is_some()
    }

    /// Where new buffers' memory comes from.
    pub(super) fn pool_in_use(&self) -> Pool {
        let recording = self.draft(|draft| draft.pool.clone());
        recording.or_else(|| self.pool_of_scope()).unwrap_or_else(|| self.pool.clone())
    }

    pub(super) fn note_allocation(&self, address: u64, bytes: usize) {
        self.draft(|draft| draft.ranges.push((address, bytes)));
    }

    pub(super) fn note_launch(
        &self,
        kernel: &Kernel,
        geometry: Geometry,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let note = |draft: &mut Draft| {
            let Some(steps) = &mut draft.steps else { return Ok(()) };
            let foreign = |address: &u64| {
                !draft.ranges.iter().any(|(start, bytes)| (*start..start + *bytes as u64).contains(address))
            };
            if let Some(address) = arguments.iter().filter_map(|a| a.address()).find(foreign) {
                let message = format!(
                    "{} takes a buffer at {address:#x} that is older than the recording of it",
                    kernel.name
                );
                return Err(Error::new(ErrorKind::Device, message));
            }
            let arguments = arguments.iter().map(|a| a.detached()).collect();
            steps.push(Step::Kernel { kernel: kernel.clone(), geometry, arguments });
            Ok(())
        };
        self.draft(note).unwrap_or(Ok(()))
    }

    pub(super) fn note_clear<T>(&self, buffer: &DeviceBuffer<T>) {
        self.draft(|draft| {
            if let Some(steps) = draft.steps.as_mut().filter(|_| !buffer.is_empty()) {
                steps.push(Step::Clear { address: buffer.address(), bytes: buffer.len() * size_of::<T>() });
            }
        });
    }

    pub(super) fn note_copy<T>(&self, from: &DeviceBuffer<T>, to: &DeviceBuffer<T>) -> Result<()> {
        let note = |draft: &mut Draft| {
            let Some(steps) = draft.steps.as_mut().filter(|_| !from.is_empty()) else { return Ok(()) };
            if !draft.ranges.iter().any(|range| range.0 == from.address()) {
                let message = "a recorded copy is of a buffer that is older than the recording";
                return Err(Error::new(ErrorKind::Device, message));
            }
            let bytes = from.len() * size_of::<T>();
            steps.push(Step::Copy { from: from.address(), to: to.address(), bytes });
            Ok(())
        };
        self.draft(note).unwrap_or(Ok(()))
    }

    /// Prepares an operation and executes it once, while what it queues is recorded. One recording at a time, and no
    /// other work on this GPU beside it.
    ///
    /// The operation's inputs, and all that it reaches by addresses which lie in device memory (an optimiser's table),
    /// must have been allocated by `prepare` or by itself.
    ///
    /// # Errors
    /// What `prepare` and `run` fail with; another recording under way; a launch with an older buffer.
    pub(crate) fn record<P, T>(
        self: &Arc<Self>,
        prepare: impl FnOnce() -> Result<P>,
        run: impl FnOnce(P) -> Result<T>,
    ) -> Result<Recording> {
        let fresh = Draft { pool: Pool::holding(), ranges: vec![], steps: None };
        {
            let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
            if draft.is_some() {
                return Err(Error::new(ErrorKind::Device, "this GPU records an operation already"));
            }
            *draft = Some(fresh);
        }
        // Ends the recording however this function is left.
        let over = Over(self);
        let prepared = prepare()?;
        self.draft(|draft| draft.steps = Some(vec![]));
        // What it returns is given back to the recording's own pool.
        drop(run(prepared)?);
        let draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(over);
        let draft = draft.ok_or_else(|| Error::new(ErrorKind::Device, "the recording was lost"))?;
        let bytes = draft.ranges.iter().map(|range| range.1).sum();
        let steps = draft.steps.unwrap_or_default();
        Ok(Recording { steps, bytes, gpu: Arc::clone(self), _pool: draft.pool })
    }
}

struct Over<'a>(&'a Gpu);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        *self.0.draft.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Recording {
    /// The kernels that were launched, each once, in the order of their first launch.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for step in &self.steps {
            if let Step::Kernel { kernel, .. } = step
                && !names.contains(&kernel.name)
            {
                names.push(kernel.name);
            }
        }
        names
    }

    /// How often one of these kernels was launched; with `None` all queued work is counted.
    pub fn launches(&self, only: Option<&[&str]>) -> usize {
        self.steps.iter().filter(|step| wanted(step, only)).count()
    }

    /// Bytes of device memory that the recording holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues all of it again, or the launches of these kernels only.
    ///
    /// # Errors
    /// The driver's.
    pub fn queue(&self, only: Option<&[&str]>) -> Result<()> {
        let fail = |e| self.gpu.failure("repeating recorded work", e);
        for step in self.steps.iter().filter(|step| wanted(step, only)) {
            match step {
                // SAFETY: the same launch has been made before, by the launcher's word that its arguments are right; the
                // buffers that it names were allocated while it was recorded (`note_launch` checks), and their memory is
                // this recording's or in use by whoever holds the buffer.
                Step::Kernel { kernel, geometry, arguments } => unsafe {
                    self.gpu.queue(kernel, *geometry, arguments)?;
                },
                Step::Clear { address, bytes } => {
                    // SAFETY: as above.
                    unsafe { result::memset_d8_async(*address, 0, *bytes, self.gpu.stream.cu_stream()) }
                        .map_err(fail)?;
                }
                Step::Copy { from, to, bytes } => {
                    // SAFETY: as above; `note_copy` checks the source, and the target was new.
                    unsafe { result::memcpy_dtod_async(*to, *from, *bytes, self.gpu.stream.cu_stream()) }
                        .map_err(fail)?;
                }
            }
        }
        Ok(())
    }

    /// What the driver knows of a kernel as it was launched first.
    ///
    /// # Errors
    /// A kernel that was not launched; the driver's.
    pub fn facts(&self, name: &str) -> Result<KernelFacts> {
        let launch = self.steps.iter().find_map(|step| match step {
            Step::Kernel { kernel, geometry, .. } if kernel.name == name => Some((kernel, geometry)),
            _ => None,
        });
        let (kernel, geometry) =
            launch.ok_or_else(|| Error::new(ErrorKind::Device, format!("{name} was not launched")))?;
        let resources = self.gpu.kernel_resources(kernel.name)?;
        let held = kernel.function.occupancy_max_active_blocks_per_multiprocessor(
            geometry.threads,
            geometry.shared as usize,
            None,
        );
        Ok(KernelFacts {
            grid: geometry.grid,
            threads: geometry.threads,
            registers: resources.registers,
            shared: resources.shared_bytes + geometry.shared,
            local: resources.local_bytes,
            blocks_per_multiprocessor: held
                .map_err(|e| self.gpu.failure(&format!("asking what {name} needs"), e))?,
        })
    }
}

fn wanted(step: &Step, only: Option<&[&str]>) -> bool {
    match (step, only) {
        (_, None) => true,
        (Step::Kernel { kernel, .. }, Some(names)) => names.contains(&kernel.name),
        _ => false,
    }
}
