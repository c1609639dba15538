//! How many thread instructions a second the emulator executes: `cargo bench -p ptx-emulator --bench throughput`.
//!
//! A thread instruction is one active lane's instruction. Each row is the best of five runs: on one thread and on two, by the
//! time that the threads had the CPU (which other work on the machine hardly changes; of two threads the longer time
//! counts), and on two by the clock. The last column is what the second thread brings: the rate of two threads by the rate
//! of one, 2 where blocks do not hold each other up at all. The results are compared with the host's own product first,
//! so that a fast wrong emulator does not pass, and those of two threads with those of one.

use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use ptx_emulator::{Checks, Launch, LoadedModule, Memory, Module, Options, ParameterBytes};

struct Case {
    name: &'static str,
    kernel: &'static str,
    source: &'static str,
    grid: [u32; 3],
    block: u32,
    n: usize,
    k: usize,
    /// bf16 operands, B transposed.
    brain: bool,
}

const CASES: [Case; 2] = [
    Case {
        name: "tiled SGEMM, 256 × 256 × 256",
        kernel: "sgemm",
        source: include_str!("kernels/sgemm.ptx"),
        grid: [2, 2, 1],
        block: 256,
        n: 256,
        k: 256,
        brain: false,
    },
    Case {
        name: "bf16 mma GEMM, 256 × 256 × 1024",
        kernel: "mma_gemm",
        source: include_str!("kernels/mma.ptx"),
        grid: [4, 4, 1],
        block: 128,
        n: 256,
        k: 1024,
        brain: true,
    },
];

/// Small whole numbers, so that all products and sums are exact.
fn value(i: usize) -> f32 {
    ((i * 7919) % 13) as f32 - 6.0
}

fn bytes(values: impl Iterator<Item = f32>, brain: bool) -> Vec<u8> {
    values
        .flat_map(|x| {
            let b = x.to_le_bytes();
            if brain { b[2..].to_vec() } else { b.to_vec() }
        })
        .collect()
}

/// What one run took.
struct Took {
    /// Seconds by the clock.
    clock: f64,
    /// Seconds for which the busiest thread had the CPU; by the clock where the system does not tell.
    cpu: f64,
    /// Thread instructions.
    instructions: u64,
}

fn run(
    case: &Case,
    module: &LoadedModule,
    memory: &mut Memory,
    buffers: [u64; 3],
    options: Options,
    pool: &ThreadPool,
) -> Took {
    let [a, b, c] = buffers;
    let parameters =
        ParameterBytes::new().address(a).address(b).address(c).i32(case.n as i32).i32(case.k as i32);
    let launch = Launch {
        kernel: case.kernel,
        grid: case.grid,
        block: [case.block, 1, 1],
        dynamic_shared: 0,
        parameters: parameters.bytes(),
        options,
    };
    let before = pool.broadcast(|_| on_cpu());
    let start = Instant::now();
    let report = pool.install(|| launch.run(module, memory).expect("the kernel's parameters fit"));
    let clock = start.elapsed().as_secs_f64();
    let after = pool.broadcast(|_| on_cpu());
    let each = before.iter().zip(after).map(|(before, after)| Some(after? - (*before)?));
    let cpu = each.collect::<Option<Vec<f64>>>().map_or(clock, |all| all.into_iter().fold(0.0, f64::max));
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    Took { clock, cpu, instructions: report.counters.executed.lanes }
}

/// Seconds for which this thread has had the CPU, where the system tells (Linux).
fn on_cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds * 1e-9)
}

fn main() {
    // `cargo bench` and `cargo test` pass arguments of their own harness, which mean nothing here.
    println!(
        "{:<31} {:<20} {:>12} {:>13} {:>13} {:>8}",
        "M thread instructions/s", "mode", "1 thread CPU", "2 threads CPU", "2 by clock", "2 over 1"
    );
    let pool = |n| ThreadPoolBuilder::new().num_threads(n).build().expect("a pool of threads");
    let pools = [pool(1), pool(2)];
    for case in &CASES {
        let module = Module::parse(case.source, case.name).expect("the kernel parses");
        let mut memory = Memory::new();
        let module = memory.load_module(&module).expect("it has no variables");
        let (n, k) = (case.n, case.k);
        let a = bytes((0..n * k).map(value), case.brain);
        let b = bytes((0..n * k).map(|i| value(i + 5)), case.brain);
        let buffers =
            [a.len() as u64, b.len() as u64, 4 * (n * n) as u64].map(|m| memory.allocate(m).expect("room"));
        memory.write(buffers[0], &a).expect("in bounds");
        memory.write(buffers[1], &b).expect("in bounds");
        let mut instructions = 0;
        for pool in &pools {
            memory.write(buffers[2], &vec![0; 4 * n * n]).expect("in bounds");
            instructions = run(case, &module, &mut memory, buffers, Options::default(), pool).instructions;
            check(case, &memory, buffers[2]);
        }
        let modes = [
            ("all checks, counters", Options::default()),
            ("counters only", Options { checks: Checks::none(), ..Options::default() }),
            ("nothing", Options { checks: Checks::none(), counters: false, ..Options::default() }),
        ];
        for (mode, options) in modes {
            let mut best = [f64::INFINITY; 3];
            for _ in 0..5 {
                let [one, two] = [&pools[0], &pools[1]]
                    .map(|pool| run(case, &module, &mut memory, buffers, options.clone(), pool));
                best = [best[0].min(one.cpu), best[1].min(two.cpu), best[2].min(two.clock)];
            }
            let [one, two, clock] = best.map(|s| instructions as f64 / s / 1e6);
            println!("{:<31} {mode:<20} {one:>12.0} {two:>13.0} {clock:>13.0} {:>8.2}", case.name, two / one);
        }
    }
}

fn check(case: &Case, memory: &Memory, c: u64) {
    let (n, k) = (case.n, case.k);
    let mut got = vec![0; 4 * n * n];
    memory.read(c, &mut got).expect("in bounds");
    for (i, word) in got.chunks(4).enumerate() {
        let (row, column) = (i / n, i % n);
        let b = |kk: usize| value(if case.brain { column * k + kk } else { kk * n + column } + 5);
        let want: f32 = (0..k).map(|kk| value(row * k + kk) * b(kk)).sum();
        let got = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        assert_eq!(got, want, "{} at {row}, {column}", case.name);
    }
}
