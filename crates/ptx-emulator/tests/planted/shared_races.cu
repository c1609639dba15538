// Two warps of a block meet in shared memory with no barrier between them. A race has two sides, and
// which of them comes second depends on the order of the warps: both lines are marked.
#include "../cuda.cuh"

// Reversal: the mirror image belongs to the other warp.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL read_after_write_reverse(const float *in, float *out) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t]; // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[t] = tile[63 - t]; // BUG
}

// Shift by one in place: a neighbour is overwritten before it was read.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: shared-race shared block=0
KERNEL write_after_read_shift(const float *in, float *out) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    __syncthreads();
    float next = tile[(t + 1) & 63]; // BUG
    ONLY_REPAIRED(__syncthreads();)
    tile[t] = next * 2.0f; // BUG
    __syncthreads();
    out[t] = tile[t];
}

// Each warp's first lane writes the same word.
// launch: grid=1 block=128 args=u32[1]
// expect: shared-race shared block=0
KERNEL write_after_write_flag(u32 *out) {
    __shared__ u32 last[4];
    u32 t = threadIdx.x;
    if (t % 32 == 0) last[BUG_OR_REPAIR(0, t / 32)] = t; // BUG
    __syncthreads();
    if (t == 0) out[0] = last[0];
}

// The barrier inside the loop of a tree reduction is missing.
// launch: grid=1 block=128 args=f32[128]=iota f32[1]
// expect: shared-race shared block=0
KERNEL reduction_without_inner_barrier(const float *in, float *out) {
    __shared__ float sums[128];
    u32 t = threadIdx.x;
    sums[t] = in[t];
    __syncthreads();
    for (u32 half = 64; half > 0; half /= 2) {
        if (t < half) sums[t] += sums[t + half]; // BUG
        ONLY_REPAIRED(__syncthreads();)
    }
    if (t == 0) out[0] = sums[0];
}

// The barrier before the loop of a tree reduction is missing.
// launch: grid=1 block=64 args=f32[64]=iota f32[1]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL reduction_without_first_barrier(const float *in, float *out) {
    __shared__ float sums[64];
    u32 t = threadIdx.x;
    sums[t] = in[t]; // BUG
    ONLY_REPAIRED(__syncthreads();)
    for (u32 half = 32; half > 0; half /= 2) {
        if (t < half) sums[t] += sums[t + half]; // BUG
        __syncthreads();
    }
    if (t == 0) out[0] = sums[0];
}

// One thread computes, all read.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL broadcast_without_barrier(const float *in, float *out) {
    __shared__ float scale;
    u32 t = threadIdx.x;
    if (t == 40) scale = 1.0f / (1.0f + in[t]); // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[t] = in[t] * scale; // BUG
}

// Two reductions through one scratch array: the second overwrites sums that a warp has not read yet.
// launch: grid=1 block=128 args=f32[128]=iota f32[128]
// expect: shared-race shared block=0
KERNEL scratch_used_again(const float *in, float *out) {
    __shared__ float sums[4];
    u32 t = threadIdx.x;
    float v = in[t], total = 0.0f;
    for (int round = 0; round < 2; ++round) {
        float s = v;
        for (int by = 16; by > 0; by /= 2) s += __shfl_xor_sync(FULL, s, by);
        if (t % 32 == 0) sums[t / 32] = s; // BUG
        __syncthreads();
        total += sums[0] + sums[1] + sums[2] + sums[3]; // BUG
        ONLY_REPAIRED(__syncthreads();)
        v *= v;
    }
    out[t] = total;
}

// Matrix product in tiles: no barrier between the loads and the products.
// launch: grid=1 block=8,8 args=f32[256]=random:1 f32[256]=random:2 f32[64] u32:32
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL tile_read_before_it_is_loaded(const float *a, const float *b, float *c, u32 depth) {
    __shared__ float tile_a[8][8], tile_b[8][8];
    u32 x = threadIdx.x, y = threadIdx.y;
    float sum = 0.0f;
    for (u32 k = 0; k < depth; k += 8) {
        tile_a[y][x] = a[y * depth + k + x]; // BUG
        tile_b[y][x] = b[(k + y) * 8 + x];   // BUG
        ONLY_REPAIRED(__syncthreads();)
        for (u32 i = 0; i < 8; ++i) sum += tile_a[y][i] * tile_b[i][x]; // BUG
        __syncthreads();
    }
    c[y * 8 + x] = sum;
}

// Matrix product in tiles: no barrier between the products and the next loads.
// launch: grid=1 block=8,8 args=f32[256]=random:1 f32[256]=random:2 f32[64] u32:32
// expect: shared-race shared block=0
KERNEL tile_overwritten_while_read(const float *a, const float *b, float *c, u32 depth) {
    __shared__ float tile_a[8][8], tile_b[8][8];
    u32 x = threadIdx.x, y = threadIdx.y;
    float sum = 0.0f;
    for (u32 k = 0; k < depth; k += 8) {
        tile_a[y][x] = a[y * depth + k + x]; // BUG
        tile_b[y][x] = b[(k + y) * 8 + x];   // BUG
        __syncthreads();
        for (u32 i = 0; i < 8; ++i) sum += tile_a[y][i] * tile_b[i][x]; // BUG
        ONLY_REPAIRED(__syncthreads();)
    }
    c[y * 8 + x] = sum;
}

// Two buffers, but one barrier too few: the buffer being filled is the one being read.
// launch: grid=1 block=64 args=f32[512]=iota f32[64] u32:8
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL double_buffer_without_barrier(const float *in, float *out, u32 tiles) {
    __shared__ float buffer[2][64];
    u32 t = threadIdx.x;
    buffer[0][t] = in[t]; // BUG
    float sum = 0.0f;
    for (u32 k = 0; k < tiles; ++k) {
        ONLY_REPAIRED(__syncthreads();)
        if (k + 1 < tiles) buffer[(k + 1) & 1][t] = in[(k + 1) * 64 + t]; // BUG
        sum += buffer[k & 1][63 - t];                                    // BUG
    }
    out[t] = sum;
}

// Two buffers that are one: the index of the stage does not alternate.
// launch: grid=1 block=64 args=f32[512]=iota f32[64] u32:8
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL double_buffer_with_one_buffer(const float *in, float *out, u32 tiles) {
    __shared__ float buffer[2][64];
    u32 t = threadIdx.x;
    buffer[0][t] = in[t]; // BUG
    float sum = 0.0f;
    for (u32 k = 0; k < tiles; ++k) {
        __syncthreads();
        u32 next = BUG_OR_REPAIR(k & 1, (k + 1) & 1);
        if (k + 1 < tiles) buffer[next][t] = in[(k + 1) * 64 + t]; // BUG
        sum += buffer[k & 1][63 - t];                              // BUG
    }
    out[t] = sum;
}

// An inclusive scan in place: reads and writes of a step are not kept apart.
// launch: grid=1 block=128 args=u32[128]=iota u32[128]
// expect: shared-race shared block=0
KERNEL scan_in_place(const u32 *in, u32 *out) {
    __shared__ u32 sums[128];
    u32 t = threadIdx.x;
    sums[t] = in[t];
    __syncthreads();
    for (u32 by = 1; by < 128; by *= 2) {
        u32 left = t >= by ? sums[t - by] : 0; // BUG
        ONLY_REPAIRED(__syncthreads();)
        sums[t] += left; // BUG
        __syncthreads();
    }
    out[t] = sums[t];
}

// A transposition: rows are written, columns are read.
// launch: grid=1 block=16,16 args=f32[256]=iota f32[256]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL transpose_without_barrier(const float *in, float *out) {
    __shared__ float tile[16][17];
    u32 x = threadIdx.x, y = threadIdx.y;
    tile[y][x] = in[y * 16 + x]; // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[y * 16 + x] = tile[x][y]; // BUG
}

// A histogram that counts with ++.
// launch: grid=1 block=128 args=u32[128]=iota u32[8]
// expect: shared-race shared block=0
KERNEL histogram_without_atomics(const u32 *in, u32 *out) {
    __shared__ u32 bins[8];
    u32 t = threadIdx.x;
    if (t < 8) bins[t] = 0;
    __syncthreads();
    u32 bin = in[t] / 4 & 7;
    ONLY_BUG(if (t % 4 == 0) bins[bin] += 4;) // BUG
    ONLY_REPAIRED(atomicAdd(bins + bin, 1u);)
    __syncthreads();
    if (t < 8) out[t] = bins[t];
}

// A bitonic sort whose steps are not kept apart.
// launch: grid=1 block=64 args=u32[64]=random:3 u32[64]
// expect: shared-race shared block=0
KERNEL bitonic_without_barrier(const u32 *in, u32 *out) {
    __shared__ u32 keys[64];
    u32 t = threadIdx.x;
    keys[t] = in[t];
    __syncthreads();
    for (u32 run = 2; run <= 64; run *= 2)
        for (u32 by = run / 2; by > 0; by /= 2) {
            u32 partner = t ^ by;
            if (partner > t) {
                u32 a = keys[t], b = keys[partner]; // BUG
                if ((a > b) == ((t & run) == 0)) {
                    keys[t] = b;       // BUG
                    keys[partner] = a; // BUG
                }
            }
            ONLY_REPAIRED(__syncthreads();)
        }
    __syncthreads();
    out[t] = keys[t];
}

// A queue between a producer warp and a consumer warp: the consumer does not say when a slot is free.
// launch: grid=1 block=64 args=u32[128]=iota u32[32] u32:4
// expect: shared-race shared block=0
KERNEL queue_slot_reused_too_early(const u32 *in, u32 *out, u32 rounds) {
    __shared__ u32 slot[32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, sum = 0;
    for (u32 k = 0; k < rounds; ++k) {
        if (warp == 0) {
            ONLY_REPAIRED(if (k > 0) named_sync(2, 64);)
            slot[lane] = in[k * 32 + lane]; // BUG
            named_arrive(1, 64);
        } else {
            named_sync(1, 64);
            sum += slot[31 - lane]; // BUG
            ONLY_REPAIRED(if (k + 1 < rounds) named_arrive(2, 64);)
        }
    }
    if (warp == 1) out[lane] = sum;
}

// An asynchronous copy into a tile that another warp still reads.
// launch: grid=1 block=64 args=f32[512]=iota f32[64] u32:8
// expect: shared-race shared block=0
KERNEL async_copy_over_live_data(const float *in, float *out, u32 tiles) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    float sum = 0.0f;
    for (u32 k = 0; k < tiles; ++k) {
        copy_async_4(tile + t, in + k * 64 + t); // BUG
        copy_async_wait_all();                   // BUG
        __syncthreads();
        sum += tile[63 - t]; // BUG
        ONLY_REPAIRED(__syncthreads();)
    }
    out[t] = sum;
}

// A thread waits for its own copies only; those of others need a barrier.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: shared-race shared block=0
// may: uninitialised-read shared
// may: missing-async-wait shared
KERNEL async_copy_without_barrier(const float *in, float *out) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    copy_async_4(tile + t, in + t); // BUG
    copy_async_wait_all();          // BUG
    ONLY_REPAIRED(__syncthreads();)
    out[t] = tile[63 - t]; // BUG
}

// The barrier is for one half of the block, the data cross to the other.
// launch: grid=1 block=128 args=u32[128]=iota u32[128]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL named_barrier_of_the_wrong_half(const u32 *in, u32 *out) {
    __shared__ u32 tile[128];
    u32 t = threadIdx.x;
    tile[t] = in[t]; // BUG
    named_sync(BUG_OR_REPAIR(1 + t / 64, 1), BUG_OR_REPAIR(64, 128));
    out[t] = tile[t ^ 64]; // BUG
}

// Bytes: the last byte of one warp's part is the first of the other's.
// launch: grid=1 block=64 args=u8[64] u32:1
// expect: shared-race shared block=0
KERNEL byte_written_by_two_warps(u8 *out, u32 one) {
    __shared__ u8 bytes[68];
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32;
    u32 start = warp * BUG_OR_REPAIR(31, 32) + one;
    bytes[start + lane] = (u8)t; // BUG
    __syncthreads();
    out[t] = bytes[one + t - BUG_OR_REPAIR(t / 63, 0)];
}

// A counter that all warps add to by atomics is read without a barrier.
// launch: grid=1 block=128 args=u32[128]=iota u32[1]
// expect: shared-race shared block=0
KERNEL atomic_count_read_too_early(const u32 *in, u32 *out) {
    __shared__ u32 count;
    u32 t = threadIdx.x;
    if (t == 0) count = 0;
    __syncthreads();
    u32 odd = __ballot_sync(FULL, in[t] & 1);
    if (t % 32 == 0) atomicAdd(&count, (u32)__popc(odd)); // BUG
    ONLY_REPAIRED(__syncthreads();)
    if (t == 127) out[0] = count; // BUG
}

// A histogram in shared memory, handed on without a barrier.
// launch: grid=1 block=128 args=u32[128]=iota u32[8]=zeros
// expect: shared-race shared block=0
KERNEL atomic_bins_read_too_early(const u32 *in, u32 *out) {
    __shared__ u32 bins[8];
    u32 t = threadIdx.x;
    if (t < 8) bins[t] = 0;
    __syncthreads();
    atomicAdd(bins + (in[t] & 7), 1u); // BUG
    ONLY_REPAIRED(__syncthreads();)
    if (t >= 120) out[t - 120] = bins[t - 120]; // BUG
}

// A counter is cleared for the next round while other warps still add to it.
// launch: grid=1 block=64 args=u32[64]=iota u32[64] u32:3
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL atomic_count_cleared_too_early(const u32 *in, u32 *out, u32 rounds) {
    __shared__ u32 count;
    u32 t = threadIdx.x, sum = 0;
    for (u32 k = 0; k < rounds; ++k) {
        if (t == 0) count = k + in[0]; // BUG
        ONLY_REPAIRED(__syncthreads();)
        if (in[t] & 1) atomicAdd(&count, 1u); // BUG
        __syncthreads();
        sum += count; // BUG
        ONLY_REPAIRED(__syncthreads();)
    }
    out[t] = sum;
}

// The warp that draws the last ticket adds up what the others have left; nothing orders their words before their tickets.
// launch: grid=1 block=128 args=u32[128]=iota u32[1]
// expect: shared-race shared block=0
// may: uninitialised-read shared
KERNEL last_warp_without_fence(const u32 *in, u32 *out) {
    __shared__ u32 tickets, sums[4];
    u32 t = threadIdx.x;
    if (t == 0) tickets = 0;
    __syncthreads();
    u32 v = __reduce_add_sync(FULL, in[t]);
    if (t % 32 == 0) {
        sums[t / 32] = v; // BUG
        ONLY_REPAIRED(__threadfence_block();)
        if (atomicAdd(&tickets, 1u) == 3) {
            u32 sum = 0;
            for (u32 w = 0; w < 4; ++w) sum += sums[w]; // BUG
            out[0] = sum;
            tickets = 0;
        }
    }
}
