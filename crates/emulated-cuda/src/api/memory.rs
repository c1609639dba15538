//! Device memory, host memory, copies, fills.

use std::alloc::Layout;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

use crate::driver::{Buffer, Driver, Handle, Pinned, call, put, release};
use crate::queue::{HostBytes, Work};
use crate::status::{CUresult, Failure, Result};
use crate::work::memory_failure;

/// What fresh host memory holds, as fresh device memory does: an f32 of it is NaN.
const POISON: u8 = 0xff;

impl Driver {
    /// Allocates device memory in the current context.
    pub fn allocate(&self, bytes: usize, pool: Option<Handle>) -> Result<u64> {
        let mut state = self.state();
        let context = state.context()?;
        state.settings.faults.allocation()?;
        drop(state);
        let bytes = bytes as u64;
        let address = self.memory().allocate(bytes).map_err(|e| memory_failure(&e))?;
        let mut state = self.state();
        state.buffers.insert(address, Buffer { context, bytes, pool, doomed: false });
        if let Some(pool) = pool.and_then(|p| state.pools.get_mut(&p)) {
            pool.used += bytes;
            pool.used_high = pool.used_high.max(pool.used);
        }
        Ok(address)
    }

    /// Marks a buffer as on its way out, so that nothing frees it twice.
    fn doom(&self, address: u64) -> Result {
        let mut state = self.state();
        match state.buffers.get_mut(&address) {
            Some(buffer) if !buffer.doomed => {
                buffer.doomed = true;
                Ok(())
            }
            Some(_) => Err(Failure::new(
                CUresult::ERROR_INVALID_VALUE,
                format!("{address:#x} is freed a second time: a stream frees it already"),
            )),
            None => Err(Failure::new(
                CUresult::ERROR_INVALID_VALUE,
                format!("{address:#x} is not the start of an allocation, or was freed before"),
            )),
        }
    }

    /// The device address of a range that a copy or fill names, which lies in one live allocation.
    fn range(&self, address: u64, bytes: u64) -> Result<u64> {
        let memory = self.memory();
        let address = memory.device_address_of_host(address as *const u8).unwrap_or(address);
        let wrong = |words: String| Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        match memory.allocation(address) {
            None => wrong(format!("{address:#x} lies in no allocation")),
            Some(a) if a.freed => wrong(format!("{address:#x} lies in an allocation that was freed")),
            Some(a) => match address.checked_sub(a.address) {
                Some(offset) if offset <= a.bytes && bytes <= a.bytes - offset => Ok(address),
                _ => wrong(format!(
                    "{bytes} bytes at {address:#x} leave the allocation of {} bytes at {:#x}",
                    a.bytes, a.address
                )),
            },
        }
    }

    /// Copies to the device; waits for it where `wait` says so.
    fn to_device(&self, to: u64, from: *const c_void, bytes: usize, stream: Handle, wait: bool) -> Result {
        if bytes == 0 {
            return self.nothing(stream);
        }
        if from.is_null() {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, "a copy from a null pointer"));
        }
        let to = self.range(to, bytes as u64)?;
        let mut state = self.state();
        let stream = state.resolve_stream(stream)?;
        let later = state.streams[&stream].capture.is_some() || state.is_pinned(from as usize, bytes);
        let from = if later {
            HostBytes::At(from as usize, bytes)
        } else {
            // SAFETY: the program gives `bytes` readable bytes, by the function's documentation.
            HostBytes::Staged(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.into())
        };
        let work = Work::ToDevice { to, from };
        if wait {
            drop(state);
            return self.queue_and_wait(stream, work);
        }
        state.queue(stream, work, &[]).map(drop)
    }

    /// Copies to the host. Only pinned memory is written later: a copy to other memory is done when the call returns, as
    /// the driver's documentation has it.
    fn to_host(&self, to: *mut c_void, from: u64, bytes: usize, stream: Handle, wait: bool) -> Result {
        if bytes == 0 {
            return self.nothing(stream);
        }
        if to.is_null() {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, "a copy to a null pointer"));
        }
        let from = self.range(from, bytes as u64)?;
        let work = Work::ToHost { to: to as usize, from, bytes };
        let mut state = self.state();
        let stream = state.resolve_stream(stream)?;
        let later = state.streams[&stream].capture.is_some() || state.is_pinned(to as usize, bytes);
        if wait || !later {
            drop(state);
            return self.queue_and_wait(stream, work);
        }
        state.queue(stream, work, &[]).map(drop)
    }

    fn on_device(&self, to: u64, from: u64, bytes: usize, stream: Handle, wait: bool) -> Result {
        if bytes == 0 {
            return self.nothing(stream);
        }
        let bytes = bytes as u64;
        let work = Work::OnDevice { to: self.range(to, bytes)?, from: self.range(from, bytes)?, bytes };
        self.submit(stream, work, wait)
    }

    fn fill(
        &self,
        to: u64,
        pattern: [u8; 4],
        width: usize,
        count: usize,
        stream: Handle,
        wait: bool,
    ) -> Result {
        if count == 0 {
            return self.nothing(stream);
        }
        if !to.is_multiple_of(width as u64) {
            let words = format!("{to:#x} is not a multiple of the {width} bytes that are set at once");
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        }
        let count = count as u64;
        let to = self.range(to, count.saturating_mul(width as u64))?;
        self.submit(stream, Work::Fill { to, pattern, width, count }, wait)
    }

    /// A copy or fill of no bytes: the stream must exist, nothing is queued.
    fn nothing(&self, stream: Handle) -> Result {
        self.state().resolve_stream(stream).map(drop)
    }

    pub fn submit(&self, stream: Handle, work: Work, wait: bool) -> Result {
        if wait {
            return self.queue_and_wait(stream, work);
        }
        let mut state = self.state();
        let stream = state.resolve_stream(stream)?;
        state.queue(stream, work, &[]).map(drop)
    }

    /// Frees or unregisters host memory, after all work of its context: it may be in use.
    pub fn free_pinned(&self, pointer: usize) -> Result {
        let state = self.state();
        let Some(context) = state.pinned.get(&pointer).map(|p| p.context) else {
            return Err(Failure::new(
                CUresult::ERROR_INVALID_VALUE,
                format!("{pointer:#x} is not pinned memory"),
            ));
        };
        let mut state = self.wait_for_context(state, context);
        let broken = state.check(context);
        let pinned = state.pinned.remove(&pointer);
        drop(state);
        self.memory().unregister_host(pointer as *const u8).map_err(|e| memory_failure(&e))?;
        if let Some(layout) = pinned.and_then(|p| p.layout) {
            // SAFETY: allocated with this layout by `new_pinned`, and forgotten by the driver above.
            unsafe { std::alloc::dealloc(pointer as *mut u8, layout) };
        }
        broken
    }

    fn new_pinned(&self, bytes: usize) -> Result<usize> {
        let mut state = self.state();
        let context = state.context()?;
        state.settings.faults.allocation()?;
        drop(state);
        let too_large =
            || Failure::new(CUresult::ERROR_OUT_OF_MEMORY, format!("{bytes} bytes of pinned memory"));
        if bytes == 0 {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, "no bytes of pinned memory"));
        }
        let layout = Layout::from_size_align(bytes, 4096).map_err(|_| too_large())?;
        // SAFETY: the layout is not empty.
        let pointer = unsafe { std::alloc::alloc(layout) };
        if pointer.is_null() {
            return Err(too_large());
        }
        // SAFETY: just allocated with this many bytes.
        unsafe { pointer.write_bytes(POISON, bytes) };
        // SAFETY: valid until `free_pinned`; that no one uses it while a kernel does is the program's duty.
        let mapped = unsafe { self.memory().register_host(pointer, bytes as u64) };
        if let Err(e) = mapped {
            // SAFETY: allocated above with this layout.
            unsafe { std::alloc::dealloc(pointer, layout) };
            return Err(memory_failure(&e));
        }
        let pinned = Pinned { context, bytes, layout: Some(layout) };
        self.state().pinned.insert(pointer as usize, pinned);
        Ok(pointer as usize)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    call("cuMemGetInfo_v2", |driver| {
        driver.state().context()?;
        let memory = driver.memory();
        let all = memory.total_bytes();
        let left = all - memory.used_bytes();
        // SAFETY: pointers for the results, by the function's documentation.
        unsafe {
            put(free, usize::try_from(left).unwrap_or(usize::MAX))?;
            put(total, usize::try_from(all).unwrap_or(usize::MAX))
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) -> CUresult {
    call("cuMemAlloc_v2", |driver| {
        if bytes == 0 || pointer.is_null() {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, "an allocation of no bytes"));
        }
        let mut state = driver.state();
        let context = state.context()?;
        state.refuse_while_capturing(context, "cuMemAlloc")?;
        drop(state);
        let address = driver.allocate(bytes, None)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(pointer, address) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    release("cuMemFree_v2", |driver| {
        if address == 0 {
            return Ok(());
        }
        driver.doom(address)?;
        let state = driver.state();
        let context = state.buffers.get(&address).map_or(0, |b| b.context);
        // Work that uses it may be queued.
        let state = driver.wait_for_context(state, context);
        let broken = state.check(context);
        drop(state);
        driver.free_now(address)?;
        broken
    })
}

fn allocate_async(
    name: &'static str,
    to: *mut u64,
    bytes: usize,
    pool: Option<Handle>,
    stream: Handle,
) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        if let Some(capture) = state.streams[&stream].capture {
            state.invalidate(capture);
            let words = "allocations in a capture are not modelled: allocate before";
            return Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED, words));
        }
        let pool = pool.unwrap_or(state.current_pool);
        state.pool(pool)?;
        drop(state);
        if to.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        let address = if bytes == 0 { 0 } else { driver.allocate(bytes, Some(pool))? };
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(to, address) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, stream: Handle) -> CUresult {
    allocate_async("cuMemAllocAsync", pointer, bytes, None, stream)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocFromPoolAsync(
    pointer: *mut u64,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> CUresult {
    allocate_async("cuMemAllocFromPoolAsync", pointer, bytes, Some(pool), stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CUresult {
    release("cuMemFreeAsync", |driver| {
        if address == 0 {
            return Ok(());
        }
        let mut state = driver.state();
        let stream = match state.resolve_stream(stream) {
            Ok(stream) => stream,
            // A broken context frees all the same, and says what broke it.
            Err(failure) if failure.code.is_sticky() => {
                drop(state);
                driver.doom(address)?;
                driver.free_now(address)?;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        };
        if let Some(capture) = state.streams[&stream].capture {
            state.invalidate(capture);
            let words = "frees in a capture are not modelled: free after";
            return Err(Failure::new(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED, words));
        }
        drop(state);
        driver.doom(address)?;
        driver.state().queue(stream, Work::Free(address), &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(pointer: *mut usize, bytes: usize, flags: c_uint) -> CUresult {
    call("cuMemHostAlloc", |driver| {
        if flags > 7 || pointer.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(pointer, driver.new_pinned(bytes)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocHost_v2(pointer: *mut usize, bytes: usize) -> CUresult {
    call("cuMemAllocHost_v2", |driver| {
        if pointer.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(pointer, driver.new_pinned(bytes)?) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: usize) -> CUresult {
    release("cuMemFreeHost", |driver| {
        let owned = driver.state().pinned.get(&pointer).is_some_and(|p| p.layout.is_some());
        if !owned {
            let words = format!("{pointer:#x} is not pinned memory that the driver allocated");
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        }
        driver.free_pinned(pointer)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) -> CUresult {
    call("cuMemHostRegister_v2", |driver| {
        let start = pointer as usize;
        let Some(end) = start.checked_add(bytes).filter(|_| bytes > 0 && !pointer.is_null()) else {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        };
        let mut state = driver.state();
        let context = state.context()?;
        if state.pinned.range(..end).next_back().is_some_and(|(s, p)| s + p.bytes > start) {
            return Err(CUresult::ERROR_HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        state.pinned.insert(start, Pinned { context, bytes, layout: None });
        drop(state);
        // SAFETY: the program keeps the range valid until it is unregistered, by the function's documentation.
        let mapped = unsafe { driver.memory().register_host(pointer.cast(), bytes as u64) };
        mapped.map(drop).map_err(|e| {
            driver.state().pinned.remove(&start);
            memory_failure(&e)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(pointer: usize) -> CUresult {
    release("cuMemHostUnregister", |driver| {
        let registered = driver.state().pinned.get(&pointer).is_some_and(|p| p.layout.is_none());
        if !registered {
            return Err(CUresult::ERROR_HOST_MEMORY_NOT_REGISTERED.into());
        }
        driver.free_pinned(pointer)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    to: *mut u64,
    pointer: *const u8,
    flags: c_uint,
) -> CUresult {
    call("cuMemHostGetDevicePointer_v2", |driver| {
        driver.state().context()?;
        let address = driver.memory().device_address_of_host(pointer).filter(|_| flags == 0);
        let address = address.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(to, address) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> CUresult {
    call("cuMemcpyHtoD_v2", |driver| driver.to_device(to, from, bytes, 0, true))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call("cuMemcpyHtoDAsync_v2", |driver| driver.to_device(to, from, bytes, stream, false))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> CUresult {
    call("cuMemcpyDtoH_v2", |driver| driver.to_host(to, from, bytes, 0, true))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call("cuMemcpyDtoHAsync_v2", |driver| driver.to_host(to, from, bytes, stream, false))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    call("cuMemcpyDtoD_v2", |driver| driver.on_device(to, from, bytes, 0, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    call("cuMemcpyDtoDAsync_v2", |driver| driver.on_device(to, from, bytes, stream, false))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call("cuMemcpyPeerAsync", |driver| {
        let state = driver.state();
        if [to_context, from_context].iter().any(|c| !state.contexts.contains_key(c)) {
            return Err(CUresult::ERROR_INVALID_CONTEXT.into());
        }
        drop(state);
        driver.on_device(to, from, bytes, stream, false)
    })
}

fn pattern2(value: c_ushort) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, 0, 0]
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) -> CUresult {
    call("cuMemsetD8_v2", |driver| driver.fill(to, [value, 0, 0, 0], 1, count, 0, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: Handle) -> CUresult {
    call("cuMemsetD8Async", |driver| driver.fill(to, [value, 0, 0, 0], 1, count, stream, false))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) -> CUresult {
    call("cuMemsetD16_v2", |driver| driver.fill(to, pattern2(value), 2, count, 0, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: Handle) -> CUresult {
    call("cuMemsetD16Async", |driver| driver.fill(to, pattern2(value), 2, count, stream, false))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) -> CUresult {
    call("cuMemsetD32_v2", |driver| driver.fill(to, value.to_le_bytes(), 4, count, 0, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Handle) -> CUresult {
    call("cuMemsetD32Async", |driver| driver.fill(to, value.to_le_bytes(), 4, count, stream, false))
}
