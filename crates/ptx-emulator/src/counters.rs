//! What a launch did, in exact counts that do not depend on how many threads the emulator uses.

use crate::gpu::Gpu;

/// Classes that instructions are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum InstructionClass {
    /// Integer and bit arithmetic.
    Integer,
    /// f32 arithmetic.
    F32,
    /// f64 arithmetic.
    F64,
    /// f16 and bf16 arithmetic, packed or not.
    F16,
    /// `cvt`.
    Conversion,
    /// `ex2`, `lg2`, `sin`, `cos`, `rcp`, `rsqrt`, `sqrt`, `tanh`, f32 division.
    Special,
    /// `setp`, `set`, `selp` and logic of predicates.
    Compare,
    /// `mov`, `cvta` and reads of special registers and kernel parameters.
    Move,
    /// Branches, calls, returns, exits.
    Control,
    /// Barriers of a block or a warp.
    Barrier,
    /// Loads from global or constant memory.
    GlobalLoad,
    /// Stores to global memory.
    GlobalStore,
    /// Loads from shared memory, `ldmatrix` among them.
    SharedLoad,
    /// Stores to shared memory, `stmatrix` among them.
    SharedStore,
    /// Loads from local memory.
    LocalLoad,
    /// Stores to local memory.
    LocalStore,
    /// `atom` and `red`, in whatever memory.
    Atomic,
    /// `cp.async` and its groups.
    AsyncCopy,
    /// `mma`.
    Tensor,
    /// Shuffles, votes, matches, warp reductions.
    Warp,
    /// Memory fences.
    Fence,
    /// All others.
    Other,
}

impl InstructionClass {
    /// All classes, in the order of their declaration.
    pub const ALL: [Self; 22] = [
        Self::Integer,
        Self::F32,
        Self::F64,
        Self::F16,
        Self::Conversion,
        Self::Special,
        Self::Compare,
        Self::Move,
        Self::Control,
        Self::Barrier,
        Self::GlobalLoad,
        Self::GlobalStore,
        Self::SharedLoad,
        Self::SharedStore,
        Self::LocalLoad,
        Self::LocalStore,
        Self::Atomic,
        Self::AsyncCopy,
        Self::Tensor,
        Self::Warp,
        Self::Fence,
        Self::Other,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Conversion => "conversion",
            Self::Special => "special",
            Self::Compare => "compare",
            Self::Move => "move",
            Self::Control => "control",
            Self::Barrier => "barrier",
            Self::GlobalLoad => "global-load",
            Self::GlobalStore => "global-store",
            Self::SharedLoad => "shared-load",
            Self::SharedStore => "shared-store",
            Self::LocalLoad => "local-load",
            Self::LocalStore => "local-store",
            Self::Atomic => "atomic",
            Self::AsyncCopy => "async-copy",
            Self::Tensor => "tensor",
            Self::Warp => "warp",
            Self::Fence => "fence",
            Self::Other => "other",
        }
    }
}

/// How often instructions ran: once a warp, and once a lane that took part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Instructions issued for a warp, among them those whose guard was false for all lanes.
    pub warp: u64,
    /// Active lanes, summed over those.
    pub lanes: u64,
}

/// Requests to global (and constant) memory. A request is one warp's instruction; sectors are 32 bytes, each counted once a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalCounters {
    /// Requests.
    pub requests: u64,
    /// 32-byte sectors that they touched.
    pub sectors: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
}

impl GlobalCounters {
    /// Bytes asked for over bytes of the sectors touched. 1 when each sector is used whole; above 1 when lanes share bytes. 0 without requests.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 0.0 } else { self.bytes as f64 / (self.sectors as f64 * 32.0) }
    }
}

/// Requests to shared memory.
///
/// A wavefront moves 32 banks of 4 bytes. Lanes that read the same 4-byte word share it; two words of one bank take two
/// wavefronts. 64-bit accesses are served by half warps and 128-bit accesses by quarter warps, each on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedCounters {
    /// Requests.
    pub requests: u64,
    /// Wavefronts that they took.
    pub wavefronts: u64,
    /// Wavefronts that they would take without bank conflicts.
    pub ideal_wavefronts: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
}

/// Counts of one source line (of one PTX line where the PTX carries no line information).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineCounters {
    /// Source file.
    pub file: String,
    /// Line in it, from 1.
    pub line: u32,
    /// Instructions.
    pub executed: Executed,
    /// Global loads and asynchronous copies.
    pub global_loads: GlobalCounters,
    /// Global stores and atomics.
    pub global_stores: GlobalCounters,
    /// Shared loads, stores and atomics.
    pub shared: SharedCounters,
    /// Branches, one a warp.
    pub branches: u64,
    /// Branches whose lanes went both ways.
    pub divergent_branches: u64,
    /// Arithmetic: f16, f32, f64 and tensor cores together; a fused multiply-add is two.
    pub flops: u64,
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
    /// All instructions.
    pub executed: Executed,
    /// Instructions by class, indexed by `InstructionClass as usize`; see [`Counters::class`].
    pub classes: [Executed; InstructionClass::ALL.len()],
    /// Global loads, constant loads and the global side of asynchronous copies.
    pub global_loads: GlobalCounters,
    /// Global stores and atomics.
    pub global_stores: GlobalCounters,
    /// Shared loads, `ldmatrix` among them.
    pub shared_loads: SharedCounters,
    /// Shared stores, atomics and the shared side of asynchronous copies.
    pub shared_stores: SharedCounters,
    /// Bytes that lanes loaded from or stored to local memory.
    pub local_bytes: u64,
    /// Branches, one a warp.
    pub branches: u64,
    /// Branches whose lanes went both ways.
    pub divergent_branches: u64,
    /// Barriers of the block, one a warp that arrives.
    pub barriers: u64,
    /// f16 and bf16 operations without tensor cores; a fused multiply-add is two, a packed one four.
    pub f16_flops: u64,
    /// f32 operations; a fused multiply-add is two.
    pub f32_flops: u64,
    /// f64 operations; a fused multiply-add is two.
    pub f64_flops: u64,
    /// Tensor-core operations on f16 or bf16, a multiply-add is two.
    pub tensor_f16_flops: u64,
    /// Tensor-core operations on tf32, a multiply-add is two.
    pub tensor_tf32_flops: u64,
    /// Tensor-core operations on integers, a multiply-add is two.
    pub tensor_int_ops: u64,
    /// Counts by source line, in the order of file and line.
    pub lines: Vec<LineCounters>,
}

/// Times that a launch cannot go below, in seconds, from its counts and a GPU's peak rates. Bounds, not predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct LowerBound {
    /// The GPU's name.
    pub gpu: &'static str,
    /// Each resource's own bound in seconds: `(resource, seconds)`, the longest first.
    pub resources: Vec<(&'static str, f64)>,
}

impl LowerBound {
    /// The longest of the bounds, in seconds; 0 when nothing was counted.
    pub fn seconds(&self) -> f64 {
        self.resources.first().map_or(0.0, |r| r.1)
    }

    /// The resource of the longest bound.
    pub fn resource(&self) -> &'static str {
        self.resources.first().map_or("nothing", |r| r.0)
    }
}

impl Counters {
    /// Instructions of one class.
    pub fn class(&self, class: InstructionClass) -> Executed {
        self.classes[class as usize]
    }

    /// All floating-point operations, tensor cores included.
    pub fn flops(&self) -> u64 {
        self.f16_flops + self.f32_flops + self.f64_flops + self.tensor_f16_flops + self.tensor_tf32_flops
    }

    /// Times that these counts need at least on `gpu` at its peak rates, all of its multiprocessors busy.
    ///
    /// Each resource is taken alone: count ÷ (rate × multiprocessors × clock), or operations ÷ peak rate. Global memory is
    /// bounded by the L2 cache's side (64 bytes a clock and multiprocessor for the sectors requested), because how many
    /// of the sectors reach device memory depends on caches that are not modelled. PTX is not the machine code that runs:
    /// the assembler may drop or add instructions, so bounds from instruction counts are of the PTX as written.
    pub fn lower_bound(&self, gpu: &Gpu) -> LowerBound {
        let clocks = f64::from(gpu.multiprocessors) * gpu.clock_hz;
        let lanes = |c: InstructionClass| self.class(c).lanes as f64;
        let sectors = (self.global_loads.sectors + self.global_stores.sectors) as f64;
        let wavefronts = (self.shared_loads.wavefronts + self.shared_stores.wavefronts) as f64;
        let mut resources = vec![
            ("instruction issue", self.executed.warp as f64 / (4.0 * clocks)),
            ("f32 arithmetic", self.f32_flops as f64 / gpu.f32_flops),
            ("f64 arithmetic", self.f64_flops as f64 / gpu.f64_flops),
            ("f16 arithmetic", self.f16_flops as f64 / gpu.f16_flops),
            (
                "tensor cores",
                self.tensor_f16_flops as f64 / gpu.tensor_f16_flops
                    + self.tensor_tf32_flops as f64 / gpu.tensor_tf32_flops
                    + self.tensor_int_ops as f64 / gpu.tensor_int8_ops,
            ),
            (
                "integer arithmetic",
                lanes(InstructionClass::Integer) / (f64::from(gpu.integer_lanes) * clocks),
            ),
            ("special functions", lanes(InstructionClass::Special) / (f64::from(gpu.special_lanes) * clocks)),
            ("shared memory", wavefronts / clocks),
            ("global sectors at L1", sectors * 32.0 / (64.0 * clocks)),
        ];
        resources.sort_by(|a, b| b.1.total_cmp(&a.1));
        LowerBound { gpu: gpu.name, resources }
    }
}
