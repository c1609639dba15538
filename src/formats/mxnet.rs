//! MXNet's `.params`: a list of arrays and their names, in every layout since 2016.
//!
//! Magic 0x112, a reserved word, the number of arrays (all u64), the arrays, the number of names, each name
//! with its length. An array is its shape, its device, its element type and its elements; four layouts
//! differ in how the shape is written: V3 and V2 (storage type, then 64-bit sizes), V1 (64-bit sizes), and
//! the oldest, which has no magic number but begins with the number of dimensions and has 32-bit sizes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::elements::{Budget, ByteOrder, Cursor, Dtype, MAX_DIMENSIONS, StoredTensor, shown};
use crate::tensor::element_count;
use crate::{Error, Result};

const LIST: u64 = 0x112;
const V1: u32 = 0xf993_fac8;
const V2: u32 = 0xf993_fac9;
const V3: u32 = 0xf993_faca;

/// Whether bytes begin as a list of arrays does.
pub(crate) fn is_params(bytes: &[u8]) -> bool {
    bytes.starts_with(&LIST.to_le_bytes())
}

/// The arrays of a list, under the names that the file gives.
///
/// # Errors
/// A file that is cut off or unsound, sparse arrays, names that do not fit.
pub(crate) fn decode(path: &Path, bytes: &[u8], budget: &mut Budget) -> Result<Vec<StoredTensor>> {
    let mut cursor = Cursor::new(path, bytes);
    if cursor.u64()? != LIST {
        return Err(Error::malformed(path, "this is not an MXNet list of arrays"));
    }
    cursor.u64()?;
    let count = cursor.size()?;
    // The names come after all the arrays: these are passed over first and read with their names then, so
    // that no list of them is ever held.
    let first = cursor.at;
    for _ in 0..count {
        read_array(&mut cursor)?;
    }
    let names = cursor.size()?;
    if names != count && names != 0 {
        return Err(cursor.fail(format!("{names} names for {count} arrays")));
    }
    let mut arrays = Cursor::new(path, bytes);
    arrays.at = first;
    let mut seen = HashSet::new();
    let mut tensors = Vec::new();
    for i in 0..count {
        let array = read_array(&mut arrays)?;
        let name = if names == 0 {
            Cow::Owned(i.to_string())
        } else {
            let length = cursor.size()?;
            let name = std::str::from_utf8(cursor.take(length)?);
            let name = name.map_err(|_| cursor.fail("a name that is not UTF-8"))?;
            budget.charge(path, "the list of names", 3 * size_of::<&str>())?;
            if !seen.insert(name) {
                return Err(cursor.fail(format!("{} occurs twice", shown(name))));
            }
            Cow::Borrowed(name)
        };
        let Some(Array { shape, dtype, bytes }) = array else { continue };
        let tensor = budget.tensor(path, &name, dtype, &shape, bytes, ByteOrder::Little)?;
        tensors.push(StoredTensor { name: name.into_owned(), dtype, tensor });
    }
    if cursor.at != bytes.len() {
        return Err(cursor.fail("there are bytes after the last name"));
    }
    Ok(tensors)
}

struct Array<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: &'a [u8],
}

/// One array; `None` for one that was never filled.
fn read_array<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Array<'a>>> {
    let first = cursor.u32()?;
    let shape = match first {
        V1 => shape(cursor, None, true)?,
        V2 | V3 => {
            let storage = cursor.i32()?;
            if storage != 0 {
                return Err(cursor
                    .fail("a sparse array, which weights are not")
                    .remedy("save the array as dense"));
            }
            if first == V3 {
                let dimensions = cursor.i32()?;
                if dimensions < 0 {
                    return Ok(None);
                }
                Some(shape(cursor, Some(dimensions as u32), true)?.unwrap_or_default())
            } else {
                shape(cursor, None, true)?
            }
        }
        dimensions => shape(cursor, Some(dimensions), false)?,
    };
    let Some(shape) = shape else { return Ok(None) };
    // The device that it was on: type and number.
    cursor.take(8)?;
    let kind = cursor.i32()?;
    let dtype = match kind {
        0 => Dtype::F32,
        1 => Dtype::F64,
        2 => Dtype::F16,
        3 => Dtype::U8,
        4 => Dtype::I32,
        5 => Dtype::I8,
        6 => Dtype::I64,
        7 => Dtype::Bool,
        8 => Dtype::I16,
        9 => Dtype::U16,
        10 => Dtype::U32,
        11 => Dtype::U64,
        12 => Dtype::Bf16,
        _ => return Err(cursor.fail(format!("element type {kind} is not known"))),
    };
    let size = element_count(&shape).ok().and_then(|n| n.checked_mul(dtype.size()));
    let bytes = cursor.take(size.unwrap_or(usize::MAX))?;
    Ok(Some(Array { shape, dtype, bytes }))
}

/// A shape; `None` when it has no dimensions, which means an array that was never filled.
fn shape(cursor: &mut Cursor<'_>, dimensions: Option<u32>, wide: bool) -> Result<Option<Vec<usize>>> {
    let dimensions = match dimensions {
        Some(dimensions) => dimensions as usize,
        None => cursor.u32()? as usize,
    };
    if dimensions > MAX_DIMENSIONS {
        return Err(cursor.fail(format!("{dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")));
    }
    let mut sizes = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        sizes.push(if wide { cursor.size()? } else { cursor.u32()? as usize });
    }
    Ok((dimensions > 0).then_some(sizes))
}

/// The name under which a parameter of the published ImageNet ResNet-38 is known here (spec §12):
/// `res4b3_branch2a_weight` is `b4_3.conv_branch2a.weight`, `bn3a_branch2b1_gamma` is
/// `b3.bn_branch2b1.weight`. `None` for its classifier, which has no place here.
pub(crate) fn map_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("arg:").or_else(|| name.strip_prefix("aux:")).unwrap_or(name);
    if name.starts_with("linear1000_") {
        return None;
    }
    const SUFFIXES: [(&str, &str); 6] = [
        ("_weight", "weight"),
        ("_bias", "bias"),
        ("_gamma", "weight"),
        ("_beta", "bias"),
        ("_moving_mean", "running_mean"),
        ("_moving_var", "running_var"),
    ];
    let found = SUFFIXES.iter().find_map(|(suffix, ours)| Some((name.strip_suffix(suffix)?, ours)));
    let Some((base, suffix)) = found else { return Some(name.to_string()) };
    let layer = unit_layer(base).unwrap_or_else(|| base.to_string());
    Some(format!("{layer}.{suffix}"))
}

/// `res4b3_branch2a` → `b4_3.conv_branch2a`.
fn unit_layer(base: &str) -> Option<String> {
    let (unit, branch) = base.split_once("_branch")?;
    let (kind, unit) = match (unit.strip_prefix("res"), unit.strip_prefix("bn")) {
        (Some(unit), _) => ("conv", unit),
        (_, Some(unit)) => ("bn", unit),
        _ => return None,
    };
    let number = unit.trim_start_matches(|c: char| c.is_ascii_digit());
    let (stage, block) = unit.split_at(unit.len() - number.len());
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match block.strip_prefix('b') {
        _ if stage.is_empty() => None,
        None if block == "a" => Some(format!("b{stage}.{kind}_branch{branch}")),
        Some(index) if digits(index) => Some(format!("b{stage}_{index}.{kind}_branch{branch}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One array of f32 in the layout of `magic`, 0 for the oldest.
    fn array(magic: u32, shape: &[usize]) -> Vec<u8> {
        let mut b = Vec::new();
        if magic != 0 {
            b.extend(magic.to_le_bytes());
        }
        if magic == V2 || magic == V3 {
            b.extend([0; 4]);
        }
        b.extend((shape.len() as u32).to_le_bytes());
        for &size in shape {
            if magic == 0 {
                b.extend((size as u32).to_le_bytes());
            } else {
                b.extend((size as u64).to_le_bytes());
            }
        }
        if shape.is_empty() && magic != V3 {
            return b;
        }
        b.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let count: usize = shape.iter().product();
        b.extend((0..count).flat_map(|i| (i as f32).to_le_bytes()));
        b
    }

    fn list(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut b = LIST.to_le_bytes().to_vec();
        b.extend([0; 8]);
        b.extend((arrays.len() as u64).to_le_bytes());
        arrays.iter().for_each(|(_, array)| b.extend(array));
        b.extend((arrays.len() as u64).to_le_bytes());
        for (name, _) in arrays {
            b.extend((name.len() as u64).to_le_bytes());
            b.extend(name.as_bytes());
        }
        b
    }

    fn read(bytes: &[u8]) -> Result<Vec<StoredTensor>> {
        decode(Path::new("w.params"), bytes, &mut Budget::new(bytes.len()))
    }

    fn sample() -> Vec<u8> {
        list(&[
            ("arg:conv1a_weight", array(0, &[2, 3])),
            ("v1", array(V1, &[4])),
            ("v2", array(V2, &[1, 2, 2])),
            ("v3", array(V3, &[])),
            ("none", array(V2, &[])),
        ])
    }

    #[test]
    fn all_layouts_are_read() {
        let tensors = read(&sample()).unwrap();
        let shapes: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.tensor.shape().to_vec())).collect();
        let want =
            [("arg:conv1a_weight", vec![2, 3]), ("v1", vec![4]), ("v2", vec![1, 2, 2]), ("v3", vec![])];
        assert_eq!(shapes, want);
        assert_eq!(tensors[0].tensor.data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn unsound_lists_are_refused() {
        let whole = sample();
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err());
        }
        assert!(read(&[whole, vec![0]].concat()).is_err());
        assert!(read(&list(&[("a", array(V2, &[1])), ("a", array(V2, &[1]))])).is_err());
        let mut sparse = array(V2, &[1]);
        sparse[4] = 1;
        assert!(read(&list(&[("a", sparse)])).unwrap_err().message().contains("sparse"));
        let mut huge = array(V1, &[1, 1]);
        huge[8..24].fill(0xff);
        assert!(read(&list(&[("a", huge)])).is_err());
    }

    #[test]
    fn published_names_are_mapped() {
        for (theirs, ours) in [
            ("conv1a_weight", Some("conv1a.weight")),
            ("arg:res2a_branch1_weight", Some("b2.conv_branch1.weight")),
            ("res4b3_branch2a_weight", Some("b4_3.conv_branch2a.weight")),
            ("res6a_branch2b2_weight", Some("b6.conv_branch2b2.weight")),
            ("bn3a_branch2b1_gamma", Some("b3.bn_branch2b1.weight")),
            ("bn5b2_branch2a_beta", Some("b5_2.bn_branch2a.bias")),
            ("aux:bn5b2_branch2a_moving_mean", Some("b5_2.bn_branch2a.running_mean")),
            ("aux:bn7_moving_var", Some("bn7.running_var")),
            ("linear1000_weight", None),
            ("linear1000_bias", None),
            ("data", Some("data")),
        ] {
            assert_eq!(map_name(theirs).as_deref(), ours, "{theirs}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn damaged_lists_are_values_or_errors(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = sample();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = read(&bytes);
        }

        #[test]
        fn any_name_is_mapped(name in "(arg:|aux:)?(res|bn)?[0-9]{0,2}[ab]?[0-9]{0,2}(_branch)?[a-z0-9é]{0,3}(_weight|_gamma)?") {
            let _ = map_name(&name);
        }
    }
}
