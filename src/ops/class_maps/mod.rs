//! Arithmetic on class maps: normalising, the background map, confident labels, argmax.
//!
//! Maps of one image are L×H×W (a plane per class), because the walk and the CRF work on planes.
//!
//! * `M_c ← M_c / (max M_c + ε)`, ε = 0 (paper, §3.1) or 1e-5 (the authors' code)
//! * `M_bg = (1 − max_c M_c)^α`, α ≥ 1 (paper, eq. 2)
//! * confident labels from two backgrounds (paper, §3.2): object c where c wins against the strong
//!   background (small α), background where it wins at the weak one (large α), neutral elsewhere.

use crate::formats::image::{IGNORE, LabelMap};
use crate::ops::resize::bilinear_resize_plane;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The three sizes of L×H×W maps.
pub fn planes(maps: &Tensor, operation: &str) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(maps.shape()).map_err(|_| {
        Error::shape(operation, format!("L×H×W maps expected, the tensor is {:?}", maps.shape()))
    })
}

/// Scales each plane of L×H×W maps (≥ 0) so that its largest value is 1; an all-zero plane stays so.
pub fn normalize(maps: &mut Tensor, epsilon: f32) -> Result<()> {
    let [_, h, w] = planes(maps, "normalize")?;
    if h * w == 0 {
        return Ok(());
    }
    for plane in maps.data_mut().chunks_mut(h * w) {
        let divisor = plane.iter().fold(0f32, |m, v| m.max(*v)) + epsilon;
        if divisor > 0.0 {
            plane.iter_mut().for_each(|v| *v /= divisor);
        }
    }
    Ok(())
}

/// Puts `M_bg = (1 − max_c M_c)^α` before the planes: L×H×W → (L+1)×H×W.
///
/// # Errors
/// α below 1 or not finite; maps that are not L×H×W.
pub fn with_background(maps: &Tensor, alpha: f32) -> Result<Tensor> {
    let [l, h, w] = planes(maps, "background")?;
    if !(alpha.is_finite() && alpha >= 1.0) {
        return Err(Error::invalid(format!("background exponent α = {alpha}: at least 1 expected")));
    }
    let mut out = Vec::with_capacity((l + 1) * h * w);
    out.extend((0..h * w).map(|p| {
        let strongest = (0..l).fold(0f32, |m, c| m.max(maps.data()[c * h * w + p]));
        crate::math::powf((1.0 - strongest).max(0.0), alpha)
    }));
    out.extend_from_slice(maps.data());
    Tensor::new(&[l + 1, h, w], out)
}

/// A constant background score before the planes, as CAMs alone are scored (spec §3: 0.2).
pub fn with_constant_background(maps: &Tensor, score: f32) -> Result<Tensor> {
    let [l, h, w] = planes(maps, "background")?;
    let mut out = vec![score; h * w];
    out.extend_from_slice(maps.data());
    Tensor::new(&[l + 1, h, w], out)
}

/// Bilinear resize (half-pixel centres) of every plane: L×H×W → L×height×width.
pub fn resize(maps: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [l, h, w] = planes(maps, "resize")?;
    if (h, w) == (height, width) {
        return Ok(maps.clone());
    }
    let mut out = Vec::with_capacity(l * height * width);
    for plane in maps.data().chunks(h * w) {
        out.extend(bilinear_resize_plane(plane, h, w, 1, height, width)?);
    }
    Tensor::new(&[l, height, width], out)
}

/// How maps are brought to the feature grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GridAverage {
    /// Blocks at the right and bottom edge are divided by the pixels that they hold.
    Covered,
    /// Always divided by block², as if the image were padded with zeros (psa).
    ZeroPadded,
}

/// Averages every plane over blocks of `block`² pixels: L×H×W → L×⌈H/block⌉×⌈W/block⌉.
pub fn to_grid(maps: &Tensor, block: usize, rule: GridAverage) -> Result<Tensor> {
    let [l, h, w] = planes(maps, "to_grid")?;
    let (gh, gw) = (h.div_ceil(block), w.div_ceil(block));
    let mut out = Vec::with_capacity(l * gh * gw);
    for plane in 0..l {
        for gy in 0..gh {
            for gx in 0..gw {
                let (y1, x1) = ((gy * block + block).min(h), (gx * block + block).min(w));
                let mut sum = 0f32;
                for y in gy * block..y1 {
                    sum += maps.data()[(plane * h + y) * w + gx * block..][..x1 - gx * block]
                        .iter()
                        .sum::<f32>();
                }
                let count = match rule {
                    GridAverage::Covered => (y1 - gy * block) * (x1 - gx * block),
                    GridAverage::ZeroPadded => block * block,
                };
                out.push(sum / count as f32);
            }
        }
    }
    Tensor::new(&[l, gh, gw], out)
}

/// The plane that wins at each pixel, as the label `names[plane]`; the first wins a tie.
///
/// # Errors
/// A number of names other than the number of planes.
pub fn argmax(scores: &Tensor, names: &[u8]) -> Result<LabelMap> {
    let [l, h, w] = planes(scores, "argmax")?;
    if names.len() != l || l == 0 {
        return Err(Error::shape("argmax", format!("{} labels for {l} planes", names.len())));
    }
    let labels = (0..h * w)
        .map(|p| {
            let mut best = 0;
            for c in 1..l {
                if scores.data()[c * h * w + p] > scores.data()[best * h * w + p] {
                    best = c;
                }
            }
            names[best]
        })
        .collect();
    LabelMap::new(w, h, labels)
}

/// Affinity labels from the argmax against the strong background (small α) and against the weak one
/// (large α): object where the former says so, background where the latter does, else [`IGNORE`];
/// where both rules fire, background wins.
pub fn confident_labels(strong: &LabelMap, weak: &LabelMap) -> Result<LabelMap> {
    if (strong.width, strong.height) != (weak.width, weak.height) {
        return Err(Error::shape("confident labels", "the two label maps differ in size"));
    }
    let labels =
        strong.labels.iter().zip(&weak.labels).map(|(&object, &background)| match (object, background) {
            (_, 0) => 0,
            (0, _) => IGNORE,
            (class, _) => class,
        });
    LabelMap::new(strong.width, strong.height, labels.collect())
}

/// Below this a cell's averaged scores are those of no pixel at all.
const NO_SCORE: f32 = 1e-5;

/// Affinity labels at 1/`block` size as the authors' code makes them from both posteriors L×H×W, of which
/// plane 0 is the background: averaged over blocks, always by block² values, then the rules of
/// [`confident_labels`] on what wins in each cell. A cell outside the image (zero scores) is [`IGNORE`].
/// Labels are positions of planes.
///
/// # Errors
/// Posteriors of two shapes, or of more than 255 planes.
pub fn pooled_confident_labels(strong: &Tensor, weak: &Tensor, block: usize) -> Result<LabelMap> {
    let [l, ..] = planes(strong, "pooled labels")?;
    if strong.shape() != weak.shape() || l > usize::from(IGNORE) {
        let message = format!("posteriors of {:?} and {:?}", strong.shape(), weak.shape());
        return Err(Error::shape("pooled labels", message));
    }
    let positions: Vec<u8> = (0..l as u8).collect();
    let [strong, weak] = [strong, weak].map(|scores| to_grid(scores, block, GridAverage::ZeroPadded));
    let (strong, weak) = (strong?, weak?);
    let mut labels = confident_labels(&argmax(&strong, &positions)?, &argmax(&weak, &positions)?)?;
    let cells = labels.labels.len();
    for (cell, label) in labels.labels.iter_mut().enumerate() {
        let scores =
            strong.data()[cell..].iter().step_by(cells).chain(weak.data()[cell..].iter().step_by(cells));
        if scores.fold(0f32, |m, v| m.max(*v)) < NO_SCORE {
            *label = IGNORE;
        }
    }
    Ok(labels)
}

/// Labels at 1/`block` size: the label that more than half of a block's pixels carry, else [`IGNORE`].
/// Pixels outside the image count as [`IGNORE`].
pub fn labels_to_grid(map: &LabelMap, block: usize) -> LabelMap {
    let (gh, gw) = (map.height.div_ceil(block), map.width.div_ceil(block));
    let mut labels = Vec::with_capacity(gh * gw);
    for gy in 0..gh {
        for gx in 0..gw {
            let mut count = [0usize; 256];
            for y in gy * block..(gy * block + block).min(map.height) {
                for x in gx * block..(gx * block + block).min(map.width) {
                    count[usize::from(map.labels[y * map.width + x])] += 1;
                }
            }
            let winner = (0..255u8).find(|&c| 2 * count[usize::from(c)] > block * block);
            labels.push(winner.unwrap_or(IGNORE));
        }
    }
    LabelMap { width: gw, height: gh, labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_is_what_no_class_claims() {
        let maps = Tensor::new(&[2, 1, 2], vec![0.5, 0.0, 0.25, 1.0]).unwrap();
        let all = with_background(&maps, 2.0).unwrap();
        assert_eq!(all.shape(), [3, 1, 2]);
        assert_eq!(all.data()[..2], [0.25, 0.0]);
        assert!(with_background(&maps, 0.5).is_err());
    }

    #[test]
    fn normalizing_keeps_an_empty_map_empty() {
        let mut maps = Tensor::new(&[2, 1, 2], vec![2.0, 4.0, 0.0, 0.0]).unwrap();
        normalize(&mut maps, 0.0).unwrap();
        assert_eq!(maps.data(), [0.5, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn grid_averages_differ_only_at_the_edge() {
        let maps = Tensor::full(&[1, 3, 5], 1.0);
        let covered = to_grid(&maps, 2, GridAverage::Covered).unwrap();
        assert_eq!(covered.data(), [1.0; 6]);
        let padded = to_grid(&maps, 2, GridAverage::ZeroPadded).unwrap();
        assert_eq!(padded.data(), [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]);
    }

    #[test]
    fn confident_rules() {
        let strong = LabelMap::new(4, 1, vec![1, 0, 0, 2]).unwrap();
        let weak = LabelMap::new(4, 1, vec![1, 1, 0, 0]).unwrap();
        assert_eq!(confident_labels(&strong, &weak).unwrap().labels, [1, IGNORE, 0, 0]);
    }

    #[test]
    fn posteriors_are_averaged_before_they_compete() {
        // A block where class 1 has the majority of pixels, but the background the larger average; one that
        // lies outside the image but for a pixel; one outside.
        let background = vec![0.45, 0.45, 0.3, 0.0, 0.0, 0.0, 0.45, 1.0, 0.0, 0.0, 0.0, 0.0];
        let class = vec![0.55, 0.55, 0.7, 0.0, 0.0, 0.0, 0.55, 0.0, 0.0, 0.0, 0.0, 0.0];
        let scores = Tensor::new(&[2, 2, 6], [background, class].concat()).unwrap();
        assert_eq!(pooled_confident_labels(&scores, &scores, 2).unwrap().labels, [0, 1, IGNORE]);
        let certain = Tensor::new(&[2, 1, 1], vec![0.2, 0.8]).unwrap();
        assert_eq!(pooled_confident_labels(&certain, &certain, 2).unwrap().labels, [1]);
        let open = Tensor::new(&[2, 1, 1], vec![0.8, 0.2]).unwrap();
        assert_eq!(pooled_confident_labels(&open, &certain, 2).unwrap().labels, [IGNORE]);
        assert!(pooled_confident_labels(&scores, &certain, 2).is_err());
    }

    #[test]
    fn blocks_take_the_majority() {
        let map = LabelMap::new(3, 2, vec![1, 1, 2, 1, 0, 2]).unwrap();
        // The right block is half outside: two of four pixels are no majority.
        assert_eq!(labels_to_grid(&map, 2).labels, [1, IGNORE]);
        assert_eq!(
            argmax(&Tensor::new(&[2, 1, 2], vec![1., 0., 1., 2.]).unwrap(), &[0, 7]).unwrap().labels,
            [0, 7]
        );
    }
}
