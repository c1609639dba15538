//! Convolution on a GPU: the ladder of kernels in `kernels/conv2d*.cu`, and how each is launched.
//!
//! Tests, benchmarks and documentation read [`LADDER`]; a new kernel is one more row.

use std::sync::Arc;

use super::cpu::Geometry;
use super::{Conv2dOptions, check_gradient, geometry};
use crate::device::cuda::{Argument, DeviceBuffer, Geometry as Launch, Gpu, Rung, blocks, sizes};
use crate::ops::batch_norm::cuda::{Coefficients, through_frozen};
use crate::ops::reduce;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

pub use crate::device::Precision;

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
            kernel: "conv2d_tiled_f32",
            idea: "16×16 outputs share slices of both operands through shared memory",
            bound: "shared memory: two loads a multiply-add",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: true,
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

/// The ladder of the weight's gradient. Every rung takes every shape.
pub const WEIGHT_LADDER: &[Conv2dRung] = &[
    Conv2dRung {
        rung: Rung {
            number: 1,
            name: "tiled",
            kernel: "conv2d_weight_tiled_f32",
            idea: "16×16 weights of a tap share slices of 16 pixels through shared memory",
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
            number: 3,
            name: "async",
            kernel: "conv2d_weight_async_f32",
            idea: "128×128 weights a block, 8×8 a thread; slices copied in the background",
            bound: "issue of multiply-adds",
            takes: "every shape",
        },
        precision: Precision::F32,
        both_ways: false,
        cover: Cover::Squares(128),
        shared: 48 << 10,
    },
    Conv2dRung {
        rung: Rung {
            number: 4,
            name: "tf32",
            kernel: "conv2d_weight_mma_tf32",
            idea: "tensor cores, mma.sync 16×8×8; fragments read value by value",
            bound: "shared memory: 24 loads for 16 mma",
            takes: "every shape",
        },
        precision: Precision::Tf32,
        both_ways: false,
        cover: Cover::Squares(128),
        shared: 48 << 10,
    },
    Conv2dRung {
        rung: Rung {
            number: 5,
            name: "bf16",
            kernel: "conv2d_weight_mma_bf16",
            idea: "tensor cores on bf16, mma.sync 16×8×16, ldmatrix.trans",
            bound: "tensor pipe",
            takes: "every shape",
        },
        precision: Precision::Bf16,
        both_ways: false,
        cover: Cover::Squares(128),
        shared: 48 << 10,
    },
];

/// Below this many columns (target channels), or rows, a square of 128 is mostly padding: 16×16 outputs do less work.
const FEW: usize = 32;

/// The rung of a ladder for a product of so many rows and columns: the last that multiplies in `precision`, unless the
/// product is too small for its squares.
fn choose(
    gpu: &Gpu,
    ladder: &'static [Conv2dRung],
    [rows, columns]: [usize; 2],
    precision: Precision,
) -> Result<&'static Conv2dRung> {
    let small = rows <= FEW || columns <= FEW;
    // Kernels above rung 2 copy in the background.
    let runs = |r: &&Conv2dRung| r.rung.number <= 2 || gpu.has_async_copies();
    let fits =
        |r: &&Conv2dRung| !small || precision != Precision::F32 || matches!(r.cover, Cover::Squares(16));
    let found = ladder.iter().rev().filter(runs).filter(fits).find(|r| r.precision == precision);
    found.ok_or_else(|| Error::invalid(format!("conv2d has no kernel in {precision:?} for {gpu:?}")))
}

/// An operand on the GPU, in what a rung multiplies.
enum Operand {
    F32(Arc<DeviceBuffer<f32>>),
    Bf16(DeviceBuffer<u16>),
}

impl Operand {
    /// A tensor on the GPU as a rung of this precision takes it.
    fn of(tensor: &Tensor, what: &str, precision: Precision) -> Result<Self> {
        let buffer = tensor.buffer()?;
        if precision != Precision::Bf16 {
            return Ok(Self::F32(Arc::clone(buffer)));
        }
        let gpu = buffer.gpu();
        let rounded = gpu.allocate::<u16>(what, buffer.len())?;
        let arguments = [buffer.into(), (&rounded).into(), Argument::size(buffer.len())?];
        // SAFETY: both buffers have as many elements, of the kernel's types.
        unsafe { gpu.launch("to_bf16", Launch::line(buffer.len(), 1024)?, &arguments)? };
        Ok(Self::Bf16(rounded))
    }

    fn argument(&self) -> Argument<'_> {
        match self {
            Self::F32(buffer) => buffer.into(),
            Self::Bf16(buffer) => buffer.into(),
        }
    }
}

/// y = w ⋆ x + b + add on a GPU by one rung: copied there where it is not, computed, copied back. x N×H×W×I, w O×KH×KW×I,
/// b O, add like the output N×H'×W'×O.
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
    let x = input.to_device(gpu, "the input")?;
    let w = weight.to_device(gpu, "the weight")?;
    let bias = bias.map(|b| b.to_device(gpu, "the bias")).transpose()?;
    let add = add.map(|a| a.to_device(gpu, "the addend")).transpose()?;
    let outlet = Outlet { bias: bias.as_ref(), add: add.as_ref(), norm: None };
    forward_by(rung, &g, &x, &w, &outlet)?.to_host()
}

/// max(0, a·(w ⋆ x) + b) on a GPU by one rung, a and b O values each; copies as [`forward`].
///
/// # Errors
/// As [`conv2d`](super::conv2d); other numbers of coefficients; the device's.
pub fn forward_normalised(
    gpu: &Arc<Gpu>,
    rung: &Conv2dRung,
    input: &Tensor,
    weight: &Tensor,
    [a, b]: [&Tensor; 2],
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input.shape(), weight.shape(), None, options)?;
    if a.shape() != [g.output[3]] || b.shape() != [g.output[3]] {
        let message =
            format!("coefficients {:?} and {:?} for {} channels", a.shape(), b.shape(), g.output[3]);
        return Err(Error::shape("conv2d", message));
    }
    let (x, w) = (input.to_device(gpu, "the input")?, weight.to_device(gpu, "the weight")?);
    let (a, b) = (a.to_device(gpu, "a coefficient")?, b.to_device(gpu, "a coefficient")?);
    let outlet = Outlet { norm: Some([a.buffer()?, b.buffer()?]), ..Outlet::default() };
    forward_by(rung, &g, &x, &w, &outlet)?.to_host()
}

/// What a kernel does to its product on the way out: t = product + bias + add, and with `norm` max(0, a·t + b) in its place.
#[derive(Default)]
struct Outlet<'a> {
    bias: Option<&'a Tensor>,
    add: Option<&'a Tensor>,
    norm: Option<[&'a Arc<DeviceBuffer<f32>>; 2]>,
}

impl<'a> Outlet<'a> {
    /// The kernels' parameters for it.
    fn arguments<'b>(&self, target: &'b DeviceBuffer<f32>) -> Result<[Argument<'b>; 6]>
    where
        'a: 'b,
    {
        let of = |tensor: Option<&'a Tensor>| Ok(Argument::from(tensor.map(Tensor::buffer).transpose()?));
        let (bias, add, none) = (of(self.bias)?, of(self.add)?, Argument::NONE);
        Ok(match self.norm {
            None => [bias, add, target.into(), none, none, none],
            Some([a, b]) => [bias, add, none, a.into(), b.into(), target.into()],
        })
    }
}

/// Forward of tensors that are on a GPU, whose shapes make `g`.
fn forward_by(
    rung: &Conv2dRung,
    g: &Geometry,
    x: &Tensor,
    w: &Tensor,
    outlet: &Outlet<'_>,
) -> Result<Tensor> {
    let gpu = x.buffer()?.gpu();
    let x = Operand::of(x, "the input in bf16", rung.precision)?;
    let w = Operand::of(w, "the weight in bf16", rung.precision)?;
    let y = Arc::new(gpu.allocate("a convolution's output", g.output.iter().product())?);
    let direction = rung.both_ways.then_some(false);
    // SAFETY: the buffers are those of tensors whose shapes `geometry` has checked against each other.
    unsafe { launch(gpu, rung, g, [x.argument(), w.argument()], outlet, &y, direction)? };
    Tensor::from_buffer(&g.output, y)
}

/// Gradient of the input N×H×W×I from that of the output N×H'×W'×O, by one rung that goes both ways; copies as
/// [`forward`].
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
    let dy = gradient.to_device(gpu, "the output's gradient")?;
    let w = weight.to_device(gpu, "the weight")?;
    input_gradient_by(rung, &g, &dy, &w)?.to_host()
}

fn input_gradient_by(rung: &Conv2dRung, g: &Geometry, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let gpu = dy.buffer()?.gpu();
    let dy = Operand::of(dy, "the output's gradient in bf16", rung.precision)?;
    let w = Operand::of(w, "the weight in bf16", rung.precision)?;
    let transposed = transpose_weight(gpu, &w, g)?;
    let dx = Arc::new(gpu.allocate("a convolution's input gradient", g.input.iter().product())?);
    let operands = [dy.argument(), transposed.argument()];
    // SAFETY: as in `forward_by`.
    unsafe { launch(gpu, rung, g, operands, &Outlet::default(), &dx, Some(true))? };
    Tensor::from_buffer(&g.input, dx)
}

/// Gradient of the weight O×KH×KW×I from that of the output N×H'×W'×O and the input, by one rung of [`WEIGHT_LADDER`];
/// copies as [`forward`].
///
/// # Errors
/// As [`weight_gradient`](super::weight_gradient); the device's.
pub fn weight_gradient(
    gpu: &Arc<Gpu>,
    rung: &Conv2dRung,
    gradient: &Tensor,
    input: &Tensor,
    weight: &[usize],
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input.shape(), weight, None, options)?;
    check_gradient(&g, gradient)?;
    let dy = gradient.to_device(gpu, "the output's gradient")?;
    let x = input.to_device(gpu, "the input")?;
    weight_gradient_by(rung, &g, &dy, &x)?.to_host()
}

/// Into how many ranges of how many pixels a weight's gradient is cut: as many blocks as two a multiprocessor of a large
/// GPU, where there are pixels enough. It follows from the shape alone, since it fixes the bits.
fn ranges(rung: &Conv2dRung, g: &Geometry) -> (usize, usize) {
    /// Blocks that are wanted.
    const BLOCKS: usize = 264;
    /// Pixels of the smallest range: a block's start and end are then a tenth of its work.
    const LEAST: usize = 128;
    let side = if let Cover::Squares(side) = rung.cover { side } else { 1 };
    let squares = g.output[3].div_ceil(side) * g.input[3].div_ceil(side) * g.kernel[0] * g.kernel[1];
    let pixels = g.output[0] * g.output[1] * g.output[2];
    let wanted = (BLOCKS / squares.max(1)).clamp(1, pixels.div_ceil(LEAST).max(1));
    let range = pixels.div_ceil(wanted).next_multiple_of(32).max(32);
    (pixels.div_ceil(range).max(1), range)
}

fn weight_gradient_by(rung: &Conv2dRung, g: &Geometry, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let gpu = dy.buffer()?.gpu();
    let [o, i] = [g.output[3], g.input[3]];
    let [kh, kw] = g.kernel;
    let (parts_count, range) = ranges(rung, g);
    let len = o * kh * kw * i;
    let dy = Operand::of(dy, "the output's gradient in bf16", rung.precision)?;
    let x = Operand::of(x, "the input in bf16", rung.precision)?;
    let parts = Arc::new(gpu.allocate("parts of a weight's gradient", parts_count * len)?);
    let Cover::Squares(side) = rung.cover else { unreachable!("the weight's rungs cover squares") };
    let grid = [blocks(o, side)?, blocks(kh * kw * i.div_ceil(side), 1)?, blocks(parts_count, 1)?];
    check_lengths(g)?;
    Argument::size(parts.len())?;
    let mut arguments = vec![x.argument(), dy.argument(), Argument::from(&parts)];
    arguments.extend(shape_arguments(g)?);
    arguments.push(Argument::size(range)?);
    let geometry = Launch { grid, threads: THREADS, shared: rung.shared };
    // SAFETY: as in `forward_by`; `parts` has room for one gradient a range.
    unsafe { gpu.launch(rung.rung.kernel, geometry, &arguments)? };
    let shape = [o, kh, kw, i];
    if parts_count == 1 {
        return Tensor::from_buffer(&shape, parts);
    }
    Tensor::from_buffer(&shape, Arc::new(reduce::cuda::sum_parts(gpu, &parts, parts_count)?))
}

/// What comes with a convolution on the tape: y = product + bias + add, or with `norm` max(0, a·y + b) in its place.
#[derive(Default)]
pub(super) struct Extras<'a> {
    pub bias: Option<&'a Var>,
    pub add: Option<&'a Var>,
    pub norm: Option<Coefficients>,
}

/// What [`conv2d`](super::conv2d) and its like do for tensors that are on a GPU.
pub(super) fn on_tape(
    gpu: &Gpu,
    tape: &mut Tape,
    input: &Var,
    weight: &Var,
    Extras { bias, add, norm }: Extras<'_>,
    g: Geometry,
) -> Result<Var> {
    let precision = gpu.precision();
    let [n, oh, ow, o] = g.output;
    let rung = choose(gpu, LADDER, [n * oh * ow, o], precision)?;
    let outlet = Outlet {
        bias: bias.map(Var::value),
        add: add.map(Var::value),
        norm: norm.as_ref().map(|norm| [&norm.a, &norm.b]),
    };
    let value = forward_by(rung, &g, input.value(), weight.value(), &outlet)?;
    let norm = norm.map(|norm| (norm, value.clone()));
    let mut inputs = vec![input, weight];
    inputs.extend(bias);
    inputs.extend(add);
    let x = weight.needs_gradient().then(|| input.value().clone());
    let w = input.needs_gradient().then(|| weight.value().clone());
    let (bias_needs, add_needs) = (bias.map(Var::needs_gradient), add.map(Var::needs_gradient));
    Ok(tape.record("conv2d", value, &inputs, move |dy| {
        let dy = match norm {
            Some((norm, y)) => through_frozen(dy, &norm, &y)?,
            None => dy,
        };
        let mut all = vec![
            w.map(|w| input_gradient_on_device(&g, &dy, &w, precision)).transpose()?,
            x.map(|x| weight_gradient_on_device(&g, &dy, &x, precision)).transpose()?,
        ];
        if let Some(needs) = bias_needs {
            all.push(needs.then(|| reduce::cuda::sum_rows(&dy, g.output[3])).transpose()?);
        }
        all.extend(add_needs.map(|needs| needs.then_some(dy)));
        Ok(all)
    }))
}

/// The input's gradient by the rung that suits the shape, of tensors on a GPU.
pub(super) fn input_gradient_on_device(
    g: &Geometry,
    dy: &Tensor,
    w: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    let [n, h, width, i] = g.input;
    let rung = choose(dy.buffer()?.gpu(), LADDER, [n * h * width, i], precision)?;
    input_gradient_by(rung, g, dy, w)
}

/// The weight's gradient by the rung that suits the shape, of tensors on a GPU.
pub(super) fn weight_gradient_on_device(
    g: &Geometry,
    dy: &Tensor,
    x: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    let rung = choose(dy.buffer()?.gpu(), WEIGHT_LADDER, [g.output[3], g.input[3]], precision)?;
    weight_gradient_by(rung, g, dy, x)
}

/// I×KH×KW×O from O×KH×KW×I.
fn transpose_weight(gpu: &Arc<Gpu>, weight: &Operand, g: &Geometry) -> Result<Operand> {
    const SQUARE: usize = 32;
    let [o, i, taps] = [g.output[3], g.input[3], g.kernel[0] * g.kernel[1]];
    let len = o * taps * i;
    let (kernel, out) = match weight {
        Operand::F32(_) => {
            ("conv2d_transpose_weight_f32", Operand::F32(Arc::new(gpu.allocate("the weight", len)?)))
        }
        Operand::Bf16(_) => ("conv2d_transpose_weight_bf16", Operand::Bf16(gpu.allocate("the weight", len)?)),
    };
    let launch = Launch {
        grid: [blocks(i, SQUARE)?, blocks(o, SQUARE)?, blocks(taps, 1)?],
        threads: THREADS,
        shared: 0,
    };
    let [o, taps, i] = sizes([o, taps, i])?;
    // SAFETY: both buffers have o·taps·i elements of the kernel's type.
    unsafe { gpu.launch(kernel, launch, &[weight.argument(), out.argument(), o, taps, i])? };
    Ok(out)
}

/// Indices within a tensor are 32-bit.
fn check_lengths(g: &Geometry) -> Result<()> {
    let weights = g.output[3] * g.kernel[0] * g.kernel[1] * g.input[3];
    for len in [g.input.iter().product(), g.output.iter().product(), weights] {
        Argument::size(len)?;
    }
    Ok(())
}

/// The parameters that every convolution kernel ends with.
fn shape_arguments(g: &Geometry) -> Result<[Argument<'static>; 12]> {
    let [n, h, w, i] = g.input;
    let [_, oh, ow, o] = g.output;
    sizes([n, h, w, i, oh, ow, o, g.kernel[0], g.kernel[1], g.stride, g.padding, g.dilation])
}

/// Queues a rung. `backward` is `None` for kernels that only go forward.
///
/// # Safety
/// The operands are source and weight as the rung and direction take them, and all buffers have `g`'s sizes.
unsafe fn launch(
    gpu: &Gpu,
    rung: &Conv2dRung,
    g: &Geometry,
    operands: [Argument<'_>; 2],
    outlet: &Outlet<'_>,
    target: &DeviceBuffer<f32>,
    backward: Option<bool>,
) -> Result<()> {
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
    check_lengths(g)?;
    let mut arguments = operands.to_vec();
    arguments.extend(outlet.arguments(target)?);
    arguments.extend(shape_arguments(g)?);
    arguments.extend(backward.map(|b| Argument::I32(i32::from(b))));
    let shape = Launch { grid, threads: THREADS, shared: rung.shared };
    // SAFETY: by this function's contract.
    unsafe { gpu.launch(rung.rung.kernel, shape, &arguments) }
}
