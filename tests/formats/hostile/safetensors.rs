//! safetensors, and checkpoints, which are safetensors.

use super::Reader::{Checkpoint, Maps, Weights};
use super::{Case, case};
use crate::writers::*;

/// A header's length, and what follows.
fn length(length: u64, rest: &[u8]) -> Vec<u8> {
    cat(&[&length.to_le_bytes(), rest])
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

/// One tensor of 24 bytes.
fn one(dtype: &str, shape: &str, offsets: &str) -> Vec<u8> {
    safetensors(&format!("{{{}}}", tensor("a", dtype, shape, offsets)), &[0; 24])
}

/// Two tensors of 12 bytes each.
fn two(first: &str, second: &str) -> Vec<u8> {
    let entries = [tensor("a", "F32", "[3]", first), tensor("b", "F32", "[3]", second)];
    safetensors(&format!("{{{}}}", entries.join(",")), &[0; 24])
}

fn header(header: &str) -> Vec<u8> {
    safetensors(header, &[])
}

/// Very many entries in one header.
fn crowd(count: usize, entry: impl Fn(usize) -> String) -> String {
    (0..count).map(entry).collect::<Vec<_>>().join(",")
}

pub fn cases() -> Vec<Case> {
    let a = tensor("a", "F32", "[6]", "[0,24]");
    let sound = safetensors(&format!("{{{a}}}"), &[0; 24]);
    let texts = crowd(1 << 20, |i| format!(r#""{i}":"""#));
    let zeros = format!("[{}0]", "0,".repeat(7 << 20));
    let empties = crowd(250_000, |i| tensor(&format!("{i}"), "F32", "[0]", "[0,0]"));
    let metadata = |text: &str| header(&format!(r#"{{"__metadata__":{text}}}"#));
    let checkpoint = |more: &str| {
        metadata(&format!(r#"{{"format":"seedwalk-checkpoint-1","hashes":"{{}}","hash":"0"{more}}}"#))
    };
    let nested = format!(r#"{{\"a\":{}"#, "[".repeat(200_000));
    vec![
        case("safetensors-length-2-64", Weights, length(u64::MAX, b"{}"), "at most 16777216"),
        case("safetensors-length-2-63", Weights, length(1 << 63, b"{}"), "at most 16777216"),
        case("safetensors-length-100-mib", Weights, length(100 << 20, b"{}"), "at most 16777216"),
        case("safetensors-length-beyond", Weights, length(1 << 20, b"{}"), "cut off"),
        case("safetensors-length-0", Weights, length(0, b"{}"), "EOF"),
        case("safetensors-length-cut", Weights, vec![2, 0, 0, 0], "no weight file"),
        case("safetensors-no-object", Maps, header("[]"), "a map of tensors"),
        case("safetensors-json-goes-on", Weights, header("{} {}"), "trailing"),
        case("safetensors-json-cut", Weights, header(r#"{"a":"#), "EOF"),
        case("safetensors-json-deep", Weights, header(&format!(r#"{{"a":{}"#, "[".repeat(100_000))), ""),
        case(
            "safetensors-json-deep-within",
            Weights,
            header(&format!(r#"{{"a":{{"x":{}"#, r#"{"a":"#.repeat(100_000))),
            "EOF",
        ),
        case("safetensors-json-not-utf8", Weights, length(6, b"{\"\xff\xfe\"}"), ""),
        case("safetensors-number-huge", Weights, one("F32", "[1e400]", "[0,24]"), ""),
        case("safetensors-size-a-float", Weights, one("F32", "[6.0]", "[0,24]"), "invalid type"),
        case("safetensors-size-negative", Weights, one("F32", "[-6]", "[0,24]"), "invalid value"),
        case("safetensors-size-a-text", Weights, one("F32", r#"["6"]"#, "[0,24]"), "invalid type"),
        case(
            "safetensors-size-2-64",
            Weights,
            one("F32", "[18446744073709551615]", "[0,24]"),
            "does not fit",
        ),
        case(
            "safetensors-sizes-overflow",
            Weights,
            one("F32", "[4294967296,4294967296,4]", "[0,24]"),
            "does not fit",
        ),
        case("safetensors-sizes-do-not-fit", Weights, one("F32", "[7]", "[0,24]"), "does not fit"),
        case(
            "safetensors-nine-dimensions",
            Weights,
            one("F32", "[1,1,1,1,1,1,1,1,6]", "[0,24]"),
            "more than 8",
        ),
        case("safetensors-seven-million-dimensions", Weights, one("F32", &zeros, "[0,24]"), "more than 8"),
        case("safetensors-type-unknown", Weights, one("F32X", "[6]", "[0,24]"), "`F32X`"),
        case("safetensors-type-8-bit-float", Weights, one("F8_E4M3", "[24]", "[0,24]"), "F8_E4M3"),
        case("safetensors-type-complex", Weights, one("C64", "[3]", "[0,24]"), "C64"),
        case("safetensors-wider-type", Weights, one("F64", "[6]", "[0,24]"), "does not fit"),
        case(
            "safetensors-field-missing",
            Weights,
            header(r#"{"a":{"dtype":"F32","shape":[0]}}"#),
            "data_offsets",
        ),
        case(
            "safetensors-field-twice",
            Weights,
            header(r#"{"a":{"dtype":"F32","dtype":"F64","shape":[0],"data_offsets":[0,0]}}"#),
            "duplicate",
        ),
        case("safetensors-name-twice", Weights, safetensors(&format!("{{{a},{a}}}"), &[0; 24]), "twice"),
        case(
            "safetensors-name-of-a-megabyte",
            Weights,
            safetensors(&format!("{{{}}}", tensor(&"n".repeat(1 << 20), "F32", "[6]", "[0,24]")), &[0; 24]),
            "a name of 1048576 bytes",
        ),
        case("safetensors-overlap", Weights, two("[0,12]", "[8,20]"), "overlap"),
        case("safetensors-same-data", Weights, two("[0,12]", "[0,12]"), "overlap"),
        case("safetensors-gap", Weights, two("[0,12]", "[16,28]"), "gaps"),
        case("safetensors-starts-late", Weights, one("F32", "[5]", "[4,24]"), "gaps"),
        case("safetensors-offsets-reversed", Weights, one("F32", "[6]", "[24,0]"), "overlap"),
        case(
            "safetensors-offsets-2-64",
            Weights,
            one("F32", "[6]", "[0,18446744073709551615]"),
            "does not fit",
        ),
        case("safetensors-offsets-three", Weights, one("F32", "[6]", "[0,24,48]"), ""),
        case(
            "safetensors-a-byte-short",
            Weights,
            sound[..sound.len() - 1].to_vec(),
            "its arrays take 24 bytes",
        ),
        case("safetensors-a-byte-long", Weights, cat(&[&sound, b"x"]), "its arrays take 24 bytes"),
        case("safetensors-nothing", Weights, header("{}"), "no tensors"),
        case("safetensors-metadata-a-number", Weights, metadata(r#"{"a":1}"#), "expected a string"),
        case("safetensors-metadata-twice", Weights, metadata(r#"{"a":"1","a":"2"}"#), "twice"),
        case("safetensors-metadata-a-million", Weights, metadata(&format!("{{{texts}}}")), "warrants"),
        case(
            "safetensors-metadata-is-a-tensor",
            Weights,
            safetensors(&format!("{{{}}}", tensor("__metadata__", "F32", "[6]", "[0,24]")), &[0; 24]),
            "expected a string",
        ),
        case("safetensors-a-crowd-of-nothing", Weights, header(&format!("{{{empties}}}")), "warrants"),
        case("safetensors-nan", Weights, safetensors(&format!("{{{a}}}"), &[0xff; 24]), "`a` [6] holds NaN"),
        case("maps-without-image-size", Maps, sound.clone(), "image_height"),
        case("checkpoint-that-is-none", Checkpoint, sound, "not a checkpoint"),
        case("checkpoint-hash-wrong", Checkpoint, checkpoint(""), "does not match its hash"),
        case(
            "checkpoint-hashes-no-json",
            Checkpoint,
            metadata(r#"{"format":"seedwalk-checkpoint-1","hashes":"{"}"#),
            "hashes",
        ),
        case(
            "checkpoint-hashes-deep",
            Checkpoint,
            metadata(&format!(r#"{{"format":"seedwalk-checkpoint-1","hashes":"{nested}"}}"#)),
            "",
        ),
        case(
            "checkpoint-configuration-of-2-mib",
            Checkpoint,
            checkpoint(&format!(r#","configuration":"[{}0]""#, "0,".repeat(1 << 20))),
            "longer than",
        ),
    ]
}
