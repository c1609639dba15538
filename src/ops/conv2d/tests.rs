use proptest::prelude::*;

use super::*;
use crate::ops::testing::{assert_close, check, random};

/// The definition, in f64.
fn reference(g: &Geometry, x: &[f64], w: &[f64], b: Option<&[f64]>) -> Vec<f64> {
    let [n, h, width, i] = g.input;
    let [_, oh, ow, o] = g.output;
    let [kh, kw] = g.kernel;
    let mut y = Vec::with_capacity(n * oh * ow * o);
    for image in 0..n {
        for p in 0..oh {
            for q in 0..ow {
                for c in 0..o {
                    let mut sum = b.map_or(0.0, |b| b[c]);
                    for r in 0..kh {
                        for s in 0..kw {
                            let row = (p * g.stride + r * g.dilation).checked_sub(g.padding);
                            let column = (q * g.stride + s * g.dilation).checked_sub(g.padding);
                            let (Some(row), Some(column)) = (row, column) else { continue };
                            if row >= h || column >= width {
                                continue;
                            }
                            for k in 0..i {
                                let x = x[((image * h + row) * width + column) * i + k];
                                sum += x * w[((c * kh + r) * kw + s) * i + k];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

fn options(stride: usize, padding: usize, dilation: usize) -> Conv2dOptions {
    Conv2dOptions { stride, padding, dilation }
}

#[test]
fn matches_the_definition_and_its_differences() {
    // (input, weight, stride, padding, dilation): 1×1 images, even kernels, padding beyond the window,
    // strides that leave a rest, dilation larger than the image.
    let cases = [
        ([1, 1, 1, 1], [1, 1, 1, 1], 1, 0, 1),
        ([1, 1, 1, 3], [2, 3, 3, 3], 1, 1, 1),
        ([2, 5, 7, 3], [4, 3, 3, 3], 1, 1, 1),
        ([1, 6, 5, 2], [9, 3, 3, 2], 2, 1, 1),
        ([1, 7, 6, 2], [3, 1, 1, 2], 2, 0, 1),
        ([1, 5, 5, 2], [3, 3, 3, 2], 1, 4, 4),
        ([1, 4, 3, 1], [2, 2, 4, 1], 3, 3, 2),
        ([2, 3, 3, 9], [17, 1, 1, 9], 1, 0, 1),
    ];
    for (index, (x, w, stride, padding, dilation)) in cases.into_iter().enumerate() {
        let at = 10 * index as u64;
        let (x, w, b) = (random(&x, at), random(&w, at + 1), random(&w[..1], at + 2));
        let options = options(stride, padding, dilation);
        let g = geometry(x.shape(), w.shape(), Some(b.shape()), options).unwrap();
        check(
            &[x.clone(), w.clone(), b],
            |tape, v| conv2d(tape, &v[0], &v[1], Some(&v[2]), options),
            |v| reference(&g, &v[0], &v[1], Some(&v[2])),
        );
        check(
            &[x, w],
            |tape, v| conv2d(tape, &v[0], &v[1], None, options),
            |v| reference(&g, &v[0], &v[1], None),
        );
    }
}

#[test]
fn without_channels_or_images_only_the_bias_is_left() {
    let bias = random(&[4], 1);
    let run = |x: &[usize], w: &[usize], bias: Option<&Tensor>| {
        let [x, w] = [x, w].map(|shape| Var::constant(Tensor::zeros(shape)));
        let bias = bias.map(|b| Var::constant(b.clone()));
        let y = conv2d(&mut Tape::inference(), &x, &w, bias.as_ref(), options(1, 1, 1)).unwrap();
        y.value().data().to_vec()
    };
    assert_eq!(run(&[1, 3, 2, 0], &[4, 3, 3, 0], Some(&bias)), bias.data().repeat(6));
    assert_eq!(run(&[1, 3, 2, 0], &[4, 3, 3, 0], None), vec![0.0; 24]);
    assert!(run(&[0, 3, 2, 2], &[4, 3, 3, 2], Some(&bias)).is_empty());
}

#[test]
fn refuses_what_does_not_fit() {
    let mut tape = Tape::new();
    let mut run = |x: &[usize], w: &[usize], b: Option<usize>, o| {
        let b = b.map(|b| Var::constant(Tensor::zeros(&[b])));
        let (x, w) = (Var::constant(Tensor::zeros(x)), Var::constant(Tensor::zeros(w)));
        conv2d(&mut tape, &x, &w, b.as_ref(), o)
    };
    assert!(run(&[1, 4, 4, 2], &[3, 3, 3, 2], Some(3), options(1, 1, 1)).is_ok());
    assert!(run(&[1, 4, 4, 2], &[3, 3, 3, 1], None, options(1, 1, 1)).is_err());
    assert!(run(&[1, 4, 4, 2], &[3, 3, 3, 2], Some(2), options(1, 1, 1)).is_err());
    assert!(run(&[1, 2, 2, 2], &[3, 3, 3, 2], None, options(1, 0, 1)).is_err());
    assert!(run(&[1, 4, 4, 2], &[3, 3, 3, 2], None, options(0, 1, 1)).is_err());
    assert!(run(&[1, 4, 4, 2], &[3, 3, 3, 2], None, options(1, 1, 0)).is_err());
    assert!(run(&[4, 4, 2], &[3, 3, 3, 2], None, options(1, 1, 1)).is_err());
}

/// The instruction sets of this machine.
fn paths() -> Vec<Isa> {
    let mut paths = vec![Isa::Plain];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            paths.push(Isa::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            paths.push(Isa::Avx512);
        }
    }
    paths
}

/// Output and all gradients on one path.
fn everything(isa: Isa, g: Geometry, x: &Tensor, w: &Tensor, b: &Tensor) -> Vec<Tensor> {
    let mut tape = Tape::new();
    let vars = [x, w, b].map(|t| tape.leaf(t.clone()));
    let y = conv2d_on_cpu(&mut tape, &vars[0], &vars[1], Some(&vars[2]), g, isa).unwrap();
    let mut gradients = tape.backward(&y, random(y.shape(), 99)).unwrap();
    let mut all = vec![y.into_value()];
    all.extend(vars.iter().map(|v| gradients.take(v).unwrap()));
    all
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_path_gives_the_same_bits_and_the_right_ones(
        n in 1usize..3, h in 1usize..14, width in 1usize..14, i in 1usize..20, o in 1usize..90,
        kh in 1usize..4, kw in 1usize..4, stride in 1usize..4, padding in 0usize..4, dilation in 1usize..4,
    ) {
        let (x, w, b) = (random(&[n, h, width, i], 1), random(&[o, kh, kw, i], 2), random(&[o], 3));
        let Ok(g) = geometry(x.shape(), w.shape(), Some(b.shape()), options(stride, padding, dilation)) else { return Ok(()) };
        let plain = everything(Isa::Plain, g, &x, &w, &b);
        let wide = |t: &Tensor| t.data().iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let expected = reference(&g, &wide(&x), &wide(&w), Some(&wide(&b)));
        // A chain of K roundings of half an ulp, values of a few standard deviations: K·2⁻²⁴·~4.
        let tolerance = (kh * kw * i) as f64 * 2.4e-7 + 1e-6;
        assert_close("output", plain[0].data(), &expected, tolerance);
        for isa in paths() {
            for threads in [1, 3] {
                let other = with_threads(threads, || everything(isa, g, &x, &w, &b));
                for (a, b) in plain.iter().zip(&other) {
                    prop_assert_eq!(a.data(), b.data(), "{:?} with {} threads", isa, threads);
                }
            }
        }
    }
}

#[test]
fn many_pixels_and_long_sums_keep_their_bits_on_any_number_of_threads() {
    // Several pixel ranges, several blocks of the sum, several chunks of rows.
    let (x, w, b) = (random(&[2, 40, 41, 48], 1), random(&[72, 3, 3, 48], 2), random(&[72], 3));
    let g = geometry(x.shape(), w.shape(), Some(b.shape()), options(1, 2, 2)).unwrap();
    let one = with_threads(1, || everything(Isa::detect(), g, &x, &w, &b));
    for threads in [2, 3] {
        let other = with_threads(threads, || everything(Isa::detect(), g, &x, &w, &b));
        assert!(one.iter().zip(&other).all(|(a, b)| a.data() == b.data()), "{threads} threads");
    }
}

#[test]
fn gradients_alone_are_the_tapes_and_refuse_what_does_not_fit() {
    let (x, w, options) = (random(&[2, 7, 6, 5], 1), random(&[9, 3, 3, 5], 2), options(2, 1, 1));
    let mut tape = Tape::new();
    let (vx, vw) = (tape.leaf(x.clone()), tape.leaf(w.clone()));
    let y = conv2d(&mut tape, &vx, &vw, None, options).unwrap();
    let dy = random(y.shape(), 3);
    let mut gradients = tape.backward(&y, dy.clone()).unwrap();
    assert_eq!(input_gradient(&dy, &w, x.shape(), options).unwrap(), gradients.take(&vx).unwrap());
    assert_eq!(weight_gradient(&dy, &x, w.shape(), options).unwrap(), gradients.take(&vw).unwrap());
    assert!(input_gradient(&x, &w, x.shape(), options).is_err());
    assert!(weight_gradient(&dy, &x, &[9, 3, 3, 4], options).is_err());
    assert!(weight_gradient(&dy, &x, &[9, 3, 3], options).is_err());
}
