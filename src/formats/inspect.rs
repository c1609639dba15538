//! What is in a file: every tensor's shape, type and range.

use std::collections::HashSet;
use std::path::Path;

use super::elements::{Budget, StoredTensor, shown};
use super::image::{self, Exif};
use super::npy::{self, Contents};
use super::pickle::Pickle;
use super::{label_png, read_file, torch, weights};
use crate::{Error, Result};

/// A tensor in a file, as it is stored there: names and layout are the file's own.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// The type of its elements in the file, such as `f16`.
    pub dtype: String,
    /// Smallest value that is not NaN; NaN when there is none.
    pub min: f32,
    /// Largest value that is not NaN; NaN when there is none.
    pub max: f32,
    /// Mean of the values that are not NaN; NaN when there is none.
    pub mean: f64,
    /// Number of NaNs.
    pub nan_count: usize,
}

/// Summarises any file that this program reads: weights, checkpoints (a folder: the one to go on from),
/// class maps, tags, arrays, label masks and photographs.
///
/// # Errors
/// A format that is not known, a damaged file. NaN is no error here: it is counted.
pub fn inspect(path: &Path) -> Result<Vec<TensorSummary>> {
    if path.is_dir() {
        return Ok(summaries(weights::read_stored(path)?.0));
    }
    decode(path, &read_file(path)?)
}

/// Summarises a file from memory; `path` is for the errors.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Vec<TensorSummary>> {
    if bytes.starts_with(b"\x89PNG") || bytes.starts_with(b"\xff\xd8") {
        return inspect_image(path, bytes);
    }
    let damaged = |e: Error| e.or_remedy(super::DAMAGED);
    if npy::is_npy(bytes)
        && let Contents::Object(object) = npy::open(path, bytes).map_err(damaged)?
    {
        return inspect_pickled(path, object, bytes.len()).map_err(damaged);
    }
    Ok(summaries(weights::decode(path, bytes)?.0))
}

fn summaries(stored: Vec<StoredTensor>) -> Vec<TensorSummary> {
    stored
        .into_iter()
        .map(|t| {
            summarise(t.name, t.tensor.shape().to_vec(), t.dtype.name(), t.tensor.data().iter().copied())
        })
        .collect()
}

fn summarise(
    name: String,
    shape: Vec<usize>,
    dtype: &str,
    values: impl Iterator<Item = f32>,
) -> TensorSummary {
    let (mut min, mut max, mut sum, mut count, mut nan_count) = (f32::NAN, f32::NAN, 0f64, 0usize, 0usize);
    for value in values {
        if value.is_nan() {
            nan_count += 1;
            continue;
        }
        min = min.min(value);
        max = max.max(value);
        sum += f64::from(value);
        count += 1;
    }
    TensorSummary { name, shape, dtype: dtype.to_string(), min, max, mean: sum / count as f64, nan_count }
}

/// A mask's labels, or a photograph's samples.
fn inspect_image(path: &Path, bytes: &[u8]) -> Result<Vec<TensorSummary>> {
    if bytes.starts_with(b"\x89PNG")
        && let Ok(map) = label_png::decode(path, bytes)
    {
        let values = map.labels.iter().map(|&v| f32::from(v));
        return Ok(vec![summarise("labels".into(), vec![map.height, map.width], "u8", values)]);
    }
    let image = image::decode(path, bytes, Exif::Ignore, image::MAX_PIXELS)?;
    let values = image.pixels.iter().map(|&v| f32::from(v));
    Ok(vec![summarise("pixels".into(), vec![image.height, image.width, 3], "u8", values)])
}

/// The arrays of a pickled dictionary: class maps or tags.
fn inspect_pickled(path: &Path, object: &[u8], file_length: usize) -> Result<Vec<TensorSummary>> {
    let mut budget = Budget::new(file_length);
    let pickle = Pickle::parse(path, object, 0, &mut budget)?;
    let entries = pickle
        .dict(npy::only_object(&pickle))
        .ok_or_else(|| Error::malformed(path, "the pickled object is not a dictionary"))?;
    budget.charge(path, "the list of arrays", entries.len().saturating_mul(size_of::<StoredTensor>()))?;
    let mut tensors = super::reserve(path, entries.len())?;
    let mut seen = HashSet::new();
    for &(key, value) in entries {
        let name = match (pickle.text(key), pickle.int(key)) {
            (Some(text), _) => text.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => return Err(Error::malformed(path, "a key is neither a text nor a number")),
        };
        if !seen.insert(name.clone()) {
            return Err(Error::malformed(path, format!("{} occurs twice", shown(&name))));
        }
        if torch::is_tensor(&pickle, value) {
            tensors.push(torch::embedded_tensor(path, &pickle, value, &name, &mut budget)?);
        } else if let Some(array) = pickle.array(value) {
            let tensor = npy::tensor_of(path, &name, &array, &mut budget)?;
            tensors.push(StoredTensor { name, dtype: array.dtype, tensor });
        } else {
            return Err(Error::malformed(path, format!("{} is not an array", shown(&name))));
        }
    }
    Ok(summaries(tensors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::cams::{self, ClassMaps};
    use crate::formats::image::{LabelMap, RgbImage};
    use crate::formats::safetensors::{Dtype, write_tensors};
    use crate::tensor::Tensor;

    #[test]
    fn ranges_leave_nan_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let t = Tensor::new(&[2, 2], vec![1.0, f32::NAN, -3.0, 5.0]).unwrap();
        let all = Tensor::full(&[2], f32::NAN);
        write_tensors(&path, &[("t", &t), ("all", &all)], Dtype::F16, &[]).unwrap();
        let s = inspect(&path).unwrap();
        assert_eq!((s[0].min, s[0].max, s[0].mean, s[0].nan_count), (-3.0, 5.0, 1.0, 1));
        assert_eq!((s[0].dtype.as_str(), s[0].shape.as_slice()), ("f16", &[2, 2][..]));
        assert!(s[1].min.is_nan() && s[1].mean.is_nan() && s[1].nan_count == 2);
    }

    #[test]
    fn pictures_masks_and_maps_are_summarised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        image::write_png(&path, &RgbImage::new(2, 1, vec![1, 2, 3, 4, 5, 9]).unwrap()).unwrap();
        assert_eq!((inspect(&path).unwrap()[0].max, inspect(&path).unwrap()[0].shape.len()), (9.0, 3));
        label_png::write_labels(&path, &LabelMap::new(2, 1, vec![0, 255]).unwrap()).unwrap();
        assert_eq!(inspect(&path).unwrap()[0].name, "labels");
        let maps = ClassMaps {
            classes: vec!["cat".into()],
            maps: Tensor::full(&[1, 2, 3], 0.5),
            image_size: Some((2, 3)),
        };
        cams::write_npy(&path, &maps, &[7]).unwrap();
        let s = inspect(&path).unwrap();
        assert_eq!((s[0].name.as_str(), s[0].mean), ("7", 0.5));
        std::fs::write(&path, "junk").unwrap();
        assert!(inspect(&path).is_err());
    }
}
