//! Doing queued work: copies, fills, launches, host functions, graphs.

use std::ffi::c_void;

use ptx_emulator::{FindingKind, Launch as EmulatorLaunch, MemoryError, Options, Report, Stop};

use crate::driver::{Driver, Handle, in_host_function};
use crate::queue::{HostBytes, HostFunction, Launch, Work};
use crate::report::LaunchRecord;
use crate::status::{CUresult, Failure, Result};

/// What hardware would say of memory that an operation names and that is not there (any more) when it runs.
pub(crate) fn memory_failure(error: &MemoryError) -> Failure {
    let code = match error {
        MemoryError::OutOfMemory { .. } => CUresult::ERROR_OUT_OF_MEMORY,
        _ => CUresult::ERROR_ILLEGAL_ADDRESS,
    };
    Failure::new(code, error.to_string())
}

impl Driver {
    /// Does one piece of work.
    pub fn perform(&self, work: &Work) -> Result {
        match work {
            Work::Nothing => Ok(()),
            Work::Record(event) => {
                self.reached(*event);
                Ok(())
            }
            Work::ToDevice { to, from: HostBytes::Staged(bytes) } => self.write(*to, bytes),
            Work::ToDevice { to, from: HostBytes::At(pointer, bytes) } => {
                // SAFETY: the program keeps memory that it gave to a copy valid until the copy is done: that is what the
                // driver's documentation demands for pinned memory and for copies in graphs.
                let bytes = unsafe { std::slice::from_raw_parts(*pointer as *const u8, *bytes) };
                self.write(*to, bytes)
            }
            Work::ToHost { to, from, bytes } => {
                // SAFETY: as above; the program does not touch the target before it has waited for the copy.
                let into = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) };
                self.memory().read(*from, into).map_err(|e| memory_failure(&e))
            }
            Work::OnDevice { to, from, bytes } => {
                self.memory().copy(*to, *from, *bytes).map_err(|e| memory_failure(&e))
            }
            Work::Fill { to, pattern, width, count } => {
                let pattern = &pattern[..*width];
                self.memory().fill_pattern(*to, pattern, *count).map_err(|e| memory_failure(&e))
            }
            Work::Free(address) => self.free_now(*address),
            Work::Launch(launch) => self.run_launch(launch),
            Work::Call(function, data) => {
                call_host(*function, *data);
                Ok(())
            }
            Work::Graph(graph) => {
                let seed = self.state().settings.seed;
                graph.order(seed).into_iter().try_for_each(|node| self.perform(graph.work(node)))
            }
        }
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result {
        self.memory().write(to, bytes).map_err(|e| memory_failure(&e))
    }

    /// An event has been reached.
    fn reached(&self, event: Handle) {
        let mut state = self.state();
        let now = state.clock;
        if let Some(event) = state.events.get_mut(&event) {
            event.time = now;
        }
    }

    /// Gives a buffer's memory back.
    pub fn free_now(&self, address: u64) -> Result {
        let freed = self.memory().free(address);
        let mut state = self.state();
        if let Some(buffer) = state.buffers.remove(&address)
            && let Some(pool) = buffer.pool.and_then(|p| state.pools.get_mut(&p))
        {
            pool.used -= buffer.bytes;
        }
        freed.map_err(|e| memory_failure(&e))
    }

    fn run_launch(&self, launch: &Launch) -> Result {
        let mut state = self.state();
        state.settings.faults.launch().map_err(|mut failure| {
            failure.detail = failure.detail.map(|d| format!("kernel {}: {d}", launch.kernel));
            failure
        })?;
        let settings = &state.settings;
        let options = Options {
            checks: settings.checks,
            counters: settings.counters,
            seed: settings.seed,
            parallel: settings.parallel,
            gpu: settings.gpu.clone(),
            cooperative: launch.cooperative,
            instruction_limit: settings.instruction_limit,
        };
        let gpu = settings.gpu.clone();
        drop(state);
        let emulated = EmulatorLaunch {
            kernel: &launch.kernel,
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            parameters: &launch.parameters,
            options,
        };
        let report = emulated
            .run(&launch.module, &mut self.memory())
            .map_err(|e| Failure::new(CUresult::ERROR_LAUNCH_FAILED, e.to_string()))?;
        let verdict = verdict(&launch.kernel, &report);
        let mut state = self.state();
        state.clock += report.counters.lower_bound(&gpu).seconds();
        state.log.launched(LaunchRecord {
            kernel: launch.kernel.clone(),
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            report,
        });
        drop(state);
        verdict
    }
}

fn call_host(function: HostFunction, data: usize) {
    // SAFETY: the program gave function and argument together to `cuLaunchHostFunc`, to be called once it is its turn.
    in_host_function(|| unsafe { function(data as *mut c_void) });
}

/// The error by which real hardware would tell a launch's worst finding; where it would tell none, a launch failure.
fn verdict(kernel: &str, report: &Report) -> Result {
    let code = |kind| match kind {
        FindingKind::OutOfBounds | FindingKind::UseAfterFree => CUresult::ERROR_ILLEGAL_ADDRESS,
        FindingKind::Misaligned => CUresult::ERROR_MISALIGNED_ADDRESS,
        FindingKind::Deadlock => CUresult::ERROR_LAUNCH_TIMEOUT,
        FindingKind::LaunchLimit => CUresult::ERROR_LAUNCH_OUT_OF_RESOURCES,
        _ => CUresult::ERROR_LAUNCH_FAILED,
    };
    // What hardware notices comes first: the rest may only be its consequence.
    let noticed = |kind| code(kind) != CUresult::ERROR_LAUNCH_FAILED;
    let findings = &report.findings;
    let worst = findings.iter().find(|f| noticed(f.kind)).or(findings.first());
    let more = match findings.len() {
        0 | 1 => String::new(),
        n => format!(" ({} more findings)", n - 1),
    };
    match (worst, report.stopped) {
        // Programs print a driver's words on one line.
        (Some(finding), _) => {
            let words = finding.to_string().replace("\n  ", "; ");
            Err(Failure::new(code(finding.kind), format!("{words}{more}")))
        }
        (None, None) => Ok(()),
        (None, Some(Stop::Trap)) => {
            Err(Failure::new(CUresult::ERROR_ASSERT, format!("kernel {kernel}: a thread executed `trap`")))
        }
        (None, Some(Stop::Deadlock)) => {
            Err(Failure::new(CUresult::ERROR_LAUNCH_TIMEOUT, format!("kernel {kernel}: warps wait for ever")))
        }
        (None, Some(Stop::LaunchLimit)) => Err(Failure::new(
            CUresult::ERROR_LAUNCH_OUT_OF_RESOURCES,
            format!("kernel {kernel}: the launch exceeds a limit"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptx_emulator::{Finding, Space};

    fn finding(kind: FindingKind) -> Finding {
        Finding {
            kind,
            space: Space::Global,
            kernel: "k".into(),
            block: [1, 0, 0],
            warp: 2,
            lane: 3,
            file: "k.cu".into(),
            line: 12,
            ptx_line: 40,
            instruction: "ld.global.f32 %f1, [%rd1]".into(),
            message: "4 bytes".into(),
            count: 1,
        }
    }

    #[test]
    fn the_verdict_is_what_hardware_would_notice() {
        assert!(verdict("k", &Report::default()).is_ok());
        let report = Report {
            findings: vec![finding(FindingKind::UninitialisedRead), finding(FindingKind::Misaligned)],
            ..Report::default()
        };
        let failure = verdict("k", &report).unwrap_err();
        assert_eq!(failure.code, CUresult::ERROR_MISALIGNED_ADDRESS);
        let words = failure.detail.unwrap();
        assert!(
            words.contains("k.cu:12") && words.contains("warp 2, lane 3") && words.contains("1 more"),
            "{words}"
        );
        let report = Report { findings: vec![finding(FindingKind::SharedRace)], ..Report::default() };
        assert_eq!(verdict("k", &report).unwrap_err().code, CUresult::ERROR_LAUNCH_FAILED);
        let report = Report { stopped: Some(Stop::Trap), ..Report::default() };
        assert_eq!(verdict("k", &report).unwrap_err().code, CUresult::ERROR_ASSERT);
    }
}
