// target sm_75
//
// Channel dropout (src/ops/dropout): a factor for each of the N·C maps, 0 with probability p and else 1/(1 − p), drawn from
// the counter-based generator of src/rng.rs, so that the same maps fall as on the CPU.
//
//       dropout_factors_f32   one thread a factor: a Philox4x32-10 block each                arithmetic, of few values
//       dropout_maps_f32      y = factor[n,c]·x                                              8 bytes a value
#include "pointwise.cuh"

namespace {

__device__ __forceinline__ unsigned high_product(unsigned a, unsigned b) { return unsigned(((unsigned long long)a * b) >> 32); }

// Word `word` of the Philox4x32-10 block of this key and counter (Salmon et al., SC 2011).
__device__ __forceinline__ unsigned philox(unsigned k0, unsigned k1, uint4 c, int word) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned low0 = 0xd2511f53u * c.x, low1 = 0xcd9e8d57u * c.z;
        const unsigned high0 = high_product(0xd2511f53u, c.x), high1 = high_product(0xcd9e8d57u, c.z);
        c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    return word == 0 ? c.x : word == 1 ? c.y : word == 2 ? c.z : c.w;
}

} // namespace

// factors[i] from word first + i of the stream (key; counter's upper words, of which the last two lie on the device: they
// change from step to step, the launch does not). Grid ⌈count / 256⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
dropout_factors_f32(float *__restrict__ factors, int count, unsigned first, unsigned key0, unsigned key1, unsigned counter1,
                    const unsigned *__restrict__ index, float p, float kept) {
    const int i = blockIdx.x * POINT_THREADS + threadIdx.x;
    if (i >= count) return;
    const unsigned word = first + i;
    const unsigned bits = philox(key0, key1, make_uint4(word / 4, counter1, index[0], index[1]), word % 4);
    factors[i] = float(bits >> 8) * (1.0f / 16777216.0f) < p ? 0.0f : kept;
}

// count = N·image values, image = H·W·C. Grid ⌈count / 1024⌉, block 256.
extern "C" __global__ void __launch_bounds__(POINT_THREADS)
dropout_maps_f32(const float *x, const float *__restrict__ factors, float *y, int count, int image, int channels) {
    const int i = first_value();
    if (i >= count) return;
    Four f = read(x, i, count);
    int c = i % channels, left = image - i % image;
    const float *of_image = factors + i / image * channels;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (i + j < count) f.v[j] *= of_image[c];
        c = c + 1 == channels ? 0 : c + 1;
        if (--left == 0) of_image += channels, left = image;
    }
    write(y, i, count, f);
}
