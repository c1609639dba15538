// target sm_75
//
// Sums of a vector, f32, in a fixed tree: same bytes on every run, whatever order the blocks run in.
//
// rung  kernel                idea                                                     bounded by
// 0     sum_serial_f32        one thread adds everything                               latency: an add and a load at a time
// 1     sum_blocks_f32        each block sums its own range; a second launch of        memory: 4 B a value, read once
//       sum_serial's kind adds the blocks' sums
#include "common.cuh"

constexpr int SUM_THREADS = 256;
constexpr int SUM_PER_THREAD = 16;                           // values a thread adds before the tree
constexpr int SUM_RANGE = SUM_THREADS * SUM_PER_THREAD;      // values a block adds

// out[0] = Σ x. Grid 1, block 1.
extern "C" __global__ void __launch_bounds__(1) sum_serial_f32(const float *__restrict__ x, float *__restrict__ out, int count) {
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) sum += x[i];
    out[0] = sum;
}

// out[b] = Σ of x over range b of SUM_RANGE values. Grid ⌈count / 4096⌉, block 256.
extern "C" __global__ void __launch_bounds__(SUM_THREADS) sum_blocks_f32(const float *__restrict__ x, float *__restrict__ out, int count) {
    __shared__ float scratch[SUM_THREADS / WARP];
    const int start = blockIdx.x * SUM_RANGE + threadIdx.x * 4;
    float sum = 0.0f;
#pragma unroll
    for (int step = 0; step < SUM_PER_THREAD / 4; ++step) {
        const int i = start + step * SUM_THREADS * 4;
        if (i + 3 < count) {
            const float4 v = *(const float4 *)(x + i);
            sum += (v.x + v.y) + (v.z + v.w);
        } else {
            for (int j = i; j < count; ++j) sum += x[j];
        }
    }
    sum = block_sum<SUM_THREADS>(sum, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
