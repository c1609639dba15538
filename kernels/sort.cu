// target sm_75
//
// A stable radix sort of 32-bit keys with a 32-bit value each, from the least digit up (src/ops/sort has the passes).
// A pass moves each key behind all keys of smaller digits and behind those of its own digit that came before:
//
//   place(i) = #{j: digit(j) < digit(i)} + #{j < i: digit(j) = digit(i)}
//
// A block takes 4,096 keys (TILE). Counts are of blocks and digits, then of warps and digits: no atomics, so a key has
// one place whatever the order in which blocks and warps come. n keys, a pass:
//
//       sort_histogram_u32    how many keys of each digit a block has           4n bytes read, n/4 written
//       sort_offsets_u32      counts → sums of the blocks before, of a digit    n/2 read (L2), n/4 written
//       sort_scatter_u32      keys and values to their places                   8n read, 8n written
//       sort_gather_u32       values by their order: between words of long keys 8n read, 4n written
//       scan_u32              prefix sums, in one block: of counts a block      8 bytes a value
//
// The scatter first brings the block's keys into order in shared memory: keys of one digit then leave as a run of 16 on
// average, two sectors, where each on its own would touch one. Bounded by memory, and below a million keys by launches.
#include "scan.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
constexpr int ITEMS = 16; // keys a thread
constexpr int TILE = THREADS * ITEMS;
constexpr int DIGITS = 256;
constexpr int COLUMNS = WARP;       // digits that a block of the offsets takes, a lane each
constexpr int GROUPS = 32;          // and ranges of blocks, a warp each
constexpr int SCAN_THREADS = 1024;
static_assert(THREADS == DIGITS, "a thread a digit");

// A thread's i-th key, counted from the block's first: a warp's keys lie together, so that their order is that of i, then
// of lanes.
__device__ __forceinline__ int item(int i) { return (threadIdx.x / WARP) * (WARP * ITEMS) + i * WARP + lane_of_warp(); }

// How many keys of this digit the warp has had, in iterations before and in lanes below; counts this iteration's.
__device__ __forceinline__ unsigned rank_in_warp(unsigned digit, bool valid, unsigned *counts) {
    const unsigned peers = __match_any_sync(WHOLE_WARP, valid ? digit : unsigned(DIGITS));
    const unsigned below = __popc(peers & ((1u << lane_of_warp()) - 1));
    const unsigned seen = valid ? counts[digit] : 0u;
    __syncwarp();
    if (valid && below == 0) counts[digit] = seen + __popc(peers);
    __syncwarp();
    return seen + below;
}

__device__ __forceinline__ unsigned digit_of(unsigned key, int shift, unsigned mask) { return (key >> shift) & mask; }

// Reads a thread's keys, ranks each among its warp's, and leaves the warps' counts in `counts`.
__device__ __forceinline__ void count_digits(const unsigned *__restrict__ keys, unsigned (&key)[ITEMS], unsigned (&rank)[ITEMS],
                                             unsigned (*counts)[DIGITS], int count, int shift, unsigned mask) {
    const int first = blockIdx.x * TILE, warp = threadIdx.x / WARP;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) counts[w][threadIdx.x] = 0;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) key[i] = first + item(i) < count ? keys[first + item(i)] : 0u;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) rank[i] = rank_in_warp(digit_of(key[i], shift, mask), first + item(i) < count, counts[warp]);
    __syncthreads();
}

} // namespace

// counts blocks×256. Grid ⌈count / 4096⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
sort_histogram_u32(const unsigned *__restrict__ keys, unsigned *__restrict__ counts, int count, int shift, unsigned mask) {
    __shared__ unsigned of_warps[WARPS][DIGITS];
    unsigned key[ITEMS], rank[ITEMS];
    count_digits(keys, key, rank, of_warps, count, shift, mask);
    unsigned sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) sum += of_warps[w][threadIdx.x];
    counts[blockIdx.x * DIGITS + threadIdx.x] = sum;
}

// counts blocks×256 become those of the digit in the blocks before, in place; totals 256, of all. Grid 8, block 1024: a
// block 32 digits, a warp a range of the counts' rows.
extern "C" __global__ void __launch_bounds__(COLUMNS *GROUPS)
sort_offsets_u32(unsigned *__restrict__ counts, unsigned *__restrict__ totals, int blocks) {
    __shared__ unsigned sums[GROUPS][COLUMNS];
    const int lane = lane_of_warp(), group = threadIdx.x / WARP, digit = blockIdx.x * COLUMNS + lane;
    const int rows = tiles(blocks, GROUPS), first = group * rows, last = min(first + rows, blocks);
    unsigned sum = 0;
    for (int row = first; row < last; ++row) sum += counts[row * DIGITS + digit];
    sums[group][lane] = sum;
    __syncthreads();
    unsigned before = 0;
    for (int g = 0; g < group; ++g) before += sums[g][lane];
    for (int row = first; row < last; ++row) {
        const unsigned here = counts[row * DIGITS + digit];
        counts[row * DIGITS + digit] = before;
        before += here;
    }
    if (group == GROUPS - 1) totals[digit] = before;
}

// Keys and values to their places. `values` may be none: a key's number then is its value; `keys_out` may be none: keys
// are not wanted. Grid ⌈count / 4096⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
sort_scatter_u32(const unsigned *__restrict__ keys, const unsigned *__restrict__ values, const unsigned *__restrict__ counts,
                 const unsigned *__restrict__ totals, unsigned *__restrict__ keys_out, unsigned *__restrict__ values_out, int count,
                 int shift, unsigned mask) {
    __shared__ unsigned of_warps[WARPS][DIGITS];
    __shared__ unsigned target[DIGITS]; // where the digit's keys of this block go, less where they lie in `staged`
    __shared__ unsigned staged[TILE];
    __shared__ unsigned scratch[WARPS];
    const int first = blockIdx.x * TILE, warp = threadIdx.x / WARP, here = min(count - first, TILE);
    unsigned key[ITEMS], rank[ITEMS];
    count_digits(keys, key, rank, of_warps, count, shift, mask);

    unsigned of_block = 0, all;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const unsigned of_warp = of_warps[w][threadIdx.x];
        of_warps[w][threadIdx.x] = of_block;
        of_block += of_warp;
    }
    const unsigned smaller = block_exclusive_scan<THREADS>(totals[threadIdx.x], scratch, all);
    const unsigned smaller_here = block_exclusive_scan<THREADS>(of_block, scratch, all);
    target[threadIdx.x] = smaller + counts[blockIdx.x * DIGITS + threadIdx.x] - smaller_here;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) of_warps[w][threadIdx.x] += smaller_here;
    __syncthreads();

    unsigned places[ITEMS / 2]; // two a register, for the values
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const unsigned place = rank[i] + of_warps[warp][digit_of(key[i], shift, mask)];
        places[i / 2] = i % 2 == 0 ? place : places[i / 2] | place << 16;
        if (item(i) < here) staged[place] = key[i];
    }
    __syncthreads();
    unsigned digits[ITEMS / 4]; // four a register, for the values
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = i * THREADS + threadIdx.x;
        const unsigned sorted = at < here ? staged[at] : 0u, digit = digit_of(sorted, shift, mask);
        digits[i / 4] = i % 4 == 0 ? digit : digits[i / 4] | digit << (i % 4 * 8);
        if (at < here && keys_out) keys_out[target[digit] + at] = sorted;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        if (item(i) < here) staged[places[i / 2] >> (i % 2 * 16) & 0xffffu] = values ? values[first + item(i)] : unsigned(first + item(i));
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = i * THREADS + threadIdx.x;
        if (at < here) values_out[target[digits[i / 4] >> (i % 4 * 8) & 0xffu] + at] = staged[at];
    }
}

// out[i] = values[order[i]]. Grid ⌈count / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
sort_gather_u32(const unsigned *__restrict__ values, const unsigned *__restrict__ order, unsigned *__restrict__ out, int count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = values[order[i]];
}

// values[i] becomes the sum of those before, in place; values[count] that of all. Grid 1, block 1024.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_u32(unsigned *values, int count) {
    __shared__ unsigned scratch[SCAN_THREADS / WARP];
    unsigned before = 0;
    for (int start = 0; start < count; start += SCAN_THREADS) {
        const int i = start + threadIdx.x;
        unsigned total;
        const unsigned place = block_exclusive_scan<SCAN_THREADS>(i < count ? values[i] : 0u, scratch, total);
        if (i < count) values[i] = before + place;
        before += total;
    }
    if (threadIdx.x == 0) values[count] = before;
}
