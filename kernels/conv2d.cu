// target sm_75
//
// Convolution in f32 without tensor cores: the plain rungs. conv2d.cuh explains the product; conv2d_tf32.cu
// and conv2d_bf16.cu have the rungs above, which need sm_80.
//
//   y[n,p,q,o] = bias[o] + add[n,p,q,o] + Σ_{r,s,i} x[n, p·stride + r·dilation − padding, q·stride + …, i] · w[o,r,s,i]
//
// x N×H×W×I, w O×KH×KW×I, y N×H'×W'×O; bias (O) and add (like y: the shortcut) may be null. With scale and shift (O) a
// second target takes max(0, scale·y + shift), and y may be null. Every rung takes every
// shape. A 1×1 convolution of stride 1 is a matrix product, and these are then its rungs.
//
// From rung 1 on a kernel goes both ways. With `backward` it computes
//
//   dx = add + Σ over the outputs that saw each pixel;  source dy, target dx, weight I×KH×KW×O
//   (conv2d_transpose_weight_* of w), and the shape is forward's still.
//
// rung  kernel                        idea                                           bounded by
// 0     conv2d_forward_direct_f32     one thread one output                          L1 and L2: two loads a multiply-add
// 1     conv2d_tiled_f32              16×16 outputs share 16-deep slices of both     shared memory: two loads a
//       conv2d_weight_tiled_f32       operands through shared memory                 multiply-add
// 2     conv2d_blocks_f32             128×128 outputs a block, 8×8 a thread in       issue of multiply-adds: 16 of them a
//                                     registers, 16-byte loads everywhere            16-byte shared load
//       conv2d_transpose_weight_f32, conv2d_transpose_weight_bf16   O×KH×KW×I to I×KH×KW×O, for the way back  memory
// All f32 rungs add the terms of one output in the same order, taps outside and channels inside: same bits.
#include "conv2d.cuh"

// ---- rung 0 ---------------------------------------------------------------------------------------------------------

// Grid ⌈N·H'·W'·O / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(256)
conv2d_forward_direct_f32(const float *__restrict__ x, const float *__restrict__ w, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS) {
    const int index = blockIdx.x * 256 + threadIdx.x;
    if (index >= batch * out_height * out_width * out_channels) return;
    const int o = index % out_channels, pixel = index / out_channels;
    const int q = pixel % out_width, p = pixel / out_width % out_height, n = pixel / out_width / out_height;
    float sum = 0.0f;
    for (int r = 0; r < kernel_height; ++r) {
        const int iy = p * stride + r * dilation - padding;
        if (unsigned(iy) >= unsigned(height)) continue;
        for (int s = 0; s < kernel_width; ++s) {
            const int ix = q * stride + s * dilation - padding;
            if (unsigned(ix) >= unsigned(width)) continue;
            const float *source = x + ((n * height + iy) * width + ix) * channels;
            const float *weight = w + ((o * kernel_height + r) * kernel_width + s) * channels;
            for (int i = 0; i < channels; ++i) sum = fmaf(source[i], weight[i], sum);
        }
    }
    store_one(OUTLET(float), index, o, sum);
}

// ---- rung 1 ---------------------------------------------------------------------------------------------------------

constexpr int TILE = 16; // outputs each way, and depth

// Both directions: see the head of the file. Forward: grid (⌈N·H'·W' / 16⌉, ⌈O / 16⌉), block 256. Backward: grid
// (⌈N·⌈H/stride⌉·⌈W/stride⌉ / 16⌉, ⌈I / 16⌉, stride²).
extern "C" __global__ void __launch_bounds__(TILE *TILE)
conv2d_tiled_f32(const float *__restrict__ source, const float *__restrict__ weight, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS,
                 int backward) {
    __shared__ float left[TILE][TILE];      // [row][channel]
    __shared__ float right[TILE][TILE + 1]; // [column][channel], a pad so that a column of it spans all banks
    __shared__ Product p;
    if (threadIdx.x == 0) p = product(CONV2D_SHAPE, backward);
    __syncthreads();
    const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE, depth = p.channels;
    const int row = blockIdx.x * TILE + line, column = blockIdx.y * TILE + lane;
    const int loaded = blockIdx.y * TILE + line; // the column whose weights this thread loads
    const Row at = source_row(p, row);
    float sum = 0.0f;
    for (int r = 0; r < p.y.taps; ++r) {
        for (int s = 0; s < p.x.taps; ++s) {
            const int y = at.y + r * p.y.source_tap, x = at.x + s * p.x.source_tap;
            const bool inside = unsigned(y) < unsigned(p.y.source_size) && unsigned(x) < unsigned(p.x.source_size);
            const int from = ((at.image * p.y.source_size + y) * p.x.source_size + x) * depth;
            const int tap = (p.y.tap + r * p.y.tap_step) * p.kernel_width + p.x.tap + s * p.x.tap_step;
            const int weights = (loaded * p.kernel_size + tap) * depth;
            for (int i = lane; i - lane < depth; i += TILE) {
                left[line][lane] = inside && i < depth ? source[from + i] : 0.0f;
                right[line][lane] = loaded < p.columns && i < depth ? weight[weights + i] : 0.0f;
                __syncthreads();
                // Four at a time, so that few channels are no more work than they need.
                const int left_over = min(TILE, depth - (i - lane));
#pragma unroll 1
                for (int four = 0; four < left_over; four += 4)
#pragma unroll
                    for (int k = 0; k < 4; ++k) sum = fmaf(left[line][four + k], right[lane][four + k], sum);
                __syncthreads();
            }
        }
    }
    if (row >= p.rows || column >= p.columns) return;
    store_one(OUTLET(float), target_pixel(p, row) * p.columns + column, column, sum);
}

// The gradient for the weight by the same idea: see conv2d_weight.cu, whose rungs need sm_80. A block computes 16×16 of one
// tap's O×I values over `range` pixels, 16 at a time; parts R×O×KH×KW×I, R = ⌈N·H'·W' / range⌉, are added by sum_parts_f32
// in their order. Grid (⌈O / 16⌉, KH·KW·⌈I / 16⌉, R), block 256. Bounded by shared memory: two loads a multiply-add.
extern "C" __global__ void __launch_bounds__(TILE *TILE)
conv2d_weight_tiled_f32(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ parts, CONV2D_PARAMETERS, int range) {
    __shared__ float left[TILE][TILE];  // [pixel][output channel]
    __shared__ float right[TILE][TILE]; // [pixel][input channel]
    const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE;
    const int tiles_i = tiles(channels, TILE), tap = blockIdx.y / tiles_i;
    const int first_o = blockIdx.x * TILE, first_i = blockIdx.y % tiles_i * TILE;
    const int move_y = tap / kernel_width * dilation - padding, move_x = tap % kernel_width * dilation - padding;
    const int begin = blockIdx.z * range, end = min(begin + range, batch * out_height * out_width);
    float sum = 0.0f;
    for (int first = begin; first < end; first += TILE) {
        const int pixel = first + line;
        const int q = pixel % out_width, rest = pixel / out_width, p = rest % out_height, n = rest / out_height;
        const int iy = p * stride + move_y, ix = q * stride + move_x;
        const bool inside = pixel < end && unsigned(iy) < unsigned(height) && unsigned(ix) < unsigned(width);
        left[line][lane] = pixel < end && first_o + lane < out_channels ? dy[pixel * out_channels + first_o + lane] : 0.0f;
        right[line][lane] = inside && first_i + lane < channels ? x[((n * height + iy) * width + ix) * channels + first_i + lane] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE; ++k) sum = fmaf(left[k][line], right[k][lane], sum);
        __syncthreads();
    }
    const int o = first_o + line, i = first_i + lane;
    if (o < out_channels && i < channels) parts[((blockIdx.z * out_channels + o) * kernel_height * kernel_width + tap) * channels + i] = sum;
}

// ---- rung 2 ---------------------------------------------------------------------------------------------------------

constexpr int BLOCK_ROWS = 128, BLOCK_COLUMNS = 128, BLOCK_DEPTH = 16;
constexpr int BLOCK_THREADS = 256; // 8 warps: 2 × 4 of 64×32 outputs; 8 × 4 lanes of 8×8

// Shared tiles are [depth][row]: a thread's 4 rows are one 16-byte load. Writing them, 8 rows × 4 depths of a warp meet
// in 8 banks unless the rows are shuffled by depth.
__device__ __forceinline__ int tile_index(int depth, int row) { return depth * BLOCK_ROWS + (row ^ (depth / 4 * 8)); }

__device__ __forceinline__ void write_transposed(float *tile, int depth, int row, float4 v) {
    tile[tile_index(depth + 0, row)] = v.x;
    tile[tile_index(depth + 1, row)] = v.y;
    tile[tile_index(depth + 2, row)] = v.z;
    tile[tile_index(depth + 3, row)] = v.w;
}

// acc += a·bᵀ over one slice: a thread's rows are two groups of four, 32 apart, its columns two groups 16 apart. The loop
// over fours of depth stays a loop: 256 multiply-adds between branches, and no register more than the file has.
__device__ __forceinline__ void multiply_slice(float (&acc)[8][8], const float *a, const float *b, int row, int column) {
#pragma unroll 1
    for (int four = 0; four < BLOCK_DEPTH; four += 4) {
#pragma unroll
        for (int k = four; k < four + 4; ++k) {
            float left[8], right[8];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float4 l = *(const float4 *)(a + tile_index(k, row + 32 * half));
                const float4 r = *(const float4 *)(b + tile_index(k, column + 16 * half));
                left[4 * half] = l.x, left[4 * half + 1] = l.y, left[4 * half + 2] = l.z, left[4 * half + 3] = l.w;
                right[4 * half] = r.x, right[4 * half + 1] = r.y, right[4 * half + 2] = r.z, right[4 * half + 3] = r.w;
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) acc[i][j] = fmaf(left[i], right[j], acc[i][j]);
        }
    }
}

// Both directions: see the head of the file. Forward: grid (⌈N·H'·W' / 128⌉, ⌈O / 128⌉), block 256. Backward: grid
// (⌈N·⌈H/stride⌉·⌈W/stride⌉ / 128⌉, ⌈I / 128⌉, stride²).
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 2)
conv2d_blocks_f32(const float *__restrict__ source, const float *__restrict__ weight, OUTLET_PARAMETERS(float), CONV2D_PARAMETERS,
                  int backward) {
    alignas(16) __shared__ float tile[BLOCK_DEPTH * (BLOCK_ROWS + BLOCK_COLUMNS)];
    float *a = tile, *b = tile + BLOCK_DEPTH * BLOCK_ROWS;
    __shared__ Product p;
    __shared__ Row rows[BLOCK_ROWS];
    const int first_row = blockIdx.x * BLOCK_ROWS, first_column = blockIdx.y * BLOCK_COLUMNS;
    if (threadIdx.x == 0) p = product(CONV2D_SHAPE, backward);
    __syncthreads();
    const int source_channels = p.channels, columns = p.columns;
    if (first_row >= p.rows) return; // phases differ in size
    if (threadIdx.x < BLOCK_ROWS) rows[threadIdx.x] = source_row(p, first_row + threadIdx.x);
    __syncthreads();

    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4;
    const int line = threadIdx.x / 4, depth = threadIdx.x % 4 * 4; // what this thread copies
    const bool whole = source_channels % 4 == 0;
    float acc[8][8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[i][j] = 0.0f;

    Walk at = {0, 0, 0, {-1, -1}, 0};
    seek(at, p, rows, line, first_column + line, source_channels);
    for (int step = slices(p, source_channels, BLOCK_DEPTH); step > 0; --step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float4 zero = make_float4(0, 0, 0, 0);
            const int copied = line + 64 * half, channel = at.channel + depth;
            const float *from = source + at.source[half] * source_channels;
            const float *weights = weight + at.weight + 64 * half * kernel_height * kernel_width * source_channels;
            write_transposed(a, depth, copied, at.source[half] >= 0 ? load_four(from, channel, source_channels, whole) : zero);
            const bool exists = first_column + copied < columns;
            write_transposed(b, depth, copied, exists ? load_four(weights, channel, source_channels, whole) : zero);
        }
        __syncthreads();
        multiply_slice(acc, a, b, row, column);
        advance(at, p, rows, line, first_column + line, source_channels, BLOCK_DEPTH);
        __syncthreads();
    }
    // 32 rows at a time: what the tiles have room for.
#pragma unroll
    for (int round = 0; round < BLOCK_ROWS / 32; ++round) {
        if (warp / 4 == round / 2) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int half = 0; half < 8; half += 4) {
                    const float *v = acc[round % 2 * 4 + i] + half;
                    write_four(tile + result_index(lane / 4 * 4 + i, column + 4 * half), make_float4(v[0], v[1], v[2], v[3]));
                }
        }
        __syncthreads();
        write_results<BLOCK_THREADS>(tile, 32, p, first_row + round * 32, first_column, OUTLET(float));
        __syncthreads();
    }
}

// ---- weights for backward -------------------------------------------------------------------------------------------

constexpr int SQUARE = 32, SQUARE_LINES = 8;

// out[i, tap, o] = w[o, tap, i], through shared memory so that both sides are read and written in order. Read once and
// written once: bounded by memory. Grid (⌈I / 32⌉, ⌈O / 32⌉, KH·KW), block 256.
template <class T> __device__ __forceinline__ void transpose_weight(const T *__restrict__ w, T *__restrict__ out, int out_channels, int taps, int channels) {
    __shared__ T tile[SQUARE][SQUARE + 1];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, tap = blockIdx.z;
#pragma unroll 1
    for (int j = line; j < SQUARE; j += SQUARE_LINES) {
        const int o = blockIdx.y * SQUARE + j, i = blockIdx.x * SQUARE + lane;
        if (o < out_channels && i < channels) tile[j][lane] = w[(o * taps + tap) * channels + i];
    }
    __syncthreads();
#pragma unroll 1
    for (int j = line; j < SQUARE; j += SQUARE_LINES) {
        const int i = blockIdx.x * SQUARE + j, o = blockIdx.y * SQUARE + lane;
        if (o < out_channels && i < channels) out[(i * taps + tap) * out_channels + o] = tile[lane][j];
    }
}

extern "C" __global__ void __launch_bounds__(SQUARE *SQUARE_LINES)
conv2d_transpose_weight_f32(const float *__restrict__ w, float *__restrict__ out, int out_channels, int taps, int channels) {
    transpose_weight(w, out, out_channels, taps, channels);
}
extern "C" __global__ void __launch_bounds__(SQUARE *SQUARE_LINES)
conv2d_transpose_weight_bf16(const bf16 *__restrict__ w, bf16 *__restrict__ out, int out_channels, int taps, int channels) {
    transpose_weight(w, out, out_channels, taps, channels);
}
