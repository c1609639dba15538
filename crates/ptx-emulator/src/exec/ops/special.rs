//! Approximate functions. GPUs compute them by tables of their own; here they are the f64 result rounded to f32, which
//! lies within the error that PTX allows. Special values are those that PTX states.

use super::float::{finish, flush};
use super::{Map1, Map2, map1, map2, slow1};
use crate::code::Handler;

macro_rules! approximate {
    ($($name:ident = |$x:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl Map1 for $name {
            type A = u32;
            type D = u32;
            #[inline(always)]
            fn f(a: u32, imm: i64) -> u32 {
                let $x = f32::from_bits(flush(a, imm));
                finish($e, imm)
            }
        }
    )* };
}

approximate! {
    Exp2 = |x| exp2(x);
    Log2 = |x| f64::from(x).log2() as f32;
    Sin = |x| f64::from(x).sin() as f32;
    Cos = |x| f64::from(x).cos() as f32;
    Tanh = |x| f64::from(x).tanh() as f32;
    Rcp = |x| 1.0 / x;
    Rsqrt = |x| (1.0 / f64::from(x).sqrt()) as f32;
    Sqrt = |x| x.sqrt();
}

/// 2ˣ by a polynomial of degree 9 in f64 (Taylor's on [−½, ½], relative error below 3e-11), rounded to f32: a call of
/// the mathematics library for each lane would be slower than all the rest of a softmax.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    const C: [f64; 10] = [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_71,
        0.055_504_108_664_821_58,
        0.009_618_129_107_628_477,
        0.001_333_355_814_642_844_3,
        1.540_353_039_338_161e-4,
        1.525_273_380_405_984e-5,
        1.321_548_679_014_431e-6,
        1.017_808_600_923_97e-7,
    ];
    // Beyond these the result is 0 or infinity in f32; NaN falls to the last line.
    let clamped = f64::from(x).clamp(-160.0, 160.0);
    let whole = clamped.round_ties_even();
    let t = clamped - whole;
    let p = C.iter().rev().fold(0.0, |p, c| p * t + c);
    let scale = f64::from_bits(((whole as i64 + 1023) as u64) << 52);
    if x.is_nan() { x } else { (p * scale) as f32 }
}

pub(crate) struct RsqrtF64;
impl Map1 for RsqrtF64 {
    type A = u64;
    type D = u64;
    fn f(a: u64, _: i64) -> u64 {
        (1.0 / f64::from_bits(a).sqrt()).to_bits()
    }
}

pub(crate) struct RcpF64Ftz;
impl Map1 for RcpF64Ftz {
    type A = u64;
    type D = u64;
    fn f(a: u64, _: i64) -> u64 {
        (1.0 / f64::from_bits(a)).to_bits()
    }
}

/// `div.full` and `div.approx`.
pub(crate) struct Div;
impl Map2 for Div {
    type A = u32;
    type B = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, imm: i64) -> u32 {
        finish(f32::from_bits(flush(a, imm)) / f32::from_bits(flush(b, imm)), imm)
    }
}

/// `testp.<name>`: whether a value is of a sort.
pub(crate) fn test(name: &str, x: f64, subnormal: bool) -> Option<bool> {
    Some(match name {
        "finite" => x.is_finite(),
        "infinite" => x.is_infinite(),
        "number" => !x.is_nan(),
        "notanumber" => x.is_nan(),
        "normal" => x.is_finite() && !subnormal && x != 0.0,
        "subnormal" => subnormal,
        _ => return None,
    })
}

/// One source.
pub(crate) fn unary(name: &str, ty: &str) -> Option<Handler> {
    Some(match (name, ty) {
        ("ex2", "f32") => map1::<Exp2>(),
        ("lg2", "f32") => slow1::<Log2>(),
        ("sin", "f32") => slow1::<Sin>(),
        ("cos", "f32") => slow1::<Cos>(),
        ("tanh", "f32") => slow1::<Tanh>(),
        ("rcp", "f32") => map1::<Rcp>(),
        ("rsqrt", "f32") => map1::<Rsqrt>(),
        ("sqrt", "f32") => map1::<Sqrt>(),
        ("rsqrt", "f64") => slow1::<RsqrtF64>(),
        ("rcp", "f64") => slow1::<RcpF64Ftz>(),
        _ => return None,
    })
}

/// `div.full.f32`, `div.approx.f32`.
pub(crate) fn divide() -> Handler {
    map2::<Div>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_the_library_s() {
        let mut worst = 0.0_f64;
        for i in -1600..1600 {
            let x = i as f32 * 0.1 + 0.037;
            let want = f64::from(x).exp2();
            let got = f64::from(exp2(x));
            if (f64::from(f32::MIN_POSITIVE)..3e38).contains(&want) {
                worst = worst.max((got - want).abs() / want);
            } else if want < 1e-50 {
                assert_eq!(got, 0.0);
            }
        }
        // Half a unit of f32 and the polynomial's error.
        assert!(worst < 6.0e-8, "{worst}");
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert!(exp2(f32::NAN).is_nan());
        assert_eq!(exp2(-149.0), f32::from_bits(1));
    }
}
