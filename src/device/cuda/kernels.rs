//! The kernels: their PTX, which is part of the program, loaded when a kernel of it is first launched.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaFunction, CudaModule, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::{DeviceBuffer, Gpu};
use crate::{Error, ErrorKind, Result};

/// The files of `kernels/`, compiled.
const FILES: &[(&str, &str)] = &[
    ("affinity", include_str!("../../../kernels/ptx/affinity.ptx")),
    ("batch_norm", include_str!("../../../kernels/ptx/batch_norm.ptx")),
    ("concat", include_str!("../../../kernels/ptx/concat.ptx")),
    ("conv2d", include_str!("../../../kernels/ptx/conv2d.ptx")),
    ("conv2d_bf16", include_str!("../../../kernels/ptx/conv2d_bf16.ptx")),
    ("conv2d_tf32", include_str!("../../../kernels/ptx/conv2d_tf32.ptx")),
    ("conv2d_weight", include_str!("../../../kernels/ptx/conv2d_weight.ptx")),
    ("crf", include_str!("../../../kernels/ptx/crf.ptx")),
    ("crf_lattice", include_str!("../../../kernels/ptx/crf_lattice.ptx")),
    ("dropout", include_str!("../../../kernels/ptx/dropout.ptx")),
    ("losses", include_str!("../../../kernels/ptx/losses.ptx")),
    ("optimizer", include_str!("../../../kernels/ptx/optimizer.ptx")),
    ("pointwise", include_str!("../../../kernels/ptx/pointwise.ptx")),
    ("pooling", include_str!("../../../kernels/ptx/pooling.ptx")),
    ("reduce", include_str!("../../../kernels/ptx/reduce.ptx")),
    ("resize", include_str!("../../../kernels/ptx/resize.ptx")),
    ("sort", include_str!("../../../kernels/ptx/sort.ptx")),
    ("walk", include_str!("../../../kernels/ptx/walk.ptx")),
];

/// A launch's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block, all in x.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
}

/// One argument of a kernel. It borrows the buffer that it names, so that none is given back before its kernel is queued.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a> {
    /// A buffer, or none.
    Address(Address<'a>),
    I32(i32),
    U32(u32),
    F32(f32),
}

/// A buffer's address, 0 for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a>(u64, PhantomData<&'a ()>);

impl Argument<'_> {
    /// Its address, where it names a buffer.
    pub(super) fn address(self) -> Option<u64> {
        match self {
            Self::Address(Address(0, _)) => None,
            Self::Address(Address(address, _)) => Some(address),
            _ => None,
        }
    }

    /// The same without the borrow: for whoever keeps the buffer alive by other means.
    pub(super) fn detached(self) -> Argument<'static> {
        match self {
            Self::Address(Address(address, _)) => Argument::Address(Address(address, PhantomData)),
            Self::I32(v) => Argument::I32(v),
            Self::U32(v) => Argument::U32(v),
            Self::F32(v) => Argument::F32(v),
        }
    }

    /// No buffer.
    pub const NONE: Argument<'static> = Argument::Address(Address(0, PhantomData));

    /// The part of a buffer from element `first` on.
    pub fn part<T>(buffer: &DeviceBuffer<T>, first: usize) -> Argument<'_> {
        debug_assert!(first <= buffer.len());
        Argument::Address(Address(buffer.address() + (first * size_of::<T>()) as u64, PhantomData))
    }

    fn bytes(self) -> usize {
        match self {
            Self::Address(_) => 8,
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
        }
    }
}

impl Argument<'static> {
    /// A size or count as the kernels' `int`.
    ///
    /// # Errors
    /// Above 2³¹ − 1: no tensor on a GPU may have that many values.
    pub fn size(value: usize) -> Result<Self> {
        i32::try_from(value).map(Self::I32).map_err(|_| {
            Error::shape("launch", format!("{value} is more than a kernel's 32-bit indices can name"))
        })
    }
}

/// Several sizes or counts in a row: see [`Argument::size`].
pub(crate) fn sizes<const N: usize>(values: [usize; N]) -> Result<[Argument<'static>; N]> {
    let mut out = [Argument::I32(0); N];
    for (out, value) in out.iter_mut().zip(values) {
        *out = Argument::size(value)?;
    }
    Ok(out)
}

/// How many pieces of `size` cover `count`: a grid's blocks along one axis.
///
/// # Errors
/// More than a grid can have.
pub(crate) fn blocks(count: usize, size: usize) -> Result<u32> {
    let blocks = i32::try_from(count.div_ceil(size));
    blocks.map(i32::unsigned_abs).map_err(|_| {
        Error::shape("launch", format!("{count} values are more than a grid's blocks can cover"))
    })
}

impl Geometry {
    /// A grid of one dimension that covers `count` in blocks of 256 threads, `per_block` each.
    pub fn line(count: usize, per_block: usize) -> Result<Self> {
        Ok(Self { grid: [blocks(count, per_block)?, 1, 1], threads: 256, shared: 0 })
    }
}

impl<'a, T> From<&'a DeviceBuffer<T>> for Argument<'a> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        Self::Address(Address(buffer.address(), PhantomData))
    }
}

impl<'a, T> From<&'a Arc<DeviceBuffer<T>>> for Argument<'a> {
    fn from(buffer: &'a Arc<DeviceBuffer<T>>) -> Self {
        (&**buffer).into()
    }
}

/// No buffer where there is none.
impl<'a, T> From<Option<&'a Arc<DeviceBuffer<T>>>> for Argument<'a> {
    fn from(buffer: Option<&'a Arc<DeviceBuffer<T>>>) -> Self {
        buffer.map_or(Self::NONE, Self::from)
    }
}

/// A loaded kernel.
#[derive(Clone)]
pub(super) struct Kernel {
    pub name: &'static str,
    pub function: CudaFunction,
    /// Bytes of each parameter, from the PTX.
    parameters: Arc<[usize]>,
}

/// What has been loaded so far.
pub(super) struct Registry {
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    kernels: Mutex<HashMap<&'static str, Kernel>>,
}

impl Registry {
    pub fn new() -> Self {
        Self { modules: Mutex::default(), kernels: Mutex::default() }
    }
}

/// The kernels of a PTX text: names, and bytes of each parameter. Parameters are plain numbers (`.param .u64 name`).
fn entries(ptx: &str) -> impl Iterator<Item = (&str, Vec<usize>)> {
    ptx.split(".entry ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('(')?;
        let (list, _) = rest.split_once(')')?;
        let sizes = list.split(',').filter_map(|parameter| {
            let kind = parameter.trim().strip_prefix(".param .")?.split_whitespace().next()?;
            kind.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse::<usize>().ok()
        });
        Some((name.trim(), sizes.map(|bits| bits / 8).collect()))
    })
}

/// All kernels that the program carries.
pub fn kernel_names() -> Vec<&'static str> {
    FILES.iter().flat_map(|(_, ptx)| entries(ptx).map(|e| e.0)).collect()
}

/// The file of `kernels/` that a kernel is in, without its ending.
pub fn kernel_file(kernel: &str) -> Option<&'static str> {
    let has = |ptx: &'static str| entries(ptx).any(|e| e.0 == kernel);
    FILES.iter().find_map(|&(file, ptx)| has(ptx).then_some(file))
}

/// What a kernel takes of a multiprocessor, by the driver, which compiles the PTX for the GPU at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelResources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread in memory: what its registers do not hold.
    pub local_bytes: u32,
    /// Static shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Most threads that a block may have.
    pub threads: u32,
}

impl Gpu {
    /// What a kernel of [`kernel_names`] takes, loaded if it was not.
    ///
    /// # Errors
    /// No such kernel; the driver's: PTX that it refuses.
    pub fn kernel_resources(&self, name: &'static str) -> Result<KernelResources> {
        let kernel = self.kernel(name)?.function;
        let resources = || {
            Ok(KernelResources {
                registers: kernel.num_regs()?.unsigned_abs(),
                local_bytes: kernel.local_size_bytes()?.unsigned_abs(),
                shared_bytes: kernel.shared_size_bytes()?.unsigned_abs(),
                threads: kernel.max_threads_per_block()?.unsigned_abs(),
            })
        };
        resources().map_err(|e| self.failure(&format!("asking for the resources of {name}"), e))
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        let mut kernels = self.kernels.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let found = FILES.iter().find_map(|(file, ptx)| {
            let parameters = entries(ptx).find(|e| e.0 == name)?.1;
            Some((*file, *ptx, parameters))
        });
        let Some((file, ptx, parameters)) = found else {
            return Err(Error::new(ErrorKind::Device, format!("the program carries no kernel `{name}`")));
        };
        let mut modules = self.kernels.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(file) {
            Some(module) => Arc::clone(module),
            None => {
                let module = self
                    .context
                    .load_module(Ptx::from_src(ptx))
                    .map_err(|e| self.failure(&format!("loading the kernels of {file}.ptx"), e))?;
                modules.insert(file, Arc::clone(&module));
                module
            }
        };
        let function =
            module.load_function(name).map_err(|e| self.failure(&format!("finding kernel {name}"), e))?;
        log::debug!("loaded {name} of {file}.ptx");
        let kernel = Kernel { name, function, parameters: parameters.into() };
        kernels.insert(name, kernel.clone());
        Ok(kernel)
    }

    /// Queues a kernel behind all work before.
    ///
    /// # Errors
    /// Arguments whose number or sizes are not the kernel's; more shared memory than a block can have; the driver's.
    ///
    /// # Safety
    /// The arguments mean what the kernel takes them for: each address is a buffer of this GPU that is as large as the
    /// other arguments say, or 0 where the kernel takes none, and no buffer that the kernel writes is used otherwise.
    pub(crate) unsafe fn launch(
        &self,
        name: &'static str,
        geometry: Geometry,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        self.launches.fetch_add(1, Ordering::Relaxed);
        if self.counts {
            return Ok(());
        }
        let kernel = self.kernel(name)?;
        let given: Vec<usize> = arguments.iter().map(|a| a.bytes()).collect();
        if *given != *kernel.parameters {
            let message = format!("{name} takes parameters of {:?} bytes, not {given:?}", kernel.parameters);
            return Err(Error::new(ErrorKind::Device, message));
        }
        // Nothing to compute; a grid of no blocks is an error to the driver.
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        self.note_launch(&kernel, geometry, arguments)?;
        // SAFETY: number and sizes of the arguments were compared with the kernel's; what they mean is the caller's duty.
        unsafe { self.queue(&kernel, geometry, arguments) }
    }

    /// Queues a loaded kernel, whose grid is not empty.
    ///
    /// # Safety
    /// As [`Gpu::launch`]; number and sizes of the arguments are the kernel's.
    pub(super) unsafe fn queue(
        &self,
        kernel: &Kernel,
        geometry: Geometry,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let name = kernel.name;
        let fail = |e| self.failure(&format!("launching {name}"), e);
        if geometry.shared > 0 {
            if geometry.shared > self.shared_per_block {
                let message = format!(
                    "{name} needs {} bytes of shared memory, a block of this GPU has {}",
                    geometry.shared, self.shared_per_block
                );
                return Err(Error::new(ErrorKind::Device, message));
            }
            // Without asking a block has 48 KB, the kernel's static memory among them.
            kernel
                .function
                .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, geometry.shared as i32)
                .map_err(fail)?;
        }
        let [x, y, z] = geometry.grid;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (geometry.threads, 1, 1),
            shared_mem_bytes: geometry.shared,
        };
        let mut launch = self.stream.launch_builder(&kernel.function);
        for argument in arguments {
            match argument {
                Argument::Address(Address(value, _)) => launch.arg(value),
                Argument::I32(value) => launch.arg(value),
                Argument::U32(value) => launch.arg(value),
                Argument::F32(value) => launch.arg(value),
            };
        }
        // SAFETY: by this function's contract.
        unsafe { launch.launch(config) }.map_err(fail)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_from_the_ptx() {
        let ptx =
            ".visible .entry a(\n\t.param .u64 a_param_0,\n\t.param .f32 a_param_1\n)\n{ }\n.entry b()\n{ }";
        let found: Vec<_> = entries(ptx).collect();
        assert_eq!(found, [("a", vec![8, 4]), ("b", vec![])]);
    }

    #[test]
    fn kernels_have_one_name_each() {
        let mut names = kernel_names();
        assert!(names.contains(&"conv2d_forward_direct_f32"));
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
    }
}
