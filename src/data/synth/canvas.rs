//! Where a scene is painted: colours, lattice noise, the camera's blur and grain.
//!
//! Only additions, products, quotients and comparisons of f32 are used, which every IEEE 754 machine
//! rounds alike; sines, powers and logarithms, which differ between mathematical libraries, are not.
//! So a seed names the same pixels everywhere.

use crate::formats::image::RgbImage;
use crate::rng::Stream;

/// Red, green, blue in 0–1, as displayed (not linear light).
pub(super) type Colour = [f32; 3];

/// A square picture in floating point.
pub(super) struct Canvas {
    /// Side in pixels.
    pub size: usize,
    /// Rows from the top.
    pub pixels: Vec<Colour>,
}

impl Canvas {
    /// A picture whose colour at each pixel's centre is `colour(x, y)`.
    pub fn new(size: usize, colour: impl Fn(f32, f32) -> Colour) -> Self {
        let at = |i: usize| colour((i % size) as f32 + 0.5, (i / size) as f32 + 0.5);
        Self { size, pixels: (0..size * size).map(at).collect() }
    }

    /// The colour at a point, the border's beyond it.
    pub fn at(&self, x: f32, y: f32) -> Colour {
        let last = self.size as f32 - 1.0;
        let (x, y) = (x.clamp(0.0, last) as usize, y.clamp(0.0, last) as usize);
        self.pixels[y * self.size + x]
    }

    /// Lays `paint(x, y)` = (coverage, colour) over every pixel of the square of half side `reach`
    /// around `centre`.
    pub fn paint(&mut self, centre: [f32; 2], reach: f32, paint: impl Fn(f32, f32) -> (f32, Colour)) {
        let (columns, rows) = (span(centre[0], reach, self.size), span(centre[1], reach, self.size));
        for y in rows {
            for x in columns.clone() {
                let (coverage, colour) = paint(x as f32 + 0.5, y as f32 + 0.5);
                if coverage > 0.0 {
                    let pixel = &mut self.pixels[y * self.size + x];
                    *pixel = mix(*pixel, colour, coverage.min(1.0));
                }
            }
        }
    }

    /// Mixes each pixel with its 3×3 binomial mean: a lens that is not quite sharp.
    pub fn soften(&mut self, amount: f32) {
        let (size, source) = (self.size, std::mem::take(&mut self.pixels));
        let near = |i: usize| [i.saturating_sub(1), i, (i + 1).min(size - 1)];
        self.pixels = (0..size * size)
            .map(|i| {
                let mut sum = [0.0; 3];
                for (y, wy) in near(i / size).into_iter().zip([0.25, 0.5, 0.25]) {
                    for (x, wx) in near(i % size).into_iter().zip([0.25, 0.5, 0.25]) {
                        for c in 0..3 {
                            sum[c] += wy * wx * source[y * size + x][c];
                        }
                    }
                }
                mix(source[i], sum, amount)
            })
            .collect();
    }

    /// Rounds to 8 bits after grain of standard deviation `grain`, mostly the same in the three channels.
    pub fn develop(&self, grain: f32, random: &mut Stream) -> RgbImage {
        let mut samples = Vec::with_capacity(self.size * self.size * 3);
        for pixel in &self.pixels {
            let common = bell(random) * grain;
            for value in pixel {
                let value = value + common + 0.4 * grain * bell(random);
                samples.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
            }
        }
        RgbImage { width: self.size, height: self.size, pixels: samples }
    }
}

/// The pixels that a span of half length `reach` around `centre` touches.
pub(super) fn span(centre: f32, reach: f32, size: usize) -> std::ops::Range<usize> {
    let low = (centre - reach).max(0.0) as usize;
    let high = ((centre + reach).max(0.0) as usize + 1).min(size);
    low.min(high)..high
}

/// Almost normal, standard deviation 1: the sum of four bytes of one draw (Irwin–Hall).
fn bell(random: &mut Stream) -> f32 {
    let sum: u32 = random.next_u32().to_le_bytes().into_iter().map(u32::from).sum();
    // Variance of a uniform byte: (256² − 1)/12; of four: ×4, so σ = 147.8.
    (sum as f32 - 510.0) / 147.8
}

/// `a` at t = 0, `b` at t = 1.
pub(super) fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * t)
}

/// A colour made lighter or darker.
pub(super) fn scale(a: Colour, by: f32) -> Colour {
    a.map(|v| v * by)
}

/// Euclidean distance of two colours; black to white is √3.
pub(super) fn colour_distance(a: Colour, b: Colour) -> f32 {
    (0..3).map(|c| (a[c] - b[c]) * (a[c] - b[c])).sum::<f32>().sqrt()
}

/// Hue (turns), saturation and value to RGB.
pub(super) fn from_hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0, 3.0, 1.0].map(|offset| {
        let sextant = (offset + 6.0 * hue) % 6.0;
        let strength = sextant.min(4.0 - sextant).clamp(0.0, 1.0);
        value * (1.0 - saturation * strength)
    })
}

/// 3t² − 2t³ on the way from `low` to `high`, 0 before, 1 after.
pub(super) fn smoothstep(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A wave of period 1 between −1 and 1 made of straight lines.
pub(super) fn triangle_wave(x: f32) -> f32 {
    4.0 * (x - x.floor() - 0.5).abs() - 1.0
}

/// A random direction, by rejection from the square, so without sine and cosine.
pub(super) fn direction(random: &mut Stream) -> [f32; 2] {
    loop {
        let (x, y) = (random.range(-1.0, 1.0), random.range(-1.0, 1.0));
        let square = x * x + y * y;
        if (0.01..=1.0).contains(&square) {
            let length = square.sqrt();
            return [x / length, y / length];
        }
    }
}

/// Smooth noise in −1 to 1: random values on the integer lattice, blended by smoothstep.
pub(super) fn noise(seed: u32, x: f32, y: f32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let (tx, ty) = (smoothstep(0.0, 1.0, x - x0), smoothstep(0.0, 1.0, y - y0));
    let (column, row) = (x0 as i32, y0 as i32);
    let corner = |dx, dy| lattice(seed, column.wrapping_add(dx), row.wrapping_add(dy));
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * tx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * tx;
    top + (bottom - top) * ty
}

/// Noise whose octaves halve in size and strength; in −1 to 1.
pub(super) fn fractal(seed: u32, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut whole, mut strength, mut frequency) = (0.0, 0.0, 1.0, 1.0);
    for octave in 0..octaves {
        sum += strength * noise(seed.wrapping_add(octave), x * frequency, y * frequency);
        whole += strength;
        strength *= 0.5;
        frequency *= 2.0;
    }
    sum / whole
}

/// The lattice's value at a corner, in −1 to 1: an integer hash (multiply, shift, xor).
fn lattice(seed: u32, x: i32, y: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^= h >> 16;
    (h >> 8) as f32 * (2.0 / 16_777_216.0) - 1.0
}
