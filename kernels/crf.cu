// target sm_75
//
// The dense CRF's mean field on permutohedral lattices (src/ops/crf has the equations). The lattices' tables are built by
// crf_lattice.cu once an image, or on the CPU; what is iterated is all here.
//
// Values lie pixel by pixel, or lattice point by lattice point, labels innermost, their number rounded up to a multiple of
// four (`width`): a piece is four labels, 16 bytes. Padding labels are 0 throughout. A lattice has one more point, always
// zero, which stands for neighbours that do not exist. Vertices and weights are planes, one a vertex: (d + 1)×pixels.
//
// rung  kernel                    idea                                                 bounded by
// 0     crf_splat_f32             lattices from the CPU; a lattice point gathers n·Q   12 bytes and 16 a piece, an entry; the
//                                 of its pixels in their order, a thread a piece       longest list, one load after the other
//       crf_unary_f32             −U = log p, clipped, from planes to pixels           8 bytes a value
//       crf_blur_f32              ¼, ½, ¼ (times 2) along one axis                     64 bytes a piece and axis, L2
//       crf_slice_f32             energy + w·n·(what the pixel's d + 1 vertices hold)  32 bytes a piece, and 16(d + 1) of L2
//       crf_softmax_f32           Q = softmax(energy), a warp a pixel                  8 bytes a value, twice more in L1
//       crf_planes_f32            from pixels to planes                                8 bytes a value
// 1     (crf_lattice.cu)          the lattices are built by sorting, see there         the sort: 20 bytes an entry and pass
// 2     crf_update_f32            both slices, the sum of energies and the softmax in  32 bytes a piece, and 16·9 of L2
//       crf_update_wide_f32       one pass, a piece a lane; wide: more than 128 labels
// 3     crf_splat_chunks_f32      lists in pieces of 32 entries: no thread adds more,  as rung 0, without the longest list
//       crf_add_chunks_f32        then each point adds its pieces in their order       16 bytes a piece of a list, L2
//
// What an iteration of rungs 0 and 1 moves a piece of a pixel in slices, sums and softmax: slice 32 + 32, softmax 32; rung 2
// reads −U and writes Q: 32 of those 96 bytes are left. Splat gathers 16 bytes for each of the 9 entries of a pixel. A
// photograph's longest list has 6,000 to 8,000 entries, and a thread that adds them one after the other is waited for by
// all: rung 3 spreads them over threads.
//
// No atomics: all sums have a fixed order. Splat of rungs 0 to 2, blur and slice are the CPU's operations in its order, one
// rounding each, so that a message has the CPU's bits; exp and log are this GPU's own (common.cuh), and rung 3 adds in another
// order, still the same on every run.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int CHUNK = 32; // entries a piece of a list has, as in crf_lattice.cu
constexpr float LEAST = 1e-5f; // probabilities are clipped to [1e-5, 1], as in src/ops/crf

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

// Products and sums with a rounding each, as the CPU's.
__device__ __forceinline__ float4 scaled(float by, float4 v) {
    return make_float4(__fmul_rn(by, v.x), __fmul_rn(by, v.y), __fmul_rn(by, v.z), __fmul_rn(by, v.w));
}
__device__ __forceinline__ float4 sum_of(float4 a, float4 b) {
    return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w));
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, lanes));
    return value;
}

} // namespace

// scores L×pixels, out pixels×width. A thread four labels of a pixel, neighbours the pixels of the same four: planes are read
// in whole rows. Grid ⌈width / 4·pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_unary_f32(const float *__restrict__ scores, float *__restrict__ out, int pixels, int labels, int width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    const int first = index / pixels * 4, pixel = index % pixels;
    if (first >= width) return;
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        value[i] = first + i < labels ? log_f32(fminf(fmaxf(scores[(first + i) * pixels + pixel], LEAST), 1.0f)) : 0.0f;
    write_four(out + pixel * width + first, make_float4(value[0], value[1], value[2], value[3]));
}

// Grid ⌈pixels / 8⌉, block 256: a warp a pixel.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_softmax_f32(const float *__restrict__ energy, float *__restrict__ q, int pixels, int labels, int width) {
    const int pixel = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (pixel >= pixels) return;
    const float *row = energy + pixel * width;
    float largest = negative_infinity();
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

namespace {

// Σ over entries from … to of weight·n[pixel]·q[pixel], one piece of it; without a Q of the weights alone, for K·1.
__device__ __forceinline__ float4 sum_entries(const float *__restrict__ q, const float *__restrict__ n,
                                              const Entry *__restrict__ entries, int from, int to, int pieces, int piece) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int at = from; at < to; ++at) {
        const Entry e = entries[at];
        const float4 value =
            q ? scaled(n[e.pixel], read_four(q + (e.pixel * pieces + piece) * 4)) : make_float4(1, 1, 1, 1);
        sum = sum_of(sum, scaled(e.weight, value));
    }
    return sum;
}

// What a pixel's vertices hold of a piece, by their weights.
template <int VERTICES>
__device__ __forceinline__ float4 slice(const float *__restrict__ lattice, const int *__restrict__ vertex,
                                        const float *__restrict__ weight, int pixel, int pixels, int pieces, int piece) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < VERTICES; ++k) {
        const int at = k * pixels + pixel;
        sum = sum_of(sum, scaled(weight[at], read_four(lattice + (vertex[at] * pieces + piece) * 4)));
    }
    return sum;
}

} // namespace

// out[v] = Σ over entries starts[v] … starts[v + 1] of weight·n[pixel]·q[pixel]; point `size` becomes 0. Without q, n: of the
// weights. Grid ⌈(size + 1)·pieces / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_splat_f32(const float *__restrict__ q, const float *__restrict__ n, const int *__restrict__ starts, const Entry *__restrict__ entries,
              float *__restrict__ out, int size, int pieces) {
    const int index = blockIdx.x * THREADS + threadIdx.x, v = index / pieces, piece = index % pieces;
    if (v > size) return;
    const int from = v < size ? starts[v] : 0, to = v < size ? starts[v + 1] : 0;
    write_four(out + index * 4, sum_entries(q, n, entries, from, to, pieces, piece));
}

// out[c] = the same sum over entries chunks[c].x … chunks[c].y, of `count` chunks; empty ones are left out. Grid
// ⌈count·pieces / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_splat_chunks_f32(const float *__restrict__ q, const float *__restrict__ n, const uint2 *__restrict__ chunks,
                     const Entry *__restrict__ entries, float *__restrict__ out, int count, int pieces) {
    const int index = blockIdx.x * THREADS + threadIdx.x, chunk = index / pieces, piece = index % pieces;
    if (chunk >= count) return;
    const uint2 range = chunks[chunk];
    if (range.x < range.y) write_four(out + index * 4, sum_entries(q, n, entries, range.x, range.y, pieces, piece));
}

// out[v] = Σ of the point's chunks, numbers ⌊starts[v] / 32⌋ + v and on; point `size` becomes 0. Grid ⌈(size + 1)·pieces / 256⌉,
// block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_add_chunks_f32(const float *__restrict__ of_chunks, const int *__restrict__ starts, float *__restrict__ out, int size, int pieces) {
    const int index = blockIdx.x * THREADS + threadIdx.x, v = index / pieces, piece = index % pieces;
    if (v > size) return;
    float4 sum = make_float4(0, 0, 0, 0);
    if (v < size) {
        const int start = starts[v], first = start / CHUNK + v, last = first + tiles(starts[v + 1] - start, CHUNK);
#pragma unroll 4
        for (int chunk = first; chunk < last; ++chunk) sum = sum_of(sum, read_four(of_chunks + (chunk * pieces + piece) * 4));
    }
    write_four(out + index * 4, sum);
}

// out[v] = in[v] + ½·(in[a] + in[b]), a and b the neighbours along an axis. Grid as above.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_blur_f32(const float *__restrict__ in, const uint2 *__restrict__ neighbours, float *__restrict__ out, int size, int pieces, int axis) {
    const int index = blockIdx.x * THREADS + threadIdx.x, v = index / pieces, piece = index % pieces;
    if (v > size) return;
    float4 sum = make_float4(0, 0, 0, 0);
    if (v < size) {
        const uint2 pair = neighbours[axis * size + v];
        const float4 a = read_four(in + (int(pair.x) * pieces + piece) * 4);
        const float4 b = read_four(in + (int(pair.y) * pieces + piece) * 4);
        sum = sum_of(read_four(in + index * 4), scaled(0.5f, sum_of(a, b)));
    }
    write_four(out + index * 4, sum);
}

// out = energy + factor·n·scale·Σ of the pixel's vertices, 3 or 6; `out` may be `energy`. Grid ⌈pixels·pieces / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_slice_f32(const float *energy, const float *__restrict__ lattice, const int *__restrict__ vertex, const float *__restrict__ weight,
              const float *__restrict__ n, float *out, int pixels, int vertices, int pieces, float scale, float factor) {
    const int index = blockIdx.x * THREADS + threadIdx.x, pixel = index / pieces, piece = index % pieces;
    if (pixel >= pixels) return;
    const float4 sum = vertices == 3 ? slice<3>(lattice, vertex, weight, pixel, pixels, pieces, piece)
                                     : slice<6>(lattice, vertex, weight, pixel, pixels, pieces, piece);
    const float4 message = scaled(scale, sum);
    write_four(out + index * 4, sum_of(read_four(energy + index * 4), scaled(__fmul_rn(factor, n[pixel]), message)));
}

namespace {

// A value, or −∞ for a label that there is not.
__device__ __forceinline__ float4 up_to(float4 v, int left) {
    return make_float4(left > 0 ? v.x : negative_infinity(), left > 1 ? v.y : negative_infinity(), left > 2 ? v.z : negative_infinity(),
                       left > 3 ? v.w : negative_infinity());
}

// q = softmax(unary + Σ of both kernels' messages). A pixel has 1 << lanes_log2 lanes of a warp, a lane PIECES pieces.
template <int PIECES>
__device__ __forceinline__ void
update(const float *__restrict__ unary, const float *__restrict__ lattice1, const int *__restrict__ vertex1,
       const float *__restrict__ weight1, const float *__restrict__ n1, float scale1, float factor1, const float *__restrict__ lattice2,
       const int *__restrict__ vertex2, const float *__restrict__ weight2, const float *__restrict__ n2, float scale2, float factor2,
       float *__restrict__ q, int pixels, int labels, int pieces, int lanes_log2) {
    const int thread = blockIdx.x * THREADS + threadIdx.x, lanes = 1 << lanes_log2;
    const int pixel = thread >> lanes_log2, first = thread & (lanes - 1);
    float4 energy[PIECES];
    float largest = negative_infinity();
#pragma unroll
    for (int j = 0; j < PIECES; ++j) {
        const int piece = first + j * lanes;
        energy[j] = make_float4(negative_infinity(), negative_infinity(), negative_infinity(), negative_infinity());
        if (pixel >= pixels || piece >= pieces) continue;
        float4 sum = read_four(unary + (pixel * pieces + piece) * 4);
        if (lattice1) {
            const float4 message = scaled(scale1, slice<3>(lattice1, vertex1, weight1, pixel, pixels, pieces, piece));
            sum = sum_of(sum, scaled(__fmul_rn(factor1, n1[pixel]), message));
        }
        if (lattice2) {
            const float4 message = scaled(scale2, slice<6>(lattice2, vertex2, weight2, pixel, pixels, pieces, piece));
            sum = sum_of(sum, scaled(__fmul_rn(factor2, n2[pixel]), message));
        }
        energy[j] = up_to(sum, labels - piece * 4);
        largest = fmaxf(fmaxf(fmaxf(energy[j].x, energy[j].y), fmaxf(energy[j].z, energy[j].w)), largest);
    }
    for (int mask = lanes / 2; mask > 0; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(WHOLE_WARP, largest, mask));
    if (largest == negative_infinity()) largest = 0.0f; // no pixel: no label
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < PIECES; ++j) {
        energy[j] = make_float4(exp_f32(energy[j].x - largest), exp_f32(energy[j].y - largest), exp_f32(energy[j].z - largest),
                                exp_f32(energy[j].w - largest));
        sum += (energy[j].x + energy[j].y) + (energy[j].z + energy[j].w);
    }
    for (int mask = lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, mask);
#pragma unroll
    for (int j = 0; j < PIECES; ++j) {
        const int piece = first + j * lanes;
        const float4 share = make_float4(energy[j].x / sum, energy[j].y / sum, energy[j].z / sum, energy[j].w / sum);
        if (pixel < pixels && piece < pieces) write_four(q + (pixel * pieces + piece) * 4, share);
    }
}

} // namespace

// q = softmax(unary + messages). Kernel 1 is the plane's (3 vertices), kernel 2 that of five dimensions (6); a `lattice` of
// none leaves it out. At most 128 labels; lanes 1 << lanes_log2 ≥ pieces. Grid ⌈pixels·lanes / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_update_f32(const float *__restrict__ unary, const float *__restrict__ lattice1, const int *__restrict__ vertex1,
               const float *__restrict__ weight1, const float *__restrict__ n1, float scale1, float factor1,
               const float *__restrict__ lattice2, const int *__restrict__ vertex2, const float *__restrict__ weight2,
               const float *__restrict__ n2, float scale2, float factor2, float *__restrict__ q, int pixels, int labels, int pieces,
               int lanes_log2) {
    update<1>(unary, lattice1, vertex1, weight1, n1, scale1, factor1, lattice2, vertex2, weight2, n2, scale2, factor2, q, pixels, labels,
              pieces, lanes_log2);
}

// The same for at most 256 labels: two pieces a lane.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_update_wide_f32(const float *__restrict__ unary, const float *__restrict__ lattice1, const int *__restrict__ vertex1,
                    const float *__restrict__ weight1, const float *__restrict__ n1, float scale1, float factor1,
                    const float *__restrict__ lattice2, const int *__restrict__ vertex2, const float *__restrict__ weight2,
                    const float *__restrict__ n2, float scale2, float factor2, float *__restrict__ q, int pixels, int labels, int pieces,
                    int lanes_log2) {
    update<2>(unary, lattice1, vertex1, weight1, n1, scale1, factor1, lattice2, vertex2, weight2, n2, scale2, factor2, q, pixels, labels,
              pieces, lanes_log2);
}

// out L×pixels from pixels×width. Threads and grid as for the scores.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_planes_f32(const float *__restrict__ q, float *__restrict__ out, int pixels, int labels, int width) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    const int first = index / pixels * 4, pixel = index % pixels;
    if (first >= width) return;
    const float4 four = read_four(q + pixel * width + first);
    const float value[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (first + i < labels) out[(first + i) * pixels + pixel] = value[i];
}
