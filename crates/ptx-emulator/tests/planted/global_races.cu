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

// A sum by atomics is read by every block as soon as it has added its own part.
// launch: grid=4 block=32 args=f32[128]=iota f32[1]=zeros f32[4]
// expect: global-race global
KERNEL atomic_sum_read_at_once(const float *in, float *sum, float *out) {
    float v = in[blockIdx.x * 32 + threadIdx.x];
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(FULL, v, by);
    if (threadIdx.x == 0) {
        atomicAdd(sum, v); // BUG
        out[blockIdx.x] = BUG_OR_REPAIR(*sum, v); // BUG
    }
}

// One block clears the counter that the others already add to.
// launch: grid=4 block=32 args=u32[128]=iota u32[1]=zeros
// expect: global-race global
KERNEL counter_cleared_by_one_block(const u32 *in, u32 *count) {
    u32 odd = __ballot_sync(FULL, in[blockIdx.x * 32 + threadIdx.x] & 1);
    ONLY_BUG(if (blockIdx.x == 2 && threadIdx.x == 0) *count = in[1] - 1;) // BUG
    if (threadIdx.x == 0) atomicAdd(count, (u32)__popc(odd)); // BUG
}

// Within a block: counts by atomics in global memory, read by other warps without a barrier.
// launch: grid=1 block=128 args=u32[128]=iota u32[8]=zeros u32[128]
// expect: global-race global block=0
KERNEL warps_read_counts_too_early(const u32 *in, u32 *bins, u32 *out) {
    u32 t = threadIdx.x;
    atomicAdd(bins + (in[t] & 7), 1u); // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[t] = bins[t & 7]; // BUG
}

// The block that arrives last adds up the parts; nothing makes the others' parts visible before their ticket.
// launch: grid=4 block=64 args=f32[256]=iota f32[4] u32[1]=zeros f32[1]
// expect: global-race global
// may: uninitialised-read global
KERNEL last_block_without_fence(const float *in, float *parts, u32 *arrived, float *out) {
    __shared__ bool is_last;
    u32 t = threadIdx.x;
    if (t == 0) {
        parts[blockIdx.x] = in[blockIdx.x * 64]; // BUG
        ONLY_REPAIRED(__threadfence();)
        is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last && t == 0) {
        float sum = 0.0f;
        for (u32 b = 0; b < gridDim.x; ++b) sum += parts[b]; // BUG
        out[0] = sum;
        *arrived = 0; // for the next launch: this block's ticket came after all others
    }
}

// The fence comes before what it is to make visible.
// launch: grid=4 block=64 args=f32[256]=iota f32[4] u32[1]=zeros f32[1]
// expect: global-race global
// may: uninitialised-read global
KERNEL last_block_with_an_early_fence(const float *in, float *parts, u32 *arrived, float *out) {
    __shared__ bool is_last;
    u32 t = threadIdx.x;
    if (t == 0) {
        float v = in[blockIdx.x * 64];
        ONLY_BUG(__threadfence();)
        parts[blockIdx.x] = v; // BUG
        ONLY_REPAIRED(__threadfence();)
        is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last && t == 0) {
        float sum = 0.0f;
        for (u32 b = 0; b < gridDim.x; ++b) sum += parts[b]; // BUG
        out[0] = sum;
    }
}

// The threads of the block write their parts, but only one of them has a barrier's worth of patience: the fence of thread 0
// says nothing of what other warps do.
// launch: grid=4 block=64 args=f32[256]=iota f32[256] u32[1]=zeros f32[1]
// expect: global-race global
// may: uninitialised-read global
KERNEL last_block_without_a_barrier(const float *in, float *parts, u32 *arrived, float *out) {
    u32 t = threadIdx.x, i = blockIdx.x * 64 + t;
    parts[i] = in[i] * 2.0f; // BUG
    ONLY_REPAIRED(__syncthreads();)
    if (t == 0) {
        __threadfence();
        if (atomicAdd(arrived, 1u) == gridDim.x - 1) {
            float sum = 0.0f;
            for (u32 k = 0; k < gridDim.x * 64; ++k) sum += parts[k]; // BUG
            out[0] = sum;
        }
    }
}
