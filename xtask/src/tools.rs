//! Where the tools are, and that they are the pinned ones: both compilers' output is compared with what is committed, so
//! another version is another truth.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// clang's version, from Debian's package clang-19.
pub const CLANG_VERSION: &str = "19.1.7";
/// Version of NVIDIA's packages, the same number in `.ci/cuda-tools`.
pub const CUDA_VERSION: &str = "13.5.37";
const INSTALL: &str = "run `.ci/cuda-tools`, which installs all of them (no GPU, driver or toolkit needed)";

/// clang and the folder of its own headers.
pub struct Clang {
    program: PathBuf,
    /// Holds clang's built-in headers; differs between installations and must not reach the PTX.
    pub headers: PathBuf,
}

impl Clang {
    /// Finds `clang-19` on the path.
    ///
    /// # Errors
    /// It is missing, or of another version than [`CLANG_VERSION`].
    pub fn find() -> Result<Self> {
        let program = PathBuf::from("clang-19");
        let version = output(&program, &["--version"]).map_err(|e| format!("{e}; {INSTALL}"))?;
        if !version.contains(&format!("version {CLANG_VERSION}")) {
            let found = version.lines().next().unwrap_or_default();
            return Err(format!("clang {CLANG_VERSION} is pinned (its PTX is committed), found: {found}"));
        }
        let resources = output(&program, &["-print-resource-dir"])?;
        Ok(Self { program, headers: Path::new(resources.trim()).join("include") })
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        Command::new(&self.program)
    }
}

/// ptxas, nvdisasm and NVRTC under `target/cuda-tools`.
pub struct Cuda {
    /// Assembles PTX to machine code.
    pub ptxas: PathBuf,
    /// Prints machine code.
    pub nvdisasm: PathBuf,
    /// The library that compiles CUDA C++.
    pub nvrtc: PathBuf,
}

impl Cuda {
    /// Finds them where `.ci/cuda-tools` puts them.
    ///
    /// # Errors
    /// One is missing, or the installed version is not [`CUDA_VERSION`].
    pub fn find(root: &Path) -> Result<Self> {
        let folder = root.join("target/cuda-tools");
        let installed = std::fs::read_to_string(folder.join("installed")).unwrap_or_default();
        if installed.trim() != CUDA_VERSION {
            let found = if installed.is_empty() { "not there" } else { installed.trim() };
            return Err(format!("ptxas, nvdisasm and NVRTC {CUDA_VERSION} are {found}; {INSTALL}"));
        }
        let base = folder.join("nvidia/cu13");
        let cuda = Self {
            ptxas: base.join("bin/ptxas"),
            nvdisasm: base.join("bin/nvdisasm"),
            nvrtc: base.join("lib/libnvrtc.so.13"),
        };
        for file in [&cuda.ptxas, &cuda.nvdisasm, &cuda.nvrtc] {
            if !file.is_file() {
                return Err(format!("{} is missing; remove target/cuda-tools and {INSTALL}", file.display()));
            }
        }
        Ok(cuda)
    }
}

/// What a program prints.
fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    run(Command::new(program).args(arguments)).map(|(out, _)| out)
}

/// Runs to the end; standard output and standard error.
///
/// # Errors
/// It cannot be started, or fails: then with what it said.
pub fn run(command: &mut Command) -> Result<(String, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{name} does not start: {e}"))?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if !done.status.success() {
        return Err(format!("{name} failed ({}):\n{err}{out}", done.status));
    }
    Ok((out.into_owned(), err.into_owned()))
}
