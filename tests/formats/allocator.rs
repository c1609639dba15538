//! Counts the memory that a thread takes, so that tests can hold readers to their limit.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

struct Counting;

thread_local! {
    /// Bytes held, and the most that were.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn add(bytes: isize) {
    // A thread that is being taken down has no counter any more; nobody measures it.
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every call is handed on to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are both there while the contents move.
        add(size as isize);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        add(-(if moved.is_null() { size } else { layout.size() } as isize));
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What work took.
pub struct Taken {
    /// Most bytes held at a time, beyond those held before.
    pub bytes: usize,
    /// Time on a processor: other work on the machine does not count.
    pub time: Duration,
}

/// What this thread has had of a processor so far.
fn processor_time() -> Duration {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Does work on this thread and measures it.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let started = processor_time();
    let before = HELD.get().0;
    HELD.set((before, before));
    let result = work();
    let bytes = (HELD.get().1 - before) as usize;
    let time = processor_time() - started;
    (result, Taken { bytes, time })
}

#[test]
fn the_counter_counts() {
    let (_, taken) = measured(|| {
        let mut v = vec![0u8; 1000];
        v.reserve_exact(4000);
        drop(v);
        vec![1u8; 3000]
    });
    assert!((6000..6200).contains(&taken.bytes), "{}", taken.bytes);
}
