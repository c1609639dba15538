//! NVRTC, the compiler that a user with a GPU has: it must accept every kernel. What it emits is thrown away.

use crate::Result;
use crate::source::Source;
use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type LogSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Log = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

/// The library, loaded.
pub struct Nvrtc {
    library: Library,
}

impl Nvrtc {
    /// Loads it.
    ///
    /// # Errors
    /// The file is no library that can be loaded here.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: NVRTC's initialisation has no preconditions.
        let library = unsafe { Library::new(path) }.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { library })
    }

    /// Compiles a file for the oldest GPU it is for, with every `.cuh` beside it as a header.
    ///
    /// # Errors
    /// The compiler's words where it refuses.
    pub fn accepts(&self, source: &Source) -> Result<()> {
        let text = |path: &Path| -> Result<CString> {
            let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            CString::new(bytes).map_err(|_| format!("{}: has a zero byte", path.display()))
        };
        let folder = source.path.parent().expect("a file lies in a folder");
        let mut headers = Vec::new();
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|e| e == "cuh") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                headers.push((CString::new(name).map_err(|e| e.to_string())?, text(&path)?));
            }
        }
        let (names, bodies): (Vec<_>, Vec<_>) = headers.iter().map(|(n, b)| (n.as_ptr(), b.as_ptr())).unzip();
        let (body, name) =
            (text(&source.path)?, CString::new(format!("{}.cu", source.name)).map_err(|e| e.to_string())?);
        let options = [format!("--gpu-architecture=compute_{}", source.target), "--std=c++17".into()];
        let options = options.map(|option| CString::new(option).expect("no zero bytes"));
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = std::ptr::null_mut();
        // SAFETY: the symbols have the types that nvrtc.h declares; all strings and arrays outlive the calls.
        unsafe {
            let create: Symbol<Create> = self.symbol(b"nvrtcCreateProgram\0")?;
            let compile: Symbol<Compile> = self.symbol(b"nvrtcCompileProgram\0")?;
            let destroy: Symbol<Destroy> = self.symbol(b"nvrtcDestroyProgram\0")?;
            let count = headers.len() as c_int;
            if create(&mut program, body.as_ptr(), name.as_ptr(), count, bodies.as_ptr(), names.as_ptr()) != 0
            {
                return Err(format!("{}: NVRTC made no program of it", source.name));
            }
            let code = compile(program, options.len() as c_int, options.as_ptr());
            let log = self.log(program);
            destroy(&mut program);
            if code != 0 {
                return Err(format!("{}.cu: NVRTC refuses it:\n{}", source.name, log?));
            }
        }
        Ok(())
    }

    /// # Safety
    /// `program` is one of this library's.
    unsafe fn log(&self, program: Program) -> Result<String> {
        // SAFETY: the types are nvrtc.h's; the buffer has the size that the library asked for.
        unsafe {
            let size_of: Symbol<LogSize> = self.symbol(b"nvrtcGetProgramLogSize\0")?;
            let get: Symbol<Log> = self.symbol(b"nvrtcGetProgramLog\0")?;
            let mut size = 0;
            if size_of(program, &mut size) != 0 {
                return Err("NVRTC has no log".into());
            }
            let mut log = vec![0u8; size.max(1)];
            if get(program, log.as_mut_ptr().cast()) != 0 {
                return Err("NVRTC has no log".into());
            }
            Ok(String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
        }
    }

    /// # Safety
    /// `T` is the symbol's type.
    unsafe fn symbol<T>(&self, name: &[u8]) -> Result<Symbol<'_, T>> {
        // SAFETY: by the caller's promise.
        unsafe { self.library.get(name) }.map_err(|e| format!("NVRTC: {e}"))
    }
}
