//! `cargo xtask kernels …`: compiles the kernels to PTX and judges what assemblers make of it, without a GPU.
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
    let Task::Kernels(command) = Task::parse();
    // `cargo xtask` may be called from any folder of the workspace; tests name a folder of their own.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let within = |folder: PathBuf| if folder.is_absolute() { folder } else { root.join(folder) };
    let outcome = match command {
        Kernels::Build { update_baseline, kernels } => check::build(root, &within(kernels), update_baseline),
        Kernels::Check { require_tools, kernels } => check::check(root, &within(kernels), require_tools),
        Kernels::Counters { update } => counters::counters(root, update),
        Kernels::Docs { check } => docs::write(root, check),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
