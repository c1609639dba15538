//! `mov` in its forms, addresses, special registers and kernel parameters.

use super::super::cx::Lane;
use super::super::dispatch::handler;
use super::{Map1, map, map1, map2};
use crate::code::Handler;
use crate::ptx::Class;

handler! {
    /// A copy.
    copy<L: Lane> |cx, i| {
        let r = *cx.get::<L>(i.a);
        cx.put(i.d, &r);
    }
}

/// `d = a + imm`.
macro_rules! offsets {
    ($($name:ident: $t:ty;)*) => { $(
        pub(crate) struct $name;
        impl Map1 for $name {
            type A = $t;
            type D = $t;
            #[inline(always)]
            fn f(a: $t, imm: i64) -> $t {
                a.wrapping_add(imm as $t)
            }
        }
    )* };
}

offsets! {
    Offset64: u64;
    Offset32: u32;
}

map! {
    Pack64: u32, u32 => u64 = |low, high| u64::from(low) | u64::from(high) << 32;
    Pack32: u32, u32 => u32 = |low, high| (low & 0xffff) | high << 16;
}

/// `d = a + imm`, for `cvta`.
pub(crate) fn offset(class: Class) -> Handler {
    if class == Class::B64 { map1::<Offset64>() } else { map1::<Offset32>() }
}

/// `mov.b64 d, {lo, hi}`, `mov.b32 d, {lo, hi}`.
pub(crate) fn pack(class: Class) -> Handler {
    if class == Class::B64 { map2::<Pack64>() } else { map2::<Pack32>() }
}

handler! {
    /// `mov.b64 d, {a, b, c, e}` of 16 bits each.
    pack4 |cx, i| {
        let mut r = [0_u64; 32];
        for (k, part) in [i.a, i.b, i.c, i.e].into_iter().enumerate() {
            let a = cx.get::<u32>(part);
            for l in 0..32 {
                r[l] |= u64::from(a[l] & 0xffff) << (16 * k);
            }
        }
        cx.put(i.d, &r);
    }
}

handler! {
    /// `mov {…}, a`: parts of `imm` bits, `more` the results; absent ones are skipped.
    unpack<L: Lane> |cx, i| {
        let a = *cx.get::<L>(i.a);
        let bits = i.imm as u32;
        for (k, d) in i.more.iter().enumerate() {
            if *d == crate::code::NONE {
                continue;
            }
            let mut r = [0_u32; 32];
            for l in 0..32 {
                let x = a[l].to_u64() >> (bits * k as u32);
                r[l] = if bits == 16 { x as u32 & 0xffff } else { x as u32 };
            }
            cx.put(*d, &r);
        }
    }
}

handler! {
    /// Special registers, by `imm`; see [`special_number`].
    special |cx, i| {
        let launch = cx.launch;
        let mut r = [0_u32; 32];
        match i.imm {
            0..3 => r = cx.warp.thread[i.imm as usize],
            3..6 => r.fill(launch.block[i.imm as usize - 3]),
            6..9 => r.fill(cx.block.index[i.imm as usize - 6]),
            9..12 => r.fill(launch.grid[i.imm as usize - 9]),
            12 => (0..32).for_each(|l| r[l] = l as u32),
            13 => r.fill(cx.warp.number),
            14 => r.fill(launch.threads.div_ceil(32)),
            15 => (0..32).for_each(|l| r[l] = 1 << l),
            16 => (0..32).for_each(|l| r[l] = (1 << l) - 1),
            17 => (0..32).for_each(|l| r[l] = (2_u64 << l) as u32 - 1),
            18 => (0..32).for_each(|l| r[l] = !((2_u64 << l) as u32 - 1)),
            19 => (0..32).for_each(|l| r[l] = !((1 << l) - 1)),
            // Multiprocessor, their number, clock: there is no time here; a clock that counts executed instructions would
            // depend on the order of blocks.
            20 => r.fill(0),
            21 => r.fill(1),
            22 => r.fill(launch.shared_bytes),
            23 => r.fill(launch.shared_bytes - launch.code.dynamic_start.min(launch.shared_bytes)),
            _ => {}
        }
        cx.put(i.d, &r);
    }
}

/// Special registers that are 64 bits wide: 0 `%clock64`, `%globaltimer`; 1 `%gridid`.
pub(crate) fn special_number(name: &str) -> Option<(i64, Class)> {
    let axis = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        ["x", "y", "z"].iter().position(|a| *a == rest).map(|a| a as i64)
    };
    for (first, prefix) in [(0, "%tid."), (3, "%ntid."), (6, "%ctaid."), (9, "%nctaid.")] {
        if let Some(a) = axis(prefix) {
            return Some((first + a, Class::B32));
        }
    }
    Some(match name {
        "%laneid" => (12, Class::B32),
        "%warpid" => (13, Class::B32),
        "%nwarpid" => (14, Class::B32),
        "%lanemask_eq" => (15, Class::B32),
        "%lanemask_lt" => (16, Class::B32),
        "%lanemask_le" => (17, Class::B32),
        "%lanemask_gt" => (18, Class::B32),
        "%lanemask_ge" => (19, Class::B32),
        "%smid" => (20, Class::B32),
        "%nsmid" => (21, Class::B32),
        "%total_smem_size" => (22, Class::B32),
        "%dynamic_smem_size" => (23, Class::B32),
        "%clock" | "%clock_hi" | "%globaltimer_lo" | "%globaltimer_hi" => (24, Class::B32),
        "%clock64" | "%globaltimer" | "%gridid" => (24, Class::B64),
        _ => return None,
    })
}

handler! {
    /// A 64-bit special register: zeros.
    zero64 |cx, i| {
        cx.put(i.d, &[0_u64; 32]);
    }
}

handler! {
    /// `ld.param` of a kernel: `imm` the offset, `flags` the bytes of an element (negative sign: bit 8), `more` the results;
    /// `lanes` bit 7 for a result of 64 bits. With `a` an index in bytes.
    parameter |cx, i| {
        let bytes = (i.flags & 15) as usize;
        let parameters = cx.launch.parameters;
        for (k, d) in i.more.iter().take(i.more_defs as usize).enumerate() {
            let read = |offset: usize| {
                let mut raw = [0_u8; 8];
                if let Some(from) = parameters.get(offset..offset + bytes) {
                    raw[..bytes].copy_from_slice(from);
                }
                let x = u64::from_le_bytes(raw);
                let shift = 64 - 8 * bytes as u32;
                if i.flags & 256 != 0 { ((x << shift) as i64 >> shift) as u64 } else { x }
            };
            let mut r = [0_u64; 32];
            if i.a == crate::code::NONE {
                r.fill(read((i.imm as usize).wrapping_add(k * bytes)));
            } else {
                let base = cx.get::<u64>(i.a);
                for l in 0..32 {
                    r[l] = read((base[l] as usize).wrapping_add(i.imm as usize).wrapping_add(k * bytes));
                }
            }
            cx.put_low(*d, &r, i.flags & 512 != 0);
        }
    }
}

/// The handler of a plain `mov`.
pub(crate) fn plain(class: Class) -> Handler {
    if class == Class::B64 { copy::<u64>() } else { copy::<u32>() }
}
