//! A stand-in for the CUDA driver: `libcuda`'s functions on a PTX emulator.
//!
//! The shared library that this crate builds exports the driver functions that [cudarc] 0.19 calls, by name and calling
//! convention. A program that loads it before its bindings look for `libcuda` runs its CUDA code unmodified on a machine
//! without a GPU: every launch is executed on the CPU with all of the emulator's checks, and what it finds comes back as
//! the error that hardware would give, with the diagnosis in `cuGetErrorString`'s words. It is for tests and for studying
//! kernels, never for deployment: it is some thousand times slower than a GPU.
//!
//! Queued work is done as late as the program allows, so that a missing wait shows; see `docs/emulated-driver.md` for all
//! that is modelled, the settings, and the faults that can be asked for.
//!
//! Functions of its own, besides the driver's:
//!
//! ```c
//! // Sets one setting ("gpu", "seed", "faults", …); CUDA_ERROR_INVALID_VALUE and words in cuGetErrorString if it cannot.
//! CUresult emulatedCudaSet(const char *name, const char *value);
//! // Writes the report (JSON, with a NUL behind it) if it fits, and returns the bytes that it takes without the NUL.
//! size_t emulatedCudaLastReport(char *buffer, size_t capacity);
//! // Forgets launches, findings, calls and leaks counted so far.
//! CUresult emulatedCudaResetReport(void);
//! ```
//!
//! [cudarc]: https://docs.rs/cudarc

mod api;
mod capture;
mod driver;
mod fault;
mod gpu;
mod occupancy;
mod queue;
mod report;
mod settings;
mod status;
mod work;

pub use status::CUresult;

/// The driver's functions that the library exports and this version models; each is tested to be there.
///
/// [`REFUSED`] lists those that it exports only to answer `CUDA_ERROR_NOT_SUPPORTED`.
pub const EXPORTED: &[&str] = api::EXPORTED;

/// Functions that answer `CUDA_ERROR_NOT_SUPPORTED`: bindings that look for them find them, instead of panicking.
pub const REFUSED: &[&str] = api::REFUSED;
