//! Device memory: allocations that know their bounds, their life and which of their bytes were ever written.
//!
//! An address is `1 « 60 | number « 36 | 1 « 35 + offset`: the allocation's number sits in the high bits and the offset
//! starts in the middle of its window, so that an address that runs past either end of an allocation still names it, and
//! one shift and one comparison decide whether an access is inside. Numbers are never used twice: an address that was
//! freed stays known as freed.

mod address;
mod buffer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use address::{FIRST_BUFFER, LOCAL, PARAM, SHARED, WINDOW_SHIFT, window_base, window_of};
pub(crate) use buffer::Buffer;

use crate::error::MemoryError;
use crate::module::Module;

/// What a byte holds that was allocated and never written: an f32 of them is NaN, an index of them out of bounds.
const POISON: u8 = 0xff;

/// Asks the CPU to fetch what lies at an address that will be read soon. Any address will do: nothing is read.
#[inline(always)]
pub(crate) fn prefetch<T>(pointer: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching is a hint, which faults at no address; SSE is part of x86_64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Tells memories apart, so that a module cannot be launched in a memory it was not loaded into.
static NEXT_MEMORY: AtomicU64 = AtomicU64::new(1);

/// An allocation as [`Memory::allocation`] describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether it was freed.
    pub freed: bool,
    /// Whether it is host memory mapped by [`Memory::register_host`].
    pub host: bool,
}

/// A device's memory.
#[derive(Debug)]
pub struct Memory {
    number: u64,
    pub(crate) buffers: Vec<Buffer>,
    total: u64,
    used: u64,
    peak: u64,
    poison: u8,
    /// Host ranges mapped into the device: first host address → (bytes, device address).
    host_ranges: std::collections::BTreeMap<usize, (u64, u64)>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty memory of 64 GiB; host memory is taken only as it is allocated.
    pub fn new() -> Self {
        Self::with_total(64 << 30)
    }

    /// An empty memory that refuses to hold more than `total` bytes.
    pub fn with_total(total: u64) -> Self {
        Self {
            number: NEXT_MEMORY.fetch_add(1, Ordering::Relaxed),
            buffers: Vec::new(),
            total,
            used: 0,
            peak: 0,
            poison: POISON,
            host_ranges: std::collections::BTreeMap::new(),
        }
    }

    /// Sets the byte that new allocations are filled with (0xff unless set).
    pub fn set_poison(&mut self, value: u8) {
        self.poison = value;
    }

    /// Bytes that it may hold.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes allocated now (not counting mapped host memory).
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    /// Largest value of [`Memory::used_bytes`] so far.
    pub fn peak_bytes(&self) -> u64 {
        self.peak
    }

    /// Allocates `bytes`, filled with the poison value and known as never written. The address is a multiple of 256; its
    /// neighbourhood belongs to no other allocation. No bytes is allowed.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        let available = self.total - self.used;
        let number = FIRST_BUFFER + self.buffers.len() as u64;
        if bytes > available || bytes >= address::LARGEST || number > address::LAST_WINDOW {
            return Err(MemoryError::OutOfMemory { requested: bytes, available });
        }
        let Some(buffer) = Buffer::new(window_base(number), bytes, self.poison) else {
            return Err(MemoryError::OutOfMemory { requested: bytes, available });
        };
        self.buffers.push(buffer);
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        Ok(window_base(number))
    }

    /// Frees an allocation; its address stays known as freed.
    ///
    /// # Errors
    /// When `address` is not the start of an allocation, or it was freed before.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let buffer = self.buffer_mut(address)?;
        if buffer.base() != address {
            return Err(MemoryError::NotAllocationStart { address });
        }
        if buffer.is_host() {
            return Err(MemoryError::NotAllocationStart { address });
        }
        let bytes = buffer.bytes();
        buffer.free();
        self.used -= bytes;
        Ok(())
    }

    /// The allocation that `address` lies in or was formed from, freed or not.
    pub fn allocation(&self, address: u64) -> Option<Allocation> {
        let buffer = self.find(address)?;
        Some(Allocation {
            address: buffer.base(),
            bytes: buffer.bytes(),
            freed: buffer.is_freed(),
            host: buffer.is_host(),
        })
    }

    /// Copies device bytes to the host. Bytes never written read as the poison value.
    ///
    /// # Errors
    /// When the range does not lie in a live allocation.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let (buffer, offset) = self.range(address, into.len() as u64)?;
        buffer.read(offset, into);
        Ok(())
    }

    /// Copies host bytes to the device.
    ///
    /// # Errors
    /// When the range does not lie in a live allocation.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let (buffer, offset) = self.range_mut(address, from.len() as u64)?;
        buffer.write(offset, from);
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Errors
    /// When the range does not lie in a live allocation.
    pub fn fill(&mut self, address: u64, value: u8, bytes: u64) -> Result<(), MemoryError> {
        self.fill_pattern(address, &[value], bytes)
    }

    /// Fills `count` times `pattern.len()` bytes with copies of `pattern` (for `cuMemsetD16` and `cuMemsetD32`).
    ///
    /// # Errors
    /// When the range does not lie in a live allocation.
    pub fn fill_pattern(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = count.saturating_mul(pattern.len() as u64);
        let (buffer, offset) = self.range_mut(address, bytes)?;
        let chunk = pattern.repeat(4096 / pattern.len().max(1) + 1);
        let whole = (chunk.len() / pattern.len().max(1) * pattern.len()) as u64;
        let mut done = 0;
        while done < bytes {
            let n = whole.min(bytes - done);
            buffer.write(offset + done, &chunk[..n as usize]);
            done += n;
        }
        Ok(())
    }

    /// Copies `bytes` bytes from one device address to another; the ranges may overlap. Bytes never written stay known as such.
    ///
    /// # Errors
    /// When either range does not lie in a live allocation.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let (source, offset) = self.range(from, bytes)?;
        let mut data = vec![0; bytes as usize];
        source.read(offset, &mut data);
        let written: Vec<bool> = (0..bytes).map(|i| source.is_written(offset + i, 1)).collect();
        let (target, offset) = self.range_mut(to, bytes)?;
        target.write(offset, &data);
        for (i, _) in written.iter().enumerate().filter(|w| !*w.1) {
            target.forget(offset + i as u64);
        }
        Ok(())
    }

    /// Whether all of the range was written, by the host or by a kernel.
    ///
    /// # Errors
    /// When the range does not lie in a live allocation.
    pub fn is_initialised(&self, address: u64, bytes: u64) -> Result<bool, MemoryError> {
        let (buffer, offset) = self.range(address, bytes)?;
        Ok(buffer.is_written(offset, bytes))
    }

    /// Maps host memory into the device (`cuMemHostRegister`, `cuMemHostAlloc`) and returns its device address. Kernels may
    /// also use the host address itself, as under unified addressing. All its bytes count as written.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] when no address is left.
    ///
    /// # Safety
    /// `pointer` must be valid for reads and writes of `bytes` bytes until [`Memory::unregister_host`], and nothing else
    /// may access them while a kernel runs or a method of this memory uses them.
    pub unsafe fn register_host(&mut self, pointer: *mut u8, bytes: u64) -> Result<u64, MemoryError> {
        let number = FIRST_BUFFER + self.buffers.len() as u64;
        if number > address::LAST_WINDOW || bytes >= address::LARGEST {
            return Err(MemoryError::OutOfMemory { requested: bytes, available: 0 });
        }
        let base = window_base(number);
        self.buffers.push(Buffer::host(base, pointer, bytes));
        self.host_ranges.insert(pointer as usize, (bytes, base));
        Ok(base)
    }

    /// Ends a mapping made by [`Memory::register_host`], by its host pointer.
    ///
    /// # Errors
    /// When `pointer` is not the start of a mapping.
    pub fn unregister_host(&mut self, pointer: *const u8) -> Result<(), MemoryError> {
        let address = pointer as u64;
        let (_, base) = self
            .host_ranges
            .remove(&(pointer as usize))
            .ok_or(MemoryError::NotAllocationStart { address })?;
        self.buffer_mut(base)?.free();
        Ok(())
    }

    /// The device address of a host address inside a mapping made by [`Memory::register_host`].
    pub fn device_address_of_host(&self, pointer: *const u8) -> Option<u64> {
        let (start, &(bytes, base)) = self.host_ranges.range(..=pointer as usize).next_back()?;
        let offset = (pointer as usize - start) as u64;
        (offset < bytes.max(1)).then_some(base + offset)
    }

    /// Places a module's variables in this memory, with their initial values.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn load_module(&mut self, module: &Module) -> Result<LoadedModule, MemoryError> {
        let mut symbols = HashMap::new();
        for variable in &module.inner.variables {
            let address = self.allocate(variable.bytes)?;
            symbols.insert(variable.name.clone(), (address, variable.bytes));
        }
        for variable in &module.inner.variables {
            let (address, bytes) = symbols[&variable.name];
            // Variables without an initial value start as zeros, as in C.
            let mut data = variable.data.clone();
            data.resize(bytes as usize, 0);
            for relocation in &variable.relocations {
                if let Some((target, _)) = symbols.get(&relocation.symbol) {
                    let value = target.wrapping_add(relocation.addend).to_le_bytes();
                    if let Some(slot) = data.get_mut(relocation.offset..relocation.offset + 8) {
                        slot.copy_from_slice(&value);
                    }
                }
            }
            self.write(address, &data)?;
        }
        Ok(LoadedModule { module: module.clone(), memory: self.number, symbols })
    }

    /// Frees the variables of a module loaded here.
    ///
    /// # Errors
    /// When they were freed before.
    pub fn unload_module(&mut self, module: &LoadedModule) -> Result<(), MemoryError> {
        for (address, _) in module.symbols.values() {
            self.free(*address)?;
        }
        Ok(())
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Host ranges by host address, for kernels that use host addresses: (first, bytes, device address).
    pub(crate) fn host_ranges(&self) -> Vec<(u64, u64, u64)> {
        self.host_ranges.iter().map(|(p, (n, a))| (*p as u64, *n, *a)).collect()
    }

    fn find(&self, address: u64) -> Option<&Buffer> {
        let number = window_of(address)?;
        self.buffers.get(usize::try_from(number.checked_sub(FIRST_BUFFER)?).ok()?)
    }

    fn buffer_mut(&mut self, address: u64) -> Result<&mut Buffer, MemoryError> {
        let number = window_of(address).and_then(|n| n.checked_sub(FIRST_BUFFER));
        let buffer = number.and_then(|n| self.buffers.get_mut(n as usize));
        let buffer = buffer.ok_or(MemoryError::UnknownAddress { address })?;
        if buffer.is_freed() { Err(MemoryError::Freed { address }) } else { Ok(buffer) }
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(&Buffer, u64), MemoryError> {
        let buffer = self.find(address).ok_or(MemoryError::UnknownAddress { address })?;
        if buffer.is_freed() {
            return Err(MemoryError::Freed { address });
        }
        let offset = address.wrapping_sub(buffer.base());
        let available = buffer.bytes().saturating_sub(offset);
        if offset > buffer.bytes() || bytes > available {
            return Err(MemoryError::OutOfBounds { address, bytes, available });
        }
        Ok((buffer, offset))
    }

    fn range_mut(&mut self, address: u64, bytes: u64) -> Result<(&mut Buffer, u64), MemoryError> {
        let offset = self.range(address, bytes)?.1;
        Ok((self.buffer_mut(address)?, offset))
    }
}

/// A module whose variables live in a [`Memory`].
#[derive(Clone, Debug)]
pub struct LoadedModule {
    module: Module,
    pub(crate) memory: u64,
    symbols: HashMap<String, (u64, u64)>,
}

impl LoadedModule {
    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address and bytes of a `.global` or `.const` variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.symbols.get(name).copied()
    }
}
