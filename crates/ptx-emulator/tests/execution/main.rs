//! Small kernels in PTX, each for one feature of the machine.

mod control;
mod faults;
mod memory;
mod tensor;
mod warp;

use ptx_emulator::{Launch, Memory, Module, Options, ParameterBytes, Report};

/// A kernel `k` with the parameter `out` (in `%out`), 32-bit registers `%r`, 64-bit `%rd`, f32 `%f`, 16-bit `%h`, predicates
/// `%p`, and `%t` = `%tid.x` and `%a` = the thread's own word of `out`.
fn source(declarations: &str, body: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n{declarations}
.visible .entry k(.param .u64 out)
{{
.reg .b32 %r<100>; .reg .b32 %t; .reg .b64 %rd<50>; .reg .b64 %out; .reg .b64 %a; .reg .f32 %f<50>; .reg .b16 %h<20>;
.reg .pred %p<20>;
ld.param.u64 %out, [out];
cvta.to.global.u64 %out, %out;
mov.u32 %t, %tid.x;
mad.wide.u32 %a, %t, 4, %out;
{body}
ret;
}}
"
    )
}

/// Runs it with `words` words of output, all zero before, and one block of `threads` threads.
fn run_with(
    declarations: &str,
    body: &str,
    threads: u32,
    words: usize,
    options: Options,
) -> (Vec<u32>, Report) {
    let module = Module::parse(&source(declarations, body), "test.ptx").unwrap_or_else(|e| panic!("{e}"));
    let mut memory = Memory::new();
    let loaded = memory.load_module(&module).unwrap();
    let out = memory.allocate(4 * words as u64).unwrap();
    memory.fill(out, 0, 4 * words as u64).unwrap();
    let parameters = ParameterBytes::new().address(out);
    let launch = Launch {
        kernel: "k",
        grid: [1, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
        parameters: parameters.bytes(),
        options,
    };
    let report = launch.run(&loaded, &mut memory).unwrap();
    let mut bytes = vec![0; 4 * words];
    memory.read(out, &mut bytes).unwrap();
    let words = bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    (words, report)
}

/// Runs a body that must give no finding; tells the words it wrote.
fn run(declarations: &str, body: &str, threads: u32, words: usize) -> Vec<u32> {
    let (words, report) = run_with(declarations, body, threads, words, Options::default());
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    words
}

/// The kinds of findings of a body.
fn kinds(declarations: &str, body: &str, threads: u32) -> Vec<&'static str> {
    let (_, report) = run_with(declarations, body, threads, 1024, Options::default());
    report.findings.iter().map(|f| f.kind.name()).collect()
}
