//! Optimisers on the GPU: one launch for all parameters, beside the CPU's loops.

use seedwalk::optim::{NotFinite, Optimizer, Update};
use seedwalk::tensor::Tensor;

use super::{Alone, random};

/// Below, at and beyond a block's 4,096 values, and not a multiple of four.
const SIZES: [usize; 5] = [1, 7, 4096, 4099, 9001];

type Make = fn() -> Optimizer;

const MAKERS: [(&str, Make); 4] = [
    ("momentum", || Optimizer::sgd(0.9)),
    ("no momentum", || Optimizer::sgd(0.0)),
    ("adam", Optimizer::adam),
    ("adamw", Optimizer::adamw),
];

/// One step of all parameters with gradients named by `step`; rates and decays differ.
fn step(optimizer: &mut Optimizer, parameters: &mut [Tensor], step: u64) -> Option<NotFinite> {
    let gradients: Vec<Tensor> = parameters
        .iter()
        .enumerate()
        .map(|(i, p)| random(p.shape(), 100 * step + i as u64).to_place(p.gpu(), "a gradient").unwrap())
        .collect();
    let mut updates: Vec<Update<'_>> = parameters
        .iter_mut()
        .zip(&gradients)
        .enumerate()
        .map(|(i, (parameter, gradient))| {
            let (rate, decay) = (0.01 * (i + 1) as f32, 0.1 * i as f32);
            Update { index: 3 * i, parameter, gradient, rate, decay }
        })
        .collect();
    optimizer.update(&mut updates).unwrap()
}

fn fresh() -> Vec<Tensor> {
    SIZES.iter().map(|n| random(&[*n], 7)).collect()
}

fn assert_close(what: &str, found: &[Tensor], expected: &[Tensor]) {
    for (found, expected) in found.iter().zip(expected) {
        for (f, e) in found.to_host().unwrap().data().iter().zip(expected.data()) {
            // A handful of roundings a step; Adam divides by a root of what may be small.
            assert!((f - e).abs() <= 2e-6 * (1.0 + e.abs()), "{what}: {f} for {e}");
        }
    }
}

#[test]
fn every_rule_steps_as_on_the_cpu() {
    let alone = Alone::new();
    for (what, make) in MAKERS {
        let (mut optimizer, mut expected) = (make(), fresh());
        (1..4).for_each(|t| assert_eq!(step(&mut optimizer, &mut expected, t), None));
        let found = alone.same_bytes(what, |gpu| {
            let mut optimizer = make();
            let mut parameters: Vec<Tensor> =
                fresh().iter().map(|t| t.to_device(gpu, "a parameter").unwrap()).collect();
            // Somebody else holds the first: it keeps its values.
            let held = parameters[0].clone();
            (1..4).for_each(|t| assert_eq!(step(&mut optimizer, &mut parameters, t), None));
            assert_eq!(held.to_host().unwrap(), fresh()[0], "{what}");
            parameters.iter().map(|t| t.to_host().unwrap()).collect::<Vec<_>>()
        });
        assert_close(what, &found, &expected);
    }
}

#[test]
fn state_moves_between_devices() {
    let alone = Alone::new();
    for (what, make) in MAKERS {
        let (mut optimizer, mut expected) = (make(), fresh());
        (1..5).for_each(|t| assert_eq!(step(&mut optimizer, &mut expected, t), None));
        // Two steps here, one there, one here again; by way of a checkpoint's state each time.
        let (mut optimizer, mut parameters) = (make(), fresh());
        for (t, gpu) in [None, None, Some(&alone.gpu), None].into_iter().enumerate() {
            for parameter in &mut parameters {
                *parameter = parameter.to_place(gpu, "a parameter").unwrap();
            }
            assert_eq!(step(&mut optimizer, &mut parameters, t as u64 + 1), None);
            let state = optimizer.state().unwrap();
            optimizer = make();
            optimizer.load_state(&state).unwrap();
        }
        assert_close(what, &parameters, &expected);
    }
}

#[test]
fn what_is_no_number_is_found_on_the_way() {
    let alone = Alone::new();
    let outcome = |bad_parameter: Option<usize>, bad_gradient: Option<usize>| {
        let tensor = |i: usize, bad: Option<usize>, value: f32| {
            let mut t = Tensor::full(&[4100], 0.5);
            if bad == Some(i) {
                t.data_mut()[4098] = value;
            }
            t.to_device(&alone.gpu, "a tensor").unwrap()
        };
        let mut parameters: Vec<Tensor> = (0..3).map(|i| tensor(i, bad_parameter, f32::INFINITY)).collect();
        let gradients: Vec<Tensor> = (0..3).map(|i| tensor(i, bad_gradient, f32::NAN)).collect();
        let mut updates: Vec<Update<'_>> = parameters
            .iter_mut()
            .zip(&gradients)
            .enumerate()
            .map(|(i, (parameter, gradient))| Update {
                index: 10 + i,
                parameter,
                gradient,
                rate: 0.1,
                decay: 0.0,
            })
            .collect();
        Optimizer::sgd(0.9).update(&mut updates).unwrap()
    };
    assert_eq!(outcome(None, None), None);
    assert_eq!(outcome(Some(1), None), Some(NotFinite::Parameter(11)));
    assert_eq!(outcome(Some(0), Some(2)), Some(NotFinite::Gradient(12)));
}
