//! Devices and contexts.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::driver::{Driver, Handle, call, current, pop_current, push_current, put, release, set_current};
use crate::gpu;
use crate::status::{CUresult, Failure, Result};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    call("cuDeviceGetCount", |driver| {
        let devices = driver.state().settings.devices;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(count, devices) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CUresult {
    call("cuDeviceGet", |driver| {
        driver.state().device(ordinal)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) -> CUresult {
    call("cuDeviceGetAttribute", |driver| {
        let state = driver.state();
        state.device(device)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(value, gpu::attribute(&state.settings.gpu, attribute)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, capacity: c_int, device: c_int) -> CUresult {
    call("cuDeviceGetName", |driver| {
        let state = driver.state();
        state.device(device)?;
        let capacity = usize::try_from(capacity).unwrap_or(0);
        if name.is_null() || capacity == 0 {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        // Nobody should take its answers for a GPU's.
        let text = format!("{} (emulated)", state.settings.gpu.name);
        let length = text.len().min(capacity - 1);
        // SAFETY: the program gives `capacity` writable bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, length);
            *name.add(length) = 0;
        }
        Ok(())
    })
}

fn uuid(name: &'static str, uuid: *mut [u8; 16], device: c_int) -> CUresult {
    call(name, |driver| {
        driver.state().device(device)?;
        // SAFETY: a pointer to 16 bytes for the result, by the function's documentation.
        unsafe { put(uuid, *b"emulated-gpu-000") }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(result: *mut [u8; 16], device: c_int) -> CUresult {
    uuid("cuDeviceGetUuid", result, device)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(result: *mut [u8; 16], device: c_int) -> CUresult {
    uuid("cuDeviceGetUuid_v2", result, device)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> CUresult {
    call("cuDeviceTotalMem_v2", |driver| {
        let state = driver.state();
        state.device(device)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(bytes, usize::try_from(state.settings.memory).unwrap_or(usize::MAX)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> CUresult {
    call("cuDevicePrimaryCtxRetain", |driver| {
        let mut state = driver.state();
        state.device(device)?;
        let primary = match state.primary {
            Some(primary) => primary,
            None => {
                let flags = state.primary_flags;
                let primary = state.new_context(true, flags);
                state.primary = Some(primary);
                primary
            }
        };
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(context, primary)? };
        state.primary_count += 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CUresult {
    release("cuDevicePrimaryCtxRelease_v2", |driver| {
        let mut state = driver.state();
        state.device(device)?;
        match (state.primary, state.primary_count) {
            (Some(primary), 1) => {
                state.primary_count = 0;
                state.primary = None;
                drop(state);
                driver.destroy_context(primary)
            }
            (Some(primary), count) if count > 1 => {
                state.primary_count -= 1;
                state.check(primary)
            }
            _ => Err(Failure::new(CUresult::ERROR_INVALID_CONTEXT, "the primary context is not retained")),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> CUresult {
    release("cuDevicePrimaryCtxReset_v2", |driver| {
        let mut state = driver.state();
        state.device(device)?;
        let Some(primary) = state.primary.take() else { return Ok(()) };
        state.primary_count = 0;
        drop(state);
        // What broke it goes with it.
        let _ = driver.destroy_context(primary);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> CUresult {
    call("cuDevicePrimaryCtxGetState", |driver| {
        let state = driver.state();
        state.device(device)?;
        // SAFETY: pointers for the results, by the function's documentation.
        unsafe {
            put(flags, state.primary_flags)?;
            put(active, c_int::from(state.primary.is_some()))
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> CUresult {
    call("cuDevicePrimaryCtxSetFlags_v2", |driver| {
        let mut state = driver.state();
        state.device(device)?;
        state.primary_flags = flags;
        Ok(())
    })
}

fn create(name: &'static str, context: *mut Handle, flags: c_uint, device: c_int) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        state.device(device)?;
        if context.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        let new = state.new_context(false, flags);
        push_current(new);
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(context, new) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut Handle,
    _affinities: *mut c_void,
    _count: c_int,
    flags: c_uint,
    device: c_int,
) -> CUresult {
    create("cuCtxCreate_v3", context, flags, device)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut Handle,
    parameters: *mut c_void,
    flags: c_uint,
    device: c_int,
) -> CUresult {
    if !parameters.is_null() {
        return call("cuCtxCreate_v4", |_| {
            Err(Failure::new(CUresult::ERROR_NOT_SUPPORTED, "contexts with affinities or graphics"))
        });
    }
    create("cuCtxCreate_v4", context, flags, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: Handle) -> CUresult {
    release("cuCtxDestroy_v2", |driver| {
        let state = driver.state();
        match state.contexts.get(&context) {
            None => return Err(CUresult::ERROR_INVALID_CONTEXT.into()),
            Some(c) if c.primary => {
                let words = "the primary context is released, not destroyed";
                return Err(Failure::new(CUresult::ERROR_INVALID_CONTEXT, words));
            }
            Some(_) => {}
        }
        drop(state);
        if current() == context {
            pop_current();
        }
        driver.destroy_context(context)
    })
}

impl Driver {
    /// Waits for a context's work and gives back all that it holds. The answer is what broke it, if it was broken.
    fn destroy_context(&self, context: Handle) -> Result {
        let state = self.state();
        let mut state = self.wait_for_context(state, context);
        let broken = state.check(context);
        state.count_leaks(context);
        state.forget_captures(context);
        state.contexts.remove(&context);
        state.streams.retain(|_, s| s.context != context);
        state.events.retain(|_, e| e.context != context);
        state.pools.retain(|_, p| p.context != context || p.context == 0);
        let modules: Vec<Handle> =
            state.modules.iter().filter(|m| m.1.context == context).map(|m| *m.0).collect();
        let buffers: Vec<u64> =
            state.buffers.iter().filter(|b| b.1.context == context).map(|b| *b.0).collect();
        let pinned: Vec<usize> =
            state.pinned.iter().filter(|p| p.1.context == context).map(|p| *p.0).collect();
        drop(state);
        for module in modules {
            self.unload(module)?;
        }
        for buffer in buffers {
            self.free_now(buffer)?;
        }
        for pointer in pinned {
            self.free_pinned(pointer)?;
        }
        broken
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    call("cuCtxSetCurrent", |driver| {
        if context != 0 && !driver.state().contexts.contains_key(&context) {
            return Err(CUresult::ERROR_INVALID_CONTEXT.into());
        }
        set_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> CUresult {
    call("cuCtxPushCurrent_v2", |driver| {
        if !driver.state().contexts.contains_key(&context) {
            return Err(CUresult::ERROR_INVALID_CONTEXT.into());
        }
        push_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut Handle) -> CUresult {
    release("cuCtxPopCurrent_v2", |_| {
        let top = pop_current().ok_or(CUresult::ERROR_INVALID_CONTEXT)?;
        if context.is_null() {
            return Ok(());
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(context, top) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> CUresult {
    call("cuCtxGetCurrent", |_| {
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(context, current()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> CUresult {
    call("cuCtxGetDevice", |driver| {
        driver.state().context()?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(device, 0) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CUresult {
    call("cuCtxSynchronize", |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        state.refuse_while_capturing(context, "cuCtxSynchronize")?;
        driver.wait_for_context(state, context).check(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: c_uint) -> CUresult {
    call("cuCtxSetFlags", |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        if let Some(context) = state.contexts.get_mut(&context) {
            context.flags = flags;
        }
        Ok(())
    })
}

/// `CUlimit`'s numbers that CUDA 12.0 knows: stack, printf buffer, heap, nesting, pending launches, L2 fetch, persisting L2.
const LIMITS: [(c_uint, usize); 7] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)];

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: c_uint) -> CUresult {
    call("cuCtxGetLimit", |driver| {
        let state = driver.state();
        let context = state.context()?;
        let usual = LIMITS.iter().find(|l| l.0 == limit).ok_or(CUresult::ERROR_UNSUPPORTED_LIMIT)?.1;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(value, state.contexts[&context].limits.get(&limit).copied().unwrap_or(usual)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> CUresult {
    call("cuCtxSetLimit", |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        if LIMITS.iter().all(|l| l.0 != limit) {
            return Err(CUresult::ERROR_UNSUPPORTED_LIMIT.into());
        }
        if let Some(context) = state.contexts.get_mut(&context) {
            context.limits.insert(limit, value);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCacheConfig(config: *mut c_uint) -> CUresult {
    call("cuCtxGetCacheConfig", |driver| {
        let state = driver.state();
        let context = state.context()?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(config, state.contexts[&context].cache_config) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> CUresult {
    call("cuCtxSetCacheConfig", |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        if config > 3 {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        if let Some(context) = state.contexts.get_mut(&context) {
            context.cache_config = config;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> CUresult {
    call("cuCtxGetStreamPriorityRange", |driver| {
        driver.state().context()?;
        // SAFETY: pointers for the results, each of which may be null by the function's documentation.
        unsafe {
            if !least.is_null() {
                put(least, 0)?;
            }
            if !greatest.is_null() {
                put(greatest, -5)?;
            }
        }
        Ok(())
    })
}
