//! The driver's errors as the crate's: what was being done, the driver's own words, a remedy.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult as Code;

use crate::device::Device;
use crate::{Error, ErrorKind};

pub(super) const NEWER_DRIVER: &str = "install a newer NVIDIA driver, or use --device cpu";

/// The code's name and the driver's words for it, which name the kernel and the place where the driver is emulated.
fn words(error: DriverError) -> String {
    let text = |t: Result<&std::ffi::CStr, DriverError>| t.ok().map(|t| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("CUDA error {}", error.0 as u32));
    match text(error.error_string()) {
        Some(words) => format!("{words} ({name})"),
        None => name,
    }
}

/// An error while opening a GPU.
pub(super) fn of_opening(device: Device, error: DriverError) -> Error {
    let (message, remedy) = match error.0 {
        Code::CUDA_ERROR_NO_DEVICE => (
            "the driver sees no NVIDIA GPU".to_string(),
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu",
        ),
        Code::CUDA_ERROR_INVALID_DEVICE => (
            format!("there is no GPU {}", device.to_string().trim_start_matches("cuda:")),
            "`seedwalk doctor` lists the GPUs that there are; --device cpu needs none",
        ),
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => (
            "the driver in the kernel and libcuda.so.1 are of different versions".to_string(),
            "restart the machine after an update of the driver, or use --device cpu",
        ),
        _ => {
            (format!("the GPU cannot be opened: {}", words(error)), "check `nvidia-smi`, or use --device cpu")
        }
    };
    Error::new(ErrorKind::Device, format!("device `{device}`: {message}")).remedy(remedy)
}

/// An error while computing.
pub(super) fn of_work(device: Device, doing: &str, error: DriverError) -> Error {
    let remedy = match error.0 {
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => NEWER_DRIVER,
        Code::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            "this GPU is too old: compute capability 7.5 is needed; use --device cpu"
        }
        Code::CUDA_ERROR_OUT_OF_MEMORY => {
            "use a smaller --batch or --crop, or free memory that other programs hold"
        }
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => {
            "this is a bug in a kernel: `--device emulated` finds its place; `--device cpu` works around it"
        }
        _ => "check `nvidia-smi` for the GPU's state and start again; finished work is kept",
    };
    let kind = match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
        _ => ErrorKind::Device,
    };
    Error::new(kind, format!("device `{device}`: {doing}: {}", words(error))).remedy(remedy)
}
