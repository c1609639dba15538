//! The GPU day's runner, `run` in the folder that `cargo xtask gpu-day build` makes: see docs/gpu-day.md.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use xtask::day::{memory, runner};

/// Everything that only a GPU can tell: tests, trainings, benchmarks; one results file
#[derive(Parser)]
#[command(name = "run", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    day: Day,
}

#[derive(Subcommand)]
enum Part {
    /// Print how much of a GPU's memory is in use, each time that it is more than before
    #[command(hide = true)]
    WatchMemory { ordinal: u32 },
}

#[derive(Args)]
struct Day {
    /// cuda:N, or emulated to try the runner without a GPU
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// Time for everything
    #[arg(long, default_value_t = 540.0)]
    seconds: f64,
    /// Most time for one test or training
    #[arg(long, default_value_t = 60.0)]
    part_seconds: f64,
    /// The results file
    #[arg(long, default_value = "results.json")]
    output: PathBuf,
    /// Folder for what parts write [default: a temporary one]
    #[arg(long)]
    work: Option<PathBuf>,
    /// Only tests with one of these in their names
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Only these networks: cam, affinity, segmentation
    #[arg(long, value_delimiter = ',')]
    networks: Vec<String>,
    /// Only these precisions: f32, tf32, bf16
    #[arg(long, value_delimiter = ',')]
    precisions: Vec<String>,
    /// Filters of the benchmark instead of its operations one by one
    #[arg(long, value_delimiter = ',')]
    benches: Vec<String>,
    /// Train at toy size [default: with --device emulated]
    #[arg(long)]
    small: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.part {
        Some(Part::WatchMemory { ordinal }) => memory::watch(ordinal),
        None => day(cli.day),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Succeeds when the results were written, whatever they are.
fn day(day: Day) -> Result<(), String> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|e| format!("{}: {e}", path.display()));
    let own = std::env::current_exe().map_err(|e| format!("this program's folder: {e}"))?;
    let folder = own.parent().ok_or("this program lies in no folder")?.to_owned();
    let given = day.work.is_some();
    let work =
        day.work.unwrap_or_else(|| std::env::temp_dir().join(format!("gpu-day-{}", std::process::id())));
    let options = runner::Options {
        folder,
        small: day.small || day.device == "emulated",
        device: day.device,
        seconds: day.seconds,
        part_seconds: day.part_seconds,
        results: absolute(day.output)?,
        work: absolute(work)?,
        tests: day.tests,
        networks: day.networks,
        precisions: day.precisions,
        benches: day.benches,
    };
    let results = runner::run(&options)?;
    if !given {
        let _ = std::fs::remove_dir_all(&options.work);
    }
    println!("{}", runner::summary(&results, &options.results));
    Ok(())
}
