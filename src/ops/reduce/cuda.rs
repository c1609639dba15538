//! Sums on a GPU: the ladder of kernels in `kernels/reduce.cu`, and how each is launched.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, Rung, blocks, sizes};
use crate::tensor::Tensor;

/// The ladder, from plain to fast. Every rung takes every length.
pub const LADDER: &[Rung] = &[
    Rung {
        number: 0,
        name: "serial",
        kernel: "sum_serial_f32",
        idea: "one thread adds everything",
        bound: "latency: an add and a load at a time",
        takes: "every length",
    },
    Rung {
        number: 1,
        name: "blocks",
        kernel: "sum_blocks_f32",
        idea: "each block sums its own 4,096 values; the blocks' sums are summed likewise",
        bound: "memory: four bytes a value, read once",
        takes: "every length",
    },
];

/// Values that a block of rung 1 adds.
const RANGE: usize = 4096;

/// Σ x on a GPU by one rung: copied there, computed, copied back. The sum of nothing is 0.
///
/// # Errors
/// The device's.
pub fn sum(gpu: &Arc<Gpu>, rung: &Rung, values: &[f32]) -> Result<f32> {
    if values.is_empty() {
        return Ok(0.0);
    }
    let mut now: DeviceBuffer<f32> = gpu.upload("the values", values)?;
    loop {
        let (blocks, threads) = match rung.number {
            0 => (1, 1),
            _ => (now.len().div_ceil(RANGE), 256),
        };
        let out = gpu.allocate::<f32>("the sums", blocks)?;
        let geometry = Geometry { grid: [blocks as u32, 1, 1], threads, shared: 0 };
        let arguments = [(&now).into(), (&out).into(), Argument::size(now.len())?];
        // SAFETY: the buffers have the sizes that the kernel takes: the values, and one sum a block.
        unsafe { gpu.launch(rung.kernel, geometry, &arguments)? };
        if blocks == 1 {
            return Ok(gpu.download(&out)?[0]);
        }
        now = out;
    }
}

/// Rows that a block of `sum_rows_f32` adds.
const ROWS: usize = 512;

/// Σ over rows of a tensor on a GPU whose rows have so many columns: C sums.
pub(crate) fn sum_rows(values: &Tensor, columns: usize) -> Result<Tensor> {
    let buffer = values.buffer()?;
    let gpu = buffer.gpu();
    let rows = buffer.len() / columns.max(1);
    let ranges = rows.div_ceil(ROWS).max(1);
    let parts = gpu.allocate("sums of rows", ranges * columns)?;
    let geometry = Geometry { grid: [blocks(columns, 32)?, blocks(ranges, 1)?, 1], threads: 256, shared: 0 };
    let arguments = [&[buffer.into(), (&parts).into()][..], &sizes([rows, columns])?].concat();
    // SAFETY: rows·columns values, and one row of sums a range.
    unsafe { gpu.launch("sum_rows_f32", geometry, &arguments)? };
    Tensor::from_buffer(&[columns], Arc::new(sum_parts(gpu, &parts, ranges)?))
}

/// Σ_p parts[p, i] in the order of p, of so many parts of equal length.
pub(crate) fn sum_parts(
    gpu: &Arc<Gpu>,
    parts: &DeviceBuffer<f32>,
    count: usize,
) -> Result<DeviceBuffer<f32>> {
    let len = parts.len() / count;
    let out = gpu.allocate("a sum of parts", len)?;
    let arguments = [&[parts.into(), (&out).into()][..], &sizes([count, len])?].concat();
    // SAFETY: count·len values, and len sums.
    unsafe { gpu.launch("sum_parts_f32", Geometry::line(len, 256)?, &arguments)? };
    Ok(out)
}
