//! NumPy's `.npy`: plain arrays, and the pickled dictionaries in which the field keeps class maps and tags.
//!
//! A file is the magic `\x93NUMPY`, a version, a header length, a Python literal `{'descr': …,
//! 'fortran_order': …, 'shape': …}` and the elements (NumPy enhancement proposal 1). An object array holds a
//! pickle instead, which the `pickle` module beside this one reads without running it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::atomic::write_atomically;
use super::elements::{Budget, Cursor, MAX_DIMENSIONS, StoredTensor, element_type, shown};
use super::pickle::{ArrayView, Global, Node, Pickle, Ref};
use super::read_file;
use super::strided::Strided;
use super::zip::Entry;
use crate::tensor::Tensor;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER: usize = 16 << 20;

/// The single object of a 0-d object array, of which NumPy pickles the array, not the object:
/// `_reconstruct(…)` with the state (version, (), dtype, order, [object]).
pub(crate) fn only_object(pickle: &Pickle<'_>) -> Ref {
    let only = || {
        let Node::Call(Global::Reconstruct, _, Some(state)) = *pickle.node(pickle.root) else { return None };
        let [_version, shape, _dtype, _fortran, data] = *pickle.tuple(state)? else { return None };
        match pickle.node(data) {
            Node::List(items) if pickle.tuple(shape)?.is_empty() => items.first().copied(),
            _ => None,
        }
    };
    only().unwrap_or(pickle.root)
}

/// What stands before the object in such a pickle, protocol 3 (the first with bytes), and after it. Objects
/// 0 to 2 of its memo are `_reconstruct`, `ndarray` and `dtype`.
pub(crate) const OBJECT_START: &[u8] =
    b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01\
K\x00\x85C\x01b\x87R(K\x01)cnumpy\ndtype\nq\x02X\x02\x00\x00\x00O8\x89\x88\x87R\
(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb\x89]";
pub(crate) const OBJECT_END: &[u8] = b"atb.";

/// Whether bytes begin as a `.npy` file does.
pub(crate) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What follows the header.
pub(crate) enum Contents<'a> {
    /// A plain array.
    Array(ArrayView<'a>),
    /// A pickle: the bytes from its start.
    Object(&'a [u8]),
}

/// Reads the header of a `.npy` and says what follows it.
pub(crate) fn open<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Contents<'a>> {
    let mut cursor = Cursor::new(path, bytes);
    if cursor.take(MAGIC.len())? != MAGIC {
        return Err(Error::malformed(path, "this is not a .npy file"));
    }
    let [major, minor] = cursor.array()?;
    let length = match (major, minor) {
        (1, 0) => usize::from(cursor.u16()?),
        (2 | 3, 0) => cursor.u32()? as usize,
        _ => return Err(cursor.fail(format!("version {major}.{minor} of the .npy format is not known"))),
    };
    if length > MAX_HEADER {
        return Err(cursor.fail(format!("a header of {length} bytes; at most {MAX_HEADER} are allowed")));
    }
    let start = cursor.at;
    let header = std::str::from_utf8(cursor.take(length)?)
        .map_err(|_| Error::malformed(path, "the .npy header is not text"))?;
    let header = Header::parse(header)
        .map_err(|(at, message)| Error::malformed(path, message).at_offset((start + at) as u64))?;
    let rest = &bytes[cursor.at..];
    if matches!(header.descr.as_str(), "|O" | "O") {
        if !header.shape.is_empty() {
            return Err(Error::malformed(
                path,
                "an array of Python objects; a single dictionary was expected",
            ));
        }
        return Ok(Contents::Object(rest));
    }
    let (dtype, order) = element_type(&header.descr).ok_or_else(|| {
        let message = format!("elements of type {} are not supported", shown(&header.descr));
        Error::malformed(path, message).remedy("save the array as float32")
    })?;
    let size = header.shape.iter().try_fold(dtype.size(), |n, &s| n.checked_mul(s));
    if size != Some(rest.len()) {
        let message = format!("{:?} of {} does not fit the {} bytes", header.shape, dtype.name(), rest.len());
        return Err(Error::malformed(path, message).remedy("the file is cut off or damaged: make it anew"));
    }
    Ok(Contents::Array(ArrayView {
        dtype,
        order,
        shape: header.shape,
        fortran: header.fortran,
        data: rest.into(),
    }))
}

/// An array as a tensor, last index fastest.
pub(crate) fn tensor_of(
    path: &Path,
    name: &str,
    array: &ArrayView<'_>,
    budget: &mut Budget,
) -> Result<Tensor> {
    if let Cow::Owned(data) = &array.data {
        // Bytes that protocol 2 wrote as a text: held beside the text until the array is made.
        budget.charge(path, name, data.len())?;
    }
    let tensor = if !array.fortran || array.shape.len() < 2 {
        budget.tensor(path, name, array.dtype, &array.shape, &array.data, array.order)
    } else {
        let size = array.shape.iter().try_fold(array.dtype.size(), |n, &s| n.checked_mul(s));
        if size != Some(array.data.len()) {
            let message =
                format!("{} {:?} does not fit its {} bytes", shown(name), array.shape, array.data.len());
            return Err(Error::malformed(path, message));
        }
        Strided::columns(&array.shape).gather(path, name, array.dtype, &array.data, array.order, budget)
    };
    if let Cow::Owned(data) = &array.data {
        budget.release(data.len());
    }
    tensor
}

/// Reads a plain array; every number becomes f32.
///
/// # Errors
/// A file that is no `.npy`, whose size does not fit its header, or that holds Python objects.
pub fn read_array(path: &Path) -> Result<Tensor> {
    let bytes = read_file(path)?;
    let read = decode_array(path, "array", &bytes, &mut Budget::new(bytes.len()));
    Ok(read.map_err(|e| e.or_remedy(super::DAMAGED))?.tensor)
}

/// Reads a plain array from memory.
pub(crate) fn decode_array(
    path: &Path,
    name: &str,
    bytes: &[u8],
    budget: &mut Budget,
) -> Result<StoredTensor> {
    match open(path, bytes)? {
        Contents::Array(array) => {
            let tensor = tensor_of(path, name, &array, budget)?;
            Ok(StoredTensor { name: name.to_string(), dtype: array.dtype, tensor })
        }
        Contents::Object(_) => {
            let message = format!("{} holds Python objects; an array was expected", shown(name));
            Err(Error::malformed(path, message)
                .remedy("save plain arrays (numpy.save of an array of numbers)"))
        }
    }
}

/// The arrays of an `.npz`: an archive of `.npy` files, whose names without the ending are the arrays'.
pub(crate) fn decode_archive(
    path: &Path,
    entries: &[Entry<'_>],
    budget: &mut Budget,
) -> Result<Vec<StoredTensor>> {
    let array = |entry: &Entry<'_>| {
        let name = entry.name.strip_suffix(".npy").ok_or_else(|| {
            Error::malformed(path, format!("{} in the archive is no .npy file", shown(entry.name)))
                .remedy("weights are read from archives that numpy.savez or torch.save wrote")
        })?;
        decode_array(path, name, entry.data, budget)
    };
    entries.iter().map(array).collect()
}

/// Writes a plain array of f32, version 1.0; complete or absent.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_array(path: &Path, tensor: &Tensor) -> Result<()> {
    let shape: String = tensor.shape().iter().map(|s| format!("{s}, ")).collect();
    let header = header_bytes(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"));
    write_atomically(path, |w| {
        w.write_all(&header)?;
        w.write_all(&little_endian(tensor.data()))
    })
}

/// Magic, version 1.0, length and a literal, padded so that the data begins at a multiple of 64 bytes.
pub(crate) fn header_bytes(literal: &str) -> Vec<u8> {
    let unpadded = MAGIC.len() + 4 + literal.len() + 1;
    let padding = unpadded.next_multiple_of(64) - unpadded;
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(((literal.len() + padding + 1) as u16).to_le_bytes());
    bytes.extend(literal.as_bytes());
    bytes.extend(std::iter::repeat_n(b' ', padding));
    bytes.push(b'\n');
    bytes
}

pub(crate) fn little_endian(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Reads a pickled dictionary {image id: C values}, the form in which the field keeps image-level labels
/// (`cls_labels.npy`): ids in the file's order with their values, 1 where the image shows the class. Ids
/// that are numbers, as in 2007000032, become VOC's `2007_000032`.
///
/// # Errors
/// A file that holds anything else, ids that occur twice.
pub fn read_class_labels(path: &Path) -> Result<Vec<(String, Vec<f32>)>> {
    decode_class_labels(path, &read_file(path)?)
}

/// As [`read_class_labels`], from memory; `path` is for the errors.
pub(crate) fn decode_class_labels(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Vec<f32>)>> {
    class_labels(path, bytes).map_err(|e| e.or_remedy(super::DAMAGED))
}

fn class_labels(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Vec<f32>)>> {
    let Contents::Object(object) = open(path, bytes)? else {
        return Err(Error::malformed(path, "a plain array; a dictionary {image id: labels} was expected"));
    };
    let mut budget = Budget::new(bytes.len());
    let pickle = Pickle::parse(path, object, 0, &mut budget)?;
    let entries = pickle
        .dict(only_object(&pickle))
        .ok_or_else(|| Error::malformed(path, "the pickled object is not a dictionary {image id: labels}"))?;
    let mut seen = HashSet::new();
    budget.charge(path, "the list of ids", entries.len().saturating_mul(size_of::<(String, Vec<f32>)>()))?;
    let mut labels = super::reserve(path, entries.len())?;
    for &(key, value) in entries {
        let id = match (pickle.text(key), pickle.int(key)) {
            (Some(text), _) => text.to_string(),
            (None, Some(number)) if (1_000_000_000..10_000_000_000).contains(&number) => {
                format!("{}_{:06}", number / 1_000_000, number % 1_000_000)
            }
            (None, Some(number)) => number.to_string(),
            (None, None) => return Err(Error::malformed(path, "an image id is neither a text nor a number")),
        };
        let array = pickle.array(value).ok_or_else(|| {
            Error::malformed(path, format!("the labels of {} are not an array", shown(&id)))
        })?;
        let tensor = tensor_of(path, &id, &array, &mut budget)?;
        // A row vector is a list too.
        if tensor.shape().iter().filter(|&&side| side != 1).count() > 1 {
            let message = format!("the labels of {} are {:?}, not a list", shown(&id), tensor.shape());
            return Err(Error::malformed(path, message));
        }
        if !seen.insert(id.clone()) {
            return Err(Error::malformed(path, format!("the image id {} occurs twice", shown(&id))));
        }
        labels.push((id, tensor.into_data()));
    }
    Ok(labels)
}

/// The fields of a `.npy` header.
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

type Fault = (usize, String);

impl Header {
    /// Parses the literal: a dictionary with exactly the three keys, in any order.
    fn parse(text: &str) -> std::result::Result<Self, Fault> {
        let mut p = Literal { text, at: 0 };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        p.expect('{')?;
        while !p.accept('}') {
            let key = p.string()?;
            p.expect(':')?;
            let repeated = match key {
                "descr" => descr.replace(p.string()?.to_string()).is_some(),
                "fortran_order" => fortran.replace(p.boolean()?).is_some(),
                "shape" => shape.replace(p.shape()?).is_some(),
                _ => return Err(p.fault(&format!("unknown key {}", shown(key)))),
            };
            if repeated {
                return Err(p.fault(&format!("`{key}` occurs twice")));
            }
            if !p.accept(',') {
                p.expect('}')?;
                break;
            }
        }
        p.skip();
        if p.at < text.len() {
            return Err(p.fault("text after the header"));
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) => Ok(Self { descr, fortran, shape }),
            _ => Err(p.fault("`descr`, `fortran_order` or `shape` is missing")),
        }
    }
}

/// A reader of the few Python literals that headers are made of.
struct Literal<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Literal<'a> {
    fn fault(&self, message: &str) -> Fault {
        (self.at, format!("the .npy header: {message}"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_ascii_start().len();
    }

    fn accept(&mut self, c: char) -> bool {
        self.skip();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, c: char) -> std::result::Result<(), Fault> {
        if self.accept(c) { Ok(()) } else { Err(self.fault(&format!("`{c}` is missing"))) }
    }

    fn string(&mut self) -> std::result::Result<&'a str, Fault> {
        self.skip();
        let quote = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"'));
        let body = quote.and_then(|q| self.rest()[1..].split_once(q));
        let (body, _) = body.ok_or_else(|| {
            let structured = self.rest().starts_with('[');
            self.fault(if structured {
                "its elements are structures; plain numbers were expected"
            } else {
                "a text in quotes was expected"
            })
        })?;
        self.at += body.len() + 2;
        Ok(body)
    }

    fn boolean(&mut self) -> std::result::Result<bool, Fault> {
        self.skip();
        for (word, value) in [("True", true), ("False", false)] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fault("True or False was expected"))
    }

    fn shape(&mut self) -> std::result::Result<Vec<usize>, Fault> {
        self.expect('(')?;
        let mut sizes = Vec::new();
        while !self.accept(')') {
            self.skip();
            let digits =
                self.rest().len() - self.rest().trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let size = self.rest()[..digits].parse().map_err(|_| self.fault("a size was expected"))?;
            self.at += digits;
            // Python 2 wrote long integers with an L.
            self.accept('L');
            sizes.push(size);
            if sizes.len() > MAX_DIMENSIONS {
                return Err(self.fault(&format!("more than {MAX_DIMENSIONS} dimensions")));
            }
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: &str = "a.npy";

    fn read(bytes: &[u8]) -> Result<Tensor> {
        Ok(decode_array(Path::new(P), "array", bytes, &mut Budget::new(bytes.len()))?.tensor)
    }

    fn file(literal: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = header_bytes(literal);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_survive_the_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        for shape in [vec![], vec![5], vec![2, 3], vec![1, 2, 3, 4], vec![0, 7]] {
            let count: usize = shape.iter().product();
            let tensor = Tensor::new(&shape, (0..count).map(|i| i as f32 / 3.0).collect()).unwrap();
            write_array(&path, &tensor).unwrap();
            let read = read_array(&path).unwrap();
            assert_eq!((read.shape(), read.data()), (tensor.shape(), tensor.data()));
            assert_eq!((std::fs::metadata(&path).unwrap().len() - 4 * count as u64) % 64, 0);
        }
    }

    #[test]
    fn orders_and_types_are_understood() {
        let big: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_be_bytes()).collect();
        let t = read(&file("{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }", &big)).unwrap();
        assert_eq!(t.data(), [1.5, -2.0]);
        // First index fastest: columns of a 2×3×2 array.
        let bytes: Vec<u8> = (0..12).collect();
        let t = read(&file("{'shape': (2, 3L, 2), 'fortran_order': True, 'descr': '|u1'}", &bytes)).unwrap();
        for (i, &v) in t.data().iter().enumerate() {
            let (a, b, c) = (i / 6, i / 2 % 3, i % 2);
            assert_eq!(v as usize, a + 2 * b + 6 * c);
        }
    }

    #[test]
    fn unsound_files_are_refused() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        read(&file(good, &[0; 4])).unwrap();
        for (literal, bytes) in [
            (good, 3),
            (good, 5),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615,2), }", 4),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999), }", 4),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 4),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", 8),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", 4),
            ("{'descr': '<f4', 'shape': (1,), }", 4),
            ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4),
            ("__import__('os')", 4),
            ("{'descr': 'é", 4),
        ] {
            assert!(read(&file(literal, &vec![0; bytes])).is_err(), "{literal}");
        }
    }

    /// A dictionary {key: float32 C} as NumPy pickles it under protocol 3.
    fn labels_file(keys: &[&[u8]], values: &[[f32; 3]]) -> Vec<u8> {
        let mut b = header_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (), }");
        b.extend(OBJECT_START);
        b.extend(b"}(");
        for (i, (key, values)) in keys.iter().zip(values).enumerate() {
            b.extend(*key);
            if i == 0 {
                b.extend(b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04");
            } else {
                b.extend(b"h\x03h\x04");
            }
            b.extend(b"K\x00\x85C\x01b\x87R(K\x01K\x03\x85");
            if i == 0 {
                b.extend(b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x05");
            } else {
                b.extend(b"h\x05");
            }
            b.extend(b"\x89C\x0c");
            b.extend(little_endian(values));
            b.extend(b"tb");
        }
        b.extend(b"u");
        b.extend(OBJECT_END);
        b
    }

    #[test]
    fn tags_are_read_under_names_and_numbers() {
        let keys: [&[u8]; 3] = [b"X\x0b\x00\x00\x002007_000032", b"\x8a\x05\xe1\xdc\xd3\x77\x00", b"K\x07"];
        let values = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0; 3]];
        let read = decode_class_labels(Path::new(P), &labels_file(&keys, &values)).unwrap();
        assert_eq!(read[0], ("2007_000032".to_string(), vec![1.0, 0.0, 0.0]));
        assert_eq!(read[1], ("2010_373345".to_string(), vec![0.0, 1.0, 1.0]));
        assert_eq!(read[2].0, "7");
        let twice = labels_file(&[b"K\x07", b"K\x07"], &values[..2]);
        assert!(decode_class_labels(Path::new(P), &twice).unwrap_err().message().contains("twice"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn damaged_files_are_values_or_errors(
            plain: bool,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut: prop::sample::Index,
        ) {
            let mut bytes = if plain {
                file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", &[7; 24])
            } else {
                labels_file(&[b"K\x07", b"K\x08"], &[[1.0; 3]; 2])
            };
            let path = Path::new(P);
            let whole = bytes.len();
            prop_assert!(read(&bytes[..cut.index(whole)]).is_err());
            prop_assert!(decode_class_labels(path, &bytes[..cut.index(whole)]).is_err());
            for (at, value) in changes {
                bytes[at.index(whole)] = value;
            }
            let _ = read(&bytes);
            let _ = decode_class_labels(path, &bytes);
        }
    }
}
