//! Handlers by family. The maths of one lane is a function; [`map1`] and its kin apply it to rows, [`slow1`] and its
//! kin where vector instructions would not help.

pub(crate) mod address;
pub(crate) mod asynchronous;
pub(crate) mod atomic;
pub(crate) mod carry;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod integer;
pub(crate) mod matrix;
pub(crate) mod memory;
pub(crate) mod mma;
pub(crate) mod moves;
pub(crate) mod order;
pub(crate) mod special;
pub(crate) mod warp;

use super::cx::Lane;
use super::dispatch::{handler, slow_handler};

/// d = f(a).
pub(crate) trait Map1 {
    type A: Lane;
    type D: Lane;
    fn f(a: Self::A, imm: i64) -> Self::D;
}

/// d = f(a, b).
pub(crate) trait Map2 {
    type A: Lane;
    type B: Lane;
    type D: Lane;
    fn f(a: Self::A, b: Self::B, imm: i64) -> Self::D;
}

/// d = f(a, b, c).
pub(crate) trait Map3 {
    type A: Lane;
    type B: Lane;
    type C: Lane;
    type D: Lane;
    fn f(a: Self::A, b: Self::B, c: Self::C, imm: i64) -> Self::D;
}

/// d = f(a, b, c, e).
pub(crate) trait Map4 {
    type A: Lane;
    type B: Lane;
    type C: Lane;
    type E: Lane;
    type D: Lane;
    fn f(a: Self::A, b: Self::B, c: Self::C, e: Self::E, imm: i64) -> Self::D;
}

/// Handlers of a function of one, two or three rows.
macro_rules! map_handlers {
    ($how:ident, $one:ident, $two:ident, $three:ident) => {
        $how! {
            /// Handler of a function of one row.
            $one<O: Map1> |cx, i| {
                let mut r = [O::D::default(); 32];
                let a = cx.get::<O::A>(i.a);
                for l in 0..32 {
                    r[l] = O::f(a[l], i.imm);
                }
                cx.put(i.d, &r);
            }
        }

        $how! {
            /// Handler of a function of two rows.
            $two<O: Map2> |cx, i| {
                let mut r = [O::D::default(); 32];
                let (a, b) = (cx.get::<O::A>(i.a), cx.get::<O::B>(i.b));
                for l in 0..32 {
                    r[l] = O::f(a[l], b[l], i.imm);
                }
                cx.put(i.d, &r);
            }
        }

        $how! {
            /// Handler of a function of three rows.
            $three<O: Map3> |cx, i| {
                let mut r = [O::D::default(); 32];
                let (a, b, c) = (cx.get::<O::A>(i.a), cx.get::<O::B>(i.b), cx.get::<O::C>(i.c));
                for l in 0..32 {
                    r[l] = O::f(a[l], b[l], c[l], i.imm);
                }
                cx.put(i.d, &r);
            }
        }
    };
}

map_handlers!(handler, map1, map2, map3);
map_handlers!(slow_handler, slow1, slow2, slow3);

handler! {
    /// Handler of a function of four rows.
    map4<O: Map4> |cx, i| {
        let mut r = [O::D::default(); 32];
        let (a, b) = (cx.get::<O::A>(i.a), cx.get::<O::B>(i.b));
        let (c, e) = (cx.get::<O::C>(i.c), cx.get::<O::E>(i.e));
        for l in 0..32 {
            r[l] = O::f(a[l], b[l], c[l], e[l], i.imm);
        }
        cx.put(i.d, &r);
    }
}

/// Declares functions of lanes: `map2! { Add32: u32, u32 => u32 = |a, b| a.wrapping_add(b); … }`.
macro_rules! map {
    ($($name:ident : $a:ty => $d:ty = |$x:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl $crate::exec::ops::Map1 for $name {
            type A = $a;
            type D = $d;
            #[inline(always)]
            fn f($x: $a, _: i64) -> $d { $e }
        }
    )* };
    ($($name:ident : $a:ty, $b:ty => $d:ty = |$x:ident, $y:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl $crate::exec::ops::Map2 for $name {
            type A = $a;
            type B = $b;
            type D = $d;
            #[inline(always)]
            fn f($x: $a, $y: $b, _: i64) -> $d { $e }
        }
    )* };
    ($($name:ident : $a:ty, $b:ty, $c:ty => $d:ty = |$x:ident, $y:ident, $z:ident, $imm:pat_param| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl $crate::exec::ops::Map3 for $name {
            type A = $a;
            type B = $b;
            type C = $c;
            type D = $d;
            #[inline(always)]
            fn f($x: $a, $y: $b, $z: $c, $imm: i64) -> $d { $e }
        }
    )* };
}

pub(crate) use map;
