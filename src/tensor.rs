//! Tensors: a shape, a buffer of f32, and the device that the buffer lives on.
//!
//! Layout is row-major. Activations are N×H×W×C (channels last), convolution weights O×KH×KW×I,
//! so that a pixel's feature vector is contiguous. A tensor's buffer is shared by clones
//! (reference-counted) and copied only when a shared one is written to.

use std::sync::Arc;

use crate::device::Device;
use crate::{Error, Result};

/// Elements a thread takes at a time where each is computed alone: few enough that small layers are shared out
/// evenly, enough to outweigh the handing over.
pub(crate) const CHUNK: usize = 1 << 14;

/// An n-dimensional array of f32 on one device. Cloning shares the buffer.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Clone, PartialEq)]
enum Storage {
    Cpu(Arc<Vec<f32>>),
}

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
        Ok(Self { shape: shape.to_vec(), storage: Storage::Cpu(Arc::new(data)) })
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
        Self { shape: shape.to_vec(), storage: Storage::Cpu(Arc::new(vec![value; len])) }
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

    /// Where the buffer lives.
    pub fn device(&self) -> Device {
        match self.storage {
            Storage::Cpu(_) => Device::Cpu,
        }
    }

    /// The elements, row-major, of a tensor on the CPU.
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(data) => data,
        }
    }

    /// The elements for writing; the buffer is copied first when a clone shares it.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Cpu(data) => Arc::<Vec<f32>>::make_mut(data),
        }
    }

    /// The elements by value; copied only when a clone shares the buffer.
    pub fn into_data(self) -> Vec<f32> {
        match self.storage {
            Storage::Cpu(data) => Arc::try_unwrap(data).unwrap_or_else(|shared| (*shared).clone()),
        }
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if element_count(shape)? != self.len() {
            return Err(Error::shape("reshape", format!("{:?} cannot become {shape:?}", self.shape)));
        }
        Ok(Self { shape: shape.to_vec(), storage: self.storage.clone() })
    }

    /// The only element of a tensor with one element.
    pub fn item(&self) -> Result<f32> {
        match self.data() {
            [value] => Ok(*value),
            _ => Err(Error::shape("item", format!("{:?} is not a single number", self.shape))),
        }
    }

    /// The four sizes of an N×H×W×C activation. `operation` names who asks, for the error.
    pub fn nhwc(&self, operation: &str) -> Result<[usize; 4]> {
        <[usize; 4]>::try_from(self.shape.as_slice())
            .map_err(|_| Error::shape(operation, format!("N×H×W×C expected, the tensor is {:?}", self.shape)))
    }

    /// Whether every element is a number, neither NaN nor infinite.
    pub fn is_finite(&self) -> bool {
        // Whole blocks without an early end, so that many values are looked at together.
        self.data().chunks(1024).all(|block| block.iter().fold(true, |all, v| all & v.is_finite()))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
