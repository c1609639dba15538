// target sm_75
//
// Batch normalisation over the channels of R pixels × C, with the ReLU that follows it (src/ops/batch_norm has the
// equations). Either way y = a·x + b, max(0, ·) by channel; *frozen*, a and b follow from given statistics, *learning* from
// the batch's own, and the gradient runs through them.
//
// One rung each. Sums over pixels are taken over ranges of 512 in f32, in a fixed tree, and the ranges are joined in f64, in
// order. All are bounded by memory but the joins, which read little; the bytes a value are named.
//
//       batch_norm_coefficients_f32        1/√(σ² + ε), a, b from γ, β, μ, σ²: C threads
//       batch_norm_f32                     y = a·x + b, and max(0, ·)                        8 bytes
//       batch_norm_backward_f32            dx = a·dy where y > 0                             12 bytes (8 without ReLU)
//       batch_norm_moments_f32             Σ (x − x₀), Σ (x − x₀)² a range, x₀ a channel's   4 bytes
//                                          first value: a mean far from 0 costs no digits
//       batch_norm_statistics_f32          μ, σ², 1/√(σ² + ε), a, b from those
//       batch_norm_gradient_sums_f32       Σ g, Σ g·x̂ a range, g = dy where y > 0            12 bytes
//       batch_norm_gradient_f32            dβ, dγ from those, and p, q of
//       batch_norm_learning_backward_f32   dx = a·g + p·x + q                                16 bytes
#include "pointwise.cuh"

namespace {

// a·x + b with two roundings, as on the CPU: with b = β − a·μ a channel whose values are all μ becomes β exactly. Fused, it
// would become β and the rounding of a·μ, whose sign then decides for a ReLU.
__device__ __forceinline__ float affine(float a, float x, float b) { return __fadd_rn(__fmul_rn(a, x), b); }

constexpr float BATCH_NORM_EPSILON = 1e-5f; // as in src/ops/batch_norm
constexpr int RANGE = 512, LINES = 8;       // pixels of a range; pixels that a block takes at a time
constexpr int THREADS = LINES * WARP;       // a line of 32 channels a warp

// Adds up each lane's pair over the block's lines, in their order; only line 0 has the sum.
template <class T> struct Pair {
    T first, second;
};
template <class T> __device__ __forceinline__ Pair<T> join_lines(Pair<T> own, T (&scratch)[2][LINES][WARP]) {
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    scratch[0][line][lane] = own.first, scratch[1][line][lane] = own.second;
    __syncthreads();
    if (line == 0)
#pragma unroll
        for (int other = 1; other < LINES; ++other) {
            own.first += scratch[0][other][lane];
            own.second += scratch[1][other][lane];
        }
    return own;
}

// The sums of all ranges for channel c, in f64: line l adds ranges l, l + 8, …, then the lines are joined in order.
__device__ __forceinline__ Pair<double> join_ranges(const float *__restrict__ parts, int ranges, int channels, int c,
                                                    double (&scratch)[2][LINES][WARP]) {
    Pair<double> sum = {0.0, 0.0};
    if (c < channels)
        for (int range = threadIdx.x / WARP; range < ranges; range += LINES) {
            sum.first += double(parts[2 * range * channels + c]);
            sum.second += double(parts[(2 * range + 1) * channels + c]);
        }
    return join_lines(sum, scratch);
}

} // namespace

// ---- frozen ---------------------------------------------------------------------------------------------------------

// Grid ⌈C / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_coefficients_f32(const float *__restrict__ scale, const float *__restrict__ shift, const float *__restrict__ mean,
                            const float *__restrict__ variance, float *__restrict__ inverse, float *__restrict__ a,
                            float *__restrict__ b, int channels) {
    const int c = blockIdx.x * POINT_THREADS + threadIdx.x;
    if (c >= channels) return;
    const float i = 1.0f / sqrtf(variance[c] + BATCH_NORM_EPSILON), factor = scale[c] * i;
    inverse[c] = i;
    a[c] = factor;
    b[c] = affine(-factor, mean[c], shift[c]);
}

// count = pixels·C values. Grid ⌈count / 1024⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_f32(const float *x, const float *__restrict__ a, const float *__restrict__ b, float *y, int count, int channels, int with_relu) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
    int c = i % channels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        f.v[j] = affine(a[c], f.v[j], b[c]);
        if (with_relu) f.v[j] = relu(f.v[j]);
        c = c + 1 == channels ? 0 : c + 1;
    }
    write(y, i, count, f);
}

// y is null where no ReLU followed.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_backward_f32(const float *dy, const float *y, const float *__restrict__ a, float *dx, int count, int channels) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(dy, i, count);
    if (y) {
        const Four passed = read(y, i, count);
#pragma unroll
        for (int j = 0; j < 4; ++j) f.v[j] = passed.v[j] > 0.0f ? f.v[j] : 0.0f;
    }
    int c = i % channels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        f.v[j] *= a[c];
        c = c + 1 == channels ? 0 : c + 1;
    }
    write(dx, i, count, f);
}

// ---- learning -------------------------------------------------------------------------------------------------------

// parts[range, 0 and 1, c]. Grid (⌈C / 32⌉, ⌈R / 512⌉), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_moments_f32(const float *__restrict__ x, float *__restrict__ parts, int rows, int channels) {
    __shared__ float scratch[2][LINES][WARP];
    const int c = blockIdx.x * WARP + threadIdx.x % WARP;
    const int end = min(rows, int(blockIdx.y + 1) * RANGE);
    Pair<float> sum = {0.0f, 0.0f};
    if (c < channels) {
        const float origin = x[c];
        for (int row = blockIdx.y * RANGE + threadIdx.x / WARP; row < end; row += LINES) {
            const float v = x[row * channels + c] - origin;
            sum.first += v;
            sum.second = fmaf(v, v, sum.second);
        }
    }
    sum = join_lines(sum, scratch);
    if (threadIdx.x >= WARP || c >= channels) return;
    parts[2 * blockIdx.y * channels + c] = sum.first;
    parts[(2 * blockIdx.y + 1) * channels + c] = sum.second;
}

// Of the batch, C each: mean, unbiased variance, 1/√(σ² + ε) with the biased one, a, b. Grid ⌈C / 32⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_statistics_f32(const float *__restrict__ x, const float *__restrict__ parts, const float *__restrict__ scale,
                          const float *__restrict__ shift, float *__restrict__ mean, float *__restrict__ unbiased,
                          float *__restrict__ inverse, float *__restrict__ a, float *__restrict__ b, int ranges, int rows, int channels) {
    __shared__ double scratch[2][LINES][WARP];
    const int c = blockIdx.x * WARP + threadIdx.x % WARP;
    const Pair<double> sum = join_ranges(parts, ranges, channels, c, scratch);
    if (threadIdx.x >= WARP || c >= channels) return;
    const double offset = sum.first / rows;
    const double biased = sum.second / rows - offset * offset;
    const float variance = biased > 0.0 ? float(biased) : 0.0f;
    const float m = float(double(x[c]) + offset), i = 1.0f / sqrtf(variance + BATCH_NORM_EPSILON), factor = scale[c] * i;
    mean[c] = m;
    unbiased[c] = variance * (float(rows) / float(rows - 1));
    inverse[c] = i;
    a[c] = factor;
    b[c] = affine(-factor, m, shift[c]);
}

// parts as above. y is null where no ReLU followed. Grid (⌈C / 32⌉, ⌈R / 512⌉), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_gradient_sums_f32(const float *__restrict__ dy, const float *__restrict__ y, const float *__restrict__ x,
                             const float *__restrict__ mean, const float *__restrict__ inverse, float *__restrict__ parts, int rows,
                             int channels) {
    __shared__ float scratch[2][LINES][WARP];
    const int c = blockIdx.x * WARP + threadIdx.x % WARP;
    const int end = min(rows, int(blockIdx.y + 1) * RANGE);
    Pair<float> sum = {0.0f, 0.0f};
    if (c < channels) {
        const float m = mean[c], i = inverse[c];
        for (int row = blockIdx.y * RANGE + threadIdx.x / WARP; row < end; row += LINES) {
            const int at = row * channels + c;
            const float g = !y || y[at] > 0.0f ? dy[at] : 0.0f;
            sum.first += g;
            sum.second = fmaf(g, (x[at] - m) * i, sum.second);
        }
    }
    sum = join_lines(sum, scratch);
    if (threadIdx.x >= WARP || c >= channels) return;
    parts[2 * blockIdx.y * channels + c] = sum.first;
    parts[(2 * blockIdx.y + 1) * channels + c] = sum.second;
}

// Grid ⌈C / 32⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_gradient_f32(const float *__restrict__ parts, const float *__restrict__ mean, const float *__restrict__ inverse,
                        const float *__restrict__ a, float *__restrict__ d_scale, float *__restrict__ d_shift, float *__restrict__ p,
                        float *__restrict__ q, int ranges, int rows, int channels) {
    __shared__ double scratch[2][LINES][WARP];
    const int c = blockIdx.x * WARP + threadIdx.x % WARP;
    const Pair<double> sum = join_ranges(parts, ranges, channels, c, scratch);
    if (threadIdx.x >= WARP || c >= channels) return;
    const float all = float(sum.first), product = float(sum.second), pixels = float(rows);
    const float slope = -a[c] * inverse[c] * (product / pixels);
    d_shift[c] = all;
    d_scale[c] = product;
    p[c] = slope;
    q[c] = fmaf(-slope, mean[c], -a[c] * (all / pixels));
}

// Grid ⌈count / 1024⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_learning_backward_f32(const float *dy, const float *y, const float *__restrict__ x, const float *__restrict__ a,
                                 const float *__restrict__ p, const float *__restrict__ q, float *dx, int count, int channels) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(dy, i, count);
    const Four source = read(x, i, count);
    if (y) {
        const Four passed = read(y, i, count);
#pragma unroll
        for (int j = 0; j < 4; ++j) f.v[j] = passed.v[j] > 0.0f ? f.v[j] : 0.0f;
    }
    int c = i % channels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        f.v[j] = fmaf(a[c], f.v[j], fmaf(p[c], source.v[j], q[c]));
        c = c + 1 == channels ? 0 : c + 1;
    }
    write(dx, i, count, f);
}
