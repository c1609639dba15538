//! Convolution on a GPU: the ladder of kernels in `kernels/conv2d*.cu`, and how each is launched.
//!
//! Tests, benchmarks and documentation read [`LADDER`]; a new kernel is one more row.

use std::sync::Arc;

use half::bf16;

use super::cpu::Geometry;
use super::{Conv2dOptions, check_gradient, geometry};
use crate::device::cuda::{Argument, DeviceBuffer, Geometry as Launch, Gpu, Rung};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What a rung multiplies in. All accumulate in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to 10 bits of mantissa on the way into the tensor cores.
    Tf32,
    /// Operands stored as bf16: 7 bits of mantissa.
    Bf16,
}

/// How the grid covers the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    /// A thread an output value.
    Values,
    /// A block a square of that many pixels by as many channels.
    Squares(usize),
}

/// One kernel of the ladder.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dRung {
    /// Number, kernel, idea and bound.
    pub rung: Rung,
    /// What it multiplies in.
    pub precision: Precision,
    /// Whether it also computes the gradient for the input.
    pub both_ways: bool,
    cover: Cover,
    /// Dynamic shared memory in bytes.
    shared: u32,
}

const THREADS: u32 = 256;

/// The ladder, from plain to fast. Every rung takes every shape.
pub const LADDER: &[Conv2dRung] = &[
    Conv2dRung {
        rung: Rung {
            number: 0,
            name: "direct",
            kernel: "conv2d_forward_direct_f32",
            idea: "one thread one output",
            bound: "L1 and L2: two loads a multiply-add",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: false,
        cover: Cover::Values,
        shared: 0,
    },
    Conv2dRung {
        rung: Rung {
            number: 1,
            name: "tiled",
            kernel: "conv2d_forward_tiled_f32",
            idea: "16×16 outputs share slices of both operands through shared memory",
            bound: "shared memory: two loads a multiply-add",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: false,
        cover: Cover::Squares(16),
        shared: 0,
    },
    Conv2dRung {
        rung: Rung {
            number: 2,
            name: "blocks",
            kernel: "conv2d_blocks_f32",
            idea: "128×128 outputs a block, 8×8 a thread in registers, 16-byte loads",
            bound: "issue of multiply-adds",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: true,
        cover: Cover::Squares(128),
        shared: 0,
    },
    Conv2dRung {
        rung: Rung {
            number: 3,
            name: "async",
            kernel: "conv2d_async_f32",
            idea: "the next slice is copied while this one is multiplied; one barrier a slice",
            bound: "issue of multiply-adds",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: true,
        cover: Cover::Squares(128),
        shared: 0,
    },
    Conv2dRung {
        rung: Rung {
            number: 4,
            name: "tf32",
            kernel: "conv2d_mma_tf32",
            idea: "tensor cores, mma.sync 16×8×8, three stages of asynchronous copies",
            bound: "tensor pipe",
            takes: "every shape",
        },
        precision: Precision::Tf32,
        both_ways: true,
        cover: Cover::Squares(128),
        shared: 48 << 10,
    },
    Conv2dRung {
        rung: Rung {
            number: 5,
            name: "bf16",
            kernel: "conv2d_mma_bf16_f32",
            idea: "tensor cores on bf16, mma.sync 16×8×16, four stages",
            bound: "tensor pipe; shared memory close by",
            takes: "every shape",
        },
        precision: Precision::Bf16,
        both_ways: true,
        cover: Cover::Squares(128),
        shared: 64 << 10,
    },
];

/// An operand on the GPU, in what a rung multiplies.
enum Operand {
    F32(DeviceBuffer<f32>),
    Bf16(DeviceBuffer<u16>),
}

impl Operand {
    fn upload(gpu: &Arc<Gpu>, what: &str, data: &[f32], precision: Precision) -> Result<Self> {
        if precision != Precision::Bf16 {
            return Ok(Self::F32(gpu.upload(what, data)?));
        }
        let rounded: Vec<u16> = data.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
        Ok(Self::Bf16(gpu.upload(what, &rounded)?))
    }

    fn argument(&self) -> Argument {
        match self {
            Self::F32(buffer) => buffer.into(),
            Self::Bf16(buffer) => buffer.into(),
        }
    }
}

/// y = w ⋆ x + b + add on a GPU by one rung: copied there, computed, copied back. x N×H×W×I, w O×KH×KW×I, b O, add like
/// the output N×H'×W'×O.
///
/// # Errors
/// As [`conv2d`](super::conv2d); the device's.
pub fn forward(
    gpu: &Arc<Gpu>,
    rung: &Conv2dRung,
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input.shape(), weight.shape(), bias.map(Tensor::shape), options)?;
    if let Some(add) = add.filter(|a| a.shape() != g.output) {
        let message = format!("{:?} cannot be added to an output {:?}", add.shape(), g.output);
        return Err(Error::shape("conv2d", message));
    }
    let x = Operand::upload(gpu, "the input", input.data(), rung.precision)?;
    let w = Operand::upload(gpu, "the weight", weight.data(), rung.precision)?;
    let bias = bias.map(|b| gpu.upload("the bias", b.data())).transpose()?;
    let add = add.map(|a| gpu.upload("the addend", a.data())).transpose()?;
    let y = gpu.allocate::<f32>("the output", g.output.iter().product())?;
    let direction = rung.both_ways.then_some(false);
    // SAFETY: the buffers were made from tensors whose shapes `geometry` has checked against each other.
    unsafe {
        launch(gpu, rung, &g, [x.argument(), w.argument()], bias.as_ref(), add.as_ref(), &y, direction)?
    };
    Tensor::new(&g.output, gpu.download(&y)?)
}

/// Gradient of the input N×H×W×I from that of the output N×H'×W'×O, by one rung that goes both ways.
///
/// # Errors
/// As [`input_gradient`](super::input_gradient); a rung that does not; the device's.
pub fn input_gradient(
    gpu: &Arc<Gpu>,
    rung: &Conv2dRung,
    gradient: &Tensor,
    weight: &Tensor,
    input: &[usize],
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input, weight.shape(), None, options)?;
    check_gradient(&g, gradient)?;
    if !rung.both_ways {
        return Err(Error::invalid(format!("rung {} of conv2d goes forward only", rung.rung.name)));
    }
    let dy = Operand::upload(gpu, "the output's gradient", gradient.data(), rung.precision)?;
    let w = Operand::upload(gpu, "the weight", weight.data(), rung.precision)?;
    let transposed = transpose_weight(gpu, &w, &g)?;
    let dx = gpu.allocate::<f32>("the input's gradient", g.input.iter().product())?;
    let operands = [dy.argument(), transposed.argument()];
    // SAFETY: the buffers were made from tensors whose shapes were checked above.
    unsafe { launch(gpu, rung, &g, operands, None, None, &dx, Some(true))? };
    Tensor::new(input, gpu.download(&dx)?)
}

/// I×KH×KW×O from O×KH×KW×I.
fn transpose_weight(gpu: &Arc<Gpu>, weight: &Operand, g: &Geometry) -> Result<Operand> {
    const SQUARE: usize = 32;
    let [o, i, taps] = [g.output[3], g.input[3], g.kernel[0] * g.kernel[1]];
    let len = o * taps * i;
    let (kernel, out) = match weight {
        Operand::F32(_) => ("conv2d_transpose_weight_f32", Operand::F32(gpu.allocate("the weight", len)?)),
        Operand::Bf16(_) => ("conv2d_transpose_weight_bf16", Operand::Bf16(gpu.allocate("the weight", len)?)),
    };
    let launch = Launch {
        grid: [blocks(i, SQUARE)?, blocks(o, SQUARE)?, blocks(taps, 1)?],
        threads: THREADS,
        shared: 0,
    };
    let sizes = [o, taps, i].map(Argument::size);
    let [o, taps, i] = sizes;
    // SAFETY: both buffers have o·taps·i elements of the kernel's type.
    unsafe { gpu.launch(kernel, launch, &[weight.argument(), out.argument(), o?, taps?, i?])? };
    Ok(out)
}

/// How many pieces of `size` cover `count`.
fn blocks(count: usize, size: usize) -> Result<u32> {
    u32::try_from(count.div_ceil(size))
        .map_err(|_| Error::shape("conv2d", format!("{count} outputs are more than a grid can cover")))
}

/// Queues a rung. `backward` is `None` for kernels that only go forward.
///
/// # Safety
/// The operands are source and weight as the rung and direction take them, and all buffers have `g`'s sizes.
#[expect(clippy::too_many_arguments, reason = "a kernel's list of arguments, grouped as far as it goes")]
unsafe fn launch(
    gpu: &Arc<Gpu>,
    rung: &Conv2dRung,
    g: &Geometry,
    operands: [Argument; 2],
    bias: Option<&DeviceBuffer<f32>>,
    add: Option<&DeviceBuffer<f32>>,
    target: &DeviceBuffer<f32>,
    backward: Option<bool>,
) -> Result<()> {
    if target.is_empty() {
        return Ok(());
    }
    let [n, h, w, i] = g.input;
    let [_, oh, ow, o] = g.output;
    let stride = g.stride;
    let (pixels, channels, phases) = match backward {
        Some(true) => (n * h.div_ceil(stride) * w.div_ceil(stride), i, stride * stride),
        _ => (n * oh * ow, o, 1),
    };
    let grid = match rung.cover {
        Cover::Values => [blocks(pixels * channels, THREADS as usize)?, 1, 1],
        Cover::Squares(side) => [blocks(pixels, side)?, blocks(channels, side)?, blocks(phases, 1)?],
    };
    // Indices within a tensor are 32-bit.
    for len in [n * h * w * i, n * oh * ow * o, o * g.kernel[0] * g.kernel[1] * i] {
        Argument::size(len)?;
    }
    let none = Argument::Address(0);
    let mut arguments = vec![
        operands[0],
        operands[1],
        bias.map_or(none, Argument::from),
        add.map_or(none, Argument::from),
        Argument::from(target),
    ];
    let sizes = [n, h, w, i, oh, ow, o, g.kernel[0], g.kernel[1], stride, g.padding, g.dilation];
    for size in sizes {
        arguments.push(Argument::size(size)?);
    }
    arguments.extend(backward.map(|b| Argument::I32(i32::from(b))));
    let shape = Launch { grid, threads: THREADS, shared: rung.shared };
    // SAFETY: by this function's contract.
    unsafe { gpu.launch(rung.rung.kernel, shape, &arguments) }
}
