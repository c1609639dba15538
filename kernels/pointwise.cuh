// What works value by value: four values a thread in 16-byte pieces, whatever the number of channels, since pieces follow
// memory and not pixels. Arrays are aligned to 16 bytes; a kernel's target may be one of its sources.
#pragma once
#include "common.cuh"

namespace {

constexpr int POINT_THREADS = 256;

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
