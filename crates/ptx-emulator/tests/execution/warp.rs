//! Shuffles, votes, matches, reductions.

use super::run;

fn store(body: &str) -> Vec<u32> {
    run("", &format!("{body} st.global.u32 [%a], %r9;"), 32, 32)
}

#[test]
fn shuffles() {
    let up = store("shfl.sync.up.b32 %r9, %t, 3, 0, -1;");
    assert!((0..32).all(|t| up[t] == if t < 3 { t as u32 } else { t as u32 - 3 }));
    let down = store("shfl.sync.down.b32 %r9|%p1, %t, 3, 31, -1; selp.u32 %r9, %r9, 99, %p1;");
    assert!((0..32).all(|t| down[t] == if t > 28 { 99 } else { t as u32 + 3 }));
    let across = store("shfl.sync.bfly.b32 %r9, %t, 5, 31, -1;");
    assert!((0..32).all(|t| across[t] == t as u32 ^ 5));
    // Segments of 8 lanes: lane 2 of each.
    let index = store("shfl.sync.idx.b32 %r9, %t, 2, 6175, -1;");
    assert!((0..32).all(|t| index[t] == t as u32 / 8 * 8 + 2));
}

#[test]
fn votes_matches_and_reductions() {
    let odd = "and.b32 %r1, %t, 1; setp.ne.u32 %p1, %r1, 0;";
    assert!(store(&format!("{odd} vote.sync.ballot.b32 %r9, %p1, -1;")).iter().all(|x| *x == 0xaaaa_aaaa));
    let any = format!(
        "{odd} vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1; selp.u32 %r9, 1, 0, %p2; selp.u32 %r2, 2, 0, %p3; add.u32 %r9, %r9, %r2;"
    );
    assert!(store(&any).iter().all(|x| *x == 1));
    let same = store("and.b32 %r1, %t, 3; match.any.sync.b32 %r9, %r1, -1;");
    assert!((0..32).all(|t| same[t] == 0x1111_1111 << (t % 4)));
    assert!(store("redux.sync.add.u32 %r9, %t, -1;").iter().all(|x| *x == 496));
    assert!(store("sub.s32 %r1, %t, 20; redux.sync.min.s32 %r9, %r1, -1;").iter().all(|x| *x as i32 == -20));
    assert!(store("redux.sync.max.u32 %r9, %t, -1;").iter().all(|x| *x == 31));
}
