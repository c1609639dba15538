//! Time on a GPU: marks in its stream, and a gate that lets queued work begin all at once.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{CudaEvent, result};

use super::{DeviceBuffer, Gpu, show_version};
use crate::Result;

/// A place in a GPU's stream, whose time is kept. On the emulated driver it is not a time but the sum of the launches'
/// lower bounds.
pub(crate) struct Mark(CudaEvent);

/// Work behind it waits until it is opened, so that what the host takes to queue the work is no part of its time.
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

/// A gate opens by itself after this: a full queue behind a closed one would wait for ever.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits for the gate. Called by the driver when it is the gate's turn in the stream.
unsafe extern "C" fn wait(gate: *mut c_void) {
    // SAFETY: `Gpu::gate` made the pointer by `Arc::into_raw` for this one call.
    let gate = unsafe { Arc::from_raw(gate.cast::<(Mutex<bool>, Condvar)>()) };
    let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Poisoned or late, the work goes on all the same.
    drop(gate.1.wait_timeout_while(open, LONGEST, |open| !*open));
}

impl Gate {
    /// Lets the work begin.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Mark {
    /// Seconds from this mark to a later one. Waits for both.
    pub fn seconds_to(&self, gpu: &Gpu, later: &Self) -> Result<f64> {
        let elapsed = self.0.elapsed_ms(&later.0);
        elapsed.map(|ms| f64::from(ms) / 1e3).map_err(|e| gpu.failure("measuring time", e))
    }
}

impl Gpu {
    /// Marks this place in the stream.
    pub(crate) fn mark(&self) -> Result<Mark> {
        let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map(Mark).map_err(|e| self.failure("marking time", e))
    }

    /// Closes the stream to what is queued from here on. At most a few hundred launches fit behind the gate.
    pub(crate) fn gate(&self) -> Result<Gate> {
        let gate = Gate(Arc::default());
        let for_driver = Arc::into_raw(Arc::clone(&gate.0));
        // SAFETY: `wait` takes exactly this pointer, once, and calls no function of the driver.
        let queued = unsafe {
            result::stream::launch_host_function(self.stream.cu_stream(), wait, for_driver.cast_mut().cast())
        };
        queued.map_err(|e| {
            // SAFETY: the driver refused, so nobody else takes the pointer.
            drop(unsafe { Arc::from_raw(for_driver) });
            self.failure("queueing a wait", e)
        })?;
        Ok(gate)
    }

    /// Overwrites a buffer: what the second-level cache held before gives way to it.
    pub(crate) fn overwrite(&self, buffer: &DeviceBuffer<u8>) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        // SAFETY: the buffer has as many bytes, and any byte is a valid element of it.
        unsafe { result::memset_d8_async(buffer.address(), 0xff, buffer.len(), self.stream.cu_stream()) }
            .map_err(|e| self.failure("emptying the second-level cache", e))
    }

    /// Bytes of its second-level cache.
    ///
    /// # Errors
    /// The driver's.
    pub fn l2_bytes(&self) -> Result<usize> {
        let attribute = self.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        attribute.map(|n| n.unsigned_abs() as usize).map_err(|e| self.failure("asking for its cache", e))
    }

    /// The CUDA version that the driver is for, as in `12.8`.
    ///
    /// # Errors
    /// The driver's.
    pub fn driver_version(&self) -> Result<String> {
        super::driver_version().map(show_version).map_err(|e| self.failure("asking for its version", e))
    }
}
