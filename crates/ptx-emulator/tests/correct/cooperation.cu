// Warps and blocks that work together: histograms, queues, locks, a barrier over the grid.
#include "../cuda.cuh"

// Counts in shared memory, added to global memory at the end.
KERNEL histogram_shared(const u32 *in, u32 *bins, u32 n) {
    __shared__ u32 counts[64];
    u32 t = threadIdx.x;
    if (t < 64) counts[t] = 0;
    __syncthreads();
    for (u32 i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) atomicAdd(counts + (in[i] & 63), 1u);
    __syncthreads();
    if (t < 64 && counts[t]) atomicAdd(bins + t, counts[t]);
}

// Lanes with the same bin elect one of them to add for all.
KERNEL histogram_match(const u32 *in, u32 *bins, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 inside = __ballot_sync(FULL, i < n);
    if (i < n) {
        u32 bin = in[i] & 63, same = __match_any_sync(inside, bin);
        if ((same & lanemask_lt()) == 0) atomicAdd(bins + bin, (u32)__popc(same));
    }
}

// Blocks take rows from a counter until there are none.
KERNEL persistent_rows(const float *in, float *out, u32 *next, u32 rows, u32 width) {
    __shared__ u32 row;
    for (;;) {
        if (threadIdx.x == 0) row = atomicAdd(next, 1u);
        __syncthreads();
        u32 r = row;
        __syncthreads();
        if (r >= rows) return;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[r * width + i] = in[r * width + i] * (float)(r + 1);
    }
}

// A producer warp and a consumer warp, two slots, named barriers: "full" is 1 + slot, "free" is 3 + slot.
KERNEL queue_of_two_slots(const float *in, float *out, u32 rounds) {
    __shared__ float slots[2][32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 0) {
        for (u32 k = 0; k < rounds; ++k) {
            u32 slot = k & 1;
            if (k >= 2) named_sync(3 + slot, 64);
            slots[slot][lane] = in[k * 32 + lane];
            named_arrive(1 + slot, 64);
        }
    } else {
        float sum = 0.0f;
        for (u32 k = 0; k < rounds; ++k) {
            u32 slot = k & 1;
            named_sync(1 + slot, 64);
            sum += slots[slot][31 - lane];
            if (k + 2 < rounds) named_arrive(3 + slot, 64);
        }
        out[lane] = sum;
    }
}

// Halves of a block that synchronise among themselves.
KERNEL halves_on_their_own(const float *in, float *out) {
    __shared__ float tile[128];
    u32 t = threadIdx.x, half = t / 64;
    float v = in[t];
    for (u32 k = 0; k < 4 + half; ++k) {
        tile[t] = v;
        named_sync(1 + half, 64);
        v += tile[half * 64 + ((t + 33) & 63)];
        named_sync(1 + half, 64);
    }
    out[t] = v;
}

// A lock around a plain counter and a plain list.
KERNEL list_under_a_lock(u32 *lock, u32 *length, u32 *list) {
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence();
        volatile u32 *count = length;
        u32 at = *count;
        list[at] = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
        *count = at + 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}

// A barrier over the grid, of a counter that only grows: `rounds` sweeps of a stencil between two buffers.
KERNEL sweeps_with_a_grid_barrier(float *a, float *b, u32 *arrived, u32 n, u32 rounds) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    for (u32 k = 0; k < rounds; ++k) {
        volatile float *from = k & 1 ? b : a;
        float *to = k & 1 ? a : b;
        if (i < n) to[i] = 0.5f * from[i] + 0.25f * (from[i == 0 ? n - 1 : i - 1] + from[i + 1 == n ? 0 : i + 1]);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            while (atomicAdd(arrived, 0u) < gridDim.x * (k + 1)) {}
            __threadfence();
        }
        __syncthreads();
    }
}

// One block passes values to another through a flag: release and acquire.
KERNEL message_between_blocks(const u32 *in, u32 *mail, u32 *flag, u32 *out) {
    u32 t = threadIdx.x;
    if (blockIdx.x == 0) {
        mail[t] = in[t] * 3;
        __syncthreads();
        if (t == 0) {
            __threadfence();
            store_release(flag, 1u);
        }
    } else {
        if (t == 0)
            while (load_acquire(flag) == 0) {}
        __syncthreads();
        out[t] = ((volatile u32 *)mail)[63 - t];
    }
}

// Divergent paths of different lengths that meet again; a function that is called, a local array, a constant table.
__constant__ u32 steps[4] = {1, 3, 5, 7};
static __device__ __attribute__((noinline)) u32 collatz(u32 v) {
    u32 length = 0;
    while (v > 1) {
        v = v & 1 ? 3 * v + 1 : v / 2;
        ++length;
    }
    return length;
}
KERNEL paths_that_meet_again(const u32 *in, u32 *out, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 v = in[i] % 1000 + 1, seen[4] = {0, 0, 0, 0};
    for (u32 k = 0; k < v % 7; ++k) seen[(v + k) & 3] += steps[k & 3];
    u32 length = collatz(v);
    switch (v & 3) {
    case 0: length += seen[0]; break;
    case 1: length ^= seen[v >> 2 & 3]; break;
    case 2: length *= 3;
    default: length -= seen[3];
    }
    out[i] = length;
}

// The warp that draws the last ticket adds up what the others have left in shared memory, and resets the counter by a plain
// store: its ticket came after all others.
KERNEL sum_by_the_last_warp(const u32 *in, u32 *out) {
    __shared__ u32 tickets, sums[8];
    u32 t = threadIdx.x, warps = blockDim.x / 32;
    if (t == 0) tickets = 0;
    __syncthreads();
    for (u32 round = 0; round < 2; ++round) {
        u32 v = __reduce_add_sync(FULL, in[(round * gridDim.x + blockIdx.x) * blockDim.x + t]);
        if (t % 32 == 0) {
            sums[t / 32] = v;
            __threadfence_block();
            if (atomicAdd(&tickets, 1u) == warps - 1) {
                u32 sum = 0;
                for (u32 w = 0; w < warps; ++w) sum += sums[w];
                out[round * gridDim.x + blockIdx.x] = sum;
                tickets = 0;
            }
        }
        __syncthreads();
    }
}

// A warp waits for another's message by polling a flag in shared memory, and clears it by a plain store.
KERNEL message_between_warps(const u32 *in, u32 *out) {
    __shared__ u32 flag, mail[32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (warp == 0) {
        mail[lane] = in[lane] * 5;
        __syncwarp();
        if (lane == 0) {
            __threadfence_block();
            atomicExch(&flag, 1u);
        }
    } else {
        if (lane == 0) {
            while (atomicAdd(&flag, 0u) == 0) {}
            flag = 0;
        }
        __syncwarp();
        out[lane] = mail[31 - lane];
    }
}

// A lock in global memory that warps of one block and of others take in turn, around plain words.
KERNEL counter_under_a_lock(u32 *lock, u32 *counter) {
    __shared__ u32 own;
    if (threadIdx.x == 0) own = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence();
        counter[0] += 1;
        own += 1;
        __threadfence();
        atomicExch(lock, 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) counter[1 + blockIdx.x] = own;
}

// Two groups of warps count by atomics, each behind a barrier of its own.
KERNEL counts_of_groups(const u32 *in, u32 *out) {
    __shared__ u32 counts[2];
    u32 t = threadIdx.x, group = t / 64;
    if (t % 64 == 0) counts[group] = 0;
    named_sync(1 + group, 64);
    if (in[t] & 1) atomicAdd(counts + group, 1u);
    named_sync(1 + group, 64);
    out[t] = counts[group];
}

// Threads past the end have returned, some of them from the middle of a warp; the barriers are for those that are left.
KERNEL barrier_after_an_early_return(const u32 *in, u32 *out, u32 n) {
    __shared__ u32 tile[128];
    u32 t = threadIdx.x;
    if (t >= n) return;
    tile[t] = in[t];
    __syncthreads();
    u32 v = tile[n - 1 - t];
    __syncthreads();
    tile[t] = v + 1;
    __syncthreads();
    out[t] = tile[n - 1 - t];
}

// A loop whose only way out is a return behind its barrier, after another loop that lanes leave apart.
KERNEL barrier_in_a_loop_without_end(const u32 *in, u32 *out, u32 n, u32 rounds) {
    __shared__ u32 tile[64];
    u32 t = threadIdx.x;
    for (u32 i = t; i < n; i += 64) tile[i] = in[i];
    __syncthreads();
    for (u32 k = 0;; ++k) {
        if (k == rounds) return;
        for (u32 i = t; i < n; i += 64) out[i] = tile[n - 1 - i] + k;
        __syncthreads();
    }
}

// The block that arrives last adds up the parts and resets the counter by a plain store, for the next launch.
KERNEL sum_by_the_last_block_and_reset(const u32 *in, u32 *parts, u32 *arrived, u32 *out) {
    __shared__ u32 ticket;
    u32 t = threadIdx.x, v = __reduce_add_sync(FULL, in[blockIdx.x * blockDim.x + t]);
    if (t % 32 == 0) parts[blockIdx.x * (blockDim.x / 32) + t / 32] = v;
    __threadfence();
    __syncthreads();
    if (t == 0) ticket = atomicAdd(arrived, 1u);
    __syncthreads();
    if (ticket == gridDim.x - 1 && t == 0) {
        u32 sum = 0;
        for (u32 i = 0; i < gridDim.x * (blockDim.x / 32); ++i) sum += parts[i];
        *out = sum;
        *arrived = 0;
    }
}
