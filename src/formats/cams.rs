//! Class maps of one image, on disk.
//!
//! Ours: safetensors with one f16 tensor `cam/CLASS` of h×w for each class present, at stride 8, and the
//! image's size as metadata. Read and written also: psa's `.npy`, a pickled dictionary {class index: float32
//! H×W} at image size; read only: irn's, {"keys": class indices, "cam": L×h×w at stride 4, "high_res": L×H×W}.

use std::path::{Path, PathBuf};

use super::atomic::write_atomically;
use super::elements::{Budget, Dtype, check_finite};
use super::npy::{self, Contents};
use super::pickle::{Pickle, Ref};
use super::safetensors::{self, write_tensors};
use super::{read_file, torch};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The class maps of one image.
#[derive(Debug, Clone)]
pub struct ClassMaps {
    /// Names of the classes present, in the order of the maps.
    pub classes: Vec<String>,
    /// L×h×w, at any resolution.
    pub maps: Tensor,
    /// Rows and columns of the image; `None` where the file has irn's `cam` alone, at [`IRN_STRIDE`].
    pub image_size: Option<(usize, usize)>,
}

const PREFIX: &str = "cam/";

/// The image is this many times larger than irn's `cam`, which is rounded up.
pub const IRN_STRIDE: usize = 4;

/// The file of an image's maps in a folder, in either form.
pub fn find(folder: &Path, id: &str) -> Option<PathBuf> {
    [format!("{id}.safetensors"), format!("{id}.npy")]
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
}

/// Reads maps in any of the three forms. `foreground` is the data set's class list without background:
/// indices in `.npy` files count in it, and names must be in it.
///
/// # Errors
/// A damaged file, a class that is not in the list (both lists are shown), maps of unequal sizes, NaN.
pub fn read(path: &Path, foreground: &[String]) -> Result<ClassMaps> {
    decode(path, &read_file(path)?, foreground)
}

/// Reads maps from memory.
pub(crate) fn decode(path: &Path, bytes: &[u8], foreground: &[String]) -> Result<ClassMaps> {
    let maps = if npy::is_npy(bytes) {
        decode_npy(path, bytes, foreground)
    } else {
        decode_safetensors(path, bytes, foreground)
    };
    let maps = maps.map_err(|e| e.or_remedy(super::DAMAGED))?;
    check_finite(path, [("the class maps", &maps.maps)])
        .map_err(|e| e.remedy("make the maps of this image anew"))?;
    Ok(maps)
}

fn decode_safetensors(path: &Path, bytes: &[u8], foreground: &[String]) -> Result<ClassMaps> {
    let mut budget = Budget::new(bytes.len());
    let file = safetensors::decode_within(path, bytes, &mut budget)?;
    let side = |key: &str| {
        let value = file.metadata.get(key).and_then(|v| v.parse::<usize>().ok()).filter(|&v| v > 0);
        value.ok_or_else(|| {
            Error::malformed(path, format!("the metadata has no `{key}`: these are not class maps"))
        })
    };
    let image_size = (side("image_height")?, side("image_width")?);
    let (mut classes, mut planes) = (Vec::new(), Vec::new());
    for stored in file.tensors {
        let Some(name) = stored.name.strip_prefix(PREFIX) else {
            return Err(Error::malformed(path, format!("`{}` is no class map", stored.name)));
        };
        classes.push(name.to_string());
        planes.push(stored.tensor);
    }
    if classes.iter().any(|name| !foreground.contains(name)) {
        return Err(unknown_class(path, &classes, foreground));
    }
    Ok(ClassMaps { classes, maps: stack(path, planes, &mut budget)?, image_size: Some(image_size) })
}

/// The maps' classes, by name or number, are not all in the data set's list.
fn unknown_class(path: &Path, maps: &[String], foreground: &[String]) -> Error {
    let message = format!(
        "class lists differ: the maps are of [{}], this data set has [{}]",
        maps.join(", ").escape_debug(),
        foreground.join(", ")
    );
    Error::malformed(path, message).remedy("pass the class file that the maps were made with (--classes)")
}

/// h×w planes as one L×h×w tensor.
fn stack(path: &Path, planes: Vec<Tensor>, budget: &mut Budget) -> Result<Tensor> {
    let Some(first) = planes.first() else {
        return Err(Error::malformed(path, "there are no class maps in the file"));
    };
    let &[h, w] = first.shape() else {
        return Err(Error::malformed(
            path,
            format!("a class map is height × width, not {:?}", first.shape()),
        ));
    };
    if h * w == 0 || planes.iter().any(|plane| plane.shape() != [h, w]) {
        return Err(Error::malformed(path, "the class maps are empty or of unequal sizes"));
    }
    let shape = [planes.len(), h, w];
    // A copy beside the planes.
    budget.charge(path, "the class maps", planes.iter().map(|plane| 4 * plane.len()).sum())?;
    let mut data = super::reserve(path, planes.len() * h * w)?;
    planes.iter().for_each(|plane| data.extend_from_slice(plane.data()));
    Tensor::new(&shape, data)
}

fn decode_npy(path: &Path, bytes: &[u8], foreground: &[String]) -> Result<ClassMaps> {
    let Contents::Object(object) = npy::open(path, bytes)? else {
        return Err(no_dictionary(path, "a plain array, not class maps"));
    };
    let mut budget = Budget::new(bytes.len());
    let pickle = Pickle::parse(path, object, 0, &mut budget)?;
    let (indices, maps, image_size) = NpyMaps { path, pickle: &pickle, budget }.read()?;
    let known = |&index: &i64| usize::try_from(index).ok().and_then(|i| foreground.get(i)).cloned();
    let Some(classes) = indices.iter().map(known).collect::<Option<Vec<String>>>() else {
        let numbers: Vec<String> = indices.iter().map(|index| format!("class number {index}")).collect();
        return Err(unknown_class(path, &numbers, foreground));
    };
    if let Some(twice) = classes.iter().enumerate().find(|(i, name)| classes[..*i].contains(name)) {
        return Err(no_dictionary(path, &format!("the class `{}` occurs twice", twice.1)));
    }
    Ok(ClassMaps { classes, maps, image_size })
}

fn no_dictionary(path: &Path, message: &str) -> Error {
    Error::malformed(path, message).remedy(
        "class maps are .npy dictionaries {class index: height × width}, as psa writes them, or {\"keys\": class \
         indices, \"high_res\" or \"cam\": classes × height × width}, as irn does; index 0 is the first class \
         after background",
    )
}

/// Class indices (0 the first after background), their maps L×h×w, and the image's size where it is known.
type IndexedMaps = (Vec<i64>, Tensor, Option<(usize, usize)>);

/// The dictionary of an `.npy` of class maps.
struct NpyMaps<'a> {
    path: &'a Path,
    pickle: &'a Pickle<'a>,
    budget: Budget,
}

impl NpyMaps<'_> {
    fn read(mut self) -> Result<IndexedMaps> {
        let pickle = self.pickle;
        let entries = pickle
            .dict(npy::only_object(pickle))
            .ok_or_else(|| self.fail("the pickled object is not a dictionary"))?;
        let field = |name: &str| entries.iter().find(|e| pickle.text(e.0) == Some(name)).map(|e| e.1);
        match (field("keys"), field("high_res"), field("cam")) {
            (Some(keys), Some(maps), _) => {
                let (indices, maps) = self.irn(keys, maps, "high_res")?;
                let size = (maps.shape()[1], maps.shape()[2]);
                Ok((indices, maps, Some(size)))
            }
            (Some(keys), None, Some(maps)) => {
                let (indices, maps) = self.irn(keys, maps, "cam")?;
                Ok((indices, maps, None))
            }
            _ => self.psa(entries),
        }
    }

    /// {class index: H×W}
    fn psa(&mut self, entries: &[(Ref, Ref)]) -> Result<IndexedMaps> {
        let (mut indices, mut planes) = (Vec::new(), Vec::new());
        for &(key, value) in entries {
            let Some(index) = self.pickle.int(key) else {
                let key = self.pickle.text(key).map_or("a key".into(), |k| format!("`{}`", k.escape_debug()));
                return Err(self.fail(&format!("{key} is not a class index, and there are no irn maps")));
            };
            indices.push(index);
            planes.push(self.array(value, &format!("class {index}"))?);
        }
        let maps = stack(self.path, planes, &mut self.budget)?;
        let size = (maps.shape()[1], maps.shape()[2]);
        Ok((indices, maps, Some(size)))
    }

    /// `keys` and one of the two kinds of maps L×h×w.
    fn irn(&mut self, keys: Ref, maps: Ref, name: &str) -> Result<(Vec<i64>, Tensor)> {
        let (keys, maps) = (self.array(keys, "keys")?, self.array(maps, name)?);
        let planes = match *maps.shape() {
            [l, h, w] if l * h * w > 0 => l,
            _ => {
                let shape = maps.shape();
                return Err(self.fail(&format!("`{name}` is {shape:?}, not classes × height × width")));
            }
        };
        if let Some(key) = keys.data().iter().find(|key| key.fract() != 0.0) {
            return Err(self.fail(&format!("`keys` has {key}, which is no class index")));
        }
        let keys: Vec<i64> = keys.data().iter().map(|&key| key as i64).collect();
        // irn's later stages put a background before the classes, which then count from 1.
        let indices = match keys.as_slice() {
            [0, padded @ ..] if padded.len() == planes => padded.iter().map(|key| key - 1).collect(),
            _ if keys.len() == planes => keys,
            _ => {
                let message = format!(
                    "{} `keys` {keys:?} for {planes} maps in `{name}`: one a map is expected, or a 0 for the \
                     background before them",
                    keys.len()
                );
                return Err(self.fail(&message));
            }
        };
        Ok((indices, maps))
    }

    /// A NumPy array or a tensor of PyTorch.
    fn array(&mut self, at: Ref, name: &str) -> Result<Tensor> {
        if torch::is_tensor(self.pickle, at) {
            return Ok(torch::embedded_tensor(self.path, self.pickle, at, name, &mut self.budget)?.tensor);
        }
        let view = self
            .pickle
            .array(at)
            .ok_or_else(|| self.fail(&format!("`{name}` is not an array of numbers")))?;
        npy::tensor_of(self.path, name, &view, &mut self.budget)
    }

    fn fail(&self, message: &str) -> Error {
        no_dictionary(self.path, message)
    }
}

/// The planes of L×h×w maps, checked against the class list.
fn planes(maps: &ClassMaps) -> Result<(usize, usize, std::slice::ChunksExact<'_, f32>)> {
    match *maps.maps.shape() {
        [l, h, w] if l == maps.classes.len() && h * w > 0 => Ok((h, w, maps.maps.data().chunks_exact(h * w))),
        _ => Err(Error::shape(
            "class maps",
            format!("{:?} for {} classes", maps.maps.shape(), maps.classes.len()),
        )),
    }
}

/// Writes maps as f16 safetensors; complete or absent.
///
/// # Errors
/// A tensor that is not L×h×w, an image whose size is not known, a folder that cannot be written.
pub fn write_safetensors(path: &Path, maps: &ClassMaps) -> Result<()> {
    let (h, w, planes) = planes(maps)?;
    let planes = maps
        .classes
        .iter()
        .zip(planes)
        .map(|(name, plane)| Ok((format!("{PREFIX}{name}"), Tensor::new(&[h, w], plane.to_vec())?)))
        .collect::<Result<Vec<_>>>()?;
    let named: Vec<(&str, &Tensor)> = planes.iter().map(|(name, plane)| (name.as_str(), plane)).collect();
    let (height, width) = maps
        .image_size
        .ok_or_else(|| Error::shape("class maps", "the image's size is not known"))
        .map(|(height, width)| (height.to_string(), width.to_string()))?;
    write_tensors(path, &named, Dtype::F16, &[("image_height", &height), ("image_width", &width)])
}

/// Writes maps in psa's form: a 0-d object array of a pickled {class index: float32 h×w}. `indices[i]` is
/// the class index of map i, 0 the first class after background.
///
/// # Errors
/// A tensor that is not L×h×w with L indices below 2³¹, maps beyond 4 GiB, a folder that cannot be written.
pub fn write_npy(path: &Path, maps: &ClassMaps, indices: &[usize]) -> Result<()> {
    let (h, w, planes) = planes(maps)?;
    let too_large =
        || Error::shape("class maps", format!("{h}×{w} or a class index is too large for a pickle"));
    let int = |value: usize| i32::try_from(value).map(i32::to_le_bytes).map_err(|_| too_large());
    let length = u32::try_from(4 * h * w).map_err(|_| too_large())?.to_le_bytes();
    if indices.len() != maps.classes.len() {
        let message = format!("{} indices for {} maps", indices.len(), maps.classes.len());
        return Err(Error::shape("class maps", message));
    }
    let mut b = npy::header_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (), }");
    b.extend(npy::OBJECT_START);
    // Object 3 of the memo is the element type.
    b.extend(b"h\x02X\x02\x00\x00\x00f4\x89\x88\x87R");
    b.extend(b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x030}");
    for (&index, plane) in indices.iter().zip(planes) {
        b.push(b'J');
        b.extend(int(index)?);
        // _reconstruct(ndarray, (0,), b'b'), then its state (1, (h, w), dtype, False, bytes).
        b.extend(b"h\x00h\x01K\x00\x85C\x01b\x87R(K\x01J");
        b.extend(int(h)?);
        b.push(b'J');
        b.extend(int(w)?);
        b.extend(b"\x86h\x03\x89B");
        b.extend(length);
        b.extend(npy::little_endian(plane));
        b.extend(b"tbs");
    }
    b.extend(npy::OBJECT_END);
    write_atomically(path, |w| w.write_all(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn foreground() -> Vec<String> {
        ["cat", "tv monitor", "dog"].map(String::from).to_vec()
    }

    fn sample() -> ClassMaps {
        let data = (0..2 * 3 * 5).map(|i| i as f32 / 32.0).collect();
        ClassMaps {
            classes: vec!["tv monitor".into(), "cat".into()],
            maps: Tensor::new(&[2, 3, 5], data).unwrap(),
            image_size: Some((23, 40)),
        }
    }

    #[test]
    fn both_forms_survive_the_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let maps = sample();
        let (a, b) = (dir.path().join("2007_1.safetensors"), dir.path().join("sub/2.npy"));
        write_safetensors(&a, &maps).unwrap();
        write_npy(&b, &maps, &[1, 0]).unwrap();
        assert_eq!(find(dir.path(), "2007_1"), Some(a.clone()));
        assert_eq!(find(dir.path(), "sub/2"), Some(b.clone()));
        assert_eq!(find(dir.path(), "2"), None);
        for (path, size) in [(a, (23, 40)), (b, (3, 5))] {
            let got = read(&path, &foreground()).unwrap();
            assert_eq!((got.classes, got.image_size), (maps.classes.clone(), Some(size)));
            // Multiples of 1/32 below 1 are exact in f16.
            assert_eq!((got.maps.shape(), got.maps.data()), (maps.maps.shape(), maps.maps.data()));
            let e = read(&path, &foreground()[..1]).unwrap_err();
            assert!(e.message().contains("class lists differ"), "{e}");
        }
    }

    #[test]
    fn what_is_not_class_maps_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let plane = Tensor::zeros(&[2, 2]);
        write_tensors(&path, &[("cam/cat", &plane)], Dtype::F16, &[]).unwrap();
        assert!(read(&path, &foreground()).unwrap_err().message().contains("image_height"));
        let size = [("image_height", "9"), ("image_width", "9")];
        write_tensors(&path, &[], Dtype::F16, &size).unwrap();
        assert!(read(&path, &foreground()).is_err());
        write_tensors(&path, &[("cam/cat", &plane), ("cam/dog", &Tensor::zeros(&[2, 3]))], Dtype::F16, &size)
            .unwrap();
        assert!(read(&path, &foreground()).is_err());
        write_tensors(&path, &[("cam/cat", &Tensor::full(&[2, 2], f32::NAN))], Dtype::F16, &size).unwrap();
        assert!(read(&path, &foreground()).unwrap_err().message().contains("NaN"));
        assert!(write_npy(&path, &sample(), &[0]).is_err());
        assert!(write_npy(&path, &sample(), &[0, usize::MAX]).is_err());
    }

    static FILES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("1"), dir.path().join("2"));
        write_safetensors(&a, &sample()).unwrap();
        write_npy(&b, &sample(), &[1, 0]).unwrap();
        [std::fs::read(a).unwrap(), std::fs::read(b).unwrap()]
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn damaged_maps_are_values_or_errors(
            which in 0..2usize,
            at: prop::sample::Index,
            value: u8,
            cut: prop::sample::Index,
        ) {
            let path = Path::new("x");
            let mut bytes = FILES[which].clone();
            prop_assert!(decode(path, &bytes[..cut.index(bytes.len())], &foreground()).is_err());
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = decode(path, &bytes, &foreground());
        }
    }
}
