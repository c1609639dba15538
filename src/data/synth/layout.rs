//! Where the objects of a scene lie: bodies with a part at one end, partly hidden or cut off at times.

use super::canvas::{direction, span};
use super::parts::{CLASSES, Part};
use super::shapes::Outline;
use crate::rng::Stream;

/// One object: its body, and the part that tells its class.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// The larger, uninformative share.
    pub body: Outline,
    /// The telling share.
    pub part: Part,
    /// Whether the part bears its figure; else the object is seen from behind, and its surface alone hints
    /// at the class.
    pub marked: bool,
}

impl Object {
    /// Signed distance to the outline of body and part together.
    pub fn distance(&self, x: f32, y: f32) -> f32 {
        self.body.distance(x, y).min(self.part.distance(x, y))
    }
}

/// The share of objects seen from behind, as heads are hidden on photographs.
const FROM_BEHIND: f32 = 0.4;

/// The owner of pixels that belong to no object.
pub(super) const NOBODY: u8 = u8::MAX;

/// Objects from back to front, and who owns each pixel.
pub(super) struct Layout {
    /// At least one.
    pub objects: Vec<Object>,
    /// Index into `objects` of the frontmost object at each pixel, or [`NOBODY`].
    pub owners: Vec<u8>,
    /// A bar in front of everything, at times.
    pub occluder: Option<Outline>,
}

/// A body of random shape and surface, `length` pixels long, with a part about two fifths as wide at one end.
fn random_object(random: &mut Stream, size: f32, length: f32) -> Object {
    let unit = size / 128.0;
    let half = [0.5 * length, 0.5 * length * random.range(0.5, 0.75)];
    let radius = 0.5 * (length * random.range(0.36, 0.42)).clamp(23.0 * unit, 36.0 * unit);
    let axis = direction(random);
    // The part stays wholly inside the picture; the body may leave it by up to about a quarter.
    let inside = radius + 1.5 * unit;
    let at = [random.range(inside, size - inside), random.range(inside, size - inside)];
    let along = half[0] - radius * random.range(0.4, 0.8);
    let across = half[1] * random.range(-0.2, 0.2);
    let mut body = Outline::random(random, [0.0, 0.0], axis, half);
    let [dx, dy] = body.global(along, across);
    body.centre = [at[0] - dx, at[1] - dy];
    let class = random.below(CLASSES.len() as u32) as usize;
    let part = Part::random(random, class, at, radius);
    let marked = !random.chance(FROM_BEHIND);
    Object { body, part, marked }
}

/// Draws layouts until every object shows enough of its body and nearly all of its part; after many
/// failures the next try has one object fewer. A lone object fits sooner or later.
pub(super) fn random_layout(random: &mut Stream, size: usize) -> Layout {
    let side = size as f32;
    let unit = side / 128.0;
    let mut count = match random.below(100) {
        0..45 => 1,
        45..82 => 2,
        _ => 3,
    };
    for attempt in 1.. {
        let (low, high) = [(66.0, 104.0), (60.0, 86.0), (56.0, 70.0)][count - 1];
        let objects: Vec<Object> = (0..count)
            .map(|_| {
                let length = random.range(low, high) * unit;
                random_object(random, side, length)
            })
            .collect();
        let occluder = random.chance(0.15).then(|| {
            let centre = [random.range(0.2, 0.8) * side, random.range(0.2, 0.8) * side];
            let half = [0.9 * side, random.range(1.5, 3.5) * unit];
            Outline::bar(centre, direction(random), half)
        });
        let owners = owners_of(&objects, occluder.as_ref(), size);
        if objects.iter().enumerate().all(|(i, object)| shows(object, i as u8, &owners, size)) {
            return Layout { objects, owners, occluder };
        }
        if attempt % 40 == 0 && count > 1 {
            count -= 1;
        }
    }
    unreachable!("the loop above returns")
}

/// The frontmost object at each pixel's centre.
fn owners_of(objects: &[Object], occluder: Option<&Outline>, size: usize) -> Vec<u8> {
    let mut owners = vec![NOBODY; size * size];
    for (i, object) in objects.iter().enumerate() {
        for_each_pixel(object, size, |at, x, y| {
            if object.distance(x, y) < 0.0 {
                owners[at] = i as u8;
            }
        });
    }
    if let Some(bar) = occluder {
        for (at, owner) in owners.iter_mut().enumerate() {
            let (x, y) = ((at % size) as f32 + 0.5, (at / size) as f32 + 0.5);
            if *owner != NOBODY && bar.distance(x, y) < 0.0 {
                *owner = NOBODY;
            }
        }
    }
    owners
}

/// Whether three quarters of the object (what lies beyond the border counted as hidden) and nine tenths of
/// its part can be seen.
fn shows(object: &Object, index: u8, owners: &[u8], size: usize) -> bool {
    let (mut seen, mut part, mut part_seen) = (0u32, 0u32, 0u32);
    for_each_pixel(object, size, |at, x, y| {
        let mine = owners[at] == index;
        seen += u32::from(mine);
        if object.part.distance(x, y) < 0.0 {
            part += 1;
            part_seen += u32::from(mine);
        }
    });
    // The whole area by sampling the body's frame, since the picture holds only a share of it.
    let [a, b] = object.body.half;
    let (mut whole, steps) = (0u32, 40);
    for i in 0..steps * steps {
        let along = (((i % steps) as f32 + 0.5) / steps as f32 * 2.6 - 1.3) * a;
        let across = (((i / steps) as f32 + 0.5) / steps as f32 * 2.6 - 1.3) * b;
        let [x, y] = object.body.global(along, across);
        whole += u32::from(object.distance(x, y) < 0.0);
    }
    let area = whole as f32 * (2.6 * a / steps as f32) * (2.6 * b / steps as f32);
    seen as f32 > 0.75 * area && part_seen as f32 > 0.9 * part as f32
}

/// Calls `f(index, x, y)` for the centre of every pixel that the object may touch.
fn for_each_pixel(object: &Object, size: usize, mut f: impl FnMut(usize, f32, f32)) {
    let reach = object.body.reach() + 2.0 * object.part.radius;
    let [x, y] = object.body.centre;
    for row in span(y, reach, size) {
        for column in span(x, reach, size) {
            f(row * size + column, column as f32 + 0.5, row as f32 + 0.5);
        }
    }
}
