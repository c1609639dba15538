//! Named tensors in safetensors files: f32 or f16 on disk, f32 in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype as Stored, SafeTensors, TensorView};

use super::atomic::write_atomically;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How values lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Four bytes.
    F32,
    /// Two bytes, rounded to nearest.
    F16,
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Name and value, by name.
    pub tensors: Vec<(String, Tensor)>,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
}

impl Contents {
    /// Takes out a tensor by its name.
    ///
    /// # Errors
    /// No such tensor: those that there are are named.
    pub fn take(&mut self, name: &str, path: &Path) -> Result<Tensor> {
        if let Some(i) = self.tensors.iter().position(|(n, _)| n == name) {
            return Ok(self.tensors.remove(i).1);
        }
        let names: Vec<&str> = self.tensors.iter().map(|(n, _)| n.as_str()).collect();
        Err(Error::malformed(path, format!("no tensor `{name}`; the file has: {}", names.join(", "))))
    }
}

/// Writes tensors and metadata; the file is complete or absent.
pub fn write_tensors(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    dtype: Dtype,
    metadata: &[(&str, &str)],
) -> Result<()> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, t)| match dtype {
            Dtype::F32 => t.data().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => t.data().iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        })
        .collect();
    let stored = if dtype == Dtype::F32 { Stored::F32 } else { Stored::F16 };
    let views = tensors.iter().zip(&bytes).map(|((name, t), bytes)| {
        TensorView::new(stored, t.shape().to_vec(), bytes).map(|view| (name.to_string(), view))
    });
    let fail = |e: safetensors::SafeTensorError| Error::malformed(path, format!("cannot be written: {e}"));
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(fail)?;
    // One entry at most: a map of more would be written in an order that changes from run to run.
    let joined: BTreeMap<&str, &str> = metadata.iter().copied().collect();
    let json = serde_json::to_string(&joined).map_err(|e| Error::invalid(e.to_string()))?;
    let metadata = (!joined.is_empty()).then(|| HashMap::from([("seedwalk".to_string(), json)]));
    let bytes = safetensors::serialize(views, metadata).map_err(fail)?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// Reads all tensors of a file as f32.
///
/// # Errors
/// A file that is not safetensors, is cut off, or has values of a kind that is not understood.
pub fn read_tensors(path: &Path) -> Result<Contents> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let fail = |e: safetensors::SafeTensorError| {
        Error::malformed(path, format!("not a whole safetensors file: {e}"))
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(fail)?;
    let mut metadata = BTreeMap::new();
    for (key, value) in header.metadata().iter().flatten() {
        match (key.as_str(), serde_json::from_str::<BTreeMap<String, String>>(value)) {
            ("seedwalk", Ok(own)) => metadata.extend(own),
            _ => drop(metadata.insert(key.clone(), value.clone())),
        }
    }
    let file = SafeTensors::deserialize(&bytes).map_err(fail)?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, view) in file.iter() {
        let bytes = view.data();
        let data: Vec<f32> = match view.dtype() {
            Stored::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Stored::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Stored::BF16 => {
                bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            Stored::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            other => {
                return Err(Error::malformed(
                    path,
                    format!("tensor `{name}` holds {other:?}: f16, bf16, f32 or f64 expected"),
                ));
            }
        };
        tensors.push((name.to_string(), Tensor::new(view.shape(), data).map_err(|e| e.in_file(path))?));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Contents { tensors, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    #[test]
    fn values_come_back_and_a_cut_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let (a, b) = (random(&[2, 3], 1), random(&[4], 2));
        write_tensors(&path, &[("b", &b), ("a", &a)], Dtype::F32, &[("k", "v"), ("l", "w")]).unwrap();
        let mut read = read_tensors(&path).unwrap();
        assert_eq!(read.metadata["k"], "v");
        assert!(read.take("a", &path).unwrap() == a && read.take("a", &path).is_err());
        let first = std::fs::read(&path).unwrap();
        write_tensors(&path, &[("b", &b), ("a", &a)], Dtype::F32, &[("l", "w"), ("k", "v")]).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap(), "same tensors, same bytes");
        for keep in 0..first.len() {
            std::fs::write(&path, &first[..keep]).unwrap();
            assert!(read_tensors(&path).is_err(), "{keep} bytes");
        }
    }
}
