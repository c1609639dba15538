//! Reading weights by name from whatever holds them: a checkpoint folder or a safetensors file.

use std::path::Path;

use super::{CHANNELS_LAST, LAYOUT, checkpoint, safetensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Named tensors of a checkpoint folder or a `.safetensors` file, convolution weights as O×KH×KW×I: files
/// that do not say that they have that layout hold O×I×KH×KW and are permuted.
///
/// # Errors
/// A file of another kind, a damaged one, values that are not finite.
pub fn read_weights(path: &Path) -> Result<Vec<(String, Tensor)>> {
    if checkpoint::exists(path) {
        return Ok(checkpoint::load(path)?.tensors);
    }
    if path.is_dir() {
        return Err(Error::invalid("the folder holds no checkpoint").in_file(path));
    }
    if path.extension().is_none_or(|e| e != "safetensors") {
        return Err(
            Error::invalid("weights are read from checkpoint folders and .safetensors files").in_file(path)
        );
    }
    let file = safetensors::read_tensors(path)?;
    let ours = file.metadata.get(LAYOUT).is_some_and(|v| v == CHANNELS_LAST);
    let mut tensors = file.into_pairs();
    for (name, tensor) in &mut tensors {
        if !tensor.is_finite() {
            return Err(Error::malformed(path, format!("tensor `{name}` has values that are not finite")));
        }
        if let (&[o, i, h, w], false) = (tensor.shape(), ours) {
            let data = tensor.data();
            let at = |at: usize| {
                let (ci, x, y, co) = (at % i, at / i % w, at / i / w % h, at / i / w / h);
                data[((co * i + ci) * h + y) * w + x]
            };
            *tensor = Tensor::new(&[o, h, w, i], (0..data.len()).map(at).collect())?;
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors::{Dtype, write_tensors};

    #[test]
    fn foreign_convolutions_are_permuted_and_own_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let w = Tensor::new(&[1, 2, 1, 3], vec![1., 2., 3., 4., 5., 6.]).unwrap();
        write_tensors(&path, &[("w", &w)], Dtype::F32, &[]).unwrap();
        let read = read_weights(&path).unwrap().remove(0).1;
        assert_eq!((read.shape(), read.data()), (&[1, 1, 3, 2][..], &[1., 4., 2., 5., 3., 6.][..]));
        write_tensors(&path, &[("w", &w)], Dtype::F32, &[(LAYOUT, CHANNELS_LAST)]).unwrap();
        assert_eq!(read_weights(&path).unwrap().remove(0).1, w);
        assert!(read_weights(dir.path()).is_err());
    }
}
