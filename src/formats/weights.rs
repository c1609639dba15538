//! Weights from anywhere: PyTorch, MXNet, NumPy, safetensors, checkpoints of ours.
//!
//! The format is told by a file's first bytes, never by its name. Everybody else stores convolution weights
//! as O×I×KH×KW; here they are O×KH×KW×I, and they are permuted once, when they are read: every tensor of
//! four dimensions, unless the file says that it is channels-last already.

use std::path::Path;

use super::elements::{Budget, StoredTensor, check_finite, shown};
use super::safetensors::{self, Dtype, write_tensors};
use super::{CHANNELS_LAST, LAYOUT, checkpoint, mxnet, npy, read_file, reserve, torch, zip};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Which program's conventions a file of tensors follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Convention {
    /// O×KH×KW×I and our names.
    Ours,
    /// O×I×KH×KW.
    Others,
    /// O×I×KH×KW and MXNet's names.
    Mxnet,
}

/// The tensors of a file as they are stored there.
///
/// # Errors
/// A format that is not known; whatever the format's reader refuses.
pub(crate) fn read_stored(path: &Path) -> Result<(Vec<StoredTensor>, Convention)> {
    if path.is_dir() {
        return Ok((checkpoint::latest_tensors(path)?, Convention::Ours));
    }
    decode(path, &read_file(path)?)
}

/// As [`read_stored`], from memory; `path` is for the errors.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<(Vec<StoredTensor>, Convention)> {
    decode_within(path, bytes, &mut Budget::new(bytes.len())).map_err(|e| e.or_remedy(super::DAMAGED))
}

fn decode_within(path: &Path, bytes: &[u8], budget: &mut Budget) -> Result<(Vec<StoredTensor>, Convention)> {
    if zip::is_zip(bytes) {
        let entries = zip::entries(path, bytes, budget)?;
        let tensors = if torch::is_archive(&entries) {
            torch::Archive::from_zip(path, &entries, budget)?.state_dict(budget)?
        } else {
            npy::decode_archive(path, &entries, budget)?
        };
        return Ok((tensors, Convention::Others));
    }
    if torch::is_old(bytes) {
        let tensors = torch::Archive::from_old(path, bytes, budget)?.state_dict(budget)?;
        return Ok((tensors, Convention::Others));
    }
    if mxnet::is_params(bytes) {
        return Ok((mxnet::decode(path, bytes, budget)?, Convention::Mxnet));
    }
    if npy::is_npy(bytes) {
        return Ok((vec![npy::decode_array(path, "array", bytes, budget)?], Convention::Others));
    }
    if bytes.get(8) == Some(&b'{') {
        let file = safetensors::decode_within(path, bytes, budget)?;
        let ours = file.metadata.get(LAYOUT).is_some_and(|layout| layout == CHANNELS_LAST);
        return Ok((file.tensors, if ours { Convention::Ours } else { Convention::Others }));
    }
    Err(Error::malformed(path, what_else(bytes)).remedy(
        "weights are read from .pth (a state dict), .params, .npz, .npy, .safetensors, and checkpoint folders",
    ))
}

/// What a file is that holds no weights: what people come by in their place.
fn what_else(bytes: &[u8]) -> &'static str {
    let text = bytes.trim_ascii_start();
    match bytes {
        [] => "the file is empty",
        [0x80, 2..=5, ..] => "this is a plain pickle, not what torch.save or numpy.save writes",
        [0x1f, 0x8b, ..] => "this is a gzip archive: unpack it first",
        _ if bytes.starts_with(b"\x89HDF") => "this is an HDF5 file, which is not read",
        _ if text.starts_with(b"version https://git-lfs") => {
            "this is a pointer that Git LFS keeps in place of a file: `git lfs pull` fetches the file"
        }
        _ if text.starts_with(b"<") => "this is a page of the web, not the file that it offers",
        _ => "this is no weight file of a known format",
    }
}

/// Reads named weights from any supported file or from a checkpoint folder, convolution weights as
/// O×KH×KW×I. A prefix `module.` that all names share is taken off, and PyTorch's `num_batches_tracked`
/// counters are left out. MXNet's names become ours.
///
/// # Errors
/// A format that is not known, a damaged file, names that collide, NaN or infinity (the tensor is named).
pub fn read_weights(path: &Path) -> Result<Vec<(String, Tensor)>> {
    if checkpoint::exists(path) {
        return Ok(checkpoint::load_weights(path)?.tensors);
    }
    if path.is_dir() {
        return Err(Error::malformed(path, "there is no checkpoint in this folder")
            .remedy("give the folder that a training wrote to, or a weight file"));
    }
    from_memory(path, &read_file(path)?)
}

/// As [`read_weights`] of a file, from memory; `path` is for the errors.
pub(crate) fn from_memory(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let mut budget = Budget::new(bytes.len());
    decode_within(path, bytes, &mut budget)
        .and_then(|(stored, convention)| import(path, stored, convention, &mut budget))
        .map_err(|e| e.or_remedy(super::DAMAGED))
}

/// Turns stored tensors into weights of ours.
fn import(
    path: &Path,
    stored: Vec<StoredTensor>,
    convention: Convention,
    budget: &mut Budget,
) -> Result<Vec<(String, Tensor)>> {
    let shared_prefix = !stored.is_empty() && stored.iter().all(|t| t.name.starts_with("module."));
    let mut weights: Vec<(String, Tensor)> = Vec::with_capacity(stored.len());
    let mut names = std::collections::HashSet::new();
    for StoredTensor { name, tensor, .. } in stored {
        let name = if shared_prefix { name["module.".len()..].to_string() } else { name };
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let name = match convention {
            Convention::Mxnet => match mxnet::map_name(&name) {
                Some(name) => name,
                None => continue,
            },
            _ => name,
        };
        if !names.insert(name.clone()) {
            let message = format!("two tensors come to be named {}", shown(&name));
            return Err(Error::malformed(path, message).remedy("`seedwalk inspect FILE` lists the names"));
        }
        let tensor = match convention {
            Convention::Ours => tensor,
            _ => channels_last(path, tensor, budget)?,
        };
        weights.push((name, tensor));
    }
    check_finite(path, weights.iter().map(|(name, t)| (name.as_str(), t)))?;
    if weights.is_empty() {
        return Err(Error::malformed(path, "there are no tensors in the file"));
    }
    Ok(weights)
}

/// O×I×KH×KW to O×KH×KW×I, filter by filter in place; tensors of other than four dimensions stay as they are.
fn channels_last(path: &Path, tensor: Tensor, budget: &mut Budget) -> Result<Tensor> {
    let &[o, i, kh, kw] = tensor.shape() else { return Ok(tensor) };
    let k = kh * kw;
    if k == 1 || i == 1 {
        return tensor.reshape(&[o, kh, kw, i]);
    }
    let bytes = i * k * size_of::<f32>();
    budget.charge(path, "a filter", bytes)?;
    let mut scratch: Vec<f32> = reserve(path, i * k)?;
    let mut data = tensor.into_data();
    for filter in data.chunks_exact_mut((i * k).max(1)) {
        transpose(filter, i, k, &mut scratch);
    }
    budget.release(bytes);
    Tensor::new(&[o, kh, kw, i], data)
}

/// Columns become rows. `scratch` has room for all of them.
fn transpose(matrix: &mut [f32], rows: usize, columns: usize, scratch: &mut Vec<f32>) {
    scratch.clear();
    for column in 0..columns {
        scratch.extend((0..rows).map(|row| matrix[row * columns + column]));
    }
    matrix.copy_from_slice(scratch);
}

/// O×KH×KW×I to O×I×KH×KW, in which everybody else's weights are; the opposite of [`channels_last`].
fn channels_first(path: &Path, tensor: &Tensor) -> Result<Tensor> {
    let &[o, kh, kw, i] = tensor.shape() else { return Ok(tensor.clone()) };
    let mut data = reserve(path, tensor.len())?;
    data.extend_from_slice(tensor.data());
    let mut scratch = reserve(path, kh * kw * i)?;
    for filter in data.chunks_exact_mut((kh * kw * i).max(1)) {
        transpose(filter, kh * kw, i, &mut scratch);
    }
    Tensor::new(&[o, i, kh, kw], data)
}

/// How the weights of convolutions lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// O×KH×KW×I, as here; the file's metadata says so.
    ChannelsLast,
    /// O×I×KH×KW, as PyTorch, MXNet and everybody else have them.
    ChannelsFirst,
}

/// Writes weights of ours (convolutions O×KH×KW×I) as safetensors in either layout, under their published
/// names; complete or absent.
///
/// # Errors
/// Two tensors of one name, a type that is no float of at most 32 bits, a folder that cannot be written.
pub fn write_weights(path: &Path, weights: &[(String, Tensor)], dtype: Dtype, layout: Layout) -> Result<()> {
    fn named(weights: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
        weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
    match layout {
        Layout::ChannelsLast => write_tensors(path, &named(weights), dtype, &[(LAYOUT, CHANNELS_LAST)]),
        Layout::ChannelsFirst => {
            let permuted = weights
                .iter()
                .map(|(name, tensor)| Ok((name.clone(), channels_first(path, tensor)?)))
                .collect::<Result<Vec<_>>>()?;
            // What the safetensors of PyTorch's world say of themselves.
            write_tensors(path, &named(&permuted), dtype, &[("format", "pt")])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::zip::tests::archive;
    use super::*;
    use proptest::prelude::*;

    fn count_up(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product::<usize>()).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn convolutions_are_permuted_unless_they_are_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let (conv, line) = (count_up(&[2, 3, 2, 4]), count_up(&[5]));
        write_tensors(&path, &[("module.c.weight", &conv), ("module.b", &line)], Dtype::F32, &[]).unwrap();
        let read = read_weights(&path).unwrap();
        assert_eq!((read[0].0.as_str(), read[1].0.as_str()), ("c.weight", "b"));
        let got = &read[0].1;
        assert_eq!(got.shape(), [2, 2, 4, 3]);
        for (at, &v) in got.data().iter().enumerate() {
            let (o, y, x, i) = (at / 24, at / 12 % 2, at / 3 % 4, at % 3);
            assert_eq!(v, (o * 24 + i * 8 + y * 4 + x) as f32);
        }
        for layout in [Layout::ChannelsLast, Layout::ChannelsFirst] {
            write_weights(&path, &read, Dtype::F32, layout).unwrap();
            let again = read_weights(&path).unwrap();
            assert_eq!((again[0].1.shape(), again[0].1.data()), (got.shape(), got.data()));
        }
        // As others see the second form: what was read in the first place.
        let file = safetensors::read_tensors(&path).unwrap();
        assert_eq!(file.metadata.get(LAYOUT), None);
        let theirs = file.get("c.weight").unwrap();
        assert_eq!((theirs.shape(), theirs.data()), (conv.shape(), conv.data()));
        write_tensors(
            &path,
            &[("c", &count_up(&[4, 3, 1, 1])), ("d", &count_up(&[0, 3, 3, 3]))],
            Dtype::F16,
            &[],
        )
        .unwrap();
        let read = read_weights(&path).unwrap();
        assert_eq!((read[0].1.shape(), read[1].1.shape()), (&[4, 1, 1, 3][..], &[0, 3, 3, 3][..]));
    }

    fn npz() -> Vec<u8> {
        let array = |values: &[f32]| {
            let literal =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.len());
            [npy::header_bytes(&literal), npy::little_endian(values)].concat()
        };
        archive(&[("a.bias.npy", &array(&[1.0, 2.0])), ("b.num_batches_tracked.npy", &array(&[3.0]))])
    }

    #[test]
    fn the_format_is_told_by_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pth");
        std::fs::write(&path, npz()).unwrap();
        let read = read_weights(&path).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].0.as_str(), read[0].1.data()), ("a.bias", &[1.0, 2.0][..]));
        for (junk, word) in [
            (&b""[..], "empty"),
            (b"hello, this is no weight file", "no weight file"),
            (b"\x80\x02}q\x00.", "plain pickle"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>", "page"),
        ] {
            std::fs::write(&path, junk).unwrap();
            let error = read_weights(&path).unwrap_err();
            assert!(error.message().contains(word) && error.how_to_mend().is_some(), "{error}");
        }
        assert!(read_weights(dir.path()).is_err());
    }

    #[test]
    fn nan_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let bad = Tensor::full(&[3], f32::INFINITY);
        write_tensors(&path, &[("ok", &count_up(&[2])), ("conv.bias", &bad)], Dtype::F32, &[]).unwrap();
        let e = read_weights(&path).unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::NotFinite);
        assert!(e.message().contains("conv.bias"));
    }

    /// What the formats begin with.
    const STARTS: &[&[u8]] = &[
        b"",
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x12\x01\0\0\0\0\0\0",
        b"\x93NUMPY\x01\0",
        b"\x10\0\0\0\0\0\0\0{\"",
    ];

    proptest! {
            #![proptest_config(ProptestConfig::with_cases(1000))]
            #[test]
            fn any_bytes_are_weights_or_an_error(
    start in proptest::sample::select(STARTS),
                bytes: Vec<u8>,
                changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            ) {
                let path = Path::new("w");
                let _ = decode(path, &[start, &bytes].concat());
                let mut bytes = npz();
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                let _ = decode(path, &bytes);
            }
        }
}
