//! One fault of each kind, and what must not be taken for one.

use super::{kinds, run_with, source};
use ptx_emulator::{FindingKind, Launch, Memory, Module, Options, ParameterBytes, Space, Stop};

const SHARED: &str = ".shared .align 4 .b8 s[512];";
const OWN: &str = "mov.u32 %r1, s; shl.b32 %r2, %t, 2; add.u32 %r3, %r1, %r2;";

#[test]
fn outside_of_memory() {
    assert_eq!(kinds("", "st.global.u32 [%a+4096], %t;", 32), ["out-of-bounds"]);
    assert_eq!(kinds("", "ld.global.u32 %r1, [%out+-4];", 32), ["out-of-bounds"]);
    assert_eq!(kinds(SHARED, &format!("{OWN} st.shared.u32 [%r3+512], %t;"), 32), ["out-of-bounds"]);
    assert_eq!(kinds("", "mov.u64 %rd1, 64; ld.global.u32 %r1, [%rd1];", 32), ["out-of-bounds"]);
}

#[test]
fn a_finding_says_where() {
    let (_, report) = run_with("", "st.global.u32 [%a+4000], %t;", 64, 1024, Options::default());
    let f = &report.findings[0];
    assert_eq!(
        (f.kind, f.space, f.warp, f.lane, f.count),
        (FindingKind::OutOfBounds, Space::Global, 0, 24, 40)
    );
    assert_eq!(f.instruction, "st.global.u32 [%a+4000], %t");
    assert!(f.line > 5 && f.file == "test.ptx");
}

#[test]
fn misaligned() {
    assert_eq!(kinds("", "st.global.u32 [%a+2], %t;", 32), ["misaligned"]);
    // Declared for words, read as pairs: shared variables lie at exactly the alignment they declare.
    assert_eq!(
        kinds(SHARED, "mov.u32 %r1, s; mov.u64 %rd1, 0; st.shared.u64 [%r1], %rd1;", 32),
        ["misaligned"]
    );
}

#[test]
fn unset() {
    assert_eq!(kinds(SHARED, &format!("{OWN} ld.shared.u32 %r4, [%r3];"), 32), ["uninitialised-read"]);
    assert_eq!(kinds("", "add.u32 %r1, %r2, 1;", 32), ["uninitialised-read"]);
    // Set on one way only.
    let one_way = "setp.lt.u32 %p1, %t, 4; @%p1 mov.u32 %r1, 5; st.global.u32 [%a], %r1;";
    assert_eq!(kinds("", one_way, 32), ["uninitialised-read"]);
    let both = "setp.lt.u32 %p1, %t, 4; @%p1 mov.u32 %r1, 5; @!%p1 mov.u32 %r1, 6; st.global.u32 [%a], %r1;";
    assert!(kinds("", both, 32).is_empty());
    // A copy of what is not set harms nobody.
    assert!(kinds("", "mov.u32 %r1, %r2;", 32).is_empty());
    assert_eq!(kinds("", "mov.u32 %r1, %r2; st.global.u32 [%a], %r1;", 32), ["uninitialised-read"]);
}

#[test]
fn races_on_shared_memory() {
    let across = "xor.b32 %r4, %r2, 128; add.u32 %r4, %r4, %r1;";
    let raw = format!("{OWN} {across} st.shared.u32 [%r3], %t; ld.shared.u32 %r5, [%r4];");
    assert_eq!(kinds(SHARED, &raw, 64).last(), Some(&"shared-race"));
    let ordered = format!("{OWN} {across} st.shared.u32 [%r3], %t; bar.sync 0; ld.shared.u32 %r5, [%r4];");
    assert!(kinds(SHARED, &ordered, 64).is_empty());
    let war = format!("{ordered} st.shared.u32 [%r3], %r5;");
    assert_eq!(kinds(SHARED, &war, 64), ["shared-race"]);
    let waw = format!("{OWN} st.shared.u32 [%r1], %t;");
    assert_eq!(kinds(SHARED, &waw, 64), ["shared-race"]);
    // All write the same value.
    assert!(kinds(SHARED, &format!("{OWN} mov.u32 %r4, 1; st.shared.u32 [%r1], %r4;"), 64).is_empty());
    // Within a warp lanes run in step.
    assert!(kinds(SHARED, &waw, 32).is_empty());
}

#[test]
fn barriers_that_not_all_reach() {
    assert_eq!(kinds("", "setp.lt.u32 %p1, %t, 5; @%p1 bar.sync 0;", 32), ["divergent-barrier"]);
    // Warps come from different places.
    let elsewhere =
        "setp.lt.u32 %p1, %t, 32; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B: st.global.u32 [%a], %t;";
    assert_eq!(kinds("", elsewhere, 64), ["divergent-barrier"]);
}

#[test]
fn waiting_for_ever() {
    let (_, report) = run_with("", "bar.sync 1, 96;", 64, 1024, Options::default());
    assert_eq!((report.findings[0].kind, report.stopped), (FindingKind::Deadlock, Some(Stop::Deadlock)));
    let options = Options { instruction_limit: 100_000, ..Options::default() };
    let (_, report) = run_with(
        "",
        "L: ld.volatile.global.u32 %r1, [%out]; setp.eq.u32 %p1, %r1, 0; @%p1 bra L;",
        32,
        8,
        options,
    );
    assert_eq!((report.findings[0].kind, report.stopped), (FindingKind::Deadlock, Some(Stop::Deadlock)));
}

#[test]
fn masks() {
    let half = "setp.lt.u32 %p1, %t, 16; @!%p1 bra E; shfl.sync.bfly.b32 %r1, %t, 1, 31, -1; E: st.global.u32 [%a], %t;";
    assert_eq!(kinds("", half, 32), ["bad-mask"]);
    assert!(kinds("", &half.replace("-1; E", "65535; E"), 32).is_empty());
}

#[test]
fn copies_not_waited_for() {
    let declarations = ".shared .align 16 .b8 s[512]; .global .align 16 .b8 g[512];";
    let body = "
        mov.u64 %rd1, g; mul.wide.u32 %rd2, %t, 16; add.u64 %rd3, %rd1, %rd2; mov.u32 %r1, s; shl.b32 %r2, %t, 4; add.u32 %r3, %r1, %r2;
        cp.async.cg.shared.global [%r3], [%rd3], 16; cp.async.commit_group; WAIT bar.sync 0; ld.shared.u32 %r4, [%r3];";
    assert_eq!(kinds(declarations, &body.replace("WAIT", ""), 32), ["missing-async-wait"]);
    assert_eq!(
        kinds(declarations, &body.replace("WAIT", "cp.async.wait_group 1;"), 32),
        ["missing-async-wait"]
    );
    assert!(kinds(declarations, &body.replace("WAIT", "cp.async.wait_all;"), 32).is_empty());
}

/// Findings of a launch of several blocks on a fresh buffer of 1,024 words.
fn blocks(body: &str, parallel: bool) -> Vec<&'static str> {
    let module = Module::parse(&source("", body), "test.ptx").unwrap();
    let mut memory = Memory::new();
    let loaded = memory.load_module(&module).unwrap();
    let out = memory.allocate(4096).unwrap();
    memory.fill(out, 0, 4096).unwrap();
    let parameters = ParameterBytes::new().address(out);
    let launch = Launch {
        kernel: "k",
        grid: [8, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        parameters: parameters.bytes(),
        options: Options { parallel, ..Options::default() },
    };
    let report = launch.run(&loaded, &mut memory).unwrap();
    report.findings.iter().map(|f| f.kind.name()).collect()
}

#[test]
fn races_between_blocks() {
    let block = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 128; add.u64 %rd2, %a, %rd1;";
    for parallel in [false, true] {
        assert!(blocks(&format!("{block} st.global.u32 [%rd2], %t;"), parallel).is_empty());
        assert_eq!(blocks(&format!("{block} st.global.u32 [%a], %r1;"), parallel), ["global-race"]);
        assert_eq!(
            blocks(&format!("{block} ld.global.u32 %r2, [%a]; st.global.u32 [%rd2], %t;"), parallel),
            ["global-race"]
        );
        assert!(blocks(&format!("{block} red.global.add.u32 [%a], %r1;"), parallel).is_empty());
    }
}

#[test]
fn the_last_block_may_read_what_others_published() {
    // Each block writes its word, fences, and counts; the last sums up.
    let body = "
        mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 4; add.u64 %rd2, %out, %rd1; setp.ne.u32 %p1, %t, 0; @%p1 bra END;
        st.global.u32 [%rd2+4], %r1; FENCE atom.global.add.u32 %r2, [%out], 1; setp.ne.u32 %p2, %r2, 7; @%p2 bra END;
        membar.gl; ld.global.u32 %r3, [%out+8]; ld.global.u32 %r4, [%out+32]; st.global.u32 [%out+64], %r4;
        END:";
    assert!(blocks(&body.replace("FENCE", "membar.gl;"), true).is_empty());
    assert_eq!(blocks(&body.replace("FENCE", ""), true), ["global-race"]);
}

#[test]
fn limits_of_a_launch() {
    let (_, report) = run_with("", "", 1025, 8, Options::default());
    assert_eq!(
        (report.findings[0].kind, report.stopped),
        (FindingKind::LaunchLimit, Some(Stop::LaunchLimit))
    );
}

#[test]
fn memory_that_was_freed() {
    let module = Module::parse(&source("", "st.global.u32 [%a], %t;"), "test.ptx").unwrap();
    let mut memory = Memory::new();
    let loaded = memory.load_module(&module).unwrap();
    let out = memory.allocate(4096).unwrap();
    memory.free(out).unwrap();
    let parameters = ParameterBytes::new().address(out);
    let launch = Launch {
        kernel: "k",
        grid: [1, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        parameters: parameters.bytes(),
        options: Options::default(),
    };
    let report = launch.run(&loaded, &mut memory).unwrap();
    assert_eq!(report.findings[0].kind, FindingKind::UseAfterFree);
    assert!(report.faulted());
}

#[test]
fn unknown_instructions_are_told_before_anything_runs() {
    let error = Module::parse(&source("", "wgmma.fence.sync.aligned;"), "test.ptx").unwrap_err();
    assert!(error.line > 10 && error.text == "wgmma.fence.sync.aligned", "{error}");
    let error = Module::parse(&source("", "add.foo.u32 %r1, %t, 1;"), "test.ptx").unwrap_err();
    assert!(error.message.contains("foo"), "{error}");
    assert!(Module::parse("hello", "x.ptx").is_err());
}
