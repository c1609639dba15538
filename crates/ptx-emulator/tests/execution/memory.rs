//! Spaces, vectors, atomics, asynchronous copies, matrices.

use super::run;

#[test]
fn vectors_and_narrow_types() {
    let body = "
        mul.wide.u32 %rd1, %t, 16; add.u64 %rd2, %out, %rd1;
        mov.u32 %r1, 0x80ff7f01; not.b32 %r2, %r1; mov.u32 %r3, 3; mov.u32 %r4, 4;
        st.global.v4.u32 [%rd2], {%r1, %r2, %r3, %r4};
        ld.global.s8 %r5, [%rd2+3]; ld.global.u8 %r6, [%rd2+2]; ld.global.s16 %r7, [%rd2+2];
        ld.global.v2.u32 {%r8, %r9}, [%rd2+8];
        add.u32 %r9, %r9, %r8; st.global.v4.b32 [%rd2], {%r5, %r6, %r7, %r9};";
    let got = run("", body, 32, 128);
    for w in got.chunks(4) {
        assert_eq!(w, [0xffff_ff80, 0xff, 0xffff_80ff, 7]);
    }
}

#[test]
fn local_generic_and_constant_memory() {
    let declarations = ".const .align 4 .b32 table[4] = {5, 6, 7, 8}; .global .align 8 .u64 pointer = table;";
    let body = "
        .local .align 8 .b8 depot[64];
        .reg .b64 %SP; .reg .b64 %SPL;
        mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL;
        and.b32 %r1, %t, 3; mul.wide.u32 %rd1, %r1, 4;
        st.u32 [%SP+8], %t; ld.local.u32 %r2, [%SPL+8];
        mov.u64 %rd2, table; add.u64 %rd3, %rd2, %rd1; ld.const.u32 %r3, [%rd3];
        mov.u64 %rd4, pointer; ld.global.u64 %rd5, [%rd4]; ld.u32 %r4, [%rd5+4];
        mad.lo.u32 %r5, %r3, 1000, %r2; mad.lo.u32 %r5, %r4, 100000, %r5; st.global.u32 [%a], %r5;";
    let got = run(declarations, body, 64, 64);
    assert!((0..64).all(|t| got[t] == 600_000 + (5 + t as u32 % 4) * 1000 + t as u32));
}

#[test]
fn atomics() {
    let declarations = ".shared .align 4 .b8 s[4];";
    let body = "
        mov.u32 %r1, s; setp.eq.u32 %p1, %t, 0; mov.u32 %r2, 0; @%p1 st.shared.u32 [%r1], %r2; bar.sync 0;
        atom.shared.add.u32 %r3, [%r1], 2; red.global.add.u32 [%out], %t;
        bar.sync 0; ld.shared.u32 %r4, [%r1];
        setp.eq.u32 %p2, %t, 7; @%p2 st.global.u32 [%out+4], %r4;
        atom.global.cas.b32 %r5, [%out+8], 0, %t; atom.global.max.u32 %r6, [%out+12], %t;";
    let got = run(declarations, body, 64, 64);
    // Lane 0 exchanges 0 for 0, lane 1 for 1; the others find 1.
    assert_eq!(got[..4], [2016, 128, 1, 63]);
}

#[test]
fn asynchronous_copies_arrive_at_their_wait() {
    let declarations = ".shared .align 16 .b8 s[512]; .global .align 16 .b8 g[512];";
    let body = "
        mov.u64 %rd1, g; mul.wide.u32 %rd2, %t, 16; add.u64 %rd3, %rd1, %rd2;
        st.global.v4.u32 [%rd3], {%t, %t, %t, %t};
        mov.u32 %r1, s; shl.b32 %r2, %t, 4; add.u32 %r3, %r1, %r2;
        and.b32 %r8, %t, 1; shl.b32 %r8, %r8, 3;
        cp.async.cg.shared.global [%r3], [%rd3], 16, %r8; cp.async.commit_group; cp.async.wait_group 0;
        bar.sync 0;
        ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3]; mad.lo.u32 %r4, %r6, 100, %r4; st.global.u32 [%a], %r4;";
    // Even lanes copy nothing (zeros), odd ones 8 of 16 bytes.
    let got = run(declarations, body, 32, 32);
    assert!((0..32).all(|t| got[t] == if t % 2 == 0 { 0 } else { t as u32 }));
}

#[test]
fn arithmetic_with_carries_of_wide_types() {
    let body = "
        cvt.u64.u32 %rd1, %t; mul.lo.s64 %rd2, %rd1, -3; shr.s64 %rd3, %rd2, 1; cvt.u32.u64 %r1, %rd3;
        mul.wide.s32 %rd4, %r1, 7; mov.b64 {%r2, %r3}, %rd4; xor.b32 %r4, %r2, %r3; st.global.u32 [%a], %r4;";
    let got = run("", body, 32, 32);
    for t in 0..32_i64 {
        let r1 = (t * -3) >> 1;
        let wide = i64::from(r1 as i32) * 7;
        assert_eq!(got[t as usize], (wide as u32) ^ ((wide >> 32) as u32));
    }
}
