//! What the emulated driver can do beyond a driver: settings, and its report.

use std::ffi::{CString, c_char};

use cudarc::driver::sys;

use super::Gpu;
use crate::device::Device;
use crate::{Error, ErrorKind, Result};

/// The emulated driver's own functions, for tests and for profiling. Settings hold for the whole process.
#[derive(Debug)]
pub struct Emulator(());

type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> sys::CUresult;
type Report = unsafe extern "C" fn(*mut c_char, usize) -> usize;
type Reset = unsafe extern "C" fn() -> sys::CUresult;

impl Gpu {
    /// The emulated driver's own functions; `None` on a real GPU.
    pub fn emulator(&self) -> Option<Emulator> {
        (self.device() == Device::Emulated).then_some(Emulator(()))
    }
}

impl Emulator {
    fn function<T: Copy>(&self, name: &str) -> Result<T> {
        // SAFETY: a library is loaded, since a GPU is open; the types above are those of the emulated driver's functions.
        let found = unsafe { sys::culib().get::<T>(name.as_bytes()) };
        found
            .map(|f| *f)
            .map_err(|_| Error::new(ErrorKind::Device, format!("the emulated driver has no function {name}")))
    }

    /// Changes a setting: `seed`, `checks`, `faults` and the others of docs/emulated-driver.md.
    ///
    /// # Errors
    /// A setting or a value that there is not.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let text =
            |t: &str| CString::new(t).map_err(|_| Error::invalid(format!("setting {t:?} has a NUL in it")));
        let (c_name, c_value) = (text(name)?, text(value)?);
        let set: Set = self.function("emulatedCudaSet")?;
        // SAFETY: two texts that end with NUL.
        let done = unsafe { set(c_name.as_ptr(), c_value.as_ptr()) };
        done.result().map_err(|e| Error::invalid(format!("emulated driver, {name} = {value}: {e}")))
    }

    /// All that was counted and found since the start or the last [`Emulator::reset`].
    ///
    /// # Errors
    /// A driver that is not of this version.
    pub fn report(&self) -> Result<serde_json::Value> {
        let report: Report = self.function("emulatedCudaLastReport")?;
        let mut text: Vec<u8> = Vec::new();
        loop {
            // SAFETY: a buffer of as many bytes as said.
            let length = unsafe { report(text.as_mut_ptr().cast(), text.len()) };
            if length < text.len() {
                text.truncate(length);
                break;
            }
            text.resize(length + 1, 0);
        }
        serde_json::from_slice(&text)
            .map_err(|e| Error::new(ErrorKind::Device, format!("the emulated driver's report: {e}")))
    }

    /// Forgets what was counted and found.
    ///
    /// # Errors
    /// A driver that is not of this version.
    pub fn reset(&self) -> Result<()> {
        let reset: Reset = self.function("emulatedCudaResetReport")?;
        // SAFETY: no arguments.
        unsafe { reset() }.result().map_err(|e| Error::new(ErrorKind::Device, format!("reset: {e}")))
    }
}
