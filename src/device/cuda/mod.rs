//! The CUDA back end: a GPU's context, one stream, its memory and its kernels, through the driver alone.
//!
//! All work of a [`Gpu`] goes through one stream, in the order of the calls, and nothing waits for the host but reading
//! results and [`Gpu::synchronize`]. The emulated GPU is the same back end on a stand-in for the driver
//! (`crates/emulated-cuda`): it executes and checks the same kernels on the CPU.

mod buffer;
mod emulator;
mod failure;
mod feed;
mod graph;
mod kernels;
mod later;
mod library;
mod recording;
mod slot;
mod timing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use crate::device::{Device, Precision};
use crate::{Error, ErrorKind, Result};

pub(crate) use buffer::{Cached, reuse};
pub use buffer::{DeviceBuffer, Element};
pub use emulator::Emulator;
pub(crate) use feed::Feed;
pub(crate) use graph::Graph;
pub(crate) use kernels::{Argument, Geometry, blocks, sizes};
pub use kernels::{KernelResources, kernel_file, kernel_names};
pub use later::{Later, Reading};
pub use library::emulated_driver;
pub use recording::{KernelFacts, Recording};
pub use slot::Given;
pub(crate) use slot::Slot;

/// One kernel of an operation's ladder: what tests, benchmarks and documentation know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Its place on the ladder.
    pub number: u32,
    /// Its name, as in `--kernel conv2d=NAME`.
    pub name: &'static str,
    /// Its entry in the PTX.
    pub kernel: &'static str,
    /// What it does that the rung below does not.
    pub idea: &'static str,
    /// What bounds its speed.
    pub bound: &'static str,
    /// Which shapes it takes.
    pub takes: &'static str,
}

/// An open GPU. Dropping the last handle gives all of it back to the driver.
pub struct Gpu {
    device: Device,
    name: String,
    compute_capability: (i32, i32),
    multiprocessors: i32,
    shared_per_block: u32,
    precision: Mutex<Precision>,
    /// Rungs that were asked for, by operation.
    forced: Mutex<BTreeMap<&'static str, &'static str>>,
    /// What is being recorded, if anything.
    draft: Mutex<Option<recording::Draft>>,
    /// Where memory comes from for now, if not from `pool`.
    scope: Mutex<Option<graph::Scope>>,
    // In the order in which they must go: kernels and memory before the stream, the stream before the context.
    kernels: kernels::Registry,
    pool: buffer::Pool,
    cache: buffer::Cache,
    /// Page-locked memory of the host that results are copied to.
    landings: later::Landings,
    /// Whether buffers are only counted, and nothing is computed.
    counts: bool,
    /// Kernels that were queued.
    launches: AtomicU64,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// The emulated GPU for one unit test at a time: its report is the process's, and a recording wants no work beside it.
#[cfg(test)]
pub(crate) fn emulated_alone() -> (Arc<Gpu>, std::sync::MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (Device::Emulated.gpu().expect("cargo has built the emulated driver"), alone)
}

/// GPUs that are open in this process.
static OPEN: Mutex<Vec<Weak<Gpu>>> = Mutex::new(Vec::new());

/// A driver older than this (CUDA 11.4) lacks functions that the back end calls.
const OLDEST_DRIVER: i32 = 11040;

impl Gpu {
    /// The GPU of a device, opened if it is not open.
    pub(super) fn of(device: Device) -> Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|gpu| gpu.strong_count() > 0);
        if let Some(gpu) = open.iter().filter_map(Weak::upgrade).find(|gpu| gpu.device == device) {
            return Ok(gpu);
        }
        let ordinal = match device {
            Device::Cpu => return Err(Error::new(ErrorKind::Unavailable, "the CPU is no GPU")),
            Device::Emulated => {
                library::load_emulated()?;
                0
            }
            Device::Cuda(ordinal) => {
                library::load_driver()?;
                ordinal
            }
        };
        let gpu = Arc::new(Self::open(device, ordinal)?);
        open.push(Arc::downgrade(&gpu));
        Ok(gpu)
    }

    fn open(device: Device, ordinal: u32) -> Result<Self> {
        let fail = |e: DriverError| failure::of_opening(device, e);
        result::init().map_err(fail)?;
        let version = driver_version().map_err(fail)?;
        if version < OLDEST_DRIVER {
            let message = format!("the NVIDIA driver is for CUDA {}, 11.4 is needed", show_version(version));
            return Err(Error::new(ErrorKind::Device, message).remedy(failure::NEWER_DRIVER));
        }
        let context = open_context(ordinal).map_err(fail)?;
        // One stream, whose order is the program's: events for each buffer would only cost. Before the first allocation.
        // SAFETY: buffers are used on this one stream only.
        unsafe { context.disable_event_tracking() };
        let attribute = |a| context.attribute(a).map_err(fail);
        let stream = context.new_stream().map_err(fail)?;
        Ok(Self {
            device,
            name: context.name().map_err(fail)?,
            compute_capability: context.compute_capability().map_err(fail)?,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?
            .unsigned_abs(),
            precision: Mutex::new(Precision::F32),
            forced: Mutex::default(),
            draft: Mutex::default(),
            scope: Mutex::default(),
            kernels: kernels::Registry::new(),
            // The emulator knows each buffer's true bounds and what was never written only if buffers are not recycled.
            pool: buffer::Pool::new(device != Device::Emulated),
            cache: buffer::Cache::new(),
            landings: later::Landings::default(),
            counts: false,
            launches: AtomicU64::new(0),
            stream,
            context,
        })
    }

    /// This GPU as a counting frame: operations run as ever, but take no memory, queue nothing and read zeros, so that
    /// [`Gpu::footprint`] tells what they would take.
    pub(crate) fn counting(&self) -> Arc<Self> {
        Arc::new(Self {
            device: self.device,
            name: self.name.clone(),
            precision: Mutex::new(self.precision()),
            forced: Mutex::new(self.forced.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            draft: Mutex::default(),
            scope: Mutex::default(),
            kernels: kernels::Registry::new(),
            pool: buffer::Pool::new(true),
            cache: buffer::Cache::new(),
            landings: later::Landings::default(),
            counts: true,
            launches: AtomicU64::new(0),
            stream: Arc::clone(&self.stream),
            context: Arc::clone(&self.context),
            ..*self
        })
    }

    /// The device that this GPU is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Its product name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its compute capability, major and minor.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    /// Its streaming multiprocessors.
    pub fn multiprocessors(&self) -> i32 {
        self.multiprocessors
    }

    /// The most shared memory that a block may have, in bytes.
    pub fn shared_per_block(&self) -> u32 {
        self.shared_per_block
    }

    /// What convolutions multiply in.
    pub fn precision(&self) -> Precision {
        *self.precision.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has convolutions multiply in another precision from here on.
    ///
    /// # Errors
    /// Tensor cores for it need compute capability 8.0.
    pub fn set_precision(&self, precision: Precision) -> Result<()> {
        if precision != Precision::F32 && !self.has_async_copies() {
            let (major, minor) = self.compute_capability;
            let message =
                format!("{self:?}: tf32 and bf16 need compute capability 8.0, it has {major}.{minor}");
            return Err(Error::new(ErrorKind::Unavailable, message).remedy("leave out --precision"));
        }
        *self.precision.lock().unwrap_or_else(PoisonError::into_inner) = precision;
        Ok(())
    }

    /// Has an operation use one rung of its ladder wherever the rung exists for what is computed, or with `None` the one
    /// that suits each shape. [`ladders::force`](crate::ops::ladders::force) checks names. Returns what held before.
    pub(crate) fn force(&self, operation: &'static str, rung: Option<&'static str>) -> Option<&'static str> {
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        match rung {
            Some(rung) => forced.insert(operation, rung),
            None => forced.remove(operation),
        }
    }

    /// The rung that an operation was asked to use.
    pub(crate) fn forced(&self, operation: &str) -> Option<&'static str> {
        self.forced.lock().unwrap_or_else(PoisonError::into_inner).get(operation).copied()
    }

    /// What operations keep here from call to call; nothing while a recording or a graph is made, whose memory must be its
    /// own.
    pub(crate) fn cache(&self) -> Option<&buffer::Cache> {
        (!self.is_recording() && self.pool_of_scope().is_none()).then_some(&self.cache)
    }

    /// Whether it runs kernels for sm_80: copies in the background, tensor cores for tf32 and bf16.
    pub(crate) fn has_async_copies(&self) -> bool {
        self.compute_capability.0 >= 8
    }

    /// How many kernels were queued so far.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Free and total device memory in bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| self.failure("asking for free memory", e))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// The driver's: also what went wrong in a kernel that ran before.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.failure("waiting for the GPU", e))
    }

    /// The driver's error in what it was doing, with what to do about it.
    fn failure(&self, doing: &str, error: DriverError) -> Error {
        failure::of_work(self.device, doing, error)
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.compute_capability;
        write!(f, "{} ({}, sm_{major}{minor})", self.name, self.device)
    }
}

/// Opens the primary context of a GPU.
fn open_context(ordinal: u32) -> std::result::Result<Arc<CudaContext>, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    CudaContext::new(ordinal as usize).inspect_err(|_| {
        // cudarc 0.19 forgets the context that it retained when a later step of opening fails. No other part of this
        // process holds it: `OPEN` is locked and has no GPU of this number, so what is active is what was forgotten.
        let (mut flags, mut active) = (0, 0);
        // SAFETY: pointers to two integers, and a device that exists.
        let known = unsafe { sys::cuDevicePrimaryCtxGetState(device, &mut flags, &mut active) };
        if known == CUresult::CUDA_SUCCESS && active != 0 {
            // SAFETY: retained once by the failed call and used by nobody.
            let _ = unsafe { result::primary_ctx::release(device) };
        }
    })
}

/// The CUDA version that the loaded driver is for: 1000 × major + 10 × minor.
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: a pointer to an integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// `12080` as `12.8`.
fn show_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What there is of CUDA on this machine, for `doctor`: the driver's version and the GPUs' names, or why there is none.
///
/// # Errors
/// No driver, no GPU, or a driver that does not answer.
pub fn survey() -> Result<(String, Vec<String>)> {
    library::load_driver()?;
    let device = Device::Cuda(0);
    let fail = |e: DriverError| failure::of_opening(device, e);
    result::init().map_err(fail)?;
    let version = show_version(driver_version().map_err(fail)?);
    let count = result::device::get_count().map_err(fail)?;
    let name = |n| result::device::get(n).and_then(result::device::get_name).map_err(fail);
    Ok((version, (0..count).map(name).collect::<Result<_>>()?))
}
