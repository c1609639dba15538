//! Inputs that both sides of the comparison make for themselves: `rule.py` says the same in Python, and why
//! the bits are equal.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::path::PathBuf;

use seedwalk::formats::image::RgbImage;
use seedwalk::formats::safetensors::{TensorFile, read_tensors};
use seedwalk::rng::philox4x32;
use seedwalk::tensor::Tensor;

/// `count` words for a name: FNV-1a of the name is the key, the index the counter.
pub fn words(name: &str, count: usize) -> Vec<u32> {
    let hash =
        name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    let key = [hash as u32, (hash >> 32) as u32];
    (0..count.div_ceil(4)).flat_map(|block| philox4x32(key, [block as u32, 0, 0, 0])).take(count).collect()
}

/// Values in [−1, 1), multiples of 2⁻²³.
pub fn noise(name: &str, shape: &[usize]) -> Tensor {
    let whole = |w: u32| (i64::from(w >> 8) - (1 << 23)) as f32 * 2f32.powi(-23);
    let values = words(name, shape.iter().product()).into_iter().map(whole).collect();
    Tensor::new(shape, values).unwrap()
}

/// A parameter by its published name, O×I×KH×KW: convolutions uniform with deviation 1/√fan-in.
pub fn weight(name: &str, shape: &[usize], head_scale: f64) -> Tensor {
    let mut t = noise(name, shape);
    let norm = name.starts_with("bn") || name.contains(".bn");
    if let [_, i, kh, kw] = *shape {
        let scale = (3.0 / (i * kh * kw) as f64).sqrt();
        let scale = (scale * if name.starts_with("f9.") { head_scale } else { 1.0 }) as f32;
        t.data_mut().iter_mut().for_each(|v| *v *= scale);
    } else if norm && name.ends_with("weight") {
        t.data_mut().iter_mut().for_each(|v| *v = 1.0 + 0.25 * *v);
    } else if norm && name.ends_with("running_var") {
        t.data_mut().iter_mut().for_each(|v| *v = 1.0 + 0.5 * *v);
    } else {
        t.data_mut().iter_mut().for_each(|v| *v *= 0.1);
    }
    t
}

/// H×W×3: three regions of a colour each, a gradient, noise.
pub fn image(name: &str, height: usize, width: usize) -> RgbImage {
    const COLOURS: [[usize; 3]; 3] = [[90, 120, 60], [200, 60, 50], [40, 80, 190]];
    let noise = words(name, height * width * 3);
    let (h, w) = (height as i64, width as i64);
    let value = |i: usize| {
        let (y, x, c) = (i / 3 / width, i / 3 % width, i % 3);
        let disc = (3 * y as i64 - h).pow(2) + (3 * x as i64 - w).pow(2) <= h * h / 2;
        let region = if 2 * x > width && 2 * y > height { 2 } else { usize::from(disc) };
        (COLOURS[region][c] + (x * (c + 1) + 2 * y) % 32 + (noise[i] & 15) as usize) as u8
    };
    RgbImage::new(width, height, (0..height * width * 3).map(value).collect()).unwrap()
}

/// 2×H×W in (0, 1]: a hill on the disc, one on the box, level up to a quarter of the height.
pub fn maps(height: usize, width: usize) -> Tensor {
    let (h, w) = (height as f64, width as f64);
    let mut values = Vec::with_capacity(2 * height * width);
    for (cy, cx) in [(h / 3.0, w / 3.0), (h * 3.0 / 4.0, w * 3.0 / 4.0)] {
        for i in 0..height * width {
            let (dy, dx) = ((i / width) as f64 - cy, (i % width) as f64 - cx);
            let q = (dy * dy + dx * dx) * 16.0 / (h * h);
            values.push((1.0 / (1.0 + q * q * q)) as f32);
        }
    }
    Tensor::new(&[2, height, width], values).unwrap()
}

/// The path of a golden file.
pub fn golden_path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/golden").join(file)
}

/// What the reference made of the same inputs.
pub fn golden(name: &str) -> TensorFile {
    read_tensors(&golden_path(&format!("{name}.safetensors"))).unwrap()
}

/// Largest |a − b|, NaN only against NaN.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "numbers of values");
    let mut largest = 0f32;
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.is_nan(), b.is_nan(), "value {i}: {a} and {b}");
        if !a.is_nan() {
            largest = largest.max((a - b).abs());
        }
    }
    largest
}

/// Checks shapes and |a − b| ≤ limit; `limit` is absolute.
pub fn assert_near(what: &str, got: &Tensor, expected: &Tensor, limit: f32) {
    assert_eq!(got.shape(), expected.shape(), "{what}");
    let largest = largest_difference(got.data(), expected.data());
    println!("{what}: {largest:.2e} of {limit:.0e}");
    assert!(largest <= limit, "{what}: {largest:e}, at most {limit:e} is allowed");
}

/// Share of equal elements.
pub fn share_equal<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}
