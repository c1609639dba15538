//! Values that change from step to step, at a place on the GPU that does not.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};

use super::{DeviceBuffer, Element, Gpu};
use crate::Result;
use crate::tensor::Tensor;

/// Page-locked memory of the host, which alone can be copied from while the host goes on.
pub(super) struct Page {
    memory: PinnedHostSlice<u8>,
    /// When the last copy from it is done.
    copied: Option<CudaEvent>,
}

impl Page {
    /// One for a buffer's values. `what` names them in errors.
    pub fn of<T>(buffer: &DeviceBuffer<T>, what: &str) -> Result<Self> {
        let (gpu, bytes) = (buffer.gpu(), buffer.len() * size_of::<T>());
        Ok(Self { memory: gpu.page_locked(what, bytes)?, copied: None })
    }

    /// Has a stream copy the values to the buffer, once the copy before is done. Returns when it will be.
    pub fn send<T: Element>(
        &mut self,
        values: &[T],
        to: &DeviceBuffer<T>,
        stream: &CudaStream,
        what: &str,
    ) -> Result<&CudaEvent> {
        let gpu = to.gpu();
        let fail = |e| gpu.failure(&format!("copying {what} to the GPU"), e);
        if let Some(copied) = self.copied.take() {
            copied.synchronize().map_err(fail)?;
        }
        self.memory.as_mut_slice().map_err(fail)?.copy_from_slice(bytemuck::cast_slice(values));
        let source = self.memory.as_slice().map_err(fail)?;
        // SAFETY: as many bytes as the buffer has, not written before `copied`; the caller orders what uses the buffer.
        unsafe { result::memcpy_htod_async(to.address(), source, stream.cu_stream()) }.map_err(fail)?;
        Ok(self.copied.insert(stream.record_event(None).map_err(fail)?))
    }
}

impl Gpu {
    /// Page-locked memory of the host, to be written before it is read. `what` names what it is for in errors.
    pub(super) fn page_locked(&self, what: &str, bytes: usize) -> Result<PinnedHostSlice<u8>> {
        // SAFETY: any byte is valid; the caller writes it first.
        unsafe { self.context.alloc_pinned_with_flags(bytes, 0) }.map_err(|e| {
            let mib = bytes as f64 / f64::from(1 << 20);
            self.failure(&format!("allocating {mib:.1} MiB of page-locked memory for {what}"), e)
        })
    }
}

impl Drop for Page {
    /// The memory must not go before the copy from it is done.
    fn drop(&mut self) {
        if let Some(copied) = &self.copied {
            // What failed has been told where it was queued, or will be at the next call.
            let _ = copied.synchronize();
        }
    }
}

/// A buffer whose values the host changes between the steps that read them, in their order, without waiting for any.
pub(crate) struct Slot<T> {
    what: &'static str,
    buffer: Arc<DeviceBuffer<T>>,
    /// Written in turn, so that the host goes on while the other is copied. None where the buffer takes no memory.
    pages: Option<[Page; 2]>,
    /// What is to be written when the graph that is being captured is complete.
    held_back: Option<Vec<T>>,
}

impl<T: Element> Slot<T> {
    /// Room for so many values, which are not defined yet. `what` names them in errors.
    ///
    /// # Errors
    /// The device's: out of memory above all.
    pub fn new(gpu: &Arc<Gpu>, what: &'static str, len: usize) -> Result<Self> {
        let buffer = Arc::new(gpu.allocate(what, len)?);
        let page = || Page::of(&buffer, what);
        let pages = buffer.memory().map(|_| Ok([page()?, page()?])).transpose()?;
        Ok(Self { what, buffer, pages, held_back: None })
    }

    /// Writes values for what is queued from here on; while a graph is captured, when [`Slot::flush`] is called behind it.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// Another number of values than there is room for.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        assert_eq!(values.len(), self.buffer.len(), "{}", self.what);
        if self.buffer.gpu().is_capturing() {
            self.held_back = Some(values.to_vec());
            return Ok(());
        }
        let Some(pages) = &mut self.pages else { return Ok(()) };
        pages.swap(0, 1);
        pages[0].send(values, &self.buffer, &self.buffer.gpu().stream, self.what).map(drop)
    }

    /// Writes what was held back while a graph was captured.
    ///
    /// # Errors
    /// The device's.
    pub fn flush(&mut self) -> Result<()> {
        self.held_back.take().map_or(Ok(()), |values| self.write(&values))
    }

    /// The buffer.
    pub fn buffer(&self) -> &Arc<DeviceBuffer<T>> {
        &self.buffer
    }
}

/// Values of the host's memory that a GPU may have already.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a, T> {
    values: &'a [T],
    brought: Option<&'a Arc<DeviceBuffer<T>>>,
}

impl<'a, T: Element> Given<'a, T> {
    /// Values, and where they were brought to.
    pub(crate) fn new(values: &'a [T], brought: Option<&'a Arc<DeviceBuffer<T>>>) -> Self {
        Self { values, brought }
    }

    /// The values.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Them on a GPU; brought there now, if they are not there. `what` names them in errors.
    ///
    /// # Errors
    /// The device's.
    pub fn on(&self, gpu: &Arc<Gpu>, what: &str) -> Result<Arc<DeviceBuffer<T>>> {
        match self.brought.filter(|buffer| Arc::ptr_eq(buffer.gpu(), gpu)) {
            Some(buffer) => Ok(Arc::clone(buffer)),
            None => Ok(Arc::new(gpu.upload(what, self.values)?)),
        }
    }
}

impl Given<'_, f32> {
    /// A tensor of them, in host memory or on a GPU. `what` names it in errors.
    ///
    /// # Errors
    /// A shape of another number of values; the device's.
    pub fn tensor(&self, shape: &[usize], gpu: Option<&Arc<Gpu>>, what: &str) -> Result<Tensor> {
        match gpu {
            Some(gpu) => Tensor::from_buffer(shape, self.on(gpu, what)?),
            None => Tensor::new(shape, self.values.to_vec()),
        }
    }
}

impl<'a, T: Element, V: AsRef<[T]> + ?Sized> From<&'a V> for Given<'a, T> {
    fn from(values: &'a V) -> Self {
        Self::new(values.as_ref(), None)
    }
}
