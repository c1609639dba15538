//! Reading weights by name from whatever holds them: a checkpoint folder or a safetensors file.

use std::path::Path;

use super::{checkpoint, safetensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Named tensors of a checkpoint folder or a `.safetensors` file. Convolution weights are O×KH×KW×I.
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
    let tensors = safetensors::read_tensors(path)?.tensors;
    match tensors.iter().find(|(_, t)| !t.is_finite()) {
        Some((name, _)) => {
            Err(Error::malformed(path, format!("tensor `{name}` has values that are not finite")))
        }
        None => Ok(tensors),
    }
}
