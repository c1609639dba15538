//! The permutohedral lattice (Adams, Baek and Davis, *Fast High-Dimensional Filtering Using the
//! Permutohedral Lattice*, 2010): Gaussian filtering of values at N points in d dimensions in O(N·d²).
//!
//! Points are raised into the hyperplane x·1 = 0 of d + 1 dimensions, scaled so that the blur's variance
//! there is that of a unit Gaussian. Each point lies in a simplex of d + 1 lattice points; its values are
//! *splatted* onto them by barycentric weights, *blurred* with (½, 1, ½) along each of the d + 1 axes, and
//! *sliced* back by the same weights. The result is divided by 1 + 2^−d.
//!
//! All of it is in f32, operation by operation as in Krähenbühl's implementation, which the field's figures are
//! made with. A coordinate of 50 is raised with an error of 4e-6, so the weights are off by 1e-6, as are everybody
//! else's: raised in f64 they would be right and differ from everybody's. Where a pixel's labels are near a tie, the
//! mean field makes a thousand times that of it.
//!
//! Lattice points are numbered in the order in which the points first touch them, so the numbering, and
//! with it the order of every sum, does not depend on threads.

use rayon::prelude::*;

/// Points or lattice points that a thread takes at a time.
const CHUNK: usize = 2048;
/// Bits of a key per coordinate, and the offset that makes coordinates positive.
const COORDINATE_BITS: u32 = 24;
const COORDINATE_OFFSET: i64 = 1 << (COORDINATE_BITS - 1);

/// The lattice of a set of points.
pub(super) struct Lattice {
    /// d + 1.
    vertices: usize,
    /// For each point its vertices and weights.
    vertex: Vec<u32>,
    weight: Vec<f32>,
    /// For each lattice point the range of its entries in `touching`.
    starts: Vec<u32>,
    /// (point, weight) of each entry, points ascending.
    touching: Vec<(u32, f32)>,
    /// For each axis and lattice point its two neighbours; `size` where there is none.
    neighbours: Vec<[u32; 2]>,
    /// Number of lattice points.
    size: usize,
}

/// Coordinates of a lattice point in one number. The last coordinate follows from the others.
type Key = u128;

fn pack(coordinates: impl Iterator<Item = i64>) -> Key {
    coordinates.fold(0, |key, c| {
        key << COORDINATE_BITS | ((c + COORDINATE_OFFSET) as Key & ((1 << COORDINATE_BITS) - 1))
    })
}

/// Open addressing with linear probing: keys to consecutive numbers.
struct KeyTable {
    slots: Vec<u32>,
    keys: Vec<Key>,
}

impl KeyTable {
    const FREE: u32 = u32::MAX;

    fn new() -> Self {
        Self { slots: vec![Self::FREE; 1 << 12], keys: Vec::new() }
    }

    fn slot(&self, key: Key) -> usize {
        let folded = (key as u64) ^ ((key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (folded ^ (folded >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mask = self.slots.len() - 1;
        let mut slot = (mixed >> 32) as usize & mask;
        while self.slots[slot] != Self::FREE && self.keys[self.slots[slot] as usize] != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn find(&self, key: Key) -> Option<u32> {
        Some(self.slots[self.slot(key)]).filter(|&id| id != Self::FREE)
    }

    fn insert(&mut self, key: Key) -> u32 {
        let slot = self.slot(key);
        if self.slots[slot] != Self::FREE {
            return self.slots[slot];
        }
        let id = self.keys.len() as u32;
        self.keys.push(key);
        self.slots[slot] = id;
        if self.keys.len() * 2 > self.slots.len() {
            self.slots = vec![Self::FREE; self.slots.len() * 2];
            for id in 0..self.keys.len() {
                let slot = self.slot(self.keys[id]);
                self.slots[slot] = id as u32;
            }
        }
        id
    }
}

/// √(2/3)·(D + 1)/√((i + 1)(i + 2)) for each coordinate i: makes the blur's variance that of a unit Gaussian.
pub(super) fn elevation_scales<const D: usize>() -> [f32; D] {
    let deviation = ((2f64 / 3.0).sqrt() * (D + 1) as f64) as f32;
    std::array::from_fn(|i| (1.0 / (((i + 1) * (i + 2)) as f64).sqrt() * f64::from(deviation)) as f32)
}

/// The simplex of one point: the keys of its D1 = D + 1 vertices and their weights.
fn simplex<const D: usize, const D1: usize>(point: &[f32; D], scales: &[f32; D]) -> ([Key; D1], [f32; D1]) {
    let (side, inverse) = (D1 as f32, 1.0 / D1 as f32);
    let mut elevated = [0f32; D1];
    let mut sum = 0f32;
    for j in (1..=D).rev() {
        let scaled = point[j - 1] * scales[j - 1];
        elevated[j] = sum - j as f32 * scaled;
        sum += scaled;
    }
    elevated[0] = sum;
    // The nearest lattice point whose coordinates are multiples of d + 1, as if that were enough …
    let mut nearest = [0f32; D1];
    let mut excess = 0i64;
    for (nearest, elevated) in nearest.iter_mut().zip(&elevated) {
        let rounded = (inverse * elevated).round_ties_even();
        *nearest = rounded * side;
        excess += rounded as i64;
    }
    // … and the order of the remainders, which names the simplex and mends the sum.
    let mut rank = [0i64; D1];
    for i in 0..D1 {
        for j in i + 1..D1 {
            if elevated[i] - nearest[i] < elevated[j] - nearest[j] {
                rank[i] += 1;
            } else {
                rank[j] += 1;
            }
        }
    }
    for i in 0..D1 {
        rank[i] += excess;
        if rank[i] < 0 {
            rank[i] += D1 as i64;
            nearest[i] += side;
        } else if rank[i] > D as i64 {
            rank[i] -= D1 as i64;
            nearest[i] -= side;
        }
    }
    let mut sorted = [0f32; D1];
    for i in 0..D1 {
        sorted[rank[i] as usize] = (elevated[i] - nearest[i]) * inverse;
    }
    // Barycentric weights are differences of sorted remainders.
    let weights = std::array::from_fn(|v| match v {
        0 => sorted[D] + (1.0 - sorted[0]),
        _ => sorted[D - v] - sorted[D1 - v],
    });
    let keys = std::array::from_fn(|v| {
        pack((0..D).map(|i| {
            let down = rank[i] > D as i64 - v as i64;
            nearest[i] as i64 + v as i64 - if down { D1 as i64 } else { 0 }
        }))
    });
    (keys, weights)
}

impl Lattice {
    /// The lattice of points of D dimensions, in units of the Gaussian's deviation. `D1` is D + 1. `bystanders`
    /// are points without values: their lattice points take part in the blur and in nothing else.
    pub(super) fn new<const D: usize, const D1: usize>(points: &[[f32; D]], bystanders: &[[f32; D]]) -> Self {
        assert_eq!(D + 1, D1);
        let scales = elevation_scales();
        let simplices: Vec<([Key; D1], [f32; D1])> =
            points.par_iter().with_min_len(CHUNK).map(|point| simplex(point, &scales)).collect();
        let mut table = KeyTable::new();
        let mut vertex = Vec::with_capacity(points.len() * D1);
        let (mut last_keys, mut last_ids) = ([Key::MAX; D1], [0u32; D1]);
        for (keys, _) in &simplices {
            for v in 0..D1 {
                // Neighbouring pixels mostly share their simplex.
                if last_keys[v] != keys[v] {
                    last_keys[v] = keys[v];
                    last_ids[v] = table.insert(keys[v]);
                }
                vertex.push(last_ids[v]);
            }
        }
        for bystander in bystanders {
            simplex::<D, D1>(bystander, &scales).0.into_iter().for_each(|key| _ = table.insert(key));
        }
        let weight: Vec<f32> = simplices.iter().flat_map(|(_, weights)| *weights).collect();
        let size = table.keys.len();

        let mut starts = vec![0u32; size + 1];
        vertex.iter().for_each(|&v| starts[v as usize + 1] += 1);
        for i in 0..size {
            starts[i + 1] += starts[i];
        }
        let mut touching = vec![(0u32, 0f32); vertex.len()];
        let mut next = starts.clone();
        for (entry, (&v, &w)) in vertex.iter().zip(&weight).enumerate() {
            touching[next[v as usize] as usize] = ((entry / D1) as u32, w);
            next[v as usize] += 1;
        }

        let coordinate = |key: Key, i: usize| {
            let shift = COORDINATE_BITS as usize * (D - 1 - i);
            (key >> shift & ((1 << COORDINATE_BITS) - 1)) as i64 - COORDINATE_OFFSET
        };
        let mut neighbours = vec![[size as u32; 2]; D1 * size];
        neighbours.par_chunks_mut(size.max(1)).enumerate().for_each(|(axis, neighbours)| {
            for (pair, &key) in neighbours.iter_mut().zip(&table.keys) {
                let step = |sign: i64| {
                    pack((0..D).map(|i| coordinate(key, i) + if i == axis { D as i64 * sign } else { -sign }))
                };
                for (slot, sign) in pair.iter_mut().zip([1, -1]) {
                    *slot = table.find(step(sign)).unwrap_or(size as u32);
                }
            }
        });
        Self { vertices: D1, vertex, weight, starts, touching, neighbours, size }
    }

    /// Filters C values at each point: out[p] = Σ_q k(p, q)·values[q] for the lattice's approximation k of
    /// exp(−½‖p − q‖²).
    pub(super) fn filter<const C: usize>(&self, values: &[[f32; C]]) -> Vec<[f32; C]> {
        let size = self.size;
        // One more lattice point, always zero, stands for neighbours that do not exist.
        let mut now = vec![[0f32; C]; size + 1];
        now[..size].par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, now)| {
            for (i, now) in now.iter_mut().enumerate() {
                let i = chunk * CHUNK + i;
                // In registers: through memory each sum would wait for the store before it.
                let mut sum = [0f32; C];
                for &(point, weight) in &self.touching[self.starts[i] as usize..self.starts[i + 1] as usize] {
                    let value = &values[point as usize];
                    for c in 0..C {
                        sum[c] += weight * value[c];
                    }
                }
                *now = sum;
            }
        });
        let mut next = vec![[0f32; C]; size + 1];
        for neighbours in self.neighbours.chunks_exact(size.max(1)) {
            next[..size].par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, next)| {
                let first = chunk * CHUNK;
                for ((next, centre), pair) in next.iter_mut().zip(&now[first..]).zip(&neighbours[first..]) {
                    let (a, b) = (&now[pair[0] as usize], &now[pair[1] as usize]);
                    for c in 0..C {
                        next[c] = centre[c] + 0.5 * (a[c] + b[c]);
                    }
                }
            });
            std::mem::swap(&mut now, &mut next);
        }
        let d = self.vertices as i32 - 1;
        let scale = 1.0 / (1.0 + 2f32.powi(-d));
        let mut out = vec![[0f32; C]; values.len()];
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let first = chunk * CHUNK * self.vertices;
            let entries = self.vertex[first..].chunks_exact(self.vertices);
            for ((out, vertex), weight) in
                out.iter_mut().zip(entries).zip(self.weight[first..].chunks_exact(self.vertices))
            {
                let mut sum = [0f32; C];
                for (&v, &w) in vertex.iter().zip(weight) {
                    let value = &now[v as usize];
                    for c in 0..C {
                        sum[c] += w * value[c];
                    }
                }
                *out = sum.map(|v| v * scale);
            }
        });
        out
    }

    /// 1/√(K·1 + 1e-20) at each point: the symmetric normalisation.
    pub(super) fn normalizer(&self, points: usize) -> Vec<f32> {
        self.filter(&vec![[1f32]; points]).into_iter().map(|[v]| 1.0 / (v + 1e-20).sqrt()).collect()
    }

    /// The tables, for a device.
    pub(super) fn tables(&self) -> Tables<'_> {
        Tables {
            vertices: self.vertices,
            size: self.size,
            vertex: &self.vertex,
            weight: &self.weight,
            starts: &self.starts,
            touching: &self.touching,
            neighbours: &self.neighbours,
        }
    }
}

/// A lattice's tables: the fields of [`Lattice`].
pub(super) struct Tables<'a> {
    pub vertices: usize,
    pub size: usize,
    pub vertex: &'a [u32],
    pub weight: &'a [f32],
    pub starts: &'a [u32],
    pub touching: &'a [(u32, f32)],
    pub neighbours: &'a [[u32; 2]],
}
