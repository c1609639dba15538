// target sm_75
//
// What works value by value: batch normalisation with known statistics, activations, sums, conversions, optimisers
// (src/ops/batch_norm, activation, elementwise and src/optim have the equations).
//
// One rung each: four values a thread in 16-byte pieces, whatever the number of channels, since pieces follow memory and
// not pixels. All are bounded by memory; the bytes a value are named.
//
//       batch_norm_coefficients_f32   a, b of y = a·x + b from γ, β, μ, σ²: a launch of C threads
//       batch_norm_f32                y = a·x + b, and max(0, ·)           8 bytes
//       batch_norm_backward_f32       dx = a·dy where y > 0                12 bytes (8 without ReLU)
//       add_f32                       z = x + y                            12 bytes
//       relu_f32, elu_f32             y = f(x)                             8 bytes
//       relu_backward_f32             dx = dy where y > 0                  12 bytes
//       elu_backward_f32              dx = dy·(y > 0 ? 1 : y + 1)          12 bytes
//       to_bf16, from_bf16            conversions                          6 bytes
//       sgd_f32                       momentum                             20 bytes
//       adam_f32                      with either kind of decay            28 bytes
#include "common.cuh"

namespace {

constexpr int POINT_THREADS = 256;
constexpr float BATCH_NORM_EPSILON = 1e-5f, ADAM_EPSILON = 1e-8f; // as in src/ops/batch_norm and src/optim

// Four neighbours; those past the end read as 0 and are not written.
struct Four {
    float v[4];
};
template <class T> __device__ __forceinline__ Four read(const T *p, int i, int count) {
    if (i + 4 <= count) {
        const float4 f = read_four(p + i);
        return {{f.x, f.y, f.z, f.w}};
    }
    Four f;
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] = i + j < count ? to_f32(p[i + j]) : 0.0f;
    return f;
}
template <class T> __device__ __forceinline__ void write(T *p, int i, int count, const Four &f) {
    if (i + 4 <= count) {
        write_four(p + i, make_float4(f.v[0], f.v[1], f.v[2], f.v[3]));
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
        if (i + j < count) from_f32(f.v[j], p[i + j]);
}

// The first of this thread's four values.
__device__ __forceinline__ int first_value() { return (blockIdx.x * POINT_THREADS + threadIdx.x) * 4; }

// A NaN comes through, as on the CPU.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }
__device__ __forceinline__ float elu(float x) { return x > 0.0f ? x : expm1_f32(x); }

} // namespace

// Grids: ⌈count / 1024⌉ blocks of 256, but for the first: ⌈C / 256⌉. Arrays are aligned to 16 bytes; the target of a
// kernel may be one of its sources.

// ---- batch normalisation --------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_coefficients_f32(const float *__restrict__ scale, const float *__restrict__ shift, const float *__restrict__ mean,
                            const float *__restrict__ variance, float *__restrict__ a, float *__restrict__ b, int channels) {
    const int c = blockIdx.x * POINT_THREADS + threadIdx.x;
    if (c >= channels) return;
    const float factor = scale[c] / sqrtf(variance[c] + BATCH_NORM_EPSILON);
    a[c] = factor;
    b[c] = fmaf(-factor, mean[c], shift[c]);
}

// count = pixels·C values.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
batch_norm_f32(const float *x, const float *__restrict__ a, const float *__restrict__ b, float *y, int count, int channels, int with_relu) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
    int c = i % channels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        f.v[j] = fmaf(a[c], f.v[j], b[c]);
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

// ---- sums and activations -------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(POINT_THREADS) add_f32(const float *x, const float *y, float *z, int count) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
    const Four g = read(y, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] += g.v[j];
    write(z, i, count, f);
}

extern "C" __global__ void __launch_bounds__(POINT_THREADS) relu_f32(const float *x, float *y, int count) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] = relu(f.v[j]);
    write(y, i, count, f);
}

extern "C" __global__ void __launch_bounds__(POINT_THREADS) elu_f32(const float *x, float *y, int count) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] = elu(f.v[j]);
    write(y, i, count, f);
}

extern "C" __global__ void __launch_bounds__(POINT_THREADS) relu_backward_f32(const float *dy, const float *y, float *dx, int count) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(dy, i, count);
    const Four g = read(y, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] = g.v[j] > 0.0f ? f.v[j] : 0.0f;
    write(dx, i, count, f);
}

extern "C" __global__ void __launch_bounds__(POINT_THREADS) elu_backward_f32(const float *dy, const float *y, float *dx, int count) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(dy, i, count);
    const Four g = read(y, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] *= g.v[j] > 0.0f ? 1.0f : g.v[j] + 1.0f;
    write(dx, i, count, f);
}

// ---- conversions ----------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(POINT_THREADS) to_bf16(const float *__restrict__ x, bf16 *__restrict__ y, int count) {
    const int i = first_value();
    if (i < count) write(y, i, count, read(x, i, count));
}

extern "C" __global__ void __launch_bounds__(POINT_THREADS) from_bf16(const bf16 *__restrict__ x, float *__restrict__ y, int count) {
    const int i = first_value();
    if (i < count) write(y, i, count, read(x, i, count));
}

// ---- optimisers -----------------------------------------------------------------------------------------------------

// v = momentum·v + (g + decay·w); w −= rate·v. The first step passes a momentum of 0 and may leave v unset.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
sgd_f32(float *__restrict__ w, const float *__restrict__ g, float *__restrict__ v, int count, float rate, float momentum, float decay) {
    const int i = first_value();
    if (i >= count) return;
    Four weight = read(w, i, count), velocity = {{0.0f, 0.0f, 0.0f, 0.0f}};
    const Four gradient = read(g, i, count);
    if (momentum != 0.0f) velocity = read(v, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        velocity.v[j] = fmaf(momentum, velocity.v[j], fmaf(decay, weight.v[j], gradient.v[j]));
        weight.v[j] = fmaf(-rate, velocity.v[j], weight.v[j]);
    }
    write(v, i, count, velocity);
    write(w, i, count, weight);
}

// m = b1·m + c1·g, v = b2·v + c2·g², w = shrink·w − rate·m / (√(v·v_hat) + 1e-8), with g + coupled·w for g. The launcher
// has 1 − b and the corrections for the step in f64: rate and v_hat contain them; `shrink` is decoupled decay.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
adam_f32(float *__restrict__ w, const float *__restrict__ g, float *__restrict__ m, float *__restrict__ v, int count, float b1, float c1,
         float b2, float c2, float rate, float v_hat, float coupled, float shrink) {
    const int i = first_value();
    if (i >= count) return;
    Four weight = read(w, i, count), mean = read(m, i, count), square = read(v, i, count);
    const Four gradient = read(g, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float slope = fmaf(coupled, weight.v[j], gradient.v[j]);
        mean.v[j] = fmaf(b1, mean.v[j], c1 * slope);
        square.v[j] = fmaf(b2, square.v[j], c2 * slope * slope);
        weight.v[j] = shrink * weight.v[j] - rate * mean.v[j] / (sqrtf(square.v[j] * v_hat) + ADAM_EPSILON);
    }
    write(m, i, count, mean);
    write(v, i, count, square);
    write(w, i, count, weight);
}
