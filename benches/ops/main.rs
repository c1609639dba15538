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

mod convolutions;
mod machine;
mod peer;
mod report;
mod row;
mod rows;

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, SamplingMode};

use machine::Machine;
use peer::Peer;
use report::Measured;
use row::Row;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says --bench when it means to measure; criterion runs every row once otherwise.
    let measuring = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let everything = has_filter(&arguments);
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

/// Whether a row filter was given: an argument that is neither a flag nor a flag's value.
fn has_filter(arguments: &[String]) -> bool {
    const SWITCHES: [&str; 7] =
        ["--bench", "--test", "--list", "--quiet", "--verbose", "--noplot", "--exact"];
    arguments.iter().enumerate().any(|(i, argument)| {
        let follows_flag = i > 0
            && arguments[i - 1].starts_with("--")
            && !arguments[i - 1].contains('=')
            && !SWITCHES.contains(&arguments[i - 1].as_str());
        !argument.starts_with('-') && !follows_flag
    })
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
