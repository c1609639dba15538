// Waiting for what does not come.
#include "../cuda.cuh"

// A flag that nobody sets.
// launch: grid=1 block=32 args=u32[1]=zeros u32[1]
// repaired: grid=1 block=64 args=u32[1]=zeros u32[1]
// expect: deadlock register block=0 warp=0
KERNEL spin_on_a_flag_never_set(u32 *flag, u32 *out) {
    if (threadIdx.x >= 32) {
        if (threadIdx.x == 32) atomicExch(flag, 1u);
        return;
    }
    if (threadIdx.x == 0) {
        while (atomicAdd(flag, 0u) == 0) {} // BUG
        out[0] = 7;
    }
}

// The same with an acquiring load.
// launch: grid=1 block=32 args=u32[1]=zeros u32[1]
// repaired: grid=1 block=64 args=u32[1]=zeros u32[1]
// expect: deadlock register block=0 warp=0
KERNEL spin_on_an_acquired_load(u32 *flag, u32 *out) {
    if (threadIdx.x >= 32) {
        if (threadIdx.x == 32) store_release(flag, 1u);
        return;
    }
    if (threadIdx.x == 0) {
        while (load_acquire(flag) == 0) {} // BUG
        out[0] = 7;
    }
}

// A barrier over the grid that counts one block more than there are.
// launch: grid=4 block=32 args=u32[1]=zeros u32[4]=zeros u32[4] cooperative
// expect: deadlock register
KERNEL grid_barrier_counts_one_block_too_many(u32 *arrived, u32 *parts, u32 *out) {
    if (threadIdx.x == 0) {
        atomicExch(parts + blockIdx.x, blockIdx.x + 1);
        __threadfence();
        atomicAdd(arrived, 1u);
        while (atomicAdd(arrived, 0u) < gridDim.x + BUG_OR_REPAIR(1, 0)) {} // BUG
        out[blockIdx.x] = atomicAdd(parts + (blockIdx.x + 1) % gridDim.x, 0u);
    }
}

// Two warps, each waiting for the other to go first.
// launch: grid=1 block=64 args=u32[64]=iota u32[64]
// expect: deadlock register block=0
KERNEL named_barriers_crosswise(const u32 *in, u32 *out) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    if (t < 32) {
        named_sync(1, 64); // BUG
        named_sync(2, 64);
    } else {
        named_sync(BUG_OR_REPAIR(2, 1), 64); // BUG
        named_sync(BUG_OR_REPAIR(1, 2), 64);
    }
    out[t] = tile[63 - t];
}

// The producer signals one barrier, the consumer waits at another.
// launch: grid=1 block=64 args=u32[32]=iota u32[32]
// expect: deadlock register block=0
KERNEL named_barrier_with_the_wrong_number(const u32 *in, u32 *out) {
    __shared__ u32 slot[32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 0) {
        slot[lane] = in[lane];
        named_arrive(BUG_OR_REPAIR(2, 1), 64);
    } else {
        named_sync(1, 64); // BUG
        out[lane] = slot[31 - lane];
    }
}

// The consumer takes one round more than the producer gives.
// launch: grid=1 block=64 args=u32[128]=iota u32[32] u32:3
// expect: deadlock register block=0
KERNEL one_round_more_than_produced(const u32 *in, u32 *out, u32 rounds) {
    __shared__ u32 slot[32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, sum = 0;
    for (u32 k = 0; k < rounds + BUG_OR_REPAIR(warp, 0); ++k) {
        if (warp == 0) {
            slot[lane] = in[k * 32 + lane];
            named_sync(1, 64);
            named_sync(2, 64);
        } else {
            named_sync(1, 64); // BUG
            sum += slot[31 - lane];
            named_sync(2, 64);
        }
    }
    if (warp == 1) out[lane] = sum;
}

// One warp waits at the barrier of the block, the other spins on a flag that comes after that barrier.
// launch: grid=1 block=64 args=u32[64]
// expect: deadlock register block=0
KERNEL barrier_against_spin(u32 *out) {
    __shared__ u32 flag;
    u32 t = threadIdx.x;
    if (t == 0) flag = 0;
    __syncthreads();
    ONLY_REPAIRED(if (t == 32) atomicExch(&flag, 1u);)
    if (t < 32) {
        while (atomicAdd(&flag, 0u) == 0) {} // BUG
    }
    __syncthreads(); // BUG
    ONLY_BUG(if (t == 32) atomicExch(&flag, 1u);)
    out[t] = t;
}
