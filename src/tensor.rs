//! Tensors: a shape, a buffer of f32, and the device that the buffer lives on.
//!
//! Layout is row-major. Activations are N×H×W×C (channels last), convolution weights O×KH×KW×I,
//! so that a pixel's feature vector is contiguous. A tensor's buffer is shared by clones
//! (reference-counted) and copied only when a shared one is written to.
//!
//! A tensor lives in host memory or in a GPU's. An operation computes where its inputs are (`place`) and leaves its
//! result there; only [`Tensor::to_device`] and [`Tensor::to_host`] move values. [`Tensor::data`] and its like are for
//! host memory: asked of a tensor on a GPU, they panic, since such a copy would wait for all work and must be written out.

use std::sync::Arc;

use crate::device::Device;
use crate::device::cuda::{DeviceBuffer, Gpu, Later};
use crate::{Error, Result};

/// Elements a thread takes at a time where each is computed alone: few enough that small layers are shared out
/// evenly, enough to outweigh the handing over.
pub(crate) const CHUNK: usize = 1 << 14;

/// An n-dimensional array of f32 on one device. Cloning shares the buffer.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Host(Arc<Vec<f32>>),
    Device(Arc<DeviceBuffer<f32>>),
}

/// What [`Tensor::data`] and its like panic with.
const ON_DEVICE: &str = "the tensor is on a GPU: `to_host` first";

impl Tensor {
    /// A tensor over `data`, row-major. Fails when the product of `shape` is not the length of `data`.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        let expected = element_count(shape)?;
        if expected != data.len() {
            return Err(Error::shape(
                "tensor",
                format!("shape {shape:?} holds {expected} values, {} were given", data.len()),
            ));
        }
        Ok(Self { shape: shape.to_vec(), storage: Storage::Host(Arc::new(data)) })
    }

    /// A tensor of zeros.
    ///
    /// # Panics
    /// When the number of elements overflows `usize`; shapes that come from files go through [`Tensor::new`].
    pub fn zeros(shape: &[usize]) -> Self {
        Self::full(shape, 0.0)
    }

    /// A tensor whose every element is `value`. Panics as [`Tensor::zeros`] does.
    pub fn full(shape: &[usize], value: f32) -> Self {
        let len = element_count(shape).expect("the shape's size overflows usize");
        Self { shape: shape.to_vec(), storage: Storage::Host(Arc::new(vec![value; len])) }
    }

    /// A tensor with no dimensions: one number.
    pub fn scalar(value: f32) -> Self {
        Self::full(&[], value)
    }

    /// The sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A tensor over a GPU's buffer. Fails as [`Tensor::new`] does.
    pub(crate) fn from_buffer(shape: &[usize], buffer: Arc<DeviceBuffer<f32>>) -> Result<Self> {
        if element_count(shape)? != buffer.len() {
            return Err(Error::shape("tensor", format!("{} values on a GPU as {shape:?}", buffer.len())));
        }
        Ok(Self { shape: shape.to_vec(), storage: Storage::Device(buffer) })
    }

    /// Where the buffer lives.
    pub fn device(&self) -> Device {
        self.gpu().map_or(Device::Cpu, |gpu| gpu.device())
    }

    /// The GPU that it is on, `None` in host memory.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.storage {
            Storage::Host(_) => None,
            Storage::Device(buffer) => Some(buffer.gpu()),
        }
    }

    /// The buffer of a tensor on a GPU.
    ///
    /// # Errors
    /// A tensor in host memory.
    pub(crate) fn buffer(&self) -> Result<&Arc<DeviceBuffer<f32>>> {
        match &self.storage {
            Storage::Host(_) => Err(Error::shape("tensor", format!("{:?} is not on the GPU", self.shape))),
            Storage::Device(buffer) => Ok(buffer),
        }
    }

    /// The same values on a GPU; shared where it is there already. `what` names it in errors.
    ///
    /// # Errors
    /// The device's: out of memory above all.
    pub fn to_device(&self, gpu: &Arc<Gpu>, what: &str) -> Result<Self> {
        match &self.storage {
            Storage::Host(data) => Self::from_buffer(&self.shape, Arc::new(gpu.upload(what, data)?)),
            Storage::Device(buffer) if Arc::ptr_eq(buffer.gpu(), gpu) => Ok(self.clone()),
            Storage::Device(_) => self.to_host()?.to_device(gpu, what),
        }
    }

    /// The same values in host memory; shared where it is there already. Waits for the work that makes them.
    ///
    /// # Errors
    /// The device's: also what went wrong in a kernel before.
    pub fn to_host(&self) -> Result<Self> {
        match &self.storage {
            Storage::Host(_) => Ok(self.clone()),
            Storage::Device(buffer) => Self::new(&self.shape, buffer.gpu().download(buffer)?),
        }
    }

    /// The same values where `gpu` says.
    ///
    /// # Errors
    /// As [`Tensor::to_device`] and [`Tensor::to_host`].
    pub fn to_place(&self, gpu: Option<&Arc<Gpu>>, what: &str) -> Result<Self> {
        gpu.map_or_else(|| self.to_host(), |gpu| self.to_device(gpu, what))
    }

    /// The elements, row-major, of a tensor in host memory.
    ///
    /// # Panics
    /// A tensor on a GPU.
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Host(data) => data,
            Storage::Device(_) => panic!("{ON_DEVICE}"),
        }
    }

    /// The elements for writing; the buffer is copied first when a clone shares it. Panics as [`Tensor::data`] does.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Host(data) => Arc::<Vec<f32>>::make_mut(data),
            Storage::Device(_) => panic!("{ON_DEVICE}"),
        }
    }

    /// The elements by value; copied only when a clone shares the buffer. Panics as [`Tensor::data`] does.
    pub fn into_data(self) -> Vec<f32> {
        match self.storage {
            Storage::Host(data) => Arc::try_unwrap(data).unwrap_or_else(|shared| (*shared).clone()),
            Storage::Device(_) => panic!("{ON_DEVICE}"),
        }
    }

    /// The buffer of a tensor on a GPU for writing; it is copied first when a clone shares it. `what` names the copy in
    /// errors.
    ///
    /// # Errors
    /// A tensor in host memory; the device's.
    pub(crate) fn buffer_mut(&mut self, what: &str) -> Result<&Arc<DeviceBuffer<f32>>> {
        let shared = self.buffer()?;
        if Arc::strong_count(shared) > 1 {
            let copy = shared.gpu().duplicate(what, shared)?;
            self.storage = Storage::Device(Arc::new(copy));
        }
        self.buffer()
    }

    /// The buffer of a tensor on a GPU by value, and whether nobody else holds it, so that it may be written to.
    ///
    /// # Errors
    /// A tensor in host memory.
    pub(crate) fn into_buffer(self) -> Result<(Arc<DeviceBuffer<f32>>, bool)> {
        let buffer = Arc::clone(self.buffer()?);
        drop(self);
        let alone = Arc::strong_count(&buffer) == 1;
        Ok((buffer, alone))
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if element_count(shape)? != self.len() {
            return Err(Error::shape("reshape", format!("{:?} cannot become {shape:?}", self.shape)));
        }
        Ok(Self { shape: shape.to_vec(), storage: self.storage.clone() })
    }

    /// The only element of a tensor with one element, wherever it is.
    ///
    /// # Errors
    /// A tensor of another size; the device's.
    pub fn item(&self) -> Result<f32> {
        match self.to_host()?.data() {
            [value] => Ok(*value),
            _ => Err(Error::shape("item", format!("{:?} is not a single number", self.shape))),
        }
    }

    /// As [`Tensor::item`], without waiting for it now.
    ///
    /// # Errors
    /// As [`Tensor::item`].
    pub fn item_later(&self) -> Result<Later<f32>> {
        match &self.storage {
            Storage::Device(buffer) if self.len() == 1 => {
                Ok(buffer.gpu().download_later(buffer)?.map(|values| values[0]))
            }
            _ => self.item().map(Later::now),
        }
    }

    /// The four sizes of an N×H×W×C activation. `operation` names who asks, for the error.
    pub fn nhwc(&self, operation: &str) -> Result<[usize; 4]> {
        <[usize; 4]>::try_from(self.shape.as_slice())
            .map_err(|_| Error::shape(operation, format!("N×H×W×C expected, the tensor is {:?}", self.shape)))
    }

    /// Whether every element is a number, neither NaN nor infinite. Panics as [`Tensor::data`] does.
    pub fn is_finite(&self) -> bool {
        // Whole blocks without an early end, so that many values are looked at together.
        self.data().chunks(1024).all(|block| block.iter().fold(true, |all, v| all & v.is_finite()))
    }
}

/// Where an operation computes: on the GPU that all its inputs are on, or, with `None`, on the CPU.
///
/// # Errors
/// Inputs in different places: names the operation.
pub(crate) fn place<'a>(operation: &str, inputs: &[&'a Tensor]) -> Result<Option<&'a Arc<Gpu>>> {
    let Some((first, rest)) = inputs.split_first() else { return Ok(None) };
    match rest.iter().find(|other| other.device() != first.device()) {
        None => Ok(first.gpu()),
        Some(other) => {
            let message = format!(
                "{:?} is on device `{}`, {:?} on `{}`: an operation's inputs must be in one place",
                first.shape,
                first.device(),
                other.shape,
                other.device()
            );
            Err(Error::shape(operation, message))
        }
    }
}

/// Equal shapes and values in host memory; on a GPU, whose values cannot be seen from here, the same buffer.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape
            && match (&self.storage, &other.storage) {
                (Storage::Host(a), Storage::Host(b)) => a == b,
                (Storage::Device(a), Storage::Device(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(gpu) = self.gpu() {
            return write!(f, "Tensor{:?} on {}", self.shape, gpu.device());
        }
        let head = &self.data()[..self.len().min(6)];
        write!(f, "Tensor{:?} {head:?}{}", self.shape, if self.len() > 6 { "…" } else { "" })
    }
}

/// Product of the sizes, or an error when it overflows.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| Error::shape("tensor", format!("the size of {shape:?} overflows")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_written() {
        let a = Tensor::new(&[2, 2], vec![1., 2., 3., 4.]).unwrap();
        let mut b = a.clone();
        b.data_mut()[0] = 9.0;
        assert_eq!(a.data(), [1., 2., 3., 4.]);
        assert_eq!(b.data(), [9., 2., 3., 4.]);
        assert_eq!(b.reshape(&[4]).unwrap().shape(), [4]);
    }

    #[test]
    fn wrong_sizes_are_errors() {
        assert!(Tensor::new(&[3], vec![0.0; 4]).is_err());
        assert!(Tensor::new(&[usize::MAX, 2], vec![]).is_err());
        assert!(Tensor::zeros(&[2]).reshape(&[3]).is_err());
        assert!(Tensor::zeros(&[2]).item().is_err());
        assert_eq!(Tensor::scalar(2.5).item().unwrap(), 2.5);
    }
}
