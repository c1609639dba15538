//! The command: runs kernels of PTX files, or lists them.

mod arguments;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Argument, Placed};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ptx_emulator::{Checks, Gpu, KernelInfo, Launch, Memory, Module, Options, Report, report};

/// Exit code of a run with findings.
const FOUND: u8 = 3;

/// Runs CUDA kernels (PTX) on the CPU: finds memory errors and races, counts what they do.
#[derive(Parser)]
#[command(name = "ptx-emulator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a kernel. Exit code 0: no findings, 3: findings, 1: it could not be run.
    Run(Box<Run>),
    /// Parse a file and list its kernels with their resources.
    Check {
        /// The PTX file.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    All,
    None,
}

#[derive(Args)]
struct Run {
    /// The PTX file.
    file: PathBuf,
    /// The kernel's name; may be left out when there is only one.
    #[arg(long)]
    kernel: Option<String>,
    /// Blocks: X, X,Y or X,Y,Z.
    #[arg(long, value_parser = extent, default_value = "1")]
    grid: [u32; 3],
    /// Threads of a block: X, X,Y or X,Y,Z.
    #[arg(long, value_parser = extent, default_value = "1")]
    block: [u32; 3],
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// A parameter, in order: `u32:7`, `i32:-1`, `f32:0.5`, `u64:9`; a buffer `f32[N]` (not initialised), `f32[N]=zeros`,
    /// `f32[N]=iota`, `f32[N]=random:SEED`, `f32[]=@FILE` (raw little-endian). Types: u8 i8 u16 i16 u32 i32 u64 i64 f16 bf16
    /// f32 f64.
    #[arg(long = "arg", value_name = "SPEC", allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// Write a buffer to a file after the run: INDEX:FILE, the first argument being 0.
    #[arg(long, value_name = "INDEX:FILE")]
    dump: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the annotated source listing, one self-contained HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where the listing looks for sources, besides the PTX file's folder; may be given more than once.
    #[arg(long, value_name = "DIR")]
    source: Vec<PathBuf>,
    /// Which checks are made; accesses outside of memory are always found.
    #[arg(long, default_value = "all")]
    checks: Which,
    /// Shuffle the order of warps and blocks.
    #[arg(long)]
    seed: Option<u64>,
    /// Run all blocks at once, in turns, as a cooperative launch does.
    #[arg(long)]
    cooperative: bool,
    /// The GPU whose limits hold and whose peak rates give bounds: a100, h100, h200, rtx4090.
    #[arg(long, default_value = "a100")]
    gpu: String,
}

fn extent(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("one to three numbers expected".to_owned());
    }
    for (to, part) in out.iter_mut().zip(parts) {
        *to = part.trim().parse().map_err(|_| format!("`{part}` is no number"))?;
    }
    Ok(out)
}

fn main() -> ExitCode {
    // Wrong usage exits with 1, as any other error.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when this fails.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let done = match cli.command {
        Command::Run(run) => run_kernel(&run),
        Command::Check { file, json } => check(&file, json).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(1)
        }
    }
}

fn load(file: &Path) -> Result<Module, String> {
    let name = file.display().to_string();
    let source = std::fs::read_to_string(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => format!("{name}: no text, so no PTX"),
        _ => format!("{name}: {e}"),
    })?;
    Module::parse(&source, &name).map_err(|e| e.to_string())
}

fn choose<'m>(module: &'m Module, name: Option<&str>) -> Result<&'m KernelInfo, String> {
    let names = || module.kernels().iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, module.kernels()) {
        (Some(name), _) => {
            module.kernel(name).ok_or_else(|| format!("no kernel `{name}`; the file has {}", names()))
        }
        (None, [one]) => Ok(one),
        (None, _) => Err(format!("--kernel is needed; the file has {}", names())),
    }
}

fn run_kernel(run: &Run) -> Result<u8, String> {
    let module = load(&run.file)?;
    let kernel = choose(&module, run.kernel.as_deref())?;
    let gpu = Gpu::named(&run.gpu)
        .ok_or_else(|| format!("no GPU `{}`; known are {}", run.gpu, Gpu::NAMES.join(", ")))?;
    if run.arguments.len() != kernel.parameters.len() {
        let (given, wanted) = (run.arguments.len(), kernel.parameters.len());
        return Err(format!("`{}` takes {wanted} parameters, {given} --arg were given", kernel.name));
    }
    let mut memory = Memory::new();
    let loaded = memory.load_module(&module).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; kernel.parameter_bytes];
    let mut buffers = Vec::new();
    for (spec, parameter) in run.arguments.iter().zip(&kernel.parameters) {
        let argument = Argument::parse(spec).map_err(|e| format!("--arg {spec}: {e}"))?;
        let (value, buffer) = argument.place(&mut memory).map_err(|e| format!("--arg {spec}: {e}"))?;
        if value.len() != parameter.size {
            let (size, given) = (parameter.size, value.len());
            return Err(format!("--arg {spec}: `{}` takes {size} bytes, this has {given}", parameter.name));
        }
        bytes[parameter.offset..parameter.offset + parameter.size].copy_from_slice(&value);
        buffers.push(buffer);
    }
    let checks = match run.checks {
        Which::All => Checks::all(),
        Which::None => Checks::none(),
    };
    let launch = Launch {
        kernel: &kernel.name,
        grid: run.grid,
        block: run.block,
        dynamic_shared: run.shared,
        parameters: &bytes,
        options: Options {
            checks,
            seed: run.seed,
            cooperative: run.cooperative,
            gpu: gpu.clone(),
            ..Options::default()
        },
    };
    let result = launch.run(&loaded, &mut memory).map_err(|e| e.to_string())?;
    for dump in &run.dump {
        write_dump(dump, &buffers, &memory)?;
    }
    if let Some(file) = &run.html {
        let page = report::HtmlReport {
            kernel: &kernel.name,
            ptx: module.name(),
            grid: run.grid,
            block: run.block,
            dynamic_shared: run.shared,
            report: &result,
            gpus: &Gpu::NAMES.map(|name| Gpu::named(name).unwrap_or_else(Gpu::a100)),
            source: &|name| find_source(run, name),
        };
        std::fs::write(file, page.render()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    print(run, &result, &gpu);
    Ok(if result.findings.is_empty() && result.stopped.is_none() { 0 } else { FOUND })
}

/// The text of a source file named by `.loc`: under the folders given and the PTX file's, by its path and by its last part.
fn find_source(run: &Run, name: &str) -> Option<String> {
    let beside = run.file.parent().map(Path::to_path_buf);
    let folders = run.source.iter().cloned().chain(beside);
    let last = Path::new(name).file_name()?;
    folders.flat_map(|f| [f.join(name), f.join(last)]).find_map(|path| std::fs::read_to_string(path).ok())
}

fn print(run: &Run, result: &Report, gpu: &Gpu) {
    let bounds = [result.counters.lower_bound(gpu)];
    if run.json {
        println!("{}", report::json(result, &bounds));
    } else {
        print!("{}", report::text(result, &bounds));
    }
}

fn write_dump(dump: &str, buffers: &[Option<Placed>], memory: &Memory) -> Result<(), String> {
    let (index, file) = dump.split_once(':').ok_or_else(|| format!("--dump {dump}: INDEX:FILE expected"))?;
    let index: usize = index.parse().map_err(|_| format!("--dump {dump}: `{index}` is no number"))?;
    let (address, bytes) = buffers
        .get(index)
        .copied()
        .flatten()
        .ok_or_else(|| format!("--dump {dump}: argument {index} is no buffer"))?;
    let mut data = vec![0; bytes as usize];
    memory.read(address, &mut data).map_err(|e| format!("--dump {dump}: {e}"))?;
    std::fs::write(file, data).map_err(|e| format!("{file}: {e}"))
}

fn check(file: &Path, json: bool) -> Result<(), String> {
    let module = load(file)?;
    if json {
        let kernels: Vec<serde_json::Value> = module.kernels().iter().map(describe).collect();
        println!("{}", serde_json::json!({ "schema_version": 1, "kernels": kernels }));
        return Ok(());
    }
    if module.kernels().is_empty() {
        println!("no kernels");
    }
    for k in module.kernels() {
        let r = k.registers;
        println!("{} ({}, PTX {}.{})", k.name, k.target, k.ptx_version.0, k.ptx_version.1);
        for p in &k.parameters {
            println!("  parameter {} at {}: {} bytes", p.name, p.offset, p.size);
        }
        let dynamic = if k.uses_dynamic_shared { ", and dynamic" } else { "" };
        println!(
            "  shared memory: {} bytes{dynamic}; local memory: {} bytes a thread",
            k.shared_bytes, k.local_bytes
        );
        println!(
            "  registers declared: {} of 32 bits, {} of 64, {} of 16, {} predicates; {} instructions",
            r.bits32, r.bits64, r.bits16, r.predicates, k.instructions
        );
        if let Some([x, y, z]) = k.required_threads.or(k.max_threads) {
            let word = if k.required_threads.is_some() { "exactly" } else { "at most" };
            println!("  threads of a block: {word} ({x}, {y}, {z})");
        }
    }
    Ok(())
}

fn describe(k: &KernelInfo) -> serde_json::Value {
    let parameters: Vec<serde_json::Value> = k
        .parameters
        .iter()
        .map(|p| serde_json::json!({ "name": p.name, "offset": p.offset, "size": p.size, "align": p.align }))
        .collect();
    serde_json::json!({
        "name": k.name,
        "line": k.ptx_line,
        "target": k.target,
        "parameters": parameters,
        "shared_bytes": k.shared_bytes,
        "dynamic_shared": k.uses_dynamic_shared,
        "local_bytes": k.local_bytes,
        "instructions": k.instructions,
        "registers": {
            "predicates": k.registers.predicates,
            "bits16": k.registers.bits16,
            "bits32": k.registers.bits32,
            "bits64": k.registers.bits64,
        },
        "max_threads": k.max_threads,
        "required_threads": k.required_threads,
        "min_blocks": k.min_blocks,
    })
}
