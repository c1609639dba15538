// What the upper rungs of convolution share: slices copied in the background while others are multiplied.
//
// A stage holds 128 lines of each operand, 64 bytes a line: 16 channels of f32, 32 of bf16, so that tf32 and bf16 are one
// piece of code. A line is four 16-byte chunks; chunk c of line l lies at c ^ f(l), so that eight lines' same chunk,
// which ldmatrix reads together, fill all banks without a pad.
//
// Channels in whole chunks (4 of f32, 8 of bf16) are copied by `cp.async`, others value by value: every shape is taken.
#pragma once
#include "conv2d.cuh"

namespace {

constexpr int LINES = 128;            // rows, and columns, of a block
constexpr int LINE = 64;              // bytes
constexpr int STAGE = 2 * LINES * LINE; // bytes, both operands
constexpr int THREADS = 256;          // 8 warps: 2 × 4 of 64×32 outputs

// Writes one chunk of a row, or zeros where it does not exist.
template <class T>
__device__ __forceinline__ void copy_chunk(char *target, const T *row, int channel, int channels, bool exists, bool whole) {
    if (whole) {
        const bool valid = exists && channel < channels;
        copy_async_16(shared_address(target), valid ? row + channel : row, valid);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < int(16 / sizeof(T)); ++i)
        ((T *)target)[i] = exists && channel + i < channels ? row[channel + i] : T{};
}

// Where chunk `chunk` of a line lies within a stage's operand. SHIFT says which bits of the line stir: 1 where eight lines
// in a row are read together, 2 where it is every fourth.
template <int SHIFT> __device__ __forceinline__ int chunk_offset(int line, int chunk) {
    return line * LINE + ((chunk ^ (line >> SHIFT & 3)) * 16);
}

// Runs `multiply(stage)` for each slice while later ones are on their way. Then the results leave by halves of 64 rows:
// `lay(results)` writes those of the calling warp's half to shared memory.
template <class T, int STAGES, int COLUMN_SHIFT, class Multiply, class Lay, class Out>
__device__ __forceinline__ void pipeline(const T *__restrict__ source, const T *__restrict__ weight, const Outlet<Out> &to,
                                         const Shape &shape, bool backward, char *stages, Multiply multiply, Lay lay) {
    constexpr int CHUNK = 16 / sizeof(T), DEPTH = LINE / sizeof(T);
    __shared__ Product p;
    __shared__ Row rows[LINES];
    const int first_row = blockIdx.x * LINES, first_column = blockIdx.y * LINES;
    if (threadIdx.x == 0) p = product(shape, backward);
    __syncthreads();
    const int channels = p.channels, columns = p.columns;
    if (first_row >= p.rows) return; // phases differ in size
    if (threadIdx.x < LINES) rows[threadIdx.x] = source_row(p, first_row + threadIdx.x);
    __syncthreads();

    const int line = threadIdx.x / 4, chunk = threadIdx.x % 4; // what this thread copies, and the same 64 lines further
    const int column = first_column + line;
    const bool whole = channels % CHUNK == 0;
    Walk at = {0, 0, 0, {-1, -1}, 0};
    seek(at, p, rows, line, column, channels);
    const int count = slices(p, channels, DEPTH);
    auto copy = [&](char *stage) {
        const int channel = at.channel + chunk * CHUNK;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int l = line + 64 * half;
            const bool inside = at.source[half] >= 0, exists = column + 64 * half < columns;
            const int weights = at.weight + 64 * half * shape.kernel_height * shape.kernel_width * channels;
            copy_chunk(stage + chunk_offset<1>(l, chunk), source + (inside ? at.source[half] * channels : 0), channel, channels, inside, whole);
            copy_chunk(stage + LINES * LINE + chunk_offset<COLUMN_SHIFT>(l, chunk), weight + (exists ? weights : 0), channel, channels, exists, whole);
        }
        advance(at, p, rows, line, column, channels, DEPTH);
    };
    // The first steps only copy. One loop for both: a second copy of its body would cost more than the branches.
    int stage = 0, target = 0;
#pragma unroll 1
    for (int step = 1 - STAGES; step < count; ++step) {
        if (step >= 0) {
            copy_async_wait<STAGES - 2>();
            __syncthreads(); // this slice is there for everyone, and the one before has been multiplied by everyone
        }
        if (step + STAGES - 1 < count) copy(stages + target * STAGE);
        copy_async_commit();
        target = target + 1 == STAGES ? 0 : target + 1;
        if (step >= 0) {
            multiply(stages + stage * STAGE);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    }
    float *results = (float *)stages;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        __syncthreads();
        if (threadIdx.x / (THREADS / 2) == half) lay(results);
        __syncthreads();
        write_results<THREADS>(results, LINES / 2, p, first_row + half * LINES / 2, first_column, to);
    }
}

INTRINSIC unsigned operand(float, unsigned bits) { return round_to_tf32(bits); }
INTRINSIC unsigned operand(bf16, unsigned bits) { return bits; }

// Writes a warp's 4×4 tiles of 16×8 results, of the 64 rows that leave together: a lane has columns 2·(l % 4) and the
// next, of row l / 4 and of row l / 4 + 8.
__device__ __forceinline__ void lay_tiles(float *results, const float (&acc)[4][4][4], int column, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = result_index(i * 16 + half * 8 + lane / 4, column + j * 8 + lane % 4 * 2);
                *(float2 *)(results + at) = make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]);
            }
}

// A warp's 64×32 outputs are 4×4 tiles of 16×8.
template <class T, class Out, int STAGES>
__device__ __forceinline__ void tensor_cores(const T *__restrict__ source, const T *__restrict__ weight, const Outlet<Out> &to,
                                             const Shape &shape, bool backward) {
    extern __shared__ float4 dynamic[]; // STAGES × 16 KB
    char *stages = (char *)dynamic;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = warp / 4 * 64, column = warp % 4 * 32;
    float acc[4][4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) acc[i][j][k] = 0.0f;

    // Lane l points ldmatrix at one line: of the rows at line l % 16, chunk l / 16; of the columns at line l % 8 of the
    // 8 or the next 8, chunk l / 8 % 2. The swizzle depends on l % 8 alone, so tiles are whole offsets apart.
    const int left = chunk_offset<1>(row + lane % 16, lane / 16);
    const int right = LINES * LINE + chunk_offset<1>(column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    auto multiply = [&](const char *stage) {
        const unsigned base = shared_address(stage);
#pragma unroll
        for (int k = 0; k < 2; ++k) { // the line's halves: chunks 0 and 1, then 2 and 3
            unsigned a[4][4], b[2][4];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                load_matrices(b[j], base + ((right + j * 16 * LINE) ^ (k * 32)));
#pragma unroll
                for (int e = 0; e < 4; ++e) b[j][e] = operand(T{}, b[j][e]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_matrices(a[i], base + ((left + i * 16 * LINE) ^ (k * 32)));
#pragma unroll
                for (int e = 0; e < 4; ++e) a[i][e] = operand(T{}, a[i][e]);
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_add(T{}, acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    };
    pipeline<T, STAGES, 1>(source, weight, to, shape, backward, stages, multiply,
                           [&](float *results) { lay_tiles(results, acc, column, lane); });
}

} // namespace
