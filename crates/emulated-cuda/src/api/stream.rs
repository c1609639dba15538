//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use crate::driver::{Event, Handle, call, put, release};
use crate::queue::{HostFunction, Work};
use crate::status::{CUresult, Failure, Result};

const EVENT_DISABLE_TIMING: c_uint = 2;

/// Priorities change nothing here: the order of work is the program's alone.
fn create(name: &'static str, stream: *mut Handle, flags: c_uint) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        if flags > 1 || stream.is_null() {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, format!("stream flags {flags}")));
        }
        let new = state.new_stream(context, flags & 1 == 0);
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(stream, new) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> CUresult {
    create("cuStreamCreate", stream, flags)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: c_uint,
    _priority: c_int,
) -> CUresult {
    create("cuStreamCreateWithPriority", stream, flags)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    release("cuStreamDestroy_v2", |driver| {
        let mut state = driver.state();
        if stream <= 2 || state.contexts.values().any(|c| c.default_stream == stream) {
            return Err(Failure::new(CUresult::ERROR_INVALID_HANDLE, "a default stream cannot be destroyed"));
        }
        // Its work stays queued: it is done with its context's, at the latest.
        let Some(gone) = state.streams.remove(&stream) else {
            return Err(Failure::new(CUresult::ERROR_INVALID_HANDLE, format!("{stream:#x} is no stream")));
        };
        if let Some(capture) = gone.capture {
            state.invalidate(capture);
        }
        state.check(gone.context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    call("cuStreamSynchronize", |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        state.refuse_in_capture(stream)?;
        let (context, tail) = (state.streams[&stream].context, state.streams[&stream].tail);
        // The default stream's end is behind all streams that wait for it.
        let mut until = vec![tail];
        if stream == state.contexts[&context].default_stream {
            let blocking = state.streams.values().filter(|s| s.context == context && s.blocking);
            until.extend(blocking.map(|s| s.tail));
        }
        driver.wait(state, &until).check(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    call("cuStreamQuery", |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        state.refuse_in_capture(stream)?;
        let tail = state.streams[&stream].tail;
        ready(state.queue.is_pending(tail), || state.ask(tail))
    })
}

/// `NOT_READY` while an operation is pending. Asking is what makes it run, so a program that asks again gets on.
fn ready(pending: bool, ask: impl FnOnce()) -> Result {
    if pending {
        ask();
        return Err(CUresult::ERROR_NOT_READY.into());
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> CUresult {
    call("cuStreamWaitEvent", |driver| {
        if flags > 1 {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        let (recorded, captured) = {
            let event = state.event(event)?;
            (event.recorded, event.captured)
        };
        if captured.is_some() || (state.streams[&stream].capture.is_some() && recorded.is_some()) {
            return state.capture_wait(stream, event);
        }
        // An event that was never recorded is not waited for.
        let Some(recorded) = recorded else { return Ok(()) };
        state.queue(stream, Work::Nothing, &[recorded]).map(drop)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<HostFunction>,
    data: *mut c_void,
) -> CUresult {
    call("cuLaunchHostFunc", |driver| {
        let function = function.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        driver.submit(stream, Work::Call(function, data as usize), false)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> CUresult {
    call("cuEventCreate", |driver| {
        let mut state = driver.state();
        let context = state.context()?;
        // Blocking waits are how all waits are done here; events between processes there are none.
        if flags > 3 || event.is_null() {
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, format!("event flags {flags}")));
        }
        let handle = state.new_handle();
        let timed = flags & EVENT_DISABLE_TIMING == 0;
        state.events.insert(handle, Event { context, timed, recorded: None, captured: None, time: 0.0 });
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(event, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    release("cuEventDestroy_v2", |driver| {
        let mut state = driver.state();
        let context = state.event(event)?.context;
        state.events.remove(&event);
        state.check(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    call("cuEventRecord", |driver| {
        let mut state = driver.state();
        let stream = state.resolve_stream(stream)?;
        let context = state.event(event)?.context;
        if context != state.streams[&stream].context {
            let words = "the event and the stream belong to different contexts";
            return Err(Failure::new(CUresult::ERROR_INVALID_HANDLE, words));
        }
        if let Some(capture) = state.streams[&stream].capture {
            state.capture_event(capture, stream, event);
            return Ok(());
        }
        let operation = state.queue(stream, Work::Record(event), &[])?;
        let event = state.event(event)?;
        event.recorded = Some(operation);
        event.captured = None;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    call("cuEventQuery", |driver| {
        let mut state = driver.state();
        let recorded = usable(&mut state, event)?;
        ready(state.queue.is_pending(recorded), || state.ask(recorded))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    call("cuEventSynchronize", |driver| {
        let mut state = driver.state();
        let recorded = usable(&mut state, event)?;
        let context = state.event(event)?.context;
        driver.wait(state, &[recorded]).check(context)
    })
}

/// The operation that records an event, 0 for none; fails for events of a broken context and for captured ones.
fn usable(state: &mut crate::driver::State, event: Handle) -> Result<u64> {
    let (context, recorded, captured) = {
        let event = state.event(event)?;
        (event.context, event.recorded, event.captured)
    };
    state.check(context)?;
    match captured {
        Some(capture) => {
            state.invalidate(capture);
            Err(CUresult::ERROR_CAPTURED_EVENT.into())
        }
        None => Ok(recorded.unwrap_or(0)),
    }
}

fn elapsed(name: &'static str, milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        let mut times = [0.0; 2];
        for (time, handle) in times.iter_mut().zip([start, end]) {
            let event = state.event(handle)?;
            let (timed, recorded) = (event.timed, event.recorded);
            *time = event.time;
            let Some(recorded) = recorded.filter(|_| timed) else {
                let words = "an event without timing, or that was never recorded, has no time";
                return Err(Failure::new(CUresult::ERROR_INVALID_HANDLE, words));
            };
            ready(state.queue.is_pending(recorded), || state.ask(recorded))?;
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(milliseconds, ((times[1] - times[0]) * 1e3) as f32) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    elapsed("cuEventElapsedTime", milliseconds, start, end)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    elapsed("cuEventElapsedTime_v2", milliseconds, start, end)
}
