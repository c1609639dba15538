// target sm_75
//
// Bilinear resize of N×H×W×C to N×H'×W'×C (src/ops/resize has the equations). One rung each, bounded by memory.
//
//       bilinear_resize_f32            four reads of x a value of y, most of them cache hits
//       bilinear_resize_backward_f32   the transpose as a gather: a source pixel adds the outputs that read it, which lie in
//                                      one range each way, row by row: no atomics
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

// Along one axis, for each output position: the two source positions and the weight of the second. The launcher works
// them out in f64, as the CPU does.
struct Tap {
    int low, high;
    float weight;
};
// For each source position: the outputs that read it, first and one past the last.
struct Span {
    int first, end;
};
// Weight of source position `at` in an output; both taps are one position at a border.
__device__ __forceinline__ float share(const Tap &tap, int at) {
    return (tap.low == at ? 1.0f - tap.weight : 0.0f) + (tap.high == at ? tap.weight : 0.0f);
}

} // namespace

// One thread a value of y; rows H', columns W'. Grid ⌈N·H'·W'·C / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
bilinear_resize_f32(const float *__restrict__ x, const Tap *__restrict__ rows, const Tap *__restrict__ columns, float *__restrict__ y,
                    int images, int height, int width, int channels, int out_height, int out_width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= images * out_height * out_width * channels) return;
    const int c = index % channels, pixel = index / channels;
    const int q = pixel % out_width, p = pixel / out_width % out_height, n = pixel / out_width / out_height;
    const Tap row = rows[p], column = columns[q];
    const float *above = x + (n * height + row.low) * width * channels + c, *below = x + (n * height + row.high) * width * channels + c;
    const float left = fmaf(row.weight, below[column.low * channels] - above[column.low * channels], above[column.low * channels]);
    const float right = fmaf(row.weight, below[column.high * channels] - above[column.high * channels], above[column.high * channels]);
    y[index] = fmaf(column.weight, right - left, left);
}

// One thread a value of dx; row spans H, column spans W. Grid ⌈N·H·W·C / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
bilinear_resize_backward_f32(const float *__restrict__ dy, const Tap *__restrict__ rows, const Tap *__restrict__ columns,
                             const Span *__restrict__ row_spans, const Span *__restrict__ column_spans, float *__restrict__ dx,
                             int images, int height, int width, int channels, int out_height, int out_width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= images * height * width * channels) return;
    const int c = index % channels, pixel = index / channels;
    const int column = pixel % width, row = pixel / width % height, n = pixel / width / height;
    const Span down = row_spans[row], across = column_spans[column];
    float sum = 0.0f;
    for (int p = down.first; p < down.end; ++p) {
        float line = 0.0f;
        for (int q = across.first; q < across.end; ++q)
            line = fmaf(share(columns[q], column), dy[((n * out_height + p) * out_width + q) * channels + c], line);
        sum = fmaf(share(rows[p], row), line, sum);
    }
    dx[index] = sum;
}
