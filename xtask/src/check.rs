//! `kernels build` and `kernels check`.

use crate::Result;
use crate::baseline::{Baseline, Kernel, compare};
use crate::compile;
use crate::gpu::GPUS;
use crate::machine_code::assemble;
use crate::nvrtc::Nvrtc;
use crate::source::Source;
use crate::tools::{CUDA_VERSION, Clang, Cuda};
use rayon::prelude::*;
use std::path::Path;

/// Compiles every file; with `update`, approves what the assembler makes of it.
///
/// # Errors
/// A tool is missing or refuses a file; a file cannot be written.
pub fn build(root: &Path, folder: &Path, update: bool) -> Result<()> {
    let (sources, clang) = (Source::all(folder)?, Clang::find()?);
    let ptx: Vec<String> =
        sources.par_iter().map(|source| compile::to_ptx(&clang, source)).collect::<Result<_>>()?;
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    let to = folder.join("ptx");
    std::fs::create_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
    for (source, ptx) in sources.iter().zip(&ptx) {
        write(&source.ptx(), ptx)?;
        println!(
            "{:18} {:4} KB of PTX for sm_{} and later",
            source.name,
            ptx.len().div_ceil(1000),
            source.target
        );
    }
    for stale in orphans(&sources, &to) {
        std::fs::remove_file(to.join(&stale)).map_err(|e| format!("{stale}: {e}"))?;
        println!("{stale} removed: it has no .cu file");
    }
    if update {
        let now = measure(&Cuda::find(root)?, &sources)?;
        // What is wrong by itself is said now rather than by the next check.
        for finding in compare(&now, &now) {
            println!("{finding}");
        }
        write(&folder.join("baseline.json"), &now.to_json())?;
        println!("baseline.json: {} kernels", now.kernels.len());
    }
    Ok(())
}

/// The gate. Everything that is wrong is said before it fails.
///
/// # Errors
/// Stale PTX, findings against the baseline, a file that NVRTC refuses; with `require_tools`, a missing tool.
pub fn check(root: &Path, folder: &Path, require_tools: bool) -> Result<()> {
    let sources = Source::all(folder)?;
    let mut findings = Vec::new();
    let left_out = |what: &str, why: String| -> Result<()> {
        if require_tools {
            return Err(format!("{what} cannot be checked: {why}"));
        }
        println!("left out: {what}: {why}");
        Ok(())
    };
    match Clang::find() {
        Ok(clang) => {
            let compiled: Vec<_> = sources.par_iter().map(|source| compile::to_ptx(&clang, source)).collect();
            for (source, ptx) in sources.iter().zip(compiled) {
                findings.extend(match ptx {
                    Ok(ptx) => stale(source, &ptx),
                    Err(refusal) => Some(format!("{}.cu: {refusal}", source.name)),
                });
            }
            let orphans = orphans(&sources, &folder.join("ptx"));
            findings.extend(orphans.iter().map(|name| format!("ptx/{name}: there is no .cu file for it")));
        }
        Err(why) => left_out("whether kernels/ptx is what clang makes of kernels/*.cu", why)?,
    }
    match Cuda::find(root) {
        Ok(cuda) => {
            // The committed PTX is what is judged: it is what runs.
            match (Baseline::read(&folder.join("baseline.json")), measure(&cuda, &sources)) {
                (Ok(approved), _) if approved.cuda != CUDA_VERSION => {
                    findings.push(format!(
                        "baseline.json is by ptxas {}, the pinned one is {CUDA_VERSION}",
                        approved.cuda
                    ));
                }
                (Ok(approved), Ok(now)) => findings.extend(compare(&approved, &now)),
                (approved, now) => findings.extend([approved.err(), now.err()].into_iter().flatten()),
            }
            let nvrtc = Nvrtc::load(&cuda.nvrtc)?;
            findings.extend(sources.iter().filter_map(|source| nvrtc.accepts(source).err()));
        }
        Err(why) => left_out("machine code and NVRTC", why)?,
    }
    if findings.is_empty() {
        println!("kernels: {} files, nothing found", sources.len());
        return Ok(());
    }
    let advice =
        "a wanted change: `cargo xtask kernels build --update-baseline`, and commit it with its source";
    Err(format!("{}\n{} findings; {advice}", findings.join("\n"), findings.len()))
}

/// Whether committed PTX differs from what its source gives now, and where.
fn stale(source: &Source, ptx: &str) -> Option<String> {
    let place = format!("ptx/{}.ptx", source.name);
    let Ok(committed) = std::fs::read_to_string(source.ptx()) else {
        return Some(format!("{place}: missing; `cargo xtask kernels build` writes it"));
    };
    if committed == ptx {
        return None;
    }
    let same = committed.lines().zip(ptx.lines()).take_while(|(a, b)| a == b).count();
    let kernel = compile::kernels(&committed.lines().take(same + 1).collect::<Vec<_>>().join("\n"))
        .last()
        .map(str::to_owned);
    let kernel = kernel.map_or(String::new(), |name| format!(", in {name}"));
    Some(format!("{place}: stale: line {} is not what {}.cu gives{kernel}", same + 1, source.name))
}

/// PTX files without a source.
fn orphans(sources: &[Source], folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let known = |name: &String| sources.iter().any(|source| *name == format!("{}.ptx", source.name));
    names.filter(|name| !known(name)).collect()
}

/// Assembles the PTX files on disk for every GPU they allow.
fn measure(cuda: &Cuda, sources: &[Source]) -> Result<Baseline> {
    let scratch = std::env::temp_dir().join(format!("seedwalk-kernels-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let jobs = sources.iter().flat_map(|source| GPUS.iter().map(move |gpu| (source, gpu)));
    let jobs: Vec<_> = jobs.filter(|(source, gpu)| gpu.generation >= source.target).collect();
    let assembled: Result<Vec<_>> =
        jobs.par_iter().map(|(source, gpu)| assemble(cuda, &source.ptx(), gpu, &scratch)).collect();
    // A folder that stays behind is the system's to clean.
    let _ = std::fs::remove_dir_all(&scratch);
    let mut all = Baseline::new();
    for ((source, gpu), kernels) in jobs.iter().zip(assembled?) {
        let ptx = std::fs::read_to_string(source.ptx()).map_err(|e| format!("{}: {e}", source.name))?;
        for (name, mut figures) in kernels {
            let threads = compile::threads(&ptx, &name)
                .ok_or_else(|| format!("{}.cu: {name} has no launch bounds", source.name))?;
            // Where the launcher sizes it, as much as one block can have is taken: one block an SM.
            let dynamic_shared = source.dynamic_shared.get(&name).copied().flatten().unwrap_or(0);
            let by_launcher = source.dynamic_shared.get(&name) == Some(&None);
            let blocks = gpu.blocks(threads, figures.registers, figures.shared + dynamic_shared);
            figures.warps = if by_launcher { blocks.min(1) } else { blocks } * threads.div_ceil(32);
            let kernel = all.kernels.entry(name).or_insert_with(|| Kernel {
                file: source.name.clone(),
                threads,
                dynamic_shared,
                gpus: Default::default(),
            });
            kernel.gpus.insert(gpu.name(), figures);
        }
    }
    Ok(all)
}
