// target sm_75
//
// A whole optimiser step in one launch, over a table of parameters (src/optim.rs has the equations).
//
//       sgd_table_f32       v = μ·v + (g + λ·w), w −= η·v                                20 bytes a value
//       adam_table_f32      m, v, w of Adam with either kind of decay                    28 bytes
//       blend_table_f32     r += share·(b − r): running statistics                       12 bytes
//
// A block takes 4,096 values of one entry and finds it by bisection in the entries' first blocks: 8 steps for 200
// parameters. Bounded by memory. Each launch also counts the gradients and the new weights that are no numbers: what
// decides whether training stops costs no pass of its own. Counts are integers, so atomics keep the bits.
//
// The host reads a step's loss when the next step is queued already. `stop` keeps both steps from changing anything: a
// loss that is no number sets it for good, and every launch that is given one looks at it first.
//
//       note_not_finite_f32  sets `stop` by the loss
#include "pointwise.cuh"

namespace {

constexpr float ADAM_EPSILON = 1e-8f; // as in src/optim
constexpr int ENTRY_RANGE = 4096;     // values of a block

// A parameter: w, its gradient g, its state. 64 bytes, as src/optim/cuda.rs lays them out.
struct Entry {
    float *w;
    const float *g;
    float *first, *second; // SGD: velocity and none; Adam: m and v
    int count;
    int first_block;
    float rate, decay, shrink, momentum;
    float v_hat; // Adam's correction of v
    int pad;
};

__device__ __forceinline__ const Entry &entry_of(const Entry *__restrict__ table, int entries, int &number) {
    int low = 0, high = entries;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (table[middle].first_block <= int(blockIdx.x)) low = middle;
        else high = middle;
    }
    number = low;
    return table[low];
}

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < __int_as_float(0x7f800000); }

// Calls `update(index of four values)` for the block's values of its entry; adds how many gradients and weights were no
// numbers to counts[2·entry] and counts[2·entry + 1].
struct Bad {
    int gradients, weights;
};
template <class Update> __device__ __forceinline__ void for_each_four(const Entry &e, int number, unsigned *__restrict__ counts, Update update) {
    const int first = (blockIdx.x - e.first_block) * ENTRY_RANGE + threadIdx.x * 4;
    Bad bad = {0, 0};
#pragma unroll 1
    for (int i = first; i < min(first + ENTRY_RANGE, e.count); i += POINT_THREADS * 4) update(i, bad);
    if (bad.gradients > 0) atomicAdd(counts + 2 * number, unsigned(bad.gradients));
    if (bad.weights > 0) atomicAdd(counts + 2 * number + 1, unsigned(bad.weights));
}

} // namespace

// Grid 1, block 32.
extern "C" __global__ void __launch_bounds__(32) note_not_finite_f32(const float *__restrict__ loss, unsigned *__restrict__ stop) {
    if (threadIdx.x == 0 && !is_finite(*loss)) *stop = 1;
}

// The first step passes a momentum of 0 and may leave v unset; v is null where there is never any momentum. Grid: all
// entries' ⌈count / 4096⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
sgd_table_f32(const Entry *__restrict__ table, unsigned *__restrict__ counts, const unsigned *__restrict__ stop, int entries) {
    if (stop && *stop) return;
    int number;
    const Entry &e = entry_of(table, entries, number);
    for_each_four(e, number, counts, [&](int i, Bad &bad) {
        Four weight = read(e.w, i, e.count), velocity = {{0.0f, 0.0f, 0.0f, 0.0f}};
        const Four gradient = read(e.g, i, e.count);
        if (e.momentum != 0.0f) velocity = read(e.first, i, e.count);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            velocity.v[j] = fmaf(e.momentum, velocity.v[j], fmaf(e.decay, weight.v[j], gradient.v[j]));
            weight.v[j] = fmaf(-e.rate, velocity.v[j], weight.v[j]);
            bad.gradients += !is_finite(gradient.v[j]);
            bad.weights += !is_finite(weight.v[j]);
        }
        if (e.first) write(e.first, i, e.count, velocity);
        write(e.w, i, e.count, weight);
    });
}

// m = b1·m + c1·g, v = b2·v + c2·g², w = shrink·w − rate·m / (√(v·v_hat) + 1e-8), with g + decay·w for g. The launcher has
// 1 − b and the corrections for the step in f64: rate and v_hat contain them; `shrink` is decoupled decay. The first step
// passes a momentum of 0 and may leave m and v unset. Grid and block as above.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
adam_table_f32(const Entry *__restrict__ table, unsigned *__restrict__ counts, const unsigned *__restrict__ stop, int entries, float b1,
               float c1, float b2, float c2) {
    if (stop && *stop) return;
    int number;
    const Entry &e = entry_of(table, entries, number);
    for_each_four(e, number, counts, [&](int i, Bad &bad) {
        Four weight = read(e.w, i, e.count), mean = {{0.0f, 0.0f, 0.0f, 0.0f}}, square = mean;
        const Four gradient = read(e.g, i, e.count);
        if (e.momentum != 0.0f) mean = read(e.first, i, e.count), square = read(e.second, i, e.count);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float slope = fmaf(e.decay, weight.v[j], gradient.v[j]);
            mean.v[j] = fmaf(b1, mean.v[j], c1 * slope);
            square.v[j] = fmaf(b2, square.v[j], c2 * slope * slope);
            weight.v[j] = e.shrink * weight.v[j] - e.rate * mean.v[j] / (sqrtf(square.v[j] * e.v_hat) + ADAM_EPSILON);
            bad.gradients += !is_finite(gradient.v[j]);
            bad.weights += !is_finite(weight.v[j]);
        }
        write(e.first, i, e.count, mean);
        write(e.second, i, e.count, square);
        write(e.w, i, e.count, weight);
    });
}

// w += rate·(g − w). Grid and block as above.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
blend_table_f32(const Entry *__restrict__ table, unsigned *__restrict__ counts, const unsigned *__restrict__ stop, int entries) {
    if (stop && *stop) return;
    int number;
    const Entry &e = entry_of(table, entries, number);
    for_each_four(e, number, counts, [&](int i, Bad &bad) {
        Four running = read(e.w, i, e.count);
        const Four seen = read(e.g, i, e.count);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            running.v[j] = fmaf(e.rate, seen.v[j] - running.v[j], running.v[j]);
            bad.gradients += !is_finite(seen.v[j]);
            bad.weights += !is_finite(running.v[j]);
        }
        write(e.w, i, e.count, running);
    });
}
