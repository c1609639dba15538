// Prefix sums and sorts of one block, and a scan over blocks.
#include "../cuda.cuh"

// Inclusive, between two buffers.
KERNEL scan_hillis_steele(const u32 *in, u32 *out) {
    __shared__ u32 sums[2][256];
    u32 t = threadIdx.x, from = 0;
    sums[0][t] = in[t];
    __syncthreads();
    for (u32 by = 1; by < 256; by *= 2) {
        u32 v = sums[from][t];
        if (t >= by) v += sums[from][t - by];
        sums[from ^ 1][t] = v;
        from ^= 1;
        __syncthreads();
    }
    out[t] = sums[from][t];
}

// Exclusive, up the tree and down again, two elements a thread.
KERNEL scan_blelloch(const u32 *in, u32 *out) {
    __shared__ u32 sums[256];
    u32 t = threadIdx.x;
    sums[2 * t] = in[2 * t];
    sums[2 * t + 1] = in[2 * t + 1];
    u32 offset = 1;
    for (u32 nodes = 128; nodes > 0; nodes /= 2) {
        __syncthreads();
        if (t < nodes) sums[offset * (2 * t + 2) - 1] += sums[offset * (2 * t + 1) - 1];
        offset *= 2;
    }
    if (t == 0) sums[255] = 0;
    for (u32 nodes = 1; nodes < 256; nodes *= 2) {
        offset /= 2;
        __syncthreads();
        if (t < nodes) {
            u32 left = offset * (2 * t + 1) - 1, right = offset * (2 * t + 2) - 1;
            u32 v = sums[left];
            sums[left] = sums[right];
            sums[right] += v;
        }
    }
    __syncthreads();
    out[2 * t] = sums[2 * t];
    out[2 * t + 1] = sums[2 * t + 1];
}

INLINE u32 warp_scan(u32 v, u32 lane) {
    for (u32 by = 1; by < 32; by *= 2) {
        u32 left = __shfl_up_sync(FULL, v, by);
        if (lane >= by) v += left;
    }
    return v;
}

// Inclusive over a block of any number of whole warps, result in all threads' registers.
INLINE u32 block_scan(u32 v, u32 *sums) {
    u32 t = threadIdx.x, lane = t % 32, warp = t / 32, warps = blockDim.x / 32;
    v = warp_scan(v, lane);
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        u32 s = lane < warps ? sums[lane] : 0;
        s = warp_scan(s, lane);
        if (lane < warps) sums[lane] = s;
    }
    __syncthreads();
    if (warp > 0) v += sums[warp - 1];
    __syncthreads();
    return v;
}

KERNEL scan_shuffle(const u32 *in, u32 *out) {
    __shared__ u32 sums[32];
    u32 t = threadIdx.x;
    out[t] = block_scan(in[t], sums);
}

// Over all blocks in one pass: each tile publishes its sum, then its prefix, and looks back over its
// predecessors' (single-pass scan with decoupled look-back). Tiles are numbered in the order in which blocks start,
// so a predecessor is always running or done.
KERNEL scan_look_back(const u32 *in, u32 *out, u64 *states, u32 *next_tile, u32 n) {
    __shared__ u32 sums[32];
    __shared__ u32 tile, before;
    u32 t = threadIdx.x;
    if (t == 0) tile = atomicAdd(next_tile, 1u);
    __syncthreads();
    u32 i = tile * blockDim.x + t;
    u32 v = block_scan(i < n ? in[i] : 0, sums);
    if (t == blockDim.x - 1) {
        // High half: 1 = the sum of this tile, 2 = of all up to it.
        u64 ready = tile == 0 ? 2 : 1;
        __nvvm_atom_xchg_gen_ll((long long *)states + tile, ready << 32 | v);
        u32 sum = 0;
        for (u32 k = tile; k > 0;) {
            u64 state = atomicAdd(states + k - 1, (u64)0);
            if (state >> 32 == 0) continue;
            sum += (u32)state;
            if (state >> 32 == 2) break;
            --k;
        }
        if (tile > 0) __nvvm_atom_xchg_gen_ll((long long *)states + tile, (u64)2 << 32 | (sum + v));
        before = sum;
    }
    __syncthreads();
    if (i < n) out[i] = before + v;
}

KERNEL sort_bitonic(const u32 *in, u32 *out) {
    __shared__ u32 keys[256];
    u32 t = threadIdx.x;
    keys[t] = in[t];
    __syncthreads();
    for (u32 run = 2; run <= 256; run *= 2)
        for (u32 by = run / 2; by > 0; by /= 2) {
            u32 partner = t ^ by;
            if (partner > t) {
                u32 a = keys[t], b = keys[partner];
                if ((a > b) == ((t & run) == 0)) {
                    keys[t] = b;
                    keys[partner] = a;
                }
            }
            __syncthreads();
        }
    out[t] = keys[t];
}

// Least significant digit first, one bit a round: a scan of the ones says where each key goes.
KERNEL sort_radix(const u32 *in, u32 *out) {
    __shared__ u32 keys[256], sums[32];
    u32 t = threadIdx.x;
    keys[t] = in[t];
    __syncthreads();
    for (u32 bit = 0; bit < 32; ++bit) {
        u32 key = keys[t], one = key >> bit & 1;
        u32 ones_up_to_here = block_scan(one, sums);
        u32 zeros = __syncthreads_count(!one);
        keys[one ? zeros + ones_up_to_here - 1 : t - ones_up_to_here] = key;
        __syncthreads();
    }
    out[t] = keys[t];
}

// Merge sort in a warp's registers: bitonic by shuffles alone.
KERNEL sort_warp(const u32 *in, u32 *out) {
    u32 t = threadIdx.x, lane = t % 32, key = in[t];
    for (u32 run = 2; run <= 32; run *= 2)
        for (u32 by = run / 2; by > 0; by /= 2) {
            u32 other = __shfl_xor_sync(FULL, key, by);
            bool low = (lane & by) == 0, up = (lane & run) == 0;
            key = (low == up) == (key < other) ? key : other;
        }
    out[t] = key;
}

// Stream compaction: ballots count the kept ones before a lane, an atomic reserves room for the warp.
KERNEL compact_ballot(const u32 *in, u32 *out, u32 *kept, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    u32 v = i < n ? in[i] : 0;
    bool keep = i < n && v % 3 == 0;
    u32 mask = __ballot_sync(FULL, keep), start = 0;
    if (lane == 0 && mask) start = atomicAdd(kept, (u32)__popc(mask));
    start = __shfl_sync(FULL, start, 0);
    if (keep) out[start + __popc(mask & lanemask_lt())] = v;
}
