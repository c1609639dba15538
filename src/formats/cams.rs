//! Class activation maps on disk: one safetensors file an image, `cam/<class name>` of f16 at stride 8 for
//! each class present, the image's size in the metadata.

use std::path::{Path, PathBuf};

use super::safetensors::{Dtype, read_tensors, write_tensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The maps of one image.
#[derive(Debug, Clone)]
pub struct ClassMaps {
    /// Name of each map's class.
    pub classes: Vec<String>,
    /// L×h×w.
    pub maps: Tensor,
    /// Height and width of the image.
    pub image_size: (usize, usize),
}

/// The file with an image's maps, if there is one.
pub fn find(folder: &Path, id: &str) -> Option<PathBuf> {
    let path = folder.join(format!("{id}.safetensors"));
    path.is_file().then_some(path)
}

/// Writes the maps of one image.
pub fn write_safetensors(path: &Path, maps: &ClassMaps) -> Result<()> {
    let [_, h, w] = crate::ops::class_maps::planes(&maps.maps, "class maps")?;
    let named = maps.classes.iter().zip(maps.maps.data().chunks_exact((h * w).max(1)));
    let tensors = named
        .map(|(name, plane)| Ok((format!("cam/{name}"), Tensor::new(&[h, w], plane.to_vec())?)))
        .collect::<Result<Vec<_>>>()?;
    let list: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let (height, width) = maps.image_size;
    let metadata = [("height", height.to_string()), ("width", width.to_string())];
    write_tensors(path, &list, Dtype::F16, &metadata.each_ref().map(|(k, v)| (*k, v.as_str())))
}

/// Reads the maps of one image.
///
/// # Errors
/// A file that is no such file; maps of different sizes; values that are not finite.
pub fn read(path: &Path) -> Result<ClassMaps> {
    let contents = read_tensors(path)?;
    let size = |key: &str| contents.metadata.get(key).and_then(|v| v.parse().ok());
    let (Some(height), Some(width)) = (size("height"), size("width")) else {
        return Err(Error::malformed(path, "the image's size is missing from the metadata"));
    };
    let (mut classes, mut data, mut shape) = (Vec::new(), Vec::new(), None);
    for stored in &contents.tensors {
        let (name, tensor) = (&stored.name, &stored.tensor);
        let Some(class) = name.strip_prefix("cam/") else { continue };
        let &[h, w] = tensor.shape() else {
            return Err(Error::malformed(path, format!("`{name}` is not h×w")));
        };
        if *shape.get_or_insert((h, w)) != (h, w) || !tensor.is_finite() {
            return Err(Error::malformed(
                path,
                format!("`{name}` differs in size from the others, or is not finite"),
            ));
        }
        classes.push(class.to_string());
        data.extend_from_slice(tensor.data());
    }
    let Some((h, w)) = shape else {
        return Err(Error::malformed(path, "the file has no class activation map"));
    };
    let maps = Tensor::new(&[classes.len(), h, w], data)?;
    Ok(ClassMaps { classes, maps, image_size: (height, width) })
}
