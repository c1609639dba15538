//! The report as JSON.

use serde_json::{Value, json};

use crate::counters::{
    Counters, Executed, GlobalCounters, InstructionClass, LineCounters, LowerBound, SharedCounters,
};
use crate::finding::Finding;
use crate::launch::{Report, Stop};

/// Version of the object that [`json`] makes: grows when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// The report as one object: `schema_version`, `findings`, `counters`, `stopped` and, for each GPU given, `lower_bounds`.
pub fn json(report: &Report, bounds: &[LowerBound]) -> Value {
    let stopped = report.stopped.map(|stop| match stop {
        Stop::LaunchLimit => "launch-limit",
        Stop::Deadlock => "deadlock",
        Stop::Trap => "trap",
    });
    json!({
        "schema_version": SCHEMA_VERSION,
        "stopped": stopped,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "counters": counters(&report.counters),
        "lower_bounds": bounds.iter().map(bound).collect::<Vec<_>>(),
    })
}

fn finding(f: &Finding) -> Value {
    json!({
        "kind": f.kind.name(),
        "space": f.space.name(),
        "kernel": f.kernel,
        "block": f.block,
        "warp": f.warp,
        "lane": f.lane,
        "file": f.file,
        "line": f.line,
        "ptx_line": f.ptx_line,
        "instruction": f.instruction,
        "message": f.message,
        "count": f.count,
    })
}

fn executed(e: Executed) -> Value {
    json!({ "warp": e.warp, "thread": e.lanes })
}

fn global(g: &GlobalCounters) -> Value {
    json!({ "requests": g.requests, "sectors": g.sectors, "bytes": g.bytes, "efficiency": g.efficiency() })
}

fn shared(s: &SharedCounters) -> Value {
    json!({
        "requests": s.requests,
        "wavefronts": s.wavefronts,
        "ideal_wavefronts": s.ideal_wavefronts,
        "bytes": s.bytes,
    })
}

fn counters(c: &Counters) -> Value {
    let classes: serde_json::Map<String, Value> = InstructionClass::ALL
        .iter()
        .filter(|class| c.class(**class).warp > 0)
        .map(|class| (class.name().to_owned(), executed(c.class(*class))))
        .collect();
    json!({
        "blocks": c.blocks,
        "warps": c.warps,
        "instructions": executed(c.executed),
        "classes": classes,
        "global_loads": global(&c.global_loads),
        "global_stores": global(&c.global_stores),
        "shared_loads": shared(&c.shared_loads),
        "shared_stores": shared(&c.shared_stores),
        "local_bytes": c.local_bytes,
        "branches": c.branches,
        "divergent_branches": c.divergent_branches,
        "barriers": c.barriers,
        "f16_flops": c.f16_flops,
        "f32_flops": c.f32_flops,
        "f64_flops": c.f64_flops,
        "tensor_f16_flops": c.tensor_f16_flops,
        "tensor_tf32_flops": c.tensor_tf32_flops,
        "tensor_int_ops": c.tensor_int_ops,
        "flops": c.flops(),
        "lines": c.lines.iter().map(line).collect::<Vec<_>>(),
    })
}

fn line(l: &LineCounters) -> Value {
    json!({
        "file": l.file,
        "line": l.line,
        "instructions": executed(l.executed),
        "global_loads": global(&l.global_loads),
        "global_stores": global(&l.global_stores),
        "shared": shared(&l.shared),
        "branches": l.branches,
        "divergent_branches": l.divergent_branches,
        "flops": l.flops,
    })
}

fn bound(b: &LowerBound) -> Value {
    let resources: serde_json::Map<String, Value> =
        b.resources.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect();
    json!({ "gpu": b.gpu, "seconds": b.seconds(), "resource": b.resource(), "resources": resources })
}
