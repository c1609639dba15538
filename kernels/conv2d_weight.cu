// target sm_80
//
// Convolution, backward for the weight:
//
//   dw[o,r,s,i] = Σ_{n,p,q} dy[n,p,q,o] · x[n, p·stride + r·dilation − padding, q·stride + s·dilation − padding, i]
//
// A product O × pixels times pixels × KH·KW·I: few outputs, many terms. A block computes 128×128 outputs of one tap over
// a range of pixels (blockIdx.z); the ranges' parts are added by sum_parts_f32 in their order, so that the bits depend on
// `range` alone. The operands lie pixel by pixel, as they come: a stage holds DEPTH pixels of 128 channels of each.
//
// rung  kernel                       idea                                             bounded by
// 1     conv2d_weight_tiled_f32      in conv2d.cu: 16×16 outputs, from sm_75          shared memory
// 3     conv2d_weight_async_f32      8×8 outputs a thread, slices copied in the       issue of multiply-adds
//                                    background
// 4     conv2d_weight_mma_tf32       mma.sync 16×8×8; fragments are read value by     shared memory: 24 loads for 16 mma
//                                    value, since ldmatrix cannot transpose 32 bits
// 5     conv2d_weight_mma_bf16       mma.sync 16×8×16, ldmatrix.trans                 tensor pipe
//
// Every shape is taken. x N×H×W×I, dy N×H'×W'×O, parts R×O×KH×KW×I f32 (R ranges).
#include "conv2d_pipeline.cuh"

namespace {

constexpr int WEIGHT_STAGES = 3;
constexpr int OPERAND = STAGE / 2; // bytes of a stage that one operand takes

// Where a chunk of a pixel's 128 channels lies in its operand. f32: fragments take 8 channels of 4 pixels at once;
// bf16: ldmatrix takes one chunk of 8 pixels at once. Either way they fill all banks.
template <class T> __device__ __forceinline__ int pixel_offset(int pixel, int chunk) {
    const int stir = sizeof(T) == 4 ? pixel % 4 * 2 : pixel % 8;
    return pixel * LINES * int(sizeof(T)) + (chunk ^ stir) * 16;
}

// Runs `multiply(stage)` over this block's pixels; then the results leave as in conv2d_pipeline.cuh.
template <class T, class Multiply, class Lay>
__device__ __forceinline__ void pixel_pipeline(const T *__restrict__ x, const T *__restrict__ dy, float *__restrict__ parts, const Shape &s, int range,
                                               char *stages, Multiply multiply, Lay lay) {
    constexpr int CHUNK = 16 / sizeof(T), DEPTH = LINE / sizeof(T); // 16 pixels of f32, 32 of bf16
    constexpr int CHUNKS = LINES / CHUNK, APART = THREADS / CHUNKS; // a pixel's chunks; pixels copied at once
    const int tiles_i = tiles(s.channels, LINES), tap = blockIdx.y / tiles_i;
    const int first_o = blockIdx.x * LINES, first_i = blockIdx.y % tiles_i * LINES;
    const int move_y = tap / s.kernel_width * s.dilation - s.padding, move_x = tap % s.kernel_width * s.dilation - s.padding;
    const int pixels = s.batch * s.out_height * s.out_width;
    const int begin = blockIdx.z * range, end = min(begin + range, pixels);
    const int chunk = threadIdx.x % CHUNKS, line = threadIdx.x / CHUNKS;
    const bool whole_i = s.channels % CHUNK == 0, whole_o = s.out_channels % CHUNK == 0;

    // The pixel that this thread copies next, two of each slice, kept as coordinates: stepping on needs no division.
    int pixel = begin + line, q = pixel % s.out_width, p = pixel / s.out_width % s.out_height, n = pixel / s.out_width / s.out_height;
    auto copy = [&](char *stage) {
#pragma unroll 1
        for (int l = line; l < DEPTH; l += APART) {
            const bool exists = pixel < end;
            const int iy = p * s.stride + move_y, ix = q * s.stride + move_x;
            const bool inside = exists && unsigned(iy) < unsigned(s.height) && unsigned(ix) < unsigned(s.width);
            const int at = pixel_offset<T>(l, chunk), channel = chunk * CHUNK;
            copy_chunk(stage + at, dy + (exists ? pixel * s.out_channels : 0), first_o + channel, s.out_channels, exists, whole_o);
            const int from = inside ? ((n * s.height + iy) * s.width + ix) * s.channels : 0;
            copy_chunk(stage + OPERAND + at, x + from, first_i + channel, s.channels, inside, whole_i);
            pixel += APART;
            q += APART;
#pragma unroll 1
            while (q >= s.out_width) {
                q -= s.out_width;
                if (++p == s.out_height) {
                    p = 0;
                    ++n;
                }
            }
        }
    };
    // As in conv2d_pipeline.cuh, with fewer registers: the slice to copy goes where the one just multiplied was.
    int left = tiles(end - begin, DEPTH) + WEIGHT_STAGES - 1;
    char *stage = stages;
#pragma unroll 1
    for (int filled = 1; left > 0; --left) {
        const bool multiplies = filled == WEIGHT_STAGES;
        if (multiplies) {
            copy_async_wait<WEIGHT_STAGES - 2>();
            __syncthreads();
        }
        char *before = stage == stages ? stages + (WEIGHT_STAGES - 1) * STAGE : stage - STAGE;
        if (left >= WEIGHT_STAGES) copy(multiplies ? before : stages + (filled - 1) * STAGE);
        copy_async_commit();
        if (multiplies) {
            multiply(stage);
            stage = stage == stages + (WEIGHT_STAGES - 1) * STAGE ? stages : stage + STAGE;
        } else {
            ++filled;
        }
    }
    float *results = (float *)stages;
    const int taps = s.kernel_height * s.kernel_width, column = threadIdx.x % WARP * 4;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        __syncthreads();
        if (threadIdx.x / (THREADS / 2) == half) lay(results);
        __syncthreads();
#pragma unroll 1
        for (int r = threadIdx.x / WARP; r < LINES / 2; r += THREADS / WARP) {
            const int o = first_o + half * LINES / 2 + r;
            if (o >= s.out_channels) break;
            const int row = (blockIdx.z * s.out_channels + o) * taps + tap;
            store_four(Outlet<float>{nullptr, nullptr, parts}, row, first_i + column, s.channels, read_four(results + result_index(r, column)));
        }
    }
}

} // namespace

// ---- rung 3 ---------------------------------------------------------------------------------------------------------

// `range` pixels a block, R = ⌈N·H'·W' / range⌉. Grid (⌈O / 128⌉, KH·KW·⌈I / 128⌉, R), block 256,
// dynamic shared memory 48 KB. A few registers over half of the file: one block an SM, whose 64 sums a thread and three
// stages hide the latencies.
extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_weight_async_f32(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ parts, CONV2D_PARAMETERS, int range) {
    extern __shared__ float4 dynamic[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4; // and 32, and 16 further
    float acc[8][8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[i][j] = 0.0f;
    auto multiply = [&](const char *stage) {
#pragma unroll 1
        for (int four = 0; four < LINE / 4; four += 4) {
#pragma unroll
            for (int k = four; k < four + 4; ++k) {
                const float4 r0 = read_four((const float *)(stage + OPERAND + pixel_offset<float>(k, column / 4)));
                const float4 r1 = read_four((const float *)(stage + OPERAND + pixel_offset<float>(k, column / 4 + 4)));
                const float right[8] = {r0.x, r0.y, r0.z, r0.w, r1.x, r1.y, r1.z, r1.w};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float4 l = read_four((const float *)(stage + pixel_offset<float>(k, row / 4 + 8 * half)));
                    const float left[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int j = 0; j < 8; ++j) acc[4 * half + i][j] = fmaf(left[i], right[j], acc[4 * half + i][j]);
                }
            }
        }
    };
    const Shape shape = CONV2D_SHAPE;
    pixel_pipeline(x, dy, parts, shape, range, (char *)dynamic, multiply, [&](float *results) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int half = 0; half < 8; half += 4)
                write_four(results + result_index(row % 64 + i % 4 + i / 4 * 32, column + 4 * half),
                           make_float4(acc[i][half], acc[i][half + 1], acc[i][half + 2], acc[i][half + 3]));
    });
}

// ---- rungs 4 and 5 --------------------------------------------------------------------------------------------------

// The fragments of k-step k: rows (m) of a tile i and columns (n) of two tiles j, from tiles stored pixel by pixel.
struct Tf32Fragments {
    static constexpr int STEPS = 2; // of 8 pixels
    __device__ __forceinline__ static unsigned value(const char *operand, int pixel, int channel) {
        const unsigned bits = *(const unsigned *)(operand + pixel_offset<float>(pixel, channel / 4) + channel % 4 * 4);
        return round_to_tf32(bits);
    }
    __device__ __forceinline__ static void rows(unsigned (&a)[4], const char *operand, int k, int channel, int lane) {
        const int m = channel + lane / 4, pixel = k * 8 + lane % 4;
        a[0] = value(operand, pixel, m), a[1] = value(operand, pixel, m + 8);
        a[2] = value(operand, pixel + 4, m), a[3] = value(operand, pixel + 4, m + 8);
    }
    __device__ __forceinline__ static void columns(unsigned (&b)[4], const char *operand, int k, int channel, int lane) {
        const int n = channel + lane / 4, pixel = k * 8 + lane % 4;
        b[0] = value(operand, pixel, n), b[1] = value(operand, pixel + 4, n);
        b[2] = value(operand, pixel, n + 8), b[3] = value(operand, pixel + 4, n + 8);
    }
};
struct Bf16Fragments {
    static constexpr int STEPS = 2; // of 16 pixels
    __device__ __forceinline__ static void rows(unsigned (&a)[4], const char *operand, int k, int channel, int lane) {
        const int pixel = k * 16 + lane / 16 * 8 + lane % 8, m = channel + lane / 8 % 2 * 8;
        load_matrices_transposed(a, shared_address(operand) + pixel_offset<bf16>(pixel, m / 8));
    }
    __device__ __forceinline__ static void columns(unsigned (&b)[4], const char *operand, int k, int channel, int lane) {
        const int pixel = k * 16 + lane / 8 % 2 * 8 + lane % 8, n = channel + lane / 16 * 8;
        load_matrices_transposed(b, shared_address(operand) + pixel_offset<bf16>(pixel, n / 8));
    }
};

template <class T, class Fragments>
__device__ __forceinline__ void weight_tensor_cores(const T *__restrict__ x, const T *__restrict__ dy, float *__restrict__ parts, const Shape &shape, int range) {
    extern __shared__ float4 dynamic[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = warp / 4 * 64, column = warp % 4 * 32;
    float acc[4][4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) acc[i][j][k] = 0.0f;
    auto multiply = [&](const char *stage) {
#pragma unroll 1
        for (int k = 0; k < Fragments::STEPS; ++k) {
            unsigned b[2][4];
#pragma unroll
            for (int j = 0; j < 2; ++j) Fragments::columns(b[j], stage + OPERAND, k, column + 16 * j, lane);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                unsigned a[4];
                Fragments::rows(a, stage, k, row + 16 * i, lane);
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_add(T{}, acc[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    };
    pixel_pipeline(x, dy, parts, shape, range, (char *)dynamic, multiply, [&](float *results) { lay_tiles(results, acc, column, lane); });
}

// Launched as rung 3, dynamic shared memory 48 KB.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_weight_mma_tf32(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ parts, CONV2D_PARAMETERS, int range) {
    const Shape shape = CONV2D_SHAPE;
    weight_tensor_cores<float, Tf32Fragments>(x, dy, parts, shape, range);
}

// Launched as rung 3, dynamic shared memory 48 KB.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_weight_mma_bf16(const bf16 *__restrict__ x, const bf16 *__restrict__ dy, float *__restrict__ parts, CONV2D_PARAMETERS, int range) {
    const Shape shape = CONV2D_SHAPE;
    weight_tensor_cores<bf16, Bf16Fragments>(x, dy, parts, shape, range);
}
