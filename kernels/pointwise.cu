// target sm_75
//
// What works value by value: activations, sums, conversions (src/ops/activation, elementwise and src/tape.rs have the
// equations).
//
// One rung each, bounded by memory; the bytes a value are named.
//
//       add_f32                       z = x + y                            12 bytes
//       relu_f32, elu_f32             y = f(x)                             8 bytes
//       relu_backward_f32             dx = dy where y > 0                  12 bytes
//       elu_backward_f32              dx = dy·(y > 0 ? 1 : y + 1)          12 bytes
//       scale_by_f32                  y = x·share[0]·g[0]: a loss's slopes 8 bytes
//                                     by the loss's own gradient
//       to_bf16, from_bf16            conversions                          6 bytes
#include "pointwise.cuh"

// Grids: ⌈count / 1024⌉ blocks of 256.

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

// g and share are one number each on the device, so that nothing waits for them; without a share it is 1.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
scale_by_f32(const float *x, const float *__restrict__ g, const float *__restrict__ share, float *y, int count) {
    const int i = first_value();
    if (i >= count) return;
    const float by = share ? share[0] * g[0] : g[0];
    Four f = read(x, i, count);
#pragma unroll
    for (int j = 0; j < 4; ++j) f.v[j] *= by;
    write(y, i, count, f);
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
