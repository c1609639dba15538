//! Where tensors live and operations run.

pub mod cuda;

use std::sync::Arc;

use crate::{Error, ErrorKind, Result};
use cuda::Gpu;

/// A device. The CPU uses the threads of the current rayon pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor, with the widest SIMD instructions it has.
    Cpu,
    /// The NVIDIA GPU of that number, by the driver's order.
    Cuda(u32),
    /// The emulated GPU: the same kernels and calls, executed and checked on the CPU, thousands of times slower.
    Emulated,
}

/// What convolutions multiply in on a GPU; they always accumulate in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to 10 bits of mantissa on the way into the tensor cores.
    Tf32,
    /// Operands rounded to 7 bits of mantissa in memory.
    Bf16,
}

/// The name that `--precision` has for it.
impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The best device that works.
    Auto,
    /// This one and no other.
    Only(Device),
}

impl Request {
    /// Reads `auto`, `cpu`, `cuda` (the first GPU), `cuda:N` or `emulated`.
    ///
    /// # Errors
    /// Another name: wrong usage.
    pub fn parse(name: &str) -> Result<Self> {
        let number = |n: &str| n.parse().ok().map(|n| Self::Only(Device::Cuda(n)));
        let known = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Only(Device::Cpu)),
            "cuda" => Some(Self::Only(Device::Cuda(0))),
            "emulated" => Some(Self::Only(Device::Emulated)),
            _ => name.strip_prefix("cuda:").and_then(number),
        };
        known.ok_or_else(|| {
            Error::usage(format!("unknown device `{name}`"))
                .remedy("devices: auto, cpu, cuda, cuda:N, emulated")
        })
    }

    /// The GPU to compute on, `None` for the CPU. `auto` takes the first GPU if it can be used and the CPU otherwise; a
    /// device that was named is tried, and never replaced by another.
    ///
    /// # Errors
    /// A GPU that was named and cannot be used.
    pub fn resolve(self) -> Result<Option<Arc<Gpu>>> {
        match self {
            Self::Only(Device::Cpu) => Ok(None),
            Self::Only(device) => device.gpu().map(Some),
            Self::Auto => Ok(Device::Cuda(0).gpu().ok()),
        }
    }
}

impl Request {
    /// The GPU to run kernels on for their own sake: `auto` takes the first GPU, and the emulated one where none can be used.
    ///
    /// # Errors
    /// The CPU, which runs no kernels; a GPU that was named and cannot be used; no emulated driver.
    pub fn resolve_for_kernels(self) -> Result<Arc<Gpu>> {
        match self {
            Self::Only(Device::Cpu) => {
                Err(Error::new(ErrorKind::Unavailable, "device `cpu` runs no kernels").remedy(
                    "use --device cuda, or --device emulated to count what a kernel does without a GPU",
                ))
            }
            Self::Only(device) => device.gpu(),
            Self::Auto => Device::Cuda(0).gpu().or_else(|error| {
                log::info!("no GPU: {error}");
                Device::Emulated.gpu()
            }),
        }
    }
}

impl Device {
    /// The GPU behind this device, opened on first use and shared from then on.
    ///
    /// # Errors
    /// The CPU is none; no driver, no GPU, a GPU that does not answer: with cause and remedy.
    pub fn gpu(self) -> Result<Arc<Gpu>> {
        Gpu::of(self)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
            Device::Emulated => write!(f, "emulated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown() {
        for (name, device) in [
            ("cpu", Device::Cpu),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("emulated", Device::Emulated),
        ] {
            assert_eq!(Request::parse(name).unwrap(), Request::Only(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!(Request::parse("cuda").unwrap(), Request::Only(Device::Cuda(0)));
        assert_eq!(Request::parse("auto").unwrap(), Request::Auto);
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert_eq!(Request::parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
