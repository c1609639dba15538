//! Faults on demand: what fails, at which call.

use crate::status::{CUresult, Failure, Result};

/// What a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Calls of the driver's functions, errors' names and words apart.
    Call,
    /// Allocations: of device memory, from pools, of pinned memory.
    Alloc,
    /// Kernel launches, those that a graph replays among them.
    Launch,
    /// As `Call`, and all that follow fail too: the GPU has fallen off the bus.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    what: What,
    /// Counted from 1, from when the faults were set.
    at: u64,
    code: CUresult,
}

/// A plan of faults, and how far it has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    plan: Vec<Fault>,
    calls: u64,
    allocations: u64,
    launches: u64,
}

impl Faults {
    /// Reads `call:17, alloc:3, launch:2=700, lost:40=CUDA_ERROR_UNKNOWN`: what, the how-manieth, and the code where it
    /// is not the usual one. Nothing means no faults.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut plan = Vec::new();
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let wrong = || {
                format!("`{item}`: WHAT:N or WHAT:N=CODE is wanted, WHAT one of call, alloc, launch, lost")
            };
            let (what, rest) = item.split_once(':').ok_or_else(wrong)?;
            let (at, code) = rest.split_once('=').map_or((rest, None), |(at, code)| (at, Some(code)));
            let (what, usual) = match what.trim() {
                "call" => (What::Call, CUresult::ERROR_UNKNOWN),
                "alloc" => (What::Alloc, CUresult::ERROR_OUT_OF_MEMORY),
                "launch" => (What::Launch, CUresult::ERROR_LAUNCH_FAILED),
                "lost" => (What::Lost, CUresult::ERROR_UNKNOWN),
                _ => return Err(wrong()),
            };
            let at = at.trim().parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
            let code = match code {
                None => usual,
                Some(code) => CUresult::parse(code.trim())
                    .filter(|c| *c != CUresult::SUCCESS)
                    .ok_or_else(|| format!("`{item}`: no error code `{code}`"))?,
            };
            plan.push(Fault { what, at, code });
        }
        Ok(Self { plan, ..Self::default() })
    }

    fn hit(&self, what: What, count: u64, words: &str) -> Result {
        match self.plan.iter().find(|f| f.what == what && f.at == count) {
            Some(fault) => Err(Failure::new(fault.code, format!("fault on demand at {words} {count}"))),
            None => Ok(()),
        }
    }

    /// Counts a call; fails when it is its turn.
    pub fn call(&mut self) -> Result {
        self.calls += 1;
        if let Some(lost) = self.plan.iter().find(|f| f.what == What::Lost && f.at <= self.calls) {
            let detail = format!("fault on demand: the device is lost since call {}", lost.at);
            return Err(Failure::new(lost.code, detail));
        }
        self.hit(What::Call, self.calls, "call")
    }

    /// Counts an allocation; fails when it is its turn.
    pub fn allocation(&mut self) -> Result {
        self.allocations += 1;
        self.hit(What::Alloc, self.allocations, "allocation")
    }

    /// Counts a launch; fails when it is its turn.
    pub fn launch(&mut self) -> Result {
        self.launches += 1;
        self.hit(What::Launch, self.launches, "launch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let mut faults = Faults::parse("alloc:2, call:3=700").unwrap();
        assert!(faults.allocation().is_ok());
        assert_eq!(faults.allocation().unwrap_err().code, CUresult::ERROR_OUT_OF_MEMORY);
        assert!(faults.allocation().is_ok());
        let calls: Vec<bool> = (0..4).map(|_| faults.call().is_ok()).collect();
        assert_eq!(calls, [true, true, false, true]);
        for wrong in ["alloc", "alloc:0", "alloc:x", "fire:1", "call:1=0", "call:1=NOPE"] {
            assert!(Faults::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Faults::parse("").unwrap().call().is_ok());
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let mut faults = Faults::parse("lost:2").unwrap();
        let calls: Vec<bool> = (0..4).map(|_| faults.call().is_ok()).collect();
        assert_eq!(calls, [true, false, false, false]);
    }
}
