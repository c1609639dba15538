// target sm_75
//
// Sums of a vector, f32, in a fixed tree: same bytes on every run, whatever order the blocks run in.
//
// rung  kernel                idea                                               bounded by
// 0     sum_serial_f32        one thread adds everything                         latency: a load and an add at a time
// 1     sum_blocks_f32        each block adds a range; rung 0 adds what is left  memory: 4 B a value, read once
//       sum_rows_f32          channel sums of pixels, a range of rows a block    memory, likewise
//       sum_parts_f32         what blocks left, added in their order             memory, likewise
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

// ---- sums over rows -------------------------------------------------------------------------------------------------

constexpr int ROWS_RANGE = 512, ROW_LINES = 8; // rows a block adds; rows at a time

// parts[b, c] = Σ of x[r, c] over range b of 512 rows, x R×C: gradients of a bias, channel means. Each thread adds 64 rows
// of its column, then 8 threads' sums are added in order. Grid (⌈C / 32⌉, ⌈R / 512⌉), block 256. Bounded by memory.
extern "C" __global__ void __launch_bounds__(WARP *ROW_LINES)
sum_rows_f32(const float *__restrict__ x, float *__restrict__ parts, int rows, int columns) {
    __shared__ float lines[ROW_LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    const int end = min(rows, int(blockIdx.y + 1) * ROWS_RANGE);
    float sum = 0.0f;
    if (column < columns)
        for (int row = blockIdx.y * ROWS_RANGE + line; row < end; row += ROW_LINES) sum += x[row * columns + column];
    lines[line][lane] = sum;
    __syncthreads();
    if (line != 0 || column >= columns) return;
#pragma unroll
    for (int other = 1; other < ROW_LINES; ++other) sum += lines[other][lane];
    parts[blockIdx.y * columns + column] = sum;
}

// out[i] = Σ_p parts[p, i] in the order of p: joins what blocks left. Grid ⌈count / 256⌉, block 256. Bounded by memory.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
sum_parts_f32(const float *__restrict__ parts, float *__restrict__ out, int part_count, int count) {
    const int i = blockIdx.x * SUM_THREADS + threadIdx.x;
    if (i >= count) return;
    float sum = parts[i];
    for (int p = 1; p < part_count; ++p) sum += parts[p * count + i];
    out[i] = sum;
}
