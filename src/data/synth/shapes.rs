//! Outlines as signed distances: negative inside, in pixels. Near the outline they grow by about 1 a
//! pixel, so `0.5 − distance` is the share of a pixel that a shape covers.

use super::canvas::noise;
use crate::rng::Stream;

/// Sixteen directions round the circle.
pub(super) const DIRECTIONS: [[f32; 2]; 16] = {
    const C: f32 = 0.923_879_5;
    const D: f32 = std::f32::consts::FRAC_1_SQRT_2;
    const S: f32 = 0.382_683_43;
    [
        [1.0, 0.0],
        [C, S],
        [D, D],
        [S, C],
        [0.0, 1.0],
        [-S, C],
        [-D, D],
        [-C, S],
        [-1.0, 0.0],
        [-C, -S],
        [-D, -D],
        [-S, -C],
        [0.0, -1.0],
        [S, -C],
        [D, -D],
        [C, -S],
    ]
};

#[derive(Debug, Clone)]
enum Family {
    Ellipse,
    /// An ellipse in warped coordinates; the noise's seed.
    Blob(u32),
    Box,
    Capsule,
    /// Corners in local coordinates, in order.
    Polygon(Vec<[f32; 2]>),
}

/// A filled shape with a long axis.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    /// Centre (x, y).
    pub centre: [f32; 2],
    /// Unit vector of the long axis.
    pub axis: [f32; 2],
    /// Half of length and width.
    pub half: [f32; 2],
    family: Family,
}

impl Outline {
    /// A random shape of one of the five families.
    pub fn random(random: &mut Stream, centre: [f32; 2], axis: [f32; 2], half: [f32; 2]) -> Self {
        let family = match random.below(5) {
            0 => Family::Ellipse,
            1 => Family::Blob(random.next_u32()),
            2 => Family::Box,
            3 => Family::Capsule,
            _ => Family::Polygon(corners(random, half)),
        };
        Self { centre, axis, half, family }
    }

    /// A straight bar with rounded ends.
    pub fn bar(centre: [f32; 2], axis: [f32; 2], half: [f32; 2]) -> Self {
        Self { centre, axis, half, family: Family::Capsule }
    }

    /// Coordinates along the long axis and across it, from the centre.
    pub fn local(&self, x: f32, y: f32) -> [f32; 2] {
        to_local(self.centre, self.axis, x, y)
    }

    /// The inverse of [`Outline::local`].
    pub fn global(&self, along: f32, across: f32) -> [f32; 2] {
        let [c, s] = self.axis;
        [self.centre[0] + along * c - across * s, self.centre[1] + along * s + across * c]
    }

    /// A radius round the centre that holds the shape.
    pub fn reach(&self) -> f32 {
        1.3 * (self.half[0] * self.half[0] + self.half[1] * self.half[1]).sqrt()
    }

    /// Signed distance to the outline, approximate away from it.
    pub fn distance(&self, x: f32, y: f32) -> f32 {
        let [u, v] = self.local(x, y);
        let [a, b] = self.half;
        match &self.family {
            Family::Ellipse => ellipse(u, v, a, b),
            Family::Blob(seed) => {
                let (s, t) = (1.6 * u / a, 1.6 * v / a);
                let warp = [noise(*seed, s, t), noise(seed.wrapping_add(1), s, t)];
                ellipse(u + 0.22 * b * warp[0], v + 0.28 * b * warp[1], a, b)
            }
            Family::Box => {
                let corner = 0.35 * b;
                let (du, dv) = (u.abs() - a + corner, v.abs() - b + corner);
                let outside = (du.max(0.0) * du.max(0.0) + dv.max(0.0) * dv.max(0.0)).sqrt();
                outside + du.max(dv).min(0.0) - corner
            }
            Family::Capsule => {
                let beyond = (u.abs() - (a - b).max(0.0)).max(0.0);
                (beyond * beyond + v * v).sqrt() - b.min(a)
            }
            Family::Polygon(corners) => polygon(u, v, corners) - 0.1 * b,
        }
    }
}

/// Coordinates of (x, y) in the frame of `centre` and `axis`.
pub(super) fn to_local(centre: [f32; 2], axis: [f32; 2], x: f32, y: f32) -> [f32; 2] {
    let (dx, dy) = (x - centre[0], y - centre[1]);
    [dx * axis[0] + dy * axis[1], dy * axis[0] - dx * axis[1]]
}

/// The first-order distance f/|∇f| of the ellipse's implicit function.
fn ellipse(u: f32, v: f32, a: f32, b: f32) -> f32 {
    let (s, t) = (u / a, v / b);
    let radius = (s * s + t * t).sqrt();
    let slope = ((s / a) * (s / a) + (t / b) * (t / b)).sqrt();
    if slope < 1e-6 { -b } else { radius * (radius - 1.0) / slope }
}

/// Six to eight corners near the ellipse of half axes `half`.
fn corners(random: &mut Stream, half: [f32; 2]) -> Vec<[f32; 2]> {
    let count = 6 + random.below(3) as usize;
    let turn = random.below(16) as usize;
    (0..count)
        .map(|i| {
            let [x, y] = DIRECTIONS[(turn + i * 16 / count) % 16];
            let radius = random.range(0.82, 1.05);
            [x * half[0] * radius, y * half[1] * radius]
        })
        .collect()
}

/// Distance to the nearest edge, negative where a ray to the right crosses an odd number of edges.
fn polygon(u: f32, v: f32, corners: &[[f32; 2]]) -> f32 {
    let (mut nearest, mut inside) = (f32::INFINITY, false);
    for (i, &[x0, y0]) in corners.iter().enumerate() {
        let [x1, y1] = corners[(i + 1) % corners.len()];
        let (ex, ey, px, py) = (x1 - x0, y1 - y0, u - x0, v - y0);
        let t = ((px * ex + py * ey) / (ex * ex + ey * ey).max(1e-9)).clamp(0.0, 1.0);
        let (dx, dy) = (px - t * ex, py - t * ey);
        nearest = nearest.min(dx * dx + dy * dy);
        if (y0 > v) != (y1 > v) && u < x0 + ex * (v - y0) / ey {
            inside = !inside;
        }
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}
