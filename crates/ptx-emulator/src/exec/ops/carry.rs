//! `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: arithmetic of more than one word. The carry (of a difference the
//! borrow) is a predicate of its own.

use super::super::dispatch::slow_handler;
use crate::code::NONE;

/// What is added, in the low bits of an instruction's flags: `a + b`, `a − b`, a half of `a·b` and `c`.
pub(crate) const ADD: u16 = 0;
pub(crate) const SUBTRACT: u16 = 1;
pub(crate) const LOW: u16 = 2;
pub(crate) const HIGH: u16 = 3;
/// 64 bits.
pub(crate) const LONG: u16 = 4;
/// The product is one of signed numbers.
pub(crate) const SIGNED: u16 = 8;

slow_handler! {
    /// `d = what the flags say + e`, `d2` the carry out.
    sum |cx, i| {
        let carried = if i.e == NONE { 0 } else { cx.pred(i.e) };
        let long = i.flags & LONG != 0;
        let mut r = [0_u64; 32];
        let mut out = 0;
        for l in 0..32 {
            let [a, b, c] = [i.a, i.b, i.c].map(|x| cx.lane(x, l, long));
            let (sum, carry) = step(i.flags, a, b, c, carried >> l & 1 != 0);
            r[l] = sum;
            out |= u32::from(carry) << l;
        }
        cx.put_low(i.d, &r, long);
        if i.d2 != NONE {
            cx.put_pred(i.d2, out);
        }
    }
}

/// One lane: the sum in its bits, and the carry.
fn step(flags: u16, a: u64, b: u64, c: u64, carried: bool) -> (u64, bool) {
    let bits = if flags & LONG != 0 { 64 } else { 32 };
    let mask = u64::MAX >> (64 - bits);
    let carried = u64::from(carried);
    let plus = |x: u64, y: u64| {
        let sum = u128::from(x) + u128::from(y) + u128::from(carried);
        (sum as u64 & mask, sum >> bits != 0)
    };
    match flags & 3 {
        ADD => plus(a, b),
        SUBTRACT => (
            a.wrapping_sub(b).wrapping_sub(carried) & mask,
            u128::from(a) < u128::from(b) + u128::from(carried),
        ),
        part => {
            let product = if flags & SIGNED != 0 {
                let signed = |x: u64| i128::from((x << (64 - bits)) as i64 >> (64 - bits));
                (signed(a) * signed(b)) as u128
            } else {
                u128::from(a) * u128::from(b)
            };
            let half = if part == LOW { product } else { product >> bits };
            plus(half as u64 & mask, c)
        }
    }
}
