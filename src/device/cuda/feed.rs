//! A training's input on its way to a GPU: copied by a stream of its own while the step before is computed.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError};

use super::slot::Page;
use super::{DeviceBuffer, Gpu};
use crate::Result;
use crate::tensor::Tensor;

/// Takes tensors to a GPU, two at a time: one is computed with, the next is on its way.
///
/// Each of two places has page-locked memory of the host and a buffer. The copy into a buffer waits for the work that was queued before [`Feed::used`], and all work queued after
/// [`Feed::bring`] waits for the copy. Without a GPU tensors pass through.
pub(crate) struct Feed {
    lane: Option<(Arc<Gpu>, Arc<CudaStream>)>,
    places: [Option<Place>; 2],
    turn: usize,
}

struct Place {
    page: Page,
    buffer: Arc<DeviceBuffer<f32>>,
    /// When the last work on the buffer is done; without, its memory may still be used by anything queued before.
    used: Option<CudaEvent>,
}

impl Feed {
    /// A feed of a GPU, or of the CPU.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(gpu: Option<&Arc<Gpu>>) -> Result<Self> {
        let lane = match gpu {
            Some(gpu) => {
                let stream = gpu.context.new_stream().map_err(|e| gpu.failure("opening a stream", e))?;
                Some((Arc::clone(gpu), stream))
            }
            None => None,
        };
        Ok(Self { lane, places: [None, None], turn: 0 })
    }

    /// The tensor, of host memory, on the GPU. `what` names it in errors.
    ///
    /// # Errors
    /// The driver's.
    pub fn bring(&mut self, tensor: &Tensor, what: &str) -> Result<Tensor> {
        let Some((gpu, stream)) = self.lane.as_ref().filter(|_| !tensor.is_empty()) else {
            return Ok(tensor.clone());
        };
        let fail = |e: DriverError| gpu.failure(&format!("copying {what} to the GPU"), e);
        self.turn = 1 - self.turn;
        // One of another size, or that somebody still holds, gives way to a new one.
        let kept = self.places[self.turn].take();
        let fits = |p: &Place| p.buffer.len() == tensor.len() && Arc::strong_count(&p.buffer) == 1;
        let mut place = match kept.filter(fits) {
            Some(place) => place,
            None => {
                let buffer = Arc::new(gpu.allocate(what, tensor.len())?);
                Place { page: Page::of(&buffer, what)?, buffer, used: None }
            }
        };
        let used = match place.used.take() {
            Some(used) => used,
            None => gpu.stream.record_event(None).map_err(fail)?,
        };
        stream.wait(&used).map_err(fail)?;
        let copied = place.page.send(tensor.data(), &place.buffer, stream, what)?;
        gpu.stream.wait(copied).map_err(fail)?;
        let brought = Tensor::from_buffer(tensor.shape(), Arc::clone(&place.buffer))?;
        self.places[self.turn] = Some(place);
        Ok(brought)
    }

    /// Tells that all work on the tensor that was brought last is queued.
    ///
    /// # Errors
    /// The driver's.
    pub fn used(&mut self) -> Result<()> {
        if let (Some((gpu, _)), Some(place)) = (&self.lane, &mut self.places[self.turn]) {
            let event = gpu.stream.record_event(None).map_err(|e| gpu.failure("marking a step's end", e))?;
            place.used = Some(event);
        }
        Ok(())
    }
}
