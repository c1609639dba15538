//! Colour jitter: brightness, contrast, saturation and hue, in random order, as torchvision defines
//! them, on values in 0–1.

use crate::rng::Stream;

/// Weights of red, green and blue in grey (ITU-R BT.601, to four digits as the field uses them).
const GREY: [f32; 3] = [0.2989, 0.587, 0.114];

/// How far colours may stray. A factor is uniform in [max(0, 1 − strength), 1 + strength], the hue's
/// shift in ± strength turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    /// Values times a factor.
    pub brightness: f32,
    /// Away from or towards the picture's mean grey.
    pub contrast: f32,
    /// Away from or towards each pixel's grey.
    pub saturation: f32,
    /// Turns of the hue, at most 0.5.
    pub hue: f32,
}

impl Jitter {
    /// The pipeline's: 0.3, 0.3, 0.3, 0.1.
    pub const STANDARD: Self = Self { brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.1 };
    /// Colours as they are.
    pub const NONE: Self = Self { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 };

    /// Draws an order and four strengths and changes RGB pixels in 0–1.
    pub(super) fn apply(&self, pixels: &mut [f32], random: &mut Stream) {
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        for step in order {
            let strength = [self.brightness, self.contrast, self.saturation, self.hue][step];
            // Drawn even when unused, so that one strength does not change what the others draw.
            let at = random.uniform();
            if strength <= 0.0 {
                continue;
            }
            let low = (1.0 - strength).max(0.0);
            let factor = low + (1.0 + strength - low) * at;
            match step {
                0 => pixels.iter_mut().for_each(|v| *v = (*v * factor).clamp(0.0, 1.0)),
                1 => contrast(pixels, factor),
                2 => saturation(pixels, factor),
                _ => hue(pixels, strength * (2.0 * at - 1.0)),
            }
        }
    }
}

fn grey(pixel: &[f32]) -> f32 {
    GREY[0] * pixel[0] + GREY[1] * pixel[1] + GREY[2] * pixel[2]
}

fn contrast(pixels: &mut [f32], factor: f32) {
    // In f64 and pixel order: the same bytes whatever runs beside.
    let sum: f64 = pixels.chunks_exact(3).map(|p| f64::from(grey(p))).sum();
    let mean = (sum / (pixels.len() / 3) as f64) as f32;
    pixels.iter_mut().for_each(|v| *v = (mean + factor * (*v - mean)).clamp(0.0, 1.0));
}

fn saturation(pixels: &mut [f32], factor: f32) {
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = grey(pixel);
        pixel.iter_mut().for_each(|v| *v = (grey + factor * (*v - grey)).clamp(0.0, 1.0));
    }
}

/// Turns hues by `shift` of the circle; value and chroma stay.
fn hue(pixels: &mut [f32], shift: f32) {
    for pixel in pixels.chunks_exact_mut(3) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]];
        let value = r.max(g).max(b);
        let chroma = value - r.min(g).min(b);
        if chroma <= 0.0 {
            continue;
        }
        // In sixths of the circle from red.
        let sextant = if value == r {
            (g - b) / chroma
        } else if value == g {
            (b - r) / chroma + 2.0
        } else {
            (r - g) / chroma + 4.0
        };
        let sextant = sextant + 6.0 * shift + 12.0;
        for (v, offset) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
            let k = (offset + sextant) % 6.0;
            *v = value - chroma * k.min(4.0 - k).clamp(0.0, 1.0);
        }
    }
}
