//! Memory in use on a GPU, through NVIDIA's management library, which comes with the driver. It runs as a process of its own
//! beside a training: the training's allocator is not asked, and a fault here harms nothing.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// Prints `used BYTES` each time that more is in use than ever before, until it is killed.
///
/// # Errors
/// No such library, or it does not answer.
pub fn watch(ordinal: u32) -> Result<(), String> {
    let failed = |what: &str, code: c_int| match code {
        0 => Ok(()),
        _ => Err(format!("{what}: NVML error {code}")),
    };
    // SAFETY: NVIDIA's library, whose initialisers are its own.
    let library = unsafe { libloading::Library::new("libnvidia-ml.so.1") }.map_err(|e| e.to_string())?;
    type Init = unsafe extern "C" fn() -> c_int;
    type Handle = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int;
    type Info = unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int;
    // SAFETY: the functions have these types in every version of nvml.h since 2012.
    let (init, handle, info) = unsafe {
        (
            library.get::<Init>(b"nvmlInit_v2").map_err(|e| e.to_string())?,
            library.get::<Handle>(b"nvmlDeviceGetHandleByIndex_v2").map_err(|e| e.to_string())?,
            library.get::<Info>(b"nvmlDeviceGetMemoryInfo").map_err(|e| e.to_string())?,
        )
    };
    // SAFETY: no arguments.
    failed("nvmlInit", unsafe { init() })?;
    let mut device = std::ptr::null_mut();
    // SAFETY: a place for a handle.
    failed("nvmlDeviceGetHandleByIndex", unsafe { handle(ordinal, &mut device) })?;
    let mut most = 0;
    loop {
        let mut memory = Memory::default();
        // SAFETY: the handle above, and a place for three numbers.
        failed("nvmlDeviceGetMemoryInfo", unsafe { info(device, &mut memory) })?;
        if memory.used > most {
            most = memory.used;
            println!("used {most}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// First and largest number that [`watch`] printed.
pub fn read(printed: &str) -> Option<(u64, u64)> {
    let mut numbers = printed.lines().filter_map(|line| line.strip_prefix("used ")?.parse::<u64>().ok());
    let first = numbers.next()?;
    Some((first, numbers.next_back().unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_largest_are_read() {
        assert_eq!(read("used 5\nused 70\nused 900\n"), Some((5, 900)));
        assert_eq!(read("used 5\nused 7"), Some((5, 7)));
        assert_eq!(read("used 5\n"), Some((5, 5)));
        assert_eq!(read("libnvidia-ml.so.1: not found\n"), None);
    }
}
