//! Stream capture and graphs.

use std::ffi::c_uint;

use crate::driver::{Handle, call, put, release};
use crate::queue::Work;
use crate::status::{CUresult, Failure};

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> CUresult {
    call("cuStreamBeginCapture_v2", |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        state.begin_capture(stream, mode)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> CUresult {
    call("cuStreamEndCapture", |driver| {
        // SAFETY: a pointer for the result, by the function's documentation; null stands for no graph.
        unsafe { put(graph, 0)? };
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        let captured = state.end_capture(stream)?;
        // SAFETY: as above.
        unsafe { put(graph, captured) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) -> CUresult {
    call("cuStreamIsCapturing", |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(status, state.capture_status(stream)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> CUresult {
    call("cuGraphGetNodes", |driver| {
        let length = driver.state().graph(graph)?.len();
        if !nodes.is_null() {
            return Err(Failure::new(CUresult::ERROR_NOT_SUPPORTED, "only the number of nodes is modelled"));
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(count, length) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut Handle,
    graph: Handle,
    flags: u64,
) -> CUresult {
    const AUTO_FREE: u64 = 1;
    const UPLOAD: u64 = 2;
    const DEVICE_LAUNCH: u64 = 4;
    const NODE_PRIORITY: u64 = 8;
    call("cuGraphInstantiateWithFlags", |driver| {
        let known = AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY;
        if flags & !known != 0
            || (flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE != 0)
            || executable.is_null()
        {
            let words = format!("graph flags {flags:#x} are unknown or exclude each other");
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Failure::new(CUresult::ERROR_NOT_SUPPORTED, "graphs launched from the device"));
        }
        let mut state = driver.state();
        let graph = state.graph(graph)?.clone();
        let handle = state.new_handle();
        state.executables.insert(handle, graph);
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(executable, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> CUresult {
    call("cuGraphUpload", |driver| {
        let mut state = driver.state();
        state.executable(executable)?;
        state.resolve_stream(stream).map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> CUresult {
    call("cuGraphLaunch", |driver| {
        let graph = driver.state().executable(executable)?.clone();
        driver.submit(stream, Work::Graph(graph), false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    release("cuGraphDestroy", |driver| {
        let mut state = driver.state();
        state.graph(graph)?;
        state.graphs.remove(&graph);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    release("cuGraphExecDestroy", |driver| {
        let mut state = driver.state();
        state.executable(executable)?;
        state.executables.remove(&executable);
        Ok(())
    })
}
