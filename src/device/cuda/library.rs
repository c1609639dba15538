//! Which `libcuda` the process uses: the machine's, or the emulated one.
//!
//! cudarc looks a library of the name `libcuda.so` up on its first call and keeps it. The emulated driver carries that
//! name inside (its SONAME), so once it is loaded by its path, cudarc's look-up finds it and nothing else.

use std::path::{Path, PathBuf};

use cudarc::driver::sys;

use crate::{Error, ErrorKind, Result, show_path};

/// The emulated driver's file.
const FILE: &str = "libemulated_cuda.so";
/// The environment variable that names it where it is not found by itself.
const VARIABLE: &str = "SEEDWALK_EMULATED_CUDA";

/// Makes sure that the machine's driver can be called.
pub(super) fn load_driver() -> Result<()> {
    // Asked first: cudarc panics where there is none.
    // SAFETY: loads and closes libraries of the driver's name; their initialisers are the driver's.
    if !unsafe { sys::is_culib_present() } {
        let kernel = Path::new("/proc/driver/nvidia/version").exists();
        let (message, remedy) = if kernel {
            (
                "the NVIDIA driver is in the kernel, but its library libcuda.so.1 is not found",
                "put its folder on LD_LIBRARY_PATH (in a container: start it with GPU access), or use --device cpu",
            )
        } else {
            (
                "no NVIDIA driver: libcuda.so.1 is not found",
                "install the driver, or use --device cpu, or --device emulated to check kernels without a GPU",
            )
        };
        return Err(Error::new(ErrorKind::Unavailable, message).remedy(remedy));
    }
    if is_emulated() {
        let message = "this process uses the emulated driver already";
        return Err(Error::new(ErrorKind::Unavailable, message).remedy("one process uses one driver"));
    }
    Ok(())
}

/// Makes sure that cudarc calls the emulated driver.
pub(super) fn load_emulated() -> Result<()> {
    let path = emulated_driver()?;
    // SAFETY: our own library; it has no initialisers that depend on anything.
    match unsafe { libloading::Library::new(&path) } {
        // Never closed: cudarc keeps pointers into it.
        Ok(library) => std::mem::forget(library),
        Err(e) => {
            let message = format!("the emulated driver cannot be loaded: {e}");
            return Err(Error::new(ErrorKind::Unavailable, message).in_file(path).remedy(HOW_TO_BUILD));
        }
    }
    if is_emulated() {
        return Ok(());
    }
    let message = "the emulated driver is loaded, but another libcuda.so was in use before";
    Err(Error::new(ErrorKind::Unavailable, message).remedy("one process uses one driver"))
}

const HOW_TO_BUILD: &str = "`cargo build` makes it beside the program, or in deps/ there; \
     SEEDWALK_EMULATED_CUDA may name it elsewhere";

/// Whether the library that cudarc uses is the emulated one. Call only where a library is known to be there.
fn is_emulated() -> bool {
    // SAFETY: a library is there, so this does not panic; the symbol is only looked up.
    unsafe { sys::culib().get::<*const ()>(b"emulatedCudaSet").is_ok() }
}

/// The emulated driver's file: what `SEEDWALK_EMULATED_CUDA` names, or what cargo has built beside this program.
///
/// # Errors
/// When there is none.
pub fn emulated_driver() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        if path.is_file() {
            // By its absolute path: the loader looks a bare name up elsewhere.
            return std::path::absolute(&path).map_err(|e| Error::io("find", &path, e));
        }
        return Err(Error::new(ErrorKind::Unavailable, format!("{VARIABLE} names a file that is not there"))
            .in_file(path)
            .remedy(HOW_TO_BUILD));
    }
    let own = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(FILE), folder.join("deps").join(FILE), folder.join("../deps").join(FILE)];
    places.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        let message =
            format!("the emulated driver {FILE} is not beside the program in {}", show_path(folder));
        Error::new(ErrorKind::Unavailable, message).remedy(HOW_TO_BUILD)
    })
}
