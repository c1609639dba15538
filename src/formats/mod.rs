//! File formats: photographs, label masks, class maps, weights and checkpoints.
//!
//! Every reader takes any bytes and returns a value or an [`Error`] that names the file; none panics, and
//! none takes memory for a size that the file merely claims. Every writer leaves its file complete or
//! absent ([`atomic`]). `docs/formats.md` describes the formats byte by byte.

pub mod atomic;
pub mod background;
pub mod cams;
pub mod checkpoint;
mod elements;
mod exif;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod image;
mod inspect;
mod jpeg;
pub mod label_png;
mod mxnet;
pub mod npy;
mod pickle;
pub mod safetensors;
mod strided;
mod torch;
pub mod weights;
mod zip;

pub use inspect::{TensorSummary, inspect};

use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Metadata key that says how 4-D weights lie in a safetensors file of ours.
pub(crate) const LAYOUT: &str = "layout";

/// Its value: O×KH×KW×I. Files without it have O×I×KH×KW, as everybody else's.
pub(crate) const CHANNELS_LAST: &str = "channels_last";

/// What to do about a file that is not sound, where nothing better is known.
const DAMAGED: &str = "the file is damaged, or not what it is said to be: fetch it again, or make it anew";

/// Reads a regular file whole. A pipe or device, which might never end, is refused.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io("read", path, e);
    // Metadata first: opening a named pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "this is a folder" } else { "this is not a regular file" };
        return Err(Error::malformed(path, what).remedy("a file was expected here"));
    }
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut bytes = reserve::<u8>(path, length)?;
    file.read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// An empty vector with room for `count` elements, or an error that says how much was wanted.
pub(crate) fn reserve<T>(path: &Path, count: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count).map_err(|_| {
        let bytes = (count as u128) * size_of::<T>() as u128;
        let message = format!("{} of memory are needed for it", atomic::show_bytes(bytes));
        Error::malformed(path, message)
            .remedy("use a machine with more memory, if the file is what it says it is")
    })?;
    Ok(vector)
}
