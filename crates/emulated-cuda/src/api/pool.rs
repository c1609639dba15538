//! Memory pools. A pool only accounts: it never runs out before the device does, and keeps nothing that was freed.

use std::ffi::{c_int, c_uint, c_void};

use crate::driver::{Handle, Pool, call, put, release};
use crate::status::{CUresult, Failure};

/// Attributes by `CUmemPool_attribute`'s numbers.
const REUSE: std::ops::RangeInclusive<c_uint> = 1..=3;
const RELEASE_THRESHOLD: c_uint = 4;
const RESERVED_CURRENT: c_uint = 5;
const RESERVED_HIGH: c_uint = 6;
const USED_CURRENT: c_uint = 7;
const USED_HIGH: c_uint = 8;

fn get(name: &'static str, pool: *mut Handle, device: c_int, default: bool) -> CUresult {
    call(name, |driver| {
        let mut state = driver.state();
        state.device(device)?;
        if state.default_pool == 0 {
            state.default_pool = state.new_handle();
            state.current_pool = state.default_pool;
            let handle = state.default_pool;
            state.pools.insert(handle, Pool::default());
        }
        let found = if default { state.default_pool } else { state.current_pool };
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(pool, found) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: c_int) -> CUresult {
    get("cuDeviceGetDefaultMemPool", pool, device, true)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut Handle, device: c_int) -> CUresult {
    get("cuDeviceGetMemPool", pool, device, false)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> CUresult {
    call("cuDeviceSetMemPool", |driver| {
        let mut state = driver.state();
        state.device(device)?;
        state.pool(pool)?;
        state.current_pool = pool;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolCreate(pool: *mut Handle, properties: *const c_void) -> CUresult {
    call("cuMemPoolCreate", |driver| {
        if properties.is_null() || pool.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        // The properties (pinned device memory of device 0, no export) are the only ones that there can be here.
        let mut state = driver.state();
        let context = crate::driver::current();
        let handle = state.new_handle();
        state.pools.insert(handle, Pool { context, ..Pool::default() });
        // SAFETY: a pointer for the result, by the function's documentation.
        unsafe { put(pool, handle) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: Handle) -> CUresult {
    release("cuMemPoolDestroy", |driver| {
        let mut state = driver.state();
        state.pool(pool)?;
        if pool == state.default_pool {
            let words = "the default pool cannot be destroyed";
            return Err(Failure::new(CUresult::ERROR_INVALID_VALUE, words));
        }
        // What was allocated from it stays until it is freed, as the driver's documentation has it.
        state.pools.remove(&pool);
        if state.current_pool == pool {
            state.current_pool = state.default_pool;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: Handle, _keep: usize) -> CUresult {
    call("cuMemPoolTrimTo", |driver| driver.state().pool(pool).map(drop))
}

fn unknown(attribute: c_uint) -> Failure {
    Failure::new(CUresult::ERROR_INVALID_VALUE, format!("memory pool attribute {attribute}"))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, value: *mut c_void) -> CUresult {
    call("cuMemPoolGetAttribute", |driver| {
        let mut state = driver.state();
        let pool = state.pool(pool)?;
        let set = pool.attributes.get(&attribute).copied();
        let found = match attribute {
            a if REUSE.contains(&a) => set.unwrap_or(1),
            RELEASE_THRESHOLD => set.unwrap_or(0),
            RESERVED_CURRENT | USED_CURRENT => pool.used,
            RESERVED_HIGH | USED_HIGH => pool.used_high,
            _ => return Err(unknown(attribute)),
        };
        // SAFETY: a pointer to an int for the reuse attributes and to 64 bits for the others, by the documentation.
        unsafe {
            if REUSE.contains(&attribute) {
                put(value.cast::<c_int>(), found as c_int)
            } else {
                put(value.cast::<u64>(), found)
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: Handle,
    attribute: c_uint,
    value: *const c_void,
) -> CUresult {
    call("cuMemPoolSetAttribute", |driver| {
        if value.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE.into());
        }
        let mut state = driver.state();
        let pool = state.pool(pool)?;
        // SAFETY: as for `cuMemPoolGetAttribute`.
        let new = unsafe {
            if REUSE.contains(&attribute) {
                u64::from(value.cast::<c_int>().read() != 0)
            } else {
                value.cast::<u64>().read()
            }
        };
        match attribute {
            a if REUSE.contains(&a) || a == RELEASE_THRESHOLD => {
                pool.attributes.insert(attribute, new);
                Ok(())
            }
            // The high marks can only be reset.
            RESERVED_HIGH | USED_HIGH if new == 0 => {
                pool.used_high = pool.used;
                Ok(())
            }
            _ => Err(unknown(attribute)),
        }
    })
}
