// target sm_75
//
// Semantic affinity of pixel pairs, its loss, and the loss's gradient (src/ops/affinity has the equations).
//
//   d[n,o,y,x] = factor · Σ_k |f[n,y,x,k] − f[n,y+dy,x+dx,k]|     factor 1 (sum) or 1/K (mean)
//   W = exp(−d), NaN where the pair does not exist
//
// f N×h×w×K, d and W N×P×h×w: a plane an offset (dy, dx) of the half-stencil. A pair exists if both ends lie on the grid
// and its first pixel keeps `margin` from the left, right and lower border (0: border rule `full`; reach: rule `psa`).
//
// rung  kernel                           idea                                             bounded by
// 0     affinity_forward_gather_f32      one thread a pair, any stencil                   L1 and L2: 2 loads a term
// 1     affinity_forward_tiled_f32       a tile with its halo in shared memory, a         shared memory: 16 bytes for
//                                        pixel's 34 sums in registers; radius 5 only      4 terms of 2 instructions
// 0     affinity_distance_gather_f32     as affinity_forward_gather_f32, but leaves d
// 1     affinity_distance_tiled_f32      as affinity_forward_tiled_f32, but leaves d
// Loss and gradient take d and any stencil:
//       affinity_count_u32               pairs of each kind, from the labels alone: integers, so atomics keep the bits
//       affinity_weights_f32             from those, what one pair of each kind weighs in the loss
//       affinity_loss_f32                d → dL/dd, and sums of the loss a block and kind in a fixed tree
//       affinity_parts_f32               the loss and its parts from the sums
//       affinity_backward_gather_f32     one thread a value of df, from both sides of its pixel; no atomics. L1 and L2:
//                                        2P loads of f and of slopes a value
//       affinity_backward_tiled_f32      tiles in shared memory, 16 channels a thread: a slope is read once for 16; radius 5
#include "common.cuh"

namespace {

constexpr int PAIR_THREADS = 256;
constexpr unsigned char NEUTRAL = 255; // label of a pixel that is in no pair
enum Kind { BACKGROUND, FOREGROUND, NEGATIVE, NO_PAIR };
enum Form { PAPER, PSA };
constexpr float SMALLEST = 1e-5f, PSA_EPSILON = 1e-5f; // as in src/ops/affinity

struct Grid {
    int height, width, margin;
    __device__ __forceinline__ bool exists(int y, int x, int dy, int dx) const {
        return y + dy < height && unsigned(x + dx) < unsigned(width) && y < height - margin && x >= margin && x < width - margin;
    }
};

__device__ __forceinline__ Kind kind(unsigned char a, unsigned char b) {
    if (a == NEUTRAL || b == NEUTRAL) return NO_PAIR;
    if (a != b) return NEGATIVE;
    return a == 0 ? BACKGROUND : FOREGROUND;
}

__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }

// Its pair of one thread: image, plane, first pixel. False past the end.
struct Pair {
    int image, plane, y, x, dy, dx;
};
__device__ __forceinline__ bool pair_of(int index, int images, int planes, const int *__restrict__ offsets, const Grid &grid, Pair &pair) {
    const int pixels = grid.height * grid.width;
    if (index >= images * planes * pixels) return false;
    const int pixel = index % pixels, rest = index / pixels;
    pair.plane = rest % planes, pair.image = rest / planes;
    pair.y = pixel / grid.width, pair.x = pixel % grid.width;
    pair.dy = offsets[2 * pair.plane], pair.dx = offsets[2 * pair.plane + 1];
    return true;
}

} // namespace

// ---- forward, rung 0 ------------------------------------------------------------------------------------------------

template <bool EXP>
__device__ __forceinline__ void gather(const float *__restrict__ f, const int *__restrict__ offsets, float *__restrict__ out, int images,
                                       int height, int width, int channels, int planes, int margin, float factor) {
    const Grid grid = {height, width, margin};
    const int index = blockIdx.x * PAIR_THREADS + threadIdx.x;
    Pair p;
    if (!pair_of(index, images, planes, offsets, grid, p)) return;
    if (!grid.exists(p.y, p.x, p.dy, p.dx)) {
        out[index] = not_a_number();
        return;
    }
    const float *a = f + ((p.image * height + p.y) * width + p.x) * channels;
    const float *b = a + (p.dy * width + p.dx) * channels;
    float sum = 0.0f;
    for (int k = 0; k < channels; ++k) sum += fabsf(a[k] - b[k]);
    const float d = factor * sum;
    out[index] = EXP ? exp_f32(-d) : d;
}

// offsets P×2 (dy, dx). Grid ⌈N·P·h·w / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_forward_gather_f32(const float *__restrict__ f, const int *__restrict__ offsets, float *__restrict__ out, int images, int height,
                            int width, int channels, int planes, int margin, float factor) {
    gather<true>(f, offsets, out, images, height, width, channels, planes, margin, factor);
}
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_distance_gather_f32(const float *__restrict__ f, const int *__restrict__ offsets, float *__restrict__ out, int images, int height,
                             int width, int channels, int planes, int margin, float factor) {
    gather<false>(f, offsets, out, images, height, width, channels, planes, margin, factor);
}

// ---- forward, rung 1 ------------------------------------------------------------------------------------------------

constexpr int TILE_HEIGHT = 8, TILE_WIDTH = 16, REACH = 4, RADIUS = 5;
constexpr int HALO_HEIGHT = TILE_HEIGHT + REACH, HALO_WIDTH = TILE_WIDTH + 2 * REACH; // the half-stencil looks down only
constexpr int TILE_THREADS = TILE_HEIGHT * TILE_WIDTH;
constexpr int DEPTH = 32;       // channels at a time
constexpr int STEP = DEPTH + 4; // floats from pixel to pixel: a pad, so that 8 pixels' same 16 bytes fill all banks
constexpr int PLANES = 34;

// Calls `visit(plane, dy, dx)` for the half-stencil of radius 5 (dy² + dx² < 25), in the order of its planes: unrolled
// where the planes' sums are registers.
constexpr __device__ bool in_stencil(int dy, int dx) { return (dy > 0 || dx > 0) && dy * dy + dx * dx < RADIUS * RADIUS; }
template <class Visit> __device__ __forceinline__ void unrolled_stencil(Visit visit) {
    int plane = 0;
#pragma unroll
    for (int dy = 0; dy <= REACH; ++dy)
#pragma unroll
        for (int dx = -REACH; dx <= REACH; ++dx)
            if (in_stencil(dy, dx)) visit(plane++, dy, dx);
}
template <class Visit> __device__ __forceinline__ void rolled_stencil(Visit visit) {
    int plane = 0;
#pragma unroll 1
    for (int dy = 0; dy <= REACH; ++dy)
#pragma unroll 1
        for (int dx = -REACH; dx <= REACH; ++dx)
            if (in_stencil(dy, dx)) visit(plane++, dy, dx);
}

template <bool EXP>
__device__ __forceinline__ void tiled(const float *__restrict__ f, float *__restrict__ out, int height, int width, int channels,
                                      int margin, float factor) {
    alignas(16) __shared__ float tile[HALO_HEIGHT * HALO_WIDTH * STEP];
    const Grid grid = {height, width, margin};
    const int top = blockIdx.y * TILE_HEIGHT, left = blockIdx.x * TILE_WIDTH;
    const int ty = threadIdx.x / TILE_WIDTH, tx = threadIdx.x % TILE_WIDTH;
    const float *image = f + blockIdx.z * height * width * channels;
    const bool whole = channels % 4 == 0;
    float sum[PLANES];
#pragma unroll
    for (int p = 0; p < PLANES; ++p) sum[p] = 0.0f;

    for (int first = 0; first < channels; first += DEPTH) {
#pragma unroll 1
        for (int i = threadIdx.x; i < HALO_HEIGHT * HALO_WIDTH * (DEPTH / 4); i += TILE_THREADS) {
            const int pixel = i / (DEPTH / 4), k = i % (DEPTH / 4) * 4;
            const int y = top + pixel / HALO_WIDTH, x = left - REACH + pixel % HALO_WIDTH;
            const bool inside = y < height && unsigned(x) < unsigned(width);
            const float4 v = inside ? load_four(image + (y * width + x) * channels, first + k, channels, whole) : make_float4(0, 0, 0, 0);
            write_four(tile + pixel * STEP + k, v);
        }
        __syncthreads();
        const float *own = tile + (ty * HALO_WIDTH + tx + REACH) * STEP;
#pragma unroll 1
        for (int k = 0; k < DEPTH; k += 4) {
            const float4 a = read_four(own + k);
            unrolled_stencil([&](int plane, int dy, int dx) {
                const float4 b = read_four(own + (dy * HALO_WIDTH + dx) * STEP + k);
                sum[plane] += fabsf(a.x - b.x);
                sum[plane] += fabsf(a.y - b.y);
                sum[plane] += fabsf(a.z - b.z);
                sum[plane] += fabsf(a.w - b.w);
            });
        }
        __syncthreads();
    }
    // Through shared memory into a loop that is small; each thread reads what it wrote, and the tile is no longer needed.
#pragma unroll
    for (int p = 0; p < PLANES; ++p) tile[p * TILE_THREADS + threadIdx.x] = sum[p];
    const int y = top + ty, x = left + tx;
    if (y >= height || x >= width) return;
    const int at = (blockIdx.z * PLANES * height + y) * width + x;
    rolled_stencil([&](int plane, int dy, int dx) {
        const float d = factor * tile[plane * TILE_THREADS + threadIdx.x];
        out[at + plane * height * width] = grid.exists(y, x, dy, dx) ? (EXP ? exp_f32(-d) : d) : not_a_number();
    });
}

// The default stencil only: 34 planes. Grid (⌈w / 16⌉, ⌈h / 8⌉, N), block 128.
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
affinity_forward_tiled_f32(const float *__restrict__ f, float *__restrict__ out, int height, int width, int channels, int margin, float factor) {
    tiled<true>(f, out, height, width, channels, margin, factor);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
affinity_distance_tiled_f32(const float *__restrict__ f, float *__restrict__ out, int height, int width, int channels, int margin, float factor) {
    tiled<false>(f, out, height, width, channels, margin, factor);
}

// ---- loss -----------------------------------------------------------------------------------------------------------

// counts[kind] += pairs of that kind; the three start as zeros. Grid ⌈N·P·h·w / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_count_u32(const unsigned char *__restrict__ labels, const int *__restrict__ offsets, unsigned *__restrict__ counts, int images,
                   int height, int width, int planes, int margin) {
    const Grid grid = {height, width, margin};
    Pair p;
    Kind mine = NO_PAIR;
    if (pair_of(blockIdx.x * PAIR_THREADS + threadIdx.x, images, planes, offsets, grid, p) && grid.exists(p.y, p.x, p.dy, p.dx)) {
        const int at = (p.image * height + p.y) * width + p.x;
        mine = kind(labels[at], labels[at + p.dy * width + p.dx]);
    }
#pragma unroll
    for (int k = 0; k < NO_PAIR; ++k) {
        const unsigned lanes = __ballot_sync(WHOLE_WARP, mine == k);
        if (threadIdx.x % WARP == 0 && lanes != 0) atomicAdd(counts + k, __popc(lanes));
    }
}

// Share of a kind in the loss, before it is divided by the kind's pairs.
__device__ __forceinline__ float share(int kind, int form) { return (kind == NEGATIVE ? 2.0f : 1.0f) * (form == PSA ? 0.25f : 1.0f); }
__device__ __forceinline__ float divisor(unsigned count, int form) {
    return form == PSA ? float(count) + PSA_EPSILON : fmaxf(float(count), 1.0f);
}

// weights[kind]. Grid 1, block 32.
extern "C" __global__ void __launch_bounds__(WARP)
affinity_weights_f32(const unsigned *__restrict__ counts, float *__restrict__ weights, int form) {
    if (threadIdx.x < NO_PAIR) weights[threadIdx.x] = share(threadIdx.x, form) / divisor(counts[threadIdx.x], form);
}

// Loss of one pair at distance d, and its slope, before the kind's weight.
__device__ __forceinline__ float2 pair_loss(Kind kind, Form form, float d) {
    if (kind == NEGATIVE) {
        if (form == PSA) {
            const float rest = PSA_EPSILON - expm1_f32(-d); // ε + 1 − W
            return make_float2(-log_f32(rest), -exp_f32(-d) / rest);
        }
        const float rest = -expm1_f32(-fmaxf(d, SMALLEST)); // 1 − W
        return make_float2(-log_f32(rest), d < SMALLEST ? 0.0f : -exp_f32(-d) / rest);
    }
    if (form == PSA) {
        const float w = exp_f32(-d);
        return make_float2(-log_f32(w + PSA_EPSILON), w / (w + PSA_EPSILON));
    }
    return make_float2(d, 1.0f);
}

// slopes = weights[kind] · factor · d(pair's loss)/dd, 0 where there is no pair (may be d's own memory);
// sums[3·block + kind] = Σ of the block's losses of that kind, unweighted. Grid ⌈N·P·h·w / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_loss_f32(const float *d, const unsigned char *__restrict__ labels, const int *__restrict__ offsets,
                  const float *__restrict__ weights, float *slopes, float *__restrict__ sums, int images, int height, int width,
                  int planes, int margin, int form, float factor) {
    __shared__ float scratch[PAIR_THREADS / WARP];
    const Grid grid = {height, width, margin};
    const int index = blockIdx.x * PAIR_THREADS + threadIdx.x;
    Pair p;
    Kind mine = NO_PAIR;
    float loss = 0.0f;
    if (pair_of(index, images, planes, offsets, grid, p)) {
        float slope = 0.0f;
        if (grid.exists(p.y, p.x, p.dy, p.dx)) {
            const int at = (p.image * height + p.y) * width + p.x;
            mine = kind(labels[at], labels[at + p.dy * width + p.dx]);
            if (mine != NO_PAIR) {
                const float2 both = pair_loss(mine, Form(form), d[index]);
                loss = both.x;
                slope = weights[mine] * factor * both.y;
            }
        }
        slopes[index] = slope;
    }
#pragma unroll
    for (int k = 0; k < NO_PAIR; ++k) {
        const float sum = block_sum<PAIR_THREADS>(mine == k ? loss : 0.0f, scratch);
        if (threadIdx.x == 0) sums[blockIdx.x * NO_PAIR + k] = sum;
    }
}

// loss[0]; parts[kind] = mean loss of that kind, parts[3 + kind] = the bits of its count. Sums of `blocks` blocks, joined in
// a fixed tree. Grid 1, block 256.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_parts_f32(const float *__restrict__ sums, const unsigned *__restrict__ counts, float *__restrict__ loss, float *__restrict__ parts,
                   int blocks, int form) {
    __shared__ float scratch[PAIR_THREADS / WARP];
    float total = 0.0f;
    for (int k = 0; k < NO_PAIR; ++k) {
        float sum = 0.0f;
        for (int block = threadIdx.x; block < blocks; block += PAIR_THREADS) sum += sums[block * NO_PAIR + k];
        const float mean = block_sum<PAIR_THREADS>(sum, scratch) / divisor(counts[k], form);
        total = fmaf(share(k, form), mean, total);
        if (threadIdx.x == 0) {
            parts[k] = mean;
            parts[NO_PAIR + k] = __uint_as_float(counts[k]);
        }
    }
    if (threadIdx.x == 0) loss[0] = total;
}

// ---- backward -------------------------------------------------------------------------------------------------------

// df[n,y,x,k] = scale · Σ_o [ s(o, p)·sgn(f(p) − f(p+o)) + s(o, p−o)·sgn(f(p) − f(p−o)) ], sgn(0) = 0: `slopes` from
// affinity_loss_f32, `scale` the loss's own gradient, one number on the device. Grid ⌈N·h·w·K / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(PAIR_THREADS)
affinity_backward_gather_f32(const float *__restrict__ f, const float *__restrict__ slopes, const int *__restrict__ offsets,
                             const float *__restrict__ scale, float *__restrict__ df, int images, int height, int width, int channels,
                             int planes) {
    const int index = blockIdx.x * PAIR_THREADS + threadIdx.x;
    if (index >= images * height * width * channels) return;
    const int pixel = index / channels;
    const int x = pixel % width, y = pixel / width % height, n = pixel / width / height;
    const float own = f[index];
    const float *plane = slopes + n * planes * height * width + y * width + x;
    float sum = 0.0f;
    for (int o = 0; o < planes; ++o, plane += height * width) {
        const int dy = offsets[2 * o], dx = offsets[2 * o + 1], step = dy * width + dx;
        if (y + dy < height && unsigned(x + dx) < unsigned(width)) {
            const float other = f[index + step * channels];
            sum += own > other ? plane[0] : own < other ? -plane[0] : 0.0f;
        }
        if (y >= dy && unsigned(x - dx) < unsigned(width)) {
            const float other = f[index - step * channels];
            sum += own > other ? plane[-step] : own < other ? -plane[-step] : 0.0f;
        }
    }
    df[index] = scale[0] * sum;
}

// As above, by tiles: a block keeps 8×16 pixels and their neighbours on all sides in shared memory, 16 channels at a time;
// each thread has its pixel's 16 values and 16 sums in registers, and reads each pair's slope once for all of them. The
// same order of addition, so the same bits. Grid (⌈w / 16⌉, ⌈h / 8⌉, N), block 128.
constexpr int BACK_DEPTH = 16;             // channels at a time
constexpr int BACK_STEP = BACK_DEPTH + 4;  // floats from pixel to pixel, a pad as above
constexpr int WIDE_HEIGHT = TILE_HEIGHT + 2 * REACH, WIDE_WIDTH = TILE_WIDTH + 2 * REACH;

// sum += s·sgn(own − other)
__device__ __forceinline__ void add_sign(float &sum, float s, float own, float other) {
    sum += own > other ? s : own < other ? -s : 0.0f;
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS)
affinity_backward_tiled_f32(const float *__restrict__ f, const float *__restrict__ slopes, const float *__restrict__ scale,
                            float *__restrict__ df, int height, int width, int channels) {
    alignas(16) __shared__ float tile[WIDE_HEIGHT * WIDE_WIDTH * BACK_STEP];
    const int top = blockIdx.y * TILE_HEIGHT, left = blockIdx.x * TILE_WIDTH;
    const int ty = threadIdx.x / TILE_WIDTH, tx = threadIdx.x % TILE_WIDTH, y = top + ty, x = left + tx;
    const int first_pixel = blockIdx.z * height * width, plane_size = height * width;
    const float *own_slopes = slopes + first_pixel * PLANES + y * width + x;
    const float *own = tile + ((ty + REACH) * WIDE_WIDTH + tx + REACH) * BACK_STEP;
    const bool whole = channels % 4 == 0, inside = y < height && x < width;
    const float by = scale[0];
    for (int first = 0; first < channels; first += BACK_DEPTH) {
#pragma unroll 1
        for (int i = threadIdx.x; i < WIDE_HEIGHT * WIDE_WIDTH * (BACK_DEPTH / 4); i += TILE_THREADS) {
            const int pixel = i / (BACK_DEPTH / 4), k = i % (BACK_DEPTH / 4) * 4;
            const int py = top - REACH + pixel / WIDE_WIDTH, px = left - REACH + pixel % WIDE_WIDTH;
            const bool there = unsigned(py) < unsigned(height) && unsigned(px) < unsigned(width);
            const float4 v = there ? load_four(f + (first_pixel + py * width + px) * channels, first + k, channels, whole)
                                   : make_float4(0, 0, 0, 0);
            write_four(tile + pixel * BACK_STEP + k, v);
        }
        __syncthreads();
        if (inside) {
            float sum[BACK_DEPTH], mine[BACK_DEPTH];
#pragma unroll
            for (int k = 0; k < BACK_DEPTH; k += 4) {
                const float4 v = read_four(own + k);
                mine[k] = v.x, mine[k + 1] = v.y, mine[k + 2] = v.z, mine[k + 3] = v.w;
                sum[k] = sum[k + 1] = sum[k + 2] = sum[k + 3] = 0.0f;
            }
            rolled_stencil([&](int plane, int dy, int dx) {
                // A slope is 0 where there is no pair.
                const bool behind = y >= dy && unsigned(x - dx) < unsigned(width);
                const float ahead_slope = own_slopes[plane * plane_size];
                const float behind_slope = behind ? own_slopes[plane * plane_size - dy * width - dx] : 0.0f;
                const int step = (dy * WIDE_WIDTH + dx) * BACK_STEP;
#pragma unroll
                for (int k = 0; k < BACK_DEPTH; k += 4) {
                    const float4 a = read_four(own + step + k), b = read_four(own - step + k);
                    add_sign(sum[k], ahead_slope, mine[k], a.x), add_sign(sum[k], behind_slope, mine[k], b.x);
                    add_sign(sum[k + 1], ahead_slope, mine[k + 1], a.y), add_sign(sum[k + 1], behind_slope, mine[k + 1], b.y);
                    add_sign(sum[k + 2], ahead_slope, mine[k + 2], a.z), add_sign(sum[k + 2], behind_slope, mine[k + 2], b.z);
                    add_sign(sum[k + 3], ahead_slope, mine[k + 3], a.w), add_sign(sum[k + 3], behind_slope, mine[k + 3], b.w);
                }
            });
            float *target = df + (first_pixel + y * width + x) * channels;
#pragma unroll
            for (int k = 0; k < BACK_DEPTH; k += 4) {
                const int c = first + k;
                if (whole) {
                    if (c < channels) write_four(target + c, make_float4(by * sum[k], by * sum[k + 1], by * sum[k + 2], by * sum[k + 3]));
                    continue;
                }
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (c + j < channels) target[c + j] = by * sum[k + j];
            }
        }
        __syncthreads();
    }
}
