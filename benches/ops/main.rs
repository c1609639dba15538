//! `cargo bench --bench ops`: every operation of `seedwalk::ops`, with the bytes and FLOPs of its shape, the
//! machine's bounds and, where its package is installed, a peer, all measured in one run.
//!
//! One table of rows (`rows.rs`, `convolutions.rs`) feeds both criterion and the table printed at the end.
//! The peer (`benches/peer.py`: PyTorch, pydensecrf) is a child process that stays alive; each of criterion's
//! samples is followed by one of the peer's on the same shape, so both see the same state of the machine.
//!
//! ```text
//! cargo bench --bench ops                        a subset, a few minutes
//! cargo bench --bench ops -- conv2d              every row whose name matches, heavy ones too
//! cargo bench --bench ops -- .                   everything
//! SEEDWALK_PYTHON=venv/bin/python cargo bench    with the peer of that interpreter (else python3's)
//! RAYON_NUM_THREADS=1 cargo bench                on one thread, the peer too
//! ```
//!
//! The kernels come first (`gpu/`): on a GPU every ladder with its times, bounds and peer, and whole steps; without one
//! what the emulator counts.
//!
//! ```text
//! cargo bench --bench ops -- conv2d --gpu-only --json new.json --compare old.json
//! SEEDWALK_BENCH_DEVICE=cuda:1 cargo bench       the kernels on that device (also --device)
//! OPS_PROGRAM --bench --gpu-only --seconds 300   where there is no cargo; SEEDWALK_PEER_SCRIPT names peer.py
//! ```

mod convolutions;
mod gpu;
mod machine;
mod options;
mod peer;
mod report;
mod row;
mod rows;

use std::cell::RefCell;
use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::{Criterion, SamplingMode};

use machine::Machine;
use peer::Peer;
use report::Measured;
use row::Row;

/// Set for the process that runs criterion alone.
const CPU_ONLY: &str = "SEEDWALK_BENCH_CPU_ONLY";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // The program itself, for whole steps: see `gpu/steps.rs`.
    if arguments.first().is_some_and(|first| first == "--seedwalk") {
        arguments[0] = "seedwalk".into();
        return seedwalk::cli::main(arguments.into_iter().map(Into::into));
    }
    let device = std::env::var("SEEDWALK_BENCH_DEVICE").ok();
    let options = match options::Options::parse(&arguments, device.as_deref()) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let alone = std::env::var_os(CPU_ONLY).is_some();
    if !alone && options.measures() {
        let done = gpu::run(&options);
        if options.gpu_only || done.is_err() {
            return end(done);
        }
    }
    // Criterion reads the process's arguments itself, and refuses those that are not its own.
    if !alone && !options.are_criterions() {
        return end(without_own_arguments(&options.rest));
    }
    operations(&options);
    ExitCode::SUCCESS
}

fn end(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the CPU's operations in another process, with criterion's arguments only.
fn without_own_arguments(rest: &[String]) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let status = Command::new(program).args(rest).env(CPU_ONLY, "1").status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the operations on the CPU: {status}")) }
}

/// Every operation on the CPU.
fn operations(options: &options::Options) {
    let (measuring, everything) = (options.measures(), options.filter.is_some());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000))
        .without_plots()
        .configure_from_args();
    let mut peer = measuring.then(Peer::start).flatten();
    let mut machine = measuring.then(Machine::measure);

    let mut rows = convolutions::rows();
    rows.extend(rows::rows());
    let mut measured = Vec::new();
    for row in rows.into_iter().filter(|row| everything || row.by_default) {
        if let Some(row) = measure(&mut criterion, peer.as_mut(), row) {
            if let Some(machine) = &mut machine {
                machine.measure_again(row.row.work.bytes);
            }
            measured.push(row);
        }
    }
    if let Some(machine) = machine.filter(|_| !measured.is_empty()) {
        report::print(&machine, peer.as_ref(), &measured);
    }
}

/// Times one row, and the peer's in between; `None` where criterion's filter leaves the row out.
fn measure(criterion: &mut Criterion, peer: Option<&mut Peer>, row: Row) -> Option<Measured> {
    let (group, name) = row.name.split_once('/').expect("names are operation/case");
    // Criterion calls the closure once a sample: what it needs is prepared at its first call and kept.
    let mut operation = None;
    let peer = RefCell::new(peer);
    let mut peer_ready = false;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |bencher| {
        let operation = operation.get_or_insert_with(|| {
            if let (Some(peer), Some(request)) = (peer.borrow_mut().as_mut(), &row.peer) {
                peer_ready = peer.prepare(request);
            }
            (row.prepare)()
        });
        bencher.iter_custom(|count| {
            let total: Duration = (0..count).map(|_| operation()).sum();
            ours.push(total.as_secs_f64() / count as f64);
            if peer_ready && let Some(peer) = peer.borrow_mut().as_mut() {
                theirs.extend(peer.run(count));
                // Its threads look for more work for a while before they sleep; not beside our next sample.
                std::thread::sleep(Duration::from_millis(10));
            }
            total
        });
    });
    group.finish();
    (!ours.is_empty()).then(|| Measured { row, ours, theirs })
}
