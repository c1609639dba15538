//! Names the shared library as the driver's: a loader that is then asked for `libcuda.so` finds this one loaded already.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // cudarc asks for `libcuda.so` first and for `libcuda.so.1` last, so the first name wins over a real driver.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    // A worker thread runs this library's code until the process ends: it must never be unmapped.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
