//! What the driver has seen: calls, live objects, leaks, launches with their findings and counts, as JSON.

use std::collections::{BTreeMap, VecDeque};

use ptx_emulator::{Finding, Gpu, Report};
use serde_json::{Value, json};

use crate::driver::{Handle, State};
use crate::status::Failure;

/// A launch that has run.
pub(crate) struct LaunchRecord {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub report: Report,
}

/// Launches kept with all their counts; older ones are only counted.
const KEPT_LAUNCHES: usize = 256;
/// Findings kept; a launch that goes wrong seldom comes alone.
const KEPT_FINDINGS: usize = 256;

/// Declares [`Census`] and what is done with all its fields.
macro_rules! census {
    ($($field:ident: $kind:ty),*) => {
        /// Objects of each kind.
        #[derive(Clone, Copy, Default)]
        struct Census {
            $($field: $kind),*
        }

        impl Census {
            fn json(&self) -> Value {
                json!({ $(stringify!($field): self.$field),* })
            }

            fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

census! {
    contexts: usize, streams: usize, events: usize, modules: usize, buffers: usize, buffer_bytes: u64, pinned: usize,
    pinned_bytes: usize, pools: usize, graphs: usize, executable_graphs: usize, queued: usize
}

/// What has happened since the start or the last reset.
#[derive(Default)]
pub(crate) struct Log {
    calls: BTreeMap<&'static str, u64>,
    launches: u64,
    kept: VecDeque<LaunchRecord>,
    findings: Vec<Finding>,
    findings_in_all: u64,
    last_failure: Option<(&'static str, Failure)>,
    /// Objects that were alive when their context was destroyed.
    leaked: Census,
}

impl Log {
    pub fn count(&mut self, name: &'static str) {
        *self.calls.entry(name).or_default() += 1;
    }

    pub fn failure(&mut self, name: &'static str, failure: &Failure) {
        self.last_failure = Some((name, failure.clone()));
    }

    pub fn launched(&mut self, record: LaunchRecord) {
        self.launches += 1;
        self.findings_in_all += record.report.findings.len() as u64;
        let room = KEPT_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(record.report.findings.iter().take(room).cloned());
        if self.kept.len() == KEPT_LAUNCHES {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }
}

impl State {
    /// Live objects: of one context, or of all. Default streams belong to their context and are not counted.
    fn census(&self, context: Option<Handle>) -> Census {
        let own = |c: Handle| context.is_none_or(|context| context == c);
        let hidden = |handle: &Handle| {
            let of = |c: &crate::driver::Context| {
                c.default_stream == *handle || c.thread_streams.values().any(|s| s == handle)
            };
            self.contexts.values().any(of)
        };
        let buffers = || self.buffers.values().filter(|b| own(b.context));
        let pinned = || self.pinned.values().filter(|p| own(p.context));
        // Graphs belong to no context.
        let (graphs, executable_graphs) =
            if context.is_none() { (self.graphs.len(), self.executables.len()) } else { (0, 0) };
        Census {
            contexts: if context.is_none() { self.contexts.len() } else { 0 },
            streams: self.streams.iter().filter(|(h, s)| own(s.context) && !hidden(h)).count(),
            events: self.events.values().filter(|e| own(e.context)).count(),
            modules: self.modules.values().filter(|m| own(m.context)).count(),
            buffers: buffers().count(),
            buffer_bytes: buffers().map(|b| b.bytes).sum(),
            pinned: pinned().count(),
            pinned_bytes: pinned().map(|p| p.bytes).sum(),
            pools: self.pools.iter().filter(|(h, p)| **h != self.default_pool && own(p.context)).count(),
            graphs,
            executable_graphs,
            queued: if context.is_none() { self.queue.len() } else { 0 },
        }
    }

    /// Counts what a context that is being destroyed leaves behind.
    pub fn count_leaks(&mut self, context: Handle) {
        let left = self.census(Some(context));
        self.log.leaked.add(&left);
    }

    /// All that is known, as one JSON object.
    pub fn report(&self) -> Value {
        let log = &self.log;
        let calls: u64 = log.calls.values().sum();
        json!({
            "schema_version": 1,
            "gpu": self.settings.gpu.name,
            "calls": { "total": calls, "by_name": log.calls },
            "live": self.census(None).json(),
            "leaked": log.leaked.json(),
            "last_failure": log.last_failure.as_ref().map(|(name, failure)| json!({
                "call": name,
                "code": failure.code.0,
                "name": failure.code.name().map(|n| n.to_string_lossy()),
                "detail": failure.detail,
            })),
            "findings_in_all": log.findings_in_all,
            "findings": findings(&log.findings),
            "launches_in_all": log.launches,
            "launches": log.kept.iter().map(|l| launch(l, &self.settings.gpu)).collect::<Vec<_>>(),
        })
    }
}

/// A launch as the emulator's own JSON has it, with its shape.
fn launch(record: &LaunchRecord, gpu: &Gpu) -> Value {
    let mut object = ptx_emulator::report::json(&record.report, &[record.report.counters.lower_bound(gpu)]);
    object["kernel"] = json!(record.kernel);
    object["grid"] = json!(record.grid);
    object["block"] = json!(record.block);
    object["dynamic_shared"] = json!(record.dynamic_shared);
    object
}

/// Findings as the emulator's own JSON has them.
fn findings(findings: &[Finding]) -> Value {
    let report = Report { findings: findings.to_vec(), ..Report::default() };
    ptx_emulator::report::json(&report, &[])["findings"].take()
}
