//! A generated data set for demonstrations and tests: pictures in which a class is told by a small part
//! of a larger object.
//!
//! An object is a *body* (ellipse, blob, box, capsule or irregular polygon, of any size, angle and
//! surface) with a *part* at one end, about two fifths as wide as the body is long. The part bears the
//! figure of its class, and nothing else does: the figure is what a classifier learns first and what its
//! class activation map shows. Two of five objects are seen from behind, without the figure. Then the
//! surface is typical of the class, as it is of most bodies; but other bodies and things of the background
//! have such surfaces too. So a classifier has a reason to look at bodies, and less of one than at parts.
//! A body is coherent and has an edge, so that affinities can carry the map over it. The background has
//! gradients, noise, patches of similar surfaces, lines, small vivid things, and at times whole bodies
//! without a figure, which are background.
//!
//! An image is a function of (seed, index, size, share of typical surfaces) alone: the same on every machine, in any order, with
//! any number of threads.

mod canvas;
mod layout;
mod parts;
mod scene;
mod shapes;
mod texture;
mod write;

#[cfg(test)]
mod tests;

use crate::formats::image::{LabelMap, RgbImage};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

pub use parts::CLASSES;
pub use write::generate;

/// What to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynthOptions {
    /// Number of images, at most a million; three of four are training images.
    pub images: usize,
    /// Names the data set.
    pub seed: u64,
    /// Side of the square pictures in pixels, 64 to 1024.
    pub size: usize,
    /// Of 100 objects that show their part, how many have a surface typical of their class; the others'
    /// bodies tell nothing.
    pub typical: u8,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self { images: 400, seed: 0, size: 128, typical: 97 }
    }
}

impl SynthOptions {
    /// Fails on a size or a number out of range.
    pub fn check(&self) -> Result<()> {
        if !(64..=1024).contains(&self.size) {
            return Err(Error::invalid(format!("pictures of {0}×{0} pixels", self.size))
                .remedy("choose a size from 64 to 1024"));
        }
        if !(2..=1_000_000).contains(&self.images) {
            return Err(Error::invalid(format!("{} images to generate", self.images))
                .remedy("choose 2 to 1000000, so that both lists have some"));
        }
        if self.typical > 100 {
            return Err(Error::invalid(format!("{} % of bodies with a typical surface", self.typical))
                .remedy("choose 0 to 100"));
        }
        Ok(())
    }

    /// Whether image `index` is in the list `val`: every fourth is, and the last of fewer than four.
    pub fn is_val(&self, index: usize) -> bool {
        index % 4 == 3 || (self.images < 4 && index + 1 == self.images)
    }
}

/// The visible extent of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SceneObject {
    /// Class index, 1 for the first after background.
    pub class: u8,
    /// Leftmost, topmost, rightmost and bottommost pixel of it that can be seen.
    pub bounds: [usize; 4],
    /// Whether its body leaves the picture.
    pub truncated: bool,
}

/// A generated picture and the whole truth about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The picture.
    pub image: RgbImage,
    /// The class of each pixel, 0 background.
    pub mask: LabelMap,
    /// The telling parts alone, as classes; 0 elsewhere.
    pub parts: LabelMap,
    /// The objects from back to front.
    pub objects: Vec<SceneObject>,
    /// The classes present, ascending, without repetition.
    pub tags: Vec<usize>,
}

/// Draws image `index`. `options` must pass [`SynthOptions::check`].
pub fn render(options: &SynthOptions, index: usize) -> Scene {
    let size = options.size;
    let mut random = Stream::new(options.seed, Purpose::Synthesis, 0, index as u64);
    let layout = layout::random_layout(&mut random, size);
    let image = scene::paint(&mut random, &layout, size, f32::from(options.typical) / 100.0);

    let classes: Vec<u8> = layout.objects.iter().map(|o| o.part.class as u8 + 1).collect();
    let class_of = |owner: u8| if owner == layout::NOBODY { 0 } else { classes[usize::from(owner)] };
    let labels: Vec<u8> = layout.owners.iter().map(|&owner| class_of(owner)).collect();
    let part_labels = layout.owners.iter().enumerate().map(|(at, &owner)| {
        let (x, y) = ((at % size) as f32 + 0.5, (at / size) as f32 + 0.5);
        match layout.objects.get(usize::from(owner)) {
            Some(object) if object.marked && object.part.distance(x, y) < 0.0 => class_of(owner),
            _ => 0,
        }
    });
    let parts = part_labels.collect();
    let objects = (0..layout.objects.len()).map(|i| object_of(&layout, i, &classes, size)).collect();
    let mut tags: Vec<usize> = classes.iter().map(|&c| usize::from(c)).collect();
    tags.sort_unstable();
    tags.dedup();
    Scene {
        image,
        mask: LabelMap { width: size, height: size, labels },
        parts: LabelMap { width: size, height: size, labels: parts },
        objects,
        tags,
    }
}

fn object_of(layout: &layout::Layout, index: usize, classes: &[u8], size: usize) -> SceneObject {
    let mut bounds = [size, size, 0, 0];
    for (at, _) in layout.owners.iter().enumerate().filter(|(_, o)| usize::from(**o) == index) {
        let (x, y) = (at % size, at / size);
        bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
    }
    let truncated = bounds[0] == 0 || bounds[1] == 0 || bounds[2] + 1 == size || bounds[3] + 1 == size;
    SceneObject { class: classes[index], bounds, truncated }
}
