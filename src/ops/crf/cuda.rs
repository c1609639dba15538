//! The dense CRF on a GPU: the ladder of kernels in `kernels/crf*.cu`, and how each is launched.
//!
//! Tests, benchmarks and documentation read [`LADDER`]; a new way is one more row. A rung says where the lattices come
//! from, how lists of entries are added, and whether an update is one kernel.

mod lattice;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use super::{DenseCrf, Picture};
use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, Rung, sizes};
use crate::tensor::Tensor;
use lattice::{CachedLattice, Lattice, Points, Room};

type Values = DeviceBuffer<f32>;

/// How a lattice point's entries are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Splat {
    /// One after the other.
    Lists,
    /// In pieces, then the pieces.
    Chunks,
}

/// One way of the ladder.
#[derive(Clone, Copy, Debug)]
pub struct CrfRung {
    /// Number, first kernel, idea and bound.
    pub rung: Rung,
    /// Whether the lattices are built on the GPU.
    builds: bool,
    splat: Splat,
    /// Whether slices, energies and softmax are one kernel.
    fused: bool,
}

/// The ladder, from plain to fast. Every rung takes every image and number of labels that the CPU does.
pub const LADDER: &[CrfRung] = &[
    CrfRung {
        rung: Rung {
            number: 0,
            name: "uploaded",
            kernel: "crf_splat_f32",
            idea: "lattices from the CPU; splat, blur, slice and softmax apart",
            bound: "building and copying the lattices; then memory, 96 bytes a pixel and four labels in slices and softmax",
            takes: "every image",
        },
        builds: false,
        splat: Splat::Lists,
        fused: false,
    },
    CrfRung {
        rung: Rung {
            number: 1,
            name: "sorted",
            kernel: "sort_scatter_u32",
            idea: "the lattices are built on the GPU: keys sorted, points by run length, neighbours by bisection",
            bound: "the sort, 20 bytes an entry and pass; then as below",
            takes: "every image",
        },
        builds: true,
        splat: Splat::Lists,
        fused: false,
    },
    CrfRung {
        rung: Rung {
            number: 2,
            name: "fused",
            kernel: "crf_update_f32",
            idea: "both slices, the energies' sum and the softmax in one pass over the pixels",
            bound: "L2: 16 bytes for each of a pixel's 9 vertices and entries and four labels; the longest list",
            takes: "every image",
        },
        builds: true,
        splat: Splat::Lists,
        fused: true,
    },
    CrfRung {
        rung: Rung {
            number: 3,
            name: "chunks",
            kernel: "crf_splat_chunks_f32",
            idea: "lists in pieces of 32 entries, so that no thread's list is long",
            bound: "L2, as below",
            takes: "every image",
        },
        builds: true,
        splat: Splat::Chunks,
        fused: true,
    },
];

/// The fastest rung, or the one that was asked for.
pub fn choose(gpu: &Gpu) -> &'static CrfRung {
    let forced = gpu.forced("crf").and_then(|name| LADDER.iter().find(|r| r.rung.name == name));
    forced.unwrap_or(&LADDER[3])
}

/// Positions in the plane, in deviations.
struct Places<'a> {
    picture: &'a Picture,
    sigma: f64,
}

impl Points<2> for Places<'_> {
    fn largest(&self) -> [f64; 2] {
        self.picture.corner().map(|v| v / self.sigma)
    }

    fn embed(&self, layout: &DeviceBuffer<u32>, outputs: [Argument<'_>; 2], words: usize) -> Result<()> {
        let pixels = self.picture.pixels();
        let arguments = [
            [Argument::from(layout)].as_slice(),
            &outputs,
            &sizes([self.picture.width, pixels, words])?,
            &[Argument::F32(self.sigma as f32)],
        ]
        .concat();
        // SAFETY: words×3×pixels keys, 3×pixels weights.
        unsafe { layout.gpu().launch("crf_embed_positions_f32", Geometry::line(pixels, 256)?, &arguments) }
    }
}

/// Positions and colours, in deviations.
struct Colours<'a> {
    picture: &'a Picture,
    place: f64,
    colour: f64,
}

impl Points<5> for Colours<'_> {
    fn largest(&self) -> [f64; 5] {
        let [x, y] = self.picture.corner().map(|v| v / self.place);
        let colour = 255.0 / self.colour;
        [x, y, colour, colour, colour]
    }

    fn embed(&self, layout: &DeviceBuffer<u32>, outputs: [Argument<'_>; 2], words: usize) -> Result<()> {
        let pixels = self.picture.pixels();
        let colours = layout.gpu().upload("the image", &self.picture.colours)?;
        let arguments = [
            [Argument::from(layout), (&colours).into()].as_slice(),
            &outputs,
            &sizes([self.picture.width, pixels, words])?,
            &[self.place, self.colour].map(|v| Argument::F32(v as f32)),
        ]
        .concat();
        // SAFETY: three colours a pixel, words×6×pixels keys, 6×pixels weights.
        unsafe { layout.gpu().launch("crf_embed_colours_f32", Geometry::line(pixels, 256)?, &arguments) }
    }
}

/// The lattice of positions, which waits in the GPU's cache for the next image of its size.
struct Shared {
    name: String,
    lattice: Option<Lattice>,
}

const POSITIONS: &str = "crf positions";

impl Shared {
    fn take_or_build(gpu: &Arc<Gpu>, places: &Places<'_>, splat: Splat) -> Result<Self> {
        let Picture { height, width, .. } = *places.picture;
        let name = format!("{POSITIONS} {height}×{width}, σ {:016x}, {splat:?}", places.sigma.to_bits());
        let lattice = match gpu.cache().and_then(|cache| cache.take::<CachedLattice>(&name)) {
            Some(kept) => kept.on(gpu),
            None => Lattice::build(gpu, places, height * width, splat)?,
        };
        Ok(Self { name, lattice: Some(lattice) })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(lattice) = self.lattice.take() {
            let gpu = Arc::clone(lattice.vertex.gpu());
            if let Some(cache) = gpu.cache() {
                cache.put(std::mem::take(&mut self.name), lattice.cached());
            }
        }
    }
}

/// One kernel of the CRF with its lattice.
struct Filter {
    weight: f32,
    lattice: Place,
}

enum Place {
    Own(Box<Lattice>),
    Shared(Box<Shared>),
}

impl Filter {
    fn lattice(&self) -> &Lattice {
        match &self.lattice {
            Place::Own(lattice) => lattice,
            Place::Shared(shared) => shared.lattice.as_ref().expect("it is there until it is dropped"),
        }
    }
}

/// The lattices of one image on one GPU, by one rung.
pub(super) struct Filters {
    gpu: Arc<Gpu>,
    rung: u32,
    /// Of the plane, of positions and colours: those whose weight is not 0.
    filters: [Option<Filter>; 2],
}

/// The filters that were used last.
#[derive(Default)]
pub(super) struct Last(Mutex<Option<Arc<Filters>>>);

impl DenseCrf {
    /// Its lattices on a GPU: those of the last call where GPU and rung are the same.
    fn filters(&self, gpu: &Arc<Gpu>, rung: &CrfRung) -> Result<Arc<Filters>> {
        let mut last = self.on_gpu.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref()
            && Arc::ptr_eq(&known.gpu, gpu)
            && known.rung == rung.rung.number
        {
            return Ok(Arc::clone(known));
        }
        // What is held goes first: there may be no room for both.
        *last = None;
        let mut filters = [None, None];
        let (gaussian, bilateral) = (&self.options.gaussian, &self.options.bilateral);
        if rung.builds {
            let picture = &self.picture;
            if gaussian.weight > 0.0 {
                let places = Places { picture, sigma: gaussian.sigma_xy };
                let shared = Shared::take_or_build(gpu, &places, rung.splat)?;
                filters[0] =
                    Some(Filter { weight: gaussian.weight as f32, lattice: Place::Shared(shared.into()) });
            }
            if bilateral.weight > 0.0 {
                let colours = Colours { picture, place: bilateral.sigma_xy, colour: bilateral.sigma_rgb };
                let own = Lattice::build(gpu, &colours, picture.pixels(), rung.splat)?;
                filters[1] =
                    Some(Filter { weight: bilateral.weight as f32, lattice: Place::Own(own.into()) });
            }
        } else {
            let places = [gaussian.weight > 0.0, bilateral.weight > 0.0];
            let places = places.into_iter().enumerate().filter_map(|(at, there)| there.then_some(at));
            for (at, kernel) in places.zip(self.kernels()) {
                let own = Lattice::upload(gpu, &kernel.lattice, &kernel.normalizer)?;
                filters[at] = Some(Filter { weight: kernel.weight, lattice: Place::Own(own.into()) });
            }
        }
        let filters = Arc::new(Filters { gpu: Arc::clone(gpu), rung: rung.rung.number, filters });
        *last = Some(Arc::clone(&filters));
        Ok(filters)
    }

    /// Builds the lattices on a GPU, for [`DenseCrf::infer_on`].
    pub(super) fn build_on(&self, gpu: &Arc<Gpu>) -> Result<()> {
        self.filters(gpu, choose(gpu)).map(|_| ())
    }
}

/// Gives the lattices of positions that wait on a GPU back.
pub(super) fn forget_positions(gpu: &Gpu) {
    gpu.cache().map(|cache| cache.clear());
}

/// The mean field's buffers: `width` values a pixel each, labels innermost.
struct Field<'a> {
    filters: &'a Filters,
    rung: &'a CrfRung,
    pixels: usize,
    labels: usize,
    width: usize,
    unary: Values,
    q: Values,
}

impl Field<'_> {
    fn pieces(&self) -> usize {
        self.width / 4
    }

    /// Q = softmax(energy), a warp a pixel.
    fn softmax(&self, energy: &Values) -> Result<()> {
        let shape = sizes([self.pixels, self.labels, self.width])?;
        let arguments = [&[energy.into(), (&self.q).into()][..], &shape].concat();
        // SAFETY: both have `width` values a pixel.
        unsafe { self.filters.gpu.launch("crf_softmax_f32", Geometry::line(self.pixels, 8)?, &arguments) }
    }

    /// energy = from + w·n·K n Q for a lattice that has filtered; `energy` may be `from`.
    fn slice(&self, filter: &Filter, room: &Room, from: &Values, energy: &Values) -> Result<()> {
        let lattice = filter.lattice();
        let mut arguments = vec![from.into(), (&room.points[0]).into(), (&lattice.vertex).into()];
        arguments.extend([(&lattice.weight).into(), (&lattice.normalizer).into(), Argument::from(energy)]);
        arguments.extend(sizes([self.pixels, lattice.vertices, self.pieces()])?);
        arguments.extend([lattice.scale(), filter.weight].map(Argument::F32));
        let line = Geometry::line(self.pixels * self.pieces(), 256)?;
        // SAFETY: the room is of this lattice; from and energy are laid out as Q is, and the kernel allows them to be one.
        unsafe { self.filters.gpu.launch("crf_slice_f32", line, &arguments) }
    }

    /// Q = softmax(unary + what both lattices have filtered); those without a room are left out.
    fn update(&self, rooms: [Option<&Room>; 2]) -> Result<()> {
        let mut arguments = vec![(&self.unary).into()];
        for (filter, room) in self.filters.filters.iter().zip(rooms) {
            match (filter, room) {
                (Some(filter), Some(room)) => {
                    let lattice = filter.lattice();
                    arguments.extend([Argument::from(&room.points[0]), (&lattice.vertex).into()]);
                    arguments.extend([Argument::from(&lattice.weight), (&lattice.normalizer).into()]);
                    arguments.extend([lattice.scale(), filter.weight].map(Argument::F32));
                }
                _ => arguments.extend([[Argument::NONE; 4].as_slice(), &[Argument::F32(0.0); 2]].concat()),
            }
        }
        // A piece a lane while a warp has enough of them.
        let (kernel, each) =
            if self.pieces() <= 32 { ("crf_update_f32", 1) } else { ("crf_update_wide_f32", 2) };
        let lanes = self.pieces().div_ceil(each).next_power_of_two();
        arguments.push((&self.q).into());
        arguments.extend(sizes([self.pixels, self.labels, self.pieces(), lanes.ilog2() as usize])?);
        // SAFETY: the rooms are of these lattices, with `width` values a point; unary and Q have as many a pixel.
        unsafe { self.filters.gpu.launch(kernel, Geometry::line(self.pixels * lanes, 256)?, &arguments) }
    }

    fn iterate(&self, iterations: usize) -> Result<()> {
        let filters = &self.filters.filters;
        let room = |filter: &Option<Filter>| -> Result<Option<Room>> {
            let lattice = filter.as_ref().map(Filter::lattice);
            lattice.map(|l| l.room(self.pieces(), self.rung.splat)).transpose()
        };
        let mut rooms = [room(&filters[0])?, room(&filters[1])?];
        if self.rung.fused {
            self.update([None, None])?;
            for _ in 0..iterations {
                for (filter, room) in filters.iter().zip(&mut rooms) {
                    if let (Some(filter), Some(room)) = (filter, room) {
                        filter.lattice().filter(Some(&self.q), room, self.pieces())?;
                    }
                }
                self.update(rooms.each_ref().map(Option::as_ref))?;
            }
            return Ok(());
        }
        let energy = self.filters.gpu.allocate("the energies", self.q.len())?;
        self.softmax(&self.unary)?;
        for _ in 0..iterations {
            let mut from = &self.unary;
            for (filter, room) in filters.iter().zip(&mut rooms) {
                if let (Some(filter), Some(room)) = (filter, room) {
                    filter.lattice().filter(Some(&self.q), room, self.pieces())?;
                    self.slice(filter, room, from, &energy)?;
                    from = &energy;
                }
            }
            self.softmax(from)?;
        }
        Ok(())
    }
}

/// [`DenseCrf::infer`] on a GPU by one rung; the lattices of the last call serve again where GPU and rung are the same.
///
/// # Errors
/// As [`DenseCrf::infer`]; more values than 32-bit indices can name; the device's.
pub fn infer(gpu: &Arc<Gpu>, rung: &CrfRung, crf: &DenseCrf, scores: &Tensor) -> Result<Tensor> {
    let labels = crf.check(scores)?;
    let (pixels, width) = (crf.picture.pixels(), labels.next_multiple_of(4));
    Argument::size(pixels * width)?;
    let filters = crf.filters(gpu, rung)?;
    let values = |what: &str| gpu.allocate::<f32>(what, pixels * width);
    let scores = scores.to_device(gpu, "the scores")?;
    let shape = sizes([pixels, labels, width])?;
    let by_four = Geometry::line(width / 4 * pixels, 256)?;
    let (unary, q) = (values("the unary energies")?, values("Q")?);
    let arguments = [&[scores.buffer()?.into(), (&unary).into()][..], &shape].concat();
    // SAFETY: L planes of pixels, and `width` values a pixel.
    unsafe { gpu.launch("crf_unary_f32", by_four, &arguments)? };
    let field = Field { filters: &filters, rung, pixels, labels, width, unary, q };
    field.iterate(crf.options.iterations)?;
    let out = Arc::new(gpu.allocate("the CRF's result", labels * pixels)?);
    let arguments = [&[(&field.q).into(), (&out).into()][..], &shape].concat();
    // SAFETY: as for the scores.
    unsafe { gpu.launch("crf_planes_f32", by_four, &arguments)? };
    Tensor::from_buffer(&[labels, crf.picture.height, crf.picture.width], out)?.to_host()
}
