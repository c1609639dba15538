// target sm_75
//
// The random walk on an affinity grid (src/ops/walk has the equations).
//
//   T = D⁻¹ W^∘β,  D_ii = 1 + Σ_j W_ij^β;   y = Tᵗ x
//
// W^∘β is symmetric with 2P neighbours a pixel at fixed offsets, so P planes hold all of it: with q = dy·w + dx,
//
//   (T x)_i = ( x_i + Σ_o [ A_o[i]·x_{i+q} + A_o[i−q]·x_{i−q} ] ) / D_ii
//
// A_o[i] = W(i, i+q)^β, 0 where there is no pair. If A_o[i−q] is not 0, the partner of pixel i−q is pixel i: rows need no
// bounds checks of their own, and zeros before each plane (`pad`, the largest q) serve for the upper border.
// planes P×(pad + h·w), x and y L×h×w.
//       walk_build_f32            makes those planes and 1/D of W and β           memory: 8 bytes a pair
// rung  kernel                    idea                                            bounded by
// 1     walk_step_f32             one launch a step; a thread one pixel of        launches and L2: 2 loads a plane, one
//                                 4 maps                                          a map and neighbour
// 3     walk_whole_2_f32          all steps in one launch, maps in shared memory  shared memory: 16 bytes a plane
//       walk_whole_4_f32          likewise, four maps a block                     planes are read half as often
// 5     walk_chebyshev_2_f32      x^t by Chebyshev's polynomials, stopped early   〃, with a quarter of the steps
//       walk_chebyshev_4_f32      likewise, four maps a block
#include "common.cuh"

namespace {

constexpr int PIXEL_THREADS = 256;
constexpr int STEP_MAPS = 4;        // maps a thread walks at once
constexpr int WHOLE_THREADS = 1024; // one block an SM: shared memory allows no second

// w^β; w in [0, 1]. Whole β up to 64 by squaring, which keeps its digits; others through e^{β·ln w}.
__device__ __forceinline__ float power(float w, float beta) {
    if (w < 1e-30f) return 0.0f; // below, w^β is 0 next to D ≥ 1 for every β ≥ ½
    const int whole = int(beta);
    if (float(whole) != beta || whole > 64) return exp_f32(beta * log_f32(w));
    float result = 1.0f;
    for (int rest = whole; rest > 0; rest >>= 1, w *= w)
        if (rest & 1) result *= w;
    return result;
}

__device__ __forceinline__ float weight(float affinity, float beta) {
    return affinity == affinity ? power(fminf(affinity, 1.0f), beta) : 0.0f; // NaN: no pair
}

} // namespace

// planes and inverse_degree (h·w) from affinities P×h×w, NaN where a pair does not exist. Grid ⌈(pad + h·w) / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(PIXEL_THREADS)
walk_build_f32(const float *__restrict__ affinities, const int *__restrict__ offsets, float *__restrict__ planes,
               float *__restrict__ inverse_degree, int height, int width, int plane_count, int pad, float beta) {
    const int pixels = height * width, i = int(blockIdx.x * PIXEL_THREADS + threadIdx.x) - pad;
    if (i >= pixels) return;
    float degree = 1.0f;
    const int y = i / width, x = i % width;
    for (int o = 0; o < plane_count; ++o) {
        const float *plane = affinities + o * pixels;
        const int dy = offsets[2 * o], dx = offsets[2 * o + 1];
        float ahead = 0.0f;
        if (i >= 0) {
            ahead = weight(plane[i], beta);
            degree += ahead;
            if (y >= dy && unsigned(x - dx) < unsigned(width)) degree += weight(plane[i - dy * width - dx], beta);
        }
        planes[o * (pad + pixels) + pad + i] = ahead;
    }
    if (i >= 0) inverse_degree[i] = 1.0f / degree;
}

// ---- rung 1 ---------------------------------------------------------------------------------------------------------

// y = T x for L maps. Grid (⌈h·w / 256⌉, ⌈L / 4⌉), block 256.
extern "C" __global__ void __launch_bounds__(PIXEL_THREADS)
walk_step_f32(const float *__restrict__ planes, const float *__restrict__ inverse_degree, const int *__restrict__ offsets,
              const float *__restrict__ x, float *__restrict__ y, int height, int width, int plane_count, int pad, int maps) {
    const int pixels = height * width, i = blockIdx.x * PIXEL_THREADS + threadIdx.x;
    if (i >= pixels) return;
    const int first = blockIdx.y * STEP_MAPS, count = min(STEP_MAPS, maps - first);
    const float *map = x + first * pixels + i;
    float sum[STEP_MAPS];
#pragma unroll
    for (int m = 0; m < STEP_MAPS; ++m) sum[m] = m < count ? map[m * pixels] : 0.0f;
    const float *plane = planes + pad + i;
#pragma unroll 2
    for (int o = 0; o < plane_count; ++o, plane += pad + pixels) {
        const int q = offsets[2 * o] * width + offsets[2 * o + 1];
        const float ahead = plane[0], behind = plane[-q];
        const bool has_ahead = unsigned(i + q) < unsigned(pixels), has_behind = unsigned(i - q) < unsigned(pixels); // q < 0 where w < 4
#pragma unroll
        for (int m = 0; m < STEP_MAPS; ++m) {
            if (m < count && has_ahead) sum[m] = fmaf(ahead, map[m * pixels + q], sum[m]);
            if (m < count && has_behind) sum[m] = fmaf(behind, map[m * pixels - q], sum[m]);
        }
    }
#pragma unroll
    for (int m = 0; m < STEP_MAPS; ++m)
        if (m < count) y[(first + m) * pixels + i] = sum[m] * inverse_degree[i];
}

// ---- rungs 3 and 5 --------------------------------------------------------------------------------------------------

// MAPS values of one pixel, one load.
template <int MAPS> struct alignas(4 * MAPS) Pixel {
    float v[MAPS];
};

// Shared memory: two buffers of pad + h·w + pad pixels, zeros in the pads.
template <int MAPS, bool CHEBYSHEV>
__device__ __forceinline__ void whole(const float *__restrict__ planes, const float *__restrict__ inverse_degree,
                                      const int *__restrict__ offsets, const float *__restrict__ coefficients, const float *__restrict__ x,
                                      float *__restrict__ y, int height, int width, int plane_count, int pad, int maps, int steps) {
    extern __shared__ float4 dynamic[];
    const int pixels = height * width, size = pixels + 2 * pad;
    const int first = blockIdx.x * MAPS, count = min(MAPS, maps - first);
    Pixel<MAPS> *now = (Pixel<MAPS> *)dynamic, *next = now + size;
    for (int i = threadIdx.x; i < size; i += WHOLE_THREADS) {
        Pixel<MAPS> p;
#pragma unroll
        for (int m = 0; m < MAPS; ++m) {
            const bool inside = unsigned(i - pad) < unsigned(pixels) && m < count;
            p.v[m] = inside ? x[(first + m) * pixels + i - pad] : 0.0f;
            if (inside && CHEBYSHEV) y[(first + m) * pixels + i - pad] = coefficients[0] * p.v[m];
        }
        now[i] = p;
        next[i] = p;
    }
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
        for (int i = threadIdx.x; i < pixels; i += WHOLE_THREADS) {
            const Pixel<MAPS> *at = now + pad + i;
            Pixel<MAPS> sum = *at;
            const float *plane = planes + pad + i;
#pragma unroll 2
            for (int o = 0; o < plane_count; ++o, plane += pad + pixels) {
                const int q = offsets[2 * o] * width + offsets[2 * o + 1];
                const float ahead = plane[0], behind = plane[-q];
                const Pixel<MAPS> a = at[q], b = at[-q];
#pragma unroll
                for (int m = 0; m < MAPS; ++m) sum.v[m] = fmaf(behind, b.v[m], fmaf(ahead, a.v[m], sum.v[m]));
            }
            const float scale = inverse_degree[i];
            if (!CHEBYSHEV) {
#pragma unroll
                for (int m = 0; m < MAPS; ++m) sum.v[m] *= scale;
            } else {
                // T_{k+1} = 2·x·T_k − T_{k−1}, and T_1 = x·T_0; the oldest is this thread's own to overwrite.
                const Pixel<MAPS> oldest = next[pad + i];
                const float c = coefficients[step + 1];
#pragma unroll
                for (int m = 0; m < MAPS; ++m) {
                    const float t = sum.v[m] * scale;
                    sum.v[m] = step == 0 ? t : fmaf(2.0f, t, -oldest.v[m]);
                    float &out = y[(first + m) * pixels + i];
                    if (m < count) out = fmaf(c, sum.v[m], out);
                }
            }
            next[pad + i] = sum;
        }
        __syncthreads();
        Pixel<MAPS> *swap = now;
        now = next;
        next = swap;
    }
    if (CHEBYSHEV) return;
    for (int i = threadIdx.x; i < pixels; i += WHOLE_THREADS)
#pragma unroll
        for (int m = 0; m < MAPS; ++m)
            if (m < count) y[(first + m) * pixels + i] = now[pad + i].v[m];
}

// y = T^steps x. Grid ⌈L / 2⌉, block 1024, dynamic shared memory 2·(h·w + 2·pad)·8 bytes; where a block has less, rung 1.
extern "C" __global__ void __launch_bounds__(WHOLE_THREADS)
walk_whole_2_f32(const float *__restrict__ planes, const float *__restrict__ inverse_degree, const int *__restrict__ offsets,
                 const float *__restrict__ x, float *__restrict__ y, int height, int width, int plane_count, int pad, int maps, int steps) {
    whole<2, false>(planes, inverse_degree, offsets, nullptr, x, y, height, width, plane_count, pad, maps, steps);
}
// Grid ⌈L / 4⌉, block 1024, dynamic shared memory 2·(h·w + 2·pad)·16 bytes.
extern "C" __global__ void __launch_bounds__(WHOLE_THREADS)
walk_whole_4_f32(const float *__restrict__ planes, const float *__restrict__ inverse_degree, const int *__restrict__ offsets,
                 const float *__restrict__ x, float *__restrict__ y, int height, int width, int plane_count, int pad, int maps, int steps) {
    whole<4, false>(planes, inverse_degree, offsets, nullptr, x, y, height, width, plane_count, pad, maps, steps);
}

// y = Σ_{k ≤ degree} coefficients[k]·T_k(T) x, launched as rung 3, dynamic shared memory likewise. The coefficients of x^t: c_k = 2^{1−t}·C(t, (t−k)/2) for
// t − k even (c_0 half of that), 0 for odd; |eigenvalues of T| ≤ 1: what is left out moves y by at most Σ_{k > degree} c_k of x, in the root mean square weighted by D.
extern "C" __global__ void __launch_bounds__(WHOLE_THREADS)
walk_chebyshev_2_f32(const float *__restrict__ planes, const float *__restrict__ inverse_degree, const int *__restrict__ offsets,
                     const float *__restrict__ coefficients, const float *__restrict__ x, float *__restrict__ y, int height, int width,
                     int plane_count, int pad, int maps, int degree) {
    whole<2, true>(planes, inverse_degree, offsets, coefficients, x, y, height, width, plane_count, pad, maps, degree);
}
// As rung 3 of 4 maps, dynamic shared memory likewise.
extern "C" __global__ void __launch_bounds__(WHOLE_THREADS)
walk_chebyshev_4_f32(const float *__restrict__ planes, const float *__restrict__ inverse_degree, const int *__restrict__ offsets,
                     const float *__restrict__ coefficients, const float *__restrict__ x, float *__restrict__ y, int height, int width,
                     int plane_count, int pad, int maps, int degree) {
    whole<4, true>(planes, inverse_degree, offsets, coefficients, x, y, height, width, plane_count, pad, maps, degree);
}
