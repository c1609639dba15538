//! From what workers gathered to the launch's report.

use std::collections::BTreeMap;

use crate::check::global::Did;
use crate::code::{Code, Note, Traffic, Work};
use crate::counters::{Counters, InstructionClass, LineCounters};
use crate::exec::{Launched, Tally, Worker};
use crate::finding::{Finding, FindingKind, Space};
use crate::launch::{Launch, Report, Stop};

/// The report of a launch that was not run, for exceeding limits.
pub(crate) fn refused(launch: &Launch<'_>, reasons: Vec<String>) -> Report {
    let findings = reasons
        .into_iter()
        .map(|message| Finding {
            kind: FindingKind::LaunchLimit,
            space: Space::Register,
            kernel: launch.kernel.to_owned(),
            block: [0; 3],
            warp: 0,
            lane: 0,
            file: String::new(),
            line: 0,
            ptx_line: 0,
            instruction: String::new(),
            message,
            count: 1,
        })
        .collect();
    Report { findings, counters: Counters::default(), stopped: Some(Stop::LaunchLimit) }
}

/// Adds the races between blocks, which show only now, and puts all into order.
pub(crate) fn report(
    launch: &Launch<'_>,
    launched: &Launched<'_>,
    module: &str,
    mut worker: Worker,
    stopped: Option<Stop>,
) -> Report {
    for view in &launched.views {
        let Some(shadow) = view.shadow.get() else { continue };
        for race in shadow.races() {
            let plain = race.plain;
            let key = (plain.inst.unwrap_or(0), FindingKind::GlobalRace, Space::Global);
            let (offset, bytes) = (race.offset, view.bytes);
            worker.report(key, (plain.block, plain.warp, 0), 1, || {
                let does = if plain.did == Did::Wrote { "writes" } else { "reads" };
                let other = match race.other {
                    Some(o) => {
                        let verb = match (o.did, o.block == plain.block) {
                            (Did::Read, true) => "read",
                            (Did::Read, false) => "reads",
                            (Did::Wrote, true) => "write",
                            (Did::Wrote, false) => "writes",
                            (Did::Changed, true) => "change by atomics",
                            (Did::Changed, false) => "changes by an atomic",
                        };
                        let who = if o.block == plain.block {
                            "this block and others".to_owned()
                        } else {
                            let [x, y, z] = launched.block_index(o.block);
                            format!("block ({x}, {y}, {z})")
                        };
                        format!("which {who} {verb}{}", launched.place(o.inst))
                    }
                    None => "which other blocks write as well".to_owned(),
                };
                format!("{does} bytes at offset {offset} of an allocation of {bytes} bytes, {other}; nothing orders blocks")
            });
        }
    }
    let code = launched.code;
    let mut findings: Vec<(u32, Finding)> = Vec::new();
    for ((inst, kind, space), found) in worker.found {
        let note = &code.notes[inst as usize];
        let (file, line) = place(code, note, module);
        let finding = Finding {
            kind,
            space,
            kernel: launch.kernel.to_owned(),
            block: launched.block_index(found.block),
            warp: found.warp,
            lane: found.lane,
            file,
            line,
            ptx_line: note.ptx_line,
            instruction: note.text.clone(),
            message: found.message,
            count: found.count,
        };
        findings.push((inst, finding));
    }
    findings.sort_by_key(|(inst, f)| (*inst, f.kind, f.space));
    let findings = findings.into_iter().map(|f| f.1).collect();
    let mut counters =
        if launched.counting { count(code, module, &worker.tallies) } else { Counters::default() };
    if launched.counting {
        counters.blocks = worker.blocks;
        counters.warps = worker.warps;
    }
    Report { findings, counters, stopped }
}

/// Source file and line of an instruction; the PTX's own where it says nothing.
fn place(code: &Code, note: &Note, module: &str) -> (String, u32) {
    match note.source.and_then(|(file, line)| Some((code.files.get(&file)?, line))) {
        Some((file, line)) => (file.clone(), line),
        None => (module.to_owned(), note.ptx_line),
    }
}

fn count(code: &Code, module: &str, tallies: &[Tally]) -> Counters {
    let mut out = Counters::default();
    let mut lines: BTreeMap<(String, u32), LineCounters> = BTreeMap::new();
    for (note, t) in code.notes.iter().zip(tallies).filter(|(_, t)| t.warp > 0) {
        let key = place(code, note, module);
        let line = lines.entry(key.clone()).or_insert_with(|| LineCounters {
            file: key.0,
            line: key.1,
            ..LineCounters::default()
        });
        for e in [&mut out.executed, &mut out.classes[note.class as usize], &mut line.executed] {
            e.warp += t.warp;
            e.lanes += t.lanes;
        }
        let is_load = note.traffic == Traffic::Load;
        let (total, of_line) = if is_load {
            (&mut out.global_loads, &mut line.global_loads)
        } else {
            (&mut out.global_stores, &mut line.global_stores)
        };
        let local = matches!(note.class, InstructionClass::LocalLoad | InstructionClass::LocalStore);
        if local {
            out.local_bytes += t.bytes;
        } else {
            for g in [total, of_line] {
                g.requests += t.requests;
                g.sectors += t.sectors;
                g.bytes += t.bytes;
            }
        }
        // A copy loads from global memory and stores to shared.
        let shared_load = is_load && note.class != InstructionClass::AsyncCopy;
        let shared = if shared_load { &mut out.shared_loads } else { &mut out.shared_stores };
        for s in [shared, &mut line.shared] {
            s.requests += t.shared_requests;
            s.wavefronts += t.wavefronts;
            s.ideal_wavefronts += t.ideal;
            s.bytes += t.shared_bytes;
        }
        match note.class {
            InstructionClass::Barrier => out.barriers += t.warp,
            InstructionClass::Control if is_branch(note) => {
                out.branches += t.warp;
                line.branches += t.warp;
                out.divergent_branches += t.divergent;
                line.divergent_branches += t.divergent;
            }
            _ => {}
        }
        let (slot, done) = match note.work {
            Work::None => continue,
            Work::F16(n) => (&mut out.f16_flops, u64::from(n) * t.lanes),
            Work::F32(n) => (&mut out.f32_flops, u64::from(n) * t.lanes),
            Work::F64(n) => (&mut out.f64_flops, u64::from(n) * t.lanes),
            Work::TensorF16(n) => (&mut out.tensor_f16_flops, u64::from(n) * t.warp),
            Work::TensorTf32(n) => (&mut out.tensor_tf32_flops, u64::from(n) * t.warp),
            Work::TensorInt(n) => (&mut out.tensor_int_ops, u64::from(n) * t.warp),
        };
        *slot += done;
        if !matches!(note.work, Work::TensorInt(_)) {
            line.flops += done;
        }
    }
    out.lines = lines.into_values().collect();
    out
}

fn is_branch(note: &Note) -> bool {
    let opcode = note.text.split_whitespace().find(|w| !w.starts_with('@')).unwrap_or("");
    opcode.starts_with("bra") || opcode.starts_with("brx")
}
