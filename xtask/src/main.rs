//! `cargo xtask kernels …`: compiles the kernels to PTX and judges what assemblers make of it, without a GPU;
//! `cargo xtask gpu-day …`: packs what a day with a GPU needs, and shows what it told.
//!
//! `kernels/*.cu` go through clang to `kernels/ptx/*.ptx`, which is committed and is what the driver loads. The
//! gate (`check`) recompiles and compares byte for byte, assembles each for every GPU generation with ptxas, reads the
//! machine code, and compares it with `kernels/baseline.json`: a spill, a stack frame, a drop in occupancy, a lost
//! 128-bit load or tensor-core instruction fails. NVRTC, the compiler of a user with a GPU, must accept every file.

mod baseline;
mod check;
mod compile;
mod counters;
mod docs;
mod gpu;
mod gpu_day;
mod ladders;
mod machine_code;
mod nvrtc;
mod source;
mod tools;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the commands return: an error is a sentence for the person at the terminal.
type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer's tasks")]
enum Task {
    /// The CUDA kernels in kernels/
    #[command(subcommand)]
    Kernels(Kernels),
    /// A day with a GPU
    #[command(subcommand)]
    GpuDay(GpuDay),
}

#[derive(Subcommand)]
enum GpuDay {
    /// Put tests, benchmark, program and runner into a folder to carry to a machine with a GPU
    Build {
        /// The folder
        #[arg(long, default_value = "target/gpu-day")]
        output: PathBuf,
    },
    /// Show results in docs/gpu-day.md
    Docs {
        /// A results file that takes the place of the one in docs/results
        results: Option<PathBuf>,
        /// Fail if the page would change, and write nothing
        #[arg(long, conflicts_with = "results")]
        check: bool,
    },
}

#[derive(Subcommand)]
enum Kernels {
    /// Compile every .cu to kernels/ptx
    Build {
        /// Also assemble them and write what came out to kernels/baseline.json
        #[arg(long)]
        update_baseline: bool,
        /// The folder that holds the .cu files
        #[arg(long, default_value = "kernels")]
        kernels: PathBuf,
    },
    /// Compare kernels/ptx and kernels/baseline.json with what the sources give now
    Check {
        /// Fail where a tool is missing (CI); otherwise say what was left out
        #[arg(long)]
        require_tools: bool,
        /// The folder that holds the .cu files
        #[arg(long, default_value = "kernels")]
        kernels: PathBuf,
    },
    /// Compare what the emulator counts at fixed shapes with kernels/counters.json
    Counters {
        /// Write the file instead
        #[arg(long)]
        update: bool,
    },
    /// Write the tables in docs/kernels.md
    Docs {
        /// Fail if they would change, and write nothing
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    // `cargo xtask` may be called from any folder of the workspace; tests name a folder of their own.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let within = |folder: PathBuf| if folder.is_absolute() { folder } else { root.join(folder) };
    let outcome = match Task::parse() {
        Task::Kernels(Kernels::Build { update_baseline, kernels }) => {
            check::build(root, &within(kernels), update_baseline)
        }
        Task::Kernels(Kernels::Check { require_tools, kernels }) => {
            check::check(root, &within(kernels), require_tools)
        }
        Task::Kernels(Kernels::Counters { update }) => counters::counters(root, update),
        Task::Kernels(Kernels::Docs { check }) => docs::write(root, check),
        Task::GpuDay(GpuDay::Build { output }) => gpu_day::build::build(root, &within(output)),
        Task::GpuDay(GpuDay::Docs { results, check }) => {
            gpu_day::page::write(root, results.as_deref(), check)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
