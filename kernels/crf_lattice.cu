// target sm_75
//
// The dense CRF's permutohedral lattices, built on the GPU by sorting (src/ops/crf/lattice.rs has the lattice itself). No
// hash, no atomics: the same tables on every run. With N = pixels·(d + 1) entries, one a pixel and vertex, and W words of a
// key (one for most pictures, see src/ops/crf/cuda/lattice.rs):
//
//       crf_embed_positions_f32    a pixel's simplex in the plane: keys, weights   4(W + 1) bytes an entry, written
//       crf_embed_colours_f32      the same in five dimensions                     the same
//       (sort.cu sorts entry numbers by key: 20 bytes an entry and pass)
//       crf_heads_u32              entries whose key differs from the one before   4W bytes an entry
//       (scan_u32 numbers the blocks' heads)
//       crf_points_u32             heads are lattice points: their lists, keys     4W + 8 bytes an entry read, 12 written
//       crf_neighbours_u32         bisection for the keys beside, along each axis  2·log₂(points) loads a point and axis, L1
//       crf_chunks_u32             lists cut into pieces of 32 for rung 3          8 bytes a piece
//       crf_normalizer_f32         n = 1/√(K·1 + 1e-20)                            4 + 8(d + 1) bytes a pixel, and L2
//
// Where a vertex lies: its coordinates (all ≡ r modulo d + 1, r its number in the simplex) are c_i = (d + 1)·m_i + r, the
// last follows from the others. A key is r, m_0 … m_{d−1}, each in as many bits as the image's size and the deviations
// can need: 28 for a photograph of 375×500 at (80, 13), where coordinates of 16 bits each would be 80. A step to a neighbour
// adds a constant to the key, because every field has a value to spare on either side.
//
// Points come in the order of their keys, a point's entries in the order of their pixels: the sort is stable, and a point
// is the same vertex r of all its simplices. Keys and weights have the bits of the CPU's: f32, one rounding an operation.
#include "scan.cuh"

#ifdef __clang__
INTRINSIC float rintf(float x) { return __builtin_rintf(x); }
#endif

namespace {

constexpr int THREADS = 256;
constexpr int CHUNK = 32; // entries a piece of a list has, as in src/ops/crf/cuda/lattice.rs

// a − b and a·b with a rounding each, never fused.
__device__ __forceinline__ float less(float a, float b) { return __fadd_rn(a, -b); }

// How a lattice of D dimensions packs its keys; as the launcher lays it out.
template <int D> struct Layout {
    float scale[D]; // of the elevation
    int low[D];     // the least m_i
    int word[D], shift[D];
    int vertex_shift; // r is on top of word 0
};

// The simplex of a point: keys words×(D + 1)×pixels and weights (D + 1)×pixels. Step by step as `simplex` in lattice.rs.
template <int D>
__device__ __forceinline__ void embed(const float (&point)[D], const Layout<D> *__restrict__ layout, unsigned *__restrict__ keys,
                                      float *__restrict__ weights, int pixel, int pixels, int words) {
    constexpr int D1 = D + 1;
    const float side = float(D1), inverse = 1.0f / float(D1);
    float elevated[D1], nearest[D1];
    float sum = 0.0f;
#pragma unroll
    for (int j = D; j > 0; --j) {
        const float scaled = __fmul_rn(point[j - 1], layout->scale[j - 1]);
        elevated[j] = less(sum, __fmul_rn(float(j), scaled));
        sum = __fadd_rn(sum, scaled);
    }
    elevated[0] = sum;
    int whole[D1], rank[D1], excess = 0;
#pragma unroll
    for (int i = 0; i < D1; ++i) {
        const float rounded = rintf(__fmul_rn(inverse, elevated[i]));
        nearest[i] = __fmul_rn(rounded, side);
        whole[i] = int(rounded);
        excess += whole[i];
        rank[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < D1; ++i)
#pragma unroll
        for (int j = i + 1; j < D1; ++j) {
            const bool smaller = less(elevated[i], nearest[i]) < less(elevated[j], nearest[j]);
            rank[i] += smaller;
            rank[j] += !smaller;
        }
    float remainder[D1];
#pragma unroll
    for (int i = 0; i < D1; ++i) {
        rank[i] += excess;
        const int turn = rank[i] < 0 ? 1 : rank[i] > D ? -1 : 0;
        rank[i] += turn * D1;
        whole[i] += turn;
        nearest[i] = __fadd_rn(nearest[i], float(turn) * side);
        remainder[i] = __fmul_rn(less(elevated[i], nearest[i]), inverse);
    }
    float sorted[D1]; // by rank; selected, since registers have no index
#pragma unroll
    for (int r = 0; r < D1; ++r) {
        sorted[r] = remainder[0];
#pragma unroll
        for (int i = 1; i < D1; ++i) sorted[r] = rank[i] == r ? remainder[i] : sorted[r];
    }
#pragma unroll
    for (int v = 0; v < D1; ++v)
        weights[v * pixels + pixel] =
            v == 0 ? __fadd_rn(sorted[D], less(1.0f, sorted[0])) : less(sorted[D - v], sorted[(D1 - v) % D1]);
#pragma unroll 1 // unrolled, all fields of all vertices would be in registers at once
    for (int v = 0; v < D1; ++v)
        for (int w = 0; w < words; ++w) {
            unsigned key = w == 0 ? unsigned(v) << layout->vertex_shift : 0u;
#pragma unroll
            for (int i = 0; i < D; ++i) {
                const unsigned field = unsigned(whole[i] - (rank[i] > D - v) - layout->low[i]);
                key |= layout->word[i] == w ? field << layout->shift[i] : 0u;
            }
            keys[(w * D1 + v) * pixels + pixel] = key;
        }
}

// Whether an entry's key differs from that of the one before.
__device__ __forceinline__ bool is_head(const unsigned *__restrict__ keys, int i, int count, int words) {
    if (i >= count) return false;
    bool head = i == 0;
    for (int w = 0; w < words && !head; ++w) head = keys[w * count + i] != keys[w * count + i - 1];
    return head;
}

} // namespace

// Grid ⌈pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_embed_positions_f32(const Layout<2> *__restrict__ layout, unsigned *__restrict__ keys, float *__restrict__ weights, int width,
                        int pixels, int words, float deviation) {
    const int pixel = blockIdx.x * THREADS + threadIdx.x;
    if (pixel >= pixels) return;
    const float point[2] = {float(pixel % width) / deviation, float(pixel / width) / deviation};
    embed(point, layout, keys, weights, pixel, pixels, words);
}

// colours pixels×3. Grid ⌈pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_embed_colours_f32(const Layout<5> *__restrict__ layout, const unsigned char *__restrict__ colours, unsigned *__restrict__ keys,
                      float *__restrict__ weights, int width, int pixels, int words, float place, float colour) {
    const int pixel = blockIdx.x * THREADS + threadIdx.x;
    if (pixel >= pixels) return;
    const float point[5] = {float(pixel % width) / place, float(pixel / width) / place, float(colours[3 * pixel]) / colour,
                            float(colours[3 * pixel + 1]) / colour, float(colours[3 * pixel + 2]) / colour};
    embed(point, layout, keys, weights, pixel, pixels, words);
}

// keys words×count, sorted; counts a block. Grid ⌈count / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_heads_u32(const unsigned *__restrict__ keys, unsigned *__restrict__ counts, int count, int words) {
    __shared__ unsigned scratch[THREADS / WARP];
    unsigned heads;
    block_exclusive_scan<THREADS>(is_head(keys, blockIdx.x * THREADS + threadIdx.x, count, words), scratch, heads);
    if (threadIdx.x == 0) counts[blockIdx.x] = heads;
}

// A lattice point's entries of the list: (pixel, weight).
struct Entry {
    int pixel;
    float weight;
};

// From sorted keys and entry numbers (`order`, of weights (d + 1)×pixels), and the heads before each block: for each point
// where its entries start (size + 1) and its key (words×size); the entries; for each entry, by its number, its point. Grid
// ⌈count / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_points_u32(const unsigned *__restrict__ keys, const unsigned *__restrict__ order, const float *__restrict__ weights,
               const unsigned *__restrict__ before, unsigned *__restrict__ starts, Entry *__restrict__ entries,
               unsigned *__restrict__ vertex, unsigned *__restrict__ point_keys, int count, int words, int pixels, int size) {
    __shared__ unsigned scratch[THREADS / WARP];
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const bool head = is_head(keys, i, count, words);
    unsigned heads;
    const unsigned earlier = block_exclusive_scan<THREADS>(head, scratch, heads);
    if (i >= count) return;
    const unsigned point = before[blockIdx.x] + earlier + head - 1, entry = order[i];
    vertex[entry] = point;
    entries[i] = {int(entry) % pixels, weights[entry]};
    if (i == count - 1) starts[size] = count;
    if (!head) return;
    starts[point] = i;
    for (int w = 0; w < words; ++w) point_keys[w * size + point] = keys[w * count + i];
}

// neighbours axes×size×2 from keys words×size in their order: forth and back; `size` where there is none. `steps`
// axes×2×2×words: what a step along an axis, forth or back, adds to a key, where r does not turn round and where it does.
// Grid ⌈axes·size / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_neighbours_u32(const unsigned *__restrict__ keys, const unsigned *__restrict__ steps, unsigned *__restrict__ neighbours, int size,
                   int words, int axes, int vertex_shift) {
    const int index = blockIdx.x * THREADS + threadIdx.x, axis = index / size, point = index % size;
    if (axis >= axes) return;
    const int r = int(keys[point] >> vertex_shift);
#pragma unroll
    for (int back = 0; back < 2; ++back) {
        const bool turns = back ? r == axes - 1 : r == 0;
        const unsigned *step = steps + ((axis * 2 + back) * 2 + turns) * words;
        int low = 0, high = size, found = size; // the wanted key is none before `low` and none from `high` on
        while (low < high) {
            const int middle = low + (high - low) / 2;
            int order = 0; // of the middle's key and the wanted one
            for (int w = 0; w < words && order == 0; ++w) {
                const unsigned key = keys[w * size + middle], wanted = keys[w * size + point] + step[w];
                order = key < wanted ? -1 : key > wanted ? 1 : 0;
            }
            if (order == 0) found = middle;
            if (order < 0)
                low = middle + 1;
            else
                high = order == 0 ? low : middle;
        }
        neighbours[2 * index + back] = found;
    }
}

// chunks (⌊count / 32⌋ + size)×2: from and to of pieces of at most 32 entries. Point v's are numbers ⌊starts[v] / 32⌋ + v and
// on: room for all its pieces, since ⌊(s + c) / 32⌋ + 1 ≥ ⌊s / 32⌋ + ⌈c / 32⌉; what is left over is empty. Grid ⌈size / 256⌉,
// block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_chunks_u32(const unsigned *__restrict__ starts, uint2 *__restrict__ chunks, int size) {
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= size) return;
    const int start = int(starts[v]), end = int(starts[v + 1]);
    const int first = start / CHUNK + v, next = end / CHUNK + v + 1;
    for (int chunk = first; chunk < next; ++chunk) {
        const int from = min(start + (chunk - first) * CHUNK, end);
        chunks[chunk] = make_uint2(from, min(from + CHUNK, end));
    }
}

// n = 1/√(K·1 + 1e-20) from a lattice of one piece whose first values are those of K·1. Grid ⌈pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
crf_normalizer_f32(const float *__restrict__ lattice, const int *__restrict__ vertex, const float *__restrict__ weight,
                   float *__restrict__ n, int pixels, int vertices, float scale) {
    const int pixel = blockIdx.x * THREADS + threadIdx.x;
    if (pixel >= pixels) return;
    float sum = 0.0f;
    for (int k = 0; k < vertices; ++k) {
        const int at = k * pixels + pixel;
        sum = __fadd_rn(sum, __fmul_rn(weight[at], lattice[4 * vertex[at]]));
    }
    n[pixel] = 1.0f / sqrtf(__fadd_rn(__fmul_rn(sum, scale), 1e-20f));
}
