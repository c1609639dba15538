//! Results that are on their way from a GPU.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, PinnedHostSlice, result};

use super::{DeviceBuffer, Element, Gpu};
use crate::Result;

/// A value that is known later. Asking for it waits for what makes it and for nothing that was queued behind that.
pub struct Later<T>(Box<dyn FnOnce() -> Result<T> + Send>);

impl<T> std::fmt::Debug for Later<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

impl<T: Send + 'static> Later<T> {
    /// One that is known.
    pub fn now(value: T) -> Self {
        Self(Box::new(|| Ok(value)))
    }

    /// What `work` makes of it.
    pub fn map<U>(self, work: impl FnOnce(T) -> U + Send + 'static) -> Later<U> {
        Later(Box::new(|| (self.0)().map(work)))
    }

    /// The value.
    ///
    /// # Errors
    /// The device's: also what went wrong in a kernel before.
    pub fn wait(self) -> Result<T> {
        (self.0)()
    }
}

/// A value that a GPU makes, once or with every launch of a graph: it can be asked for after each.
pub struct Reading<T>(Arc<dyn Fn() -> Result<Later<T>> + Send + Sync>);

impl<T> Clone for Reading<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

impl<T: Send + 'static> Reading<T> {
    /// One that is known and stays.
    pub fn known(value: T) -> Self
    where
        T: Clone + Sync,
    {
        Self(Arc::new(move || Ok(Later::now(value.clone()))))
    }

    /// What a buffer means.
    pub(crate) fn of<E: Element>(
        buffer: Arc<DeviceBuffer<E>>,
        meaning: impl Fn(Vec<E>) -> T + Send + Sync + 'static,
    ) -> Self {
        let meaning = Arc::new(meaning);
        Self(Arc::new(move || {
            let meaning = Arc::clone(&meaning);
            Ok(buffer.gpu().download_later(&buffer)?.map(move |values| meaning(values)))
        }))
    }

    /// What `work` makes of it.
    pub fn map<U>(self, work: impl Fn(T) -> U + Send + Sync + 'static) -> Reading<U> {
        let work = Arc::new(work);
        Reading(Arc::new(move || {
            let work = Arc::clone(&work);
            Ok((self.0)()?.map(move |value| work(value)))
        }))
    }

    /// The value as it is behind all work that is queued now.
    ///
    /// # Errors
    /// The device's.
    pub fn later(&self) -> Result<Later<T>> {
        (self.0)()
    }

    /// The value, waited for.
    ///
    /// # Errors
    /// The device's: also what went wrong in a kernel before.
    pub fn wait(&self) -> Result<T> {
        self.later()?.wait()
    }
}

/// Bytes of a landing: room for the counts of a thousand parameters. Larger results get one of their own.
const LANDING: usize = 8 << 10;

/// Page-locked memory that results land in: only into such memory does a copy go on by itself. It is kept, since the
/// driver may stop all work to lock some.
#[derive(Default)]
pub(super) struct Landings(Mutex<Vec<PinnedHostSlice<u8>>>);

impl Gpu {
    /// The buffer's elements as they are behind all work that is queued now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn download_later<T: Element>(
        self: &Arc<Self>,
        buffer: &DeviceBuffer<T>,
    ) -> Result<Later<Vec<T>>> {
        let len = buffer.len();
        let mut values = vec![T::zeroed(); len];
        if buffer.memory().is_none() {
            return Ok(Later::now(values));
        }
        let bytes = len * size_of::<T>();
        let kept = self.landings.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fail = |gpu: &Gpu, e| gpu.failure("copying a result from the GPU", e);
        let mut landing = match kept.filter(|_| bytes <= LANDING) {
            Some(landing) => landing,
            None => self.page_locked("results", bytes.max(LANDING))?,
        };
        let target = landing.as_mut_slice().map_err(|e| fail(self, e))?;
        // SAFETY: the buffer has as many bytes; `landing` lives until the copy is waited for, below or when it is dropped.
        unsafe { result::memcpy_dtoh_async(&mut target[..bytes], buffer.address(), self.stream.cu_stream()) }
            .map_err(|e| fail(self, e))?;
        let landed = self.stream.record_event(None).map_err(|e| fail(self, e))?;
        let landing = Landing { memory: Some(landing), landed, gpu: Arc::clone(self) };
        Ok(Later(Box::new(move || {
            landing.landed.synchronize().map_err(|e| fail(&landing.gpu, e))?;
            if let Some(memory) = &landing.memory {
                let landed = memory.as_slice().map_err(|e| fail(&landing.gpu, e))?;
                bytemuck::cast_slice_mut(&mut values).copy_from_slice(&landed[..bytes]);
            }
            Ok(values)
        })))
    }
}

/// A copy that is under way.
struct Landing {
    /// Taken only when dropped.
    memory: Option<PinnedHostSlice<u8>>,
    landed: CudaEvent,
    gpu: Arc<Gpu>,
}

impl Drop for Landing {
    /// Keeps the memory for the next, once nothing is copied to it any more.
    fn drop(&mut self) {
        let arrived = self.landed.synchronize().is_ok();
        let kept = self.memory.take().filter(|memory| arrived && memory.len() == LANDING);
        self.gpu.landings.0.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
    }
}
