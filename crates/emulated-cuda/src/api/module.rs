//! Modules, functions, launches, occupancy.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_emulator::KernelInfo;

use crate::api::c_text;
use crate::driver::{Driver, Function, Handle, Module, State, call, put, release};
use crate::gpu;
use crate::occupancy;
use crate::queue::{Launch, Work};
use crate::status::{CUresult, Failure, Result};
use crate::work::memory_failure;

impl Driver {
    /// Reads PTX and places its variables in memory.
    fn load(&self, source: &str, name: &str) -> Result<Handle> {
        let mut state = self.state();
        let context = state.context()?;
        state.refuse_while_capturing(context, "loading a module")?;
        let settings = state.settings.clone();
        drop(state);
        let module = ptx_emulator::Module::parse(source, name)
            .map_err(|e| Failure::new(CUresult::ERROR_INVALID_PTX, e.to_string()))?;
        for kernel in module.kernels() {
            fits(kernel, &settings)?;
        }
        let loaded = self.memory().load_module(&module).map_err(|e| memory_failure(&e))?;
        let mut state = self.state();
        let handle = state.new_handle();
        let module = Module { context, loaded: Arc::new(loaded), functions: Default::default() };
        state.modules.insert(handle, module);
        Ok(handle)
    }

    /// Gives back a module, its functions and its variables.
    pub fn unload(&self, module: Handle) -> Result {
        let mut state = self.state();
        let context = state.module(module)?.context;
        // Launches of its kernels may be queued.
        let mut state = self.wait_for_context(state, context);
        let broken = state.check(context);
        state.functions.retain(|_, f| f.module != module);
        let Some(module) = state.modules.remove(&module) else { return Ok(()) };
        drop(state);
        self.memory().unload_module(&module.loaded).map_err(|e| memory_failure(&e))?;
        broken
    }
}

/// Whether the driver and the GPU take a kernel's PTX.
fn fits(kernel: &KernelInfo, settings: &crate::settings::Settings) -> Result {
    let newest = gpu::newest_ptx(settings.driver_version);
    if kernel.ptx_version > newest {
        let (major, minor) = kernel.ptx_version;
        let words = format!("PTX {major}.{minor}, the driver knows up to {}.{}", newest.0, newest.1);
        return Err(Failure::new(CUresult::ERROR_UNSUPPORTED_PTX_VERSION, words));
    }
    let (major, minor) = settings.gpu.compute_capability;
    let own = major * 10 + minor;
    let target = kernel.target.strip_prefix("sm_").unwrap_or(&kernel.target);
    // A letter behind the number ties code to this one architecture, or to its family.
    let digits = target.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let tied = digits.len() < target.len();
    let fits = digits.parse::<u32>().is_ok_and(|wanted| if tied { wanted == own } else { wanted <= own });
    if fits {
        return Ok(());
    }
    let words = format!("the PTX is for sm_{target}, the GPU is sm_{own}");
    Err(Failure::new(CUresult::ERROR_NO_BINARY_FOR_GPU, words))
}

/// The PTX text that an image is.
///
/// # Safety
/// `image` is null or points to a text that ends with NUL, or to a binary that starts with its magic number.
unsafe fn image_text<'a>(image: *const c_void) -> Result<&'a str> {
    if !image.is_null() {
        // SAFETY: an image has more bytes than a magic number; a shorter text's NUL is met first.
        let starts =
            |magic: &[u8]| magic.iter().enumerate().all(|(i, b)| unsafe { *image.cast::<u8>().add(i) } == *b);
        if starts(b"\x7fELF") || starts(&[0x50, 0xed, 0x55, 0xba]) {
            let words = "machine code cannot be executed here: load PTX";
            return Err(Failure::new(CUresult::ERROR_INVALID_IMAGE, words));
        }
    }
    // SAFETY: a text, by this function's contract.
    unsafe { c_text(image.cast(), "a module's image") }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> CUresult {
    call("cuModuleLoadData", |driver| {
        // SAFETY: an image and a pointer for the result, by the function's documentation.
        unsafe { put(module, driver.load(image_text(image)?, "image")?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> CUresult {
    call("cuModuleLoad", |driver| {
        // SAFETY: a path, by the function's documentation.
        let path = unsafe { c_text(path, "a module's path")? };
        let source = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(CUresult::ERROR_FILE_NOT_FOUND, format!("{path}: {e}")))?;
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(module, driver.load(&source, path)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    count: c_uint,
    options: *const c_uint,
    values: *const *mut c_void,
) -> CUresult {
    const ERROR_LOG: c_uint = 5;
    const ERROR_LOG_BYTES: c_uint = 6;
    call("cuModuleLoadDataEx", |driver| {
        // SAFETY: an image and a pointer for the result, by the function's documentation.
        let loaded = unsafe { image_text(image) }.and_then(|text| driver.load(text, "image"));
        let option = |wanted| {
            // SAFETY: `count` options and as many values, by the function's documentation.
            (0..count as usize)
                .find(|i| unsafe { *options.add(*i) } == wanted)
                .map(|i| unsafe { *values.add(i) })
        };
        if let (Err(failure), Some(log), Some(bytes)) = (&loaded, option(ERROR_LOG), option(ERROR_LOG_BYTES))
        {
            let text = failure.detail.clone().unwrap_or_default();
            let length = text.len().min((bytes as usize).saturating_sub(1));
            if !log.is_null() && bytes as usize > 0 {
                // SAFETY: the program gives a log of that many bytes.
                unsafe {
                    std::ptr::copy_nonoverlapping(text.as_ptr(), log.cast::<u8>(), length);
                    *log.cast::<u8>().add(length) = 0;
                }
            }
        }
        // SAFETY: as above.
        unsafe { put(module, loaded?) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    release("cuModuleUnload", |driver| driver.unload(module))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    call("cuModuleGetFunction", |driver| {
        // SAFETY: a name, by the function's documentation.
        let name = unsafe { c_text(name, "a function's name")? };
        let mut state = driver.state();
        let entry = state.module(module)?;
        let context = entry.context;
        let known = entry.functions.get(name).copied();
        let parsed = entry.loaded.module().clone();
        state.check(context)?;
        let Some(kernel) = parsed.kernel(name) else {
            let names: Vec<&str> = parsed.kernels().iter().map(|k| k.name.as_str()).collect();
            let words = format!("no kernel `{name}`; the module has {}", names.join(", "));
            return Err(Failure::new(CUresult::ERROR_NOT_FOUND, words));
        };
        let handle = known.unwrap_or_else(|| {
            let handle = state.new_handle();
            let usual = state.settings.gpu.shared_per_block_default.saturating_sub(kernel.shared_bytes);
            let new = Function { module, name: name.into(), most_dynamic_shared: usual, carveout: -1 };
            state.functions.insert(handle, new);
            handle
        });
        state.module(module)?.functions.insert(name.into(), handle);
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(function, handle) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    call("cuModuleGetGlobal_v2", |driver| {
        // SAFETY: a name, by the function's documentation.
        let name = unsafe { c_text(name, "a variable's name")? };
        let mut state = driver.state();
        let context = state.module(module)?.context;
        state.check(context)?;
        let Some((start, length)) = state.module(module)?.loaded.variable(name) else {
            return Err(Failure::new(CUresult::ERROR_NOT_FOUND, format!("no variable `{name}`")));
        };
        // SAFETY: pointers for the results, each of which may be null by the function's documentation.
        unsafe {
            if !address.is_null() {
                put(address, start)?;
            }
            if !bytes.is_null() {
                put(bytes, length as usize)?;
            }
        }
        Ok(())
    })
}

/// A function's kernel, with what was set for it.
fn kernel(state: &mut State, function: Handle) -> Result<(KernelInfo, u32, i32)> {
    let (entry, module) = state.function(function)?;
    let kernel = module.loaded.module().kernel(&entry.name).ok_or(CUresult::ERROR_NOT_FOUND)?;
    Ok((kernel.clone(), entry.most_dynamic_shared, entry.carveout))
}

const DYNAMIC_SHARED: c_uint = 8;
const CARVEOUT: c_uint = 9;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> CUresult {
    call("cuFuncGetAttribute", |driver| {
        let mut state = driver.state();
        let (kernel, most_dynamic, carveout) = kernel(&mut state, function)?;
        let gpu = &state.settings.gpu;
        let version = |(major, minor): (u32, u32)| major * 10 + minor;
        let found = match attribute {
            0 => occupancy::max_threads(gpu, &kernel) as c_int,
            1 => kernel.shared_bytes as c_int,
            3 => kernel.local_bytes as c_int,
            4 => occupancy::registers(gpu, &kernel) as c_int,
            5 => version(kernel.ptx_version) as c_int,
            6 => version(gpu.compute_capability) as c_int,
            DYNAMIC_SHARED => most_dynamic as c_int,
            CARVEOUT => carveout,
            // Constant memory, cache mode, clusters.
            2 | 7 | 10..=15 => 0,
            _ => {
                return Err(Failure::new(
                    CUresult::ERROR_INVALID_VALUE,
                    format!("function attribute {attribute}"),
                ));
            }
        };
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(value, found) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> CUresult {
    call("cuFuncSetAttribute", |driver| {
        let mut state = driver.state();
        let (kernel, _, _) = kernel(&mut state, function)?;
        let most = state.settings.gpu.shared_per_block;
        let entry = state.function(function)?.0;
        match (attribute, u32::try_from(value)) {
            (DYNAMIC_SHARED, Ok(bytes)) if bytes.saturating_add(kernel.shared_bytes) <= most => {
                entry.most_dynamic_shared = bytes;
            }
            (DYNAMIC_SHARED, _) => {
                let words = format!(
                    "{value} bytes of dynamic shared memory for {}: with its own {} bytes a block has at most {most}",
                    kernel.name, kernel.shared_bytes
                );
                return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
            }
            (CARVEOUT, _) if (-1..=100).contains(&value) => entry.carveout = value,
            _ => {
                let words = format!("function attribute {attribute} cannot be {value}");
                return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: Handle, config: c_uint) -> CUresult {
    call("cuFuncSetCacheConfig", |driver| {
        driver.state().function(function)?;
        if config > 3 { Err(CUresult::ERROR_INVALID_VALUE.into()) } else { Ok(()) }
    })
}

/// A launch's arguments, laid out as the kernel wants them.
///
/// # Safety
/// `values` has a valid pointer to each parameter, or `extra` describes a buffer, as `cuLaunchKernel` demands.
unsafe fn parameters(
    kernel: &KernelInfo,
    values: *const *const c_void,
    extra: *const *const c_void,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; kernel.parameter_bytes];
    if kernel.parameters.is_empty() {
        return Ok(bytes);
    }
    let wrong =
        |words: &str| Failure::new(CUresult::ERROR_INVALID_VALUE, format!("{}: {words}", kernel.name));
    if !values.is_null() {
        for (i, p) in kernel.parameters.iter().enumerate() {
            // SAFETY: one pointer for each parameter, by this function's contract.
            let value = unsafe { *values.add(i) };
            if value.is_null() {
                return Err(wrong(&format!("argument {i} is a null pointer")));
            }
            // SAFETY: it points to a value of the parameter's size, by this function's contract.
            let value = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), p.size) };
            bytes[p.offset..p.offset + p.size].copy_from_slice(value);
        }
        return Ok(bytes);
    }
    if extra.is_null() {
        return Err(wrong("no arguments given"));
    }
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), 0);
    let mut at = 0;
    loop {
        // SAFETY: `extra` is a list of names and values that ends with a null name.
        let (name, value) = unsafe { (*extra.add(at) as usize, *extra.add(at + 1)) };
        match name {
            0 => break,
            1 => buffer = value.cast(),
            // SAFETY: the value of this name points to the buffer's size.
            2 => size = unsafe { *value.cast::<usize>() },
            _ => return Err(wrong("an unknown name in `extra`")),
        }
        at += 2;
    }
    if buffer.is_null() || size != bytes.len() {
        return Err(wrong(&format!("{size} bytes of arguments, {} wanted", bytes.len())));
    }
    // SAFETY: the program gives a buffer of that size.
    bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(buffer, size) });
    Ok(bytes)
}

/// Checks a launch against the limits of kernel and GPU.
fn check_launch(state: &State, kernel: &KernelInfo, launch: &Launch, most_dynamic: u32) -> Result {
    let gpu = &state.settings.gpu;
    let wrong = |code, words: String| Err(Failure::new(code, format!("kernel {}: {words}", kernel.name)));
    let [x, y, z] = launch.block;
    let threads = u64::from(x) * u64::from(y) * u64::from(z);
    if launch.grid.contains(&0) || launch.block.contains(&0) {
        let words = format!("grid {:?}, block {:?}: no side may be 0", launch.grid, launch.block);
        return wrong(CUresult::ERROR_INVALID_VALUE, words);
    }
    if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65535 || launch.grid[2] > 65535 {
        return wrong(
            CUresult::ERROR_INVALID_VALUE,
            format!("grid {:?} exceeds 2147483647, 65535, 65535", launch.grid),
        );
    }
    if threads > u64::from(gpu.threads_per_block) || z > 64 {
        let words = format!("block {:?} exceeds {} threads, or 64 in z", launch.block, gpu.threads_per_block);
        return wrong(CUresult::ERROR_INVALID_VALUE, words);
    }
    if threads > u64::from(occupancy::max_threads(gpu, kernel)) {
        let words = format!(
            "{threads} threads a block, its launch bounds allow {}",
            occupancy::max_threads(gpu, kernel)
        );
        return wrong(CUresult::ERROR_LAUNCH_OUT_OF_RESOURCES, words);
    }
    if kernel.required_threads.is_some_and(|r| r != launch.block) {
        let words = format!("block {:?}, it requires {:?}", launch.block, kernel.required_threads);
        return wrong(CUresult::ERROR_INVALID_VALUE, words);
    }
    if launch.dynamic_shared > most_dynamic {
        let words = format!(
            "{} bytes of dynamic shared memory, {most_dynamic} are allowed: raise \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES (with the kernel's own {} bytes up to {})",
            launch.dynamic_shared, kernel.shared_bytes, gpu.shared_per_block
        );
        return wrong(CUresult::ERROR_INVALID_VALUE, words);
    }
    if launch.cooperative {
        let resident =
            occupancy::resident_blocks(gpu, kernel, threads as u32, u64::from(launch.dynamic_shared));
        let most = u64::from(resident) * u64::from(gpu.multiprocessors);
        let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
        if blocks > most {
            let words = format!("{blocks} blocks, {most} are resident at once");
            return wrong(CUresult::ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, words);
        }
    }
    Ok(())
}

unsafe fn launch(
    driver: &Driver,
    function: Handle,
    shape: [[u32; 3]; 2],
    dynamic_shared: u32,
    stream: Handle,
    cooperative: bool,
    arguments: [*const *const c_void; 2],
) -> Result {
    let mut state = driver.state();
    let stream = state.resolve_stream(stream)?;
    let (kernel, most_dynamic, _) = kernel(&mut state, function)?;
    let module = Arc::clone(&state.function(function)?.1.loaded);
    let [grid, block] = shape;
    // SAFETY: as the program calls it, which is this function's contract.
    let parameters = unsafe { parameters(&kernel, arguments[0], arguments[1])? };
    let name = kernel.name.clone();
    let launch = Launch { module, kernel: name, grid, block, dynamic_shared, parameters, cooperative };
    check_launch(&state, &kernel, &launch, most_dynamic)?;
    state.queue(stream, Work::Launch(Box::new(launch)), &[]).map(drop)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> CUresult {
    call("cuLaunchKernel", |driver| {
        let shape = [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]];
        // SAFETY: arguments as the function's documentation demands.
        unsafe { launch(driver, function, shape, dynamic_shared, stream, false, [parameters, extra]) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    parameters: *const *const c_void,
) -> CUresult {
    call("cuLaunchCooperativeKernel", |driver| {
        let shape = [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]];
        let arguments = [parameters, std::ptr::null()];
        // SAFETY: arguments as the function's documentation demands.
        unsafe { launch(driver, function, shape, dynamic_shared, stream, true, arguments) }
    })
}

fn active_blocks(
    name: &'static str,
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        let (kernel, _, _) = kernel(&mut state, function)?;
        let threads = u32::try_from(threads).ok().filter(|t| *t > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        let resident = occupancy::resident_blocks(&state.settings.gpu, &kernel, threads, dynamic as u64);
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(blocks, resident as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
) -> CUresult {
    active_blocks("cuOccupancyMaxActiveBlocksPerMultiprocessor", blocks, function, threads, dynamic)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> CUresult {
    active_blocks("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", blocks, function, threads, dynamic)
}

/// The program's function from a block's threads to its dynamic shared memory.
type SharedOfBlock = unsafe extern "C" fn(c_int) -> usize;

fn best_block(
    name: &'static str,
    results: [*mut c_int; 2],
    function: Handle,
    of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        let (kernel, _, _) = kernel(&mut state, function)?;
        let gpu = state.settings.gpu.clone();
        // The program's function may call the driver.
        drop(state);
        let shared = |threads: u32| match of_block {
            // SAFETY: the program gave the function for this.
            Some(of_block) => unsafe { of_block(threads as c_int) as u64 },
            None => dynamic as u64,
        };
        let limit = u32::try_from(limit).map_err(|_| CUresult::ERROR_INVALID_VALUE)?;
        let (grid, block) = occupancy::best_block(&gpu, &kernel, limit, shared);
        // SAFETY: pointers for the results, by the function's documentation.
        unsafe {
            put(results[0], grid as c_int)?;
            put(results[1], block as c_int)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut c_int,
    block: *mut c_int,
    function: Handle,
    of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> CUresult {
    best_block("cuOccupancyMaxPotentialBlockSize", [grid, block], function, of_block, dynamic, limit)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut c_int,
    block: *mut c_int,
    function: Handle,
    of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
    _flags: c_uint,
) -> CUresult {
    best_block("cuOccupancyMaxPotentialBlockSizeWithFlags", [grid, block], function, of_block, dynamic, limit)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: Handle,
    blocks: c_int,
    threads: c_int,
) -> CUresult {
    call("cuOccupancyAvailableDynamicSMemPerBlock", |driver| {
        let mut state = driver.state();
        let (kernel, _, _) = kernel(&mut state, function)?;
        let gpu = &state.settings.gpu;
        let blocks = u32::try_from(blocks).ok().filter(|b| *b > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        let threads = u32::try_from(threads).ok().filter(|t| *t > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        if occupancy::resident_blocks(gpu, &kernel, threads, 0) < blocks {
            let words = format!("{blocks} blocks of {threads} threads are not resident together");
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        }
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(bytes, occupancy::dynamic_shared(gpu, &kernel, blocks) as usize) }
    })
}
