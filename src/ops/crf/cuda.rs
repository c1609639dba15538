//! The dense CRF's mean field on a GPU: the launchers of `kernels/crf.cu`. Lattices are built on the CPU, see `lattice.rs`.

use std::sync::Arc;

use super::lattice::Tables;
use super::{DenseCrf, Kernel};
use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, sizes};
use crate::tensor::Tensor;

type Values = DeviceBuffer<f32>;

/// One kernel of the CRF with its lattice's tables on the GPU.
struct Filter {
    weight: f32,
    normalizer: Values,
    vertices: usize,
    size: usize,
    /// 1/(1 + 2^−d).
    scale: f32,
    vertex: DeviceBuffer<u32>,
    vertex_weight: Values,
    starts: DeviceBuffer<u32>,
    entries: DeviceBuffer<u32>,
    /// For each axis the pairs of neighbours.
    neighbours: Vec<DeviceBuffer<u32>>,
}

impl Filter {
    fn upload(gpu: &Arc<Gpu>, kernel: &Kernel) -> Result<Self> {
        let Tables { vertices, size, vertex, weight, starts, touching, neighbours } = kernel.lattice.tables();
        let entries: Vec<u32> =
            touching.iter().flat_map(|&(pixel, weight)| [pixel, weight.to_bits()]).collect();
        let axis = |pairs: &[[u32; 2]]| gpu.upload("a lattice's neighbours", pairs.as_flattened());
        Ok(Self {
            weight: kernel.weight,
            normalizer: gpu.upload("a kernel's normaliser", &kernel.normalizer)?,
            vertices,
            size,
            scale: 1.0 / (1.0 + 2f32.powi(1 - vertices as i32)),
            vertex: gpu.upload("a lattice's vertices", vertex)?,
            vertex_weight: gpu.upload("a lattice's weights", weight)?,
            starts: gpu.upload("a lattice's lists", starts)?,
            entries: gpu.upload("a lattice's entries", &entries)?,
            neighbours: neighbours.chunks_exact(size.max(1)).map(axis).collect::<Result<_>>()?,
        })
    }

    /// out = energy + w·n·K n Q; `out` may be `energy`. `two` have room for the lattice's values.
    fn add_message(
        &self,
        [q, energy, out]: [&Values; 3],
        two: &mut [Values; 2],
        pixels: usize,
        pieces: usize,
    ) -> Result<()> {
        let gpu = q.gpu();
        let of_lattice = sizes([self.size, pieces])?;
        let line = Geometry::line((self.size + 1) * pieces, 256)?;
        let mut arguments = vec![q.into(), (&self.normalizer).into(), (&self.starts).into()];
        arguments.extend([Argument::from(&self.entries), (&two[0]).into()]);
        arguments.extend(of_lattice);
        // SAFETY: Q has 4·pieces values a pixel, each buffer of `two` as many a lattice point and one more; the tables are of
        // this lattice.
        unsafe { gpu.launch("crf_splat_f32", line, &arguments)? };
        for axis in &self.neighbours {
            let [from, to] = &*two;
            let arguments = [&[from.into(), axis.into(), to.into()][..], &of_lattice].concat();
            // SAFETY: as above.
            unsafe { gpu.launch("crf_blur_f32", line, &arguments)? };
            two.swap(0, 1);
        }
        let mut arguments = vec![energy.into(), (&two[0]).into(), (&self.vertex).into()];
        arguments.extend([Argument::from(&self.vertex_weight), (&self.normalizer).into(), out.into()]);
        arguments.extend(sizes([pixels, self.vertices, pieces])?);
        arguments.extend([self.scale, self.weight].map(Argument::F32));
        // SAFETY: as above; energy and out are laid out as Q is, and the kernel allows them to be one.
        unsafe { gpu.launch("crf_slice_f32", Geometry::line(pixels * pieces, 256)?, &arguments) }
    }
}

impl DenseCrf {
    /// As [`DenseCrf::infer`], the iterations on a GPU where one is given: scores and result in host memory.
    ///
    /// # Errors
    /// As [`DenseCrf::infer`]; the device's.
    pub fn infer_on(&self, gpu: Option<&Arc<Gpu>>, scores: &Tensor) -> Result<Tensor> {
        let Some(gpu) = gpu else { return self.infer(scores) };
        let labels = self.check(scores)?;
        let (pixels, width) = (self.height * self.width, labels.next_multiple_of(4));
        let filters: Vec<Filter> =
            self.kernels.iter().map(|kernel| Filter::upload(gpu, kernel)).collect::<Result<_>>()?;
        let points = filters.iter().map(|filter| filter.size + 1).max().unwrap_or(0);
        let buffer = |what: &str, len: usize| gpu.allocate::<f32>(what, len);
        let lattice = "a lattice's values";
        let mut two = [buffer(lattice, points * width)?, buffer(lattice, points * width)?];
        let (unary, q) = (buffer("the unary energies", pixels * width)?, buffer("Q", pixels * width)?);
        let energy = buffer("the energies", pixels * width)?;
        let scores = scores.to_device(gpu, "the scores")?;
        let shape = sizes([pixels, labels, width])?;
        let arguments = [&[scores.buffer()?.into(), (&unary).into()][..], &shape].concat();
        // SAFETY: L planes of pixels, and `width` values a pixel.
        unsafe { gpu.launch("crf_unary_f32", Geometry::line(width * pixels, 256)?, &arguments)? };
        let softmax = |from: &Values| {
            let arguments = [&[from.into(), (&q).into()][..], &shape].concat();
            // SAFETY: both have `width` values a pixel.
            unsafe { gpu.launch("crf_softmax_f32", Geometry::line(pixels, 8)?, &arguments) }
        };
        softmax(&unary)?;
        for _ in 0..self.iterations {
            let mut from = &unary;
            for filter in &filters {
                filter.add_message([&q, from, &energy], &mut two, pixels, width / 4)?;
                from = &energy;
            }
            softmax(from)?;
        }
        let out = Arc::new(gpu.allocate("the CRF's result", labels * pixels)?);
        let arguments = [&[(&q).into(), (&out).into()][..], &shape].concat();
        // SAFETY: as for the scores.
        unsafe { gpu.launch("crf_planes_f32", Geometry::line(labels * pixels, 256)?, &arguments)? };
        Tensor::from_buffer(&[labels, self.height, self.width], out)?.to_host()
    }
}
