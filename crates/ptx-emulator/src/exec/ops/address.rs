//! From addresses in registers to bytes: which allocation, inside or not, aligned or not.

use super::super::cx::{Cx, Row, Row64, lanes};
use crate::code::{Inst, NONE};
use crate::finding::{FindingKind, Space};
use crate::memory::{LOCAL, PARAM, SHARED, WINDOW_SHIFT, window_base, window_of};

/// log₂ of an element's bytes, in the low bits of an access's flags.
pub(crate) const SIZE: u16 = 7;
/// The address register has 64 bits.
pub(crate) const WIDE: u16 = 8;
/// Results (or values to store) have 64 bits.
pub(crate) const LONG: u16 = 16;
/// Loaded values are sign-extended.
pub(crate) const SIGNED: u16 = 32;
/// Volatile, relaxed, acquire, release: meant to be seen by others, no race.
pub(crate) const SYNC: u16 = 64;
/// What is found at the address is looked at: a load with [`SYNC`], or an atomic whose result is used.
pub(crate) const OBSERVES: u16 = 1 << 7;
/// With [`SYNC`], and not only volatile: in shared memory, too, no race.
pub(crate) const STRONG: u16 = 1 << 8;
/// Is a fence as well (`.release`, `.acq_rel`, `.sc`).
pub(crate) const RELEASES: u16 = 1 << 10;

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Window {
    Global,
    Shared,
    Local,
    Param,
}

impl Window {
    #[inline(always)]
    pub fn of(address: u64) -> Self {
        match window_of(address) {
            Some(SHARED) => Self::Shared,
            Some(LOCAL) => Self::Local,
            Some(PARAM) => Self::Param,
            _ => Self::Global,
        }
    }
}

/// Addresses of all lanes: register plus offset.
///
/// # Safety
/// As for handlers.
#[inline(always)]
pub(crate) unsafe fn addresses(cx: &Cx<'_>, i: &Inst) -> Row64 {
    let mut r = [i.imm as u64; 32];
    // SAFETY: by the caller's promise.
    unsafe {
        if i.a == NONE {
        } else if i.flags & WIDE != 0 {
            let a = cx.get::<u64>(i.a);
            for l in 0..32 {
                r[l] = a[l].wrapping_add(i.imm as u64);
            }
        } else {
            let a = cx.get::<u32>(i.a);
            for l in 0..32 {
                r[l] = u64::from(a[l].wrapping_add(i.imm as u32));
            }
        }
    }
    r
}

/// Offsets in a window of less than 4 GiB; what does not fit becomes the largest.
///
/// # Safety
/// As for handlers.
#[inline(always)]
pub(crate) unsafe fn offsets(cx: &Cx<'_>, i: &Inst) -> Row {
    let mut r = [i.imm as u32; 32];
    // SAFETY: by the caller's promise.
    unsafe {
        if i.a == NONE {
        } else if i.flags & WIDE != 0 {
            let a = cx.get::<u64>(i.a);
            for l in 0..32 {
                let x = a[l].wrapping_add(i.imm as u64);
                r[l] = if x >> 32 == 0 { x as u32 } else { !0 };
            }
        } else {
            let a = cx.get::<u32>(i.a);
            for l in 0..32 {
                r[l] = a[l].wrapping_add(i.imm as u32);
            }
        }
    }
    r
}

/// Offsets in a window from generic addresses.
pub(crate) fn offsets_in(addresses: &Row64, window: u64) -> Row {
    let base = window_base(window);
    addresses.map(|a| u32::try_from(a.wrapping_sub(base)).unwrap_or(!0))
}

/// Calls `f` for each window that lanes of `cx.mask` address, with those lanes, which are also `cx.mask` meanwhile.
#[inline(always)]
pub(crate) fn by_window(cx: &mut Cx<'_>, addresses: &Row64, mut f: impl FnMut(&mut Cx<'_>, Window)) {
    let all = cx.mask;
    let mut rest = all;
    while rest != 0 {
        let window = Window::of(addresses[rest.trailing_zeros() as usize]);
        let mut here = 0;
        for l in lanes(rest) {
            here |= u32::from(Window::of(addresses[l]) == window) << l;
        }
        cx.mask = here;
        f(cx, window);
        rest &= !here;
    }
    cx.mask = all;
}

/// Offsets of lanes in one allocation.
pub(crate) struct Group {
    pub view: usize,
    pub mask: u32,
    pub offsets: Row64,
}

/// Lanes' addresses resolved to allocations; calls `f` for each. Faulty lanes are reported and left out.
#[inline(always)]
pub(crate) fn by_allocation(
    cx: &mut Cx<'_>,
    addresses: &Row64,
    bytes: u32,
    mut f: impl FnMut(&mut Cx<'_>, &Group),
) {
    let mask = cx.mask;
    let lead = addresses[mask.trailing_zeros() as usize & 31];
    if let Some(index) = cx.launch.view_of(lead) {
        let view = &cx.launch.views[index];
        let mut offsets = [0; 32];
        if !view.freed && view.bytes >= u64::from(bytes) {
            let limit = view.bytes - u64::from(bytes);
            let low = u64::from(bytes - 1);
            let mut bad = 0;
            if mask == !0 {
                for l in 0..32 {
                    let offset = addresses[l].wrapping_sub(view.base);
                    offsets[l] = offset;
                    bad |= u64::from(offset > limit) | (offset & low);
                }
            } else {
                for l in 0..32 {
                    let address = if mask >> l & 1 != 0 { addresses[l] } else { lead };
                    let offset = address.wrapping_sub(view.base);
                    offsets[l] = offset;
                    bad |= u64::from(offset > limit) | (offset & low);
                }
            }
            if bad == 0 {
                f(cx, &Group { view: index, mask, offsets });
                return;
            }
        }
    }
    for group in sort_out(cx, addresses, bytes) {
        f(cx, &group);
    }
}

/// The slow way: each lane on its own.
#[cold]
#[inline(never)]
fn sort_out(cx: &mut Cx<'_>, addresses: &Row64, bytes: u32) -> Vec<Group> {
    let launch = cx.launch;
    let mut groups: Vec<Group> = Vec::new();
    let (mut outside, mut misaligned, mut freed) = (0_u32, 0_u32, 0_u32);
    for l in lanes(cx.mask) {
        let address = launch.to_device(addresses[l]);
        let Some(index) = launch.view_of(address) else {
            outside |= 1 << l;
            continue;
        };
        let view = &launch.views[index];
        let offset = address.wrapping_sub(view.base);
        if view.freed {
            freed |= 1 << l;
        } else if view.bytes < u64::from(bytes) || offset > view.bytes - u64::from(bytes) {
            outside |= 1 << l;
        } else if offset & u64::from(bytes - 1) != 0 {
            misaligned |= 1 << l;
        } else {
            let group = match groups.iter_mut().find(|g| g.view == index) {
                Some(group) => group,
                None => {
                    groups.push(Group { view: index, mask: 0, offsets: [0; 32] });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            group.mask |= 1 << l;
            group.offsets[l] = offset;
        }
    }
    let first = |mask: u32| launch.to_device(addresses[mask.trailing_zeros() as usize & 31]);
    if outside != 0 {
        let address = first(outside);
        cx.report(FindingKind::OutOfBounds, Space::Global, outside, || match launch.view_of(address) {
            Some(index) => {
                let view = &launch.views[index];
                let offset = address.wrapping_sub(view.base) as i64;
                format!("{bytes} bytes at offset {offset} of an allocation of {} bytes", view.bytes)
            }
            None => format!("{bytes} bytes at {address:#x}, which lies in no allocation"),
        });
    }
    if freed != 0 {
        let address = first(freed);
        let bytes_of = launch.view_of(address).map_or(0, |i| launch.views[i].bytes);
        cx.report(FindingKind::UseAfterFree, Space::Global, freed, || {
            format!("{bytes} bytes at {address:#x}, in an allocation of {bytes_of} bytes that was freed")
        });
    }
    if misaligned != 0 {
        let address = first(misaligned);
        let beyond = address % u64::from(bytes);
        cx.report(FindingKind::Misaligned, Space::Global, misaligned, || {
            format!("{bytes} bytes at {address:#x}, {beyond} past a multiple of {bytes}")
        });
    }
    groups
}

/// Lanes of `cx.mask` whose access to a small window of `window` bytes is inside and aligned; the others are reported.
#[inline(always)]
pub(crate) fn inside(cx: &mut Cx<'_>, offsets: &Row, bytes: u32, window: u32, space: Space) -> u32 {
    let mask = cx.mask;
    let limit = window.wrapping_sub(bytes);
    let mut bad = u32::from(window < bytes);
    if mask == !0 {
        for l in 0..32 {
            bad |= u32::from(offsets[l] > limit) | (offsets[l] & (bytes - 1));
        }
    } else {
        for l in 0..32 {
            let active = (mask >> l & 1).wrapping_neg();
            bad |= (u32::from(offsets[l] > limit) | (offsets[l] & (bytes - 1))) & active;
        }
    }
    if bad == 0 { mask } else { leave_out(cx, offsets, bytes, window, space) }
}

#[cold]
#[inline(never)]
fn leave_out(cx: &mut Cx<'_>, offsets: &Row, bytes: u32, window: u32, space: Space) -> u32 {
    let (mut outside, mut misaligned) = (0_u32, 0_u32);
    for l in lanes(cx.mask) {
        if window < bytes || offsets[l] > window - bytes {
            outside |= 1 << l;
        } else if offsets[l] & (bytes - 1) != 0 {
            misaligned |= 1 << l;
        }
    }
    let offset = |mask: u32| offsets[mask.trailing_zeros() as usize & 31] as i32;
    if outside != 0 {
        let at = offset(outside);
        cx.report(FindingKind::OutOfBounds, space, outside, || {
            format!("{bytes} bytes at offset {at} of a {space} window of {window} bytes")
        });
    }
    if misaligned != 0 {
        let at = offset(misaligned);
        cx.report(FindingKind::Misaligned, space, misaligned, || {
            format!("{bytes} bytes at {space} offset {at}, {} past a multiple of {bytes}", at as u32 % bytes)
        });
    }
    cx.mask & !outside & !misaligned
}

/// 32-byte sectors that lanes touch (an aligned access of up to 32 bytes lies in one).
pub(crate) fn sectors(addresses: &Row64, mask: u32) -> u64 {
    let mut count = 0;
    let mut previous = u64::MAX;
    let mut sorted = true;
    for l in lanes(mask) {
        let sector = addresses[l] >> 5;
        if sector != previous {
            sorted &= previous == u64::MAX || sector > previous;
            count += 1;
            previous = sector;
        }
    }
    if sorted {
        return count;
    }
    let mut all = [0; 32];
    let mut n = 0;
    for l in lanes(mask) {
        all[n] = addresses[l] >> 5;
        n += 1;
    }
    all[..n].sort_unstable();
    1 + all[..n].windows(2).filter(|w| w[0] != w[1]).count() as u64
}

/// Wavefronts that a shared access takes, and how many it would take without conflicts.
pub(crate) fn wavefronts(offsets: &Row, mask: u32, bytes: u32) -> (u64, u64) {
    // Lanes that are served together.
    let together = match bytes {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    if mask == !0 {
        let first = offsets[0];
        let mut differs = 0;
        for l in 0..32 {
            differs |= offsets[l] ^ first.wrapping_add(bytes.max(4) * l as u32);
        }
        if differs == 0 && bytes >= 4 {
            return (32 / together as u64, 32 / together as u64);
        }
    }
    let (mut taken, mut ideal) = (0, 0);
    let mut start = 0;
    while start < 32 {
        let part = mask & (((1_u64 << together) - 1) as u32) << start;
        if part != 0 {
            ideal += 1;
            taken += conflicts(offsets, part, bytes);
        }
        start += together;
    }
    (taken, ideal)
}

/// Most units that lanes want from one group of banks. A unit is an aligned access (4 bytes for smaller ones): accesses that
/// are served together touch either the same banks or none in common, so units stand for their words.
fn conflicts(offsets: &Row, mask: u32, bytes: u32) -> u64 {
    let shift = bytes.clamp(4, 16).trailing_zeros();
    let groups = (128 >> shift) - 1;
    let mut first = [u32::MAX; 32];
    let mut count = [0_u8; 32];
    // Units beyond a group's first.
    let mut more = [0_u32; 32];
    let mut n = 0;
    let mut most = 1;
    for l in lanes(mask) {
        let unit = offsets[l] >> shift;
        let group = (unit & groups) as usize;
        if first[group] == u32::MAX {
            first[group] = unit;
            count[group] = 1;
        } else if first[group] != unit && !more[..n].contains(&unit) {
            more[n] = unit;
            n += 1;
            count[group] += 1;
            most = most.max(count[group]);
        }
    }
    u64::from(most)
}

/// The window's number from a name, for `cvta`.
pub(crate) fn window_offset(space: &str) -> Option<u64> {
    const { assert!(WINDOW_SHIFT == 36) };
    match space {
        "shared" | "shared::cta" => Some(window_base(SHARED)),
        "local" => Some(window_base(LOCAL)),
        "param" | "param::entry" => Some(window_base(PARAM)),
        "global" | "const" => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(f: impl Fn(u32) -> u32) -> Row {
        std::array::from_fn(|l| f(l as u32))
    }

    #[test]
    fn bank_conflicts() {
        assert_eq!(wavefronts(&row(|l| 4 * l), !0, 4), (1, 1));
        assert_eq!(wavefronts(&row(|_| 16), !0, 4), (1, 1));
        assert_eq!(wavefronts(&row(|l| 8 * l), !0, 4), (2, 1));
        assert_eq!(wavefronts(&row(|l| 128 * l), !0, 4), (32, 1));
        assert_eq!(wavefronts(&row(|l| 132 * l), !0, 4), (1, 1));
        assert_eq!(wavefronts(&row(|l| 16 * l), !0, 16), (4, 4));
        assert_eq!(wavefronts(&row(|l| 128 * l), !0, 16), (32, 4));
        assert_eq!(wavefronts(&row(|l| 8 * l), !0, 8), (2, 2));
        // Rows of 64 bytes, chunks exchanged by (row / 2): no conflicts.
        assert_eq!(wavefronts(&row(|l| 64 * l + 16 * ((l / 2) & 3)), !0, 16), (4, 4));
        assert_eq!(wavefronts(&row(|l| 64 * l), !0, 16), (16, 4));
        assert_eq!(wavefronts(&row(|l| 2 * l), !0, 2), (1, 1));
    }

    #[test]
    fn sectors_of_a_request() {
        let row = |f: &dyn Fn(u64) -> u64| -> Row64 { std::array::from_fn(|l| f(l as u64)) };
        assert_eq!(sectors(&row(&|l| 4 * l), !0), 4);
        assert_eq!(sectors(&row(&|l| 4 * l + 16), !0), 5);
        assert_eq!(sectors(&row(&|l| 64 * l), !0), 32);
        assert_eq!(sectors(&row(&|l| 4 * (31 - l)), !0), 4);
        assert_eq!(sectors(&row(&|_| 4), !0), 1);
    }
}
