//! f16 and bf16 arithmetic, single and packed. Operations are formed in f64, which holds any sum or product of theirs
//! (rounded to odd where it does not), and rounded once.

use super::{Map1, Map2, Map3, slow1, slow2, slow3};
use crate::code::Handler;
use crate::soft::{self, BF16, F16, Format, Rounding};

/// Flags in the instruction's number.
pub(crate) const FTZ: i64 = 1;
pub(crate) const SAT: i64 = 2;
pub(crate) const NAN: i64 = 4;
pub(crate) const RELU: i64 = 8;
/// bf16, not f16.
const BRAIN: i64 = 16;
/// Two values in a register.
const PACKED: i64 = 32;

/// A narrow format and how to read it.
pub(crate) trait Narrow {
    const FORMAT: Format;
    fn value(bits: u32) -> f64;
}

pub(crate) struct Half;
impl Narrow for Half {
    const FORMAT: Format = F16;
    fn value(bits: u32) -> f64 {
        f64::from(soft::f16_to_f32(bits))
    }
}

pub(crate) struct Brain;
impl Narrow for Brain {
    const FORMAT: Format = BF16;
    fn value(bits: u32) -> f64 {
        f64::from(soft::bf16_to_f32(bits))
    }
}

fn sign<N: Narrow>() -> u32 {
    N::FORMAT.infinity + (1 << N::FORMAT.digits)
}

fn flush<N: Narrow>(x: u32, imm: i64) -> u32 {
    if imm & FTZ != 0 && x & N::FORMAT.infinity == 0 { x & sign::<N>() } else { x }
}

fn finish<N: Narrow>(x: f64, imm: i64) -> u32 {
    let x = if imm & SAT != 0 { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 } } else { x };
    let x = if imm & RELU != 0 && x < 0.0 { 0.0 } else { x };
    flush::<N>(soft::round_narrow(x, N::FORMAT, Rounding::Nearest), imm)
}

/// An operation on one value of a format.
pub(crate) trait Op {
    fn f<N: Narrow>(a: u32, b: u32, c: u32, imm: i64) -> u32;
}

macro_rules! arithmetic {
    ($($name:ident = |$x:ident, $y:ident, $z:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl Op for $name {
            fn f<N: Narrow>(a: u32, b: u32, c: u32, imm: i64) -> u32 {
                let [$x, $y, $z] = [a, b, c].map(|v| N::value(flush::<N>(v, imm)));
                finish::<N>($e, imm)
            }
        }
    )* };
}

arithmetic! {
    Add = |a, b, _c| soft::add_odd(a, b, Rounding::Nearest);
    Sub = |a, b, _c| soft::add_odd(a, -b, Rounding::Nearest);
    Mul = |a, b, _c| a * b;
    Fma = |a, b, c| soft::fma_odd(a, b, c, Rounding::Nearest);
    // These two are approximate on GPUs; here they are the nearest.
    Ex2 = |a, _b, _c| a.exp2();
    Tanh = |a, _b, _c| a.tanh();
}

pub(crate) struct Neg;
impl Op for Neg {
    fn f<N: Narrow>(a: u32, _: u32, _: u32, imm: i64) -> u32 {
        flush::<N>(a, imm) ^ sign::<N>()
    }
}

pub(crate) struct Abs;
impl Op for Abs {
    fn f<N: Narrow>(a: u32, _: u32, _: u32, imm: i64) -> u32 {
        flush::<N>(a, imm) & !sign::<N>()
    }
}

fn pick<N: Narrow>(a: u32, b: u32, imm: i64, larger: bool) -> u32 {
    let (a, b) = (flush::<N>(a, imm), flush::<N>(b, imm));
    let (x, y) = (N::value(a), N::value(b));
    let nan = N::FORMAT.infinity | ((1 << N::FORMAT.digits) - 1);
    match (x.is_nan(), y.is_nan()) {
        (true, true) => return nan,
        (true, false) | (false, true) if imm & NAN != 0 => return nan,
        (true, false) => return b,
        (false, true) => return a,
        (false, false) => {}
    }
    if x == y {
        return if larger { a & b } else { a | b };
    }
    if (x > y) == larger { a } else { b }
}

pub(crate) struct Min;
impl Op for Min {
    fn f<N: Narrow>(a: u32, b: u32, _: u32, imm: i64) -> u32 {
        pick::<N>(a, b, imm, false)
    }
}

pub(crate) struct Max;
impl Op for Max {
    fn f<N: Narrow>(a: u32, b: u32, _: u32, imm: i64) -> u32 {
        pick::<N>(a, b, imm, true)
    }
}

/// `O` on one value or on both halves of a word, in the format that the flags say.
pub(crate) struct On<O>(std::marker::PhantomData<O>);

fn apply<O: Op>(a: u32, b: u32, c: u32, imm: i64) -> u32 {
    let f = if imm & BRAIN != 0 { O::f::<Brain> } else { O::f::<Half> };
    let low = f(a & 0xffff, b & 0xffff, c & 0xffff, imm);
    if imm & PACKED != 0 { low | f(a >> 16, b >> 16, c >> 16, imm) << 16 } else { low }
}

impl<O: Op> Map1 for On<O> {
    type A = u32;
    type D = u32;
    fn f(a: u32, imm: i64) -> u32 {
        apply::<O>(a, 0, 0, imm)
    }
}

impl<O: Op> Map2 for On<O> {
    type A = u32;
    type B = u32;
    type D = u32;
    fn f(a: u32, b: u32, imm: i64) -> u32 {
        apply::<O>(a, b, 0, imm)
    }
}

impl<O: Op> Map3 for On<O> {
    type A = u32;
    type B = u32;
    type C = u32;
    type D = u32;
    fn f(a: u32, b: u32, c: u32, imm: i64) -> u32 {
        apply::<O>(a, b, c, imm)
    }
}

/// The flags of a type.
pub(crate) fn format(ty: &str) -> i64 {
    let brain = if ty.starts_with('b') { BRAIN } else { 0 };
    brain | if ty.ends_with("x2") { PACKED } else { 0 }
}

/// One source.
pub(crate) fn unary(name: &str) -> Option<Handler> {
    Some(match name {
        "neg" => slow1::<On<Neg>>(),
        "abs" => slow1::<On<Abs>>(),
        "ex2" => slow1::<On<Ex2>>(),
        "tanh" => slow1::<On<Tanh>>(),
        _ => return None,
    })
}

/// Two sources.
pub(crate) fn binary(name: &str) -> Option<Handler> {
    Some(match name {
        "add" => slow2::<On<Add>>(),
        "sub" => slow2::<On<Sub>>(),
        "mul" => slow2::<On<Mul>>(),
        "min" => slow2::<On<Min>>(),
        "max" => slow2::<On<Max>>(),
        _ => return None,
    })
}

/// `fma`.
pub(crate) fn ternary() -> Handler {
    slow3::<On<Fma>>()
}
