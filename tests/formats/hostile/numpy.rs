//! `.npy`, `.npz`, class maps and tags.

use super::Reader::{Maps, Tags, Weights};
use super::{Case, case};
use crate::writers::*;

fn literal(literal: &str) -> Vec<u8> {
    npy(literal, &[0; 24])
}

fn shaped(shape: &str) -> Vec<u8> {
    literal(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"))
}

fn described(descr: &str) -> Vec<u8> {
    literal(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (6,), }}"))
}

fn map(shape: &[i64], data: &[f32]) -> Vec<u8> {
    array(shape, &floats(data.iter().copied()))
}

fn key(name: &str) -> Vec<u8> {
    text(name)
}

pub fn cases() -> Vec<Case> {
    let sound = npy_floats(&[2, 3], &[0.0; 6]);
    let version = |major: u8, length: &[u8]| cat(&[b"\x93NUMPY", &[major, 0], length, b"{}"]);
    let long = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", "1, ".repeat(20_000));
    let long = cat(&[b"\x93NUMPY\x02\x00", &(long.len() as u32).to_le_bytes(), long.as_bytes(), &[0; 4]]);
    let huge = cat(&[b"\x93NUMPY\x02\x00", &(17u32 << 20).to_le_bytes(), &vec![b' '; 17 << 20]]);
    let one = map(&[1, 2], &[0.5, 1.0]);
    let maps = |entries: &[(i64, Vec<u8>)]| {
        npy_dict(&entries.iter().map(|(k, v)| (int(*k), v.clone())).collect::<Vec<_>>())
    };
    let tags = |entries: &[(Vec<u8>, Vec<u8>)]| npy_dict(entries);
    let list = map(&[2], &[1.0, 0.0]);
    let irn = |keys: &[f32], stack: Vec<u8>| {
        npy_dict(&[(key("keys"), map(&[keys.len() as i64], keys)), (key("high_res"), stack)])
    };
    // One array, under a hundred thousand keys.
    let big = map(&[1 << 10, 1 << 10], &vec![0.0; 1 << 20]);
    let again: Vec<(Vec<u8>, Vec<u8>)> = (0..100_000)
        .map(|i| (int(i), if i == 0 { cat(&[&big, b"q\x07"]) } else { b"h\x07".to_vec() }))
        .collect();
    let long_name = cat(&[&text(&"n".repeat(1 << 20)), b"q\x08"]);
    let long_names: Vec<(Vec<u8>, Vec<u8>)> = (0..50_000)
        .map(|i| (if i == 0 { long_name.clone() } else { b"h\x08".to_vec() }, list.clone()))
        .collect();
    vec![
        case("npy-only-magic", Weights, b"\x93NUMPY".to_vec(), "cut off"),
        case("npy-version-9", Weights, version(9, &[0; 4]), "version 9.0"),
        case("npy-header-of-2-32", Weights, version(2, &[0xff; 4]), "at most 16777216"),
        case("npy-header-beyond", Weights, version(1, &[0xff; 2]), "cut off"),
        case("npy-header-of-17-mib", Weights, huge, "at most 16777216"),
        case("npy-header-not-utf8", Weights, cat(&[b"\x93NUMPY\x01\x00\x02\x00\xff\xfe"]), "not text"),
        case("npy-header-empty", Weights, literal(""), "missing"),
        case("npy-header-runs-code", Weights, literal("__import__('os').system('ls')"), "missing"),
        case("npy-header-nested", Weights, shaped(&"(".repeat(5000)), "size"),
        case("npy-header-key-unknown", Weights, literal("{'descr': '<f4', 'x': 1}"), "unknown key"),
        case("npy-header-key-twice", Weights, literal("{'descr': '<f4', 'descr': '<f4'}"), "twice"),
        case("npy-header-key-missing", Weights, literal("{'descr': '<f4', 'shape': (6,)}"), "missing"),
        case(
            "npy-header-goes-on",
            Weights,
            literal("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} or 1"),
            "after the header",
        ),
        case(
            "npy-header-order-a-number",
            Weights,
            literal("{'descr': '<f4', 'fortran_order': 1, 'shape': (6,)}"),
            "True or False",
        ),
        case("npy-shape-2-64", Weights, shaped("(18446744073709551616,)"), "size was expected"),
        case(
            "npy-shape-overflows",
            Weights,
            shaped("(9223372036854775807, 9223372036854775807)"),
            "does not fit",
        ),
        case("npy-shape-overflows-with-zero", Weights, shaped("(9223372036854775807, 4, 0)"), "does not fit"),
        case("npy-shape-negative", Weights, shaped("(-6,)"), "size was expected"),
        case("npy-shape-a-float", Weights, shaped("(6.0,)"), "missing"),
        case("npy-shape-large", Weights, shaped("(1000000, 1000000)"), "does not fit"),
        case("npy-nine-dimensions", Weights, shaped("(1, 1, 1, 1, 1, 1, 1, 1, 6)"), "more than 8"),
        case("npy-twenty-thousand-dimensions", Weights, long, "more than 8"),
        case("npy-a-byte-short", Weights, sound[..sound.len() - 1].to_vec(), "does not fit"),
        case("npy-a-byte-long", Weights, cat(&[&sound, b"x"]), "does not fit"),
        case("npy-objects", Weights, described("'|O'"), "objects"),
        case("npy-structured", Weights, described("[('a', '<f4')]"), "structures"),
        case("npy-complex", Weights, described("'<c8'"), "`<c8`"),
        case("npy-text", Weights, described("'<U6'"), "`<U6`"),
        case("npy-void", Weights, described("'|V4294967295'"), "not supported"),
        case("npy-dict-as-weights", Weights, maps(&[(1, one.clone())]), "objects"),
        case("npz-member-cut", Weights, zip(&[Entry::new("a.npy", &sound[..40])]), "cut off"),
        case(
            "npz-member-of-objects",
            Weights,
            zip(&[Entry::new("a.npy", &maps(&[(1, one.clone())]))]),
            "objects",
        ),
        case("npz-nan", Weights, zip(&[Entry::new("a.npy", &npy_floats(&[1], &[f32::NAN]))]), "NaN"),
        case("npz-member-is-a-script", Weights, zip(&[Entry::new("setup.py", b"import os")]), "no .npy"),
        case("maps-plain-array", Maps, sound.clone(), "plain array"),
        case("maps-no-dictionary", Maps, npy_object(b"\x80\x03K\x01."), "not a dictionary"),
        case("maps-none", Maps, maps(&[]), "no class maps"),
        case("maps-class-20", Maps, maps(&[(20, one.clone())]), "class number 20"),
        case("maps-class-negative", Maps, maps(&[(-1, one.clone())]), "class number -1"),
        case("maps-class-2-62", Maps, maps(&[(1 << 62, one.clone())]), "class number"),
        case("maps-class-twice", Maps, maps(&[(3, one.clone()), (3, one.clone())]), "twice"),
        case("maps-key-a-tuple", Maps, npy_dict(&[(b")".to_vec(), one.clone())]), "class index"),
        case(
            "maps-sizes-differ",
            Maps,
            maps(&[(1, one.clone()), (2, map(&[2, 1], &[0.0; 2]))]),
            "unequal sizes",
        ),
        case("maps-one-dimension", Maps, maps(&[(1, map(&[2], &[0.0; 2]))]), "height × width"),
        case("maps-no-pixels", Maps, maps(&[(1, map(&[0, 7], &[]))]), "empty"),
        case("maps-shape-is-not-the-bytes", Maps, maps(&[(1, map(&[3, 3], &[0.0; 2]))]), "does not fit"),
        case("maps-shape-negative", Maps, maps(&[(1, map(&[-1, -2], &[0.0; 2]))]), "not an array"),
        case(
            "maps-shape-2-31",
            Maps,
            maps(&[(1, map(&[i64::from(i32::MAX), i64::from(i32::MAX)], &[0.0; 2]))]),
            "does not fit",
        ),
        case("maps-nan", Maps, maps(&[(1, map(&[1, 1], &[f32::NAN]))]), "NaN"),
        case("maps-of-text", Maps, maps(&[(1, text("map"))]), "not an array"),
        case("maps-one-array-over-and-over", Maps, npy_dict(&again), "warrants"),
        case(
            "maps-irn-keys-do-not-fit",
            Maps,
            irn(&[1.0, 2.0], map(&[1, 1, 1], &[0.0])),
            "one a map is expected",
        ),
        case(
            "maps-irn-of-two-dimensions",
            Maps,
            irn(&[1.0], map(&[1, 1], &[0.0])),
            "not classes × height × width",
        ),
        case("maps-irn-keys-beyond", Maps, irn(&[1e30], map(&[1, 1, 1], &[0.0])), "class number"),
        case("tags-plain-array", Tags, sound, "plain array"),
        case("tags-no-dictionary", Tags, npy_object(b"\x80\x03]."), "not a dictionary"),
        case("tags-id-a-tuple", Tags, tags(&[(b")".to_vec(), list.clone())]), "neither a text nor a number"),
        case("tags-id-twice", Tags, tags(&[(key("a"), list.clone()), (key("a"), list.clone())]), "twice"),
        case("tags-id-of-a-megabyte", Tags, tags(&long_names), "a name of 1048576 bytes"),
        case("tags-a-matrix", Tags, tags(&[(key("a"), map(&[2, 2], &[0.0; 4]))]), "not a list"),
        case("tags-no-array", Tags, tags(&[(key("a"), b"]".to_vec())]), "not an array"),
    ]
}
