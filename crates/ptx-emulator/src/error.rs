//! What can go wrong before a kernel runs. What a kernel itself does wrong is a [`Finding`](crate::Finding).

use std::fmt;

/// PTX that cannot be read, or an instruction that the emulator does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Name given to [`Module::parse`](crate::Module::parse), usually the PTX file's path.
    pub file: String,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// Column in the PTX text, from 1, in bytes.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// The instruction or declaration at fault, as written; empty where there is none.
    pub text: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.text.is_empty() {
            write!(f, ": `{}`", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

/// A host-side access to device memory that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The allocation would exceed [`Memory::total_bytes`](crate::Memory::total_bytes).
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes that were still free.
        available: u64,
    },
    /// The address lies in no allocation.
    UnknownAddress {
        /// The address.
        address: u64,
    },
    /// The address lies in an allocation that was freed.
    Freed {
        /// The address.
        address: u64,
    },
    /// The range leaves the allocation that it starts in.
    OutOfBounds {
        /// First address of the range.
        address: u64,
        /// Bytes of the range.
        bytes: u64,
        /// Bytes of the allocation after that address.
        available: u64,
    },
    /// [`Memory::free`](crate::Memory::free) of an address that is not the start of an allocation.
    NotAllocationStart {
        /// The address.
        address: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { requested, available } => {
                write!(f, "out of device memory: {requested} bytes asked for, {available} free")
            }
            Self::UnknownAddress { address } => write!(f, "{address:#x} lies in no allocation"),
            Self::Freed { address } => write!(f, "{address:#x} lies in an allocation that was freed"),
            Self::OutOfBounds { address, bytes, available } => {
                write!(
                    f,
                    "{bytes} bytes at {address:#x} leave the allocation, which has {available} bytes there"
                )
            }
            Self::NotAllocationStart { address } => {
                write!(f, "{address:#x} is not the start of an allocation")
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// A launch that cannot be started, through its caller's fault.
///
/// Limits of the GPU that a launch exceeds are not errors of this kind but findings
/// ([`FindingKind::LaunchLimit`](crate::FindingKind::LaunchLimit)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The module has no kernel of that name.
    UnknownKernel {
        /// Name asked for.
        name: String,
        /// Names that the module has.
        known: Vec<String>,
    },
    /// The parameter bytes do not have the kernel's length.
    ParameterBytes {
        /// Bytes that the kernel declares.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
    /// The loaded module's variables do not live in the memory given to the launch.
    ForeignMemory,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKernel { name, known } => {
                write!(f, "no kernel `{name}`; the module has {}", known.join(", "))
            }
            Self::ParameterBytes { expected, given } => {
                write!(f, "the kernel takes {expected} bytes of parameters, {given} were given")
            }
            Self::ForeignMemory => write!(f, "the module was loaded into another memory"),
        }
    }
}

impl std::error::Error for LaunchError {}
