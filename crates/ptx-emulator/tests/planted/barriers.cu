// Barriers that not all threads reach, or not as the same barrier.
#include "../cuda.cuh"

// A barrier under a condition that splits a warp.
// launch: grid=1 block=32 args=f32[32]=iota f32[32] u32:16
// expect: divergent-barrier register block=0 warp=0
KERNEL barrier_under_a_condition(const float *in, float *out, u32 n) {
    __shared__ float tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    BUG_OR_REPAIR(if (t < n), ) __syncthreads(); // BUG
    out[t] = tile[t ^ 1];
}

// A barrier in both branches: two instructions, of which half a warp reaches each.
// launch: grid=1 block=64 args=f32[64]=iota f32[64] u32:16
// expect: divergent-barrier register block=0
KERNEL barrier_in_both_branches(const float *in, float *out, u32 n) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    if (BUG_OR_REPAIR(t % 32, 0) < n) {
        tile[t] = in[t];
        asm volatile("bar.sync 0; // first" ::: "memory"); // BUG
        out[t] = tile[t ^ 1];
    } else {
        tile[t] = in[t] * 2.0f;
        asm volatile("bar.sync 0; // second" ::: "memory"); // BUG
        out[t] = tile[t ^ 1] + 1.0f;
    }
}

// A loop with a barrier whose number of turns depends on the lane.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:3
// expect: divergent-barrier register block=0 warp=0
KERNEL barrier_in_a_ragged_loop(const u32 *in, u32 *out, u32 turns) {
    __shared__ u32 tile[32];
    u32 t = threadIdx.x, sum = 0;
    tile[t] = in[t];
    __syncthreads();
    for (u32 k = 0; k < turns + BUG_OR_REPAIR(t % 2, 0); ++k) {
        sum += tile[(t + k) % 32];
        __syncthreads(); // BUG
    }
    out[t] = sum;
}

// A count at a barrier, asked by half a warp.
// launch: grid=1 block=32 args=u32[32]=iota u32[32]
// expect: divergent-barrier register block=0 warp=0
KERNEL counting_barrier_under_a_condition(const u32 *in, u32 *out) {
    u32 t = threadIdx.x, count = 0;
    bool odd = in[t] & 1;
    BUG_OR_REPAIR(if (t >= 8), ) count = __syncthreads_count(odd); // BUG
    out[t] = count;
}

// Two warps at one named barrier that do not agree how many threads it has.
// launch: grid=1 block=96 args=u32[96]=iota u32[96]
// expect: divergent-barrier register block=0
// may: deadlock register
KERNEL named_barrier_counts_differ(const u32 *in, u32 *out) {
    __shared__ u32 tile[96];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    named_sync(1, t < 32 ? BUG_OR_REPAIR(64, 96) : 96); // BUG
    __syncthreads(); // BUG
    out[t] = tile[95 - t];
}

// A barrier in one warp only, of two; the other goes on to the end.
// launch: grid=1 block=64 args=f32[64]=iota f32[64]
// expect: deadlock register block=0
KERNEL barrier_of_one_warp(const float *in, float *out) {
    __shared__ float tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    if (t < BUG_OR_REPAIR(32, 64)) named_sync(1, 64); // BUG
    out[t] = tile[t ^ 1];
}

// __syncwarp with a mask that leaves out a lane that executes it.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:65535
// expect: bad-mask register block=0 warp=0
KERNEL warp_barrier_mask_leaves_out_a_lane(const u32 *in, u32 *out, u32 half) {
    __shared__ u32 tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    __syncwarp(BUG_OR_REPAIR(half, half | half << 16)); // BUG
    out[t] = tile[31 - t];
}

// __syncwarp for all lanes in a branch that half of them take.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:16
// expect: bad-mask register block=0 warp=0
KERNEL warp_barrier_in_a_branch(const u32 *in, u32 *out, u32 n) {
    __shared__ u32 tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    u32 v = 0;
    if (t < n) {
        __syncwarp(BUG_OR_REPAIR(FULL, 0xffff)); // BUG
        v = tile[15 - t];
    }
    out[t] = v;
}

// A named barrier for a number of threads that is no multiple of a warp's.
// launch: grid=1 block=64 args=u32[64]=iota u32[64]
// expect: divergent-barrier register block=0
KERNEL named_barrier_for_part_of_a_warp(const u32 *in, u32 *out) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    named_sync(1, BUG_OR_REPAIR(48, 64)); // BUG
    out[t] = tile[63 - t];
}

// A named barrier for no threads at all.
// launch: grid=1 block=32 args=u32[32]=iota u32[32] u32:0
// repaired: grid=1 block=32 args=u32[32]=iota u32[32] u32:32
// expect: divergent-barrier register block=0 warp=0
KERNEL named_barrier_for_nobody(const u32 *in, u32 *out, u32 threads) {
    __shared__ u32 tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    named_sync(1, threads); // BUG
    out[t] = tile[31 - t];
}

// A barrier's number beyond the 16 that a block has.
// launch: grid=1 block=64 args=u32[64]=iota u32[64] u32:16
// repaired: grid=1 block=64 args=u32[64]=iota u32[64] u32:15
// expect: divergent-barrier register block=0
KERNEL named_barrier_beyond_the_last(const u32 *in, u32 *out, u32 number) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    named_sync(number, 64); // BUG
    out[t] = tile[63 - t];
}

// Lanes of one warp name different barriers.
// launch: grid=1 block=64 args=u32[64]=iota u32[64]
// expect: divergent-barrier register block=0
KERNEL named_barrier_by_lane(const u32 *in, u32 *out) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    named_sync(1 + BUG_OR_REPAIR(t % 2, t / 64), 64); // BUG
    out[t] = tile[63 - t];
}

// Threads past the end leave through a barrier of their own, the others go on to the next one: in one warp these are two barriers.
// launch: grid=1 block=64 args=u32[40]=iota u32[64] u32:40
// expect: divergent-barrier register block=0
KERNEL barrier_before_an_early_return(const u32 *in, u32 *out, u32 n) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    if (t >= n) {
        ONLY_BUG(asm volatile("bar.sync 0; // leaving" ::: "memory");) // BUG
        return;
    }
    tile[t] = in[t];
    asm volatile("bar.sync 0; // staying" ::: "memory"); // BUG
    out[t] = tile[n - 1 - t];
}
