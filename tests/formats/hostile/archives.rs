//! ZIP: what the two headers, the directory and the end record can lie about.

use super::Reader::Weights;
use super::{Case, case};
use crate::writers::*;

fn array() -> Vec<u8> {
    npy_floats(&[2, 3], &[1.0; 6])
}

/// An `.npz` of one array with a lie in its headers.
fn lying(lie: impl FnOnce(&mut Entry)) -> Vec<u8> {
    zip(&[Entry::lying("a.npy", &array(), lie), Entry::new("b.npy", &array())])
}

fn named(name: &[u8]) -> Vec<u8> {
    lying(|e| (e.name, e.local_name) = (name.to_vec(), name.to_vec()))
}

/// A sound body with another end.
fn ending(end: impl FnOnce(usize, usize) -> Vec<u8>) -> Vec<u8> {
    let (mut body, start) = zip_body(&[Entry::new("a.npy", &array())]);
    let end = end(start, body.len());
    body.extend(end);
    body
}

/// The end records of the 64-bit form: entries, size and offset of the directory, and where the locator says
/// that the record is.
fn end_64(count: u64, size: u64, offset: u64, record: u64) -> Vec<u8> {
    let mut b = cat(&[b"PK\x06\x06", &44u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &count.to_le_bytes()]);
    [count, size, offset].iter().for_each(|v| b.extend(v.to_le_bytes()));
    b.extend(cat(&[b"PK\x06\x07\0\0\0\0", &record.to_le_bytes(), &[1, 0, 0, 0]]));
    b.extend(zip_end(u16::MAX, u32::MAX, u32::MAX));
    b
}

/// Many entries in the directory, all of the same data.
fn overlapping(entries: usize, size: usize) -> Vec<u8> {
    let first = Entry::new("0", &vec![0; size]);
    let (mut b, start) = zip_body(std::slice::from_ref(&first));
    b.truncate(start);
    let mut directory = Vec::new();
    for i in 0..entries {
        let name = format!("{i:05}");
        let data = cat(&[b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &first.crc.to_le_bytes()]);
        // A local header of its own right before the end of the data of the one before it.
        let at = b.len() as u32;
        let (rest, length) = (size as u32 / 2, name.len() as u16);
        b.extend(cat(&[&data, &rest.to_le_bytes(), &rest.to_le_bytes(), &length.to_le_bytes(), &[0, 0]]));
        b.extend(name.as_bytes());
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
        [first.crc, rest, rest].iter().for_each(|v| directory.extend(v.to_le_bytes()));
        directory.extend(length.to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    b.extend(vec![0; size]);
    let start = b.len();
    b.extend(&directory);
    b.extend(zip_end(entries as u16, directory.len() as u32, start as u32));
    b
}

pub fn cases() -> Vec<Case> {
    let sound = zip(&[Entry::new("a.npy", &array())]);
    let crowd: Vec<Entry> = (0..60_000).map(|i| Entry::new(&format!("{i}"), b"")).collect();
    let mut damaged = sound.clone();
    let at = damaged.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    damaged[at] = b'Q';
    vec![
        case("zip-without-end-record", Weights, sound[..sound.len() - 22].to_vec(), "cut off"),
        case("zip-without-directory", Weights, sound[..40].to_vec(), "cut off"),
        case("zip-end-record-cut", Weights, sound[..sound.len() - 1].to_vec(), "cut off"),
        case("zip-bytes-after-the-end", Weights, cat(&[&sound, b"x"]), "cut off"),
        case("zip-empty", Weights, zip(&[]), "no weight file"),
        case("zip-directory-beyond", Weights, ending(|_, e| zip_end(1, 51, e as u32)), "where it should be"),
        case(
            "zip-directory-at-2-32",
            Weights,
            ending(|_, _| zip_end(1, 51, u32::MAX - 1)),
            "where it should be",
        ),
        case(
            "zip-directory-size-wrong",
            Weights,
            ending(|s, e| zip_end(1, (e - s) as u32 - 1, s as u32)),
            "where",
        ),
        case("zip-count-too-large", Weights, ending(|s, e| zip_end(9, (e - s) as u32, s as u32)), "cut off"),
        case(
            "zip-count-too-small",
            Weights,
            ending(|s, e| zip_end(0, (e - s) as u32, s as u32)),
            "longer than",
        ),
        case(
            "zip64-count-2-64",
            Weights,
            ending(|s, e| end_64(u64::MAX, (e - s) as u64, s as u64, e as u64)),
            "cut off",
        ),
        case("zip64-size-2-64", Weights, ending(|s, e| end_64(1, u64::MAX, s as u64, e as u64)), "where"),
        case(
            "zip64-offset-2-63",
            Weights,
            ending(|s, e| end_64(1, (e - s) as u64, 1 << 63, e as u64)),
            "where",
        ),
        case("zip64-record-at-2-63", Weights, ending(|s, _| end_64(1, 51, s as u64, 1 << 63)), ""),
        case(
            "zip64-locator-names-itself",
            Weights,
            ending(|s, e| end_64(1, 51, s as u64, e as u64 + 56)),
            "64-bit",
        ),
        case("zip64-record-is-no-record", Weights, ending(|s, _| end_64(1, 51, s as u64, 4)), "64-bit"),
        case("zip64-size-missing", Weights, lying(|e| e.size = u32::MAX), "64-bit size is missing"),
        case(
            "zip64-entry-of-2-64",
            Weights,
            lying(|e| {
                (e.size, e.packed) = (u32::MAX, u32::MAX);
                e.extra = cat(&[&[1, 0, 16, 0], &[0xff; 16]]);
            }),
            "",
        ),
        case(
            "zip-extra-field-too-long",
            Weights,
            lying(|e| {
                (e.size, e.packed, e.extra) = (u32::MAX, u32::MAX, cat(&[&[1, 0, 255, 255], &[0; 8]]));
            }),
            "64-bit size is missing",
        ),
        case("zip-entry-beyond-the-file", Weights, lying(|e| e.offset = Some(u32::MAX - 1)), "cut off"),
        case("zip-entry-in-the-data", Weights, lying(|e| e.offset = Some(40)), "where it should be"),
        case("zip-directory-damaged", Weights, damaged, "damaged"),
        case("zip-crc-of-data", Weights, lying(|e| e.data[70] ^= 1), "checksum"),
        case("zip-crc-of-headers", Weights, lying(|e| e.local_crc ^= 1), "headers differ"),
        case("zip-sizes-of-headers", Weights, lying(|e| e.local_size += 1), "headers differ"),
        case("zip-names-of-headers", Weights, lying(|e| e.local_name = b"c.npy".to_vec()), "headers differ"),
        case(
            "zip-size-reaches-into-the-next",
            Weights,
            lying(|e| {
                let size = e.size + 50;
                (e.size, e.packed, e.local_size) = (size, size, size);
            }),
            "overlap",
        ),
        case(
            "zip-size-beyond",
            Weights,
            lying(|e| {
                (e.size, e.packed, e.local_size) = (1 << 30, 1 << 30, 1 << 30);
            }),
            "cut off",
        ),
        case(
            "zip-name-twice",
            Weights,
            zip(&[Entry::new("a.npy", &array()), Entry::new("a.npy", &array())]),
            "twice",
        ),
        case(
            "zip-one-entry-under-two-names",
            Weights,
            {
                let second = Entry::lying("a.npy", b"", |e| {
                    let first = Entry::new("a.npy", &array());
                    (e.offset, e.crc, e.size, e.packed) = (Some(0), first.crc, first.size, first.size);
                    e.name = b"b.npy".to_vec();
                });
                zip(&[Entry::new("a.npy", &array()), second])
            },
            "headers differ",
        ),
        case("zip-overlap-bomb", Weights, overlapping(40_000, 4 << 20), "overlap"),
        case("zip-deflate-bomb", Weights, lying(|e| (e.method, e.size) = (8, u32::MAX - 1)), "compressed"),
        case("zip-stored-of-another-size", Weights, lying(|e| e.packed -= 1), "compressed"),
        case("zip-unknown-method", Weights, lying(|e| e.method = 99), "compressed"),
        case("zip-encrypted", Weights, lying(|e| e.flags = 1), "encrypted"),
        case(
            "zip-several-volumes",
            Weights,
            ending(|s, e| {
                let mut end = zip_end(1, (e - s) as u32, s as u32);
                end[4] = 1;
                end
            }),
            "volumes",
        ),
        case("zip-path-up", Weights, named(b"../../etc/cron.d/x.npy"), "leads out"),
        case("zip-path-up-within", Weights, named(b"a/../../x.npy"), "leads out"),
        case("zip-path-absolute", Weights, named(b"/etc/x.npy"), "leads out"),
        case("zip-path-backslash", Weights, named(b"..\\..\\x.npy"), "backslash"),
        case("zip-name-nul", Weights, named(b"a.npy\0.txt"), "NUL"),
        case("zip-name-escapes", Weights, named(b"\x1b[2Ja.npy"), "control"),
        case("zip-name-empty", Weights, named(b""), "empty"),
        case("zip-name-not-utf8", Weights, named(b"\xff\xfe.npy"), "UTF-8"),
        case("zip-name-65535", Weights, named(&[b'a'; 65535]), "no .npy file"),
        case("zip-crowd", Weights, zip(&crowd), "no .npy file"),
        case("zip-in-zip", Weights, zip(&[Entry::new("a.npy", &sound)]), "not a .npy"),
    ]
}
