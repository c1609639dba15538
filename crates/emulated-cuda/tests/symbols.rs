//! The library has what it promises, and what cudarc asks for.

use std::collections::BTreeSet;

use emulated_cuda::{CUresult, EXPORTED, REFUSED};

mod common;

/// What the safe and the result layer of cudarc 0.19.10 call with feature `driver`, whatever CUDA version they are built for.
const CUDARC: &str = "
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit
    cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize
    cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool
    cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain
    cuDeviceSetMemPool cuDeviceTotalMem_v2 cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2
    cuEventQuery cuEventRecord cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute
    cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags
    cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel
    cuMemAdvise_v2 cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost
    cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute
    cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2
    cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2
    cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop
    cuStreamAttachMemAsync cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2
    cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
";

#[test]
fn what_cudarc_calls_is_modelled_or_refused() {
    let known: BTreeSet<&str> = EXPORTED.iter().chain(REFUSED).copied().collect();
    let missing: Vec<&str> = CUDARC.split_whitespace().filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_promised_symbol_is_in_the_library() {
    let missing: Vec<&&str> =
        EXPORTED.iter().chain(REFUSED).filter(|name| !common::has_symbol(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(!common::has_symbol("cuNoSuchFunction"));
    // Sorted and without repeats, so that a reader finds a name.
    assert!(EXPORTED.is_sorted() && EXPORTED.windows(2).all(|w| w[0] != w[1]));
}

#[test]
fn codes_have_the_drivers_names_and_numbers() {
    let _driver = common::Driver::new();
    for (code, name, _) in CUresult::ALL {
        // cudarc's list of results is made from NVIDIA's header: its debug text is the enumerator's name.
        // SAFETY: the number is one that the list has, or the comparison below would not find its name.
        let theirs = unsafe { std::mem::transmute::<u32, cudarc::driver::sys::CUresult>(code.0) };
        assert_eq!(format!("{theirs:?}"), name.to_str().unwrap());
    }
}
