//! Tensors whose elements lie in a storage at any strides: PyTorch's views, NumPy's column order.

use std::path::Path;

use super::elements::{Budget, ByteOrder, Dtype, shown};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Where a tensor's elements lie in its storage: element (i₀, i₁, …) at `offset + Σ iₖ·strideₖ`.
pub(crate) struct Strided {
    /// The first element.
    pub offset: usize,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
}

impl Strided {
    /// An array whose first index is fastest.
    pub fn columns(shape: &[usize]) -> Self {
        let strides = (0..shape.len())
            .map(|d| shape[..d].iter().fold(1usize, |product, &size| product.saturating_mul(size)))
            .collect();
        Self { offset: 0, shape: shape.to_vec(), strides }
    }

    /// Gathers the elements from a storage's bytes, last index fastest.
    ///
    /// # Errors
    /// An element beyond the storage; more elements than the file warrants (a stride of 0 repeats them).
    pub fn gather(
        &self,
        path: &Path,
        name: &str,
        dtype: Dtype,
        bytes: &[u8],
        order: ByteOrder,
        budget: &mut Budget,
    ) -> Result<Tensor> {
        let size = dtype.size();
        let (mut data, count) = budget.take(path, name, &self.shape)?;
        if self.strides.len() != self.shape.len()
            || count > 0 && self.last().is_none_or(|l| l >= bytes.len() / size)
        {
            let message = format!(
                "{} {:?} with strides {:?} from {} does not fit its {} elements",
                shown(name),
                self.shape,
                self.strides,
                self.offset,
                bytes.len() / size
            );
            return Err(Error::malformed(path, message).remedy("the file is damaged: fetch it again"));
        }
        if count > 0 && self.is_contiguous() {
            dtype.decode(&bytes[self.offset * size..][..count * size], order, &mut data);
        } else {
            let mut index = vec![0usize; self.shape.len()];
            let mut at = self.offset;
            for _ in 0..count {
                dtype.decode(&bytes[at * size..][..size], order, &mut data);
                for d in (0..index.len()).rev() {
                    index[d] += 1;
                    at += self.strides[d];
                    if index[d] < self.shape[d] {
                        break;
                    }
                    at -= self.strides[d] * self.shape[d];
                    index[d] = 0;
                }
            }
        }
        Tensor::new(&self.shape, data)
    }

    /// The last element that is used; `None` when it overflows. Only for tensors that are not empty.
    fn last(&self) -> Option<usize> {
        self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (&size, &stride)| {
            // The walk above steps once beyond the end of a dimension before it turns back.
            stride.checked_mul(size)?.checked_add(at)?;
            at.checked_add(stride.checked_mul(size.checked_sub(1)?)?)
        })
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}
