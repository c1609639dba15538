//! Painting: background and clutter, look-alikes, objects from back to front, light, lens and grain.

use super::canvas::{
    Canvas, Colour, colour_distance, direction, fractal, from_hsv, mix, noise, scale, smoothstep,
};
use super::layout::{Layout, Object};
use super::parts::CLASSES;
use super::shapes::{DIRECTIONS, Outline};
use super::texture::Texture;
use crate::formats::image::RgbImage;
use crate::rng::Stream;

/// How often a body that belongs to the background has a surface typical of some class.
const TYPICAL_LOOK_ALIKE: f32 = 0.1;

/// How a scene is lit.
struct Light {
    /// Unit vector towards the light, in the picture's plane.
    towards: [f32; 2],
    /// Strength of cast shadows.
    shadow: f32,
}

/// Paints a layout. `typical` is the chance that a body which shows its part has a surface typical of its
/// class; the others' are random.
pub(super) fn paint(random: &mut Stream, layout: &Layout, size: usize, typical: f32) -> RgbImage {
    let unit = size as f32 / 128.0;
    let mut canvas = background(random, size, unit);
    clutter(random, &mut canvas, unit);
    let light = Light { towards: direction(random), shadow: random.range(0.1, 0.32) };
    look_alikes(random, &mut canvas, &light, unit);
    for object in &layout.objects {
        let class = (!object.marked || random.chance(typical)).then_some(object.part.class);
        paint_object(random, &mut canvas, object, class, &light, unit);
    }
    if let Some(bar) = &layout.occluder {
        let texture = Texture::random(random, unit);
        canvas.paint(bar.centre, bar.reach(), |x, y| {
            let d = bar.distance(x, y);
            (coverage(d), scale(texture.at(x, y), rounded(d, bar.half[1])))
        });
    }
    expose(random, &mut canvas);
    canvas.soften(random.range(0.25, 0.7));
    let grain = random.range(0.008, 0.024);
    canvas.develop(grain, random)
}

/// The share of a pixel that lies inside an outline at signed distance `d` of its centre.
fn coverage(d: f32) -> f32 {
    (0.5 - d).clamp(0.0, 1.0)
}

/// Brightness of something rounded, by depth below its outline: dark at the rim, 1 from half of
/// `thickness` on.
fn rounded(d: f32, thickness: f32) -> f32 {
    let depth = (-d / (0.5 * thickness)).clamp(0.0, 1.0);
    0.68 + 0.32 * depth * (2.0 - depth)
}

/// A gradient between four related colours, grain of several octaves, often a horizon.
fn background(random: &mut Stream, size: usize, unit: f32) -> Canvas {
    let side = size as f32;
    let (hue, spread) = (random.uniform(), random.range(0.03, 0.2));
    let tone = |random: &mut Stream| {
        let hue = (hue + random.range(-spread, spread) + 1.0) % 1.0;
        from_hsv(hue, random.range(0.06, 0.42), random.range(0.3, 0.8))
    };
    let corners: [Colour; 4] = std::array::from_fn(|_| tone(random));
    let (vein, ground) = (tone(random), tone(random));
    let (coarse, strength) = (random.range(18.0, 48.0) * unit, random.range(0.25, 0.7));
    let (fine, roughness) = (random.range(4.0, 9.0) * unit, random.range(0.03, 0.14));
    let seeds = [random.next_u32(), random.next_u32(), random.next_u32()];
    let horizon = random.chance(0.45).then(|| (random.range(0.3, 0.8) * side, random.range(0.5, 8.0) * unit));
    Canvas::new(size, |x, y| {
        let (u, v) = (x / side, y / side);
        let gradient = mix(mix(corners[0], corners[1], u), mix(corners[2], corners[3], u), v);
        let cloud = 0.5 + 0.5 * fractal(seeds[0], x / coarse, y / coarse, 4);
        let mut colour = mix(gradient, vein, strength * cloud);
        if let Some((level, softness)) = horizon {
            let hill = level + 6.0 * unit * noise(seeds[2], x / (30.0 * unit), 0.0);
            let below = smoothstep(-softness, softness, y - hill);
            colour = mix(colour, mix(ground, gradient, 0.3), 0.85 * below);
        }
        scale(colour, 1.0 + roughness * fractal(seeds[1], x / fine, y / fine, 3) * 2.0)
    })
}

/// Patches of texture, lines, and small things of any colour.
fn clutter(random: &mut Stream, canvas: &mut Canvas, unit: f32) {
    let side = canvas.size as f32;
    let anywhere = |random: &mut Stream| [random.uniform() * side, random.uniform() * side];
    for _ in 0..1 + random.below(4) {
        // Textured like bodies, yet without an outline: the edge fades over many pixels.
        let half = [random.range(14.0, 40.0) * unit, random.range(10.0, 26.0) * unit];
        let (at, axis) = (anywhere(random), direction(random));
        let patch = Outline::random(random, at, axis, half);
        let texture = Texture::random(random, unit);
        let (opacity, softness) = (random.range(0.25, 0.65), random.range(3.0, 9.0) * unit);
        canvas.paint(patch.centre, patch.reach() + softness, |x, y| {
            let inside = 1.0 - smoothstep(-softness, softness, patch.distance(x, y));
            (opacity * inside, texture.at(x, y))
        });
    }
    for _ in 0..random.below(6) {
        let half = [random.range(15.0, 90.0) * unit, random.range(0.4, 1.5) * unit];
        let at = anywhere(random);
        let line = Outline::bar(at, direction(random), half);
        let colour = from_hsv(random.uniform(), random.range(0.0, 0.35), random.range(0.1, 0.9));
        let opacity = random.range(0.4, 0.9);
        canvas.paint(line.centre, line.reach(), |x, y| (opacity * coverage(line.distance(x, y)), colour));
    }
    for _ in 0..3 + random.below(8) {
        // A few are as vivid as parts, but small and of one colour.
        let vivid = random.chance(0.08);
        let width = random.range(1.8, 4.6) * unit;
        let at = anywhere(random);
        let (axis, half) = (direction(random), [width, width * random.range(0.5, 1.0)]);
        let thing = Outline::random(random, at, axis, half);
        let saturation = if vivid { random.range(0.7, 0.95) } else { random.range(0.05, 0.5) };
        let colour = from_hsv(random.uniform(), saturation, random.range(0.2, 0.95));
        canvas.paint(thing.centre, thing.reach() + 1.0, |x, y| {
            let d = thing.distance(x, y);
            (coverage(d), scale(colour, rounded(d, thing.half[1])))
        });
    }
}

/// Bodies without parts, from the same distribution: they belong to the background.
fn look_alikes(random: &mut Stream, canvas: &mut Canvas, light: &Light, unit: f32) {
    let side = canvas.size as f32;
    let count = match random.below(100) {
        0..62 => 0,
        62..92 => 1,
        _ => 2,
    };
    for _ in 0..count {
        let length = random.range(36.0, 72.0) * unit;
        let at = [random.range(0.05, 0.95) * side, random.range(0.05, 0.95) * side];
        let half = [0.5 * length, 0.5 * length * random.range(0.5, 0.75)];
        let axis = direction(random);
        let body = Outline::random(random, at, axis, half);
        cast_shadow(canvas, &body, |x, y| body.distance(x, y), light, unit);
        let class = random.below(CLASSES.len() as u32) as usize;
        let typical = random.chance(TYPICAL_LOOK_ALIKE).then_some(class);
        paint_body(random, canvas, &body, typical, light, unit);
    }
}

/// Paints an object whose surface is typical of a class, or any.
fn paint_object(
    random: &mut Stream,
    canvas: &mut Canvas,
    object: &Object,
    typical: Option<usize>,
    light: &Light,
    unit: f32,
) {
    cast_shadow(canvas, &object.body, |x, y| object.distance(x, y), light, unit);
    let part = &object.part;
    let texture = paint_body(random, canvas, &object.body, typical, light, unit);
    canvas.paint(part.centre, 1.5 * part.radius, |x, y| {
        let d = part.distance(x, y);
        // Rounded as the body is, where the part stands out from it.
        let shade =
            rounded(object.distance(x, y), object.body.half[1]) * side_light(&object.body, light, x, y);
        let surface = texture.at(x, y);
        let colour = if object.marked { part.colour(x, y, surface) } else { surface };
        (coverage(d), scale(colour, shade))
    });
}

/// Paints a body with a surface that stands out: one typical of a class, or any.
fn paint_body(
    random: &mut Stream,
    canvas: &mut Canvas,
    body: &Outline,
    typical: Option<usize>,
    light: &Light,
    unit: f32,
) -> Texture {
    let texture = visible_texture(random, canvas, body, typical, unit);
    canvas.paint(body.centre, body.reach(), |x, y| {
        let d = body.distance(x, y);
        if d > 0.5 {
            return (0.0, [0.0; 3]);
        }
        let shade = rounded(d, body.half[1]) * side_light(body, light, x, y);
        (coverage(d), scale(texture.at(x, y), shade))
    });
    texture
}

/// Brighter on the side that faces the light.
fn side_light(body: &Outline, light: &Light, x: f32, y: f32) -> f32 {
    let [dx, dy] = [x - body.centre[0], y - body.centre[1]];
    let facing = (dx * light.towards[0] + dy * light.towards[1]) / body.half[0];
    1.0 + 0.14 * facing.clamp(-1.0, 1.0)
}

/// A surface that stands out from what lies behind the outline now.
fn visible_texture(
    random: &mut Stream,
    canvas: &Canvas,
    body: &Outline,
    typical: Option<usize>,
    unit: f32,
) -> Texture {
    let draw = |random: &mut Stream| match typical {
        Some(class) => Texture::typical(random, class, unit),
        None => Texture::random(random, unit),
    };
    let around = DIRECTIONS.map(|[c, s]| {
        let [x, y] = body.global(1.12 * body.half[0] * c, 1.12 * body.half[1] * s);
        canvas.at(x, y)
    });
    // The share of the outline with a clear edge; the best of twelve if none is clear all round.
    let mut best: Option<(usize, Texture)> = None;
    for _ in 0..12 {
        let texture = draw(random);
        let clear = around.iter().filter(|c| colour_distance(**c, texture.base()) > 0.32).count();
        if best.as_ref().is_none_or(|(most, _)| clear > *most) {
            best = Some((clear, texture));
        }
        if clear >= 15 {
            break;
        }
    }
    best.map_or_else(|| draw(random), |(_, texture)| texture)
}

/// Darkens what lies on the far side of the light.
fn cast_shadow(
    canvas: &mut Canvas,
    body: &Outline,
    distance: impl Fn(f32, f32) -> f32,
    light: &Light,
    unit: f32,
) {
    let shift = 3.0 * unit;
    canvas.paint(body.centre, body.reach() + 3.0 * shift, |x, y| {
        let d = distance(x + shift * light.towards[0], y + shift * light.towards[1]);
        (light.shadow * (1.0 - smoothstep(-2.0 * unit, 5.0 * unit, d)), [0.04, 0.04, 0.06])
    });
}

/// The light's fall-off over the picture and its colour.
fn expose(random: &mut Stream, canvas: &mut Canvas) {
    let side = canvas.size as f32;
    let (axis, fall, gain) = (direction(random), random.range(0.0, 0.22), random.range(0.9, 1.08));
    let tint: Colour = std::array::from_fn(|_| random.range(0.95, 1.05));
    for (i, pixel) in canvas.pixels.iter_mut().enumerate() {
        let (x, y) = ((i % canvas.size) as f32 / side - 0.5, (i / canvas.size) as f32 / side - 0.5);
        let vignette = 1.0 - 0.25 * (x * x + y * y);
        let level = gain * vignette * (1.0 + fall * (x * axis[0] + y * axis[1]));
        *pixel = std::array::from_fn(|c| pixel[c] * tint[c] * level);
    }
}
