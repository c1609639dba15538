// target sm_75
//
// Concatenation along the channels (src/ops/concat), one input a launch: its channels go to their place in each pixel of
// the result; backward they come from there. Bounded by memory: 8 bytes a value.
//
//       copy_channels_f32   target[pixel, to + c] = source[pixel, from + c], in 16-byte pieces where all offsets allow
#include "common.cuh"

constexpr int COPY_THREADS = 256;

// `piece` values a thread, 4 or 1: 4 only if all other sizes are multiples of it. Grid ⌈pixels·channels / piece / 256⌉,
// block 256.
extern "C" __global__ void __launch_bounds__(COPY_THREADS)
copy_channels_f32(const float *__restrict__ source, float *__restrict__ target, int pixels, int channels, int source_width, int from,
                  int target_width, int to, int piece) {
    const int index = blockIdx.x * COPY_THREADS + threadIdx.x, pieces = channels / piece;
    const int pixel = index / pieces, c = index % pieces * piece;
    if (pixel >= pixels) return;
    const float *s = source + pixel * source_width + from + c;
    float *t = target + pixel * target_width + to + c;
    if (piece == 4) write_four(t, read_four(s));
    else *t = *s;
}
