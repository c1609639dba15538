//! Functions that are not modelled, and answer so.
//!
//! cudarc panics where a symbol is missing; a symbol that refuses lets the program handle it as an error.

use crate::driver::call;
use crate::status::{CUresult, Failure};

macro_rules! refuse {
    ($($name:ident: $why:literal;)*) => {
        /// Names of the functions that refuse.
        pub(crate) const REFUSED: &[&str] = &[$(stringify!($name)),*];
        $(
            // The arguments are not looked at, so none are declared: the caller clears up after itself under both C
            // calling conventions of 64-bit Linux.
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> CUresult {
                call(stringify!($name), |_| {
                    Err(Failure::new(CUresult::ERROR_NOT_SUPPORTED, concat!("the emulated driver has no ", $why)))
                })
            }
        )*
    };
}

refuse! {
    cuMemAllocManaged: "managed memory";
    cuMemAdvise_v2: "managed memory";
    cuMemPrefetchAsync_v2: "managed memory";
    cuStreamAttachMemAsync: "managed memory";
    cuImportExternalMemory: "external memory";
    cuExternalMemoryGetMappedBuffer: "external memory";
    cuDestroyExternalMemory: "external memory";
    cuOccupancyMaxActiveClusters: "thread block clusters";
    cuOccupancyMaxPotentialClusterSize: "thread block clusters";
}
