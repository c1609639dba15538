//! `ldmatrix` and `mma` against sums written out.

use super::run;

/// Fragment loads and one product; operands are small whole numbers, so that every order of addition gives the same.
#[test]
fn product_of_16_by_8_by_16_bf16() {
    // A[g][k] = g + k (bf16), B[k][n] = k − n, C = 1.
    let declarations = ".shared .align 16 .b8 a[512]; .shared .align 16 .b8 b[256];";
    let body = "
        mov.u32 %r1, a; mov.u32 %r2, b; mov.u32 %r3, 0;
        FILL: shl.b32 %r4, %r3, 5; add.u32 %r4, %r4, %t;
        shr.u32 %r5, %r4, 4; and.b32 %r6, %r4, 15; add.u32 %r7, %r5, %r6; cvt.rn.f32.u32 %f1, %r7; cvt.rn.bf16.f32 %h1, %f1;
        shl.b32 %r8, %r4, 1; add.u32 %r9, %r1, %r8; st.shared.b16 [%r9], %h1;
        setp.ge.u32 %p1, %r4, 128; @%p1 bra NEXT;
        sub.s32 %r10, %r6, %r5; cvt.rn.f32.s32 %f2, %r10; cvt.rn.bf16.f32 %h2, %f2; add.u32 %r11, %r2, %r8; st.shared.b16 [%r11], %h2;
        NEXT: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 8; @%p2 bra FILL;
        bar.warp.sync -1;
        and.b32 %r12, %t, 15; shl.b32 %r13, %r12, 5; shr.u32 %r14, %t, 4; shl.b32 %r15, %r14, 4; add.u32 %r16, %r13, %r15; add.u32 %r16, %r16, %r1;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r16];
        and.b32 %r17, %t, 7; shl.b32 %r17, %r17, 5; shr.u32 %r18, %t, 3; and.b32 %r18, %r18, 1; shl.b32 %r18, %r18, 4; add.u32 %r17, %r17, %r18; add.u32 %r17, %r17, %r2;
        ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r24, %r25}, [%r17];
        mov.f32 %f10, 0f3F800000; 
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r20, %r21, %r22, %r23}, {%r24, %r25}, {%f10, %f10, %f10, %f10};
        mul.wide.u32 %rd1, %t, 16; add.u64 %rd1, %rd1, %out; st.global.v4.f32 [%rd1], {%f1, %f2, %f3, %f4};";
    let got = run(declarations, body, 32, 128);
    for lane in 0..32 {
        for h in 0..4 {
            let (row, column) = ((lane / 4 + h / 2 * 8) as i32, (lane % 4 * 2 + h % 2) as i32);
            let want: i32 = 1 + (0..16).map(|k| (row + k) * (k - column)).sum::<i32>();
            assert_eq!(f32::from_bits(got[4 * lane + h]), want as f32, "lane {lane}, value {h}");
        }
    }
}

#[test]
fn product_of_16_by_8_by_32_bytes() {
    // A[g][k] = k − 16, B[k][n] = n: each register holds four consecutive k.
    let body = "
        and.b32 %r1, %t, 3; shl.b32 %r1, %r1, 2; sub.s32 %r2, %r1, 16; mov.u32 %r3, 0x03020100;
        and.b32 %r4, %r2, 255; mul.lo.u32 %r4, %r4, 0x01010101; add.u32 %r5, %r4, %r3; 
        and.b32 %r6, %r1, 255; mul.lo.u32 %r6, %r6, 0x01010101; add.u32 %r7, %r6, %r3;
        shr.u32 %r8, %t, 2; mul.lo.u32 %r9, %r8, 0x01010101; mov.u32 %r10, 5;
        mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r11, %r12, %r13, %r14}, {%r5, %r5, %r7, %r7}, {%r9, %r9}, {%r10, %r10, %r10, %r10};
        mul.wide.u32 %rd1, %t, 16; add.u64 %rd1, %rd1, %out; st.global.v4.u32 [%rd1], {%r11, %r12, %r13, %r14};";
    let got = run("", body, 32, 128);
    for lane in 0..32 {
        for h in 0..4 {
            let column = (lane % 4 * 2 + h % 2) as i32;
            let want: i32 = 5 + (0..32).map(|k| (k - 16) * column).sum::<i32>();
            assert_eq!(got[4 * lane + h] as i32, want, "lane {lane}, value {h}");
        }
    }
}

/// A product whose operands are the same in all lanes: A = a, B = b everywhere, so each result is k·a·b + c.
fn uniform(shape: &str, types: &str, a: &str, b: &str, c: &str, results: usize) -> Vec<u32> {
    let body = format!(
        "mov.b32 %r1, {a}; mov.b32 %r2, {b}; mov.b32 %r3, {c};
         mma.sync.aligned.{shape}.row.col.{types} {{%r10{}}}, {{A}}, {{B}}, {{%r3{}}};
         st.global.u32 [%a], %r10;",
        (11..10 + results).map(|r| format!(", %r{r}")).collect::<String>(),
        ", %r3".repeat(results - 1),
    );
    let registers = match (shape, types.contains("tf32")) {
        ("m16n8k16", _) | ("m16n8k8", true) => (4, 2),
        _ => (2, 1),
    };
    let list = |r: &str, n: usize| vec![r; n].join(", ");
    let body = body.replace("{A}", &format!("{{{}}}", list("%r1", registers.0)));
    run("", &body.replace("{B}", &format!("{{{}}}", list("%r2", registers.1))), 32, 32)
}

#[test]
fn each_shape_adds_up_all_of_k() {
    // 1.5 and −2 in each format, 1 in f32 and in pairs of f16.
    let (a16, b16) = ("0x3e003e00", "0xc000c000");
    let (abf, bbf) = ("0x3fc03fc0", "0xc000c000");
    let (atf, btf) = ("0x3fc00000", "0xc0000000");
    let one = "0x3f800000";
    for (shape, k) in [("m16n8k16", 16.0), ("m16n8k8", 8.0)] {
        let want = (1.0_f32 - 3.0 * k).to_bits();
        assert!(
            uniform(shape, "f32.f16.f16.f32", a16, b16, one, 4).iter().all(|x| *x == want),
            "{shape} f16"
        );
        assert!(
            uniform(shape, "f32.bf16.bf16.f32", abf, bbf, one, 4).iter().all(|x| *x == want),
            "{shape} bf16"
        );
        let narrow = u32::from(ptx_emulator::f32_to_f16(1.0 - 3.0 * k)) * 0x1_0001;
        assert!(
            uniform(shape, "f16.f16.f16.f16", a16, b16, "0x3c003c00", 2).iter().all(|x| *x == narrow),
            "{shape}"
        );
    }
    for (shape, k) in [("m16n8k8", 8.0), ("m16n8k4", 4.0)] {
        let want = (1.0_f32 - 3.0 * k).to_bits();
        assert!(
            uniform(shape, "f32.tf32.tf32.f32", atf, btf, one, 4).iter().all(|x| *x == want),
            "{shape} tf32"
        );
    }
}
