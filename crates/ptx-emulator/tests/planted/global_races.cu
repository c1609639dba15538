// Global memory shared by warps or blocks of one launch with nothing that orders them.
#include "../cuda.cuh"

// Scratch in global memory, exchanged between two warps without a barrier.
// launch: grid=1 block=64 args=u32[64]=zeros u32[64]
// expect: global-race global block=0
KERNEL warps_exchange_without_barrier(u32 *scratch, u32 *out) {
    u32 t = threadIdx.x;
    scratch[t] = t * t; // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[t] = scratch[63 - t]; // BUG
}

// A neighbour is overwritten that another warp still has to read.
// launch: grid=1 block=64 args=f32[65]=iota u32:64
// expect: global-race global block=0
KERNEL warps_shift_in_place(float *data, u32 n) {
    u32 t = threadIdx.x;
    float next = data[t + 1]; // BUG
    ONLY_REPAIRED(__syncthreads();)
    data[t] = next; // BUG
}

// Each warp stores its maximum to the same word.
// launch: grid=1 block=128 args=u32[128]=iota u32[4]
// expect: global-race global block=0
KERNEL warps_write_one_word(const u32 *in, u32 *out) {
    u32 t = threadIdx.x, v = in[t];
    for (int by = 16; by > 0; by /= 2) {
        u32 other = __shfl_xor_sync(FULL, v, by);
        v = other > v ? other : v;
    }
    if (t % 32 == 0) out[BUG_OR_REPAIR(0, t / 32)] = v; // BUG
}

// A stencil in place: the halo belongs to the next block.
// launch: grid=4 block=32 args=f32[128]=iota f32[128] u32:128
// expect: global-race global
KERNEL blocks_stencil_in_place(float *data, float *out, u32 n) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    float v = data[i];                        // BUG
    if (i + 1 < n) v += data[i + 1];          // BUG
    BUG_OR_REPAIR(data, out)[i] = v * 0.5f;   // BUG
}

// Every block stores its own sum to the same word.
// launch: grid=4 block=32 args=f32[128]=iota f32[4]
// expect: global-race global
KERNEL blocks_write_one_word(const float *in, float *out) {
    float v = in[blockIdx.x * 32 + threadIdx.x];
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
    if (threadIdx.x == 0) out[BUG_OR_REPAIR(0, blockIdx.x)] = v; // BUG
}

// A sum over blocks by += in place of an atomic.
// launch: grid=4 block=32 args=f32[128]=iota f32[1]=zeros
// expect: global-race global
KERNEL blocks_add_without_atomic(const float *in, float *out) {
    float v = in[blockIdx.x * 32 + threadIdx.x];
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
    if (threadIdx.x == 0) {
        ONLY_BUG(*out += v;) // BUG
        ONLY_REPAIRED(atomicAdd(out, v);)
    }
}

// Split-K: both halves of the depth add to the same tile of C.
// launch: grid=1,1,2 block=8,4 args=f32[128]=random:1 f32[256]=random:2 f32[64]=zeros u32:32
// expect: global-race global
KERNEL split_k_into_one_tile(const float *a, const float *b, float *c, u32 depth) {
    u32 x = threadIdx.x, y = threadIdx.y, half = depth / 2;
    float sum = 0.0f;
    for (u32 k = blockIdx.z * half; k < (blockIdx.z + 1) * half; ++k) sum += a[y * depth + k] * b[k * 8 + x];
    c[BUG_OR_REPAIR(0, blockIdx.z * 32) + y * 8 + x] += sum; // BUG
}

// A grid-stride loop that strides by one block.
// launch: grid=2 block=32 args=f32[128]=iota f32[128] u32:128
// expect: global-race global
KERNEL blocks_overlap_in_a_grid_stride_loop(const float *in, float *out, u32 n) {
    u32 stride = blockDim.x * BUG_OR_REPAIR(1, gridDim.x);
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) out[i] = in[i] + blockIdx.x; // BUG
}

// A matrix transposed in place, tile by tile, by blocks that own one tile each.
// launch: grid=2,2 block=4,4 args=f32[64]=iota f32[64] u32:8
// expect: global-race global
KERNEL blocks_transpose_in_place(float *data, float *out, u32 n) {
    u32 x = blockIdx.x * 4 + threadIdx.x, y = blockIdx.y * 4 + threadIdx.y;
    float v = data[y * n + x];                  // BUG
    BUG_OR_REPAIR(data, out)[x * n + y] = v;    // BUG
}
