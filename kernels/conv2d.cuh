// What all convolution kernels share: which pixel meets which tap.
//
// Both directions are one product, rows × taps·channels times taps·channels × columns, gathered on the way in:
//
//   forward    target y (N×H'×W'×O), source x  (N×H×W×I),   weight O×KH×KW×I as it is
//   backward   target dx (N×H×W×I),  source dy (N×H'×W'×O), weight I×KH×KW×O (`conv2d_transpose_weight_*`)
//
// Backward with a stride meets only some taps at each pixel: those with (h + padding − r·dilation) divisible by the
// stride, the same ones for all h of one remainder. The stride² pairs of remainders are *phases*; each is a dense
// convolution with its own taps and one blockIdx.z. Forward has one phase.
//
// Limits: a tensor has fewer than 2^31 values (indices are 32-bit), and the batch, padded heights and widths, and the
// reach of a kernel, dilation·(KH − 1), stay below 2^15.
#pragma once
#include "common.cuh"

namespace {

// The arguments of every convolution, forward's names in both directions.
struct Shape {
    int batch, height, width, channels;       // x
    int out_height, out_width, out_channels;  // y
    int kernel_height, kernel_width;
    int stride, padding, dilation;
};

// Along one axis: pixel `position` of this phase's grid is target pixel `target + position * target_step` and meets
// weight tap `tap + j * tap_step` at source pixel `source + position * source_step + j * source_tap`, j < taps.
struct Axis {
    int grid, target, target_step;
    int source, source_step, source_tap, source_size;
    int tap, tap_step, taps;
};

__device__ __forceinline__ Axis forward_axis(int out_size, int size, int kernel, int stride, int padding, int dilation) {
    return {out_size, 0, 1, -padding, stride, dilation, size, 0, 1, kernel};
}

__device__ __forceinline__ Axis backward_axis(int out_size, int size, int kernel, int stride, int padding, int dilation, int phase) {
    // Taps that fit repeat every stride / gcd(stride, dilation); the first is below that if there is one.
    int common = stride, rest = dilation % stride;
    while (rest != 0) {
        const int next = common % rest;
        common = rest;
        rest = next;
    }
    const int tap_step = stride / common;
    int tap = 0;
    while (tap < tap_step && (phase + padding - tap * dilation) % stride != 0) ++tap;
    const int taps = tap < tap_step && tap < kernel ? (kernel - 1 - tap) / tap_step + 1 : 0;
    const int grid = phase < size ? (size - 1 - phase) / stride + 1 : 0;
    return {grid, phase, stride, (phase + padding - tap * dilation) / stride, 1, -(dilation / common), out_size, tap, tap_step, taps};
}

// One phase of a convolution in either direction, as a product. It lies in shared memory: what all threads agree on needs
// no registers of each.
struct Product {
    Axis y, x;
    int rows;     // target pixels of this phase
    int columns;  // target channels
    int channels; // source channels
    int kernel_width, kernel_size;
    int target_height, target_width;
};

__device__ __forceinline__ Product product(const Shape &s, bool backward) {
    Product p;
    if (backward) {
        const int phase_y = blockIdx.z / s.stride, phase_x = blockIdx.z % s.stride;
        p.y = backward_axis(s.out_height, s.height, s.kernel_height, s.stride, s.padding, s.dilation, phase_y);
        p.x = backward_axis(s.out_width, s.width, s.kernel_width, s.stride, s.padding, s.dilation, phase_x);
        p.columns = s.channels, p.channels = s.out_channels;
        p.target_height = s.height, p.target_width = s.width;
    } else {
        p.y = forward_axis(s.out_height, s.height, s.kernel_height, s.stride, s.padding, s.dilation);
        p.x = forward_axis(s.out_width, s.width, s.kernel_width, s.stride, s.padding, s.dilation);
        p.columns = s.out_channels, p.channels = s.channels;
        p.target_height = s.out_height, p.target_width = s.out_width;
    }
    p.rows = s.batch * p.y.grid * p.x.grid;
    p.kernel_width = s.kernel_width, p.kernel_size = s.kernel_height * s.kernel_width;
    return p;
}

// Where a row's source pixels are: its image, and the source coordinates of its first tap. A row past the end lies outside
// every image, so that all its taps read zeros. In 16 bits, because it is a table in shared memory and two blocks of rung
// 4 just fit where an SM has 100 KB.
struct Row {
    short image, y, x;
};
__device__ __forceinline__ Row source_row(const Product &p, int row) {
    const int q = row % p.x.grid, rest = row / p.x.grid;
    const int a = rest % p.y.grid, n = rest / p.y.grid;
    const int y = p.y.source + a * p.y.source_step, x = p.x.source + q * p.x.source_step;
    return {short(n), short(row < p.rows ? y : -0x8000), short(x)};
}

// Index of the row's target pixel.
__device__ __forceinline__ int target_pixel(const Product &p, int row) {
    const int q = row % p.x.grid, rest = row / p.x.grid;
    const int a = rest % p.y.grid, n = rest / p.y.grid;
    return (n * p.target_height + p.y.target + a * p.y.target_step) * p.target_width + p.x.target + q * p.x.target_step;
}

// The walk of one thread over taps and, within a tap, slices of `depth` source channels. The thread copies source rows
// `line` and `line + 64` and weight columns `column` and `column + 64`; what it keeps in registers is where they are
// now. The rows lie in shared memory and are looked at only where the tap changes: registers are scarce.
struct Walk {
    int channel, r, s;
    int source[2]; // index of the source pixel, -1 outside the image
    int weight;    // offset of the first column's weights
};
__device__ __forceinline__ void seek(Walk &at, const Product &p, const Row *rows, int line, int column, int channels) {
    const int move_y = at.r * p.y.source_tap, move_x = at.s * p.x.source_tap;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Row row = rows[line + 64 * half];
        const int y = row.y + move_y, x = row.x + move_x;
        const bool inside = unsigned(y) < unsigned(p.y.source_size) && unsigned(x) < unsigned(p.x.source_size);
        at.source[half] = inside ? (row.image * p.y.source_size + y) * p.x.source_size + x : -1;
    }
    const int tap = (p.y.tap + at.r * p.y.tap_step) * p.kernel_width + p.x.tap + at.s * p.x.tap_step;
    at.weight = (column * p.kernel_size + tap) * channels;
}
__device__ __forceinline__ void advance(Walk &at, const Product &p, const Row *rows, int line, int column, int channels, int depth) {
    at.channel += depth;
    if (at.channel < channels) return;
    at.channel = 0;
    if (++at.s == p.x.taps) {
        at.s = 0;
        ++at.r;
    }
    seek(at, p, rows, line, column, channels);
}
// Slices of a whole walk.
__device__ __forceinline__ int slices(const Product &p, int channels, int depth) { return p.y.taps * p.x.taps * tiles(channels, depth); }

// Where results go, t = product + bias + add: to `target`, and max(0, scale·t + shift) to `activated`. What is null is left
// out. The second is the normalisation and ReLU that follow the convolution: taken here, they cost no pass of their own.
template <class T> struct Outlet {
    const float *bias = nullptr;
    const T *add = nullptr;
    T *target = nullptr;
    const float *scale = nullptr, *shift = nullptr;
    T *activated = nullptr;
};

// As batch_norm_f32 does it, with its roundings.
__device__ __forceinline__ float normalised(float scale, float t, float shift) {
    const float v = __fadd_rn(__fmul_rn(scale, t), shift);
    return v < 0.0f ? 0.0f : v;
}

template <class T> __device__ __forceinline__ void store_one(const Outlet<T> &to, int at, int column, float v) {
    if (to.bias) v += to.bias[column];
    if (to.add) v += to_f32(to.add[at]);
    if (to.target) from_f32(v, to.target[at]);
    if (to.activated) from_f32(normalised(to.scale[column], v, to.shift[column]), to.activated[at]);
}

// Up to four values of a row from `column` on.
template <class T> __device__ __forceinline__ void store_four(const Outlet<T> &to, int pixel, int column, int columns, float4 v) {
    const int at = pixel * columns;
    if (columns % 4 == 0) {
        if (column >= columns) return;
        if (to.bias) v = v + read_four(to.bias + column);
        if (to.add) v = v + read_four(to.add + at + column);
        if (to.target) write_four(to.target + at + column, v);
        if (to.activated) {
            const float4 scale = read_four(to.scale + column), shift = read_four(to.shift + column);
            v = make_float4(normalised(scale.x, v.x, shift.x), normalised(scale.y, v.y, shift.y), normalised(scale.z, v.z, shift.z),
                            normalised(scale.w, v.w, shift.w));
            write_four(to.activated + at + column, v);
        }
        return;
    }
    // The values are handed down instead of indexed, so that they stay in registers in a loop that stays small.
#pragma unroll 1
    for (int c = column; c < min(column + 4, columns); ++c) {
        store_one(to, at + c, c, v.x);
        v.x = v.y, v.y = v.z, v.z = v.w;
    }
}

// A block's results on their way out, some rows of 128 columns at a time: through shared memory, so that a warp writes
// whole rows in 16-byte pieces, by a loop that is small. Pieces are shuffled by row: lanes that hold two columns of four
// rows (mma.sync's layout) write to all banks.
constexpr int RESULT_COLUMNS = 128;
__device__ __forceinline__ int result_index(int row, int column) {
    return row * RESULT_COLUMNS + (column / 4 ^ row % 4 * 2) * 4 + column % 4;
}
// Writes `count` rows that lie in `results`, the first of them row `first_row` of the product.
template <int BLOCK, class T>
__device__ __forceinline__ void write_results(const float *results, int count, const Product &p, int first_row, int first_column,
                                              const Outlet<T> &to) {
    const int column = threadIdx.x % WARP * 4;
#pragma unroll 1
    for (int r = threadIdx.x / WARP; r < count; r += BLOCK / WARP) {
        const int row = first_row + r;
        if (row >= p.rows) return;
        store_four(to, target_pixel(p, row), first_column + column, p.columns, read_four(results + result_index(r, column)));
    }
}

} // namespace

// Where the results of a kernel on T go: its parameters after the operands, and the Outlet made of them.
#define OUTLET_PARAMETERS(T)                                                                                                \
    const float *__restrict__ bias, const T *__restrict__ add, T *__restrict__ target, const float *__restrict__ scale,     \
        const float *__restrict__ shift, T *__restrict__ activated
#define OUTLET(T)                                                                                                           \
    Outlet<T> { bias, add, target, scale, shift, activated }

// The parameters that every convolution kernel ends with, and the Shape made of them.
#define CONV2D_PARAMETERS                                                                                                   \
    int batch, int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_height,     \
        int kernel_width, int stride, int padding, int dilation
#define CONV2D_SHAPE                                                                                                        \
    Shape { batch, height, width, channels, out_height, out_width, out_channels, kernel_height, kernel_width, stride, padding, dilation }
