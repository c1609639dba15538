//! The discriminative parts: what tells one class from another. Each is a figure in a colour of its own,
//! drawn on its body's surface, so a part has no edge towards its body.

use super::canvas::{Colour, mix, triangle_wave};
use super::shapes::to_local;
use crate::rng::Stream;

/// The classes after background, named after their parts.
pub const CLASSES: [&str; 6] = ["cross", "stripes", "checker", "ring", "star", "zigzag"];

/// The colour of each class's figure.
const COLOURS: [Colour; 6] = [
    [0.86, 0.08, 0.08],
    [0.98, 0.84, 0.08],
    [0.10, 0.20, 0.85],
    [0.90, 0.10, 0.75],
    [0.35, 0.95, 0.15],
    [0.07, 0.06, 0.08],
];

/// A part somewhere in the picture.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// 0 for the first class after background.
    pub class: usize,
    /// Centre (x, y).
    pub centre: [f32; 2],
    /// Half of the width.
    pub radius: f32,
    axis: [f32; 2],
    colour: Colour,
}

impl Part {
    /// A part of `class` with a little variation of angle and colour.
    pub fn random(random: &mut Stream, class: usize, centre: [f32; 2], radius: f32) -> Self {
        // A turn of at most about 30° from upright, as photographed things mostly stand upright.
        let tilt = random.range(-0.5, 0.5);
        let length = (1.0 + tilt * tilt).sqrt();
        let light = random.range(0.88, 1.08);
        let colour = COLOURS[class].map(|v| (v * light + random.range(-0.05, 0.05)).clamp(0.0, 1.0));
        Self { class, centre, radius, axis: [1.0 / length, tilt / length], colour }
    }

    /// Signed distance to the outline: discs for cross, ring and star, rounded squares for the others.
    pub fn distance(&self, x: f32, y: f32) -> f32 {
        let [u, v] = to_local(self.centre, self.axis, x, y);
        if matches!(self.class, 0 | 3 | 4) {
            return (u * u + v * v).sqrt() - self.radius;
        }
        // A square of equal area would look larger than the disc: 0.9 makes them alike.
        let (side, corner) = (0.9 * self.radius, 0.25 * self.radius);
        let (du, dv) = ((u.abs() - side + corner).max(0.0), (v.abs() - side + corner).max(0.0));
        (du * du + dv * dv).sqrt() + (u.abs().max(v.abs()) - side + corner).min(0.0) - corner
    }

    /// The colour at a point where the body's surface has the colour `surface`: the figure covers the mean
    /// of 2×2 samples.
    pub fn colour(&self, x: f32, y: f32, surface: Colour) -> Colour {
        let mut figure = 0.0;
        for (dx, dy) in [(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)] {
            let [u, v] = to_local(self.centre, self.axis, x + dx, y + dy);
            if is_figure(self.class, u / self.radius, v / self.radius) {
                figure += 0.25;
            }
        }
        mix(surface, self.colour, figure)
    }
}

/// Whether the figure covers (u, v), in radii from the centre.
fn is_figure(class: usize, u: f32, v: f32) -> bool {
    let odd = |x: f32| (x.floor() as i32).rem_euclid(2) == 1;
    match class {
        0 => {
            let (u, v) = (u.abs(), v.abs());
            (u < 0.22 && v < 0.72) || (v < 0.22 && u < 0.72)
        }
        1 => odd((v + 0.9) * 2.6),
        2 => odd((u + 0.9) * 2.1) != odd((v + 0.9) * 2.1),
        3 => {
            let square = u * u + v * v;
            square < 0.3 * 0.3 || (0.58 * 0.58..0.85 * 0.85).contains(&square)
        }
        4 => {
            // A pentagram: inside at least four of five half planes at cos 72° of its radius.
            const NORMALS: [[f32; 2]; 5] = [
                [0.0, 1.0],
                [0.951_056_5, 0.309_017],
                [0.587_785_25, -0.809_017],
                [-0.587_785_25, -0.809_017],
                [-0.951_056_5, 0.309_017],
            ];
            NORMALS.iter().filter(|n| n[0] * u + n[1] * v < 0.3).count() >= 4
        }
        _ => odd((v + 0.22 * triangle_wave(1.3 * u)) * 2.3 + 0.5),
    }
}
