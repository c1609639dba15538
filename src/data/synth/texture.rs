//! Surfaces: what bodies, look-alikes and patches of the background are made of. Each class has a typical
//! surface, which other things have too.

use super::canvas::{Colour, direction, fractal, from_hsv, mix, noise, smoothstep, triangle_wave};
use super::parts::CLASSES;
use crate::rng::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Plain,
    Mottled,
    Striped,
    Spotted,
}

const PATTERNS: [Pattern; 4] = [Pattern::Plain, Pattern::Striped, Pattern::Mottled, Pattern::Spotted];

/// A surface without edges: two related colours mixed by a pattern.
#[derive(Debug, Clone)]
pub(super) struct Texture {
    pattern: Pattern,
    seed: u32,
    base: Colour,
    second: Colour,
    /// Pixels from one stripe or spot to the next.
    period: f32,
    axis: [f32; 2],
}

impl Texture {
    /// A random surface; `unit` is the length, in pixels, of 1/128 of the picture's side.
    pub fn random(random: &mut Stream, unit: f32) -> Self {
        let (hue, saturation) = (random.uniform(), random.range(0.06, 0.5));
        let pattern = PATTERNS[random.below(4) as usize];
        Self::new(random, pattern, hue, saturation, unit)
    }

    /// A surface that is typical of a class: within a quarter of a class's share of the colour circle of
    /// the class's hue, in the class's pattern. So hues of different classes do not meet: half of the
    /// circle is between them.
    pub fn typical(random: &mut Stream, class: usize, unit: f32) -> Self {
        let hue = (class as f32 + random.range(-0.25, 0.25)) / CLASSES.len() as f32;
        let saturation = random.range(0.25, 0.5);
        Self::new(random, PATTERNS[class % 4], (hue + 1.0) % 1.0, saturation, unit)
    }

    fn new(random: &mut Stream, pattern: Pattern, hue: f32, saturation: f32, unit: f32) -> Self {
        let value = random.range(0.4, 0.88);
        // Contrast within a surface stays far below that across an object's edge.
        let lighter = if value > 0.6 { -1.0 } else { 1.0 };
        let second = from_hsv(
            (hue + random.range(-0.04, 0.04) + 1.0) % 1.0,
            (saturation + random.range(-0.1, 0.1)).clamp(0.0, 1.0),
            value + lighter * random.range(0.06, 0.13),
        );
        Self {
            pattern,
            seed: random.next_u32(),
            base: from_hsv(hue, saturation, value),
            second,
            period: random.range(6.0, 12.0) * unit,
            axis: direction(random),
        }
    }

    /// The first of the two colours.
    pub fn base(&self) -> Colour {
        self.base
    }

    /// The colour at a point.
    pub fn at(&self, x: f32, y: f32) -> Colour {
        let (u, v) = (x / self.period, y / self.period);
        let t = match self.pattern {
            Pattern::Plain => 0.25 + 0.25 * fractal(self.seed, 0.3 * u, 0.3 * v, 2),
            Pattern::Mottled => 0.5 + 0.7 * fractal(self.seed, u, v, 3),
            Pattern::Striped => {
                let bend = 0.35 * noise(self.seed, 0.4 * u, 0.4 * v);
                smoothstep(-0.4, 0.4, triangle_wave(u * self.axis[0] + v * self.axis[1] + bend))
            }
            Pattern::Spotted => smoothstep(0.1, 0.4, noise(self.seed, 1.4 * u, 1.4 * v)),
        };
        mix(self.base, self.second, t.clamp(0.0, 1.0))
    }
}
