// Whole numbers across a warp and a block: prefix sums, and who has the same key. No atomics: all orders are fixed.
#pragma once
#include "common.cuh"

#ifdef __clang__
INTRINSIC unsigned __shfl_up_sync(unsigned mask, unsigned value, unsigned delta) {
    return unsigned(__nvvm_shfl_sync_up_i32(mask, int(value), delta, 0));
}
INTRINSIC unsigned __match_any_sync(unsigned mask, unsigned value) { return __nvvm_match_any_sync_i32(mask, value); }
INTRINSIC void __syncwarp(unsigned mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }
#endif

namespace {

__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % WARP; }

// Sum of the values of this lane and those below.
__device__ __forceinline__ unsigned warp_inclusive_scan(unsigned value) {
#pragma unroll
    for (int delta = 1; delta < WARP; delta *= 2) {
        const unsigned below = __shfl_up_sync(WHOLE_WARP, value, delta);
        if (lane_of_warp() >= delta) value += below;
    }
    return value;
}

// Sum of the values of all threads before this one, and of all. `scratch` has room for a value a warp.
template <int THREADS> __device__ __forceinline__ unsigned block_exclusive_scan(unsigned value, unsigned *scratch, unsigned &total) {
    const unsigned own = value, inclusive = warp_inclusive_scan(value);
    const int warp = threadIdx.x / WARP;
    __syncthreads(); // the scratch may still be read from the scan before
    if (lane_of_warp() == WARP - 1) scratch[warp] = inclusive;
    __syncthreads();
    unsigned before = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < THREADS / WARP; ++w) {
        before += w < warp ? scratch[w] : 0u;
        sum += scratch[w];
    }
    total = sum;
    return before + inclusive - own;
}

} // namespace
