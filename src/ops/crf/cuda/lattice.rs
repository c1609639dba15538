//! Permutohedral lattices on a GPU: built there by sorting (the launchers of `kernels/crf_lattice.cu`), or copied from the
//! CPU's.
//!
//! The points are the CPU's, as are keys, weights and neighbours, bit for bit; only their numbers are others: here they
//! follow the keys, there the first pixel that touches each.

use std::sync::Arc;

use super::super::lattice::{Lattice as HostLattice, Tables, elevation_scales};
use super::Splat;
use crate::device::cuda::{Argument, Cached, DeviceBuffer, Geometry, Gpu, sizes};
use crate::ops::sort::cuda::{Sorted, prefix_sums, sort};
use crate::{Error, Result};

/// Entries of a piece of a point's list, as in the kernels.
const CHUNK: usize = 32;
/// Coordinates above this have no f32 that tells neighbours apart in the lattice.
const LARGEST: f64 = (1 << 22) as f64;

/// A lattice's tables on a GPU. Vertices and weights are planes, d + 1 of pixels each.
pub(super) struct Lattice {
    /// d + 1.
    pub vertices: usize,
    /// Number of lattice points.
    pub size: usize,
    /// The lattice point of each pixel's vertices.
    pub vertex: DeviceBuffer<u32>,
    pub weight: DeviceBuffer<f32>,
    /// For each lattice point where its entries start, and where the last one's end.
    pub starts: DeviceBuffer<u32>,
    /// Pixel and weight's bits of each entry, by lattice point, pixels ascending.
    pub entries: DeviceBuffer<u32>,
    /// For each axis and lattice point its two neighbours, `size` where there is none.
    pub neighbours: DeviceBuffer<u32>,
    /// From and to of pieces of the lists.
    pub chunks: DeviceBuffer<u32>,
    /// n = 1/√(K·1 + 1e-20), per pixel.
    pub normalizer: DeviceBuffer<f32>,
}

/// A lattice that waits for the next image of its size.
pub(super) struct CachedLattice {
    vertices: usize,
    size: usize,
    tables: [Cached<u32>; 5],
    weights: [Cached<f32>; 2],
}

/// A point's features: how far apart they may be, in deviations, and what the kernel that embeds them takes.
pub(super) trait Points<const D: usize> {
    /// The largest value of each dimension; the least is 0.
    fn largest(&self) -> [f64; D];

    /// Queues the kernel that writes keys and weights.
    fn embed(&self, layout: &DeviceBuffer<u32>, outputs: [Argument<'_>; 2], words: usize) -> Result<()>;
}

/// How keys are packed: the kernels' `Layout`, and what follows from it.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    /// Elevation scales, least values, words and shifts of the fields, the vertex number's shift.
    pub kernels: Vec<u32>,
    /// Bits of each word that are used.
    pub bits: Vec<u32>,
    /// For each axis, forth or back, vertex number not turning round or turning: what it adds to each word.
    pub steps: Vec<u32>,
    /// Where the vertex number is in the first word.
    pub vertex_shift: u32,
}

/// The layout of keys for points of D dimensions from 0 to `largest`.
///
/// A lattice point's coordinates are (d + 1)·m_i + r; a key is r, then m_0 … m_{d−1}, each less its least possible value. A
/// point's nearest multiple of d + 1 is within a half of its elevated coordinate, a simplex has vertices up to two less and
/// one more, and their neighbours are one beyond.
///
/// # Errors
/// Points so far apart in deviations that f32 cannot place them in the lattice.
pub(super) fn layout<const D: usize>(largest: [f64; D]) -> Result<Layout> {
    let side = D as i64 + 1;
    let scales = elevation_scales::<D>();
    let scaled: [f64; D] = std::array::from_fn(|i| largest[i] * f64::from(scales[i]));
    let mut fields = Vec::with_capacity(D);
    for i in 0..D {
        let above: f64 = scaled[i..].iter().sum();
        let below = if i == 0 { 0.0 } else { i as f64 * scaled[i - 1] };
        // f32's roundings, a few of 6e-8 each of the largest.
        let slack = 1.0 + 1e-5 * above.max(below);
        if above.max(below) > LARGEST {
            return Err(Error::invalid(format!(
                "the image is {:.0} deviations of the CRF's kernel wide: too many to tell its points apart",
                largest.iter().copied().fold(0.0, f64::max)
            ))
            .remedy("use larger deviations (σ)"));
        }
        let low = (-(below + slack) / side as f64).floor() as i64 - 3;
        let high = ((above + slack) / side as f64).ceil() as i64 + 2;
        fields.push((low, i64::BITS - (high - low).leading_zeros()));
    }
    let vertex_bits = u32::BITS - (D as u32).leading_zeros();
    // Fields go into the first word until it is full, then into the next, from the low bits up.
    let (mut bits, mut places) = (vec![0], Vec::with_capacity(D));
    for (_, width) in &fields {
        let word = bits.len() - 1;
        let taken = bits[word] + if word == 0 { vertex_bits } else { 0 };
        if taken + width > u32::BITS {
            bits.push(0);
        }
        let word = bits.len() - 1;
        places.push((word, bits[word]));
        bits[word] += width;
    }
    let vertex_shift = bits[0];
    bits[0] += vertex_bits;
    let mut steps = Vec::new();
    for (axis, back, turns) in
        (0..=D).flat_map(|a| [false, true].into_iter().flat_map(move |b| [(a, b, false), (a, b, true)]))
    {
        let mut words = vec![0u32; bits.len()];
        // Forth r falls by one and back it rises, all m staying but the axis' own; where it turns round, all but that.
        let sign = if back { 1i32 } else { -1 };
        let r = if turns { -sign * D as i32 } else { sign };
        words[0] = (r as u32) << vertex_shift;
        for (i, &(word, shift)) in places.iter().enumerate() {
            let m = match (i == axis, turns) {
                (true, false) => -sign,
                (false, true) => sign,
                _ => 0,
            };
            words[word] = words[word].wrapping_add((m as u32) << shift);
        }
        steps.extend(words);
    }
    let kernels = scales.iter().map(|s| s.to_bits());
    let kernels = kernels.chain(fields.iter().map(|(low, _)| *low as u32));
    let kernels = kernels.chain(places.iter().map(|(word, _)| *word as u32));
    let kernels = kernels.chain(places.iter().map(|(_, shift)| *shift)).chain([vertex_shift]).collect();
    Ok(Layout { kernels, bits, steps, vertex_shift })
}

impl Lattice {
    /// The lattice of an image's points, built on the GPU.
    ///
    /// # Errors
    /// The device's; more entries than 32-bit indices can name; as [`layout`].
    pub fn build<const D: usize>(
        gpu: &Arc<Gpu>,
        points: &impl Points<D>,
        pixels: usize,
        splat: Splat,
    ) -> Result<Self> {
        let layout = layout(points.largest())?;
        let (vertices, words) = (D + 1, layout.bits.len());
        let count = pixels * vertices;
        // The keys are the longest of all tables, the neighbours apart.
        Argument::size(count * words.max(2))?;
        let allocate = |what: &str, len: usize| gpu.allocate::<u32>(what, len);
        let keys = allocate("a lattice's keys", words * count)?;
        let weight = gpu.allocate::<f32>("a lattice's weights", count)?;
        let packing = gpu.upload("a lattice's layout", &layout.kernels)?;
        points.embed(&packing, [(&keys).into(), (&weight).into()], words)?;
        let Sorted { first_word, order } = sort(&keys, &layout.bits)?;
        let line = Geometry::line(count, 256)?;
        let [entry_count, word_count, pixel_count] = sizes([count, words, pixels])?;
        // Keys of one word came out of the sort in order; longer ones are gathered.
        let sorted = if words == 1 {
            first_word
        } else {
            let sorted = allocate("a lattice's sorted keys", words * count)?;
            for word in 0..words {
                let at = word * count;
                let arguments =
                    [Argument::part(&keys, at), (&order).into(), Argument::part(&sorted, at), entry_count];
                // SAFETY: `count` elements each.
                unsafe { gpu.launch("sort_gather_u32", line, &arguments)? };
            }
            sorted
        };
        let heads = allocate("a lattice's heads", line.grid[0] as usize + 1)?;
        let arguments = [(&sorted).into(), (&heads).into(), entry_count, word_count];
        // SAFETY: words×count keys; a count for each block.
        unsafe { gpu.launch("crf_heads_u32", line, &arguments)? };
        prefix_sums(&heads)?;
        // The one number that the host must know: how large the tables are.
        let size = gpu.download(&heads)?.last().map_or(0, |n| *n as usize);
        let [size_argument] = sizes([size])?;
        let starts = allocate("a lattice's lists", size + 1)?;
        let entries = allocate("a lattice's entries", 2 * count)?;
        let vertex = allocate("a lattice's vertices", count)?;
        let point_keys = allocate("a lattice's points", words * size)?;
        let arguments = [
            [&sorted, &order].map(Argument::from).as_slice(),
            &[(&weight).into()],
            &[&heads, &starts, &entries, &vertex, &point_keys].map(Argument::from),
            &[entry_count, word_count, pixel_count, size_argument],
        ]
        .concat();
        // SAFETY: the tables have `size` points, of which the kernel finds as many as were counted.
        unsafe { gpu.launch("crf_points_u32", line, &arguments)? };
        let steps = gpu.upload("a lattice's steps", &layout.steps)?;
        let neighbours = allocate("a lattice's neighbours", 2 * vertices * size)?;
        Argument::size(neighbours.len())?;
        let arguments = [
            [&point_keys, &steps, &neighbours].map(Argument::from).as_slice(),
            &[size_argument, word_count],
            &[vertices, layout.vertex_shift as usize].map(|v| Argument::I32(v as i32)),
        ]
        .concat();
        // SAFETY: `size` keys, a step for each axis and turn, two neighbours a point and axis.
        unsafe { gpu.launch("crf_neighbours_u32", Geometry::line(vertices * size, 256)?, &arguments)? };
        let normalizer = gpu.allocate("a kernel's normaliser", pixels)?;
        let chunks = allocate("a lattice's chunks", 0)?;
        let lattice =
            Self { vertices, size, vertex, weight, starts, entries, neighbours, chunks, normalizer };
        lattice.finish(splat)
    }

    /// The CPU's lattice and normaliser, copied.
    ///
    /// # Errors
    /// The device's.
    pub fn upload(gpu: &Arc<Gpu>, lattice: &HostLattice, normalizer: &[f32]) -> Result<Self> {
        let Tables { vertices, size, vertex, weight, starts, touching, neighbours } = lattice.tables();
        let entries: Vec<u32> =
            touching.iter().flat_map(|&(pixel, weight)| [pixel, weight.to_bits()]).collect();
        Ok(Self {
            vertices,
            size,
            vertex: gpu.upload("a lattice's vertices", &planes(vertex, vertices))?,
            weight: gpu.upload("a lattice's weights", &planes(weight, vertices))?,
            starts: gpu.upload("a lattice's lists", starts)?,
            entries: gpu.upload("a lattice's entries", &entries)?,
            neighbours: gpu.upload("a lattice's neighbours", neighbours.as_flattened())?,
            chunks: gpu.allocate("a lattice's chunks", 0)?,
            normalizer: gpu.upload("a kernel's normaliser", normalizer)?,
        })
    }

    /// Cuts the lists where that is how they are added, and fills in the normaliser.
    fn finish(mut self, splat: Splat) -> Result<Self> {
        let gpu = Arc::clone(self.vertex.gpu());
        if splat == Splat::Chunks {
            let chunks = gpu.allocate("a lattice's chunks", 2 * self.chunks_at_most())?;
            let arguments = [(&self.starts).into(), (&chunks).into(), Argument::size(self.size)?];
            // SAFETY: a start a point and the end; room for all chunks.
            unsafe { gpu.launch("crf_chunks_u32", Geometry::line(self.size, 256)?, &arguments)? };
            self.chunks = chunks;
        }
        let mut room = self.room(1, splat)?;
        self.filter(None, &mut room, 1)?;
        let pixels = self.normalizer.len();
        let [count, vertices] = sizes([pixels, self.vertices])?;
        let arguments = [
            (&room.points[0]).into(),
            (&self.vertex).into(),
            (&self.weight).into(),
            (&self.normalizer).into(),
            count,
            vertices,
            Argument::F32(self.scale()),
        ];
        // SAFETY: a lattice of one piece, planes of pixels.
        unsafe { gpu.launch("crf_normalizer_f32", Geometry::line(pixels, 256)?, &arguments)? };
        Ok(self)
    }

    /// Pieces of lists, at most: see `crf_chunks_u32`.
    fn chunks_at_most(&self) -> usize {
        self.entries.len() / 2 / CHUNK + self.size
    }

    /// 1/(1 + 2^−d), by which the filter's result is multiplied.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 + 2f32.powi(1 - self.vertices as i32))
    }

    /// Room for values of so many pieces at each of this lattice's points.
    ///
    /// # Errors
    /// The device's; more values than 32-bit indices can name.
    pub fn room(&self, pieces: usize, splat: Splat) -> Result<Room> {
        let gpu = self.vertex.gpu();
        let values = |points: usize| {
            Argument::size(points * pieces * 4)?;
            gpu.allocate::<f32>("a lattice's values", points * pieces * 4)
        };
        let chunks = if splat == Splat::Chunks { self.chunks_at_most() } else { 0 };
        Ok(Room { points: [values(self.size + 1)?, values(self.size + 1)?], chunks: values(chunks)?, splat })
    }

    /// Splats n·Q, or ones where there is no Q, and blurs: the result is in `room.points[0]`.
    pub fn filter(&self, q: Option<&DeviceBuffer<f32>>, room: &mut Room, pieces: usize) -> Result<()> {
        let gpu = self.vertex.gpu();
        let of_lattice = sizes([self.size, pieces])?;
        let line = Geometry::line((self.size + 1) * pieces, 256)?;
        let [q, n] = match q {
            Some(q) => [q.into(), (&self.normalizer).into()],
            None => [Argument::NONE; 2],
        };
        let sums = match room.splat {
            Splat::Lists => {
                let arguments =
                    [q, n, (&self.starts).into(), (&self.entries).into(), (&room.points[0]).into()];
                let arguments = [&arguments[..], &of_lattice].concat();
                // SAFETY: Q has 4·pieces values a pixel, the room as many a lattice point and one more; the tables are
                // of this lattice.
                return unsafe { gpu.launch("crf_splat_f32", line, &arguments) }
                    .and_then(|()| self.blur(room, line, of_lattice));
            }
            Splat::Chunks => &room.chunks,
        };
        let count = self.chunks_at_most();
        let arguments = [q, n, (&self.chunks).into(), (&self.entries).into(), sums.into()];
        let arguments = [&arguments[..], &sizes([count, pieces])?].concat();
        // SAFETY: as above; the room has 4·pieces values a chunk.
        unsafe { gpu.launch("crf_splat_chunks_f32", Geometry::line(count * pieces, 256)?, &arguments)? };
        let arguments = [sums.into(), (&self.starts).into(), (&room.points[0]).into()];
        // SAFETY: as above.
        unsafe { gpu.launch("crf_add_chunks_f32", line, &[&arguments[..], &of_lattice].concat())? };
        self.blur(room, line, of_lattice)
    }

    fn blur(&self, room: &mut Room, line: Geometry, of_lattice: [Argument<'static>; 2]) -> Result<()> {
        for axis in 0..self.vertices {
            let [from, to] = &room.points;
            let arguments = [from.into(), (&self.neighbours).into(), to.into()];
            let arguments = [&arguments[..], &of_lattice, &sizes([axis])?].concat();
            // SAFETY: both have values for all points and one more; the tables are of this lattice.
            unsafe { self.vertex.gpu().launch("crf_blur_f32", line, &arguments)? };
            room.points.swap(0, 1);
        }
        Ok(())
    }

    pub fn cached(self) -> CachedLattice {
        let Self { vertices, size, vertex, weight, starts, entries, neighbours, chunks, normalizer } = self;
        let tables = [vertex, starts, entries, neighbours, chunks].map(DeviceBuffer::cached);
        CachedLattice { vertices, size, tables, weights: [weight, normalizer].map(DeviceBuffer::cached) }
    }
}

impl CachedLattice {
    pub fn on(self, gpu: &Arc<Gpu>) -> Lattice {
        let Self { vertices, size, tables, weights } = self;
        let [vertex, starts, entries, neighbours, chunks] = tables.map(|t| t.on(gpu));
        let [weight, normalizer] = weights.map(|t| t.on(gpu));
        Lattice { vertices, size, vertex, weight, starts, entries, neighbours, chunks, normalizer }
    }
}

/// Memory for a lattice's values while it filters.
pub(super) struct Room {
    /// Source and target of a blur: size + 1 points each.
    pub points: [DeviceBuffer<f32>; 2],
    chunks: DeviceBuffer<f32>,
    splat: Splat,
}

/// Rows of `columns` as planes.
fn planes<T: Copy>(rows: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| rows.iter().skip(c).step_by(columns).copied()).collect()
}
