//! MXNet's `.params`.

use super::Reader::Weights;
use super::{Case, case};
use crate::writers::*;

fn one(array: Vec<u8>) -> Vec<u8> {
    params(&[("a", array)])
}

/// An array with the numbers 0 to 5.
fn sound() -> Vec<u8> {
    mxnet_array(&[2, 3], 0, &counting(6))
}

/// A list whose u64 at `at` is another.
fn patched(at: usize, value: u64) -> Vec<u8> {
    let mut b = one(sound());
    b[at..at + 8].copy_from_slice(&value.to_le_bytes());
    b
}

/// An array whose u32 at `at` is another.
fn lying(at: usize, value: u32) -> Vec<u8> {
    let mut array = sound();
    array[at..at + 4].copy_from_slice(&value.to_le_bytes());
    one(array)
}

fn sized(sizes: &[i64]) -> Vec<u8> {
    one(mxnet_array(sizes, 0, &counting(6)))
}

pub fn cases() -> Vec<Case> {
    let length = one(sound()).len();
    let oldest = |dimensions: u32| one(cat(&[&dimensions.to_le_bytes(), &[0xff; 64]]));
    let unfilled = cat(&[&V2.to_le_bytes(), &[0; 8]]);
    let count = (16 << 20) / unfilled.len();
    let crowd = cat(&[
        &0x112u64.to_le_bytes(),
        &[0; 8],
        &(count as u64).to_le_bytes(),
        &unfilled.repeat(count),
        &[0; 8],
    ]);
    let scalar = cat(&[&V3.to_le_bytes(), &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0], &3i32.to_le_bytes(), &[7]]);
    let count = (8 << 20) / scalar.len();
    let bytes = cat(&[
        &0x112u64.to_le_bytes(),
        &[0; 8],
        &(count as u64).to_le_bytes(),
        &scalar.repeat(count),
        &[0; 8],
    ]);
    let two = |a: &str, b: &str| params(&[(a, sound()), (b, sound())]);
    let mut name = one(sound());
    name[length - 1] = 0xff;
    vec![
        case("mxnet-only-magic", Weights, 0x112u64.to_le_bytes().to_vec(), "cut off"),
        case("mxnet-count-2-64", Weights, patched(16, u64::MAX), "cut off"),
        case("mxnet-count-2", Weights, patched(16, 2), "cut off"),
        case("mxnet-count-0", Weights, patched(16, 0), "names for 0 arrays"),
        case("mxnet-names-2-64", Weights, patched(length - 17, u64::MAX), "names for 1 arrays"),
        case("mxnet-names-2", Weights, patched(length - 17, 2), "2 names for 1 arrays"),
        case("mxnet-name-of-2-64", Weights, patched(length - 9, u64::MAX), "cut off"),
        case("mxnet-name-of-2-63", Weights, patched(length - 9, 1 << 63), "cut off"),
        case("mxnet-name-not-utf8", Weights, name, "UTF-8"),
        case("mxnet-name-twice", Weights, two("a", "a"), "twice"),
        case(
            "mxnet-name-of-a-megabyte",
            Weights,
            params(&[(&"n".repeat(1 << 20), sound())]),
            "a name of 1048576 bytes",
        ),
        case(
            "mxnet-names-come-to-be-one",
            Weights,
            two("bn7_gamma", "arg:bn7_gamma"),
            "come to be named `bn7.weight`",
        ),
        case("mxnet-only-the-classifier", Weights, params(&[("linear1000_weight", sound())]), "no tensors"),
        case("mxnet-bytes-after", Weights, cat(&[&one(sound()), b"x"]), "after the last name"),
        case("mxnet-sparse-rows", Weights, lying(4, 1), "sparse"),
        case("mxnet-sparse-csr", Weights, lying(4, 2), "sparse"),
        case("mxnet-storage-negative", Weights, lying(4, u32::MAX), "sparse"),
        case("mxnet-dimensions-2-32", Weights, lying(8, u32::MAX), "at most 8"),
        case("mxnet-dimensions-9", Weights, sized(&[1, 1, 1, 1, 1, 1, 1, 2, 3]), "at most 8"),
        case("mxnet-dimensions-9-oldest", Weights, oldest(9), "at most 8"),
        case("mxnet-no-array", Weights, oldest(0xdead_beef), "at most 8"),
        case("mxnet-oldest-sizes-2-32", Weights, oldest(8), ""),
        case("mxnet-sizes-negative", Weights, sized(&[-1, 6]), ""),
        case("mxnet-sizes-overflow", Weights, sized(&[1 << 40, 1 << 40]), "cut off"),
        case("mxnet-sizes-overflow-with-zero", Weights, sized(&[1 << 40, 1 << 40, 0]), ""),
        case("mxnet-sizes-2-62", Weights, sized(&[1 << 62]), "cut off"),
        case("mxnet-sizes-beyond", Weights, sized(&[100, 100]), "cut off"),
        case("mxnet-type-99", Weights, one(mxnet_array(&[6], 99, &counting(6))), "element type 99"),
        case("mxnet-type-negative", Weights, one(mxnet_array(&[6], -1, &counting(6))), "element type -1"),
        case("mxnet-wider-type", Weights, one(mxnet_array(&[6], 1, &counting(6))), ""),
        case("mxnet-infinity", Weights, one(mxnet_array(&[1], 0, &floats([f32::INFINITY]))), "inf"),
        case("mxnet-a-crowd-of-nothing", Weights, crowd, "no tensors"),
        case("mxnet-a-crowd-of-bytes", Weights, bytes, "warrants"),
    ]
}
