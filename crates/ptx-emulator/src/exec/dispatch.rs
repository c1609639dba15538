//! Handlers in two versions: for any CPU, and for one with AVX2 and FMA.

/// Whether the CPU has AVX2 and FMA.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("popcnt") && has!("lzcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Makes `fn name<generics>() -> Handler` out of a body, which is compiled with and without AVX2 and FMA; both do the
/// same, since a fused multiply-add is rounded once either way.
macro_rules! handler {
    ($(#[$doc:meta])* $name:ident $(<$($g:ident : $bound:path),*>)? |$cx:ident, $i:ident| $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name $(<$($g: $bound),* >)? () -> $crate::code::Handler {
            #[inline(always)]
            unsafe fn body $(<$($g: $bound),* >)? ($cx: &mut $crate::exec::Cx<'_>, $i: &$crate::code::Inst) {
                // SAFETY: by the promise of whoever calls a handler, see `Handler`.
                #[allow(unused_unsafe, reason = "bodies that touch no row need no unsafe")]
                unsafe { $body }
            }
            unsafe fn plain $(<$($g: $bound),* >)? (cx: &mut $crate::exec::Cx<'_>, i: &$crate::code::Inst) {
                // SAFETY: passed on.
                unsafe { body $(::<$($g),* >)? (cx, i) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt")]
            unsafe fn fast $(<$($g: $bound),* >)? (cx: &mut $crate::exec::Cx<'_>, i: &$crate::code::Inst) {
                // SAFETY: passed on.
                unsafe { body $(::<$($g),* >)? (cx, i) }
            }
            #[cfg(target_arch = "x86_64")]
            if $crate::exec::dispatch::has_avx2() {
                return fast $(::<$($g),* >)?;
            }
            plain $(::<$($g),* >)?
        }
    };
}

/// The same, compiled once: for what takes its time in scalar code, whatever the CPU.
macro_rules! slow_handler {
    ($(#[$doc:meta])* $name:ident $(<$($g:ident : $bound:path),*>)? |$cx:ident, $i:ident| $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name $(<$($g: $bound),* >)? () -> $crate::code::Handler {
            unsafe fn plain $(<$($g: $bound),* >)? ($cx: &mut $crate::exec::Cx<'_>, $i: &$crate::code::Inst) {
                // SAFETY: by the promise of whoever calls a handler, see `Handler`.
                unsafe { $body }
            }
            plain $(::<$($g),* >)?
        }
    };
}

pub(crate) use {handler, slow_handler};
