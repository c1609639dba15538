//! cudarc as it is published, end to end on the emulated driver.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use cudarc::driver::sys::{
    self, CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

mod common;
use common::Driver;

const PTX: &str = include_str!("kernels.ptx");

fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(PTX)).unwrap()
}

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context).load_function(name).unwrap()
}

/// A grid that covers `n` threads in blocks of 64.
fn cover(n: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (n.div_ceil(64), 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 }
}

fn code(error: DriverError) -> CUresult {
    error.0
}

#[test]
fn a_device_describes_itself() {
    let driver = Driver::new();
    for (gpu, name, capability, multiprocessors) in
        [("a100", "A100", (8, 0), 108), ("h200", "H200", (9, 0), 132), ("rtx4090", "4090", (8, 9), 128)]
    {
        driver.set("gpu", gpu);
        let context = CudaContext::new(0).unwrap();
        assert!(context.name().unwrap().contains(name));
        assert!(context.name().unwrap().ends_with("(emulated)"));
        assert_eq!(context.compute_capability().unwrap(), capability);
        let sms = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).unwrap();
        assert_eq!(sms, multiprocessors);
        // A GPU is not swapped while it is in use.
        assert_ne!(driver.try_set("gpu", "h100"), 0);
        let (free, total) = context.mem_get_info().unwrap();
        assert_eq!(free, total);
        assert_eq!(total, context.total_mem().unwrap());
    }
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(code(CudaContext::new(1).unwrap_err()), CUresult::CUDA_ERROR_INVALID_DEVICE);
    driver.set("devices", "0");
    assert_eq!(code(CudaContext::new(0).unwrap_err()), CUresult::CUDA_ERROR_NO_DEVICE);
}

#[test]
fn bytes_go_there_and_back() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let there = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let mut copy = stream.alloc_zeros::<f32>(5).unwrap();
    stream.memcpy_dtod(&there.slice(1..4), &mut copy.slice_mut(0..3)).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), [2.0, 3.0, 4.0, 0.0, 0.0]);
    // What was never written is told from zeros: it reads as NaN.
    // SAFETY: every pattern of bits is an f32.
    let fresh = unsafe { stream.alloc::<f32>(3) }.unwrap();
    assert!(stream.clone_dtoh(&fresh).unwrap().iter().all(|v| v.is_nan()));
    assert!(driver.live().contains(&("buffers".into(), 3)));
    drop((there, copy, fresh));
    context.synchronize().unwrap();
    assert!(!driver.live().iter().any(|(kind, _)| kind == "buffers"), "{:?}", driver.live());
}

#[test]
fn out_of_memory_says_how_much() {
    let driver = Driver::new();
    driver.set("memory", "1000000");
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let held = stream.alloc_zeros::<u8>(600_000).unwrap();
    let error = stream.alloc_zeros::<u8>(600_000).unwrap_err();
    assert_eq!(code(error), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let words = error.error_string().unwrap().to_str().unwrap();
    assert!(words.contains("600000 bytes asked for, 400000 free"), "{words}");
    // It is no sticky error: what fits still works.
    assert_eq!(stream.clone_dtoh(&held.slice(0..2)).unwrap(), [0, 0]);
    assert_eq!(context.mem_get_info().unwrap(), (400_000, 1_000_000));
}

#[test]
fn copies_of_ranges_that_are_not_there_are_refused() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let buffer = stream.alloc_zeros::<u8>(8).unwrap();
    let (address, _record) = cudarc::driver::DevicePtr::device_ptr(&buffer, &stream);
    let mut host = [0u8; 16];
    // SAFETY: the host's side is valid; the device's is what is tested.
    let beyond = unsafe { sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, 16) };
    assert_eq!(beyond, CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: no pointers.
    unsafe {
        assert_eq!(sys::cuMemsetD32_v2(address + 2, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD8_v2(12345, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD32_v2(address, 0x0102_0304, 2), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemFree_v2(address + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), [4, 3, 2, 1, 4, 3, 2, 1]);
}

/// A host function that waits until the test sends.
unsafe extern "C" fn wait_for_test(receiver: *mut c_void) {
    // SAFETY: made by `blocked`, and given to one call of this function.
    let receiver = unsafe { Box::from_raw(receiver.cast::<Receiver<()>>()) };
    receiver.recv().unwrap();
}

/// Makes a stream wait for the sender.
fn block(stream: &Arc<CudaStream>) -> std::sync::mpsc::Sender<()> {
    let (sender, receiver) = channel();
    let receiver = Box::into_raw(Box::new(receiver));
    // SAFETY: the function takes what it is given, once.
    unsafe {
        cudarc::driver::result::stream::launch_host_function(
            stream.cu_stream(),
            wait_for_test,
            receiver.cast(),
        )
    }
    .unwrap();
    sender
}

#[test]
fn an_event_is_not_ready_until_it_is_reached() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let event = context.new_event(None).unwrap();
    // Never recorded: nothing to wait for.
    assert_eq!(event.try_is_complete(), Ok(true));
    let release = block(&stream);
    event.record(&stream).unwrap();
    assert_eq!(event.try_is_complete(), Ok(false));
    assert_eq!(event.try_is_complete(), Ok(false));
    // SAFETY: a stream that exists.
    assert_eq!(unsafe { sys::cuStreamQuery(stream.cu_stream()) }, CUresult::CUDA_ERROR_NOT_READY);
    release.send(()).unwrap();
    event.synchronize().unwrap();
    assert_eq!(event.try_is_complete(), Ok(true));
    // SAFETY: as above.
    assert_eq!(unsafe { sys::cuStreamQuery(stream.cu_stream()) }, CUresult::CUDA_SUCCESS);
}

#[test]
fn streams_are_ordered_by_events_and_by_nothing_else() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: this test orders its streams itself.
    unsafe { context.disable_event_tracking() };
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    for seed in ["", "1", "2", "3"] {
        driver.set("seed", seed);
        let mut shared = first.alloc_zeros::<u32>(1).unwrap();
        first.synchronize().unwrap();
        first.memcpy_htod(&[7], &mut shared).unwrap();
        // Without a wait the other stream's read does not see the write: it is done first, being asked for first.
        assert_eq!(second.clone_dtoh(&shared).unwrap(), [0]);
        second.join(&first).unwrap();
        assert_eq!(second.clone_dtoh(&shared).unwrap(), [7]);
    }
    // With the order of submission it would have been luck.
    driver.set("order", "early");
    let mut shared = first.alloc_zeros::<u32>(1).unwrap();
    first.memcpy_htod(&[7], &mut shared).unwrap();
    assert_eq!(second.clone_dtoh(&shared).unwrap(), [7]);
}

#[test]
fn the_default_stream_waits_for_blocking_streams_and_they_for_it() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let default = context.default_stream();
    let mut blocking = std::ptr::null_mut();
    // SAFETY: a pointer for the result; flag 0 is a blocking stream.
    unsafe { sys::cuStreamCreate(&mut blocking, 0) }.result().unwrap();
    // SAFETY: this stream is destroyed below, after its last use.
    let other = unsafe { context.wrap_borrowed_stream(blocking) };
    let mut buffer = default.alloc_zeros::<u32>(1).unwrap();
    other.memcpy_htod(&[5], &mut buffer).unwrap();
    assert_eq!(default.clone_dtoh(&buffer).unwrap(), [5]);
    default.memcpy_htod(&[6], &mut buffer).unwrap();
    assert_eq!(other.clone_dtoh(&buffer).unwrap(), [6]);
    drop(buffer);
    // SAFETY: created above.
    unsafe { sys::cuStreamDestroy_v2(blocking) }.result().unwrap();
}

#[test]
fn pinned_memory_is_copied_later_and_pageable_memory_at_once() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: this test waits itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut device = stream.alloc_zeros::<u32>(2).unwrap();
    let mut pageable = vec![1u32, 2];
    stream.memcpy_htod(&pageable, &mut device).unwrap();
    pageable.fill(9);
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [1, 2]);

    // SAFETY: the memory is written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(2) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[3, 4]);
    assert!(driver.live().contains(&("pinned_bytes".into(), 8)));
    let (address, record) = cudarc::driver::DevicePtr::device_ptr(&device, &stream);
    drop(record);
    let host = pinned.as_mut_ptr().unwrap();
    // SAFETY: both sides have eight bytes, and live until the stream is waited for.
    unsafe {
        sys::cuMemcpyHtoDAsync_v2(address, host.cast(), 8, stream.cu_stream()).result().unwrap();
        // Too early: the copy has not been made, so it will take this.
        host.write(30);
        stream.synchronize().unwrap();
        assert_eq!(stream.clone_dtoh(&device).unwrap(), [30, 4]);
        stream.memset_zeros(&mut device).unwrap();
        sys::cuMemcpyDtoHAsync_v2(host.cast(), address, 8, stream.cu_stream()).result().unwrap();
        assert_eq!(host.read_volatile(), 30, "the copy back is made when it is waited for");
        stream.synchronize().unwrap();
        assert_eq!(host.read_volatile(), 0);
    }
}

#[test]
fn captured_work_runs_when_the_graph_does() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: all in one stream, or ordered by events of its own.
    unsafe { context.disable_event_tracking() };
    let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut a = stream.clone_htod(&[1u32; 4]).unwrap();
    let mut b = stream.clone_htod(&[1u32; 4]).unwrap();
    stream.synchronize().unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(stream.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    // A second stream is drawn in by an event, and joined.
    side.join(&stream).unwrap();
    side.memset_zeros(&mut a).unwrap();
    stream.join(&side).unwrap();
    stream.memcpy_dtod(&a, &mut b).unwrap();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    // Nothing has run yet.
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [1; 4]);
    for seed in ["", "5", "6"] {
        driver.set("seed", seed);
        stream.memcpy_htod(&[2u32; 4], &mut a).unwrap();
        stream.memcpy_htod(&[3u32; 4], &mut b).unwrap();
        graph.upload().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [0; 4]);
    }
    assert!(driver.live().contains(&("executable_graphs".into(), 1)));
    drop(graph);
    assert!(!driver.live().iter().any(|(kind, _)| kind.contains("graphs")));
}

#[test]
fn captures_refuse_what_they_cannot_hold() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: one stream at a time.
    unsafe { context.disable_event_tracking() };
    let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let begin = || stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let end = || stream.end_capture(CUgraphInstantiate_flags(0)).map(|g| g.is_some()).map_err(code);
    // Waiting for it.
    begin();
    assert_eq!(code(stream.synchronize().unwrap_err()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(end(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // Waiting for work outside of it.
    let outside = side.record_event(None).unwrap();
    begin();
    assert_eq!(code(stream.wait(&outside).unwrap_err()), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(end(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // A stream that is not joined.
    let mut buffer = side.alloc_zeros::<u8>(1).unwrap();
    side.synchronize().unwrap();
    begin();
    side.join(&stream).unwrap();
    side.memset_zeros(&mut buffer).unwrap();
    assert_eq!(end(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    // An event recorded in it cannot be asked.
    let event = context.new_event(None).unwrap();
    begin();
    event.record(&stream).unwrap();
    assert_eq!(event.try_is_complete().unwrap_err().0, CUresult::CUDA_ERROR_CAPTURED_EVENT);
    assert_eq!(end(), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // The stream works again afterwards; flags that exclude each other do not.
    begin();
    stream.memset_zeros(&mut buffer).unwrap();
    let both = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    assert_eq!(stream.end_capture(both).map(drop).map_err(code), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), [0]);
}

#[test]
fn a_kernel_runs_and_is_counted() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let scale = function(&context, "scale");
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let from = stream.clone_htod(&x).unwrap();
    let mut to = stream.alloc_zeros::<f32>(100).unwrap();
    let started = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    // SAFETY: buffers of 100 values, as the kernel takes them.
    unsafe {
        stream.launch_builder(&scale).arg(&mut to).arg(&from).arg(&3f32).arg(&100u32).launch(cover(100))
    }
    .unwrap();
    let ended = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let expected: Vec<f32> = x.iter().map(|v| 3.0 * v).collect();
    assert_eq!(stream.clone_dtoh(&to).unwrap(), expected);
    // The device's clock: what the launch takes at least.
    assert!(started.elapsed_ms(&ended).unwrap() > 0.0);
    let report = driver.report();
    assert_eq!(report["launches_in_all"], 1);
    let launch = &report["launches"][0];
    assert_eq!((&launch["kernel"], &launch["grid"][0]), (&"scale".into(), &2.into()));
    // 100 values of four bytes: 12.5 sectors, in warps of 128 bytes each.
    assert_eq!(launch["counters"]["global_loads"]["bytes"], 400);
    assert_eq!(launch["counters"]["global_stores"]["sectors"], 13);
    assert_eq!(launch["findings"], serde_json::json!([]));
    assert_eq!(launch["counters"]["f32_flops"], 100);
}

#[test]
fn a_faulty_kernel_breaks_its_context_with_a_diagnosis() {
    let driver = Driver::new();
    for (blamed, order) in [("synchronize", "late"), ("synchronize", "early")] {
        driver.set("order", order);
        driver.reset();
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let scale = function(&context, "scale_blindly");
        let from = stream.clone_htod(&[0f32; 100]).unwrap();
        let mut to = stream.alloc_zeros::<f32>(100).unwrap();
        let threads = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: emulated memory: the accesses past the end are found and not made.
        let launched = unsafe { stream.launch_builder(&scale).arg(&mut to).arg(&from).launch(threads) };
        // Run early, the kernel may be done, and its error found, before the launch returns.
        assert!(launched.is_ok() || order == "early");
        let error = launched.map(drop).and_then(|()| stream.synchronize()).unwrap_err();
        assert_eq!(code(error), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "{blamed}");
        let words = format!("{error}");
        for part in ["illegal memory access", "out-of-bounds", "scale_blindly", "warp 3", "lane 4"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        // It stays broken, as on a GPU, and gives everything back all the same.
        assert_eq!(code(context.synchronize().unwrap_err()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let report = driver.report();
        assert_eq!(report["findings"][0]["kind"], "out-of-bounds");
        assert_eq!(report["findings"][0]["warp"], 3);
        assert_eq!(report["last_failure"]["name"], "CUDA_ERROR_ILLEGAL_ADDRESS");
        drop((to, from, scale, stream, context));
        assert_eq!((driver.live(), driver.leaked()), (vec![], vec![]));
    }
    // A new context works.
    let context = CudaContext::new(0).unwrap();
    assert_eq!(
        context.default_stream().clone_dtoh(&context.default_stream().clone_htod(&[1u8]).unwrap()).unwrap(),
        [1]
    );
}

#[test]
fn a_trap_is_told() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let fail = function(&context, "fail");
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&fail).launch(cover(1)) }.unwrap();
    assert_eq!(code(stream.synchronize().unwrap_err()), CUresult::CUDA_ERROR_ASSERT);
}

#[test]
fn variables_are_reached_from_both_sides() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let module = module(&context);
    let count = module.load_function("count").unwrap();
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: one integer.
    unsafe { stream.launch_builder(&count).arg(&3u32).launch(one) }.unwrap();
    let mut counter = module.get_global("counter", &stream).unwrap();
    assert_eq!(stream.clone_dtoh(&counter).unwrap(), 8u32.to_le_bytes());
    stream.memcpy_htod(&100u32.to_le_bytes(), &mut counter).unwrap();
    // SAFETY: as above.
    unsafe { stream.launch_builder(&count).arg(&1u32).launch(one) }.unwrap();
    assert_eq!(stream.clone_dtoh(&counter).unwrap(), 101u32.to_le_bytes());
    assert_eq!(code(module.get_global("nothing", &stream).unwrap_err()), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn launches_beyond_the_limits_are_refused_at_once() {
    let _driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let scale = function(&context, "scale_blindly");
    let launch = |grid_dim, block_dim, shared_mem_bytes| {
        let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes };
        // SAFETY: two addresses; none of these launches may start.
        unsafe { stream.launch_builder(&scale).arg(&0u64).arg(&0u64).launch(config) }.map(drop).map_err(code)
    };
    assert_eq!(launch((0, 1, 1), (32, 1, 1), 0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((1, 65536, 1), (32, 1, 1), 0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((1, 1, 1), (1025, 1, 1), 0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    // Its launch bounds say 128.
    assert_eq!(launch((1, 1, 1), (129, 1, 1), 0), Err(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(launch((1, 1, 1), (32, 1, 1), 49 << 10), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    let shared = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(scale.set_attribute(shared, 164 << 10).map_err(code), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    scale.set_attribute(shared, 163 << 10).unwrap();
    let threads = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    assert_eq!(scale.get_attribute(threads).unwrap(), 128);
    // One block of 128 threads and all shared memory is resident; 108 such blocks are, and no more.
    let blocks = scale.occupancy_max_active_blocks_per_multiprocessor(128, 163 << 10, None).unwrap();
    assert_eq!(blocks, 1);
    let config = LaunchConfig { grid_dim: (109, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 163 << 10 };
    // SAFETY: as above.
    let error = unsafe { stream.launch_builder(&scale).arg(&0u64).arg(&0u64).launch_cooperative(config) };
    assert_eq!(error.map(drop).map_err(code), Err(CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE));
    stream.synchronize().unwrap();
}

#[test]
fn ptx_that_the_driver_cannot_take_is_refused() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let load = |text: &str| context.load_module(Ptx::from_src(text.to_string())).map(drop).map_err(code);
    assert_eq!(load(&PTX.replace("sm_80", "sm_90")), Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
    assert_eq!(load(&PTX.replace(".version 7.0", ".version 8.0")), Ok(()));
    driver.set("driver_version", "11080");
    assert_eq!(
        load(&PTX.replace(".version 7.0", ".version 8.0")),
        Err(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
    );
    let error = context.load_module(Ptx::from_src(PTX.replace("mul.rn.f32", "mul.up.f32"))).unwrap_err();
    assert_eq!(code(error), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(format!("{error}").contains("mul.up.f32"), "{error}");
    let missing = module(&context).load_function("nothing").unwrap_err();
    assert!(format!("{missing}").contains("scale_blindly"), "{missing}");
}

#[test]
fn what_is_left_behind_is_counted() {
    let driver = Driver::new();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    // SAFETY: nothing else uses it.
    let _ = stream.alloc_zeros::<u8>(100).unwrap().leak();
    drop(stream);
    drop(context);
    let leaked = driver.leaked();
    assert!(
        leaked.contains(&("buffers".into(), 1)) && leaked.contains(&("buffer_bytes".into(), 100)),
        "{leaked:?}"
    );
    assert_eq!(driver.live(), []);
}
