//! Two-dimensional convolution with stride, padding and dilation (cross-correlation, as the field's
//! frameworks compute it).
//!
//! `y[n,p,q,o] = b[o] + Σ_{r,s,i} x[n, p·stride + r·dilation − padding, q·stride + s·dilation − padding, i] · w[o,r,s,i]`
//!
//! x: N×H×W×I, w: O×KH×KW×I, b: O, y: N×H'×W'×O with H' = ⌊(H + 2·padding − dilation·(KH − 1) − 1)/stride⌋ + 1.
//! Outside the input x is 0. Dilated ("atrous") convolution: Chen et al., *DeepLab*, PAMI 2018, §3.1.

mod cpu;
pub mod cuda;
mod product;
mod simd;
#[cfg(test)]
mod tests;
mod weight_gradient;
mod windows;

use crate::ops::batch_norm::{self, Activation, Statistics, batch_norm};
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, place};
use crate::{Error, Result};
use cpu::Geometry;
use cuda::Extras;
use simd::Isa;

/// Stride, padding and dilation, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Input pixels from one output pixel to the next, at least 1.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Input pixels from one tap to the next, at least 1.
    pub dilation: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1 }
    }
}

/// y = w ⋆ x + b, see the module's documentation.
///
/// # Errors
/// Shapes that do not fit each other; a window larger than the padded input; a stride or dilation of 0.
pub fn conv2d(
    tape: &mut Tape,
    input: &Var,
    weight: &Var,
    bias: Option<&Var>,
    options: Conv2dOptions,
) -> Result<Var> {
    let g = geometry(input.shape(), weight.shape(), bias.map(Var::shape), options)?;
    let mut operands = vec![input.value(), weight.value()];
    operands.extend(bias.map(Var::value));
    match place("conv2d", &operands)? {
        None => conv2d_on_cpu(tape, input, weight, bias, g, Isa::detect()),
        Some(gpu) => cuda::on_tape(gpu, tape, input, weight, Extras { bias, ..Extras::default() }, g),
    }
}

/// y = w ⋆ x + b + add, where `add` is like the output: a residual unit's shortcut. On a GPU the sum is taken where the
/// product's values leave their registers, which saves a pass; the bits are those of [`conv2d`] and
/// [`add`](crate::ops::add).
///
/// # Errors
/// As [`conv2d`]; an addend of another shape.
pub fn conv2d_add(
    tape: &mut Tape,
    input: &Var,
    weight: &Var,
    bias: Option<&Var>,
    add: &Var,
    options: Conv2dOptions,
) -> Result<Var> {
    let g = geometry(input.shape(), weight.shape(), bias.map(Var::shape), options)?;
    if add.shape() != g.output {
        let message = format!("{:?} cannot be added to an output {:?}", add.shape(), g.output);
        return Err(Error::shape("conv2d", message));
    }
    let mut operands = vec![input.value(), weight.value(), add.value()];
    operands.extend(bias.map(Var::value));
    match place("conv2d", &operands)? {
        None => {
            let y = conv2d_on_cpu(tape, input, weight, bias, g, Isa::detect())?;
            crate::ops::add(tape, &y, add)
        }
        Some(gpu) => cuda::on_tape(gpu, tape, input, weight, Extras { bias, add: Some(add), norm: None }, g),
    }
}

/// Scale, shift, mean and variance of a batch normalisation that does not learn, O values each.
pub struct FrozenNorm<'a>(pub [&'a Tensor; 4]);

/// y = max(0, γ·(w ⋆ x − μ)/√(σ² + ε) + β): a convolution, the normalisation of what it gives, and its ReLU. On a GPU all is
/// taken where the product's values leave their registers: 4 bytes a value instead of 12. The bits are those of [`conv2d`]
/// and [`batch_norm`](crate::ops::batch_norm::batch_norm).
///
/// # Errors
/// As [`conv2d`]; another number of channels in the normalisation.
pub fn conv2d_norm_relu(
    tape: &mut Tape,
    input: &Var,
    weight: &Var,
    norm: &FrozenNorm<'_>,
    options: Conv2dOptions,
) -> Result<Var> {
    let g = geometry(input.shape(), weight.shape(), None, options)?;
    let FrozenNorm(all @ [scale, shift, mean, variance]) = *norm;
    if let Some(wrong) = all.iter().find(|t| t.shape() != [g.output[3]]) {
        let message = format!("{:?} normalises an output {:?}", wrong.shape(), g.output);
        return Err(Error::shape("conv2d", message));
    }
    match place("conv2d", &[&[input.value(), weight.value()][..], &all].concat())? {
        None => {
            let y = conv2d_on_cpu(tape, input, weight, None, g, Isa::detect())?;
            let (scale, shift) = (Var::constant(scale.clone()), Var::constant(shift.clone()));
            let statistics = Statistics::Frozen { mean, variance };
            Ok(batch_norm(tape, &y, &scale, &shift, statistics, Activation::Relu)?.0)
        }
        Some(gpu) => {
            let norm = Some(batch_norm::cuda::frozen(gpu, all)?);
            cuda::on_tape(gpu, tape, input, weight, Extras { norm, ..Extras::default() }, g)
        }
    }
}

fn conv2d_on_cpu(
    tape: &mut Tape,
    input: &Var,
    weight: &Var,
    bias: Option<&Var>,
    g: Geometry,
    isa: Isa,
) -> Result<Var> {
    let (x, w) = (input.value(), weight.value());
    let y = cpu::forward(isa, &g, x.data(), w.data(), bias.map(|b| b.value().data()));
    let value = Tensor::new(&g.output, y)?;
    let mut inputs = vec![input, weight];
    inputs.extend(bias);
    // Each operand is kept only if the other one's gradient asks for it.
    let x = weight.needs_gradient().then(|| input.value().clone());
    let w = input.needs_gradient().then(|| weight.value().clone());
    let bias_needs = bias.map(Var::needs_gradient);
    let weight_shape = weight.shape().to_vec();
    Ok(tape.record("conv2d", value, &inputs, move |gradient| {
        let dy = gradient.data();
        let for_bias = match bias_needs {
            Some(true) => vec![Some(Tensor::new(&[g.output[3]], cpu::backward_bias(dy, g.output[3]))?)],
            Some(false) => vec![None],
            None => vec![],
        };
        let for_weight = match x {
            Some(x) => {
                Some(Tensor::new(&weight_shape, weight_gradient::backward_weight(isa, &g, x.data(), dy))?)
            }
            None => None,
        };
        let for_input = match w {
            Some(w) => Some(Tensor::new(&g.input, cpu::backward_input(isa, &g, dy, w.data()))?),
            None => None,
        };
        Ok([for_input, for_weight].into_iter().chain(for_bias).collect())
    }))
}

/// Gradient of the input, N×H×W×I, from that of the output, N×H'×W'×O, and the weight: what [`conv2d`]'s
/// backward pass computes, alone.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn input_gradient(
    gradient: &Tensor,
    weight: &Tensor,
    input: &[usize],
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input, weight.shape(), None, options)?;
    check_gradient(&g, gradient)?;
    match place("conv2d", &[gradient, weight])? {
        None => Tensor::new(input, cpu::backward_input(Isa::detect(), &g, gradient.data(), weight.data())),
        Some(gpu) => cuda::input_gradient_on_device(&g, gradient, weight, gpu.precision()),
    }
}

/// Gradient of the weight, O×KH×KW×I, from that of the output, N×H'×W'×O, and the input: what [`conv2d`]'s
/// backward pass computes, alone.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn weight_gradient(
    gradient: &Tensor,
    input: &Tensor,
    weight: &[usize],
    options: Conv2dOptions,
) -> Result<Tensor> {
    let g = geometry(input.shape(), weight, None, options)?;
    check_gradient(&g, gradient)?;
    match place("conv2d", &[gradient, input])? {
        None => Tensor::new(
            weight,
            weight_gradient::backward_weight(Isa::detect(), &g, input.data(), gradient.data()),
        ),
        Some(gpu) => cuda::weight_gradient_on_device(&g, gradient, input, gpu.precision()),
    }
}

fn check_gradient(g: &Geometry, gradient: &Tensor) -> Result<()> {
    if gradient.shape() == g.output {
        return Ok(());
    }
    let message = format!("gradient {:?} for an output {:?}", gradient.shape(), g.output);
    Err(Error::shape("conv2d", message))
}

/// Checks the shapes and works out the output's.
fn geometry(x: &[usize], w: &[usize], b: Option<&[usize]>, options: Conv2dOptions) -> Result<Geometry> {
    let four = |what: &str, shape: &[usize]| {
        <[usize; 4]>::try_from(shape)
            .map_err(|_| Error::shape("conv2d", format!("{what} {shape:?}: four dimensions expected")))
    };
    let input = four("input", x)?;
    let [o, kh, kw, i] = four("weight", w)?;
    let Conv2dOptions { stride, padding, dilation } = options;
    let fail = |message: String| Err(Error::shape("conv2d", message));
    if stride == 0 || dilation == 0 || kh == 0 || kw == 0 {
        return fail(format!(
            "stride {stride}, dilation {dilation}, kernel {kh}×{kw}: each must be at least 1"
        ));
    }
    if i != input[3] {
        return fail(format!("input {x:?} has {} channels, weight {w:?} expects {i}", input[3]));
    }
    if let Some(b) = b.filter(|b| *b != [o]) {
        return fail(format!("bias {b:?} for {o} output channels"));
    }
    let size = |length: usize, k: usize| {
        let window = dilation * (k - 1) + 1;
        (length > 0 && length + 2 * padding >= window).then(|| (length + 2 * padding - window) / stride + 1)
    };
    let (Some(oh), Some(ow)) = (size(input[1], kh), size(input[2], kw)) else {
        return fail(format!(
            "a {kh}×{kw} window with dilation {dilation} does not fit input {x:?} with padding {padding}"
        ));
    };
    Ok(Geometry { input, kernel: [kh, kw], output: [input[0], oh, ow, o], stride, padding, dilation })
}
