//! Device memory: buffers of one element type, and the pool that they come from and go back to.

use std::any::Any;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DevicePtr, DriverError, result};

use super::Gpu;
use crate::tensor::Tensor;
use crate::{Error, Result};

mod sealed {
    pub trait Sealed {}
}

/// What a buffer may hold: plain numbers of which every bit pattern is valid.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed {}

macro_rules! elements {
    ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl Element for $t {})* };
}
elements!(f32, u8, u16, i32, u32);

/// How many buffers of one size in bytes are in use.
#[derive(Default)]
struct Lent {
    now: usize,
    /// The most that ever were at a time: as many as the driver is asked for.
    most: usize,
}

/// Buffers that were given back, by their bytes. Sizes repeat from step to step, so the exact size is looked for: nothing
/// is rounded, and after the first step nothing is allocated.
///
/// Sharing is safe without waiting: all work is in one stream, so a new owner's work comes after the old one's.
#[derive(Clone)]
pub(super) struct Pool {
    free: Arc<Mutex<HashMap<usize, Vec<CudaSlice<u8>>>>>,
    ledger: Arc<Mutex<HashMap<usize, Lent>>>,
    policy: Policy,
}

/// What becomes of memory that is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// It is kept for the next that asks for as much.
    Recycle,
    /// It goes back to the driver.
    Free,
    /// It is kept until the pool goes, and handed to nobody: launches that were recorded still name it.
    Hold,
}

impl Pool {
    pub fn new(recycles: bool) -> Self {
        Self::of(if recycles { Policy::Recycle } else { Policy::Free })
    }

    fn of(policy: Policy) -> Self {
        Self { free: Arc::default(), ledger: Arc::default(), policy }
    }

    /// One that keeps what is given back and hands none of it out.
    pub fn holding() -> Self {
        Self::of(Policy::Hold)
    }

    /// One that recycles, begins with all that is free here, and keeps count in the same ledger.
    pub fn successor(&self) -> Self {
        let free = std::mem::take(&mut *self.free());
        Self { free: Arc::new(Mutex::new(free)), ledger: Arc::clone(&self.ledger), policy: Policy::Recycle }
    }

    fn free(&self) -> MutexGuard<'_, HashMap<usize, Vec<CudaSlice<u8>>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, HashMap<usize, Lent>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: usize) -> Option<CudaSlice<u8>> {
        if self.policy == Policy::Hold {
            return None;
        }
        self.free().get_mut(&bytes)?.pop()
    }

    fn lend(&self, bytes: usize) {
        let mut ledger = self.ledger();
        let lent = ledger.entry(bytes).or_default();
        lent.now += 1;
        lent.most = lent.most.max(lent.now);
    }

    fn give_back(&self, bytes: usize, memory: Option<CudaSlice<u8>>) {
        self.ledger().entry(bytes).or_default().now -= 1;
        if self.policy != Policy::Free {
            self.free().entry(bytes).or_default().extend(memory);
        }
    }

    /// Gives everything that is not in use back to the driver; whether there was anything.
    pub(super) fn clear(&self) -> bool {
        std::mem::take(&mut *self.free()).into_values().any(|held| !held.is_empty())
    }

    /// The bytes that all sizes together came to, each at its own busiest time.
    fn footprint(&self) -> usize {
        self.ledger().iter().map(|(bytes, lent)| bytes * lent.most).sum()
    }
}

/// `len` elements in a GPU's memory. Dropping it gives the memory back to the pool.
pub struct DeviceBuffer<T> {
    /// Taken only when dropped. `None` also stands for a buffer of no elements, which needs no memory, and for one that is
    /// only counted.
    memory: Option<CudaSlice<u8>>,
    address: u64,
    len: usize,
    pool: Pool,
    // Also keeps the context alive.
    gpu: Arc<Gpu>,
    element: PhantomData<T>,
}

impl<T> DeviceBuffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The GPU that it is on.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Its memory; none where it is empty or only counted.
    pub(super) fn memory(&self) -> Option<&CudaSlice<u8>> {
        self.memory.as_ref()
    }

    /// Its first byte's address on the device; 0 where it is empty.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// A buffer's memory apart from its GPU: what the GPU itself keeps in its [`Cache`] without keeping itself open.
pub(crate) struct Cached<T> {
    memory: Option<CudaSlice<u8>>,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T> DeviceBuffer<T> {
    /// Its memory, for the cache.
    pub(crate) fn cached(mut self) -> Cached<T> {
        Cached { memory: self.memory.take(), address: self.address, len: self.len, element: PhantomData }
    }
}

impl<T> Cached<T> {
    /// The buffer again, on the GPU whose cache it was in.
    pub(crate) fn on(self, gpu: &Arc<Gpu>) -> DeviceBuffer<T> {
        let Self { memory, address, len, element } = self;
        if len > 0 {
            gpu.pool.lend(len * size_of::<T>());
        }
        DeviceBuffer { memory, address, len, pool: gpu.pool.clone(), gpu: Arc::clone(gpu), element }
    }
}

/// What operations leave on a GPU for the next call: the latest few things, each under a name of what it is. A thing is
/// taken out, used, and put back.
pub(crate) struct Cache(Mutex<Vec<(String, Box<dyn Any + Send>)>>);

impl Cache {
    const ROOM: usize = 8;

    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn things(&self) -> MutexGuard<'_, Vec<(String, Box<dyn Any + Send>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the thing of this name and kind out, if it is there.
    pub fn take<T: 'static>(&self, name: &str) -> Option<T> {
        let mut things = self.things();
        let at = things.iter().position(|(known, thing)| known == name && thing.is::<T>())?;
        things.remove(at).1.downcast().ok().map(|thing| *thing)
    }

    /// Puts a thing there, in place of the one of its name or else of the oldest if there are too many.
    pub fn put<T: Send + 'static>(&self, name: String, thing: T) {
        let mut things = self.things();
        things.retain(|(known, _)| *known != name);
        if things.len() == Self::ROOM {
            things.remove(0);
        }
        things.push((name, Box::new(thing)));
    }

    /// Gives everything back to the driver; whether there was anything.
    pub fn clear(&self) -> bool {
        !std::mem::take(&mut *self.things()).is_empty()
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            self.pool.give_back(self.len * size_of::<T>(), self.memory.take());
        }
    }
}

impl<T> std::fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer<{}>[{}] on {}", std::any::type_name::<T>(), self.len, self.gpu.device())
    }
}

/// A tensor's buffer to read from, and one of its size to write to: its own where nobody else holds it. `what` names a
/// new one in errors.
///
/// # Errors
/// A tensor that is not on a GPU; as [`Gpu::allocate`].
pub(crate) fn reuse(tensor: Tensor, what: &str) -> Result<[Arc<DeviceBuffer<f32>>; 2]> {
    let (source, alone) = tensor.into_buffer()?;
    let target =
        if alone { Arc::clone(&source) } else { Arc::new(source.gpu().allocate(what, source.len())?) };
    Ok([source, target])
}

impl Gpu {
    /// The bytes that buffers took so far, each size at its own busiest time: what the pool has of the driver, unless memory
    /// ran out and it gave some back.
    pub fn footprint(&self) -> usize {
        self.pool.footprint()
    }

    /// A buffer of `len` elements whose values are not defined. `what` names it in errors.
    ///
    /// # Errors
    /// Out of memory: names the buffer, its bytes and what is free. Otherwise the driver's.
    pub fn allocate<T: Element>(self: &Arc<Self>, what: &str, len: usize) -> Result<DeviceBuffer<T>> {
        self.allocate_from(self.pool_in_use(), what, len)
    }

    fn allocate_from<T: Element>(
        self: &Arc<Self>,
        pool: Pool,
        what: &str,
        len: usize,
    ) -> Result<DeviceBuffer<T>> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or_else(|| Error::shape(what, format!("{len} elements are more than can be addressed")))?;
        let memory =
            if bytes == 0 || self.counts { None } else { Some(self.take_memory(&pool, what, bytes)?) };
        let address = memory.as_ref().map_or(0, |m| m.device_ptr(&self.stream).0);
        self.note_allocation(address, bytes);
        if bytes > 0 {
            pool.lend(bytes);
        }
        Ok(DeviceBuffer { memory, address, len, pool, gpu: Arc::clone(self), element: PhantomData })
    }

    fn take_memory(&self, pool: &Pool, what: &str, bytes: usize) -> Result<CudaSlice<u8>> {
        if let Some(memory) = pool.take(bytes) {
            return Ok(memory);
        }
        if let Some(memory) = self.take_beside_capture(what, bytes)? {
            return Ok(memory);
        }
        // SAFETY: undefined bytes are valid elements, and the launchers write outputs before they are read; under the
        // emulated driver a kernel that reads them is reported.
        let attempt = || unsafe { self.stream.alloc::<u8>(bytes) };
        let out_of_memory = |e: &DriverError| e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let mut memory = attempt();
        // Memory of other sizes may be held for later. Its return is queued: wait for it.
        if memory.as_ref().is_err_and(out_of_memory) && (self.pool.clear() | self.cache.clear()) {
            self.synchronize()?;
            memory = attempt();
        }
        memory.map_err(|e| self.allocation_failure(what, bytes, e))
    }

    /// The driver's refusal of memory, with what is free.
    pub(super) fn allocation_failure(&self, what: &str, bytes: usize, e: DriverError) -> Error {
        let mib = |n: usize| n as f64 / f64::from(1 << 20);
        let error = self.failure(&format!("allocating {what}, {:.1} MiB", mib(bytes)), e);
        match self.memory() {
            Ok((free, total)) if e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                error.detail(format!("{:.1} of {:.1} MiB are free", mib(free), mib(total)))
            }
            _ => error,
        }
    }

    /// A buffer with a copy of `data`. `what` names it in errors. While a graph is captured it is the graph's for good: what
    /// changes from one launch of it to the next comes by a `Slot` instead.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload<T: Element>(self: &Arc<Self>, what: &str, data: &[T]) -> Result<DeviceBuffer<T>> {
        let (pool, beside) = self.where_to_upload();
        let mut buffer = self.allocate_from(pool, what, data.len())?;
        if let Some(memory) = buffer.memory.as_mut() {
            beside
                .as_ref()
                .unwrap_or(&self.stream)
                .memcpy_htod(bytemuck::cast_slice::<T, u8>(data), memory)
                // The graph's stream does not wait for another.
                .and_then(|()| beside.as_ref().map_or(Ok(()), |beside| beside.synchronize()))
                .map_err(|e| self.failure(&format!("copying {what} to the GPU"), e))?;
        }
        Ok(buffer)
    }

    /// A buffer of zeros. `what` names it in errors.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros<T: Element>(self: &Arc<Self>, what: &str, len: usize) -> Result<DeviceBuffer<T>> {
        let mut buffer = self.allocate(what, len)?;
        if let Some(memory) = buffer.memory.as_mut() {
            self.stream.memset_zeros(memory).map_err(|e| self.failure(&format!("clearing {what}"), e))?;
        }
        self.note_clear(&buffer);
        Ok(buffer)
    }

    /// A copy of a buffer in device memory. `what` names it in errors.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn duplicate<T: Element>(
        self: &Arc<Self>,
        what: &str,
        buffer: &DeviceBuffer<T>,
    ) -> Result<DeviceBuffer<T>> {
        let copy = self.allocate(what, buffer.len)?;
        self.copy(what, buffer, &copy)?;
        self.note_copy(buffer, &copy)?;
        Ok(copy)
    }

    /// Copies a buffer's elements to another of its length. `what` names them in errors.
    ///
    /// # Errors
    /// Another length; the driver's.
    pub(crate) fn copy<T: Element>(
        &self,
        what: &str,
        from: &DeviceBuffer<T>,
        to: &DeviceBuffer<T>,
    ) -> Result<()> {
        if from.len != to.len {
            return Err(Error::shape(what, format!("{} elements to room for {}", from.len, to.len)));
        }
        if from.memory.is_none() {
            return Ok(());
        }
        let bytes = from.len * size_of::<T>();
        // SAFETY: both have as many bytes; work in this stream comes in its order.
        unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.failure(&format!("copying {what}"), e))
    }

    /// The buffer's elements. Waits for all work before.
    ///
    /// # Errors
    /// The driver's: also what went wrong in a kernel that ran before.
    pub fn download<T: Element>(&self, buffer: &DeviceBuffer<T>) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); buffer.len];
        if let Some(memory) = &buffer.memory {
            self.stream
                .memcpy_dtoh(memory, bytemuck::cast_slice_mut::<T, u8>(&mut data))
                .and_then(|()| self.stream.synchronize())
                .map_err(|e| self.failure("copying a result from the GPU", e))?;
        }
        Ok(data)
    }
}
