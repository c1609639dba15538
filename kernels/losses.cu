// target sm_75
//
// Losses on logits (src/ops/losses has the equations): the value, and the slopes that its gradient is a multiple of.
//
//       multi_label_soft_margin_f32   one block: N·C values are few                           latency
//       softmax_cross_entropy_f32     a warp a pixel, which reads its logits thrice and       memory: 8 bytes a logit
//                                     meets them in L1 twice; a block's losses in a tree
//       mean_of_blocks_f32            what those blocks left, one block               latency: few values
#include "common.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / WARP;
constexpr int PIXELS = 32 * WARPS;          // pixels of a block: 32 a warp, one after the other
constexpr unsigned char IGNORE = 255;       // label of a pixel that does not count

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, lanes));
    return value;
}

// log(1 + t) for 0 ≤ t ≤ 1 with its digits kept near 0: 2 artanh(s), s = t / (2 + t) ≤ 1/3, odd series to s^15, whose next
// term is below 2/17·3^-17 = 1e-9.
__device__ __forceinline__ float log1p_f32(float t) {
    const float s = t / (2.0f + t), q = s * s;
    float p = 2.0f / 15.0f;
    p = fmaf(p, q, 2.0f / 13.0f);
    p = fmaf(p, q, 2.0f / 11.0f);
    p = fmaf(p, q, 2.0f / 9.0f);
    p = fmaf(p, q, 2.0f / 7.0f);
    p = fmaf(p, q, 2.0f / 5.0f);
    p = fmaf(p, q, 2.0f / 3.0f);
    return fmaf(p * q, s, 2.0f * s);
}

} // namespace

// slopes = (σ(s) − t)/count, loss[0] = mean of softplus(s) − t·s. Grid 1, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
multi_label_soft_margin_f32(const float *__restrict__ logits, const float *__restrict__ targets, float *__restrict__ slopes,
                            float *__restrict__ loss, int count) {
    __shared__ float scratch[WARPS];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const float s = logits[i], t = targets[i], tail = exp_f32(-fabsf(s));
        // With the target folded into the first part, a confident right answer keeps its small loss.
        sum += (s > 0.0f ? (1.0f - t) * s : -t * s) + log1p_f32(tail);
        // σ(s) or, for s > 0, 1 − σ(s): nothing cancels where the answer is right and confident.
        const float small = tail / (1.0f + tail);
        slopes[i] = (s > 0.0f ? (1.0f - t) - small : small - t) / float(count);
    }
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) loss[0] = sum / float(count);
}

// slopes = softmax(s) − [class is the label], 0 where the label is 255; parts[b] = Σ of the losses of block b's 256 pixels,
// counts[b] = how many of them have a label. Grid ⌈pixels / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_f32(const float *__restrict__ logits, const unsigned char *__restrict__ labels, float *__restrict__ slopes,
                          float *__restrict__ parts, unsigned *__restrict__ counts, int pixels, int classes) {
    __shared__ float scratch[WARPS];
    __shared__ unsigned labelled[WARPS];
    const int lane = threadIdx.x % WARP, first = blockIdx.x * PIXELS + threadIdx.x / WARP * 32;
    float losses = 0.0f;
    unsigned count = 0;
    for (int pixel = first; pixel < min(first + 32, pixels); ++pixel) {
        const float *row = logits + pixel * classes;
        float *out = slopes + pixel * classes;
        const int label = labels[pixel];
        if (label == IGNORE) {
            for (int c = lane; c < classes; c += WARP) out[c] = 0.0f;
            continue;
        }
        float largest = __int_as_float(0xff800000); // −∞
        for (int c = lane; c < classes; c += WARP) largest = fmaxf(largest, row[c]);
        largest = warp_max(largest);
        float sum = 0.0f; // fmaxf passes a NaN over, its exponential does not
        for (int c = lane; c < classes; c += WARP) sum += exp_f32(row[c] - largest);
        sum = warp_sum(sum);
        for (int c = lane; c < classes; c += WARP) out[c] = exp_f32(row[c] - largest) / sum - (c == label ? 1.0f : 0.0f);
        losses += log_f32(sum) - (row[label] - largest);
        ++count;
    }
    // Every lane of a warp has the warp's sum and count. The sum's barriers are the counts' too.
    if (lane == 0) labelled[threadIdx.x / WARP] = count;
    const float sum = block_sum<THREADS>(lane == 0 ? losses : 0.0f, scratch);
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) count += labelled[warp];
    parts[blockIdx.x] = sum, counts[blockIdx.x] = count;
}

// share[0] = 1 / Σ counts, loss[0] = Σ parts · share[0]; both 0 where nothing counts. The host need not know how many labels
// there are, so that a step is the same launches whatever its labels. Grid 1, block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
mean_of_blocks_f32(const float *__restrict__ parts, const unsigned *__restrict__ counts, float *__restrict__ loss, float *__restrict__ share,
                   int blocks) {
    __shared__ float scratch[WARPS];
    float sum = 0.0f, count = 0.0f; // whole numbers below 2^24 keep their digits
    for (int i = threadIdx.x; i < blocks; i += THREADS) sum += parts[i], count += float(counts[i]);
    sum = block_sum<THREADS>(sum, scratch);
    count = block_sum<THREADS>(count, scratch);
    if (threadIdx.x != 0) return;
    share[0] = count > 0.0f ? 1.0f / count : 0.0f;
    loss[0] = sum * share[0];
}
