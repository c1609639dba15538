//! The report as text for a terminal.

use std::fmt::Write;

use crate::counters::{Counters, GlobalCounters, InstructionClass, LowerBound, SharedCounters};
use crate::launch::{Report, Stop};

/// Source lines in the table of the dearest.
const LINES: usize = 10;

/// Findings, then counters (if any were taken), then bounds.
pub fn text(report: &Report, bounds: &[LowerBound]) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        put(&mut out, format_args!("{finding}\n\n"));
    }
    match report.stopped {
        None => {}
        Some(Stop::LaunchLimit) => put(&mut out, format_args!("The kernel was not launched.\n")),
        Some(Stop::Deadlock) => {
            put(&mut out, format_args!("The launch was given up: threads wait for ever.\n"))
        }
        Some(Stop::Trap) => put(&mut out, format_args!("A thread executed `trap`: the launch failed.\n")),
    }
    let found = report.findings.len();
    put(&mut out, format_args!("{found} finding{}\n", if found == 1 { "" } else { "s" }));
    if report.counters.executed.warp > 0 {
        counters(&mut out, &report.counters);
        for bound in bounds {
            put(
                &mut out,
                format_args!(
                    "\nNo faster on {} than {} (by {}; a bound, not a prediction)\n",
                    bound.gpu,
                    time(bound.seconds()),
                    bound.resource()
                ),
            );
            for (name, seconds) in bound.resources.iter().filter(|r| r.1 > 0.0) {
                put(&mut out, format_args!("  {name:<22} {}\n", time(*seconds)));
            }
        }
    }
    out
}

/// Appends; writing to a string cannot fail.
fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

fn counters(out: &mut String, c: &Counters) {
    put(out, format_args!("\n{} blocks, {} warps\n", c.blocks, c.warps));
    let e = c.executed;
    let lanes = e.lanes as f64 / e.warp as f64;
    put(out, format_args!("{} warp instructions, {:.1} of 32 lanes active on average\n", e.warp, lanes));
    for class in InstructionClass::ALL {
        let e = c.class(class);
        if e.warp > 0 {
            let share = 100.0 * e.warp as f64 / c.executed.warp as f64;
            put(out, format_args!("  {:<14} {:>14} {share:>6.1} %\n", class.name(), e.warp));
        }
    }
    global(out, "global loads", &c.global_loads);
    global(out, "global stores", &c.global_stores);
    shared(out, "shared loads", &c.shared_loads);
    shared(out, "shared stores", &c.shared_stores);
    if c.local_bytes > 0 {
        put(out, format_args!("local memory: {} bytes\n", c.local_bytes));
    }
    put(
        out,
        format_args!(
            "branches: {}, divergent {}; barriers: {}\n",
            c.branches, c.divergent_branches, c.barriers
        ),
    );
    let kinds = [
        ("f32", c.f32_flops),
        ("f64", c.f64_flops),
        ("f16", c.f16_flops),
        ("tensor f16", c.tensor_f16_flops),
        ("tensor tf32", c.tensor_tf32_flops),
        ("tensor int8", c.tensor_int_ops),
    ];
    for (name, n) in kinds.into_iter().filter(|k| k.1 > 0) {
        put(out, format_args!("{name} operations: {n}\n"));
    }
    let mut lines: Vec<_> = c.lines.iter().collect();
    lines.sort_by(|a, b| b.executed.warp.cmp(&a.executed.warp).then(a.line.cmp(&b.line)));
    put(out, format_args!("\n  warp instr.    sectors  wavefronts  (ideal)  line\n"));
    for l in lines.into_iter().take(LINES) {
        let sectors = l.global_loads.sectors + l.global_stores.sectors;
        put(
            out,
            format_args!(
                "  {:>11} {:>10} {:>11} {:>8}  {}:{}\n",
                l.executed.warp, sectors, l.shared.wavefronts, l.shared.ideal_wavefronts, l.file, l.line
            ),
        );
    }
}

fn global(out: &mut String, name: &str, g: &GlobalCounters) {
    if g.requests > 0 {
        let (a_request, used) = (g.sectors as f64 / g.requests as f64, 100.0 * g.efficiency());
        put(
            out,
            format_args!(
                "{name}: {} requests, {} sectors ({a_request:.1} a request), {} bytes, {used:.0} % of the sectors' bytes asked for\n",
                g.requests, g.sectors, g.bytes
            ),
        );
    }
}

fn shared(out: &mut String, name: &str, s: &SharedCounters) {
    if s.requests > 0 {
        let conflicts = s.wavefronts - s.ideal_wavefronts;
        put(
            out,
            format_args!(
                "{name}: {} requests, {} wavefronts, {conflicts} of them by bank conflicts, {} bytes\n",
                s.requests, s.wavefronts, s.bytes
            ),
        );
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.3} ms", s * 1e3),
        s => format!("{:.3} µs", s * 1e6),
    }
}
