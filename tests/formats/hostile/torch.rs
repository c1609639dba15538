//! PyTorch's two layouts: tensors that lie about their storages, storages that lie about themselves.

use super::Reader::{Maps, Weights};
use super::{Case, case};
use crate::writers::*;

/// A state dict of one tensor over six numbers.
fn one(tensor: Tensor<'_>) -> Vec<u8> {
    torch_zip(&dict(&[("t", tensor.pickled())]), &[("0", counting(6))])
}

fn old(tensor: Tensor<'_>, storages: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    torch_old(&dict(&[("t", Tensor { view: b"N", ..tensor }.pickled())]), storages)
}

fn six() -> [(&'static str, u64, Vec<u8>); 1] {
    [("0", 6, counting(6))]
}

/// One number of a storage replaced.
fn with(value: f32) -> Vec<u8> {
    let data = floats([0.0, 1.0, value, 3.0, 4.0, 5.0]);
    torch_zip(&dict(&[("net.weight", PLAIN.pickled())]), &[("0", data)])
}

pub fn cases() -> Vec<Case> {
    let plain = PLAIN.pickled();
    let big = vec![0; 4 << 20];
    let whole = Tensor { count: 1 << 20, shape: &[1 << 20], strides: &[1], ..PLAIN };
    let names: Vec<String> = (0..100).map(|i| format!("t{i}")).collect();
    let copies: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (n.as_str(), whole.pickled())).collect();
    let tiny = Tensor { shape: &[0], strides: &[1], ..PLAIN }.pickled();
    // One tensor of no elements, under four hundred thousand names.
    let again: Vec<u8> = (0..400_000).flat_map(|i| cat(&[&text(&format!("{i}")), b"h\x63"])).collect();
    let many = cat(&[b"}(", &text("first"), &tiny, b"q\x63", &again, b"u"]);
    let sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R";
    let parameter = |of: &[u8]| cat(&[b"ctorch._utils\n_rebuild_parameter\n(", of, b"\x88}tR"]);
    let storage_of = |class: &str| one(Tensor { class, ..PLAIN });
    let number_as_name = cat(&[b"}", &int(5), &plain, b"s"]);
    let named = |name: &str| torch_zip(&dict(&[(name, plain.clone())]), &[("0", counting(6))]);
    let twice = dict(&[("t", plain.clone()), ("t", plain.clone())]);
    let sound = old(PLAIN, &six());
    let two_types = dict(&[
        ("a", Tensor { view: b"N", ..PLAIN }.pickled()),
        ("b", Tensor { view: b"N", class: "torch\nIntStorage", ..PLAIN }.pickled()),
    ]);
    let view = cat(&[b"(", &text("1"), &int(4), &int(9), b"t"]);
    let beyond = Tensor { view: &view, ..PLAIN }.pickled();
    let module =
        cat(&[b"(", &text("module"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &int(6), b"tQ"]);
    let old_with = |protocol: i64, facts: &[u8]| {
        cat(&[
            MAGIC,
            &program(&int(protocol)),
            &program(facts),
            &program(&dict(&[("t", plain.clone())])),
            &program(b"]"),
        ])
    };
    vec![
        case("torch-offset-beyond", Weights, one(Tensor { offset: 1, ..PLAIN }), "does not fit"),
        case("torch-offset-2-62", Weights, one(Tensor { offset: 1 << 62, ..PLAIN }), "does not fit"),
        case("torch-offset-negative", Weights, one(Tensor { offset: -1, ..PLAIN }), "negative"),
        case("torch-strides-beyond", Weights, one(Tensor { strides: &[4, 1], ..PLAIN }), "does not fit"),
        case(
            "torch-strides-negative",
            Weights,
            one(Tensor { offset: 5, strides: &[-3, -1], ..PLAIN }),
            "negative",
        ),
        case(
            "torch-strides-2-62",
            Weights,
            one(Tensor { strides: &[1 << 62, 1 << 62], ..PLAIN }),
            "does not fit",
        ),
        case("torch-strides-missing", Weights, one(Tensor { strides: &[1], ..PLAIN }), "does not fit"),
        case("torch-sizes-negative", Weights, one(Tensor { shape: &[-2, -3], ..PLAIN }), "negative"),
        case(
            "torch-sizes-2-63",
            Weights,
            one(Tensor { shape: &[i64::MAX], strides: &[1], ..PLAIN }),
            "warrants",
        ),
        case(
            "torch-sizes-overflow",
            Weights,
            one(Tensor { shape: &[1 << 33, 1 << 33], ..PLAIN }),
            "overflows",
        ),
        case("torch-sizes-large", Weights, one(Tensor { shape: &[1 << 20, 1 << 20], ..PLAIN }), "warrants"),
        case(
            "torch-nine-dimensions",
            Weights,
            one(Tensor { shape: &[1; 9], strides: &[1; 9], ..PLAIN }),
            "more than 8",
        ),
        case(
            "torch-repeated-without-end",
            Weights,
            one(Tensor { shape: &[1 << 28], strides: &[0], ..PLAIN }),
            "warrants",
        ),
        case(
            "torch-many-views-of-one-storage",
            Weights,
            torch_zip(&dict(&copies), &[("0", big)]),
            "warrants",
        ),
        case("torch-many-empty-tensors", Weights, torch_zip(&many, &[("0", counting(6))]), "warrants"),
        case("torch-count-is-not-the-bytes", Weights, one(Tensor { count: 7, ..PLAIN }), "24 bytes, not 7"),
        case("torch-count-2-62", Weights, one(Tensor { count: 1 << 62, ..PLAIN }), "24 bytes"),
        case("torch-count-negative", Weights, one(Tensor { count: -6, ..PLAIN }), "not a tensor's storage"),
        case("torch-wrong-type", Weights, storage_of("torch\nDoubleStorage"), "24 bytes, not 6"),
        case("torch-complex", Weights, storage_of("torch\nComplexFloatStorage"), "ComplexFloatStorage"),
        case("torch-quantized", Weights, storage_of("torch\nQInt8Storage"), "QInt8Storage"),
        case("torch-untyped", Weights, storage_of("torch.storage\nUntypedStorage"), "UntypedStorage"),
        case("torch-storage-missing", Weights, one(Tensor { key: "1", ..PLAIN }), "is missing"),
        case(
            "torch-storage-path",
            Weights,
            one(Tensor { key: "../../../etc/passwd", ..PLAIN }),
            "is missing",
        ),
        case(
            "torch-storage-is-the-pickle",
            Weights,
            one(Tensor { key: "../data.pkl", ..PLAIN }),
            "is missing",
        ),
        case(
            "torch-storage-key-long",
            Weights,
            one(Tensor { key: &"k".repeat(1 << 20), ..PLAIN }),
            "storage",
        ),
        case(
            "torch-storage-is-a-module",
            Weights,
            torch_zip(
                &dict(&[(
                    "t",
                    cat(&[
                        b"ctorch._utils\n_rebuild_tensor_v2\n(",
                        &module,
                        &int(0),
                        &tuple(&[6]),
                        &tuple(&[1]),
                        b"\x89}tR",
                    ]),
                )]),
                &[("0", counting(6))],
            ),
            "not a tensor's storage",
        ),
        case(
            "torch-two-pickles",
            Weights,
            zip(&[Entry::new("a/data.pkl", &program(b"}")), Entry::new("b/data.pkl", &program(b"}"))]),
            "exactly one",
        ),
        case(
            "torch-byteorder-middle",
            Weights,
            zip(&[Entry::new("data.pkl", &program(b"}")), Entry::new("byteorder", b"middle")]),
            "byteorder",
        ),
        case("torch-no-tensors", Weights, torch_zip(b"}", &[]), "no tensors"),
        case("torch-a-number", Weights, torch_zip(&int(3), &[]), "no tensors"),
        case(
            "torch-a-list-of-tensors",
            Weights,
            torch_zip(&cat(&[b"]", &plain, b"a"]), &[("0", counting(6))]),
            "no tensors",
        ),
        case(
            "torch-a-name-that-is-a-number",
            Weights,
            torch_zip(&number_as_name, &[("0", counting(6))]),
            "not a text",
        ),
        case("torch-a-name-of-a-megabyte", Weights, named(&"n".repeat(1 << 20)), "a name of 1048576 bytes"),
        case("torch-a-name-twice", Weights, torch_zip(&twice, &[("0", counting(6))]), "twice"),
        case(
            "torch-names-come-to-be-one",
            Weights,
            torch_zip(&dict(&[("a.num_batches_tracked", plain.clone())]), &[("0", counting(6))]),
            "no tensors",
        ),
        case("torch-nan", Weights, with(f32::NAN), "`net.weight` [2, 3] holds NaN at element 2"),
        case("torch-infinity", Weights, with(f32::NEG_INFINITY), "holds -inf"),
        case(
            "torch-sparse",
            Weights,
            torch_zip(&dict(&[("t", sparse.to_vec())]), &[]),
            "_rebuild_sparse_tensor",
        ),
        case(
            "torch-parameter-of-nothing",
            Weights,
            torch_zip(&dict(&[("t", b"ctorch._utils\n_rebuild_parameter\n)R".to_vec())]), &[]),
            "parameter",
        ),
        case(
            "torch-parameter-of-a-number",
            Weights,
            torch_zip(&dict(&[("t", parameter(b"K\x01"))]), &[]),
            "parameter",
        ),
        case(
            "torch-parameter-of-a-parameter",
            Weights,
            torch_zip(&dict(&[("t", parameter(&parameter(&plain)))]), &[("0", counting(6))]),
            "parameter",
        ),
        case(
            "torch-tensor-without-arguments",
            Weights,
            torch_zip(&dict(&[("t", b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec())]), &[]),
            "expected",
        ),
        case(
            "torch-tensor-of-a-number",
            Weights,
            torch_zip(
                &dict(&[("t", cat(&[b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01", &int(0), b")))tR"]))]),
                &[],
            ),
            "storage",
        ),
        case(
            "torch-old-magic",
            Weights,
            cat(&[&MAGIC[..10], b"\x00\x00", &MAGIC[12..], &sound[MAGIC.len()..]]),
            "plain pickle",
        ),
        case("torch-old-protocol", Weights, old_with(1002, b"}"), "1001"),
        case("torch-old-facts-missing", Weights, old_with(1001, b"N"), "facts"),
        case("torch-old-storages-missing", Weights, old(PLAIN, &[]), "is missing"),
        case(
            "torch-old-storages-are-no-list",
            Weights,
            cat(&[MAGIC, &program(&int(1001)), &program(b"}"), &program(b"}"), &program(b"}")]),
            "list of storages",
        ),
        case("torch-old-count-2-64", Weights, old(PLAIN, &[("0", u64::MAX, counting(6))]), "cut off"),
        case("torch-old-count-2-62", Weights, old(PLAIN, &[("0", 1 << 62, counting(6))]), "cut off"),
        case(
            "torch-old-count-small",
            Weights,
            old(PLAIN, &[("0", 5, counting(6))]),
            "after the last storage",
        ),
        case(
            "torch-old-storage-twice",
            Weights,
            old(PLAIN, &[("0", 6, counting(6)), ("0", 6, counting(6))]),
            "twice",
        ),
        case(
            "torch-old-storage-of-nobody",
            Weights,
            old(PLAIN, &[("0", 6, counting(6)), ("9", 6, counting(6))]),
            "no tensor uses",
        ),
        case("torch-old-two-types", Weights, torch_old(&two_types, &six()), "two element types"),
        case("torch-old-view-beyond", Weights, torch_old(&dict(&[("t", beyond)]), &six()), "smaller than"),
        case("torch-old-bytes-after", Weights, cat(&[&sound, b"x"]), "after the last storage"),
        case(
            "torch-old-os-system",
            Weights,
            torch_old(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R", &[]),
            "os.system",
        ),
        case("torch-in-maps-without-storage", Maps, npy_dict(&[(int(1), plain.clone())]), "not in the file"),
        case(
            "torch-in-maps-of-os-system",
            Maps,
            npy_dict(&[(int(1), {
                let inner = torch_old(b"cos\nsystem\n)R", &[]);
                let storage = cat(&[
                    b"ctorch.storage\n_load_from_bytes\nB",
                    &(inner.len() as u32).to_le_bytes(),
                    &inner,
                    b"\x85R",
                ]);
                cat(&[
                    b"ctorch._utils\n_rebuild_tensor_v2\n(",
                    &storage,
                    &int(0),
                    &tuple(&[2, 3]),
                    &tuple(&[3, 1]),
                    b"\x89}tR",
                ])
            })]),
            "os.system",
        ),
    ]
}
