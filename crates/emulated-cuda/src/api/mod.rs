//! The exported functions, as the driver's documentation has them.
//!
//! All of them are called by programs through pointers: what a pointer must be valid for is what NVIDIA's *CUDA Driver
//! API* says of the function of that name, and the safety reasons in these files rest on it. Handles are numbers here and
//! are looked up, never followed. Enumerations come as plain integers, so that a value out of range is an error.

mod context;
mod graph;
mod memory;
mod module;
mod pool;
mod refused;
mod stream;

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::driver::{call, driver, early, put};
use crate::status::{CUresult, Failure, words_of};

pub(crate) use refused::REFUSED;

/// The modelled functions, by name.
pub(crate) const EXPORTED: &[&str] = &[
    "cuCtxCreate_v3",
    "cuCtxCreate_v4",
    "cuCtxDestroy_v2",
    "cuCtxGetCacheConfig",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxGetLimit",
    "cuCtxGetStreamPriorityRange",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxSetCacheConfig",
    "cuCtxSetCurrent",
    "cuCtxSetFlags",
    "cuCtxSetLimit",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetMemPool",
    "cuDeviceGetName",
    "cuDeviceGetUuid",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxGetState",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxReset_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxSetFlags_v2",
    "cuDeviceSetMemPool",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventElapsedTime_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuFuncSetCacheConfig",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphGetNodes",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchCooperativeKernel",
    "cuLaunchHostFunc",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAllocFromPoolAsync",
    "cuMemAllocHost_v2",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemPoolCreate",
    "cuMemPoolDestroy",
    "cuMemPoolGetAttribute",
    "cuMemPoolSetAttribute",
    "cuMemPoolTrimTo",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoD_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyHtoD_v2",
    "cuMemcpyPeerAsync",
    "cuMemsetD16Async",
    "cuMemsetD16_v2",
    "cuMemsetD32Async",
    "cuMemsetD32_v2",
    "cuMemsetD8Async",
    "cuMemsetD8_v2",
    "cuModuleGetFunction",
    "cuModuleGetGlobal_v2",
    "cuModuleLoad",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuOccupancyAvailableDynamicSMemPerBlock",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cuOccupancyMaxPotentialBlockSize",
    "cuOccupancyMaxPotentialBlockSizeWithFlags",
    "cuProfilerStart",
    "cuProfilerStop",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "emulatedCudaLastReport",
    "emulatedCudaResetReport",
    "emulatedCudaSet",
];

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> CUresult {
    early("cuInit", |driver| {
        let mut state = driver.state();
        if let Some(wrong) = &state.misconfigured {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, wrong.clone()));
        }
        if flags != 0 {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, "cuInit's flags must be 0"));
        }
        if state.settings.devices == 0 {
            return Err(CUresult::ERROR_NO_DEVICE.into());
        }
        state.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    early("cuDriverGetVersion", |driver| {
        let known = driver.state().settings.driver_version;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(version, known) }
    })
}

// Errors' names and words are asked for while something else fails: they are neither counted nor made to fail.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: CUresult, name: *mut *const c_char) -> CUresult {
    // SAFETY: a pointer for the result, by the function's documentation.
    unsafe { text(error.name(), name) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: CUresult, words: *mut *const c_char) -> CUresult {
    // SAFETY: a pointer for the result, by the function's documentation.
    unsafe { text(words_of(error), words) }
}

unsafe fn text(found: Option<&'static CStr>, into: *mut *const c_char) -> CUresult {
    let pointer = found.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: valid for a write, by this function's contract.
    match unsafe { put(into, pointer) } {
        Ok(()) if found.is_some() => CUresult::SUCCESS,
        _ => CUresult::ERROR_INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> CUresult {
    call("cuProfilerStart", |driver| driver.state().context().map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> CUresult {
    call("cuProfilerStop", |driver| driver.state().context().map(drop))
}

/// The text of a pointer from the program.
///
/// # Safety
/// `pointer` is null or points to a text that ends with NUL and does not change during `'a`.
unsafe fn c_text<'a>(pointer: *const c_char, what: &str) -> crate::status::Result<&'a str> {
    if pointer.is_null() {
        return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, format!("{what} is a null pointer")));
    }
    // SAFETY: not null, and a text by this function's contract.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::new(CUresult::ERROR_INVALID_VALUE, format!("{what} is not UTF-8")))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emulatedCudaSet(name: *const c_char, value: *const c_char) -> CUresult {
    // Not counted as a call, and never made to fail: it is what faults are asked for with.
    let set = || {
        // SAFETY: texts, by the function's documentation.
        let (name, value) =
            unsafe { (c_text(name, "a setting's name")?, c_text(value, "a setting's value")?) };
        let mut state = driver().state();
        if matches!(name, "gpu" | "memory" | "devices") && !state.contexts.is_empty() {
            let words = format!("{name} cannot change while a context lives");
            return Err(Failure::new(CUresult::ERROR_PRIMARY_CONTEXT_ACTIVE, words));
        }
        let set = state.settings.set(name, value);
        set.map_err(|e| Failure::new(CUresult::ERROR_INVALID_VALUE, format!("setting {name}: {e}")))?;
        if state.settings.devices == 0 {
            state.initialised = false;
        }
        let total = state.settings.memory;
        drop(state);
        let mut memory = driver().memory();
        if memory.total_bytes() != total {
            *memory = ptx_emulator::Memory::with_total(total);
        }
        Ok(())
    };
    match set() {
        Ok(()) => CUresult::SUCCESS,
        Err(failure) => {
            crate::status::remember(&failure);
            failure.code
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emulatedCudaLastReport(buffer: *mut c_char, capacity: usize) -> usize {
    let text = driver().state().report().to_string();
    if !buffer.is_null() && text.len() < capacity {
        let bytes = text.as_ptr().cast::<c_char>();
        // SAFETY: the program gives `capacity` writable bytes, and the text and its NUL fit.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes, buffer, text.len());
            *buffer.add(text.len()) = 0;
        }
    }
    text.len()
}

#[unsafe(no_mangle)]
extern "C" fn emulatedCudaResetReport() -> CUresult {
    driver().state().log = crate::report::Log::default();
    CUresult::SUCCESS
}
