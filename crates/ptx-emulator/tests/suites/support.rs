//! What the suites share: the committed PTX, buffers described as on the command line, launches.

use std::path::PathBuf;

use ptx_emulator::{Launch, LoadedModule, Memory, Module, Options, ParameterBytes, Report};

/// The text of a file beside these tests.
pub fn text(path: &str) -> String {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(path);
    std::fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

/// A module of the committed PTX.
pub fn module(path: &str) -> Module {
    Module::parse(&text(path), path).unwrap_or_else(|e| panic!("{e}"))
}

/// Numbers that follow from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        (self.bits() >> 32) as u32
    }

    /// A number of -1 ..= 1 that is a multiple of 2⁻⁶, so that sums of products of a few thousand are exact in f32.
    pub fn f32(&mut self) -> f32 {
        (self.u32() % 129) as f32 / 64.0 - 1.0
    }
}

/// Bytes of 32-bit values.
pub fn bytes_of<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| to_bytes(*v)).collect()
}

/// A memory with one module in it.
pub struct Device {
    /// Its memory.
    pub memory: Memory,
    /// The module.
    pub module: LoadedModule,
}

impl Device {
    /// An empty memory with the module loaded.
    pub fn new(module: &Module) -> Self {
        let mut memory = Memory::new();
        let module = memory.load_module(module).expect("memory is empty");
        Self { memory, module }
    }

    /// A buffer that holds `bytes`.
    pub fn buffer(&mut self, bytes: &[u8]) -> u64 {
        let address = self.memory.allocate(bytes.len() as u64).expect("memory is large");
        self.memory.write(address, bytes).expect("the buffer has that length");
        address
    }

    /// A buffer that nothing was written to.
    pub fn empty(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes as u64).expect("memory is large")
    }

    /// A buffer of f32 values.
    pub fn f32s(&mut self, values: &[f32]) -> u64 {
        self.buffer(&bytes_of(values, f32::to_le_bytes))
    }

    /// A buffer of u32 values.
    pub fn u32s(&mut self, values: &[u32]) -> u64 {
        self.buffer(&bytes_of(values, u32::to_le_bytes))
    }

    /// Bytes of a buffer.
    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read(address, &mut data).expect("the buffer has that length");
        data
    }

    /// Launches a kernel.
    pub fn launch(&mut self, shape: &Shape<'_>, parameters: &ParameterBytes, options: &Options) -> Report {
        let launch = Launch {
            kernel: shape.kernel,
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.shared,
            parameters: parameters.bytes(),
            options: options.clone(),
        };
        launch.run(&self.module, &mut self.memory).unwrap_or_else(|e| panic!("{}: {e}", shape.kernel))
    }
}

/// A kernel and the shape of its launch.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// Name.
    pub kernel: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
}
