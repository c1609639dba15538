//! Runs CUDA kernels, given as PTX, on the CPU: without a GPU, driver or toolkit.
//!
//! ```no_run
//! use ptx_emulator::{Launch, Memory, Module, Options, ParameterBytes};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = Module::parse(&std::fs::read_to_string("scale.ptx")?, "scale.ptx")?;
//! let mut memory = Memory::new();
//! let loaded = memory.load_module(&module)?;
//! let x = memory.allocate(4 * 1000)?;
//! memory.write(x, &vec![0; 4000])?;
//! let parameters = ParameterBytes::new().address(x).f32(2.0).u32(1000);
//! let launch = Launch {
//!     kernel: "scale",
//!     grid: [4, 1, 1],
//!     block: [256, 1, 1],
//!     dynamic_shared: 0,
//!     parameters: parameters.bytes(),
//!     options: Options::default(),
//! };
//! let report = launch.run(&loaded, &mut memory)?;
//! for finding in &report.findings {
//!     println!("{finding}");
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod code;
mod counters;
mod decode;
mod error;
mod exec;
mod finding;
mod gpu;
mod launch;
mod memory;
mod module;
mod ptx;
pub mod report;
mod soft;

pub use counters::{
    Counters, Executed, GlobalCounters, InstructionClass, LineCounters, LowerBound, SharedCounters,
};
pub use error::{LaunchError, MemoryError, ParseError};
pub use finding::{Finding, FindingKind, Space};
pub use gpu::Gpu;
pub use launch::{Checks, Launch, Options, ParameterBytes, Report, Stop};
pub use memory::{Allocation, LoadedModule, Memory};
pub use module::{KernelInfo, Module, Parameter, Registers};

/// An f32 to the nearest f16 (ties to even), as its bits.
pub fn f32_to_f16(x: f32) -> u16 {
    soft::f32_to_f16(x.to_bits()) as u16
}
