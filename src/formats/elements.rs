//! Stored numbers: their types, and turning them into f32 within a memory limit.

use std::path::Path;

use half::{bf16, f16};

use super::atomic::show_bytes;
use super::reserve;
use crate::tensor::{Tensor, element_count};
use crate::{Error, Result};

/// Dimensions beyond which an array is refused.
pub(crate) const MAX_DIMENSIONS: usize = 8;

/// The type of a stored element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the types' names")]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::F16 | Dtype::Bf16 | Dtype::U16 | Dtype::I16 => 2,
            Dtype::F32 | Dtype::U32 | Dtype::I32 => 4,
            Dtype::F64 | Dtype::U64 | Dtype::I64 => 8,
        }
    }

    /// The type's usual short name, such as `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::Bool => "bool",
            Dtype::U8 => "u8",
            Dtype::I8 => "i8",
            Dtype::U16 => "u16",
            Dtype::I16 => "i16",
            Dtype::U32 => "u32",
            Dtype::I32 => "i32",
            Dtype::U64 => "u64",
            Dtype::I64 => "i64",
        }
    }

    /// The value of one stored integer; `None` for other types, other lengths, and beyond 63 bits.
    pub(crate) fn integer(self, bytes: &[u8], order: ByteOrder) -> Option<i64> {
        let signed = match self {
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => true,
            Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => false,
            _ => return None,
        };
        if bytes.len() != self.size() {
            return None;
        }
        let mut value = [0u8; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        if order == ByteOrder::Big {
            value[..bytes.len()].reverse();
        }
        let value = i64::from_le_bytes(value);
        let unused = 64 - 8 * bytes.len() as u32;
        if signed { Some(value << unused >> unused) } else { (value >= 0).then_some(value) }
    }

    /// Appends the elements of `bytes` (whole elements, in the given byte order) as f32; wider types are
    /// rounded to the nearest.
    pub(crate) fn decode(self, bytes: &[u8], order: ByteOrder, out: &mut Vec<f32>) {
        /// Reads elements of a primitive type in either byte order.
        macro_rules! numbers {
            ($type:ty, $convert:expr) => {{
                let parts = bytes.chunks_exact(size_of::<$type>());
                let convert: fn($type) -> f32 = $convert;
                match order {
                    ByteOrder::Little => {
                        out.extend(
                            parts.map(|b| convert(<$type>::from_le_bytes(b.try_into().expect("exact")))),
                        );
                    }
                    ByteOrder::Big => {
                        out.extend(
                            parts.map(|b| convert(<$type>::from_be_bytes(b.try_into().expect("exact")))),
                        );
                    }
                }
            }};
        }
        match self {
            Dtype::F16 => numbers!(u16, |v| f16::from_bits(v).to_f32()),
            Dtype::Bf16 => numbers!(u16, |v| bf16::from_bits(v).to_f32()),
            Dtype::F32 => numbers!(f32, |v| v),
            Dtype::F64 => numbers!(f64, |v| v as f32),
            Dtype::Bool => out.extend(bytes.iter().map(|&b| f32::from(u8::from(b != 0)))),
            Dtype::U8 => out.extend(bytes.iter().map(|&b| f32::from(b))),
            Dtype::I8 => out.extend(bytes.iter().map(|&b| f32::from(b as i8))),
            Dtype::U16 => numbers!(u16, f32::from),
            Dtype::I16 => numbers!(i16, f32::from),
            Dtype::U32 => numbers!(u32, |v| v as f32),
            Dtype::I32 => numbers!(i32, |v| v as f32),
            Dtype::U64 => numbers!(u64, |v| v as f32),
            Dtype::I64 => numbers!(i64, |v| v as f32),
        }
    }
}

/// The element type that NumPy writes as `<f4`, and its byte order.
pub(crate) fn element_type(descr: &str) -> Option<(Dtype, ByteOrder)> {
    let (order, kind) = descr.split_at_checked(1)?;
    let dtype = match kind {
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        "b1" => Dtype::Bool,
        "u1" => Dtype::U8,
        "i1" => Dtype::I8,
        "u2" => Dtype::U16,
        "i2" => Dtype::I16,
        "u4" => Dtype::U32,
        "i4" => Dtype::I32,
        "u8" => Dtype::U64,
        "i8" => Dtype::I64,
        _ => return None,
    };
    match order {
        "<" | "=" => Some((dtype, ByteOrder::Little)),
        "|" if dtype.size() == 1 => Some((dtype, ByteOrder::Little)),
        ">" => Some((dtype, ByteOrder::Big)),
        _ => None,
    }
}

/// Which end of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

/// A tensor as a file has it: its name, the type it was stored in, its values as f32.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements in the file.
    pub dtype: Dtype,
    /// Its values.
    pub tensor: Tensor,
}

/// How many bytes of memory a file may still take beside itself: 56 MiB + 2 × its size, so that with the file
/// and small change it is at most 64 MiB + 3 × its size. Views of one storage, objects of two bytes, names
/// without end cannot multiply beyond it. Everything whose size or number comes from a file is charged here
/// before it is allocated.
pub(crate) struct Budget {
    left: usize,
}

/// What a tensor takes beside its elements: name, shape, reference counts, and its place in lists and sets.
const PER_TENSOR: usize = 256;

/// Bytes beyond which the name of a tensor is refused.
pub(crate) const MAX_NAME: usize = 4096;

impl Budget {
    /// The budget of a file of so many bytes.
    pub fn new(file_length: usize) -> Self {
        Self { left: (56usize << 20).saturating_add(file_length.saturating_mul(2)) }
    }

    /// Takes so many bytes off; whether they were there.
    #[must_use]
    pub fn spend(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Takes bytes off for `what`, or says that the file does not warrant so much.
    pub fn charge(&mut self, path: &Path, what: &str, bytes: usize) -> Result<()> {
        if self.spend(bytes) {
            return Ok(());
        }
        let message = format!("{what} would take more memory than a file of this size warrants");
        Err(Error::malformed(path, message).remedy("the file is damaged or made to exhaust memory"))
    }

    /// Gives back what is no longer held.
    pub fn release(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes);
    }

    /// Room for an array of this shape, and the number of its elements.
    pub fn take(&mut self, path: &Path, name: &str, shape: &[usize]) -> Result<(Vec<f32>, usize)> {
        if name.len() > MAX_NAME {
            let message =
                format!("{} is a name of {} bytes; at most {MAX_NAME} are allowed", shown(name), name.len());
            return Err(Error::malformed(path, message));
        }
        if shape.len() > MAX_DIMENSIONS {
            let message = format!(
                "{} has {} dimensions; at most {MAX_DIMENSIONS} are allowed",
                shown(name),
                shape.len()
            );
            return Err(Error::malformed(path, message));
        }
        let count = element_count(shape).map_err(|e| e.context(shown(name)).in_file(path))?;
        let bytes = count.saturating_mul(size_of::<f32>()).saturating_add(PER_TENSOR + 2 * name.len());
        if !self.spend(bytes) {
            let bytes = show_bytes(count as u128 * 4);
            let message = format!(
                "{} {shape:?} would take {bytes}, more than a file of this size warrants",
                shown(name)
            );
            return Err(
                Error::malformed(path, message).remedy("the file is damaged or made to exhaust memory")
            );
        }
        Ok((reserve(path, count)?, count))
    }

    /// A tensor from a contiguous run of elements; their number must fit.
    pub fn tensor(
        &mut self,
        path: &Path,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        bytes: &[u8],
        order: ByteOrder,
    ) -> Result<Tensor> {
        let size = element_count(shape).ok().and_then(|count| count.checked_mul(dtype.size()));
        if shape.len() <= MAX_DIMENSIONS && size != Some(bytes.len()) {
            let message = format!(
                "{} {shape:?} of {} does not fit its {} bytes",
                shown(name),
                dtype.name(),
                bytes.len()
            );
            return Err(Error::malformed(path, message));
        }
        let (mut data, _) = self.take(path, name, shape)?;
        dtype.decode(bytes, order, &mut data);
        Tensor::new(shape, data).map_err(|e| e.in_file(path))
    }
}

/// A text from a file as errors show it: in backquotes, control characters escaped, cut where it is long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

/// Refuses NaN and infinity, naming the tensor.
pub(crate) fn check_finite<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    for (name, tensor) in tensors {
        if let Some(at) = tensor.data().iter().position(|v| !v.is_finite()) {
            let value = tensor.data()[at];
            let message = format!("{} {:?} holds {value} at element {at}", shown(name), tensor.shape());
            return Err(Error::new(crate::ErrorKind::NotFinite, message)
                .in_file(path)
                .remedy("these weights cannot be used; take an earlier checkpoint or fetch the file again"));
        }
    }
    Ok(())
}

/// Reads fixed-size fields from a byte string, never beyond its end.
pub(crate) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, path }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let left = self.bytes.len() - self.at;
            let message = format!("the file is cut off: {count} bytes are needed here, {left} are left");
            return Err(self.fail(message).remedy("fetch the file again"));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gave N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned 64-bit size; one that does not fit the address space is refused.
    pub fn size(&mut self) -> Result<usize> {
        let value = self.u64()?;
        usize::try_from(value).map_err(|_| self.fail(format!("a size of {value}")))
    }

    /// An error at the current offset.
    pub fn fail(&self, message: impl Into<String>) -> Error {
        Error::malformed(self.path, message).at_offset(self.at as u64)
    }
}
