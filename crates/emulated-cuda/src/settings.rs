//! What is stood in for and how strictly: from the environment, and by [`set`](Settings::set) while the program runs.

use ptx_emulator::{Checks, Gpu, Options};

use crate::fault::Faults;

/// When queued work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As late as the program allows: only what a wait, a query or a synchronous call needs. A missing wait then shows.
    Late,
    /// As soon as it is queued.
    Early,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub gpu: Gpu,
    /// 0 or 1.
    pub devices: i32,
    /// Bytes of device memory.
    pub memory: u64,
    pub checks: Checks,
    pub counters: bool,
    pub seed: Option<u64>,
    pub parallel: bool,
    pub order: Order,
    /// As `cuDriverGetVersion` tells it: 1000 × major + 10 × minor.
    pub driver_version: i32,
    pub instruction_limit: u64,
    pub faults: Faults,
}

/// Names of the settings; the environment's variables are these in capitals behind `EMULATED_CUDA_`.
pub(crate) const NAMES: [&str; 11] = [
    "gpu",
    "devices",
    "memory",
    "checks",
    "counters",
    "seed",
    "threads",
    "order",
    "driver_version",
    "instruction_limit",
    "faults",
];

impl Default for Settings {
    fn default() -> Self {
        let gpu = Gpu::a100();
        Self {
            memory: gpu.memory_bytes,
            gpu,
            devices: 1,
            checks: Checks::all(),
            counters: true,
            seed: None,
            parallel: true,
            order: Order::Late,
            driver_version: 12080,
            instruction_limit: Options::default().instruction_limit,
            faults: Faults::default(),
        }
    }
}

impl Settings {
    /// The settings that the environment asks for, and what is wrong with it.
    pub fn from_environment() -> (Self, Option<String>) {
        let mut settings = Self::default();
        let mut wrong = None;
        for name in NAMES {
            let variable = format!("EMULATED_CUDA_{}", name.to_ascii_uppercase());
            let Some(value) = std::env::var_os(&variable) else { continue };
            if let Err(e) = settings.set(name, &value.to_string_lossy()) {
                wrong.get_or_insert(format!("{variable}: {e}"));
            }
        }
        (settings, wrong)
    }

    /// Sets one setting by name. The error says what is accepted.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = |what: &str| {
            value
                .trim()
                .parse::<u64>()
                .map_err(|_| format!("`{value}` is not {what}: a whole number is wanted"))
        };
        let choice = |names: [&str; 2]| {
            let found = names.iter().position(|n| *n == value.trim());
            found.ok_or_else(|| format!("`{value}`: `{}` or `{}` is wanted", names[0], names[1]))
        };
        match name {
            "gpu" => {
                let gpu = Gpu::named(value)
                    .ok_or_else(|| format!("no GPU `{value}`; there are {}", Gpu::NAMES.join(", ")))?;
                // A size that was set by hand stays.
                if self.memory == self.gpu.memory_bytes {
                    self.memory = gpu.memory_bytes;
                }
                self.gpu = gpu;
            }
            "devices" => self.devices = choice(["0", "1"])? as i32,
            "memory" => self.memory = number("a number of bytes")?,
            "checks" => self.checks = [Checks::all(), Checks::none()][choice(["all", "none"])?],
            "counters" => self.counters = choice(["off", "on"])? == 1,
            "seed" if value.trim().is_empty() => self.seed = None,
            "seed" => self.seed = Some(number("a seed")?),
            "threads" => self.parallel = choice(["1", "all"])? == 1,
            "order" => self.order = [Order::Late, Order::Early][choice(["late", "early"])?],
            "driver_version" => {
                let version = number("a version such as 12080")?;
                self.driver_version =
                    i32::try_from(version).map_err(|_| format!("`{value}` is not a version"))?;
            }
            "instruction_limit" => self.instruction_limit = number("a number of instructions")?,
            "faults" => self.faults = Faults::parse(value)?,
            _ => return Err(format!("no setting `{name}`; there are {}", NAMES.join(", "))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_refused() {
        let mut s = Settings::default();
        s.set("gpu", "h200").unwrap();
        assert_eq!((s.gpu.multiprocessors, s.memory), (132, 141_000_000_000));
        s.set("memory", "1000").unwrap();
        s.set("gpu", "rtx4090").unwrap();
        assert_eq!(s.memory, 1000);
        s.set("checks", "none").unwrap();
        assert_eq!(s.checks, Checks::none());
        s.set("seed", "7").unwrap();
        assert_eq!(s.seed, Some(7));
        s.set("seed", "").unwrap();
        assert_eq!(s.seed, None);
        assert!(s.set("gpu", "voodoo").unwrap_err().contains("a100"));
        assert!(s.set("order", "never").unwrap_err().contains("early"));
        assert!(s.set("colour", "red").unwrap_err().contains("faults"));
        assert!(s.set("memory", "much").is_err());
    }
}
