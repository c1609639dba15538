//! Modules: PTX text, read and decoded.

use std::sync::Arc;

use crate::error::ParseError;

/// One parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the PTX, such as `sgemm_param_0`.
    pub name: String,
    /// Offset in the parameter bytes.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// Registers that a kernel declares, by class. PTX registers are virtual: the assembler decides how many a thread takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Predicates.
    pub predicates: u32,
    /// Registers of 8 or 16 bits.
    pub bits16: u32,
    /// Registers of 32 bits.
    pub bits32: u32,
    /// Registers of 64 bits.
    pub bits64: u32,
}

/// A kernel's name and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name as in the PTX (mangled, for C++ kernels without `extern "C"`).
    pub name: String,
    /// Line of its `.entry` in the PTX, from 1.
    pub ptx_line: u32,
    /// Parameters in order.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters together.
    pub parameter_bytes: usize,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Whether it names dynamic shared memory (`.extern .shared`).
    pub uses_dynamic_shared: bool,
    /// Local memory of a thread in bytes.
    pub local_bytes: u32,
    /// Declared registers.
    pub registers: Registers,
    /// Instructions after decoding, called functions included.
    pub instructions: usize,
    /// `.maxntid`: threads that a block has at most.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: threads that a block must have.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`: blocks that a multiprocessor should hold.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`: registers that a thread has at most.
    pub max_registers: Option<u32>,
    /// `.target`, such as `sm_80`.
    pub target: String,
    /// `.version`, major and minor.
    pub ptx_version: (u32, u32),
}

/// PTX, read and decoded, ready to be loaded into a [`Memory`](crate::Memory). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) inner: Arc<ModuleData>,
}

#[derive(Debug, Default)]
pub(crate) struct ModuleData {
    pub name: String,
    pub kernels: Vec<KernelInfo>,
    pub codes: Vec<crate::code::Code>,
    pub variables: Vec<Variable>,
}

/// A module-scope `.global` or `.const` variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variable {
    pub name: String,
    pub bytes: u64,
    /// Initial bytes; the rest is zeros.
    pub data: Vec<u8>,
    pub relocations: Vec<Relocation>,
}

/// Eight bytes of a variable's initial value that are another variable's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub offset: usize,
    pub symbol: String,
    pub addend: u64,
}

impl Module {
    /// Reads PTX text. `name` is what errors and findings call it, usually the file's path.
    ///
    /// # Errors
    /// Text that is not PTX, and instructions that the emulator does not know, with line, column and the text.
    pub fn parse(source: &str, name: &str) -> Result<Self, ParseError> {
        let text = crate::ptx::parse(source, name)?;
        Ok(Self { inner: Arc::new(crate::decode::module(&text, name)?) })
    }

    /// The name given to [`Module::parse`].
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The kernels, in the order of the text.
    pub fn kernels(&self) -> &[KernelInfo] {
        &self.inner.kernels
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.inner.kernels.iter().find(|k| k.name == name)
    }
}
