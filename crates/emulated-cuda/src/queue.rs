//! Queued work, and the thread that does it.
//!
//! An operation names the operations that it comes after: the one before it in its stream, those that a waited-for event
//! stands for, and the default stream's where streams wait for it. Nothing runs by itself: whoever needs a result *asks*
//! for an operation, and the worker then runs that one and what it needs, nothing else. So the order depends on the
//! program alone, and work that nothing was made to wait for stays undone as long as it can, which is what shows that a
//! wait is missing. With [`Order::Early`] each operation is asked for as it is queued.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::sync::{Arc, MutexGuard};

use ptx_emulator::LoadedModule;

use crate::capture::Graph;
use crate::driver::{Driver, Handle, State, driver};
use crate::settings::Order;
use crate::status::{Failure, Result};

/// A function of the program that a stream runs.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// Where bytes come from that go to the device.
#[derive(Clone)]
pub(crate) enum HostBytes {
    /// Taken when the copy was queued: pageable memory may be changed or freed right after the call.
    Staged(Arc<[u8]>),
    /// Read when the copy runs.
    At(usize, usize),
}

/// A launch as queued.
#[derive(Clone)]
pub(crate) struct Launch {
    pub module: Arc<LoadedModule>,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: Vec<u8>,
    pub cooperative: bool,
}

/// What an operation does. Host addresses are kept as numbers: the program answers for them.
#[derive(Clone)]
pub(crate) enum Work {
    /// Only waits.
    Nothing,
    Record(Handle),
    ToDevice {
        to: u64,
        from: HostBytes,
    },
    ToHost {
        to: usize,
        from: u64,
        bytes: usize,
    },
    OnDevice {
        to: u64,
        from: u64,
        bytes: u64,
    },
    Fill {
        to: u64,
        pattern: [u8; 4],
        width: usize,
        count: u64,
    },
    Free(u64),
    Launch(Box<Launch>),
    Call(HostFunction, usize),
    Graph(Graph),
}

struct Operation {
    context: Handle,
    after: Vec<u64>,
    /// Taken when it starts.
    work: Option<Work>,
}

#[derive(Default)]
pub(crate) struct Queue {
    last: u64,
    pending: HashMap<u64, Operation>,
    asked: VecDeque<u64>,
    /// The worker's path from what was asked for to what can run now.
    path: Vec<u64>,
    worker: bool,
}

/// A stream with more operations than this waits for its oldest, as hardware queues do. Nothing is gained by more.
const DEEPEST: usize = 1 << 14;

impl Queue {
    pub fn is_pending(&self, operation: u64) -> bool {
        self.pending.contains_key(&operation)
    }

    /// Operations of a context that are not done, in the order of queueing.
    pub fn of_context(&self, context: Handle) -> Vec<u64> {
        let mut all: Vec<u64> =
            self.pending.iter().filter(|p| p.1.context == context).map(|p| *p.0).collect();
        all.sort_unstable();
        all
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// The next operation to run: the deepest one that the first one asked for waits for.
    fn next(&mut self) -> Option<(u64, Handle, Work)> {
        loop {
            if self.path.is_empty() {
                self.path.push(self.asked.pop_front()?);
            }
            let id = *self.path.last()?;
            let Some(operation) = self.pending.get_mut(&id) else {
                self.path.pop();
                continue;
            };
            // Done ones need no second look: the list shrinks from its end.
            match operation.after.pop() {
                Some(before) => self.path.push(before),
                None => {
                    self.path.pop();
                    let work = operation.work.take().unwrap_or(Work::Nothing);
                    return Some((id, operation.context, work));
                }
            }
        }
    }
}

impl State {
    /// Queues work in a stream, after what is already in it and after `also`; returns the operation.
    ///
    /// In a capture the work becomes a node of its graph instead, and the answer is 0.
    pub fn queue(&mut self, stream: Handle, work: Work, also: &[u64]) -> Result<u64> {
        if let Some(capture) = self.streams[&stream].capture {
            self.capture_work(capture, stream, work);
            return Ok(0);
        }
        let own = &self.streams[&stream];
        let (context, tail, blocking) = (own.context, own.tail, own.blocking);
        let mut after = vec![tail];
        if blocking {
            let default = self.contexts[&context].default_stream;
            if stream == default {
                self.no_capture_beside(context)?;
                let others = self.streams.values().filter(|s| s.context == context && s.blocking);
                after.extend(others.map(|s| s.tail));
            } else {
                after.push(self.streams[&default].tail);
            }
        }
        after.extend_from_slice(also);
        after.retain(|id| self.queue.pending.contains_key(id));
        // The worker takes them from the end: oldest first, unless a seed says otherwise.
        after.sort_unstable_by_key(|id| std::cmp::Reverse(self.settings.seed.map_or(*id, |s| mix(s, *id))));
        after.dedup();
        self.queue.last += 1;
        let id = self.queue.last;
        self.queue.pending.insert(id, Operation { context, after, work: Some(work) });
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = id;
        }
        if self.settings.order == Order::Early || self.queue.pending.len() > DEEPEST {
            self.ask(id);
        }
        Ok(id)
    }

    /// Asks for an operation without waiting for it.
    pub fn ask(&mut self, operation: u64) {
        if !self.queue.is_pending(operation) {
            return;
        }
        self.queue.asked.push_back(operation);
        if !self.queue.worker {
            self.queue.worker = true;
            // A panic is caught at the border and told as CUDA_ERROR_UNKNOWN; waiting for ever would be worse.
            std::thread::Builder::new()
                .name("emulated GPU".into())
                .spawn(|| worker(driver()))
                .expect("the emulated GPU needs a thread");
        }
        driver().wanted.notify_one();
    }
}

/// Scatters numbers (SplitMix64's last step).
fn mix(seed: u64, value: u64) -> u64 {
    let mut z = (seed ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Driver {
    /// Asks for operations and waits until they are done.
    pub fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, operations: &[u64]) -> MutexGuard<'a, State> {
        for operation in operations {
            state.ask(*operation);
        }
        while operations.iter().any(|o| state.queue.is_pending(*o)) {
            state = self.done.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state
    }

    /// Waits for all work of a context.
    pub fn wait_for_context<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        context: Handle,
    ) -> MutexGuard<'a, State> {
        let all = state.queue.of_context(context);
        self.wait(state, &all)
    }

    /// Queues work and waits for it, as synchronous calls do; fails as the work does.
    pub fn queue_and_wait(&self, stream: Handle, work: Work) -> Result {
        let mut state = self.state();
        let stream = state.resolve_stream(stream)?;
        state.refuse_in_capture(stream)?;
        let id = state.queue(stream, work, &[])?;
        let context = state.streams[&stream].context;
        let state = self.wait(state, &[id]);
        state.check(context)
    }
}

/// Runs what is asked for, until the process ends.
fn worker(driver: &Driver) {
    loop {
        let mut state = driver.state();
        let (id, context, work) = loop {
            match state.queue.next() {
                Some(next) => break next,
                None => {
                    state = driver.wanted.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        };
        // A broken context does nothing more, except that what was to be freed is.
        let broken = state.contexts.get(&context).is_none_or(|c| c.broken.is_some());
        drop(state);
        let outcome = if broken && !matches!(work, Work::Free(_)) {
            Ok(())
        } else {
            let attempt = std::panic::AssertUnwindSafe(|| driver.perform(&work));
            std::panic::catch_unwind(attempt).unwrap_or_else(|_| {
                let words = "the emulated GPU panicked: a bug in the emulator";
                Err(Failure::new(crate::CUresult::ERROR_UNKNOWN, words))
            })
        };
        let mut state = driver.state();
        if let Err(failure) = outcome {
            crate::status::remember(&failure);
            if let Some(context) = state.contexts.get_mut(&context) {
                context.broken.get_or_insert(failure);
            }
        }
        state.queue.pending.remove(&id);
        drop(state);
        driver.done.notify_all();
    }
}
