//! Counts what each run takes: at most 64 MiB + 3 × the input, and a second per 10 MB.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    PEAK.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are both there while the contents move.
        more(size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        NOW.fetch_sub(if moved.is_null() { size } else { layout.size() }, Relaxed);
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a reader on bytes and holds it to the limits.
pub fn within_limits(bytes: &[u8], reader: fn(&[u8])) {
    let started = processor_time();
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    reader(bytes);
    let taken = PEAK.load(Relaxed) - before;
    let time = processor_time() - started;
    // The input itself counts: the readers of files hold it.
    let allowed = (64 << 20) + 2 * bytes.len();
    assert!(taken <= allowed, "{taken} bytes were taken, {allowed} are allowed");
    assert!(time <= Duration::from_secs(1), "{time:?} for {} bytes", bytes.len());
}

/// What this thread has had of a processor so far: other work on the machine does not count.
fn processor_time() -> Duration {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
