// Sums, four ways.
#include "../cuda.cuh"

// A tree in shared memory, a barrier a level.
KERNEL reduce_shared(const float *in, float *out, u32 n) {
    __shared__ float sums[128];
    u32 t = threadIdx.x;
    float v = 0.0f;
    for (u32 i = blockIdx.x * 128 + t; i < n; i += gridDim.x * 128) v += in[i];
    sums[t] = v;
    __syncthreads();
    for (u32 half = 64; half > 0; half /= 2) {
        if (t < half) sums[t] += sums[t + half];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = sums[0];
}

INLINE float warp_sum(float v) {
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
    return v;
}

// Shuffles inside the warps, then one warp over the warps' sums; vector loads.
KERNEL reduce_shuffle(const float *in, float *out, u32 n) {
    __shared__ float sums[4];
    u32 t = threadIdx.x;
    float v = 0.0f;
    for (u32 i = (blockIdx.x * 128 + t) * 4; i + 3 < n; i += gridDim.x * 512) {
        float4 four = *(const float4 *)(in + i);
        v += (four.x + four.y) + (four.z + four.w);
    }
    v = warp_sum(v);
    if (t % 32 == 0) sums[t / 32] = v;
    __syncthreads();
    if (t < 4) {
        v = sums[t];
        v += __shfl_xor_sync(0xf, v, 2);
        v += __shfl_xor_sync(0xf, v, 1);
        if (t == 0) out[blockIdx.x] = v;
    }
}

// One kernel for the whole sum: the block that arrives last adds up the parts.
KERNEL reduce_last_block(const float *in, float *parts, u32 *arrived, float *out, u32 n) {
    __shared__ float sums[4];
    __shared__ bool last;
    u32 t = threadIdx.x;
    float v = 0.0f;
    for (u32 i = blockIdx.x * 128 + t; i < n; i += gridDim.x * 128) v += in[i];
    v = warp_sum(v);
    if (t % 32 == 0) sums[t / 32] = v;
    __syncthreads();
    if (t == 0) {
        parts[blockIdx.x] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        __threadfence();
        last = atomicAdd(arrived, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    if (t < 32) {
        v = 0.0f;
        for (u32 i = t; i < gridDim.x; i += 32) v += ((volatile float *)parts)[i];
        v = warp_sum(v);
        if (t == 0) *out = v;
    }
}

// Integers with redux and one atomic a warp: exact in any order.
KERNEL reduce_atomic(const u32 *in, u32 *out, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 sum = __reduce_add_sync(FULL, i < n ? in[i] : 0);
    if (threadIdx.x % 32 == 0) atomicAdd(out, sum);
}

// The maximum of a row and the sum of exponents in one pass, as in softmax; base 2.
KERNEL softmax_rows(const float *in, float *out, u32 width) {
    u32 lane = threadIdx.x, row = blockIdx.x;
    const float *x = in + row * width;
    float most = -3.0e38f, sum = 0.0f;
    for (u32 i = lane; i < width; i += 32) {
        float v = x[i], larger = v > most ? v : most;
        sum = sum * __nvvm_ex2_approx_f(most - larger) + __nvvm_ex2_approx_f(v - larger);
        most = larger;
    }
    for (int by = 16; by > 0; by /= 2) {
        float m = __shfl_xor_sync(FULL, most, by), s = __shfl_xor_sync(FULL, sum, by);
        float larger = m > most ? m : most;
        sum = sum * __nvvm_ex2_approx_f(most - larger) + s * __nvvm_ex2_approx_f(m - larger);
        most = larger;
    }
    for (u32 i = lane; i < width; i += 32) out[row * width + i] = __nvvm_ex2_approx_f(x[i] - most) / sum;
}
