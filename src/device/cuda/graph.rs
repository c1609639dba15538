//! Work that is captured once as a CUDA graph and launched again and again by a single call.
//!
//! A graph is launches with their arguments, addresses among them. So what a captured step computes with lies where it
//! lies: the graph keeps a pool of memory of its own, from which buffers come and to which they go back while it is
//! captured, and in which every launch of it finds them again. What is to change from launch to launch is not an
//! argument but lies in device memory, where a [`Slot`](super::Slot) writes it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream};

use super::Gpu;
use super::buffer::Pool;
use crate::{Error, ErrorKind, Result};

/// Where memory comes from for a while, instead of the GPU's own pool.
pub(super) struct Scope {
    pool: Pool,
    /// While a graph is captured.
    capture: Option<Capture>,
}

struct Capture {
    /// What is uploaded meanwhile, which stays as it is.
    constants: Pool,
    /// Beside the stream that captures: work here is done at once.
    stream: Arc<CudaStream>,
}

/// Captured work, with the memory that it computes in.
pub(crate) struct Graph {
    graph: Movable,
    launches: u64,
    gpu: Arc<Gpu>,
    pool: Pool,
    constants: Pool,
    /// Where memory was asked for beside the capture, and goes back to.
    stream: Arc<CudaStream>,
}

/// A graph belongs to no thread.
struct Movable(CudaGraph);

// SAFETY: the driver's objects may be used from any thread, by one at a time; nobody else has this one's handles.
unsafe impl Send for Movable {}

impl Gpu {
    fn scope<T>(&self, work: impl FnOnce(&Scope) -> T) -> Option<T> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }

    /// The pool of the scope that is entered, if one is.
    pub(super) fn pool_of_scope(&self) -> Option<Pool> {
        self.scope(|scope| scope.pool.clone())
    }

    /// Whether a graph is being captured.
    pub(super) fn is_capturing(&self) -> bool {
        self.scope(|scope| scope.capture.is_some()) == Some(true)
    }

    /// Whether memory may be asked for that is to last: what a graph is captured with does not.
    ///
    /// # Errors
    /// A graph is being captured.
    pub(crate) fn check_lasting(&self, what: &str) -> Result<()> {
        match self.is_capturing() {
            true => {
                Err(Error::new(ErrorKind::Device, format!("{what} is new in a step that a graph captures")))
            }
            false => Ok(()),
        }
    }

    /// Where what is uploaded now lies, and the stream that copies it, where that is not the GPU's own.
    pub(super) fn where_to_upload(&self) -> (Pool, Option<Arc<CudaStream>>) {
        let beside = self.scope(|scope| {
            scope.capture.as_ref().map(|capture| (capture.constants.clone(), Arc::clone(&capture.stream)))
        });
        match beside.flatten() {
            Some((pool, stream)) => (pool, Some(stream)),
            None => (self.pool_in_use(), None),
        }
    }

    /// New memory while a graph is captured, when an allocation in the GPU's stream would become a part of the graph;
    /// `None` at any other time.
    pub(super) fn take_beside_capture(&self, what: &str, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
        let beside = self.scope(|scope| scope.capture.as_ref().map(|capture| Arc::clone(&capture.stream)));
        let Some(stream) = beside.flatten() else { return Ok(None) };
        // SAFETY: as for every buffer: written before it is read.
        let memory = unsafe { stream.alloc::<u8>(bytes) };
        // The graph's stream does not wait for this one.
        let memory = memory.and_then(|memory| stream.synchronize().map(|()| memory));
        memory.map(Some).map_err(|e| self.allocation_failure(what, bytes, e))
    }

    fn enter<T>(&self, scope: Scope, work: impl FnOnce() -> Result<T>) -> Result<T> {
        {
            let mut now = self.scope.lock().unwrap_or_else(PoisonError::into_inner);
            if now.is_some() || self.is_recording() {
                let message = "this GPU captures or records an operation already";
                return Err(Error::new(ErrorKind::Device, message));
            }
            *now = Some(scope);
        }
        // Leaves the scope however the work ends.
        let _over = Over(self);
        work()
    }

    /// Captures what `work` queues, without doing it. One graph at a time, and no other work on this GPU beside it.
    ///
    /// What the work returns is made by each launch of the graph. It must keep nothing else that it allocates: that memory
    /// is used again by every launch.
    ///
    /// # Errors
    /// Those of the work; the driver's.
    pub(crate) fn capture<T>(self: &Arc<Self>, work: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let fail = |e| self.failure("capturing a graph", e);
        let stream = self.context.new_stream().map_err(fail)?;
        let (pool, constants) = (self.pool.successor(), Pool::holding());
        let before = self.launches();
        let capture = Some(Capture { constants: constants.clone(), stream: Arc::clone(&stream) });
        let captured = self.enter(Scope { pool: pool.clone(), capture }, || {
            // Relaxed: memory may be asked for beside it.
            self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(fail)?;
            let made = work();
            // Ended whatever became of the work: the stream is of no use before.
            let end = || self.stream.end_capture(CUgraphInstantiate_flags(0));
            let graph = end().map_err(|e| {
                let error = fail(e);
                // If the driver failed before it ended the capture; if not, there is none to end.
                let _ = end();
                error
            });
            let made = made?;
            let nothing = || Error::new(ErrorKind::Device, "nothing was queued while a graph was captured");
            Ok((Movable(graph?.ok_or_else(nothing)?), made))
        });
        let (graph, made) = captured?;
        let launches = self.launches() - before;
        self.launches.fetch_sub(launches, Ordering::Relaxed);
        Ok((Graph { graph, launches, gpu: Arc::clone(self), pool, constants, stream }, made))
    }
}

struct Over<'a>(&'a Gpu);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        *self.0.scope.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Graph {
    /// Queues all of it.
    ///
    /// # Errors
    /// The driver's.
    pub fn launch(&self) -> Result<()> {
        self.gpu.launches.fetch_add(self.launches, Ordering::Relaxed);
        self.graph.0.launch().map_err(|e| self.gpu.failure("launching a graph", e))
    }

    /// Does other work in the graph's memory, which is free between its launches. What the work makes lasts until the
    /// next launch.
    ///
    /// # Errors
    /// Those of the work.
    pub fn lend<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.gpu.enter(Scope { pool: self.pool.clone(), capture: None }, work)
    }
}

impl Drop for Graph {
    /// Gives its memory back, once its last launch is done.
    fn drop(&mut self) {
        // What failed has been told where it was queued, or will be at the next call.
        let _ = self.gpu.synchronize();
        self.pool.clear();
        self.constants.clear();
        let _ = self.stream.synchronize();
    }
}
