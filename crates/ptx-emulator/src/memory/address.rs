//! How a 64-bit generic address is put together.

/// Bits of an address below its window's number.
pub(crate) const WINDOW_SHIFT: u32 = 36;
/// Set in each device address, so that it never equals an address of the host.
const TAG: u64 = 1 << 60;
/// Where offset 0 lies in a window: the middle, so that negative offsets stay in it.
const MIDDLE: u64 = 1 << (WINDOW_SHIFT - 1);
/// An allocation has fewer bytes than this.
pub(crate) const LARGEST: u64 = MIDDLE;
/// Largest number that a window can have.
pub(crate) const LAST_WINDOW: u64 = (1 << (60 - WINDOW_SHIFT)) - 1;

/// Window of shared memory: each block sees its own.
pub(crate) const SHARED: u64 = 1;
/// Window of local memory: each thread sees its own.
pub(crate) const LOCAL: u64 = 2;
/// Window of kernel parameters.
pub(crate) const PARAM: u64 = 3;
/// First window that is an allocation.
pub(crate) const FIRST_BUFFER: u64 = 8;

/// Address of offset 0 in a window.
pub(crate) const fn window_base(number: u64) -> u64 {
    TAG | (number << WINDOW_SHIFT) | MIDDLE
}

/// The window that an address lies in; `None` for addresses that are none of ours.
pub(crate) const fn window_of(address: u64) -> Option<u64> {
    if address >> 60 == 1 { Some((address & (TAG - 1)) >> WINDOW_SHIFT) } else { None }
}
