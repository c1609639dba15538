//! safetensors: named arrays and text metadata.
//!
//! A file is the header's length (u64, little-endian), a JSON header `{name: {dtype, shape, data_offsets},
//! "__metadata__": {text: text}}`, then the arrays without gap or overlap. The header is read here and not by
//! the `safetensors` crate, since that lets repeated keys pass, reads shapes of any length, and takes many
//! times the header's size for it; the tests hold the two against each other.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::atomic::write_atomically;
use super::elements::{Budget, ByteOrder, Cursor, MAX_DIMENSIONS, shown};
pub use super::elements::{Dtype, StoredTensor};
use super::read_file;
use crate::tensor::{Tensor, element_count};
use crate::{Error, Result};

/// Longest header that is accepted.
const MAX_HEADER: usize = 16 << 20;

/// What a safetensors file holds.
#[derive(Debug, Clone)]
pub struct TensorFile {
    /// The arrays, in the order of their data.
    pub tensors: Vec<StoredTensor>,
    /// The text metadata.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// An array by its name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name).map(|t| &t.tensor)
    }

    /// Names and values.
    pub fn into_pairs(self) -> Vec<(String, Tensor)> {
        self.tensors.into_iter().map(|t| (t.name, t.tensor)).collect()
    }
}

/// Reads a safetensors file; every number becomes f32.
///
/// # Errors
/// A file whose header or sizes are not sound, with repeated keys, or with 8-bit floats.
pub fn read_tensors(path: &Path) -> Result<TensorFile> {
    decode(path, &read_file(path)?)
}

/// Reads safetensors from memory; `path` is for the errors.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<TensorFile> {
    decode_within(path, bytes, &mut Budget::new(bytes.len()))
}

/// As [`decode`], within a budget that the caller goes on with.
pub(crate) fn decode_within(path: &Path, bytes: &[u8], budget: &mut Budget) -> Result<TensorFile> {
    decode_wanted(path, bytes, |_| true, budget)
}

/// As [`decode`], but only the tensors whose names are wanted take memory.
pub(crate) fn decode_those(path: &Path, bytes: &[u8], wanted: fn(&str) -> bool) -> Result<TensorFile> {
    decode_wanted(path, bytes, wanted, &mut Budget::new(bytes.len()))
}

fn decode_wanted(
    path: &Path,
    bytes: &[u8],
    wanted: fn(&str) -> bool,
    budget: &mut Budget,
) -> Result<TensorFile> {
    let (header, data) = header_of(path, bytes, budget).map_err(|e| e.or_remedy(super::DAMAGED))?;
    budget.charge(path, "the list of tensors", header.tensors.len() * size_of::<StoredTensor>())?;
    let mut tensors = super::reserve(path, header.tensors.len())?;
    for (name, info) in header.tensors.into_iter().filter(|(name, _)| wanted(name)) {
        let Some(dtype) = dtype_of(&info.dtype) else {
            let message =
                format!("{} is of type {}, which is not supported", shown(&name), shown(&info.dtype));
            return Err(Error::malformed(path, message).remedy("convert it to F32, F16 or BF16"));
        };
        let (start, end) = info.data_offsets;
        let tensor =
            budget.tensor(path, &name, dtype, &info.shape.0, &data[start..end], ByteOrder::Little)?;
        tensors.push(StoredTensor { name, dtype, tensor });
    }
    Ok(TensorFile { tensors, metadata: header.metadata })
}

/// The checked header and the data after it. The arrays are in the order of their data, which they fill
/// from the first byte to the last.
fn header_of<'a>(path: &'a Path, bytes: &'a [u8], budget: &mut Budget) -> Result<(Header, &'a [u8])> {
    let mut cursor = Cursor::new(path, bytes);
    let length = cursor.size()?;
    if length > MAX_HEADER {
        return Err(cursor.fail(format!("a header of {length} bytes; at most {MAX_HEADER} are allowed")));
    }
    let json = cursor.take(length)?;
    let malformed = |message: String| Error::malformed(path, format!("the safetensors header: {message}"));
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut header = json
        .deserialize_map(HeaderVisitor { budget })
        .map_err(|e| malformed(e.to_string()).at_line(e.line()))?;
    json.end().map_err(|e| malformed(e.to_string()))?;
    header.tensors.sort_by_key(|(_, info)| info.data_offsets);
    let data = &bytes[cursor.at..];
    let mut filled = 0;
    for (name, info) in &header.tensors {
        let (start, end) = info.data_offsets;
        if start != filled || end < start {
            let message = format!(
                "{} lies at {start} to {end}, not from {filled} on: arrays may neither overlap nor leave gaps",
                shown(name)
            );
            return Err(malformed(message));
        }
        let size = element_count(&info.shape.0).ok().zip(dtype_of(&info.dtype));
        let size = size.map(|(count, dtype)| count.checked_mul(dtype.size()));
        // A type that is not known is told of when the tensor is wanted.
        if size.is_some_and(|size| size != Some(end - start)) || element_count(&info.shape.0).is_err() {
            let message = format!(
                "{} {:?} of {} does not fit its {} bytes",
                shown(name),
                info.shape.0,
                shown(&info.dtype),
                end - start
            );
            return Err(malformed(message));
        }
        filled = end;
    }
    if filled != data.len() {
        let message = format!("its arrays take {filled} bytes, the file has {}", data.len());
        return Err(malformed(message).remedy("the file is cut off or has bytes too many: fetch it again"));
    }
    Ok((header, data))
}

struct Header {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

/// What the header says of an array.
#[derive(Deserialize)]
struct TensorInfo {
    dtype: String,
    shape: Sizes,
    data_offsets: (usize, usize),
}

/// The sizes of an array of at most [`MAX_DIMENSIONS`].
struct Sizes(Vec<usize>);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizesVisitor;
        impl<'de> Visitor<'de> for SizesVisitor {
            type Value = Sizes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == MAX_DIMENSIONS {
                        let message = format!("more than {MAX_DIMENSIONS} dimensions");
                        return Err(A::Error::custom(message));
                    }
                    sizes.push(size);
                }
                Ok(Sizes(sizes))
            }
        }
        deserializer.deserialize_seq(SizesVisitor)
    }
}

/// Reads the header, charging what each entry takes.
struct HeaderVisitor<'b> {
    budget: &'b mut Budget,
}

/// An entry among the tensors: itself in a list that has just grown, its type, its sizes, its name among
/// those seen.
const ENTRY: usize = 3 * size_of::<(String, TensorInfo)>() + 32 + 8 * MAX_DIMENSIONS + 128;

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            charge(self.budget, ENTRY + 2 * key.len())?;
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{} occurs twice", shown(&key))));
            }
            if key == "__metadata__" {
                header.metadata = map.next_value_seed(Texts { budget: self.budget })?;
            } else {
                header.tensors.push((key, map.next_value()?));
            }
        }
        Ok(header)
    }
}

fn charge<E: serde::de::Error>(budget: &mut Budget, bytes: usize) -> Result<(), E> {
    if budget.spend(bytes) {
        return Ok(());
    }
    Err(E::custom("it would take more memory than a file of this size warrants"))
}

/// Reads a map of texts in which no key is repeated.
struct Texts<'b> {
    budget: &'b mut Budget,
}

impl<'de> serde::de::DeserializeSeed<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        /// Two texts in a tree whose nodes are half empty.
        const ENTRY: usize = 4 * size_of::<(String, String)>();
        let mut texts = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            charge(self.budget, ENTRY + key.len() + value.len())?;
            if texts.contains_key(&key) {
                return Err(A::Error::custom(format!("metadata {} occurs twice", shown(&key))));
            }
            texts.insert(key, value);
        }
        Ok(texts)
    }
}

fn dtype_of(name: &str) -> Option<Dtype> {
    Some(match name {
        "BOOL" => Dtype::Bool,
        "U8" => Dtype::U8,
        "I8" => Dtype::I8,
        "U16" => Dtype::U16,
        "I16" => Dtype::I16,
        "U32" => Dtype::U32,
        "I32" => Dtype::I32,
        "U64" => Dtype::U64,
        "I64" => Dtype::I64,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "F32" => Dtype::F32,
        "F64" => Dtype::F64,
        _ => return None,
    })
}

/// Writes arrays as f32, f16 or bf16 with text metadata, in the order given; complete or absent. Equal
/// contents give equal bytes.
///
/// # Errors
/// Two arrays of one name, a type that is no float of at most 32 bits, a folder that cannot be written.
pub fn write_tensors(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    dtype: Dtype,
    metadata: &[(&str, &str)],
) -> Result<()> {
    let header = encode_header(tensors, dtype, metadata).map_err(|e| e.in_file(path))?;
    write_atomically(path, |w| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(header.as_bytes())?;
        tensors.iter().try_for_each(|(_, tensor)| write_elements(w, tensor.data(), dtype))
    })
}

/// The JSON header, padded so that the data begins at a multiple of 8 bytes.
fn encode_header(tensors: &[(&str, &Tensor)], dtype: Dtype, metadata: &[(&str, &str)]) -> Result<String> {
    let name_of_type = match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
        _ => return Err(Error::invalid(format!("tensors are not written as {}", dtype.name()))),
    };
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let mut seen = HashSet::new();
    let mut entries = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        let texts: Vec<String> = metadata.iter().map(|(k, v)| format!("{}:{}", quote(k), quote(v))).collect();
        entries.push(format!("\"__metadata__\":{{{}}}", texts.join(",")));
    }
    let mut start = 0;
    for (name, tensor) in tensors {
        if !seen.insert(*name) || *name == "__metadata__" {
            return Err(Error::invalid(format!("two tensors are named `{name}`")));
        }
        let end = start + tensor.len() * dtype.size();
        let name = quote(name);
        entries.push(format!(
            "{name}:{{\"dtype\":\"{name_of_type}\",\"shape\":{:?},\"data_offsets\":[{start},{end}]}}",
            tensor.shape()
        ));
        start = end;
    }
    let mut header = format!("{{{}}}", entries.join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    if header.len() > MAX_HEADER {
        return Err(Error::invalid(format!(
            "a header of {} bytes; at most {MAX_HEADER} are allowed",
            header.len()
        )));
    }
    Ok(header)
}

fn write_elements(w: &mut dyn Write, data: &[f32], dtype: Dtype) -> std::io::Result<()> {
    if dtype == Dtype::F32 && cfg!(target_endian = "little") {
        return w.write_all(bytemuck::cast_slice(data));
    }
    let mut bytes = Vec::with_capacity(1 << 16);
    for block in data.chunks(1 << 14) {
        bytes.clear();
        match dtype {
            Dtype::F16 => bytes.extend(block.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
            Dtype::Bf16 => bytes.extend(block.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
            _ => bytes.extend(block.iter().flat_map(|v| v.to_le_bytes())),
        }
        w.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<TensorFile> {
        decode(Path::new("x.safetensors"), bytes)
    }

    fn sample() -> (Tensor, Tensor) {
        let a = Tensor::new(&[2, 3], vec![1.0, -2.5, 3.0, 0.0, 65504.0, 1e-3]).unwrap();
        (a, Tensor::scalar(7.0))
    }

    static BYTES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let (a, b) = sample();
        write_tensors(&path, &[("a \"quoted\"", &a), ("b", &b)], Dtype::F32, &[("step", "3")]).unwrap();
        std::fs::read(path).unwrap()
    });

    #[test]
    fn arrays_survive_the_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let (a, b) = sample();
        // Half a unit in the last place: 11 and 8 significant bits; the smallest value is normal in both.
        for (dtype, tolerance) in
            [(Dtype::F32, 0.0), (Dtype::F16, 2f32.powi(-11)), (Dtype::Bf16, 2f32.powi(-8))]
        {
            write_tensors(&path, &[("a", &a), ("b", &b)], dtype, &[("k", "wörld \"\n")]).unwrap();
            let read = read_tensors(&path).unwrap();
            assert_eq!(read.metadata["k"], "wörld \"\n");
            assert_eq!(read.tensors[0].dtype, dtype);
            assert_eq!(read.get("a").unwrap().shape(), [2, 3]);
            for (x, y) in read.get("a").unwrap().data().iter().zip(a.data()) {
                assert!((x - y).abs() <= tolerance * y.abs(), "{x} {y}");
            }
            assert_eq!(read.get("b").unwrap().shape(), [0usize; 0]);
            // The crate that defines the format agrees.
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 2);
        }
        assert!(write_tensors(&path, &[("a", &a), ("a", &b)], Dtype::F32, &[]).is_err());
        assert!(write_tensors(&path, &[("a", &a)], Dtype::I64, &[]).is_err());
    }

    #[test]
    fn other_types_become_f32() {
        let header = r#"{"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[16,18]}}"#;
        let mut data = (-3i64).to_le_bytes().to_vec();
        data.extend(0.1f64.to_le_bytes());
        data.extend([0, 1]);
        let read = read(&file(header, &data)).unwrap();
        assert_eq!(read.get("i").unwrap().data(), [-3.0]);
        assert_eq!(read.get("d").unwrap().data(), [0.1]);
        assert_eq!(read.get("b").unwrap().data(), [0.0, 1.0]);
    }

    #[test]
    fn unsound_files_are_refused() {
        let one = |shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let four = [0u8; 4];
        read(&file(&one("[1]", "[0,4]"), &four)).unwrap();
        let twice =
            one("[1]", "[0,4]").replace("}}", r#"},"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}"#);
        let texts = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
        for header in [
            one("[2]", "[0,4]").as_str(),
            &one("[1]", "[0,8]"),
            &one("[1]", "[4,8]"),
            &one("[1]", "[4,0]"),
            &one("[1,1,1,1,1,1,1,1,1]", "[0,4]"),
            &one("[18446744073709551615,8]", "[0,4]"),
            &one("[-1]", "[0,4]"),
            &one("[1]", "[0,4]").replace("F32", "F8_E4M3"),
            &twice,
            "[]",
            "{} x",
        ] {
            assert!(read(&file(header, &four)).is_err(), "{header}");
        }
        assert!(read(&file(texts, &[])).unwrap_err().message().contains("twice"));
        assert!(read(&file(&one("[1]", "[0,4]"), &[0; 5])).is_err());
        assert!(read(&u64::MAX.to_le_bytes()).is_err());
        assert!(read(&[]).is_err());
        // Eight-bit elements grow fourfold; a large file of them is more than its size warrants.
        let n = 40 << 20;
        let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
        assert!(read(&file(&header, &vec![0; n])).unwrap_err().message().contains("warrants"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn damaged_files_are_values_or_errors(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let mut bytes = BYTES.clone();
            let cut = cut.index(bytes.len());
            prop_assert!(read(&bytes[..cut]).is_err());
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = read(&bytes);
        }
    }
}
