// target sm_75
//
// The dense CRF's mean field on permutohedral lattices (src/ops/crf has the equations). The lattices' tables are built on
// the CPU, in a fixed order, and uploaded once an image; what is iterated is all here.
//
// Values lie pixel by pixel, or lattice point by lattice point, labels innermost, their number rounded up to a multiple of
// four (`width`): a piece is four labels, 16 bytes. Padding labels are 0 throughout. A lattice has one more point, always
// zero, which stands for neighbours that do not exist.
//
//       crf_unary_f32     −U = log p, clipped, from planes to pixels                        8 bytes a value
//       crf_softmax_f32   Q = softmax(energy), a warp a pixel                               8 bytes, twice more in L1
//       crf_splat_f32     a lattice point gathers n·Q of its pixels in their order          12 bytes and 16 a piece, an entry
//       crf_blur_f32      ¼, ½, ¼ (times 2) along one axis                                  32 bytes a piece, L2
//       crf_slice_f32     energy + w·n·(what the pixel's d + 1 vertices hold)               32 bytes and L2 a piece
//       crf_planes_f32    from pixels to planes                                             8 bytes a value
//
// One rung each: a thread a piece. No atomics: splat is a sum over a sorted list, in the CPU's order.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr float LEAST = 1e-5f; // probabilities are clipped to [1e-5, 1], as in src/ops/crf

__device__ __forceinline__ float4 scaled(float by, float4 v) { return make_float4(by * v.x, by * v.y, by * v.z, by * v.w); }
__device__ __forceinline__ float4 add_scaled(float4 sum, float by, float4 v) {
    return make_float4(fmaf(by, v.x, sum.x), fmaf(by, v.y, sum.y), fmaf(by, v.z, sum.z), fmaf(by, v.w, sum.w));
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, lanes));
    return value;
}

} // namespace

// scores L×pixels, out pixels×width. Threads follow the pixels of a label. Grid ⌈width·pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_unary_f32(const float *__restrict__ scores, float *__restrict__ out, int pixels, int labels, int width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    const int label = index / pixels, pixel = index % pixels;
    if (label >= width) return;
    out[pixel * width + label] = label < labels ? log_f32(fminf(fmaxf(scores[index], LEAST), 1.0f)) : 0.0f;
}

// Grid ⌈pixels / 8⌉, block 256: a warp a pixel.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_softmax_f32(const float *__restrict__ energy, float *__restrict__ q, int pixels, int labels, int width) {
    const int pixel = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (pixel >= pixels) return;
    const float *row = energy + pixel * width;
    float largest = __int_as_float(0xff800000); // −∞
    for (int l = lane; l < labels; l += WARP) largest = fmaxf(largest, row[l]);
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int l = lane; l < labels; l += WARP) sum += exp_f32(row[l] - largest);
    sum = warp_sum(sum);
    for (int l = lane; l < width; l += WARP) q[pixel * width + l] = l < labels ? exp_f32(row[l] - largest) / sum : 0.0f;
}

// A lattice point's entries of the list: (pixel, weight).
struct Entry {
    int pixel;
    float weight;
};

// out[v] = Σ over entries starts[v] … starts[v + 1] of weight·n[pixel]·q[pixel]; point `size` becomes 0. Grid
// ⌈(size + 1)·pieces / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_splat_f32(const float *__restrict__ q, const float *__restrict__ n, const int *__restrict__ starts, const Entry *__restrict__ entries,
              float *__restrict__ out, int size, int pieces) {
    const int index = blockIdx.x * THREADS + threadIdx.x, v = index / pieces, piece = index % pieces;
    if (v > size) return;
    float4 sum = make_float4(0, 0, 0, 0);
    if (v < size)
        for (int at = starts[v]; at < starts[v + 1]; ++at) {
            const Entry e = entries[at];
            sum = add_scaled(sum, e.weight, scaled(n[e.pixel], read_four(q + (e.pixel * pieces + piece) * 4)));
        }
    write_four(out + index * 4, sum);
}

// out[v] = in[v] + ½·(in[a] + in[b]), a and b the neighbours along one axis. Grid as above.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_blur_f32(const float *__restrict__ in, const int *__restrict__ neighbours, float *__restrict__ out, int size, int pieces) {
    const int index = blockIdx.x * THREADS + threadIdx.x, v = index / pieces, piece = index % pieces;
    if (v > size) return;
    float4 sum = make_float4(0, 0, 0, 0);
    if (v < size) {
        const float4 a = read_four(in + (neighbours[2 * v] * pieces + piece) * 4);
        const float4 b = read_four(in + (neighbours[2 * v + 1] * pieces + piece) * 4);
        sum = add_scaled(read_four(in + index * 4), 0.5f, a + b);
    }
    write_four(out + index * 4, sum);
}

// out = energy + factor·n·scale·Σ of the pixel's vertices; `out` may be `energy`. Grid ⌈pixels·pieces / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_slice_f32(const float *energy, const float *__restrict__ lattice, const int *__restrict__ vertex, const float *__restrict__ weight,
              const float *__restrict__ n, float *out, int pixels, int vertices, int pieces, float scale, float factor) {
    const int index = blockIdx.x * THREADS + threadIdx.x, pixel = index / pieces, piece = index % pieces;
    if (pixel >= pixels) return;
    float4 message = make_float4(0, 0, 0, 0);
    for (int k = 0; k < vertices; ++k) {
        const int at = pixel * vertices + k;
        message = add_scaled(message, weight[at], read_four(lattice + (vertex[at] * pieces + piece) * 4));
    }
    write_four(out + index * 4, add_scaled(read_four(energy + index * 4), factor * n[pixel], scaled(scale, message)));
}

// out L×pixels from pixels×width. Grid ⌈labels·pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_planes_f32(const float *__restrict__ q, float *__restrict__ out, int pixels, int labels, int width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    const int label = index / pixels, pixel = index % pixels;
    if (label < labels) out[index] = q[pixel * width + label];
}
