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
//!
//! # What is modelled
//!
//! PTX 6.3 to 8.x as clang emits it: integer, f32, f64, f16 and bf16 arithmetic (packed too) and conversions with the roundings
//! that PTX states; predicates, divergence and reconvergence at immediate post-dominators; global, constant, shared (static
//! and dynamic), local and parameter memory, generic addresses; calls of functions in the module (expanded in place; no
//! recursion, no calls through pointers); atomics; shuffles, votes, matches, reductions; barriers, named ones and those of a
//! part of the block; `cp.async` with groups; `ldmatrix`, `stmatrix`, `mma` (f16, bf16, tf32, f64, 8-bit integers). What is
//! not known, `mbarrier`, bulk copies, clusters and `wgmma` among it, is an error of [`Module::parse`] with its line.
//!
//! # What is not
//!
//! - PTX is not what a GPU executes: the assembler reorders, fuses and drops instructions, and gives registers. Counts are of
//!   the PTX as written.
//! - Memory is sequentially consistent: a missing fence shows as a finding of the race checks, not as a stale value.
//! - Lanes of a warp run in step. Lanes of one warp that wait for each other (a lock taken per lane) wait for ever here, as on
//!   GPUs before compute capability 7.0; the instruction limit ends them.
//! - Approximate functions (`ex2`, `lg2`, `sin`, `cos`, `rcp`, `rsqrt`, `sqrt`, `tanh`, `div.full`) are correctly rounded or
//!   nearly so; GPUs compute other last digits. `mma` adds products one by one in f32; tensor cores do not.
//! - There is no time: `%clock` reads 0, `nanosleep` returns at once.
//! - Races are found by which accesses nothing orders, on one execution: data that decide who accesses what may hide others.
//!   A write that leaves the bytes as they are is no race. Times of accesses to global memory are kept for the first 32,766
//!   barriers of a block; races between its warps after that are not found. Block numbers are kept modulo 2²⁵.
//! - `cp.async` groups are kept for each warp, not for each lane.
//!
//! PTX that NVIDIA's compilers made may be under a licence that restricts what may be done with it; clang's is not.

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
