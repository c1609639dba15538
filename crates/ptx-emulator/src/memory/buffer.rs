//! One allocation: its bytes, and a bit for each byte that says whether it was ever written.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Bytes of one allocation. Kernels access them through [`Buffer::pointer`], as relaxed atomics.
#[derive(Debug)]
pub(crate) struct Buffer {
    base: u64,
    bytes: u64,
    pointer: *mut u8,
    /// Owner of the bytes, unless they are the host's.
    data: Box<[AtomicU64]>,
    /// One bit a byte; empty where all bytes count as written.
    written: Box<[AtomicU8]>,
    /// All bytes are written: `written` need not be asked.
    complete: AtomicBool,
    /// Bytes were written since the last [`Buffer::refresh`].
    touched: AtomicBool,
    freed: bool,
    host: bool,
}

// SAFETY: the bytes behind `pointer` are either owned by `data`, which is made of atomics, or the host's, for which
// `Memory::register_host` demands that nobody else uses them meanwhile. Shared accesses go through atomics.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` bytes of `poison`; `None` when the host has no room.
    pub fn new(base: u64, bytes: u64, poison: u8) -> Option<Self> {
        let words = bytes.div_ceil(8) as usize;
        let mut data: Vec<AtomicU64> = Vec::new();
        data.try_reserve_exact(words).ok()?;
        data.resize_with(words, || AtomicU64::new(u64::from_le_bytes([poison; 8])));
        let data = data.into_boxed_slice();
        let mut written: Vec<AtomicU8> = Vec::new();
        written.try_reserve_exact(words).ok()?;
        written.resize_with(words, AtomicU8::default);
        let pointer = data.as_ptr().cast::<u8>().cast_mut();
        let complete = AtomicBool::new(bytes == 0);
        let written = written.into_boxed_slice();
        let touched = AtomicBool::new(false);
        Some(Self { base, bytes, pointer, data, written, complete, touched, freed: false, host: false })
    }

    /// The host's own bytes.
    pub fn host(base: u64, pointer: *mut u8, bytes: u64) -> Self {
        let complete = AtomicBool::new(true);
        Self {
            base,
            bytes,
            pointer,
            data: Box::default(),
            written: Box::default(),
            complete,
            touched: AtomicBool::new(false),
            freed: false,
            host: true,
        }
    }

    /// Gives the bytes back; the range stays known.
    pub fn free(&mut self) {
        self.freed = true;
        self.data = Box::default();
        self.written = Box::default();
        self.pointer = std::ptr::null_mut();
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_freed(&self) -> bool {
        self.freed
    }

    pub fn is_host(&self) -> bool {
        self.host
    }

    /// First byte; null when freed.
    pub fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    /// One bit a byte; meaningless where [`Buffer::is_complete`].
    pub fn written_bits(&self) -> &[AtomicU8] {
        &self.written
    }

    /// Whether all bytes are known to be written.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// Set by whoever writes bytes.
    pub fn touched(&self) -> &AtomicBool {
        &self.touched
    }

    /// Looks whether all bytes are written by now; done before a launch, so that most loads need not ask.
    pub fn refresh(&self) {
        let changed = self.touched.swap(false, Ordering::Relaxed);
        if changed && !self.freed && !self.is_complete() && self.is_written(0, self.bytes) {
            self.complete.store(true, Ordering::Relaxed);
        }
    }

    /// Copies bytes out; the range must lie inside.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        assert!(offset + into.len() as u64 <= self.bytes && !self.freed, "range was checked by Memory");
        // SAFETY: the range lies inside the live allocation, `into` is other memory.
        unsafe {
            std::ptr::copy_nonoverlapping(self.pointer.add(offset as usize), into.as_mut_ptr(), into.len());
        }
    }

    /// Copies bytes in; the range must lie inside.
    pub fn write(&mut self, offset: u64, from: &[u8]) {
        assert!(offset + from.len() as u64 <= self.bytes && !self.freed, "range was checked by Memory");
        // SAFETY: the range lies inside the live allocation, which is borrowed for writing.
        unsafe {
            std::ptr::copy(from.as_ptr(), self.pointer.add(offset as usize), from.len());
        }
        if self.is_complete() {
            return;
        }
        *self.touched.get_mut() = true;
        let end = offset + from.len() as u64;
        let mut at = offset;
        while at < end {
            let n = (8 - at % 8).min(end - at);
            let bits = ((0xff_u32 >> (8 - n)) << (at % 8)) as u8;
            *self.written[(at / 8) as usize].get_mut() |= bits;
            at += n;
        }
        if from.len() as u64 == self.bytes {
            *self.complete.get_mut() = true;
        }
    }

    /// Whether all bytes of a range were written.
    pub fn is_written(&self, offset: u64, bytes: u64) -> bool {
        if self.is_complete() {
            return true;
        }
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let n = (8 - at % 8).min(end - at);
            let bits = ((0xff_u32 >> (8 - n)) << (at % 8)) as u8;
            if self.written[(at / 8) as usize].load(Ordering::Relaxed) & bits != bits {
                return false;
            }
            at += n;
        }
        true
    }

    /// Makes one byte count as never written.
    pub fn forget(&mut self, offset: u64) {
        if self.host {
            return;
        }
        if self.is_complete() {
            for bits in &mut self.written {
                *bits.get_mut() = 0xff;
            }
            *self.complete.get_mut() = false;
        }
        *self.written[(offset / 8) as usize].get_mut() &= !(1 << (offset % 8));
    }
}
