//! The committed kernels on the PTX emulator: memory, and launches with every check on.

use ptx_emulator::{Launch, LoadedModule, Memory, Module, Options, ParameterBytes, Report};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An emulated GPU with the kernels of one folder.
pub struct Machine {
    memory: Memory,
    ptx: PathBuf,
    modules: BTreeMap<String, LoadedModule>,
    seed: Option<u64>,
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Machine {
    /// With the PTX files of `kernels/ptx`; blocks and warps run in the natural order, or in one shuffled by `seed`.
    pub fn new(seed: Option<u64>) -> Self {
        let ptx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/ptx");
        Self { memory: Memory::new(), ptx, modules: BTreeMap::new(), seed }
    }

    /// A buffer with these bytes.
    ///
    /// # Panics
    /// The emulated memory is full.
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.memory.allocate(bytes.len().max(1) as u64).expect("there is room");
        self.memory.write(at, bytes).expect("it has just been allocated");
        at
    }

    /// A buffer with these values.
    ///
    /// # Panics
    /// As [`Machine::bytes`].
    pub fn floats(&mut self, values: &[f32]) -> u64 {
        self.bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// A buffer with these values.
    ///
    /// # Panics
    /// As [`Machine::bytes`].
    pub fn ints(&mut self, values: &[i32]) -> u64 {
        self.bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// A buffer with these values rounded to bf16, to nearest, ties to even.
    ///
    /// # Panics
    /// As [`Machine::bytes`].
    pub fn bf16(&mut self, values: &[f32]) -> u64 {
        self.bytes(
            &values
                .iter()
                .flat_map(|&v| ((to_bf16(v).to_bits() >> 16) as u16).to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }

    /// A buffer of so many bytes that nothing has written: reading one before it is written is a finding.
    ///
    /// # Panics
    /// As [`Machine::bytes`].
    pub fn empty(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes.max(1) as u64).expect("there is room")
    }

    /// Bytes of a buffer.
    ///
    /// # Panics
    /// It is shorter, or part of it has not been written.
    pub fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        assert!(
            self.memory.is_initialised(at, bytes as u64).expect("a buffer"),
            "a kernel left part of its target unwritten"
        );
        let mut out = vec![0; bytes];
        self.memory.read(at, &mut out).expect("a buffer");
        out
    }

    /// Values of a buffer.
    ///
    /// # Panics
    /// As [`Machine::read`].
    pub fn read_floats(&self, at: u64, count: usize) -> Vec<f32> {
        self.read(at, 4 * count).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// bf16 values of a buffer.
    ///
    /// # Panics
    /// As [`Machine::read`].
    pub fn read_bf16(&self, at: u64, count: usize) -> Vec<f32> {
        let bytes = self.read(at, 2 * count);
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
            .collect()
    }

    /// Runs a kernel of `file`.ptx with all checks on.
    ///
    /// # Errors
    /// What was found, in words; the kernel does not exist or takes other parameters.
    pub fn launch(
        &mut self,
        file: &str,
        kernel: &str,
        shape: Shape,
        parameters: &ParameterBytes,
    ) -> Result<Report, String> {
        if !self.modules.contains_key(file) {
            let path = self.ptx.join(format!("{file}.ptx"));
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let module = Module::parse(&text, &format!("{file}.ptx")).map_err(|e| e.to_string())?;
            let loaded = self.memory.load_module(&module).map_err(|e| e.to_string())?;
            self.modules.insert(file.to_owned(), loaded);
        }
        let launch = Launch {
            kernel,
            grid: shape.grid,
            block: [shape.threads, 1, 1],
            dynamic_shared: shape.shared,
            parameters: parameters.bytes(),
            options: Options { seed: self.seed, ..Options::default() },
        };
        let report =
            launch.run(&self.modules[file], &mut self.memory).map_err(|e| format!("{kernel}: {e}"))?;
        if report.findings.is_empty() && report.stopped.is_none() {
            return Ok(report);
        }
        let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        Err(format!("{kernel}: stopped: {:?}\n{}", report.stopped, findings.join("\n")))
    }
}

/// Rounds to the nearest bf16, ties to even. For finite values.
pub fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
