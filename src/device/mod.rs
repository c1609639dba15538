//! Where tensors live and operations run.

use crate::{Error, ErrorKind, Result};

/// A device. The CPU uses the threads of the current rayon pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor, with the widest SIMD instructions it has.
    Cpu,
}

impl Device {
    /// Reads `auto`, `cpu`, `cuda`, `cuda:N` or `emulated`. `auto` takes the CPU while there is no GPU
    /// back end; the explicit GPU names fail, because `cuda` never falls back.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ if name == "emulated" || name == "cuda" || name.starts_with("cuda:") => Err(Error::new(
                ErrorKind::Unavailable,
                format!("device `{name}`: this build has no CUDA back end"),
            )
            .remedy("use `--device cpu`, or `auto`, which takes the best device that works")),
            _ => Err(Error::usage(format!("unknown device `{name}`"))
                .remedy("devices: auto, cpu, cuda, cuda:N, emulated")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
        }
    }
}
