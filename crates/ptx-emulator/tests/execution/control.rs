//! Branches, loops, jump tables, calls, barriers.

use super::{run, run_with};
use ptx_emulator::Options;

#[test]
fn lanes_go_both_ways_and_meet_again() {
    let body = "
        and.b32 %r1, %t, 1; setp.eq.s32 %p1, %r1, 0;
        @%p1 bra EVEN;
        mov.u32 %r2, 100; bra JOIN;
        EVEN: mov.u32 %r2, 200;
        JOIN: activemask.b32 %r3; popc.b32 %r4, %r3; add.u32 %r5, %r2, %r4;
        st.global.u32 [%a], %r5;";
    let got = run("", body, 32, 32);
    assert!(got.iter().enumerate().all(|(t, x)| *x == if t % 2 == 0 { 232 } else { 132 }));
}

#[test]
fn each_lane_leaves_a_loop_in_its_own_turn() {
    // Sum of 0 … tid, and the lanes that are active after the loop.
    let body = "
        mov.u32 %r1, 0; mov.u32 %r2, 0;
        LOOP: add.u32 %r2, %r2, %r1; add.u32 %r1, %r1, 1; setp.le.u32 %p1, %r1, %t; @%p1 bra LOOP;
        activemask.b32 %r3; popc.b32 %r3, %r3; mad.lo.u32 %r4, %r3, 1000, %r2;
        st.global.u32 [%a], %r4;";
    let got = run("", body, 40, 40);
    for (t, x) in got.iter().enumerate() {
        let (t, lanes) = (t as u32, if t < 32 { 32 } else { 8 });
        assert_eq!(*x, lanes * 1000 + t * (t + 1) / 2);
    }
}

#[test]
fn jump_tables() {
    let body = "
        and.b32 %r1, %t, 3;
        TABLE: .branchtargets A, B, C, A;
        brx.idx %r1, TABLE;
        A: mov.u32 %r2, 10; bra.uni END;
        B: mov.u32 %r2, 20; bra.uni END;
        C: mov.u32 %r2, 30;
        END: activemask.b32 %r3; setp.ne.b32 %p1, %r3, -1; selp.u32 %r2, 0, %r2, %p1;
        st.global.u32 [%a], %r2;";
    let got = run("", body, 32, 32);
    assert!(got.iter().enumerate().all(|(t, x)| *x == [10, 20, 30, 10][t % 4]));
}

#[test]
fn functions_take_and_return_values() {
    let declarations = "
        .func (.param .b32 r) square(.param .b32 x, .param .b64 unused) {
            .reg .b32 %r<4>;
            .reg .pred %p;
            ld.param.u32 %r1, [x];
            setp.gt.u32 %p, %r1, 4;
            @%p bra BIG;
            mul.lo.u32 %r2, %r1, %r1; st.param.b32 [r+0], %r2; ret;
            BIG: st.param.b32 [r+0], %r1; ret;
        }";
    let body = "
        { .param .b32 x; st.param.b32 [x+0], %t; .param .b64 y; st.param.b64 [y+0], %out; .param .b32 r;
          call.uni (r), square, (x, y); ld.param.b32 %r1, [r+0]; }
        { .param .b32 x; st.param.b32 [x+0], %r1; .param .b64 y; st.param.b64 [y+0], %out; .param .b32 r;
          call.uni (r), square, (x, y); ld.param.b32 %r2, [r+0]; }
        st.global.u32 [%a], %r2;";
    let f = |x: u32| if x > 4 { x } else { x * x };
    let got = run(declarations, body, 32, 32);
    assert!(got.iter().enumerate().all(|(t, x)| *x == f(f(t as u32))));
}

#[test]
fn an_early_way_out_does_not_disturb_barriers() {
    // Lanes above 20 leave; the others meet at the barrier. Whole warps leave, too.
    let declarations = ".shared .align 4 .b8 s[512];";
    let body = "
        setp.gt.u32 %p1, %t, 20; @%p1 bra OUT;
        shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %t;
        bar.sync 0;
        mov.u32 %r4, 20; sub.u32 %r4, %r4, %t; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r2; ld.shared.u32 %r5, [%r4];
        st.global.u32 [%a], %r5;
        OUT:";
    let got = run(declarations, body, 128, 128);
    assert!(got.iter().enumerate().all(|(t, x)| *x == if t <= 20 { 20 - t as u32 } else { 0 }));
}

#[test]
fn barriers_count_and_vote() {
    let body = "
        and.b32 %r1, %t, 1; setp.eq.u32 %p1, %r1, 0;
        bar.red.popc.u32 %r2, 0, %p1;
        setp.lt.u32 %p2, %t, 100; bar.red.and.pred %p3, 0, %p2; selp.u32 %r3, 1000, 0, %p3;
        bar.red.or.pred %p4, 0, !%p2; selp.u32 %r4, 10000, 0, %p4;
        add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; st.global.u32 [%a], %r2;";
    assert!(run("", body, 96, 96).iter().all(|x| *x == 1048));
}

#[test]
fn named_barriers_order_producers_and_consumers() {
    // Warp 0 writes, warps 1 and 2 read; warp 0 only arrives.
    let declarations = ".shared .align 4 .b8 s[128];";
    let body = "
        mov.u32 %r1, s; and.b32 %r2, %t, 31; shl.b32 %r3, %r2, 2; add.u32 %r3, %r3, %r1;
        setp.ge.u32 %p1, %t, 32; @%p1 bra READ;
        add.u32 %r4, %t, 7; st.shared.u32 [%r3], %r4; bar.arrive 1, 96; bra END;
        READ: bar.sync 1, 96; ld.shared.u32 %r5, [%r3]; st.global.u32 [%a], %r5;
        END:";
    let got = run(declarations, body, 96, 96);
    assert!(got.iter().enumerate().all(|(t, x)| *x == if t < 32 { 0 } else { t as u32 % 32 + 7 }));
}

#[test]
fn counters_of_a_known_kernel() {
    let body = "setp.lt.u32 %p1, %t, 5; @%p1 bra A; st.global.u32 [%a], %t; A:";
    let (_, report) = run_with("", body, 64, 64, Options::default());
    let c = report.counters;
    assert_eq!((c.warps, c.blocks), (2, 1));
    // ld.param, cvta, mov, mad, setp, bra, st; `ret` is where the branch leads, so it leaves at once.
    assert_eq!(c.global_stores.requests, 2);
    assert_eq!(c.global_stores.sectors, 8);
    assert_eq!(c.global_stores.bytes, 4 * 59);
    assert_eq!((c.branches, c.divergent_branches), (2, 1));
    // Lanes of a guarded instruction are those whose guard holds.
    assert_eq!(c.executed.lanes, 64 * 5 + 5 + 59 * 2);
}
