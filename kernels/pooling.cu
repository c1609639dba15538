// target sm_75
//
// Averages over pixels of N×H×W×C (src/ops/pooling has the equations). One rung each, bounded by memory.
//
//       global_average_f32             y[n,c] = mean over the pixels of image n             4 bytes a value of x
//       global_average_backward_f32    dx[n,p,c] = dy[n,c] / pixels                         4 bytes
//       average_pooling_f32            mean over k×k blocks, zeros beyond the border        4 bytes
//       average_pooling_backward_f32   dx[n,y,x,c] = dy[n,⌊y/k⌋,⌊x/k⌋,c] / k²               4 bytes
#include "pointwise.cuh"

namespace {
constexpr int LINES = 8; // pixels that a block takes at a time
}

// Each thread adds every eighth pixel of its channel, then the 8 threads' sums are added in order. Grid (⌈C / 32⌉, N),
// block 256.
extern "C" __global__ void __launch_bounds__(LINES *WARP)
global_average_f32(const float *__restrict__ x, float *__restrict__ y, int pixels, int channels) {
    __shared__ float lines[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, c = blockIdx.x * WARP + lane;
    const float *image = x + blockIdx.y * pixels * channels;
    float sum = 0.0f;
    if (c < channels)
        for (int pixel = line; pixel < pixels; pixel += LINES) sum += image[pixel * channels + c];
    lines[line][lane] = sum;
    __syncthreads();
    if (line != 0 || c >= channels) return;
#pragma unroll
    for (int other = 1; other < LINES; ++other) sum += lines[other][lane];
    y[blockIdx.y * channels + c] = sum / float(pixels);
}

// count = N·pixels·C values. Grid ⌈count / 1024⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
global_average_backward_f32(const float *__restrict__ dy, float *__restrict__ dx, int count, int pixels, int channels) {
    const int i = first_value();
    if (i >= count) return;
    Four f;
    int c = i % channels, rest = i / channels % pixels, image = i / channels / pixels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        f.v[j] = i + j < count ? dy[image * channels + c] / float(pixels) : 0.0f;
        if (++c == channels) {
            c = 0;
            if (++rest == pixels) rest = 0, ++image;
        }
    }
    write(dx, i, count, f);
}

// One thread a value of y, which adds its block row by row. Grid ⌈N·⌈H/k⌉·⌈W/k⌉·C / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
average_pooling_f32(const float *__restrict__ x, float *__restrict__ y, int images, int height, int width, int channels, int k) {
    const int out_height = tiles(height, k), out_width = tiles(width, k);
    const int index = blockIdx.x * POINT_THREADS + threadIdx.x;
    if (index >= images * out_height * out_width * channels) return;
    const int c = index % channels, pixel = index / channels;
    const int q = pixel % out_width, p = pixel / out_width % out_height, n = pixel / out_width / out_height;
    float sum = 0.0f;
    for (int row = p * k; row < min(height, (p + 1) * k); ++row)
        for (int column = q * k; column < min(width, (q + 1) * k); ++column)
            sum += x[((n * height + row) * width + column) * channels + c];
    y[index] = sum * (1.0f / float(k * k));
}

// One thread a value of dx. Grid ⌈N·H·W·C / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
average_pooling_backward_f32(const float *__restrict__ dy, float *__restrict__ dx, int images, int height, int width, int channels, int k) {
    const int index = blockIdx.x * POINT_THREADS + threadIdx.x;
    if (index >= images * height * width * channels) return;
    const int c = index % channels, pixel = index / channels;
    const int column = pixel % width, row = pixel / width % height, n = pixel / width / height;
    const int from = (n * tiles(height, k) + row / k) * tiles(width, k) + column / k;
    dx[index] = dy[from * channels + c] * (1.0f / float(k * k));
}
