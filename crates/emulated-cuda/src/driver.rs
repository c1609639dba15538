//! The driver's state: its objects by handle, what is queued, who waits.
//!
//! Two locks: the state's, held for moments, and the memory's, held while a kernel runs. Whoever needs both takes the
//! memory's first or one after the other, never the memory's while holding the state's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use ptx_emulator::{LoadedModule, Memory};

use crate::capture::{Capture, Graph};
use crate::queue::Queue;
use crate::report::Log;
use crate::settings::Settings;
use crate::status::{CUresult, Failure, Result, remember};

/// What the program holds instead of a pointer: a number that no other object of this process has or had.
pub(crate) type Handle = usize;

pub(crate) struct Context {
    pub primary: bool,
    /// The stream that handle 0 stands for.
    pub default_stream: Handle,
    /// The streams that handle 2 stands for.
    pub thread_streams: HashMap<ThreadId, Handle>,
    /// What every call answers once a kernel has failed.
    pub broken: Option<Failure>,
    pub flags: u32,
    pub cache_config: u32,
    pub limits: HashMap<u32, usize>,
}

pub(crate) struct Stream {
    pub context: Handle,
    /// Waits for the default stream and is waited for by it.
    pub blocking: bool,
    /// The last operation queued, 0 for none.
    pub tail: u64,
    /// The capture under way that it is part of.
    pub capture: Option<Handle>,
}

pub(crate) struct Event {
    pub context: Handle,
    pub timed: bool,
    /// The operation that records it; `None` before it was ever recorded.
    pub recorded: Option<u64>,
    /// Set instead of `recorded` when it was last recorded in a capture.
    pub captured: Option<Handle>,
    /// The device's clock in seconds when it was reached.
    pub time: f64,
}

pub(crate) struct Module {
    pub context: Handle,
    pub loaded: Arc<LoadedModule>,
    pub functions: HashMap<String, Handle>,
}

pub(crate) struct Function {
    pub module: Handle,
    pub name: String,
    /// Dynamic shared memory that launches may ask for, in bytes.
    pub most_dynamic_shared: u32,
    pub carveout: i32,
}

/// A live device allocation.
pub(crate) struct Buffer {
    pub context: Handle,
    pub bytes: u64,
    pub pool: Option<Handle>,
    /// A stream will free it: it may not be freed again.
    pub doomed: bool,
}

/// Host memory known to the driver.
pub(crate) struct Pinned {
    pub context: Handle,
    pub bytes: usize,
    /// Allocated here; otherwise registered.
    pub layout: Option<std::alloc::Layout>,
}

#[derive(Default)]
pub(crate) struct Pool {
    pub context: Handle,
    /// Values of the attributes that can be set.
    pub attributes: HashMap<u32, u64>,
    pub used: u64,
    pub used_high: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub settings: Settings,
    /// What the environment asks for and is not understood: `cuInit` tells.
    pub misconfigured: Option<String>,
    pub initialised: bool,
    last_handle: Handle,
    pub contexts: HashMap<Handle, Context>,
    pub primary: Option<Handle>,
    pub primary_count: u32,
    pub primary_flags: u32,
    pub streams: HashMap<Handle, Stream>,
    pub events: HashMap<Handle, Event>,
    pub modules: HashMap<Handle, Module>,
    pub functions: HashMap<Handle, Function>,
    pub buffers: HashMap<u64, Buffer>,
    pub pinned: BTreeMap<usize, Pinned>,
    pub pools: HashMap<Handle, Pool>,
    pub default_pool: Handle,
    pub current_pool: Handle,
    pub captures: HashMap<Handle, Capture>,
    pub graphs: HashMap<Handle, Graph>,
    pub executables: HashMap<Handle, Graph>,
    pub queue: Queue,
    /// The device's clock in seconds: what launches took at least, by their counts.
    pub clock: f64,
    pub log: Log,
}

pub(crate) struct Driver {
    state: Mutex<State>,
    memory: Mutex<Memory>,
    /// Something was asked for.
    pub wanted: Condvar,
    /// An operation is done.
    pub done: Condvar,
}

thread_local! {
    /// This thread's contexts, the current one last.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// Set while this thread runs a host function: it may not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    let (settings, misconfigured) = Settings::from_environment();
    Driver {
        memory: Mutex::new(Memory::with_total(settings.memory)),
        state: Mutex::new(State { settings, misconfigured, last_handle: 0x1000, ..State::default() }),
        wanted: Condvar::new(),
        done: Condvar::new(),
    }
});

impl Driver {
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic in between is caught at the border and told; the maps are whole after any of their calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one driver of this process.
pub(crate) fn driver() -> &'static Driver {
    &DRIVER
}

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Works before `cuInit`.
    Early,
    Usual,
    /// Gives something back: does so even if the call is made to fail, as real drivers may.
    Release,
}

fn run(name: &'static str, kind: Kind, body: impl FnOnce(&'static Driver) -> Result) -> CUresult {
    let guarded = || {
        if IN_HOST_FUNCTION.get() {
            let words = format!("{name} called from a host function, which may not call the driver");
            return Err(Failure::new(CUresult::ERROR_NOT_PERMITTED, words));
        }
        let mut state = driver().state();
        state.log.count(name);
        let fault = state.settings.faults.call().map_err(|mut failure| {
            failure.detail = failure.detail.map(|d| format!("{name}: {d}"));
            failure
        });
        let initialised = state.initialised || kind == Kind::Early;
        drop(state);
        if kind != Kind::Release {
            fault.clone()?;
        }
        if !initialised {
            return Err(Failure::new(CUresult::ERROR_NOT_INITIALIZED, format!("{name} before cuInit")));
        }
        let outcome = body(driver());
        if kind == Kind::Release { fault.and(outcome) } else { outcome }
    };
    let outcome = catch_unwind(AssertUnwindSafe(guarded)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
        let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Failure::new(CUresult::ERROR_UNKNOWN, format!("{name}: the emulated driver panicked: {words}")))
    });
    match outcome {
        Ok(()) => CUresult::SUCCESS,
        Err(failure) => {
            // NOT_READY is an answer, not a failure.
            if failure.code != CUresult::ERROR_NOT_READY {
                remember(&failure);
                driver().state().log.failure(name, &failure);
            }
            failure.code
        }
    }
}

/// A driver function.
pub(crate) fn call(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> CUresult {
    run(name, Kind::Usual, body)
}

/// A driver function that works before `cuInit`.
pub(crate) fn early(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> CUresult {
    run(name, Kind::Early, body)
}

/// A driver function that gives something back.
pub(crate) fn release(name: &'static str, body: impl FnOnce(&'static Driver) -> Result) -> CUresult {
    run(name, Kind::Release, body)
}

/// Runs a host function: calls of the driver from it are refused.
pub(crate) fn in_host_function(body: impl FnOnce()) {
    IN_HOST_FUNCTION.set(true);
    body();
    IN_HOST_FUNCTION.set(false);
}

/// The current context's handle, whether it still exists or not; 0 for none.
pub(crate) fn current() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// Makes a context current in place of the present one; 0 leaves none.
pub(crate) fn set_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
}

/// Puts a context on top of the present one.
pub(crate) fn push_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
}

/// Takes the current context off.
pub(crate) fn pop_current() -> Option<Handle> {
    CURRENT.with_borrow_mut(Vec::pop)
}

/// Writes a result through the program's pointer.
///
/// # Errors
/// A null pointer is an invalid value.
///
/// # Safety
/// `pointer` is null or valid for a write of `T`, as the driver's documentation demands of the caller.
pub(crate) unsafe fn put<T>(pointer: *mut T, value: T) -> Result {
    if pointer.is_null() {
        return Err(Failure::new(
            CUresult::ERROR_INVALID_VALUE,
            "a null pointer where a result is to be stored",
        ));
    }
    // SAFETY: not null, and valid by this function's contract.
    unsafe { pointer.write(value) };
    Ok(())
}

fn bad_handle(what: &str, handle: Handle) -> Failure {
    Failure::new(CUresult::ERROR_INVALID_HANDLE, format!("{handle:#x} is no {what}, or no longer"))
}

impl State {
    /// A new handle; it looks like a pointer and is none.
    pub fn new_handle(&mut self) -> Handle {
        self.last_handle += 16;
        self.last_handle
    }

    /// The device of that number.
    pub fn device(&self, device: i32) -> Result {
        if (0..self.settings.devices).contains(&device) {
            return Ok(());
        }
        Err(Failure::new(CUresult::ERROR_INVALID_DEVICE, format!("there is no device {device}")))
    }

    /// The calling thread's context, which exists and works.
    pub fn context(&self) -> Result<Handle> {
        let current = current();
        match self.contexts.get(&current) {
            Some(Context { broken: Some(failure), .. }) => Err(failure.clone()),
            Some(_) => Ok(current),
            None if current == 0 => {
                Err(Failure::new(CUresult::ERROR_INVALID_CONTEXT, "no context is current in this thread"))
            }
            None => Err(CUresult::ERROR_CONTEXT_IS_DESTROYED.into()),
        }
    }

    /// The error that a broken context answers with.
    pub fn check(&self, context: Handle) -> Result {
        match self.contexts.get(&context).and_then(|c| c.broken.as_ref()) {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Creates a stream.
    pub fn new_stream(&mut self, context: Handle, blocking: bool) -> Handle {
        let handle = self.new_handle();
        let stream = Stream { context, blocking, tail: 0, capture: None };
        self.streams.insert(handle, stream);
        handle
    }

    /// Creates a context, with its default stream.
    pub fn new_context(&mut self, primary: bool, flags: u32) -> Handle {
        let handle = self.new_handle();
        let default_stream = self.new_stream(handle, true);
        let context = Context {
            primary,
            default_stream,
            thread_streams: HashMap::new(),
            broken: None,
            flags,
            cache_config: 0,
            limits: HashMap::new(),
        };
        self.contexts.insert(handle, context);
        if self.default_pool == 0 {
            self.default_pool = self.new_handle();
            self.current_pool = self.default_pool;
            self.pools.insert(self.default_pool, Pool::default());
        }
        handle
    }

    /// The stream of a handle as programs give it: 0 and 1 are the current context's default stream, 2 is the thread's own.
    pub fn resolve_stream(&mut self, stream: Handle) -> Result<Handle> {
        if stream > 2 {
            let context = self.streams.get(&stream).ok_or_else(|| bad_handle("stream", stream))?.context;
            self.check(context)?;
            return Ok(stream);
        }
        let current = self.context()?;
        let context = &self.contexts[&current];
        if stream < 2 {
            return Ok(context.default_stream);
        }
        let thread = std::thread::current().id();
        if let Some(own) = context.thread_streams.get(&thread) {
            return Ok(*own);
        }
        let own = self.new_stream(current, true);
        if let Some(context) = self.contexts.get_mut(&current) {
            context.thread_streams.insert(thread, own);
        }
        Ok(own)
    }

    pub fn event(&mut self, event: Handle) -> Result<&mut Event> {
        self.events.get_mut(&event).ok_or_else(|| bad_handle("event", event))
    }

    pub fn module(&mut self, module: Handle) -> Result<&mut Module> {
        self.modules.get_mut(&module).ok_or_else(|| bad_handle("module", module))
    }

    /// A kernel's function, and the module that it is in.
    pub fn function(&mut self, function: Handle) -> Result<(&mut Function, &Module)> {
        let entry = self.functions.get_mut(&function).ok_or_else(|| bad_handle("function", function))?;
        let module = self.modules.get(&entry.module).ok_or_else(|| bad_handle("module", entry.module))?;
        Ok((entry, module))
    }

    pub fn pool(&mut self, pool: Handle) -> Result<&mut Pool> {
        self.pools.get_mut(&pool).ok_or_else(|| bad_handle("memory pool", pool))
    }

    pub fn graph(&self, graph: Handle) -> Result<&Graph> {
        self.graphs.get(&graph).ok_or_else(|| bad_handle("graph", graph))
    }

    pub fn executable(&self, executable: Handle) -> Result<&Graph> {
        self.executables.get(&executable).ok_or_else(|| bad_handle("executable graph", executable))
    }

    /// Whether host bytes lie in memory that the driver knows.
    pub fn is_pinned(&self, pointer: usize, bytes: usize) -> bool {
        let before = self.pinned.range(..=pointer).next_back();
        before.is_some_and(|(start, pinned)| pointer - start + bytes <= pinned.bytes)
    }
}
