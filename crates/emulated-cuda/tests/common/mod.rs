//! Loads the emulated driver before cudarc looks for `libcuda`, and lets one test at a time use it.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::{Library, Symbol};

/// The shared library that this package builds: beside the test's own program.
pub fn library() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    own.with_file_name("libemulated_cuda.so")
}

fn loaded() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = library();
        // SAFETY: our own library, which runs nothing when it is loaded.
        unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    })
}

/// The driver's settings, report and faults are the process's: whoever holds this has it alone, freshly reset.
pub struct Driver {
    _alone: MutexGuard<'static, ()>,
}

impl Driver {
    pub fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        loaded();
        let driver = Self { _alone: alone };
        driver.set("faults", "");
        // What a failed test left behind.
        // SAFETY: declared as the driver's documentation has it; a device number and nothing else.
        unsafe {
            let init: Symbol<unsafe extern "C" fn(u32) -> u32> = loaded().get(b"cuInit").unwrap();
            let reset: Symbol<unsafe extern "C" fn(i32) -> u32> =
                loaded().get(b"cuDevicePrimaryCtxReset_v2").unwrap();
            let _ = (init(0), reset(0));
        }
        for (name, value) in [
            ("gpu", "a100"),
            ("devices", "1"),
            ("memory", "85899345920"),
            ("checks", "all"),
            ("counters", "on"),
            ("seed", ""),
            ("order", "late"),
            ("driver_version", "12080"),
            ("instruction_limit", "134217728"),
        ] {
            driver.set(name, value);
        }
        driver.reset();
        driver
    }

    /// Changes a setting.
    pub fn set(&self, name: &str, value: &str) {
        assert_eq!(self.try_set(name, value), 0, "{name} = {value}");
    }

    pub fn try_set(&self, name: &str, value: &str) -> u32 {
        let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
        // SAFETY: declared as in the library; two texts.
        unsafe {
            let set: Symbol<unsafe extern "C" fn(*const i8, *const i8) -> u32> =
                loaded().get(b"emulatedCudaSet").unwrap();
            set(name.as_ptr().cast(), value.as_ptr().cast())
        }
    }

    /// Forgets what was counted.
    pub fn reset(&self) {
        // SAFETY: declared as in the library; no arguments.
        unsafe {
            let reset: Symbol<unsafe extern "C" fn() -> u32> =
                loaded().get(b"emulatedCudaResetReport").unwrap();
            assert_eq!(reset(), 0);
        }
    }

    /// The report.
    pub fn report(&self) -> serde_json::Value {
        // SAFETY: declared as in the library; a buffer and its size.
        unsafe {
            let report: Symbol<unsafe extern "C" fn(*mut u8, usize) -> usize> =
                loaded().get(b"emulatedCudaLastReport").unwrap();
            let mut text = vec![0; report(std::ptr::null_mut(), 0) + 1];
            let length = report(text.as_mut_ptr(), text.len());
            assert_eq!(text[length], 0);
            serde_json::from_slice(&text[..length]).expect("the report is JSON")
        }
    }

    /// Live objects by kind, those that are 0 left out.
    pub fn live(&self) -> Vec<(String, u64)> {
        counts(&self.report()["live"])
    }

    /// Objects that were alive when their context went.
    pub fn leaked(&self) -> Vec<(String, u64)> {
        counts(&self.report()["leaked"])
    }
}

fn counts(object: &serde_json::Value) -> Vec<(String, u64)> {
    let object = object.as_object().expect("counts by kind");
    let counts = object.iter().map(|(kind, n)| (kind.clone(), n.as_u64().expect("a count")));
    counts.filter(|c| c.1 > 0).collect()
}

/// Whether the library has a symbol.
pub fn has_symbol(name: &str) -> bool {
    // SAFETY: only looked up, never called.
    unsafe { loaded().get::<*const ()>(name.as_bytes()).is_ok() }
}
