//! Affinities on a GPU: the ladder of kernels in `kernels/affinity.cu`, and how each is launched.

use std::sync::Arc;

use super::{AffinityLossParts, LossForm, Pairs, Stencil};
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Given, Gpu, Reading, Rung, blocks, sizes};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The ladder, from plain to fast.
pub const LADDER: &[Rung] = &[
    Rung {
        number: 0,
        name: "gather",
        kernel: "affinity_forward_gather_f32",
        idea: "one thread a pair",
        bound: "L1 and L2: two loads a term",
        takes: "every stencil",
    },
    Rung {
        number: 1,
        name: "tiled",
        kernel: "affinity_forward_tiled_f32",
        idea: "a tile with its halo in shared memory, a pixel's 34 sums in registers",
        bound: "shared memory: 16 bytes for four terms",
        takes: "the default stencil (radius 5, 34 offsets)",
    },
];

/// The ladder of the loss's gradient, from plain to fast; both give the same bits.
pub const BACKWARD_LADDER: &[Rung] = &[
    Rung {
        number: 0,
        name: "gather",
        kernel: "affinity_backward_gather_f32",
        idea: "one thread a value, from both sides of its pixel",
        bound: "L1 and L2: four loads a pair and channel",
        takes: "every stencil",
    },
    Rung {
        number: 1,
        name: "tiled",
        kernel: "affinity_backward_tiled_f32",
        idea: "a tile with its halo in shared memory; a slope is read once for 16 channels",
        bound: "shared memory: 16 bytes for four terms",
        takes: "the default stencil (radius 5, 34 offsets)",
    },
];

const TILED: u32 = 1;

/// Whether a rung takes a stencil.
pub fn takes(rung: &Rung, stencil: &Stencil) -> bool {
    rung.number != TILED || *stencil == Stencil::default()
}

/// A stencil's offsets (dy, dx) on the GPU, P×2.
pub(crate) fn upload_offsets(gpu: &Arc<Gpu>, offsets: &[(usize, isize)]) -> Result<DeviceBuffer<i32>> {
    // Offsets are at most 64: `Stencil::new` sees to it.
    let pairs: Vec<i32> = offsets.iter().flat_map(|&(dy, dx)| [dy as i32, dx as i32]).collect();
    gpu.upload("the stencil", &pairs)
}

/// Affinities N×P×h×w of features N×h×w×K, NaN where a pair does not exist, on a GPU by one rung: copied there where they
/// are not, computed, copied back.
///
/// # Errors
/// As [`affinities`](super::affinities); a stencil that the rung does not take; the device's.
pub fn affinities(gpu: &Arc<Gpu>, rung: &Rung, features: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    let [_, h, w, _] = features.nhwc("affinities")?;
    pairs.check(h, w)?;
    if !takes(rung, &pairs.stencil) {
        return Err(Error::invalid(format!("rung {} of the affinities takes {}", rung.name, rung.takes)));
    }
    compare(rung, What::Affinities, &features.to_device(gpu, "the features")?, pairs)?.to_host()
}

/// The rung that `--kernel` names, else the highest of a ladder that takes a stencil.
fn choose(gpu: &Gpu, ladder: &'static [Rung], stencil: &Stencil) -> Result<&'static Rung> {
    if let Some(forced) = gpu.forced("affinity").and_then(|name| ladder.iter().find(|r| r.name == name)) {
        if !takes(forced, stencil) {
            let message = format!("rung `{}` of affinity takes {}", forced.name, forced.takes);
            return Err(Error::invalid(message).remedy("leave out --kernel, or choose another rung"));
        }
        return Ok(forced);
    }
    let found = ladder.iter().rev().find(|rung| takes(rung, stencil));
    found.ok_or_else(|| Error::invalid("no kernel of the affinities takes this stencil"))
}

/// What [`affinities`](super::affinities) does for features on a GPU, whose grid has been checked.
pub(super) fn affinities_on_device(features: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    compare(choose(features.buffer()?.gpu(), LADDER, &pairs.stencil)?, What::Affinities, features, pairs)
}

/// What is computed of each pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Affinities,
    Distances,
}

/// What a pair of features on a GPU comes to, N×P×h×w, by a rung that takes the stencil.
fn compare(rung: &Rung, what: What, features: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    let [n, h, w, k] = features.nhwc("affinities")?;
    let planes = pairs.stencil.len();
    let shape = [n, planes, h, w];
    let values = n * planes * h * w;
    let f = features.buffer()?;
    let gpu = f.gpu();
    let out = Arc::new(gpu.allocate::<f32>("the affinities", values)?);
    // Indices within a tensor are 32-bit.
    sizes([features.len(), values])?;
    let (margin, factor) = (pairs.margin(), Argument::F32(pairs.factor(k)));
    if rung.number == TILED {
        let grid = [blocks(w, 16)?, blocks(h, 8)?, blocks(n, 1)?];
        let kernel = match what {
            What::Affinities => "affinity_forward_tiled_f32",
            What::Distances => "affinity_distance_tiled_f32",
        };
        let mut arguments = vec![f.into(), (&out).into()];
        arguments.extend(sizes([h, w, k, margin])?);
        arguments.push(factor);
        // SAFETY: the buffers have the sizes that the other arguments say.
        unsafe { gpu.launch(kernel, Geometry { grid, threads: 128, shared: 0 }, &arguments)? };
    } else {
        let kernel = match what {
            What::Affinities => "affinity_forward_gather_f32",
            What::Distances => "affinity_distance_gather_f32",
        };
        let offsets = upload_offsets(gpu, pairs.stencil.offsets())?;
        let mut arguments = vec![f.into(), (&offsets).into(), (&out).into()];
        arguments.extend(sizes([n, h, w, k, planes, margin])?);
        arguments.push(factor);
        // SAFETY: as above.
        unsafe { gpu.launch(kernel, Geometry::line(values, PAIRS)?, &arguments)? };
    }
    Tensor::from_buffer(&shape, out)
}

/// Pairs of a block.
const PAIRS: usize = 256;

/// What [`affinity_loss`](super::affinity_loss) does for features on a GPU, whose grid and labels have been checked and have
/// a labelled pair.
pub(super) fn loss(
    tape: &mut Tape,
    features: &Var,
    labels: Given<'_, u8>,
    pairs: &Pairs,
    form: LossForm,
) -> Result<(Var, Reading<AffinityLossParts>)> {
    let [n, h, w, k] = features.value().nhwc("affinity_loss")?;
    let planes = pairs.stencil.len();
    let values = n * planes * h * w;
    let f = features.value().buffer()?;
    let gpu = f.gpu();
    let labels = labels.on(gpu, "labels")?;
    let offsets = upload_offsets(gpu, pairs.stencil.offsets())?;
    let shape = sizes([n, h, w, planes, pairs.margin()])?;
    let form = Argument::I32(i32::from(form == LossForm::Psa));
    let line = Geometry::line(values, PAIRS)?;
    let one = |threads: u32| Geometry { grid: [1, 1, 1], threads, shared: 0 };

    let counts = gpu.zeros::<u32>("numbers of pairs", 3)?;
    let arguments = [&[(&labels).into(), (&offsets).into(), (&counts).into()][..], &shape].concat();
    // SAFETY: labels one a pixel, an offset a plane, three counts.
    unsafe { gpu.launch("affinity_count_u32", line, &arguments)? };
    let weights = gpu.allocate::<f32>("weights of pairs", 3)?;
    // SAFETY: three counts, three weights.
    unsafe { gpu.launch("affinity_weights_f32", one(32), &[(&counts).into(), (&weights).into(), form])? };

    let distances = compare(choose(gpu, LADDER, &pairs.stencil)?, What::Distances, features.value(), pairs)?;
    let slopes = Arc::clone(distances.buffer()?);
    let sums = gpu.allocate::<f32>("losses of blocks", 3 * values.div_ceil(PAIRS))?;
    let mut arguments = vec![(&slopes).into(), (&labels).into(), (&offsets).into(), (&weights).into()];
    // Slopes take the distances' place.
    arguments.extend([Argument::from(&slopes), Argument::from(&sums)]);
    arguments.extend(shape);
    arguments.extend([form, Argument::F32(pairs.factor(k))]);
    // SAFETY: a distance a pair, whose place the kernel lets the slope take; three sums a block; the rest as above.
    unsafe { gpu.launch("affinity_loss_f32", line, &arguments)? };
    let total = Arc::new(gpu.allocate::<f32>("the loss", 1)?);
    let parts = gpu.allocate::<f32>("parts of the loss", 6)?;
    let mut arguments = vec![(&sums).into(), (&counts).into(), (&total).into(), (&parts).into()];
    arguments.extend([Argument::size(values.div_ceil(PAIRS))?, form]);
    // SAFETY: three sums a block, three counts, one loss, six parts.
    unsafe { gpu.launch("affinity_parts_f32", one(256), &arguments)? };
    let parts = Reading::of(Arc::new(parts), |parts| {
        let counts = [3, 4, 5].map(|at: usize| u64::from(parts[at].to_bits()));
        let [background, foreground, negative] = [0, 1, 2].map(|at: usize| f64::from(parts[at]));
        AffinityLossParts { background, foreground, negative, counts }
    });

    let loss = Tensor::from_buffer(&[], total)?;
    let kept = features.value().clone();
    let rung = choose(gpu, BACKWARD_LADDER, &pairs.stencil)?;
    let loss = tape.record("affinity_loss", loss, &[features], move |g| {
        Ok(vec![Some(backward(rung, &kept, &slopes, &offsets, &g)?)])
    });
    Ok((loss, parts))
}

/// The features' gradient from the slopes of all pairs, N×P×h×w, and the loss's own gradient.
fn backward(
    rung: &Rung,
    features: &Tensor,
    slopes: &DeviceBuffer<f32>,
    offsets: &DeviceBuffer<i32>,
    gradient: &Tensor,
) -> Result<Tensor> {
    let [n, h, w, k] = features.nhwc("affinity_loss")?;
    let f = features.buffer()?;
    let df = Arc::new(f.gpu().allocate("the features' gradient", f.len())?);
    let scale = Argument::from(gradient.buffer()?);
    let (geometry, arguments) = if rung.number == TILED {
        let grid = [blocks(w, 16)?, blocks(h, 8)?, blocks(n, 1)?];
        let arguments = [&[f.into(), slopes.into(), scale, (&df).into()][..], &sizes([h, w, k])?].concat();
        (Geometry { grid, threads: 128, shared: 0 }, arguments)
    } else {
        let planes = offsets.len() / 2;
        let buffers = [f.into(), slopes.into(), offsets.into(), scale, (&df).into()];
        (Geometry::line(f.len(), PAIRS)?, [&buffers[..], &sizes([n, h, w, k, planes])?].concat())
    };
    // SAFETY: a slope a pair, an offset a plane, one number, as many gradients as features; the tiled rung has been chosen
    // for its stencil.
    unsafe { f.gpu().launch(rung.kernel, geometry, &arguments)? };
    Tensor::from_buffer(features.shape(), df)
}

/// The gradient of features N×h×w×K from the slopes of all pairs, N×P×h×w (0 where there is none), on a GPU by one rung:
/// copied there, computed, copied back.
///
/// # Errors
/// Shapes that do not fit each other; a stencil that the rung does not take; the device's.
pub fn gradient(
    gpu: &Arc<Gpu>,
    rung: &Rung,
    features: &Tensor,
    slopes: &Tensor,
    stencil: &Stencil,
) -> Result<Tensor> {
    let [n, h, w, _] = features.nhwc("affinity_loss")?;
    if slopes.shape() != [n, stencil.len(), h, w] || !takes(rung, stencil) {
        let message = format!("slopes {:?} of features {:?}", slopes.shape(), features.shape());
        return Err(Error::shape("affinity_loss", message).remedy(rung.takes));
    }
    let offsets = upload_offsets(gpu, stencil.offsets())?;
    let one = Tensor::scalar(1.0).to_device(gpu, "the loss's gradient")?;
    let slopes = slopes.to_device(gpu, "the slopes")?;
    let features = features.to_device(gpu, "the features")?;
    backward(rung, &features, slopes.buffer()?, &offsets, &one)?.to_host()
}
